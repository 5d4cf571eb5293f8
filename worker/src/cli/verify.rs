//! `octrain verify`: whether an engine does what training measured.

use super::export::trained_graph;
use super::infer::loader;
use super::{Exit, checkpoint_base};
use crate::checkpoint;
use crate::engine::{self, EngineKind, ModelInfo};
use crate::export::Profile;
use crate::launcher::EXIT_ERROR;
use crate::metrics::ReportFile;
use crate::verify::{Tally, TrainedGraph};
use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `octrain verify`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct VerifyArgs {
    /// The checkpoint the file was exported from.
    #[arg(long, value_name = "FOLDER")]
    pub from_checkpoint: PathBuf,
    /// `auto` (the furthest) or a number of epochs.
    #[arg(long, value_name = "WHICH")]
    pub last_epoch_of_checkpoint: Option<String>,
    /// The ONNX file.
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The runtime.
    #[arg(long, value_enum, default_value = "openvino")]
    pub engine: EngineKind,
    /// `digits`, or a folder with `val/<class>/`; not given: the data of the checkpoint.
    #[arg(long, value_name = "DATA")]
    pub image_root: Option<String>,
    /// Images of a batch.
    #[arg(long, default_value_t = 50)]
    pub batch_size: usize,
    /// Compare on so many images at most.
    #[arg(long, value_name = "N")]
    pub max_images: Option<usize>,
    /// Percent of images whose prediction may differ.
    #[arg(long, default_value_t = 0.5)]
    pub max_disagreement: f64,
    /// JSON lines of results.
    #[arg(long, value_name = "FILE")]
    pub report_file: Option<PathBuf>,
}

/// Runs the command.
pub fn main(args: &VerifyArgs) -> Result<u8> {
    let (folder, manifest) =
        checkpoint_base::find(&args.from_checkpoint, args.last_epoch_of_checkpoint.as_deref())?;
    let info = ModelInfo::read(&args.model).map_err(Exit::configuration)?;
    let profile = info.profile.as_deref().and_then(|p| Profile::from_str(p, true).ok()).ok_or_else(|| {
        Exit::configuration(format!(
            "{} does not say its profile; files of `octrain export` do",
            args.model.display()
        ))
    })?;
    if info.image_shape != manifest.image_shape || info.classes != manifest.class_names.len() {
        let message = format!("{} was not exported from {}", args.model.display(), folder.display());
        return Err(Exit::configuration(message).into());
    }
    let state = checkpoint::load(&folder).map_err(Exit::configuration)?.model;
    let graph = trained_graph(&manifest, profile)?;
    let graph = TrainedGraph::new(graph, &state, profile.target().is_some())?;
    let root = args.image_root.as_deref().unwrap_or(&manifest.config.image_root);
    let mut loader = loader(&info, root, args.batch_size, args.max_images)?;
    let mut engine = engine::load(args.engine, &args.model, &info, args.batch_size, 0)?;
    let mut tally = Tally::default();
    while let Some(batch) = loader.next()? {
        let mut images = Vec::<f32>::try_from(&batch.images.contiguous().view([-1]))?;
        images.resize(args.batch_size * info.image_len(), 0.0);
        let theirs = engine.infer(&images)?;
        let ours = Vec::<f32>::try_from(&graph.logits(&batch.images)?.contiguous().view([-1]))?;
        tally.add(&Vec::<i64>::try_from(&batch.labels)?, &ours, &theirs, info.classes);
    }
    if tally.images == 0 {
        return Err(Exit::configuration("the validation set has no readable image").into());
    }
    println!(
        "{} images: verify.top1_graph {:.2}, verify.top1_engine {:.2} ({}), verify.agreement {:.3} %, largest difference of a logit {:.4}",
        tally.images,
        tally.top1_graph(),
        tally.top1_engine(),
        args.engine.name(),
        tally.agreement(),
        tally.largest
    );
    if let Some(path) = &args.report_file {
        ReportFile::open(path, false)?.write(&json!({
            "kind": "verify", "engine": args.engine.name(), "profile": profile.name(), "verify.images": tally.images,
            "verify.agreement": tally.agreement(), "verify.top1_graph": tally.top1_graph(),
            "verify.top1_engine": tally.top1_engine(), "verify.largest_difference": tally.largest,
        }))?;
    }
    let disagreement = 100.0 - tally.agreement();
    if disagreement > args.max_disagreement {
        let message = format!(
            "engine and training graph differ on {disagreement:.3} % of the images, more than --max-disagreement {}",
            args.max_disagreement
        );
        return Err(Exit { code: EXIT_ERROR, message }.into());
    }
    Ok(0)
}
