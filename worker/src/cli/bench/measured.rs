//! One measurement: what was measured, with which settings, on which machine, and its numbers.

use super::super::Exit;
use crate::metrics::{ReportFile, print};
use crate::session::machine;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::path::Path;

/// What `kind` of a line begins with.
const KIND: &str = "bench.";

/// A measurement, as it is written on one line.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// What was measured: the subcommand's name.
    pub what: String,
    /// With which settings: whoever has others has measured something else.
    pub settings: Map<String, Value>,
    /// On which machine.
    pub machine: Map<String, Value>,
    /// The numbers, with their units in the names.
    pub numbers: Map<String, Value>,
}

/// An object's entries.
pub fn entries(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl Measured {
    /// On this machine, now.
    pub fn here(what: &str, settings: Map<String, Value>, numbers: Map<String, Value>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let gpus = machine::gpu_names();
        let machine = entries(json!({"cpu": machine::cpu_model(), "cores": cores, "gpus": gpus}));
        Self { what: what.into(), settings, machine, numbers }
    }

    /// The line.
    pub fn line(&self) -> Value {
        let mut line = self.numbers.clone();
        line.insert("kind".into(), json!(format!("{KIND}{}", self.what)));
        line.insert("octrain".into(), json!(env!("CARGO_PKG_VERSION")));
        line.insert("settings".into(), json!(self.settings));
        line.insert("machine".into(), json!(self.machine));
        Value::Object(line)
    }

    /// The measurement that a line holds; none where it is another line.
    pub fn of(line: &Value) -> Option<Self> {
        let what = line.get("kind")?.as_str()?.strip_prefix(KIND)?.to_string();
        let part = |key: &str| line.get(key).and_then(Value::as_object).cloned();
        let numbers = line.as_object()?.iter().filter(|(_, value)| value.is_number());
        Some(Self {
            what,
            settings: part("settings")?,
            machine: part("machine")?,
            numbers: numbers.map(|(key, value)| (key.clone(), value.clone())).collect(),
        })
    }

    /// Prints a table and, as the last line, the measurement; adds that line to the report.
    pub fn tell(&self, table: &str, report: Option<ReportFile>) -> Result<()> {
        let line = self.line();
        if let Some(mut file) = report {
            file.write(&line)?;
        }
        print(format_args!("{}\n{line}\n", table.trim_end()))?;
        Ok(())
    }
}

/// Opens the report that a measurement is added to, before anything is measured for it.
pub fn report(path: Option<&Path>) -> Result<Option<ReportFile>, Exit> {
    path.map(|path| ReportFile::open(path, true)).transpose().map_err(Exit::configuration)
}

/// More steps than anybody waits for; so many times are kept in memory.
const MOST: u64 = 100_000_000;

/// Checks the counts of steps that are timed and that warm up, and returns the former.
pub fn steps(timed: u64, warmup: u64) -> Result<u64, Exit> {
    let told =
        |what, n| Exit::configuration(format!("--benchmark-{what} is {n}; there may be {MOST} at most"));
    match (timed, warmup) {
        (0, _) => Err(Exit::configuration("--benchmark-steps is 0; at least one is timed")),
        (n, _) if n > MOST => Err(told("steps", n)),
        (_, n) if n > MOST => Err(told("warmup-steps", n)),
        (n, _) => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_steps_have_bounds() {
        assert_eq!(steps(5, 0).ok(), Some(5));
        for (timed, warmup, named) in [
            (0, 1, "--benchmark-steps"),
            (MOST + 1, 0, "--benchmark-steps"),
            (1, u64::MAX, "--benchmark-warmup-steps"),
        ] {
            let told = steps(timed, warmup).unwrap_err().message;
            assert!(told.starts_with(named), "{told}");
        }
    }

    #[test]
    fn a_line_is_read_back_and_other_lines_are_none() {
        let map = |value| entries(value);
        let m = Measured::here("train", map(json!({"amp": "bf16"})), map(json!({"train.ips": 11.5})));
        let line = m.line();
        assert_eq!((&line["kind"], &line["train.ips"]), (&json!("bench.train"), &json!(11.5)));
        assert!(line["machine"]["cores"].as_u64().unwrap() >= 1);
        assert_eq!(Measured::of(&line), Some(m));
        for other in [json!({"kind": "step", "train.ips": 1}), json!({"train.ips": 1}), json!(3)] {
            assert_eq!(Measured::of(&other), None);
        }
    }
}
