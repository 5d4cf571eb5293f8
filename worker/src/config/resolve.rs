//! Defaults, then the file, then the flags: the later wins.

use super::effect::{effective, given_in_vain};
use super::numbers::numbers;
use super::table::{Unfit, complete, read, table};
use super::{CheckpointChoice, ConfigError, Given, RunConfig};
use clap::ArgMatches;
use clap::parser::ValueSource;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What to say of a key that no flag has: those it may have been meant for, the nearest first.
fn unknown<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    /// More would not be read.
    const NAMED: usize = 3;
    /// Below this, two words have little in common (Jaro's similarity goes from 0 to 1).
    const ALIKE: f64 = 0.7;
    let plain = key.replace('_', "-").to_lowercase();
    let mut near: Vec<(f64, &str)> =
        known.map(|k| (strsim::jaro_winkler(&plain, k), k)).filter(|(near, _)| *near > ALIKE).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let names: Vec<String> = near.iter().take(NAMED).map(|(_, name)| format!("`{name}`")).collect();
    match names.is_empty() {
        true => format!(
            "there is no setting `{key}`; its keys are the flags of `octrain train --help` without the dashes"
        ),
        false => format!("there is no setting `{key}`; did you mean {}?", names.join(" or ")),
    }
}

/// Settings of a TOML file over the defaults.
fn over_defaults(given: Vec<(String, toml::Value)>) -> Result<RunConfig, String> {
    let mut all = toml::Table::try_from(RunConfig::default()).map_err(|e| e.to_string())?;
    all.extend(given);
    complete(toml::Value::Table(all)).map_err(|e| e.to_string())
}

/// Keys and values of a TOML file, checked against the settings there are.
fn read_file(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    let wrong = |why: String| ConfigError::File { path: path.into(), why };
    let keys: BTreeMap<String, toml::Spanned<toml::Value>> =
        toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let known = table(&RunConfig::default());
    if let Some(key) = keys.keys().find(|key| !known.contains_key(*key)) {
        return Err(wrong(unknown(key, known.keys().map(String::as_str))));
    }
    // Read twice: once for the checks and their messages, once for the keys that are there.
    let given: toml::Table = keys.iter().map(|(k, value)| (k.clone(), value.get_ref().clone())).collect();
    let config = read(given.clone().into_iter().collect(), over_defaults).map_err(|Unfit { key, why }| {
        let begins = keys.get(&key).map_or(0, |value| value.span().start);
        wrong(format!("line {}, `{key}`: {}", text[..begins].lines().count().max(1), why.trim_end()))
    })?;
    // Before they are merged: what JSON has no word for, NaN and infinity, would get lost on the way.
    numbers(&config).map_err(|e| wrong(e.to_string()))?;
    match serde_json::to_value(given) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(wrong("it is not a table".into())),
        Err(e) => Err(wrong(e.to_string())),
    }
}

/// The keys and values that were given.
struct Overrides {
    file: Map<String, Value>,
    flags: Map<String, Value>,
}

impl Overrides {
    fn read(file: Option<&Path>, parsed: &RunConfig, matches: &ArgMatches) -> Result<Self, ConfigError> {
        let file = file.map(read_file).transpose()?.unwrap_or_default();
        let on_the_line =
            |key: &str| matches.value_source(&key.replace('-', "_")) == Some(ValueSource::CommandLine);
        let flags = table(parsed).into_iter().filter(|(key, _)| on_the_line(key)).collect();
        Ok(Self { file, flags })
    }

    /// `base`, then the file, then the flags.
    fn over(&self, base: &RunConfig) -> Result<RunConfig, ConfigError> {
        let mut all = table(base);
        all.extend(self.file.clone());
        all.extend(self.flags.clone());
        complete(Value::Object(all)).map_err(|e| ConfigError::Invalid(e.to_string()))
    }
}

/// The checkpoint that was given, by flags or by a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenCheckpoint {
    /// Its folder, or one of several.
    pub folder: Option<PathBuf>,
    /// Which of several.
    pub which: Option<CheckpointChoice>,
    /// All settings that were given.
    pub given: Given,
}

/// The checkpoint a command is about, by the file and the flags, which win, before anything is resolved: it may bring the
/// base.
pub fn given_checkpoint(
    file: Option<&Path>,
    parsed: &RunConfig,
    matches: &ArgMatches,
) -> Result<GivenCheckpoint, ConfigError> {
    // What is no number has no place in a table.
    numbers(parsed)?;
    let overrides = Overrides::read(file, parsed, matches)?;
    let named = overrides.over(&RunConfig::default())?.checkpoints;
    let given = overrides.file.into_iter().chain(overrides.flags).map(|(key, _)| key).collect();
    Ok(GivenCheckpoint { folder: named.from_checkpoint, which: named.last_epoch_of_checkpoint, given })
}

/// Resolves one configuration: `base` (defaults, or a checkpoint's configuration), then the TOML file, then the
/// flags given on the command line. Returns it, validated, with the keys that were given. What was given and has no effect is
/// an error; what of `base` has none is as it is by default.
///
/// `parsed` and `matches` are clap's two views of the same command line.
pub fn resolve(
    base: &RunConfig,
    file: Option<&Path>,
    parsed: &RunConfig,
    matches: &ArgMatches,
) -> Result<(RunConfig, Given), ConfigError> {
    numbers(parsed)?;
    let overrides = Overrides::read(file, parsed, matches)?;
    let config = overrides.over(base)?;
    if let Some(vain) = given_in_vain(&config, &overrides.file, &overrides.flags) {
        return Err(vain);
    }
    let mut config = effective(&config);
    let given: Given = overrides.file.into_iter().chain(overrides.flags).map(|(key, _)| key).collect();
    follow(&mut config, &given);
    super::validate::validate(&config)?;
    Ok((config, given))
}

/// Settings that follow others where nobody said otherwise: no minimum is above the number of workers, the crop is the image, and evaluation resizes to
/// 8/7 of it (none for small images), as 256 is to 224.
fn follow(config: &mut RunConfig, given: &Given) {
    let changed = |key: &str| given.contains(key);
    // A checkpoint's minimum was one of its run's workers.
    if changed("nproc") && !changed("min-world") {
        config.machine.min_world = config.machine.min_world.map(|n| n.min(config.machine.nproc));
    }
    if changed("image-shape") && !changed("crop-size") {
        config.data.crop_size = config.model.image_shape[1];
    }
    if changed("crop-size") && !changed("image-shape") {
        config.model.image_shape =
            [config.model.image_shape[0], config.data.crop_size, config.data.crop_size];
    }
    if (changed("image-shape") || changed("crop-size")) && !changed("resize-short") {
        config.data.resize_short =
            if config.data.crop_size <= 64 { config.data.crop_size } else { config.data.crop_size * 8 / 7 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches};

    fn run(args: &[&str], file: Option<&str>) -> Result<(RunConfig, Given), ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        let matches = RunConfig::augment_args(Command::new("x").args_override_self(true))
            .no_binary_name(true)
            .try_get_matches_from(args)
            .unwrap();
        let parsed = RunConfig::from_arg_matches(&matches).unwrap();
        resolve(&RunConfig::default(), file.map(|_| path.as_path()), &parsed, &matches)
    }

    #[test]
    fn the_flags_defaults_are_the_configurations() {
        let (config, given) = run(&[], None).unwrap();
        assert_eq!(config, RunConfig::default());
        assert!(given.is_empty());
        let matches =
            RunConfig::augment_args(Command::new("x")).no_binary_name(true).get_matches_from([""; 0]);
        assert_eq!(RunConfig::from_arg_matches(&matches).unwrap(), RunConfig::default());
    }

    #[test]
    fn every_key_is_a_flag_of_the_same_name() {
        let command = RunConfig::augment_args(Command::new("x"));
        for key in table(&RunConfig::default()).keys() {
            assert!(command.get_arguments().any(|a| a.get_long() == Some(key)), "--{key}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_last_flag_over_the_first() {
        let file = "lr = 0.5\nqat = true\nimage-shape = [3, 32, 32]\nqat-skip = [\"conv1\"]\n";
        let (config, given) = run(&["--lr", "0.1", "--lr", "0.2", "--amp"], Some(file)).unwrap();
        assert_eq!(
            (config.optimizer.lr, config.quantization.qat, config.precision.amp),
            (0.2, true, crate::strategy::Amp::Fp16)
        );
        assert_eq!((config.data.crop_size, config.data.resize_short), (32, 32));
        assert_eq!(config.quantization.qat_skip, ["conv1"]);
        assert!(given.contains("lr") && given.contains("qat") && !given.contains("momentum"));
        assert!(!run(&["--qat", "no"], Some(file)).unwrap().0.quantization.qat);
    }

    #[test]
    fn a_checkpoint_s_minimum_of_workers_is_no_more_than_there_are() {
        let base = RunConfig::default().with(|c| (c.machine.nproc, c.machine.min_world) = (4, Some(3)));
        let command = || RunConfig::augment_args(Command::new("x")).no_binary_name(true);
        let of = |line: &[&str]| {
            let matches = command().get_matches_from(line);
            let parsed = RunConfig::from_arg_matches(&matches).unwrap();
            resolve(&base, None, &parsed, &matches).map(|(config, _)| config.machine.min_world)
        };
        assert_eq!(of(&["--nproc", "2"]).unwrap(), Some(2));
        assert_eq!(of(&["--nproc", "8"]).unwrap(), Some(3));
        assert!(of(&["--nproc", "2", "--min-world", "3"]).is_err());
    }

    #[test]
    fn numbers_that_are_none_are_named_from_flags_and_from_files() {
        for (flag, value) in [
            ("--lr", "nan"),
            ("--lr", "inf"),
            ("--lr", "-1"),
            ("--weight-decay", "-0.1"),
            ("--warmup-epochs", "NaN"),
            ("--qat-percentile", "nan"),
            ("--normalize-std", "1,-1,1"),
        ] {
            let told = run(&[flag, value], None).unwrap_err().to_string();
            assert!(told.starts_with(&format!("{flag} is ")), "{flag} {value}: {told}");
        }
        for value in ["nan", "-1", "inf", "-inf"] {
            let told = run(&[], Some(&format!("lr = {value:?}").replace('"', ""))).unwrap_err().to_string();
            assert!(told.contains("run.toml") && told.contains("--lr is "), "{told}");
        }
        assert_eq!(run(&["--normalize-mean", "-1,0,0"], None).unwrap().0.data.normalize_mean[0], -1.0);
    }

    #[test]
    fn what_is_given_and_has_no_effect_is_refused_by_name() {
        let adamw = ["--optimizer", "adamw"];
        for (args, want) in [
            (&["--target", "tensorrt"][..], "--target is part of quantization-aware training: say --qat too"),
            // Though it is what it is by default.
            (&["--target", "openvino"], "--target is part of"),
            (&["--qat-weight-bits", "7", "--qat", "false"], "--qat-weight-bits is part of"),
            (&["--qat-pass-through"], "--qat-pass-through is part of"),
            (&[adamw[0], adamw[1], "--momentum", "0.9"], "--momentum is part of the update rule sgd"),
            (&["--adam-beta1", "0.9"], "--adam-beta1 is part of the update rule adamw"),
            (&["--qat", "--qat-distill-weight", "0.4"], "--qat-distill too"),
            (&["--qat", "--qat-observer", "mse", "--qat-percentile", "99"], "--qat-observer percentile"),
            (&["--qat", "--qat-learn-scales", "--qat-pass-through"], "--qat-pass-through has no effect"),
        ] {
            let told = run(args, None).unwrap_err().to_string();
            assert!(told.contains(want), "{want} in {told}");
        }
        for (file, want) in [
            ("target = \"tensorrt\"", "--target is part of"),
            ("qat = false\nqat-skip = [\"fc\"]", "--qat-skip is part of"),
            ("optimizer = \"adamw\"\nmomentum = 0.5", "--momentum is part of"),
            ("adam-epsilon = 1.0", "--adam-epsilon is part of"),
        ] {
            let told = run(&[], Some(file)).unwrap_err().to_string();
            assert!(told.contains(want), "{want} in {told}");
        }
    }

    #[test]
    fn a_flag_puts_out_what_a_file_has_lit_and_what_is_printed_is_read_back() {
        let file = "qat = true\nqat-skip = [\"fc\"]\nqat-learn-scales = true\nmomentum = 0.5\n";
        let (config, _) = run(&["--qat", "false", "--optimizer", "adamw"], Some(file)).unwrap();
        let want = RunConfig::default().with(|c| c.optimizer.optimizer = super::super::Optimizer::Adamw);
        assert_eq!(config, want);
        for (args, file) in [
            (&["--qat", "false", "--optimizer", "adamw"][..], Some(file)),
            (&["--qat", "--target", "tensorrt", "--momentum", "0.5"], None),
            (&[], None),
        ] {
            let config = run(args, file).unwrap().0;
            let printed = toml::to_string(&config).unwrap();
            assert_eq!(run(&[], Some(&printed)).unwrap().0, config, "{printed}");
        }
        // A file may say 4 for 4.0.
        run(&[], Some("qat-distill-temperature = 4")).unwrap();
    }

    #[test]
    fn what_a_checkpoint_has_and_has_no_effect_is_no_error() {
        let base = RunConfig::default().with(|c| {
            c.quantization.qat_weight_bits = 7;
            c.optimizer.adam_beta1 = 0.8;
        });
        let matches =
            RunConfig::augment_args(Command::new("x")).no_binary_name(true).get_matches_from([""; 0]);
        let parsed = RunConfig::from_arg_matches(&matches).unwrap();
        let (config, _) = resolve(&base, None, &parsed, &matches).unwrap();
        assert_eq!(config, RunConfig::default());
    }

    #[test]
    fn a_file_with_parts_of_a_recipe_that_is_not_on_is_refused() {
        for (file, want) in [
            ("qat-distill = true", "--qat-distill is part of quantization-aware training: say --qat too"),
            ("qat-learn-scales = true\nqat = false", "--qat-learn-scales is part of quantization-aware"),
            ("epochs = 0", "calibrates only (post-training quantization) and needs --qat"),
            ("qat = true\nqat-weight-bits = 4", "--qat-weight-bits is 4"),
        ] {
            let why = run(&[], Some(file)).unwrap_err().to_string();
            assert!(why.contains(want), "{want} in {why}");
        }
        run(&[], Some("qat = true\nqat-distill = true\nqat-learn-scales = true\nepochs = 0")).unwrap();
    }

    #[test]
    fn a_file_with_a_misspelt_key_or_a_wrong_value_is_refused_by_name() {
        for (file, want) in [
            ("learning-rate = 1", "learning-rate"),
            ("seed = 1\nlr = \"fast\"", "line 2, `lr`: invalid type: string \"fast\""),
            ("image-shape = [3, 32]", "line 1, `image-shape`: invalid length 2"),
            ("lr = ", "lr"),
        ] {
            let e = run(&[], Some(file)).unwrap_err().to_string();
            assert!(e.contains("run.toml") && e.contains(want), "{e}");
        }
        for (key, want) in [
            ("batchsize", "`batch-size`"),
            ("batch_size", "`batch-size`"),
            ("wieght-decay", "`weight-decay`"),
            ("epoch", "`epochs`"),
            ("xyzzy", "octrain train --help"),
        ] {
            let e = run(&[], Some(&format!("{key} = 1"))).unwrap_err().to_string();
            assert!(e.contains(&format!("`{key}`")) && e.contains(want), "{want} in {e}");
            assert!(e.matches('`').count() <= 10 && !e.contains('\n'), "a few are named: {e}");
        }
    }
}
