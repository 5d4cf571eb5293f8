//! Whether two configurations describe the same training.

use super::RunConfig;
use serde_json::{Map, Value};

/// Settings that may differ from start to start of one run: where things are, how far it goes, how it is spread over
/// machines, what is told. The global batch is among them because the manifest holds it; see `trainer::begin`.
const FREE: &[&str] = &[
    "output-dir",
    "report-file",
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
    "from-checkpoint",
    "last-epoch-of-checkpoint",
    "from-pretrained-params",
    "allow-mismatch",
    "overwrite",
    "qat-teacher",
    "device",
    "nproc",
    "threads",
    "bucket-mib",
];

fn table(config: &RunConfig) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        other => unreachable!("a RunConfig is a table: {other:?}"),
    }
}

/// Settings that decide what is learnt and differ, as `lr 0.1, now 0.01`; empty when both are the same training.
pub fn differences(stored: &RunConfig, mine: &RunConfig) -> Vec<String> {
    let (stored, mine) = (table(stored), table(mine));
    mine.iter()
        .filter(|(key, value)| !FREE.contains(&key.as_str()) && stored.get(*key) != Some(value))
        .map(|(key, value)| format!("{key} {}, now {value}", stored.get(key).unwrap_or(&Value::Null)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learnt_counts_and_where_it_is_done_does_not() {
        let stored = RunConfig::default();
        let elsewhere = RunConfig {
            output_dir: "elsewhere".into(),
            nproc: 4,
            epochs: 3,
            last_epoch_of_checkpoint: Some("auto".into()),
            ..stored.clone()
        };
        assert_eq!(differences(&stored, &elsewhere), [""; 0]);
        let other = RunConfig { seed: 7, lr: 0.5, ..stored.clone() };
        assert_eq!(differences(&stored, &other), ["lr 0.256, now 0.5", "seed 42, now 7"]);
    }

    #[test]
    fn every_free_setting_is_one() {
        let known = table(&RunConfig::default());
        for key in FREE {
            assert!(known.contains_key(*key), "{key}");
        }
    }
}
