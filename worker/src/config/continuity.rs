//! Whether two configurations describe the same training.

use super::effect::inert_keys;
use super::table::table;
use super::{Given, RunConfig};
use serde_json::Value;

/// Settings that may differ from start to start of one run: where things are, how far it goes, how it is spread over
/// machines, what is told. How gradients go between them (`bucket-mib`, `reduce-dtype`) changes by rounding what is learnt, as
/// their number does, and as what a forward is computed on (`qat-int8-forward`). The global batch is among them because the manifest holds it; see `trainer::begin`.
const FREE: &[&str] = &[
    "output-dir",
    "report-file",
    "trace-file",
    "run-scope",
    "epochs",
    "save-interval",
    "save-interval-steps",
    "eval-interval",
    "print-interval",
    "max-steps",
    "benchmark",
    "benchmark-steps",
    "benchmark-warmup-steps",
    "checks",
    "deterministic",
    // The classes themselves are compared by name.
    "num-of-class",
    "global-batch-size",
    "data-threads",
    "max-corrupt-images",
    "allow-missing-classes",
    "from-checkpoint",
    "last-epoch-of-checkpoint",
    "from-pretrained-params",
    "allow-mismatch",
    "overwrite",
    "qat-teacher",
    "qat-int8-forward",
    "device",
    "nproc",
    "min-world",
    "threads",
    "bucket-mib",
    "reduce-dtype",
];

/// Takes from a stored configuration a setting that has the default of an earlier release.
type TakeOver = fn(stored: &RunConfig, mine: &mut RunConfig);

/// Settings whose default has changed since the first release: a run that was started with the earlier one goes on with
/// it where nobody says otherwise. A line is added whenever a default changes.
const FORMER_DEFAULTS: &[(&str, TakeOver)] = &[
    // 4 channels, whatever the size of the image.
    ("image-shape", |stored, mine| {
        if stored.model.image_shape[0] == 4 {
            mine.model.image_shape[0] = 4;
        }
    }),
    // Without a bound for short runs.
    ("warmup-epochs", |stored, mine| {
        if stored.optimizer.warmup_epochs == Some(5.0) {
            mine.optimizer.warmup_epochs = stored.optimizer.warmup_epochs;
        }
    }),
    // Unsigned codes ended at 127.
    ("qat-reduce-range", |stored, mine| {
        if stored.quantization.qat_reduce_range {
            mine.quantization.qat_reduce_range = true;
        }
    }),
];

/// `mine`, with the defaults of the release that started the run in place of today's wherever they were not given; `mine`
/// as it is where that does not make it the same training.
pub fn with_former_defaults(stored: &RunConfig, mine: &RunConfig, given: &Given) -> RunConfig {
    let mut candidate = mine.clone();
    FORMER_DEFAULTS
        .iter()
        .filter(|(key, _)| !given.contains(*key))
        .for_each(|(_, take_over)| take_over(stored, &mut candidate));
    if unlike(stored, &candidate, true).is_empty() { candidate } else { mine.clone() }
}

/// Settings that decide what is learnt and differ: their keys, and how they differ.
fn changed(stored: &RunConfig, mine: &RunConfig) -> Vec<(String, String)> {
    // What one of them does not use says nothing of what it learns; that it does not is another setting's difference.
    let inert = [inert_keys(stored), inert_keys(mine)].concat();
    let (stored, mine) = (table(stored), table(mine));
    let counts = |key: &String| !FREE.contains(&key.as_str()) && !inert.contains(key);
    mine.into_iter()
        .filter(|(key, value)| counts(key) && stored.get(key) != Some(value))
        .map(|(key, value)| {
            let text = format!("{key} {}, now {value}", stored.get(&key).unwrap_or(&Value::Null));
            (key, text)
        })
        .collect()
}

/// Settings that decide what is learnt and differ, as `lr 0.1, now 0.01`; empty when both are the same training.
pub fn differences(stored: &RunConfig, mine: &RunConfig) -> Vec<String> {
    changed(stored, mine).into_iter().map(|(_, text)| text).collect()
}

/// The same, of a run that goes on without anybody having said so; with `same_images`, the data may lie elsewhere.
pub fn unlike(stored: &RunConfig, mine: &RunConfig, same_images: bool) -> Vec<String> {
    let all = changed(stored, mine).into_iter();
    all.filter(|(key, _)| !(same_images && key == "image-root")).map(|(_, text)| text).collect()
}

#[cfg(test)]
mod tests {
    use super::super::CheckpointChoice;
    use super::*;

    #[test]
    fn what_is_learnt_counts_and_where_it_is_done_does_not() {
        let stored = RunConfig::default();
        let elsewhere = stored.clone().with(|c| {
            c.run.output_dir = "elsewhere".into();
            c.machine.nproc = 4;
            c.run.epochs = 3;
            c.checkpoints.last_epoch_of_checkpoint = Some(CheckpointChoice::Auto);
        });
        assert_eq!(differences(&stored, &elsewhere), [""; 0]);
        let other = stored.clone().with(|c| {
            c.run.seed = 7;
            c.optimizer.lr = 0.5;
        });
        assert_eq!(differences(&stored, &other), ["lr 0.256, now 0.5", "seed 42, now 7"]);
        // What has no effect in either is not what is learnt.
        let idle = stored.clone().with(|c| {
            c.quantization.qat_weight_bits = 7;
            c.optimizer.adam_beta1 = 0.5;
        });
        assert_eq!(differences(&idle, &stored), [""; 0]);
        let qat = idle.clone().with(|c| c.quantization.qat = true);
        assert_eq!(differences(&idle, &qat), ["qat false, now true"]);
    }

    #[test]
    fn a_run_of_an_earlier_release_keeps_its_defaults_unless_told_otherwise() {
        let mine = RunConfig::default().with(|c| {
            c.data.crop_size = 32;
            c.model.image_shape = [3, 32, 32];
            c.quantization.qat = true;
        });
        let stored = mine.clone().with(|c| {
            c.model.image_shape = [4, 32, 32];
            c.optimizer.warmup_epochs = Some(5.0);
            c.quantization.qat_reduce_range = true;
        });
        let kept = |given: &[&str], mine: &RunConfig| {
            with_former_defaults(&stored, mine, &given.iter().map(|g| g.to_string()).collect())
        };
        assert_eq!(kept(&["crop-size"], &mine), stored);
        let moved = mine.clone().with(|c| c.data.image_root = "/elsewhere".into());
        assert_eq!(kept(&[], &moved), stored.clone().with(|c| c.data.image_root = "/elsewhere".into()));
        // What was given stands, and then it is another training, which is left as it is.
        for key in ["warmup-epochs", "qat-reduce-range"] {
            assert_eq!(kept(&[key], &mine), mine, "{key}");
        }
        let other = mine.clone().with(|c| c.optimizer.lr = 0.5);
        assert_eq!(kept(&[], &other), other);
    }

    #[test]
    fn data_may_lie_elsewhere_if_it_is_the_same() {
        let stored = RunConfig::default();
        let moved = stored.clone().with(|c| c.data.image_root = "/new".into());
        assert_eq!(unlike(&stored, &moved, true), [""; 0]);
        assert_eq!(unlike(&stored, &moved, false), differences(&stored, &moved));
        assert_eq!(differences(&stored, &moved), ["image-root \"digits\", now \"/new\""]);
    }

    #[test]
    fn every_free_setting_is_one() {
        let known = table(&RunConfig::default());
        for key in FREE.iter().chain(FORMER_DEFAULTS.iter().map(|(key, _)| key)) {
            assert!(known.contains_key(*key), "{key}");
        }
    }
}
