//! `octrain analyze`: which layers quantization hurts, why, and which to leave in floating point.

use super::args::Tolerance;
use super::{Exit, checkpoint_base, output};
use crate::analyze::{AnalyzeError, Network, Placement, Ranges, Report, Subject, html, propose};
use crate::checkpoint::{self, Manifest, Snapshot};
use crate::config::{Augmentation, CheckpointChoice, RunConfig};
use crate::data::{DataConfig, Dataset, EvalLoader, Geometry, Names, Sharding, Split, Wanted};
use crate::metrics::{ReportFile, print, say};
use crate::strategy::Target;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `octrain analyze`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct AnalyzeArgs {
    /// Checkpoint folder, or a folder of checkpoints; one trained without --qat is calibrated on training images first.
    #[arg(long, value_name = "FOLDER")]
    pub from_checkpoint: PathBuf,
    /// `auto` (the furthest), `best` (that of the highest top-1) or a number of epochs.
    #[arg(long, value_name = "WHICH")]
    pub last_epoch_of_checkpoint: Option<CheckpointChoice>,
    /// `digits`, or a folder with `train/<class>/` and `val/<class>/`; not given: the data of the checkpoint.
    #[arg(long, value_name = "DATA")]
    pub image_root: Option<String>,
    /// What may be wrong with it.
    #[command(flatten)]
    pub tolerance: Tolerance,
    /// Runtime whose placement rules hold; not given: that of the checkpoint.
    #[arg(long, value_enum)]
    pub target: Option<Target>,
    /// Nodes left in floating point from the start (names, `*` as wildcard); not given: those of the checkpoint.
    #[arg(long, value_delimiter = ',', value_name = "PATTERNS")]
    pub qat_skip: Option<Vec<String>>,
    /// Validation images, evenly spread over the set.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_images: usize,
    /// Images of a batch; the outputs of all layers are held at once.
    #[arg(long, default_value_t = 32)]
    pub batch_size: usize,
    /// Points of top-1 that quantization may cost; layers to skip are proposed for it.
    #[arg(long, value_name = "POINTS", allow_negative_numbers = true, default_value_t = 1.0)]
    pub max_accuracy_loss: f64,
    /// Also measure the network with everything but one layer quantized, for each layer.
    #[arg(long)]
    pub leave_one_out: bool,
    /// Compute threads (0: libtorch chooses).
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// JSON lines of results.
    #[arg(long, value_name = "FILE")]
    pub report_file: Option<PathBuf>,
    /// A page with the figures of every layer, as plots and histograms.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

fn check(args: &AnalyzeArgs) -> Result<(), Exit> {
    for (flag, value) in [("--batch-size", args.batch_size), ("--max-images", args.max_images)] {
        if value == 0 {
            return Err(Exit::configuration(format!("{flag} is 0; at least one image is needed")));
        }
    }
    if !(args.max_accuracy_loss >= 0.0 && args.max_accuracy_loss.is_finite()) {
        let message =
            format!("--max-accuracy-loss is {}; it is a number of points, 0 or more", args.max_accuracy_loss);
        return Err(Exit::configuration(message));
    }
    Ok(())
}

fn failed(e: AnalyzeError) -> anyhow::Error {
    if e.is_configuration() { Exit::configuration(e).into() } else { e.into() }
}

/// The checkpoint's data, prepared as it is for evaluation.
struct Images {
    run: RunConfig,
    classes: Vec<String>,
}

impl Images {
    fn open(&self, split: Split) -> Result<Arc<Dataset>> {
        let run = &self.run;
        let names = Names::Known {
            names: &self.classes,
            whose: "the checkpoint",
            remedy: "give the data it was trained on, or data with the same classes (--image-root); where the data only lacks some of them, --allow-missing-classes measures on the others",
        };
        let data = Dataset::open(split, &Wanted { names, ..Wanted::of(&run.model, &run.data) });
        let data = data.map_err(|e| Exit::of_run(e.into()))?;
        tracing::info!("{}", data.found);
        Ok(Arc::new(data))
    }

    fn config(&self, batch: usize) -> DataConfig {
        DataConfig {
            geometry: Geometry::new(&self.run.data, self.run.model.image_shape[0]),
            sharding: Sharding::alone(batch),
            seed: self.run.run.seed,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            max_corrupt: self.run.data.max_corrupt_images,
        }
    }
}

/// Ranges that the checkpoint does not have, from training images as `octrain train --qat` takes them.
fn ranges(network: &Network, images: &Images) -> Result<Ranges> {
    if network.weights.ranges_host()?.iter().all(Option::is_some) {
        return Ok(Ranges::Checkpoint);
    }
    let run = &images.run;
    if run.quantization.qat_calibration_images == 0 {
        let message = "the checkpoint has no activation ranges and its --qat-calibration-images is 0, so none can be calibrated: train with --qat from it first";
        return Err(Exit::configuration(message).into());
    }
    let data = images.open(Split::Train)?;
    let config = images.config(run.data.batch_size);
    let done = network.calibrate(|| {
        Ok(EvalLoader::calibration(
            data.clone(),
            config.clone(),
            run.quantization.qat_calibration_images as usize,
        )?
        .0)
    });
    Ok(match done.map_err(failed)? {
        Some((ranges, images)) => Ranges::Calibrated { images, ranges },
        None => Ranges::Checkpoint,
    })
}

/// The checkpoint's configuration with this command's flags; whether it was trained with --qat does not matter.
fn configuration(args: &AnalyzeArgs, folder: &Path, manifest: &Manifest) -> Result<RunConfig, Exit> {
    let image_root = checkpoint_base::data(args.image_root.as_deref(), folder, manifest)?;
    Ok(checkpoint_base::settings_of(manifest).with(|c| {
        c.quantization.qat = true;
        c.quantization.target = args.target.unwrap_or(c.quantization.target);
        if let Some(skip) = &args.qat_skip {
            c.quantization.qat_skip = skip.clone();
        }
        c.data.val_fraction =
            checkpoint_base::val_fraction(args.tolerance.val_fraction, &image_root, manifest);
        c.data.image_root = image_root;
        c.data.augmentation = Augmentation::None;
        c.data.allow_missing_classes |= args.tolerance.allow_missing_classes;
        c.data.max_corrupt_images = args.tolerance.max_corrupt_images.or(c.data.max_corrupt_images);
    }))
}

/// Runs the command.
pub fn main(args: &AnalyzeArgs) -> Result<u8> {
    args.html.iter().try_for_each(|path| output::ensure_folder("--html", path))?;
    check(args)?;
    if let Ok(threads @ 1..) = i32::try_from(args.threads) {
        tch::set_num_threads(threads);
    }
    let (folder, manifest) = checkpoint_base::find(&args.from_checkpoint, args.last_epoch_of_checkpoint)?;
    checkpoint_base::announce(&folder, &manifest);
    let Snapshot { graph, model: state, .. } = checkpoint::load(&folder).map_err(Exit::checkpoint)?;
    let run = configuration(args, &folder, &manifest)?;
    let images = Images { run: run.clone(), classes: manifest.class_names.clone() };
    let val = images.open(Split::Val)?;
    // `configuration` asks for quantization, so that there is a recipe.
    let strategy = run.strategy().deployed(Some(run.quantization.target)).unwrap_or_default();
    let placement = Placement { graph, strategy };
    let network = Network::new(placement, &state).map_err(failed)?;
    let subject = Subject {
        model: manifest.model.clone(),
        checkpoint: folder.display().to_string(),
        target: run.quantization.target.name().into(),
        weight_bits: run.quantization.qat_weight_bits,
        skip: run.quantization.qat_skip.clone(),
        ranges: ranges(&network, &images)?,
    };
    let loader = || EvalLoader::new(val.clone(), images.config(args.batch_size), Some(args.max_images));
    tracing::info!("quantizing {} layers one by one", network.layers().len());
    let survey = network.survey(loader()?, args.leave_one_out).map_err(failed)?;
    let mut report = Report::new(subject, survey, args.max_accuracy_loss);
    let proposal =
        propose(report.top1_float, report.top1_quantized, report.budget, &report.ranked(), |skip| {
            tracing::info!("everything quantized but {}", skip.join(", "));
            network.top1_skipping(skip, loader()?)
        });
    report.proposal = Some(proposal.map_err(failed)?);
    print(report.text())?;
    if let Some(path) = &args.report_file {
        let mut file = ReportFile::open(path, false)?;
        report.json().iter().try_for_each(|line| file.write(line))?;
    }
    if let Some(path) = &args.html {
        output::write("--html", path, html(&report).as_bytes())?;
        say!("{}", path.display());
    }
    Ok(0)
}
