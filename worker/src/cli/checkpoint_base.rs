//! Commands that work on a checkpoint take what it says of itself (network, classes, preprocessing, strategy), and the rest,
//! as where its data is, from the settings of the run that wrote it.

use super::Exit;
use crate::checkpoint::{self, CheckpointError, Manifest, Origin, Which};
use crate::config::{CheckpointChoice, Given, RunConfig, RunScope};
use crate::metrics::say;
use std::path::{Path, PathBuf};

/// Finds a checkpoint; `which` of several, the furthest where nothing is said.
pub fn find(path: &Path, which: Option<CheckpointChoice>) -> Result<(PathBuf, Manifest), Exit> {
    if which == Some(CheckpointChoice::StartOver) {
        let message = "--last-epoch-of-checkpoint none starts a training anew; here it is `auto`, `best` or a number of epochs";
        return Err(Exit::configuration(message));
    }
    read(path, which.into()).map_err(Exit::checkpoint)
}

/// Finds a checkpoint and reads what is in its manifest.
pub fn read(path: &Path, which: Which) -> Result<(PathBuf, Manifest), CheckpointError> {
    let folder = checkpoint::find(path, which)?;
    let manifest = checkpoint::load_manifest(&folder)?;
    match own_passes(&manifest) {
        Some(why) => {
            Err(CheckpointError::Foreign { path: folder, wanted: "a checkpoint of this program", why })
        }
        None => Ok((folder, manifest)),
    }
}

/// The passes of a program's own that a checkpoint was trained with, for people: what only that program can run again.
fn own_passes(manifest: &Manifest) -> Option<String> {
    let own = manifest.own_passes();
    (!own.is_empty()).then(|| {
        format!(
            "its graph was made with passes of another program's own ({}), which are not known here; evaluate and export it in that program (Program::restore, Program::export)",
            own.join(", ")
        )
    })
}

/// Says which checkpoint was taken, of which run, how far and how good it is, in one line.
pub fn announce(folder: &Path, manifest: &Manifest) {
    let averaged =
        if manifest.averaged() { "; its weights are the average of those that were trained" } else { "" };
    say!("checkpoint {}: {}{averaged}", folder.display(), Origin::of(folder, manifest));
    if let Some(why) = &manifest.unread {
        tracing::warn!("the settings of its run cannot be read, and defaults stand in their place: {why}");
    }
    if let Some(left_out) = manifest.left_out() {
        tracing::warn!("{left_out}");
    }
}

/// The settings of a checkpoint's run, with the checkpoint's own facts in their place; defaults besides those where no run
/// wrote it.
pub fn settings_of(manifest: &Manifest) -> RunConfig {
    manifest.over(&manifest.config.clone().unwrap_or_default())
}

/// Data that is told, or that of a checkpoint's run.
pub fn data(told: Option<&str>, folder: &Path, manifest: &Manifest) -> Result<String, Exit> {
    match (told, &manifest.config) {
        (Some(root), _) => Ok(root.into()),
        (None, Some(config)) => Ok(config.data.image_root.clone()),
        (None, None) => Err(no_data(folder)),
    }
}

/// The part of one folder of classes that is held out for validation on the data `root`: what is told, else, on the data of
/// the checkpoint's run, what that held out, and on other data nothing.
pub fn val_fraction(told: Option<f64>, root: &str, manifest: &Manifest) -> f64 {
    let own = manifest.config.as_ref().map(|run| &run.data).filter(|data| data.image_root == root);
    told.or(own.map(|data| data.val_fraction)).unwrap_or(0.0)
}

/// A configuration that was resolved over a checkpoint's, for measuring on the data that it names.
///
/// # Errors
/// Where neither the settings of the checkpoint's run nor what was `given` says which data that is.
pub fn on_its_data(
    config: RunConfig,
    given: &Given,
    folder: &Path,
    manifest: &Manifest,
) -> Result<RunConfig, Exit> {
    if manifest.config.is_none() && !given.contains("image-root") {
        return Err(no_data(folder));
    }
    let told = given.contains("val-fraction").then_some(config.data.val_fraction);
    Ok(config.with(|c| c.data.val_fraction = val_fraction(told, &c.data.image_root, manifest)))
}

fn no_data(folder: &Path) -> Exit {
    Exit::configuration(format!(
        "{} does not say which data it is for, as it holds no settings of a run: give --image-root",
        folder.display()
    ))
}

/// A checkpoint's configuration for evaluating it here.
pub fn for_evaluation(folder: &Path, manifest: &Manifest) -> RunConfig {
    let new = RunConfig::default();
    settings_of(manifest).with(|c| {
        c.run.run_scope = RunScope::EvalOnly;
        c.checkpoints.from_checkpoint = Some(folder.into());
        c.checkpoints.last_epoch_of_checkpoint = None;
        c.checkpoints.from_pretrained_params = None;
        c.run.report_file = None;
        c.run.trace_file = None;
        c.data.global_batch_size = None;
        c.machine.nproc = new.machine.nproc;
        c.machine.min_world = new.machine.min_world;
        c.machine.device = new.machine.device;
        c.machine.threads = new.machine.threads;
        c.run.benchmark = false;
        c.run.checks = false;
        c.checkpoints.overwrite = false;
    })
}

/// What a checkpoint was trained with, for trainings of their own that start from its weights.
pub fn settings(manifest: &Manifest) -> RunConfig {
    let new = RunConfig::default();
    settings_of(manifest).with(|c| {
        c.run.output_dir = new.run.output_dir;
        c.run.report_file = None;
        c.run.trace_file = None;
        c.run.run_scope = RunScope::TrainEval;
        c.run.max_steps = 0;
        c.run.benchmark = false;
        c.run.checks = false;
        c.quantization.qat = false;
        c.checkpoints.from_checkpoint = None;
        c.checkpoints.last_epoch_of_checkpoint = None;
        c.checkpoints.from_pretrained_params = None;
        // It was said of the weights that training started from, not of this checkpoint's.
        c.checkpoints.allow_mismatch = false;
        c.checkpoints.overwrite = false;
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Preprocessing;
    use crate::models;
    use crate::strategy::{Amp, Qat, Strategy, Target};

    fn manifest(strategy: Strategy) -> Manifest {
        let graph = models::build("ResNet20", [3, 32, 32], 2).unwrap();
        let told = Preprocessing {
            crop_size: 32,
            resize_short: 40,
            normalize_scale: 1.0,
            normalize_mean: [9.0; 3],
            normalize_std: [3.0; 3],
        };
        Manifest::new(&graph, vec!["a".into(), "b".into()], told, strategy)
    }

    #[test]
    fn what_a_checkpoint_says_of_itself_wins_over_the_settings_of_its_run() {
        let qat = Some(Qat { target: Target::Tensorrt, skip: vec!["fc".into()], ..Qat::default() });
        let strategy = Strategy { amp: Amp::Bf16, qat, ..Strategy::default() };
        let mut manifest = manifest(strategy.clone());
        let other = RunConfig::default().with(|c| (c.data.batch_size, c.run.seed) = (7, 3));
        for config in [None, Some(other)] {
            manifest.config = config;
            let told = for_evaluation(Path::new("run/1"), &manifest);
            assert_eq!(told.strategy(), strategy);
            assert_eq!(Preprocessing::of(&told.data), manifest.preprocessing);
            assert_eq!(
                (told.model.model_arch_name.as_str(), told.model.image_shape),
                ("ResNet20", [3, 32, 32])
            );
            let besides = manifest.config.clone().unwrap_or_default();
            assert_eq!((told.data.batch_size, told.run.seed), (besides.data.batch_size, besides.run.seed));
        }
        assert_eq!(settings(&manifest).strategy().qat, None);
    }

    #[test]
    fn what_its_run_has_written_is_not_written_to_again() {
        let mut manifest = manifest(Strategy::default());
        let places = |c: &mut RunConfig| (c.run.report_file.take(), c.run.trace_file.take());
        manifest.config = Some(RunConfig::default().with(|c| {
            c.run.report_file = Some("report.jsonl".into());
            c.run.trace_file = Some("trace.json".into());
        }));
        for mut made in [for_evaluation(Path::new("run/1"), &manifest), settings(&manifest)] {
            assert_eq!(places(&mut made), (None, None));
        }
    }

    #[test]
    fn without_settings_somebody_must_say_which_data_it_is_for() {
        let mut manifest = manifest(Strategy::default());
        let folder = Path::new("run/1");
        let why = data(None, folder, &manifest).unwrap_err().message;
        assert!(why.contains("run/1") && why.contains("--image-root"), "{why}");
        assert_eq!(data(Some("d"), folder, &manifest).unwrap(), "d");
        let run = RunConfig::default();
        let on = |given: &Given, manifest: &Manifest| on_its_data(run.clone(), given, folder, manifest);
        assert!(on(&Given::default(), &manifest).is_err());
        assert!(on(&Given::from(["image-root".to_string()]), &manifest).is_ok());
        manifest.config = Some(RunConfig::default());
        assert_eq!(data(None, folder, &manifest).unwrap(), "digits");
        assert!(on(&Given::default(), &manifest).is_ok());
    }

    #[test]
    fn what_is_held_out_is_told_or_that_of_the_run_on_its_own_data() {
        let mut manifest = manifest(Strategy::default());
        assert_eq!([None, Some(0.5)].map(|told| val_fraction(told, "a", &manifest)), [0.0, 0.5]);
        let run =
            RunConfig::default().with(|c| (c.data.image_root, c.data.val_fraction) = ("a".into(), 0.25));
        manifest.config = Some(run.clone());
        assert_eq!(["a", "b"].map(|root| val_fraction(None, root, &manifest)), [0.25, 0.0]);
        assert_eq!(["a", "b"].map(|root| val_fraction(Some(0.0), root, &manifest)), [0.0; 2]);
        let held_out = |root: &str, given: &[&str]| {
            let config = run.clone().with(|c| c.data.image_root = root.into());
            let given = given.iter().map(|key| key.to_string()).collect();
            on_its_data(config, &given, Path::new("run/1"), &manifest).unwrap().data.val_fraction
        };
        assert_eq!((held_out("a", &[]), held_out("b", &["image-root"])), (0.25, 0.0));
        assert_eq!(held_out("b", &["image-root", "val-fraction"]), 0.25);
    }

    #[test]
    fn to_start_anew_is_no_choice_of_a_checkpoint() {
        let told = find(Path::new("run"), Some(CheckpointChoice::StartOver)).unwrap_err();
        assert!(told.code == 2 && told.message.contains("starts a training anew"), "{}", told.message);
    }

    #[test]
    fn passes_that_only_another_program_has_are_named() {
        let mut manifest = manifest(Strategy::default());
        assert_eq!(own_passes(&manifest), None);
        manifest.passes.insert(1, "linearise".into());
        assert!(own_passes(&manifest).unwrap().contains("(linearise)"));
    }
}
