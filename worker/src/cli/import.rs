//! `octrain import`: a network that another program trained, as a checkpoint that every command takes.

use super::classifier::PreparationFlags;
use super::{Exit, resume};
use crate::checkpoint::{CheckpointError, RunFolder};
use crate::config::DataSettings;
use crate::data::Preprocessing;
use crate::import::{self, Imported, Network, Wanted};
use crate::launcher::EXIT_OK;
use crate::metrics::say;
use crate::session::machine::host_name;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `octrain import`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct ImportArgs {
    /// What another program wrote: a file of safetensors, a state dict of `torch.save`, an ONNX file in floating point, or a
    /// folder of Paddle's (program, weights, state of the optimizer), or one of its files.
    #[arg(value_name = "FILE_OR_FOLDER")]
    pub from: PathBuf,
    /// Folder for the checkpoint.
    #[arg(long, value_name = "FOLDER")]
    pub output_dir: PathBuf,
    /// Name of the network (not given: the one whose parameters the file has; of an ONNX file its own name).
    #[arg(long, value_name = "NAME")]
    pub model_arch_name: Option<String>,
    /// Replace checkpoints that are in the output folder, once the new one is complete.
    #[arg(long)]
    pub overwrite: bool,
    /// What the file does not say, or says otherwise than wanted. What neither says is as for ImageNet: images of
    /// 224 x 224 pixels out of a short side of 256 (in this proportion for others), its mean and deviation, classes that
    /// are named by their number.
    #[command(flatten)]
    pub preparation: PreparationFlags,
}

/// Sides of ImageNet's evaluation: the crop, and the short side that it is cut from.
fn imagenet() -> (usize, usize) {
    let data = DataSettings::default();
    (data.crop_size, data.resize_short)
}

/// How images are prepared where neither the file nor flags tell.
fn usual(side: usize) -> Preprocessing {
    let (crop, short) = imagenet();
    let resize_short = (side * short + crop / 2) / crop;
    Preprocessing { crop_size: side, resize_short, ..Preprocessing::of(&DataSettings::default()) }
}

/// The names of the classes: those of the flag, else the file's; none where neither has any.
fn class_names(flags: &PreparationFlags, network: &Network) -> Result<Option<Vec<String>>, Exit> {
    let Some(names) = flags.class_names()?.or_else(|| network.class_names.clone()) else { return Ok(None) };
    if names.len() != network.classes() {
        let message = format!(
            "{} has {} outputs, and --classes names {} classes: it has one name a line, in the order of the outputs",
            network.graph.name,
            network.classes(),
            names.len()
        );
        return Err(Exit::configuration(message));
    }
    Ok(Some(names))
}

/// Runs the command.
pub fn main(args: &ImportArgs) -> Result<u8> {
    let wanted = Wanted { network: args.model_arch_name.clone(), image_shape: args.preparation.image_shape };
    let imported = import::read(&args.from, &wanted).map_err(Exit::import)?;
    let Imported { origin, network, .. } = &imported;
    let shape = network.image_shape();
    let names = class_names(&args.preparation, network)?;
    let preprocessing = args.preparation.over(network.preprocessing.as_ref(), usual(shape[1]), shape)?;
    let [channels, height, width] = shape;
    say!(
        "{} ({}): {}, {} parameters; {} classes of images {channels},{height},{width}",
        args.from.display(),
        origin.name(),
        network.graph.name,
        network.graph.parameter_count(),
        network.classes()
    );
    for note in &network.notes {
        say!("{note}");
    }
    let Preprocessing { crop_size, resize_short, normalize_scale, normalize_mean, normalize_std, .. } =
        &preprocessing;
    say!(
        "images are prepared with --resize-short {resize_short} --crop-size {crop_size} --normalize-scale {normalize_scale} --normalize-mean {} --normalize-std {}",
        list(normalize_mean),
        list(normalize_std)
    );
    if names.is_none() {
        say!(
            "its classes are named by their number; --classes FILE names them as the folders of the data do, which evaluating and quantizing want"
        );
    }
    let names = names.unwrap_or_else(|| (0..network.classes()).map(|i| i.to_string()).collect());
    let snapshot = imported.snapshot(names, preprocessing);
    let bytes = 4 * snapshot.graph.params.iter().map(|p| p.len() as u64).sum::<u64>();
    let folder = RunFolder::take(&args.output_dir, &host_name(), bytes, &|| false)
        .and_then(|folder| folder.admit(None, args.overwrite))
        .and_then(|mut folder| folder.save(&snapshot, &|| true))
        .map_err(not_written)?;
    let output = resume::quoted(&args.output_dir.to_string_lossy());
    say!("{}; to measure it: octrain eval --from-checkpoint {output} --image-root FOLDER", folder.display());
    Ok(EXIT_OK)
}

/// Why the checkpoint was not written: an import makes one, and goes on with none that is there.
fn not_written(e: CheckpointError) -> Exit {
    match e {
        CheckpointError::Occupied { path, why } => Exit::configuration(format!(
            "the output folder `{}` is taken: {why}; give another --output-dir, or --overwrite, which removes what is there once the new checkpoint is complete",
            path.display()
        )),
        e => Exit::checkpoint(e),
    }
}

/// Numbers as a flag takes them.
fn list(numbers: &[f32]) -> String {
    let texts: Vec<String> = numbers.iter().map(f32::to_string).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_cut_as_imagenet_s_are_whatever_their_side() {
        let of = |side| (usual(side).crop_size, usual(side).resize_short);
        assert_eq!([224, 32, 299].map(of), [(224, 256), (32, 37), (299, 342)]);
        assert_eq!(usual(224), Preprocessing::of(&DataSettings::default()));
        assert_eq!(list(&usual(224).normalize_std), "0.229,0.224,0.225");
    }
}
