//! `octrain predict`: the best classes of images, by a file and its own preprocessing.

use super::Exit;
use super::classifier::{Classifier, PreparationFlags};
use crate::data::{Geometry, ImageFiles, read_image};
use crate::engine::{self, Engine, EngineKind};
use crate::metrics::say;
use anyhow::Result;
use rayon::prelude::*;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `octrain predict`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct PredictArgs {
    /// The ONNX file: one of `octrain export`, or any classifier of images `[N, C, H, W]`, with the flags that say what it
    /// does not say of itself.
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// JPEG or PNG files, or folders of them, at any depth.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// The runtime.
    #[arg(long, value_enum, default_value = "openvino")]
    pub engine: EngineKind,
    /// Classes listed of each image.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub top: usize,
    /// Print one JSON object a line for each image.
    #[arg(long)]
    pub json: bool,
    /// Threads of the runtime (0: it chooses).
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// What the file does not say.
    #[command(flatten)]
    pub preparation: PreparationFlags,
}

/// Images of a batch at most.
const BATCH: usize = 16;

/// What is told of one image.
struct Told<'a> {
    args: &'a PredictArgs,
    names: &'a [String],
    normalised: bool,
}

impl Told<'_> {
    /// Its best classes.
    fn classes(&self, path: &Path, outputs: &[f32]) {
        let probabilities = engine::probabilities(outputs, self.normalised);
        let best = engine::best(&probabilities, self.args.top);
        if self.args.json {
            let class =
                |&i: &usize| json!({"class": self.names[i], "index": i, "probability": probabilities[i]});
            let classes: Vec<_> = best.iter().map(class).collect();
            say!("{}", json!({"image": path.to_string_lossy(), "predictions": classes}));
            return;
        }
        say!("{}", path.display());
        for i in best {
            say!("  {:6.2} %  {}", 100.0 * probabilities[i], self.names[i]);
        }
    }

    /// That it cannot be read.
    fn refused(&self, path: &Path, why: &str) {
        if self.args.json {
            say!("{}", json!({"image": path.to_string_lossy(), "error": why}));
        }
        tracing::error!("{}: cannot be read as an image: {why}", path.display());
    }
}

/// Classifies a batch of files; returns how many could not be read.
fn classify(engine: &mut dyn Engine, files: &[PathBuf], geometry: &Geometry, told: &Told) -> Result<usize> {
    let (batch, len) = (engine.batch_size(), geometry.len());
    let mut pixels = vec![0.0; batch * len];
    let read: Vec<Result<(), String>> =
        pixels.par_chunks_mut(len).zip(files).map(|(out, path)| read_image(path, geometry, out)).collect();
    let mut images = vec![0.0; batch * len];
    for (from, to) in pixels.chunks(len).zip(images.chunks_mut(len)) {
        channels_first(from, geometry.channels, to);
    }
    let outputs = engine.infer(&images)?;
    engine::check_scores(&outputs, batch, told.names.len())?;
    for ((path, read), row) in files.iter().zip(&read).zip(outputs.chunks(told.names.len())) {
        match read {
            Ok(()) => told.classes(path, row),
            Err(why) => told.refused(path, why),
        }
    }
    Ok(read.iter().filter(|r| r.is_err()).count())
}

/// `[H, W, C]` to `[C, H, W]`.
fn channels_first(from: &[f32], channels: usize, to: &mut [f32]) {
    let plane = from.len() / channels;
    for (i, pixel) in from.chunks(channels).enumerate() {
        for (c, &value) in pixel.iter().enumerate() {
            to[c * plane + i] = value;
        }
    }
}

/// Runs the command.
pub fn main(args: &PredictArgs) -> Result<u8> {
    if args.top == 0 {
        return Err(Exit::configuration("--top is 0; at least one class is listed").into());
    }
    let classifier = Classifier::read(&args.model, &args.preparation)?;
    let (geometry, names) = (classifier.geometry()?, classifier.class_names()?);
    let info = &classifier.info;
    for note in info.foreign(args.engine).into_iter().chain(info.inexact()) {
        tracing::warn!("{note}");
    }
    let found = ImageFiles::find(&args.images);
    if let Some(left_out) = found.left_out() {
        tracing::info!("files left out: {left_out}");
    }
    let told = Told { args, names, normalised: classifier.info.normalised };
    for (path, why) in &found.refused {
        told.refused(path, why);
    }
    let mut unread = found.refused.len();
    if !found.files.is_empty() {
        let batch = classifier.info.batch.unwrap_or(found.files.len().min(BATCH));
        let mut engine = classifier.load(args.engine, batch, args.threads)?;
        for files in found.files.chunks(batch) {
            unread += classify(&mut *engine, files, &geometry, &told)?;
        }
    }
    if unread == 0 {
        return Ok(0);
    }
    let all = found.files.len() + found.refused.len();
    let message = format!("{unread} of {all} images could not be read; each is named above");
    Err(Exit::configuration(message).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_come_first() {
        let mut to = [0.0; 6];
        channels_first(&[1.0, 10.0, 2.0, 20.0, 3.0, 30.0], 2, &mut to);
        assert_eq!(to, [1.0, 2.0, 3.0, 10.0, 20.0, 30.0]);
    }
}
