//! `octrain bench train`: the steps of `octrain train --benchmark`, on images that are made once, and where their time goes.

use super::super::args::RunFlags;
use super::super::resume::{self, Again, Base, ResumeFlag};
use super::super::{Exit, local};
use super::measured::{Measured, entries, report, steps};
use crate::config::{RunConfig, RunScope, inert_keys};
use crate::launcher::{EXIT_OK, Restarts};
use crate::metrics::table;
use anyhow::{Context, Result};
use clap::ArgMatches;
use clap::parser::ValueSource;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Images of an epoch: more than a benchmark takes.
const IMAGES: usize = 1 << 17;

/// Arguments of `octrain bench train`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
#[command(mut_arg("threads", |arg| arg.help("Compute threads of all workers together, shared out evenly (0: the cores)")))]
#[command(mut_arg("report_file", |arg| arg.help("Add the JSON line of the measurement to this file")))]
#[command(mut_arg("image_root", |arg| arg.hide_default_value(true).help("As in `octrain train`; not given: `synthetic`, a few batches that are made once and used again, so that nothing competes with the steps for cores")))]
pub struct BenchTrainArgs {
    /// Settings, as of `octrain train`. Nothing is evaluated or saved.
    #[command(flatten)]
    pub flags: RunFlags,
}

/// What a benchmark is where nothing else is said.
fn base() -> RunConfig {
    RunConfig::default().with(|c| {
        c.data.image_root = "synthetic".into();
        c.data.synthetic_images = IMAGES;
        // Ranges come from one microbatch: a step takes as long with any.
        c.quantization.qat_calibration_images = 1;
    })
}

/// The same training, as a benchmark.
fn timed(config: RunConfig) -> RunConfig {
    config.with(|c| {
        c.run.benchmark = true;
        c.run.run_scope = RunScope::TrainOnly;
    })
}

/// The training of a checkpoint, as a benchmark, whose result is not for that training's report.
fn of_checkpoint(config: RunConfig) -> RunConfig {
    timed(config).with(|c| c.run.report_file = None)
}

/// Threads of each worker, of those of all together.
pub fn shared_out(threads: usize, workers: usize) -> Result<usize, String> {
    match threads.checked_rem(workers) {
        Some(0) => Ok(threads / workers),
        _ => Err(format!(
            "--threads {threads} are those of all workers together, and --nproc {workers} cannot share them evenly"
        )),
    }
}

/// What decides how long a step takes, and what else was told but where results go and what has no effect.
fn settings(config: &RunConfig, threads: usize) -> Result<Map<String, Value>> {
    let mut all = entries(serde_json::to_value(config)?);
    all.insert("threads".into(), json!(threads));
    let places = ["output-dir", "report-file", "trace-file"].map(String::from);
    for key in inert_keys(config).into_iter().chain(places) {
        all.remove(&key);
    }
    Ok(all)
}

/// The numbers of the last line of a run's report that has them.
fn numbers(report: &str) -> Option<Map<String, Value>> {
    let lines = report.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let summary = lines.into_iter().find(|line| line["kind"] == "summary")?;
    let told = entries(summary).into_iter();
    let numbers: Map<String, Value> =
        told.filter(|(key, value)| key.starts_with("train.") && value.is_number()).collect();
    numbers.get("train.timed_steps")?.as_u64().filter(|steps| *steps > 0)?;
    Some(numbers)
}

/// Where the time of a step goes, as a table.
fn shown(numbers: &Map<String, Value>, workers: usize) -> String {
    let of = |key: &str| numbers.get(key).and_then(Value::as_f64);
    let step = of("train.step_ms").unwrap_or(f64::NAN);
    let parts = ["data", "forward", "backward", "exposed_reduce", "update", "other"];
    let rows: Vec<[String; 3]> = parts
        .iter()
        .filter_map(|part| {
            let ms = of(&format!("train.{part}_ms"))?;
            Some([part.replace('_', " "), format!("{ms:.2}"), format!("{:.1}", 100.0 * ms / step)])
        })
        .chain([["step".into(), format!("{step:.2}"), "100.0".into()]])
        .collect();
    let peak = of("train.peak_rss_mb").map_or(String::new(), |mib| {
        format!(
            "; peak memory {mib:.0} MiB ({})",
            if workers == 1 { "1 worker" } else { "the largest worker's" }
        )
    });
    format!(
        "{}\n{:.2} images/s over {workers} worker{}; medians of {} steps, times of rank 0{peak}",
        table(&["part of a step", "ms", "%"], &rows),
        of("train.ips").unwrap_or(f64::NAN),
        if workers == 1 { "" } else { "s" },
        of("train.timed_steps").unwrap_or_default()
    )
}

/// Runs the benchmark; its report goes to `file`.
fn run(config: &RunConfig, file: &Path) -> Result<u8> {
    let told = config.clone().with(|c| c.run.report_file = Some(file.into()));
    local::run(&told, &local::Own::default(), Restarts::new(0))
}

/// Runs the command.
pub fn main(args: &BenchTrainArgs, matches: &ArgMatches) -> Result<u8> {
    let again = Again { command: "octrain bench train".into(), needs: "" };
    let bases = Base { new: &|| timed(base()), of_checkpoint: &of_checkpoint };
    let told = resume::resolve_over(&args.flags, &ResumeFlag { resume: None }, matches, &again, &bases)?;
    let by_hand = |flag: &str| matches.value_source(flag) == Some(ValueSource::CommandLine);
    if by_hand("benchmark") && !told.run.benchmark
        || by_hand("run_scope") && told.run.run_scope != RunScope::TrainOnly
    {
        let why = "octrain bench train times steps of training and does nothing else; leave out --benchmark and --run-scope";
        return Err(Exit::configuration(why).into());
    }
    // A file of settings may be that of a training.
    let told = timed(told);
    let wanted = steps(told.run.benchmark_steps, told.run.benchmark_warmup_steps)?;
    let threads = told.machine.threads;
    let each = shared_out(threads, told.machine.nproc).map_err(Exit::configuration)?;
    let config = told.clone().with(|c| c.machine.threads = each);
    args.flags.show(&config)?;
    let report = report(config.run.report_file.as_deref())?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder for the workers' report")?;
    let file = folder.path().join("steps.jsonl");
    let code = run(&config, &file)?;
    if code != EXIT_OK {
        return Ok(code);
    }
    let text = std::fs::read_to_string(&file).context("cannot read the workers' report")?;
    let numbers = numbers(&text).ok_or_else(|| {
        Exit::configuration(format!(
            "no step was timed: the run ended before or within its {} steps of warm-up; give it more steps by --max-steps or --epochs (a checkpoint at its last epoch has none left: start from it by --from-pretrained-params), or lower --benchmark-warmup-steps",
            config.run.benchmark_warmup_steps
        ))
    })?;
    let shown = shown(&numbers, config.machine.nproc);
    let mut settings = settings(&config, threads)?;
    let timed = numbers.get("train.timed_steps").and_then(Value::as_u64).unwrap_or_default();
    if timed < wanted {
        tracing::warn!(
            "only {timed} of {wanted} steps were timed: the run ended; --max-steps or --epochs give it more"
        );
        settings.insert("benchmark-steps".into(), json!(timed));
    }
    Measured::here("train", settings, numbers).tell(&shown, report)?;
    Ok(EXIT_OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_shared_out_evenly_or_refused() {
        assert_eq!(shared_out(4, 2), Ok(2));
        assert_eq!(shared_out(0, 3), Ok(0), "each takes its share of the cores");
        for (threads, workers) in [(1, 2), (3, 2), (2, 0)] {
            let told = shared_out(threads, workers).unwrap_err();
            assert!(told.contains(&format!("--threads {threads}")), "{told}");
        }
    }

    #[test]
    fn a_measurement_from_a_checkpoint_is_not_added_to_the_report_of_its_training() {
        let training = RunConfig::default().with(|c| c.run.report_file = Some("report.jsonl".into()));
        let told = of_checkpoint(training);
        assert_eq!((told.run.report_file, told.run.benchmark), (None, true));
    }

    #[test]
    fn numbers_are_those_of_the_summary_where_steps_were_timed() {
        let told = |steps: u64| {
            format!(
                "{}\n{}\n",
                json!({"kind": "epoch", "train.ips": 1.0}),
                json!({"kind": "summary", "train.ips": 8.0, "train.timed_steps": steps, "val.top1": null})
            )
        };
        let numbers = numbers(&told(5));
        assert_eq!(numbers, Some(entries(json!({"train.ips": 8.0, "train.timed_steps": 5}))));
        assert_eq!(super::numbers(&told(0)), None);
        assert_eq!(super::numbers("{\"kind\": \"step\"}\n"), None);
    }

    #[test]
    fn settings_are_told_without_places_and_with_all_threads() {
        let config = timed(base()).with(|c| c.run.output_dir = "elsewhere".into());
        let all = settings(&config, 2).unwrap();
        assert_eq!((&all["threads"], &all["benchmark"]), (&json!(2), &json!(true)));
        assert!(!all.contains_key("output-dir") && !all.contains_key("qat-observer"));
    }

    #[test]
    fn the_table_has_the_parts_that_were_measured() {
        let numbers = entries(json!({
            "train.ips": 16.0, "train.step_ms": 1000.0, "train.forward_ms": 250.0, "train.timed_steps": 5,
            "train.peak_rss_mb": 1700.4
        }));
        let text = shown(&numbers, 2);
        let row = |line: &str| line.split_whitespace().eq(["forward", "250.00", "25.0"]);
        assert!(text.lines().any(row), "{text}");
        assert!(
            text.contains("16.00 images/s over 2 workers; medians of 5 steps") && text.contains("1700 MiB")
        );
        assert!(!text.contains("backward"), "{text}");
    }
}
