//! `octrain infer`: an exported file in a runtime, on a validation set or on synthetic input.

use super::Exit;
use super::args::Tolerance;
use super::classifier::{Classifier, PreparationFlags};
use crate::config::RunConfig;
use crate::data::{DataConfig, Dataset, EvalLoader, Names, Sharding, Split, Wanted};
use crate::engine::{self, Engine, EngineKind, Latency, ModelInfo};
use crate::export::Profile;
use crate::metrics::{ReportFile, say};
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// An exported file in a runtime, and how it is timed.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineRun {
    /// The ONNX file: one of `octrain export`, or any classifier of images `[N, C, H, W]`, with the flags that say what it
    /// does not say of itself.
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The runtime.
    #[arg(long, value_enum, default_value = "openvino")]
    pub engine: EngineKind,
    /// Images of a batch (not given: 32, or as many as the file takes).
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Batches timed.
    #[arg(long, default_value_t = 100)]
    pub benchmark_steps: u64,
    /// Batches before timing starts.
    #[arg(long, default_value_t = 100)]
    pub benchmark_warmup_steps: u64,
    /// Threads of the runtime (0: it chooses).
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// What the file does not say.
    #[command(flatten)]
    pub preparation: PreparationFlags,
}

/// Arguments of `octrain infer`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct InferArgs {
    /// What runs.
    #[command(flatten)]
    pub run: EngineRun,
    /// Data to measure accuracy on: `digits`, or a folder with `val/<class>/`.
    #[arg(long, value_name = "DATA")]
    pub image_root: Option<String>,
    /// What may be wrong with it.
    #[command(flatten)]
    pub tolerance: Tolerance,
    /// Time batches of synthetic input instead of measuring accuracy.
    #[arg(long, visible_alias = "use-synthetic", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub benchmark: bool,
    /// JSON lines of results.
    #[arg(long, value_name = "FILE")]
    pub report_file: Option<PathBuf>,
}

/// Images of a batch where neither file nor flag tells.
const BATCH: usize = 32;

/// Accuracy of an engine on a validation set.
#[derive(Debug, Clone, PartialEq)]
pub struct Accuracy {
    /// Percent.
    pub top1: f64,
    /// Percent.
    pub top5: f64,
    /// Images counted.
    pub images: u64,
    /// Corrupt images left out.
    pub corrupt: u64,
    /// Best class of every image, in order.
    pub predictions: Vec<usize>,
    /// Latency of batches, preprocessing excluded.
    pub latency: Latency,
}

/// What to do about data with other classes than a file.
const OTHER_CLASSES: &str = "give data with the classes it was trained on (--image-root); where the data only lacks some of them, --allow-missing-classes measures on the others";

/// The validation set `root` as a classifier wants its images, labelled by its classes; where nothing names those, by the
/// data's own, which must be as many.
pub fn loader(
    classifier: &Classifier,
    root: &str,
    tolerance: Tolerance,
    batch: usize,
    limit: Option<usize>,
) -> Result<EvalLoader> {
    let info = &classifier.info;
    let config = DataConfig {
        geometry: classifier.geometry()?,
        sharding: Sharding::alone(batch),
        seed: 0,
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        max_corrupt: tolerance.max_corrupt_images,
    };
    let whose = classifier.file.display().to_string();
    let names = match &info.class_names {
        Some(names) => Names::Known { names, whose: &whose, remedy: OTHER_CLASSES },
        None => Names::OfData,
    };
    let run = RunConfig::default().with(|c| {
        c.data.image_root = root.into();
        c.model.image_shape = info.image_shape;
        c.data.val_fraction = tolerance.val_fraction.unwrap_or(0.0);
    });
    let allow_missing_classes = tolerance.allow_missing_classes;
    let data = Dataset::open(
        Split::Val,
        &Wanted { names, allow_missing_classes, ..Wanted::of(&run.model, &run.data) },
    );
    let data = data.map_err(|e| Exit::of_run(e.into()))?;
    if data.classes.len() != info.classes {
        let message = format!(
            "{whose} has {} outputs, and {root} {} classes: give the data it was trained for, or the names of its classes with --classes FILE (and --allow-missing-classes where the data lacks some of them)",
            info.classes,
            data.classes.len()
        );
        return Err(Exit::configuration(message).into());
    }
    if info.class_names.is_none() {
        say!(
            "{whose} does not name its classes: its outputs are taken for the data's classes in the order of their names"
        );
    }
    tracing::info!("{}", data.found);
    Ok(EvalLoader::new(Arc::new(data), config, limit)?)
}

/// Runs an engine over a validation set; the last batch is filled up with zeros.
pub fn accuracy(engine: &mut dyn Engine, info: &ModelInfo, mut loader: EvalLoader) -> Result<Accuracy> {
    let (mut hits, mut hits5, mut corrupt) = (0u64, 0u64, 0u64);
    let (mut predictions, mut times) = (Vec::new(), Vec::new());
    while let Some(batch) = loader.next()? {
        corrupt += batch.corrupt;
        let labels = Vec::<i64>::try_from(&batch.labels)?;
        let mut images = Vec::<f32>::try_from(&batch.images.contiguous().view([-1]))?;
        images.resize(engine.batch_size() * info.image_len(), 0.0);
        let begun = Instant::now();
        let logits = engine.infer(&images)?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        engine::check_scores(&logits, engine.batch_size(), info.classes)?;
        for (&label, row) in labels.iter().zip(logits.chunks(info.classes)) {
            // The place of the label among all classes; the first of equals wins, as in the training graph.
            let (label, mine) = (label as usize, row[label as usize]);
            let better =
                row.iter().enumerate().filter(|&(i, &x)| x > mine || (x == mine && i < label)).count();
            hits += u64::from(better == 0);
            hits5 += u64::from(better < 5);
            predictions.push(engine::predicted(row));
        }
    }
    let images = predictions.len() as u64;
    let latency = Latency::of(&times, engine.batch_size())
        .filter(|_| images > 0)
        .ok_or_else(|| Exit::configuration("the validation set has no readable image"))?;
    let percent = |n: u64| 100.0 * n as f64 / images as f64;
    Ok(Accuracy { top1: percent(hits), top5: percent(hits5), images, corrupt, predictions, latency })
}

/// Says from which checkpoint a file was exported, and if it runs in an engine it was not written for, or on a CPU that does not
/// compute exactly what it says.
pub fn announce(model: &Path, info: &ModelInfo, engine: EngineKind) {
    match &info.origin {
        Some(origin) => say!("{}: exported from checkpoint {}: {origin}", model.display(), origin.name),
        None => say!("{}: it does not say from which checkpoint it comes", model.display()),
    }
    for note in info.foreign(engine).into_iter().chain(info.inexact()) {
        say!("note: {note}");
    }
}

/// Runs the command.
pub fn main(args: &InferArgs) -> Result<u8> {
    let data = match (&args.image_root, args.benchmark) {
        (Some(root), false) => Some((&root[..], args.tolerance)),
        (_, true) => None,
        (None, false) => {
            let message = "give --image-root for accuracy, or --benchmark for speed on synthetic input";
            return Err(Exit::configuration(message).into());
        }
    };
    let report = measured(&args.run, data)?;
    if let Some(path) = &args.report_file {
        ReportFile::open(path, false)?.write(&Value::Object(report))?;
    }
    Ok(0)
}

/// Measures accuracy on a validation set, or, without one, speed on synthetic input; says it, and returns the line of its report.
pub fn measured(args: &EngineRun, data: Option<(&str, Tolerance)>) -> Result<Map<String, Value>> {
    let classifier = Classifier::read(&args.model, &args.preparation)?;
    let info = &classifier.info;
    let batch = args.batch_size.or(info.batch).unwrap_or(BATCH);
    if batch == 0 {
        return Err(Exit::configuration("--batch-size is 0; at least one image is needed").into());
    }
    announce(&args.model, info, args.engine);
    let open = |(root, tolerance)| loader(&classifier, root, tolerance, batch, None);
    let loader = data.map(open).transpose()?;
    let mut engine = classifier.load(args.engine, batch, args.threads)?;
    // Files of others do not say.
    let precision = info.profile.as_deref().map(|p| if p == Profile::Fp32.name() { "FP32" } else { "INT8" });
    let mut report = Map::new();
    let mut put = |key: &str, value: Value| drop(report.insert(key.into(), value));
    let (engine_name, model) = (args.engine.name(), args.model.display());
    let latency = match loader {
        Some(loader) => {
            let a = accuracy(&mut *engine, info, loader)?;
            let corrupt = if a.corrupt > 0 {
                format!(", {} corrupt images left out", a.corrupt)
            } else {
                String::new()
            };
            say!(
                "{model} in {engine_name}: infer.top1 {:.2} infer.top5 {:.2} ({} images{corrupt})",
                a.top1,
                a.top5,
                a.images
            );
            put("infer.top1", json!(a.top1));
            put("infer.top5", json!(a.top5));
            put("accuracy", json!(a.top1 / 100.0));
            put("infer.images", json!(a.images));
            put("infer.corrupt", json!(a.corrupt));
            a.latency
        }
        None => {
            // Any finite numbers do: time does not depend on them.
            let images: Vec<f32> =
                (0..batch * info.image_len()).map(|i| (i * 37 % 255) as f32 / 64.0 - 2.0).collect();
            engine::measure(&mut *engine, &images, args.benchmark_warmup_steps, args.benchmark_steps)?
        }
    };
    say!(
        "{model} in {engine_name}: {:.1} images/s, batch {} in {:.3} ms on average (p90 {:.3}, p95 {:.3}, p99 {:.3})",
        latency.images_per_second,
        batch,
        latency.mean,
        latency.p90,
        latency.p95,
        latency.p99
    );
    put("kind", json!("infer"));
    put("engine", json!(engine_name));
    put("precision", json!(precision));
    put("profile", json!(info.profile));
    put("checkpoint", json!(info.origin));
    put("batch_size", json!(batch));
    put("image_shape", json!(info.image_shape));
    put("throughput", json!(latency.images_per_second));
    put("infer.images_per_second", json!(latency.images_per_second));
    for (name, value) in
        [("avg", latency.mean), ("p90", latency.p90), ("p95", latency.p95), ("p99", latency.p99)]
    {
        put(&format!("eval_latency_{name}"), json!(value));
    }
    put("infer.bytes", json!(info.bytes));
    Ok(report)
}
