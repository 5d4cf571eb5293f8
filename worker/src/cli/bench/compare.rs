//! `octrain bench compare`: two report files, each with the measurements of one or several runs.

use super::super::Exit;
use super::measured::Measured;
use crate::launcher::EXIT_OK;
use crate::metrics::{median, print, table};
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of `octrain bench compare`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct BenchCompareArgs {
    /// A report file of `octrain bench`: what is compared with.
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// Another: what is compared.
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// Compare measurements of different settings or machines.
    #[arg(long)]
    pub force: bool,
}

/// Runs of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Runs {
    median: f64,
    /// From the least to the most, in percent of the median.
    spread: f64,
    least: f64,
    most: f64,
    count: usize,
}

impl Runs {
    /// Of at least one value.
    fn of(values: &[f64]) -> Self {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let median = median(values);
        let spread = if median == 0.0 { 0.0 } else { 100.0 * (most - least) / median.abs() };
        Self { median, spread, least, most, count: values.len() }
    }
}

/// A number in both files.
#[derive(Debug, Clone, PartialEq)]
struct Pair {
    name: String,
    a: Runs,
    b: Runs,
}

impl Pair {
    /// B's median by A's; none where A's is 0.
    fn ratio(&self) -> Option<f64> {
        (self.a.median != 0.0).then(|| self.b.median / self.a.median)
    }

    /// Whether the runs of one file lie among those of the other: their difference may be chance.
    fn overlap(&self) -> bool {
        self.a.least <= self.b.most && self.b.least <= self.a.most
    }
}

/// The measurements of a file, in its lines' order; lines of other kinds are passed over.
fn measurements(text: &str) -> Result<Vec<Measured>, String> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value =
            serde_json::from_str(line).map_err(|e| format!("line {} is no JSON: {e}", at + 1))?;
        found.extend(Measured::of(&value));
    }
    match found.is_empty() {
        true => Err("it has no measurement of `octrain bench`".into()),
        false => Ok(found),
    }
}

/// How settings and machines of all measurements differ from the first's, as `amp "fp32", now "bf16"`; settings that only
/// one of two versions knows are no difference.
fn differences(all: &[&Measured]) -> Vec<String> {
    let mut told = Vec::new();
    let Some((first, others)) = all.split_first() else { return told };
    for other in others {
        if other.what != first.what {
            told.push(format!("kind {:?}, now {:?}", first.what, other.what));
        }
        for (mine, theirs) in [(&first.settings, &other.settings), (&first.machine, &other.machine)] {
            let both = mine.iter().filter_map(|(key, value)| Some((key, value, theirs.get(key)?)));
            told.extend(both.filter(|(_, a, b)| a != b).map(|(key, a, b)| format!("{key} {a}, now {b}")));
        }
    }
    told.sort();
    told.dedup();
    told
}

/// The values of every number, over all measurements.
fn values(measured: &[Measured]) -> BTreeMap<&str, Vec<f64>> {
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for m in measured {
        for (name, value) in &m.numbers {
            all.entry(name).or_default().extend(value.as_f64());
        }
    }
    all
}

/// Every number that both share.
fn pairs(a: &[Measured], b: &[Measured]) -> Vec<Pair> {
    let (a, mut b) = (values(a), values(b));
    let both = a.into_iter().filter_map(|(name, a)| Some((name, a, b.remove(name)?)));
    both.map(|(name, a, b)| Pair { name: name.into(), a: Runs::of(&a), b: Runs::of(&b) }).collect()
}

/// A median, to four places that count.
fn shown(value: f64) -> String {
    match value.abs() {
        x if x >= 1000.0 || value.fract() == 0.0 => format!("{value:.0}"),
        x if x >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// All pairs as a table.
fn as_table(pairs: &[Pair]) -> String {
    let rows: Vec<[String; 7]> = pairs
        .iter()
        .map(|pair| {
            [
                pair.name.clone(),
                shown(pair.a.median),
                format!("{:.1}", pair.a.spread),
                shown(pair.b.median),
                format!("{:.1}", pair.b.spread),
                pair.ratio().map_or("-".into(), |ratio| format!("{ratio:.3}")),
                if pair.overlap() { "runs overlap".into() } else { "apart".into() },
            ]
        })
        .collect();
    table(&["number", "A", "spread %", "B", "spread %", "B / A", ""], &rows)
}

/// The same for programs.
fn as_json(pairs: &[Pair], differences: &[String]) -> Value {
    let one = |pair: &Pair| {
        json!({
            "a": pair.a.median, "a_spread_percent": pair.a.spread, "a_runs": pair.a.count,
            "b": pair.b.median, "b_spread_percent": pair.b.spread, "b_runs": pair.b.count,
            "ratio": pair.ratio(), "overlap": pair.overlap(),
        })
    };
    let mut line: Map<String, Value> = pairs.iter().map(|pair| (pair.name.clone(), one(pair))).collect();
    line.insert("kind".into(), json!("compare"));
    line.insert("differences".into(), json!(differences));
    Value::Object(line)
}

/// The measurements of a file.
fn read(path: &Path) -> Result<Vec<Measured>, Exit> {
    let wrong = |why: String| Exit::configuration(format!("cannot compare `{}`: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot read it: {e}")))?;
    measurements(&text).map_err(wrong)
}

/// Runs the command.
pub fn main(args: &BenchCompareArgs) -> Result<u8> {
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    let differences = differences(&a.iter().chain(&b).collect::<Vec<_>>());
    if !differences.is_empty() && !args.force {
        let message = format!(
            "not the same measurement, though --force compares it all the same: {}",
            differences.join("; ")
        );
        return Err(Exit::configuration(message).into());
    }
    let pairs = pairs(&a, &b);
    if pairs.is_empty() {
        return Err(Exit::configuration("the two files have no number in common").into());
    }
    let mut text = as_table(&pairs);
    text.push_str(&format!(
        "\nmedians; A: {} ({} runs), B: {} ({} runs); spread: from the least to the most, in percent of the median\n",
        args.a.display(),
        a.len(),
        args.b.display(),
        b.len()
    ));
    if !differences.is_empty() {
        text.push_str(&format!("other settings: {}\n", differences.join("; ")));
    }
    print(format_args!("{text}{}\n", as_json(&pairs, &differences)))?;
    Ok(EXIT_OK)
}

#[cfg(test)]
mod tests {
    use super::super::measured::entries;
    use super::*;

    fn run(amp: &str, ips: f64) -> Measured {
        let settings = entries(json!({"amp": amp, "batch-size": 16}));
        Measured::here("train", settings, entries(json!({"train.ips": ips, "train.zero_ms": 0})))
    }

    #[test]
    fn a_number_is_its_median_and_how_far_runs_lie_apart() {
        let a = [run("bf16", 10.0), run("bf16", 12.0), run("bf16", 9.0)];
        let b = [run("bf16", 15.0), run("bf16", 13.0)];
        let pairs = pairs(&a, &b);
        let ips = &pairs[0];
        assert_eq!((ips.a.median, ips.a.spread, ips.a.count), (10.0, 30.0, 3));
        assert_eq!((ips.b.median, ips.ratio(), ips.overlap()), (14.0, Some(1.4), false));
        assert_eq!((pairs[1].ratio(), pairs[1].overlap()), (None, true));
        let noisy = super::pairs(&a, &[run("bf16", 11.0)]);
        assert!(noisy[0].overlap());
        let line = as_json(&pairs, &[]);
        assert_eq!((&line["train.ips"]["ratio"], &line["train.ips"]["a_runs"]), (&json!(1.4), &json!(3)));
        let text = as_table(&pairs);
        assert!(text.contains("train.ips") && text.contains("1.400") && text.contains("apart"), "{text}");
    }

    #[test]
    fn only_numbers_that_both_have_are_compared() {
        let other = Measured::here("train", Map::new(), entries(json!({"train.step_ms": 3.0})));
        assert_eq!(pairs(&[run("bf16", 1.0)], &[other]), []);
    }

    #[test]
    fn other_settings_machines_and_kinds_are_differences() {
        let (a, b) = (run("fp32", 1.0), run("bf16", 2.0));
        assert_eq!(differences(&[&a, &a.clone()]), [""; 0]);
        assert_eq!(differences(&[&a, &b, &b]), ["amp \"fp32\", now \"bf16\""]);
        let mut elsewhere = a.clone();
        elsewhere.machine.insert("cpu".into(), json!("another"));
        elsewhere.what = "infer".into();
        let told = differences(&[&a, &elsewhere]).join("; ");
        assert!(told.contains("now \"another\"") && told.contains("kind \"train\", now \"infer\""), "{told}");
        // A version that has a setting more.
        let mut newer = a.clone();
        newer.settings.insert("new".into(), json!(1));
        assert_eq!(differences(&[&a, &newer]), [""; 0]);
    }

    #[test]
    fn lines_of_other_kinds_are_passed_over_and_what_is_no_json_is_named() {
        let text = format!("{}\n\n{}\n", json!({"kind": "step"}), run("bf16", 1.0).line());
        assert_eq!(measurements(&text), Ok(vec![run("bf16", 1.0)]));
        assert!(measurements("{}\n").unwrap_err().contains("no measurement"));
        assert!(measurements("{}\nnot this\n").unwrap_err().starts_with("line 2 is no JSON"));
    }

    #[test]
    fn medians_are_shown_to_the_places_that_count() {
        assert_eq!([1415.04, 12.345, 0.51236, 3.0].map(shown), ["1415", "12.35", "0.5124", "3"]);
    }
}
