//! `octrain bench input`: the loader alone.

use super::super::Exit;
use super::measured::{Measured, entries, report, steps};
use crate::config::{Augmentation, DataSettings, RunConfig, validate};
use crate::data::{DataConfig, Dataset, Geometry, ImageFiles, Sharding, Split, TrainLoader};
use crate::launcher::EXIT_OK;
use crate::metrics::{median, table};
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Arguments of `octrain bench input`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct BenchInputArgs {
    /// The images: the JPEG and PNG files at any depth of this folder.
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Side of the random-resized-crop (and flip) of each image.
    #[arg(long, value_name = "PIXELS", default_value_t = 224)]
    pub crop_size: usize,
    /// Images of a batch.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub batch_size: usize,
    /// Decode threads (0: the cores).
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Batches timed.
    #[arg(long, default_value_t = 32)]
    pub benchmark_steps: u64,
    /// Batches before timing starts.
    #[arg(long, default_value_t = 8)]
    pub benchmark_warmup_steps: u64,
    /// Add the JSON line of the measurement to this file.
    #[arg(long, value_name = "FILE")]
    pub report_file: Option<PathBuf>,
}

/// A loader of the folder's images, as a training without further flags has it.
fn loader(args: &BenchInputArgs, threads: usize) -> Result<TrainLoader> {
    let channels = 3;
    let data = DataSettings {
        image_root: args.folder.display().to_string(),
        crop_size: args.crop_size,
        resize_short: args.crop_size,
        batch_size: args.batch_size,
        augmentation: Augmentation::RandomResizedCrop,
        ..DataSettings::default()
    };
    let run = RunConfig::default().with(|c| {
        c.model.image_shape = [channels, args.crop_size, args.crop_size];
        c.data = data.clone();
    });
    validate(&run).map_err(Exit::configuration)?;
    let found = ImageFiles::find(std::slice::from_ref(&args.folder));
    if let Some((path, why)) = found.refused.first() {
        return Err(Exit::configuration(format!("no images to read in `{}`: {why}", path.display())).into());
    }
    if let Some(left_out) = found.left_out() {
        tracing::info!("files left out: {left_out}");
    }
    let config = DataConfig {
        geometry: Geometry::new(&data, channels),
        sharding: Sharding::alone(args.batch_size),
        seed: run.run.seed,
        threads,
        max_corrupt: None,
    };
    // Nobody asks for labels.
    let images = Dataset::new(Split::Train, found, vec!["any".into()]);
    Ok(TrainLoader::new(Arc::new(images), config).map_err(|e| Exit::of_run(e.into()))?)
}

/// Seconds of batches, after some that are not timed, over as many epochs as that takes.
fn times(loader: &mut TrainLoader, warmup: u64, steps: u64) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let (mut epoch, mut done) = (0, 0);
    while done < warmup + steps {
        loader.start_epoch(epoch, 0)?;
        epoch += 1;
        while done < warmup + steps {
            let begun = Instant::now();
            let Some(batch) = loader.next()? else { break };
            drop(batch);
            done += 1;
            if done > warmup {
                times.push(begun.elapsed().as_secs_f64());
            }
        }
    }
    Ok(times)
}

/// Runs the command.
pub fn main(args: &BenchInputArgs) -> Result<u8> {
    let count = steps(args.benchmark_steps, args.benchmark_warmup_steps)?;
    let report = report(args.report_file.as_deref())?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if args.threads > 0 { args.threads } else { cores };
    let mut loader = loader(args, threads)?;
    let times = times(&mut loader, args.benchmark_warmup_steps, count).map_err(|e| {
        match e.downcast::<crate::data::DataError>() {
            Ok(e) => Exit::of_run(e.into()).into(),
            Err(other) => other,
        }
    })?;
    // Batches are read ahead, so that a single one may be there at once: their sum is what counts.
    let (all, images) = (times.iter().sum::<f64>(), (args.batch_size as u64 * count) as f64);
    let (ips, batch) = (images / all, 1e3 * median(&times));
    let settings = entries(json!({
        "folder": args.folder, "crop-size": args.crop_size, "batch-size": args.batch_size, "threads": args.threads,
        "benchmark-steps": count, "benchmark-warmup-steps": args.benchmark_warmup_steps,
    }));
    let numbers = entries(json!({"input.ips": ips, "input.batch_ms": 1e3 * all / count as f64}));
    let rows = [
        ["images/s".to_string(), format!("{ips:.1}")],
        ["ms a batch, mean".into(), format!("{:.2}", 1e3 * all / count as f64)],
        ["ms a batch, median".into(), format!("{batch:.2}")],
    ];
    let shown = format!(
        "{}\n{count} batches of {} images, random-resized-crop {}, flip, normalise; {threads} threads",
        table(&["input", "value"], &rows),
        args.batch_size,
        args.crop_size
    );
    Measured::here("input", settings, numbers).tell(&shown, report)?;
    Ok(EXIT_OK)
}
