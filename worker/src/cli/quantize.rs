//! `octrain quantize`: post-training quantization of a checkpoint, by the training path without a step: activation ranges
//! are calibrated on training images, accuracy is measured before and after, and what is saved is a checkpoint like any
//! of `octrain train --qat`.

use super::args::RunFlags;
use super::resume::{self, Again};
use super::worker::Work;
use super::{Exit, checkpoint_base, local};
use crate::config::{Given, OptimizerSettings};
use crate::launcher::{EXIT_OK, Restarts};
use crate::metrics::say;
use crate::trainer::{self, Job};
use anyhow::Result;
use clap::ArgMatches;

/// Arguments of `octrain quantize`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct QuantizeArgs {
    /// Settings; those not given are the checkpoint's.
    #[command(flatten)]
    pub flags: RunFlags,
}

/// Settings that belong to training, or that this command sets itself; those of the optimizer belong to training as well.
const OF_TRAINING: [&str; 16] = [
    "qat",
    "epochs",
    "max-steps",
    "run-scope",
    "benchmark",
    "qat-learn-scales",
    "qat-distill",
    "qat-distill-weight",
    "qat-distill-temperature",
    "qat-teacher",
    "qat-pass-through",
    "qat-observer-momentum",
    "qat-freeze-observers",
    "qat-freeze-bn",
    "from-pretrained-params",
    "allow-mismatch",
];

/// What is wrong with the flags that were given; none where nothing is.
fn misused(given: &Given) -> Option<String> {
    let optimizer = serde_json::to_value(OptimizerSettings::default()).unwrap_or_default();
    let of_optimizer = optimizer.as_object().into_iter().flat_map(|group| group.keys().map(String::as_str));
    if let Some(key) = OF_TRAINING.into_iter().chain(of_optimizer).find(|key| given.contains(*key)) {
        return Some(format!(
            "octrain quantize calibrates and does not train: leave --{key} out, or train with `octrain train --qat --from-pretrained-params FOLDER`"
        ));
    }
    (!given.contains("output-dir"))
        .then(|| "octrain quantize needs a folder for the quantized checkpoint: --output-dir FOLDER".into())
}

/// Runs the command.
pub fn main(args: &QuantizeArgs, matches: &ArgMatches) -> Result<u8> {
    let given = args.flags.checkpoint(matches)?;
    if let Some(message) = misused(&given.given) {
        return Err(Exit::configuration(message).into());
    }
    let path = given.folder.ok_or_else(|| {
        Exit::configuration("octrain quantize needs the checkpoint to quantize: --from-checkpoint FOLDER")
    })?;
    let (folder, manifest) = checkpoint_base::find(&path, given.which)?;
    if manifest.qat.is_some() {
        let message = format!(
            "{} is quantized already: export it, or give a floating-point checkpoint",
            folder.display()
        );
        return Err(Exit::configuration(message).into());
    }
    let base = checkpoint_base::settings(&manifest).with(|c| {
        c.quantization.qat = true;
        c.optimizer.model_ema = false;
        c.run.epochs = 0;
    });
    let (config, given) = args.flags.resolve(&base, matches)?;
    let config = checkpoint_base::on_its_data(config, &given, &folder, &manifest)?.with(|c| {
        c.checkpoints.from_checkpoint = None;
        c.checkpoints.last_epoch_of_checkpoint = None;
        c.checkpoints.from_pretrained_params = Some(folder.clone());
    });
    args.flags.show(&config)?;
    checkpoint_base::announce(&folder, &manifest);
    // What is taken as weights alone says neither which classes its outputs are nor what images it was made for.
    let job = Job::open(&config).map_err(Exit::of_run)?;
    trainer::same_task(&folder, &manifest, &config, &job).map_err(Exit::configuration)?;
    let again = Again { command: "octrain train".into(), needs: "" };
    let code = resume::with_continuation(
        local::run_opened(&config, &local::Own::default(), job, &Work::Run, Restarts::new(0)),
        &config,
        &again,
    )?;
    if code == EXIT_OK {
        say!(
            "quantized; the file for a runtime: octrain export --from-checkpoint {} --profile {} --output int8.onnx",
            resume::quoted(&config.run.output_dir.to_string_lossy()),
            config.quantization.target.name()
        );
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_training_are_refused_by_name_and_what_is_needed_is_asked_for() {
        let told = |keys: &[&str]| misused(&keys.iter().map(|k| k.to_string()).collect());
        assert_eq!(told(&["from-checkpoint", "output-dir", "target", "qat-observer"]), None);
        assert!(told(&["from-checkpoint", "output-dir", "lr"]).unwrap().contains("leave --lr out"));
        assert!(told(&["from-checkpoint", "output-dir", "epochs"]).unwrap().contains("leave --epochs out"));
        assert!(told(&["from-checkpoint"]).unwrap().contains("--output-dir"));
        // Every key is a setting.
        let settings = serde_json::to_value(crate::config::RunConfig::default()).unwrap();
        assert!(OF_TRAINING.iter().all(|key| settings.get(key).is_some()));
    }
}
