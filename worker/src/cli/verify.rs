//! `octrain verify`: whether an engine does what training measured.

use super::args::Tolerance;
use super::classifier::{Classifier, PreparationFlags};
use super::export::{self, trained_graph};
use super::infer::{self, loader};
use super::{Exit, checkpoint_base, output, provenance};
use crate::checkpoint::{self, Manifest};
use crate::config::CheckpointChoice;
use crate::data::EvalLoader;
use crate::engine::{self, EngineKind, ModelInfo};
use crate::exec::{Evaluator, Mode};
use crate::export::Profile;
use crate::launcher::EXIT_ERROR;
use crate::metrics::{ReportFile, print};
use crate::verify::{Layers, Limits, Report, html, sort_kernels};
use anyhow::Result;
use clap::ValueEnum;
use octrain_formats::onnx::proto::ModelProto;
use prost::Message;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::{Device, Tensor};

/// Arguments of `octrain verify`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct VerifyArgs {
    /// The checkpoint the file was exported from.
    #[arg(long, value_name = "FOLDER")]
    pub from_checkpoint: PathBuf,
    /// `auto` (the furthest), `best` (that of the highest top-1) or a number of epochs.
    #[arg(long, value_name = "WHICH")]
    pub last_epoch_of_checkpoint: Option<CheckpointChoice>,
    /// The ONNX file.
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The runtime.
    #[arg(long, value_enum, default_value = "openvino")]
    pub engine: EngineKind,
    /// `digits`, or a folder with `val/<class>/`; not given: the data of the checkpoint.
    #[arg(long, value_name = "DATA")]
    pub image_root: Option<String>,
    /// What may be wrong with it.
    #[command(flatten)]
    pub tolerance: Tolerance,
    /// Images of a batch.
    #[arg(long, default_value_t = 50)]
    pub batch_size: usize,
    /// Compare on so many images at most.
    #[arg(long, value_name = "N")]
    pub max_images: Option<usize>,
    /// Percent of images whose prediction may differ.
    #[arg(long, default_value_t = 0.5)]
    pub max_disagreement: f64,
    /// Percent of the codes of every layer, fed the same inputs, that must differ by 1 at most.
    #[arg(long, default_value_t = 99.9)]
    pub min_lsb_within_1: f64,
    /// Images on which layers are compared one by one (0: none).
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub layer_images: usize,
    /// A page with the figures of every layer, as plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// JSON lines of results.
    #[arg(long, value_name = "FILE")]
    pub report_file: Option<PathBuf>,
}

/// Images that go through all layers at once: every value of the network is held.
const LAYER_BATCH: i64 = 8;

/// Layers listed on the terminal.
const LISTED: usize = 8;

/// Profile of a file of the checkpoint in `folder`.
///
/// # Errors
/// When it is none of it, with all by which that is known.
fn profile_of(args: &VerifyArgs, info: &ModelInfo, folder: &Path, manifest: &Manifest) -> Result<Profile> {
    let profile = info.profile.as_deref().and_then(|p| Profile::from_str(p, true).ok()).ok_or_else(|| {
        Exit::configuration(format!(
            "{} does not say its profile; files of `octrain export` do",
            args.model.display()
        ))
    })?;
    let differing = provenance::differing(info, profile, folder, manifest);
    if differing.is_empty() {
        return Ok(profile);
    }
    let message = format!(
        "{} was not exported from {}: {}; give the checkpoint that it comes from (--from-checkpoint, --last-epoch-of-checkpoint), or export the file anew",
        args.model.display(),
        folder.display(),
        differing.join("; "),
    );
    Err(Exit::configuration(message).into())
}

/// Whole batches of both sides by turns; the last batch is filled up with zeros for the engine.
fn compare_predictions(
    args: &VerifyArgs,
    graph: &Evaluator,
    info: &ModelInfo,
    mut loader: EvalLoader,
    report: &mut Report,
) -> Result<()> {
    let mut engine = engine::load(args.engine, &args.model, info, args.batch_size, 0)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    while let Some(batch) = loader.next()? {
        let mut images = Vec::<f32>::try_from(&batch.images.contiguous().view([-1]))?;
        images.resize(args.batch_size * info.image_len(), 0.0);
        let (begun, full) = (Instant::now(), batch.labels.size()[0] as usize == args.batch_size);
        let deployed = engine.infer(&images)?;
        let between = Instant::now();
        let trained = Vec::<f32>::try_from(&graph.logits(&batch.images)?.contiguous().view([-1]))?;
        // Of a batch that is not full only the engine would have the time of a full one.
        if full || ours.is_empty() {
            theirs.push((between - begun).as_secs_f64() * 1000.0);
            ours.push(between.elapsed().as_secs_f64() * 1000.0);
        }
        report.tally.add(&Vec::<i64>::try_from(&batch.labels)?, &trained, &deployed, info.classes);
    }
    let (Some(ours), Some(theirs)) = (engine::median(&ours), engine::median(&theirs)) else {
        return Err(Exit::configuration("the validation set has no readable image").into());
    };
    (report.latency_graph, report.latency_engine) = (ours, theirs);
    Ok(())
}

/// Every layer on the first images, fed what training feeds it.
fn compare_layers(
    args: &VerifyArgs,
    graph: &Evaluator,
    mut loader: EvalLoader,
    report: &mut Report,
) -> Result<()> {
    let model = ModelProto::decode(&std::fs::read(&args.model)?[..])?;
    let mut layers = Layers::new(&model, args.engine).map_err(Exit::configuration)?;
    let mut held: Option<Tensor> = None;
    while let Some(batch) = loader.next()? {
        let images = match held.take() {
            Some(rest) => Tensor::f_cat(&[rest, batch.images], 0)?,
            None => batch.images,
        };
        let whole = images.size()[0] / LAYER_BATCH * LAYER_BATCH;
        for start in (0..whole).step_by(LAYER_BATCH as usize) {
            layers.compare(graph, &images.f_narrow(0, start, LAYER_BATCH)?)?;
            report.layer_images += LAYER_BATCH as u64;
        }
        held = (whole < images.size()[0]).then(|| images.narrow(0, whole, images.size()[0] - whole));
    }
    if report.layer_images == 0 {
        let message = format!(
            "layers are compared in batches of {LAYER_BATCH}: give --layer-images {LAYER_BATCH} or more, or 0"
        );
        return Err(Exit::configuration(message).into());
    }
    report.take_layers(&layers);
    Ok(())
}

/// Runs the command.
pub fn main(args: &VerifyArgs) -> Result<u8> {
    args.html.iter().try_for_each(|path| output::ensure_folder("--html", path))?;
    if args.batch_size == 0 {
        return Err(Exit::configuration("--batch-size is 0; at least one image is needed").into());
    }
    let (folder, manifest) = checkpoint_base::find(&args.from_checkpoint, args.last_epoch_of_checkpoint)?;
    let classifier = Classifier::read(&args.model, &PreparationFlags::default())?;
    let info = &classifier.info;
    checkpoint_base::announce(&folder, &manifest);
    infer::announce(&args.model, info, args.engine);
    let profile = profile_of(args, info, &folder, &manifest)?;
    let checkpoint = checkpoint::load(&folder).map_err(Exit::checkpoint)?;
    let graph = trained_graph(&checkpoint, &export::strategy(&folder, &manifest, profile)?)?;
    let mode = Mode::evaluation(profile.target().is_some());
    let graph = Evaluator::of_state(graph, &checkpoint.model, mode, Device::Cpu)?;
    let root = checkpoint_base::data(args.image_root.as_deref(), &folder, &manifest)?;
    let mut report = Report {
        engine: args.engine.name().into(),
        profile: profile.name().into(),
        batch_size: args.batch_size,
        ..Report::default()
    };
    let held_out = checkpoint_base::val_fraction(args.tolerance.val_fraction, &root, &manifest);
    let tolerance = Tolerance { val_fraction: Some(held_out), ..args.tolerance };
    let images = |limit| loader(&classifier, &root, tolerance, args.batch_size, limit);
    compare_predictions(args, &graph, info, images(args.max_images)?, &mut report)?;
    let nodes = engine::profile(args.engine, &args.model, info, args.batch_size)?;
    report.kernels = sort_kernels(&nodes, graph.graph());
    if args.layer_images > 0 && profile.target().is_some() {
        compare_layers(args, &graph, images(Some(args.layer_images))?, &mut report)?;
    }
    print(report.text(LISTED))?;
    if let Some(path) = &args.report_file {
        ReportFile::open(path, false)?.write(&report.json())?;
    }
    let limits = Limits { max_disagreement: args.max_disagreement, min_lsb_within_1: args.min_lsb_within_1 };
    if let Some(path) = &args.html {
        let page = html(&report, &nodes, &limits);
        output::write("--html", path, page.as_bytes())?;
    }
    let failures = report.failures(&limits);
    if failures.is_empty() {
        return Ok(0);
    }
    Err(Exit { code: EXIT_ERROR, message: failures.join("\n  ") }.into())
}
