//! `octrain bench infer`: what `octrain infer --benchmark` measures, as a measurement among others.

use super::super::infer::{self, EngineRun};
use super::measured::{Measured, entries, report, steps};
use crate::launcher::EXIT_OK;
use crate::metrics::table;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Arguments of `octrain bench infer`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct BenchInferArgs {
    /// What runs.
    #[command(flatten)]
    pub run: EngineRun,
    /// Add the JSON line of the measurement to this file.
    #[arg(long, value_name = "FILE")]
    pub report_file: Option<PathBuf>,
}

/// What was reported, by the names that measurements have.
fn numbers(report: &Map<String, Value>) -> Map<String, Value> {
    let names = [
        ("infer.images_per_second", "infer.ips"),
        ("eval_latency_avg", "infer.latency_ms"),
        ("eval_latency_p90", "infer.latency_p90_ms"),
        ("eval_latency_p95", "infer.latency_p95_ms"),
        ("eval_latency_p99", "infer.latency_p99_ms"),
        ("infer.bytes", "infer.bytes"),
    ];
    let told = names.into_iter().filter_map(|(key, name)| Some((name.to_string(), report.get(key)?.clone())));
    told.filter(|(_, value)| value.is_number()).collect()
}

/// Runs the command.
pub fn main(args: &BenchInferArgs) -> Result<u8> {
    let run = &args.run;
    steps(run.benchmark_steps, run.benchmark_warmup_steps)?;
    let file = report(args.report_file.as_deref())?;
    let told = infer::measured(run, None)?;
    let settings = entries(json!({
        "model": run.model, "engine": run.engine.name(), "batch-size": told.get("batch_size"), "image-shape": told.get("image_shape"),
        "profile": told.get("profile"), "threads": run.threads,
        "benchmark-steps": run.benchmark_steps, "benchmark-warmup-steps": run.benchmark_warmup_steps,
    }));
    let numbers = numbers(&told);
    let rows: Vec<[String; 2]> = numbers
        .iter()
        .map(|(name, value)| {
            let value = value.as_f64().unwrap_or_default();
            [name.clone(), if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.3}") }]
        })
        .collect();
    Measured::here("infer", settings, numbers).tell(&table(&["number", "value"], &rows), file)?;
    Ok(EXIT_OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_infer_reports_is_told_by_the_names_of_measurements() {
        let report = entries(json!({
            "infer.images_per_second": 88.5, "eval_latency_p99": 200.0, "infer.bytes": null, "profile": "openvino"
        }));
        let want = entries(json!({"infer.ips": 88.5, "infer.latency_p99_ms": 200.0}));
        assert_eq!(numbers(&report), want);
    }
}
