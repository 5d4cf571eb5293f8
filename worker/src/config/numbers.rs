//! Ranges of the settings that are numbers: one table, checked wherever numbers come in.

use super::error::named;
use super::{ConfigError, RunConfig};

/// Numbers that a setting may be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Range {
    /// Any finite number.
    Finite,
    /// Finite, 0 or more.
    NotNegative,
    /// Finite, above 0.
    Positive,
    /// From 0 to below 1.
    Momentum,
    /// Above the first, and at most the second.
    Within(f64, f64),
    /// Whole numbers between two, both included.
    Count(usize, usize),
}

impl Range {
    fn holds(self, x: f64) -> bool {
        match self {
            Range::Finite => x.is_finite(),
            Range::NotNegative => x.is_finite() && x >= 0.0,
            Range::Positive => x.is_finite() && x > 0.0,
            Range::Momentum => (0.0..1.0).contains(&x),
            Range::Within(low, high) => x > low && x <= high,
            Range::Count(low, high) => (low as f64..=high as f64).contains(&x),
        }
    }

    fn text(self) -> String {
        match self {
            Range::Finite => "a finite number".into(),
            Range::NotNegative => "a finite number of 0 or more".into(),
            Range::Positive => "a finite number above 0".into(),
            Range::Momentum => "a number from 0 to below 1".into(),
            Range::Within(low, high) => format!("a number above {low} and at most {high}"),
            Range::Count(low, high) => format!("a whole number from {low} to {high}"),
        }
    }
}

/// Every setting that is a number with a range, by its key.
fn table(c: &RunConfig) -> Vec<(&'static str, Vec<f64>, Range)> {
    use Range::{Count, Finite, Momentum, NotNegative, Positive, Within};
    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let count = |n: usize| vec![n as f64];
    vec![
        ("lr", vec![c.optimizer.lr], NotNegative),
        ("warmup-start-lr", vec![c.optimizer.warmup_start_lr], NotNegative),
        ("warmup-epochs", c.optimizer.warmup_epochs.into_iter().collect(), NotNegative),
        ("momentum", vec![c.optimizer.momentum], Momentum),
        ("adam-beta1", vec![c.optimizer.adam_beta1], Momentum),
        ("adam-beta2", vec![c.optimizer.adam_beta2], Momentum),
        ("adam-epsilon", vec![c.optimizer.adam_epsilon], Positive),
        ("weight-decay", vec![c.optimizer.weight_decay], NotNegative),
        ("norm-weight-decay", c.optimizer.norm_weight_decay.into_iter().collect(), NotNegative),
        ("bias-weight-decay", c.optimizer.bias_weight_decay.into_iter().collect(), NotNegative),
        (
            "transformer-embedding-decay",
            c.optimizer.transformer_embedding_decay.into_iter().collect(),
            NotNegative,
        ),
        ("clip-grad-norm", c.optimizer.clip_grad_norm.into_iter().collect(), Positive),
        ("model-ema-decay", vec![c.optimizer.model_ema_decay], Momentum),
        ("model-ema-steps", count(c.optimizer.model_ema_steps as usize), Count(1, u32::MAX as usize)),
        ("label-smoothing", vec![c.optimizer.label_smoothing], Momentum),
        ("scale-loss", vec![c.precision.scale_loss], Positive),
        ("rand-crop-scale", wide(&c.data.rand_crop_scale), Within(0.0, 1.0)),
        ("rand-crop-ratio", wide(&c.data.rand_crop_ratio), Positive),
        ("normalize-scale", wide(&[c.data.normalize_scale]), Positive),
        ("normalize-mean", wide(&c.data.normalize_mean), Finite),
        ("normalize-std", wide(&c.data.normalize_std), Positive),
        // Their ranges are the recipe's (`Qat::check`); here only what no file could hold.
        ("qat-freeze-observers", vec![c.quantization.qat_freeze_observers], Finite),
        ("qat-freeze-bn", vec![c.quantization.qat_freeze_bn], Finite),
        ("qat-observer-momentum", vec![c.quantization.qat_observer_momentum], Finite),
        ("qat-percentile", vec![c.quantization.qat_percentile], Finite),
        ("qat-distill-weight", vec![c.quantization.qat_distill_weight], Finite),
        ("qat-distill-temperature", vec![c.quantization.qat_distill_temperature], Finite),
        ("bucket-mib", vec![c.machine.bucket_mib], Within(0.0, 16384.0)),
        ("batch-size", count(c.data.batch_size), Count(1, 1 << 20)),
        ("val-fraction", vec![c.data.val_fraction], Momentum),
        ("crop-size", count(c.data.crop_size), Count(1, 1 << 13)),
        ("resize-short", count(c.data.resize_short), Count(1, 1 << 14)),
        ("num-of-class", c.model.num_of_class.into_iter().map(|n| n as f64).collect(), Count(2, 1 << 20)),
        ("synthetic-images", count(c.data.synthetic_images), Count(1, 1 << 31)),
        ("save-interval", count(c.run.save_interval as usize), Count(1, u32::MAX as usize)),
        ("eval-interval", count(c.run.eval_interval as usize), Count(1, u32::MAX as usize)),
        ("nproc", count(c.machine.nproc), Count(1, 1024)),
        ("threads", count(c.machine.threads), Count(0, 4096)),
        ("data-threads", count(c.data.data_threads), Count(0, 1024)),
    ]
}

/// An error on the first number that is out of its range.
pub(super) fn numbers(c: &RunConfig) -> Result<(), ConfigError> {
    for (key, values, range) in table(c) {
        if let Some(value) = values.into_iter().find(|&x| !range.holds(x)) {
            return Err(ConfigError::Invalid(format!("{} is {value}; it is {}", named(key), range.text())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Whether a setting is a number with a fraction, or a list of such.
    fn fractional(value: &Value) -> bool {
        match value {
            Value::Array(list) => list.iter().any(fractional),
            other => other.is_f64(),
        }
    }

    #[test]
    fn every_setting_with_a_fraction_has_a_range_and_no_range_holds_nan_or_infinity() {
        let config = RunConfig::default().with(|c| c.optimizer.warmup_epochs = Some(0.5));
        let Value::Object(all) = serde_json::to_value(&config).unwrap() else { panic!("a table") };
        let table = table(&config);
        for (key, _) in all.iter().filter(|(_, v)| fractional(v)) {
            assert!(table.iter().any(|(k, ..)| k == key), "--{key} has no range");
        }
        for (key, values, range) in &table {
            assert!(all.contains_key(*key), "there is no --{key}");
            assert!(values.iter().all(|&x| range.holds(x)), "the default of --{key}");
            for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert!(!range.holds(wrong), "--{key} {wrong}");
            }
        }
        numbers(&config).unwrap();
        let told = numbers(&config.with(|c| c.optimizer.lr = -1.0)).unwrap_err().to_string();
        assert_eq!(told, format!("{} is -1; it is a finite number of 0 or more", named("lr")));
    }
}
