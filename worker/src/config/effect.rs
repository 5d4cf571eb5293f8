//! Settings that have an effect only with another: what is given in vain is refused, and what nobody gave is as it is by
//! default, so that a configuration says nothing that is not done.

use super::error::named;
use super::table::{complete, table};
use super::{ConfigError, Optimizer, RunConfig};
use crate::strategy::Observer;
use octrain_core::strategy::QuantizationSettings;
use serde_json::{Map, Value};

/// What settings have an effect with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Quantization-aware training.
    Qat,
    /// Distillation.
    Distillation,
    /// The percentile observer.
    Percentile,
    /// Ranges that follow what is seen in training.
    MovingRanges,
    /// The update rule sgd.
    Sgd,
    /// The update rule adamw.
    Adamw,
    /// An average of the weights.
    Average,
}

/// All there is; what others stand on comes first.
const ALL: [Needs; 7] = [
    Needs::Qat,
    Needs::Distillation,
    Needs::Percentile,
    Needs::MovingRanges,
    Needs::Sgd,
    Needs::Adamw,
    Needs::Average,
];

impl Needs {
    /// The settings.
    fn keys(self) -> Vec<String> {
        let listed: &[&str] = match self {
            Needs::Qat => return recipe_keys(),
            Needs::Distillation => &["qat-teacher", "qat-distill-weight", "qat-distill-temperature"],
            Needs::Percentile => &["qat-percentile"],
            Needs::MovingRanges => &["qat-observer-momentum", "qat-freeze-observers"],
            Needs::Sgd => &["momentum", "nesterov"],
            Needs::Adamw => &["adam-beta1", "adam-beta2", "adam-epsilon"],
            Needs::Average => &["model-ema-decay", "model-ema-steps"],
        };
        listed.iter().map(|key| key.to_string()).collect()
    }

    /// The setting that decides whether they have an effect.
    fn switch(self) -> &'static str {
        match self {
            Needs::Qat => "qat",
            Needs::Distillation => "qat-distill",
            Needs::Percentile | Needs::MovingRanges => "qat-observer",
            Needs::Sgd | Needs::Adamw => "optimizer",
            Needs::Average => "model-ema",
        }
    }

    /// Whether they have one.
    fn are_met(self, c: &RunConfig) -> bool {
        match self {
            Needs::Qat => c.quantization.qat,
            Needs::Distillation => c.quantization.qat_distill,
            Needs::Percentile => c.quantization.qat_observer == Observer::Percentile,
            Needs::MovingRanges => c.strategy().qat.is_some_and(|qat| !qat.holds_ranges()),
            Needs::Sgd => c.optimizer.optimizer == Optimizer::Sgd,
            Needs::Adamw => c.optimizer.optimizer == Optimizer::Adamw,
            Needs::Average => c.optimizer.model_ema,
        }
    }

    /// Why the setting `key` has none, and what to do.
    fn lacking(self, key: &str) -> ConfigError {
        let (key, switch) = (named(key), named(self.switch()));
        let why = match self {
            Needs::Qat => format!("quantization-aware training: say {switch} too"),
            Needs::Distillation => format!("distillation: say {switch} too"),
            Needs::Percentile => format!("the observer of percentiles: say {switch} percentile too"),
            Needs::MovingRanges => format!(
                "ranges that move in training, and these are held from calibration on, or learned: say {switch} moving-average without learned scales"
            ),
            Needs::Sgd => format!("the update rule sgd: say {switch} sgd"),
            Needs::Adamw => format!("the update rule adamw: say {switch} adamw"),
            Needs::Average => format!("the average of weights: say {switch} too"),
        };
        ConfigError::Invalid(format!("{key} is part of {why}, or leave it out"))
    }
}

/// The settings of the recipe of quantization-aware training: all of its group but whether there is any.
pub fn recipe_keys() -> Vec<String> {
    match serde_json::to_value(QuantizationSettings::default()) {
        Ok(Value::Object(group)) => group.into_iter().map(|(key, _)| key).filter(|k| k != "qat").collect(),
        other => unreachable!("it is a table: {other:?}"),
    }
}

/// The settings that have no effect in `config`, with what they lack.
fn inert(config: &RunConfig) -> impl Iterator<Item = (String, Needs)> {
    let lacking = ALL.into_iter().filter(|needs| !needs.are_met(config));
    lacking.flat_map(|needs| needs.keys().into_iter().map(move |key| (key, needs)))
}

/// The settings that have no effect in `config`, by key.
pub fn inert_keys(config: &RunConfig) -> Vec<String> {
    inert(config).map(|(key, _)| key).collect()
}

/// `config` with every setting that has no effect as it is by default.
pub fn effective(config: &RunConfig) -> RunConfig {
    let (mut all, defaults) = (table(config), table(&RunConfig::default()));
    for key in inert_keys(config) {
        let value = defaults.get(&key).cloned().unwrap_or_default();
        all.insert(key, value);
    }
    complete(Value::Object(all)).unwrap_or_else(|e| unreachable!("values of two configurations: {e}"))
}

/// The first setting of `config` that has no effect and is not as it is by default.
pub(super) fn idle(config: &RunConfig) -> Option<ConfigError> {
    let (all, defaults) = (table(config), table(&RunConfig::default()));
    inert(config).find(|(key, _)| all.get(key) != defaults.get(key)).map(|(key, needs)| needs.lacking(&key))
}

/// The first setting that was given and has no effect in `config`, which was resolved from it. A file may hold all
/// settings, as the ones that are printed do, so that those of default values count as not given; and a flag that puts out
/// what a file has lit means it.
pub(super) fn given_in_vain(
    config: &RunConfig,
    file: &Map<String, Value>,
    flags: &Map<String, Value>,
) -> Option<ConfigError> {
    let defaults = table(&RunConfig::default());
    let said = |key: &str| file.get(key).is_some_and(|value| !same(Some(value), defaults.get(key)));
    let vain = |(key, needs): &(String, Needs)| {
        flags.contains_key(key) || said(key) && !flags.contains_key(needs.switch())
    };
    inert(config).find(vain).map(|(key, needs)| needs.lacking(&key))
}

/// Whether two values are the same setting: a file may say 1 for 1.0.
fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    let number = |v: Option<&Value>| v.and_then(Value::as_f64);
    a == b || number(a).is_some_and(|a| Some(a) == number(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_is_named_and_is_left_at_its_default() {
        let defaults = RunConfig::default();
        assert_eq!(effective(&defaults), defaults);
        assert!(idle(&defaults).is_none());
        let all = table(&defaults);
        assert!(ALL.iter().flat_map(|needs| needs.keys()).all(|key| all.contains_key(&key)));
        assert!(ALL.iter().all(|needs| all.contains_key(needs.switch())));
        type Change = fn(&mut RunConfig);
        let idles: [(Change, &str); 8] = [
            (|c| c.optimizer.model_ema_steps = 1, "say --model-ema too"),
            (|c| c.quantization.qat_weight_bits = 7, "--qat-weight-bits is part of quantization-aware"),
            (|c| c.quantization.qat_skip = vec!["fc".into()], "--qat-skip"),
            (|c| c.optimizer.adam_beta1 = 0.8, "--optimizer adamw"),
            (
                |c| {
                    c.optimizer.optimizer = Optimizer::Adamw;
                    c.optimizer.momentum = 0.5;
                },
                "--optimizer sgd",
            ),
            (
                |c| {
                    c.optimizer.optimizer = Optimizer::Adamw;
                    c.optimizer.nesterov = true;
                },
                "--nesterov is part of the update rule sgd",
            ),
            (
                |c| {
                    c.quantization.qat = true;
                    c.quantization.qat_percentile = 99.0;
                },
                "--qat-observer percentile",
            ),
            (
                |c| {
                    c.quantization.qat = true;
                    c.quantization.qat_distill_weight = 0.9;
                },
                "--qat-distill too",
            ),
        ];
        for (change, want) in idles {
            let config = RunConfig::default().with(change);
            let told = idle(&config).unwrap().to_string();
            assert!(told.contains(want) && told.contains("leave it out"), "{told}");
            assert!(idle(&effective(&config)).is_none());
            assert_eq!(
                effective(&config).strategy(),
                config
                    .clone()
                    .with(|c| {
                        c.quantization.qat_percentile = 99.99;
                    })
                    .strategy()
            );
        }
        let qat = RunConfig::default().with(|c| {
            c.quantization.qat = true;
            c.quantization.qat_weight_bits = 7;
        });
        assert_eq!(effective(&qat), qat);
    }
}
