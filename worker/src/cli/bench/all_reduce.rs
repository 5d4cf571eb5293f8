//! `octrain bench allreduce`: the collective alone, by worker processes that meet as those of a training do.

use super::super::worker::Work;
use super::super::{Exit, local};
use super::measured::{Measured, entries, report, steps};
use crate::config::{RunConfig, RunScope};
use crate::launcher::{EXIT_OK, Restarts};
use crate::metrics::table;
use crate::strategy::DeviceChoice;
use crate::trainer::{AllReduce, Job, sent_bytes};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Arguments of `octrain bench allreduce`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct BenchAllReduceArgs {
    /// Workers on this host.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub nproc: usize,
    /// Bytes of the buffers of FP32 numbers, separated by commas; K, M and G are powers of 1024.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = bytes, default_value = "4K,256K,1M,25M,100M")]
    pub bytes: Vec<usize>,
    /// Where the buffers lie: GPUs (NCCL) or main memory (Gloo).
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,
    /// Compute threads of all workers together, shared out evenly (0: the cores).
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Reductions timed of each size.
    #[arg(long, default_value_t = 20)]
    pub benchmark_steps: u64,
    /// Reductions before timing starts.
    #[arg(long, default_value_t = 5)]
    pub benchmark_warmup_steps: u64,
    /// Add the JSON line of the measurement to this file.
    #[arg(long, value_name = "FILE")]
    pub report_file: Option<PathBuf>,
}

/// A number of bytes, with K, M or G.
fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let all = number.parse::<usize>().ok().and_then(|n| n.checked_mul(unit));
    all.filter(|n| *n >= 4 && n % 4 == 0).ok_or_else(|| {
        "it is a number of bytes of FP32 numbers: a multiple of 4, e.g. 4096, 256K or 25M".into()
    })
}

/// The smallest job there is: its workers meet and are watched over as those of any, and train nothing.
fn job(args: &BenchAllReduceArgs, each: usize) -> RunConfig {
    RunConfig::default().with(|c| {
        c.run.run_scope = RunScope::TrainOnly;
        c.run.benchmark = true;
        c.model.model_arch_name = "ResNet20".into();
        c.model.image_shape = [3, 32, 32];
        c.model.num_of_class = Some(10);
        c.data.crop_size = 32;
        c.data.resize_short = 32;
        c.data.image_root = "synthetic".into();
        c.data.batch_size = 1;
        c.machine.nproc = args.nproc;
        c.machine.device = args.device;
        c.machine.threads = each;
    })
}

/// Milliseconds by size, from the workers' report.
fn times(report: &str) -> Vec<(usize, f64)> {
    let lines = report.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| Some((line["bytes"].as_u64()? as usize, line["ms"].as_f64()?))).collect()
}

/// Numbers of a measurement, and their table.
fn told(times: &[(usize, f64)], world: usize) -> (Map<String, Value>, String) {
    let mut numbers = Map::new();
    let rows: Vec<[String; 3]> = times
        .iter()
        .map(|&(bytes, ms)| {
            let bandwidth = sent_bytes(bytes, world) / ms / 1e6;
            numbers.insert(format!("allreduce.{bytes}.ms"), json!(ms));
            numbers.insert(format!("allreduce.{bytes}.bus_gb_per_s"), json!(bandwidth));
            [bytes.to_string(), format!("{ms:.3}"), format!("{bandwidth:.3}")]
        })
        .collect();
    (numbers, table(&["bytes", "ms", "bus GB/s"], &rows))
}

/// Runs the command.
pub fn main(args: &BenchAllReduceArgs) -> Result<u8> {
    if args.nproc < 2 {
        let message = format!("--nproc {}: a sum over workers needs at least 2", args.nproc);
        return Err(Exit::configuration(message).into());
    }
    let each = super::train::shared_out(args.threads, args.nproc).map_err(Exit::configuration)?;
    let wanted = AllReduce {
        bytes: args.bytes.clone(),
        steps: steps(args.benchmark_steps, args.benchmark_warmup_steps)?,
        warmup: args.benchmark_warmup_steps,
    };
    let report = report(args.report_file.as_deref())?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder for the workers' report")?;
    let file = folder.path().join("times.jsonl");
    let config = job(args, each).with(|c| c.run.report_file = Some(file.clone()));
    let job = Job::open(&config).map_err(Exit::of_run)?;
    let code =
        local::run_opened(&config, &local::Own::default(), job, &Work::AllReduce(wanted), Restarts::new(0))?;
    if code != EXIT_OK {
        return Ok(code);
    }
    let text = std::fs::read_to_string(&file).context("cannot read the workers' report")?;
    let (numbers, shown) = told(&times(&text), args.nproc);
    let settings = entries(json!({
        "nproc": args.nproc, "bytes": args.bytes, "device": args.device, "threads": args.threads,
        "benchmark-steps": args.benchmark_steps, "benchmark-warmup-steps": args.benchmark_warmup_steps,
    }));
    let shown = format!(
        "{}\nmedians of {} sums over {} workers, of the slowest; bus: what a ring has to send, 2 (N - 1) / N of the bytes, by that time",
        shown, args.benchmark_steps, args.nproc
    );
    Measured::here("allreduce", settings, numbers).tell(&shown, report)?;
    Ok(EXIT_OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_hold_whole_numbers() {
        assert_eq!([bytes("4"), bytes("256K"), bytes("25m")], [Ok(4), Ok(256 << 10), Ok(25 << 20)]);
        for wrong in ["", "K", "2", "6", "-4", "1.5M", "99999999999999999G", "4 K", "4é"] {
            assert!(bytes(wrong).unwrap_err().contains("multiple of 4"), "{wrong}");
        }
    }

    #[test]
    fn bandwidth_is_that_of_a_ring() {
        let report = "{\"bytes\": 1000000, \"ms\": 2.0, \"kind\": \"all-reduce\"}\nnothing\n";
        let (numbers, shown) = told(&times(report), 2);
        assert_eq!(numbers["allreduce.1000000.ms"], 2.0);
        assert_eq!(numbers["allreduce.1000000.bus_gb_per_s"], 0.5);
        assert!(shown.contains("1000000") && shown.contains("0.500"), "{shown}");
    }
}
