//! What can be checked without looking at anything but the configuration.

use super::{ConfigError, RunConfig, RunScope};

/// An error on the first setting that cannot be run.
pub(super) fn validate(c: &RunConfig) -> Result<(), ConfigError> {
    let checks: [(bool, String); 19] = [
        (
            c.epochs > 0 || c.qat || c.run_scope == RunScope::EvalOnly,
            "--epochs is 0: that calibrates only (post-training quantization) and needs --qat and --from-pretrained-params"
                .into(),
        ),
        (!c.qat_distill || c.qat, "--qat-distill is part of quantization-aware training: say --qat too".into()),
        (!c.qat_learn_scales || c.qat, "--qat-learn-scales is part of quantization-aware training: say --qat too".into()),
        (c.batch_size > 0, "--batch-size is 0; at least one image is needed".into()),
        (c.save_interval > 0, "--save-interval is 0; it counts epochs, from 1".into()),
        (c.eval_interval > 0, "--eval-interval is 0; it counts epochs, from 1".into()),
        (c.print_interval > 0, "--print-interval is 0; it counts steps, from 1".into()),
        (c.num_of_class > 1, format!("--num-of-class is {}; at least 2 are needed", c.num_of_class)),
        (
            c.image_shape[1] == c.crop_size && c.image_shape[2] == c.crop_size,
            format!(
                "--image-shape {},{},{} does not fit --crop-size {}: images are cropped to squares of that side",
                c.image_shape[0], c.image_shape[1], c.image_shape[2], c.crop_size
            ),
        ),
        (
            c.resize_short >= c.crop_size,
            format!("--resize-short {} is smaller than --crop-size {}", c.resize_short, c.crop_size),
        ),
        (c.normalize_std.iter().all(|&s| s > 0.0), "--normalize-std must be above 0 in every channel".into()),
        (
            c.crop_padding.is_none_or(|p| p <= c.crop_size),
            format!("--crop-padding is more than --crop-size {}", c.crop_size),
        ),
        (c.nproc > 0, "--nproc is 0; at least one worker is needed".into()),
        (
            (0.0..1.0).contains(&c.label_smoothing),
            format!("--label-smoothing {} is not from 0 to below 1", c.label_smoothing),
        ),
        ((0.0..1.0).contains(&c.momentum), format!("--momentum {} is not from 0 to below 1", c.momentum)),
        (
            c.lr.is_finite() && c.lr >= 0.0 && c.warmup_start_lr.is_finite() && c.warmup_start_lr >= 0.0,
            format!(
                "--lr {} and --warmup-start-lr {} must be finite and not negative",
                c.lr, c.warmup_start_lr
            ),
        ),
        (
            c.warmup_epochs.is_finite() && c.warmup_epochs >= 0.0,
            format!("--warmup-epochs {} must be finite and not negative", c.warmup_epochs),
        ),
        (
            c.from_checkpoint.is_none() || c.from_pretrained_params.is_none(),
            "--from-checkpoint (resume) and --from-pretrained-params (start from weights) exclude each other"
                .into(),
        ),
        (
            !(c.benchmark && c.run_scope == RunScope::TrainEval),
            "--benchmark times one thing: give --run-scope train_only or eval_only with it".into(),
        ),
    ];
    if let Some((_, why)) = checks.into_iter().find(|(fine, _)| !fine) {
        return Err(ConfigError::Invalid(why));
    }
    let [lo, hi] = c.rand_crop_scale;
    if !(lo > 0.0 && lo <= hi && hi <= 1.0) {
        return Err(ConfigError::Invalid(format!(
            "--rand-crop-scale {lo},{hi} is not 0 < smallest <= largest <= 1"
        )));
    }
    let [lo, hi] = c.rand_crop_ratio;
    if !(lo > 0.0 && lo <= hi && hi.is_finite()) {
        return Err(ConfigError::Invalid(format!(
            "--rand-crop-ratio {lo},{hi} is not 0 < smallest <= largest"
        )));
    }
    if let Some(which) = &c.last_epoch_of_checkpoint
        && which != "auto"
        && which != "none"
        && which.parse::<u32>().is_err()
    {
        return Err(ConfigError::Invalid(format!(
            "--last-epoch-of-checkpoint is `{which}`; it is `auto`, `none` or a number of epochs"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_each_nonsense_is_named() {
        validate(&RunConfig::default()).unwrap();
        type Change = fn(&mut RunConfig);
        let wrong: [(Change, &str); 9] = [
            (|c| c.batch_size = 0, "--batch-size"),
            (|c| c.crop_size = 32, "--crop-size 32"),
            (|c| c.normalize_std[1] = 0.0, "--normalize-std"),
            (|c| c.benchmark = true, "--run-scope"),
            (|c| c.last_epoch_of_checkpoint = Some("newest".into()), "newest"),
            (|c| c.rand_crop_scale = [0.5, 0.1], "--rand-crop-scale"),
            (|c| c.lr = f64::NAN, "--lr"),
            (|c| c.num_of_class = 1, "--num-of-class"),
            (
                |c| (c.from_checkpoint, c.from_pretrained_params) = (Some("a".into()), Some("b".into())),
                "exclude",
            ),
        ];
        for (change, want) in wrong {
            let mut c = RunConfig::default();
            change(&mut c);
            let e = validate(&c).unwrap_err().to_string();
            assert!(e.contains(want), "{e}");
        }
    }
}
