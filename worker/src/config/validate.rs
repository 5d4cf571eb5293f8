//! What can be checked without looking at anything but the configuration.

use super::{ConfigError, RunConfig, RunScope};

/// An error on the first setting that cannot be run.
pub fn validate(c: &RunConfig) -> Result<(), ConfigError> {
    super::numbers::numbers(c)?;
    let checks: [(bool, String); 9] = [
        (
            c.epochs > 0 || c.qat || c.run_scope == RunScope::EvalOnly,
            "--epochs is 0: that calibrates only (post-training quantization) and needs --qat and --from-pretrained-params"
                .into(),
        ),
        (!c.qat_distill || c.qat, "--qat-distill is part of quantization-aware training: say --qat too".into()),
        (!c.qat_learn_scales || c.qat, "--qat-learn-scales is part of quantization-aware training: say --qat too".into()),
        (c.print_interval > 0, "--print-interval is 0; it counts steps, from 1".into()),
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
        (
            c.crop_padding.is_none_or(|p| p <= c.crop_size),
            format!("--crop-padding is more than --crop-size {}", c.crop_size),
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
    for (key, [low, high]) in [("rand-crop-scale", c.rand_crop_scale), ("rand-crop-ratio", c.rand_crop_ratio)]
    {
        if low > high {
            return Err(ConfigError::Invalid(format!("--{key} {low},{high}: the smallest comes first")));
        }
    }
    if let Some(which) = &c.last_epoch_of_checkpoint
        && which != "auto"
        && which != "none"
        && which != "best"
        && which.parse::<u32>().is_err()
    {
        return Err(ConfigError::Invalid(format!(
            "--last-epoch-of-checkpoint is `{which}`; it is `auto`, `best`, `none` or a number of epochs"
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
            (|c| c.num_of_class = Some(1), "--num-of-class"),
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
