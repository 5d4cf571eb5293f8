//! What can be checked without looking at anything but the configuration.

use super::error::named;
use super::{ConfigError, RunConfig, RunScope};
use crate::strategy::QatError;

/// An error on the first setting that cannot be run. The strategy's own checks ([`crate::strategy::Qat::check`]) are among
/// these, and their fields are told as settings.
pub fn validate(c: &RunConfig) -> Result<(), ConfigError> {
    super::numbers::numbers(c)?;
    let n = named;
    let [channels, height, width] = c.model.image_shape;
    let crop = c.data.crop_size;
    let checks: [(bool, String); 9] = [
        (
            c.run.epochs > 0 || c.quantization.qat || c.run.run_scope == RunScope::EvalOnly,
            format!(
                "{} is 0: that calibrates only (post-training quantization) and needs {} and {}",
                n("epochs"),
                n("qat"),
                n("from-pretrained-params")
            ),
        ),
        (
            c.run.epochs > 0 || !c.optimizer.model_ema || c.run.run_scope == RunScope::EvalOnly,
            format!(
                "{} averages weights that are trained, and {} is 0: leave it out",
                n("model-ema"),
                n("epochs")
            ),
        ),
        (
            c.machine.min_world.is_none_or(|n| (1..=c.machine.nproc).contains(&n)),
            format!(
                "{} is {}, but {} is {}: give from 1 to as many as there are",
                n("min-world"),
                c.machine.min_world.unwrap_or_default(),
                n("nproc"),
                c.machine.nproc
            ),
        ),
        (c.run.print_interval > 0, format!("{} is 0; it counts steps, from 1", n("print-interval"))),
        (
            height == crop && width == crop,
            format!(
                "{} {channels},{height},{width} does not fit {} {crop}: images are cropped to squares of that side",
                n("image-shape"),
                n("crop-size")
            ),
        ),
        (
            c.data.resize_short >= crop,
            format!(
                "{} {} is smaller than {} {crop}",
                n("resize-short"),
                c.data.resize_short,
                n("crop-size")
            ),
        ),
        (
            c.data.crop_padding.is_none_or(|p| p <= crop),
            format!("{} is more than {} {crop}", n("crop-padding"), n("crop-size")),
        ),
        (
            c.checkpoints.from_checkpoint.is_none() || c.checkpoints.from_pretrained_params.is_none(),
            format!(
                "{} (resume) and {} (start from weights) exclude each other",
                n("from-checkpoint"),
                n("from-pretrained-params")
            ),
        ),
        (
            !(c.run.benchmark && c.run.run_scope == RunScope::TrainEval),
            format!(
                "{} times one thing: give {} train_only or eval_only with it",
                n("benchmark"),
                n("run-scope")
            ),
        ),
    ];
    if let Some((_, why)) = checks.into_iter().find(|(fine, _)| !fine) {
        return Err(ConfigError::Invalid(why));
    }
    if let Some(qat) = &c.strategy().qat {
        let told = |e: QatError| ConfigError::Invalid(e.told(|field| named(&format!("qat-{field}"))));
        qat.check().map_err(told)?;
    }
    if let Some(idle) = super::effect::idle(c) {
        return Err(idle);
    }
    for (key, [low, high]) in
        [("rand-crop-scale", c.data.rand_crop_scale), ("rand-crop-ratio", c.data.rand_crop_ratio)]
    {
        if low > high {
            return Err(ConfigError::Invalid(format!(
                "{} {low},{high}: the smallest comes first",
                named(key)
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Qat;

    #[test]
    fn the_defaults_are_valid_and_each_nonsense_is_named() {
        validate(&RunConfig::default()).unwrap();
        type Change = fn(&mut RunConfig);
        let wrong: [(Change, &str); 8] = [
            (|c| c.data.batch_size = 0, "--batch-size"),
            (|c| c.data.crop_size = 32, "--crop-size 32"),
            (|c| c.data.normalize_std[1] = 0.0, "--normalize-std"),
            (|c| c.run.benchmark = true, "--run-scope"),
            (|c| c.data.rand_crop_scale = [0.5, 0.1], "--rand-crop-scale"),
            (|c| c.optimizer.lr = f64::NAN, "--lr"),
            (|c| c.model.num_of_class = Some(1), "--num-of-class"),
            (
                |c| {
                    (c.checkpoints.from_checkpoint, c.checkpoints.from_pretrained_params) =
                        (Some("a".into()), Some("b".into()))
                },
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

    #[test]
    fn the_recipe_of_quantization_is_the_library_s_and_checked_by_it() {
        let on = RunConfig::default().with(|c| c.quantization.qat = true);
        assert_eq!(on.strategy().qat, Some(Qat::default()));
        validate(&on).unwrap();
        let cool = on.clone().with(|c| {
            c.quantization.qat_distill = true;
            c.quantization.qat_distill_temperature = 0.5;
        });
        let told = validate(&cool).unwrap_err().to_string();
        assert_eq!(told, "--qat-distill-temperature is 0.5; it is a temperature of at least 1, e.g. 4");
        validate(&cool.with(|c| c.quantization.qat_distill_temperature = 1e4)).unwrap();
        type Change = fn(&mut RunConfig);
        let wrong: [(Change, &str); 6] = [
            (|c| c.quantization.qat_freeze_observers = 1.5, "--qat-freeze-observers is 1.5"),
            (|c| c.quantization.qat_freeze_bn = -0.5, "--qat-freeze-bn is -0.5"),
            (|c| c.quantization.qat_observer_momentum = 1.0, "--qat-observer-momentum is 1"),
            (|c| c.quantization.qat_percentile = 50.0, "--qat-percentile is 50"),
            (|c| c.quantization.qat_weight_bits = 6, "--qat-weight-bits is 6"),
            (|c| c.quantization.qat_percentile = f64::NAN, "--qat-percentile is NaN"),
        ];
        for (change, want) in wrong {
            let mut c = on.clone();
            change(&mut c);
            let told = validate(&c).unwrap_err().to_string();
            assert!(told.contains(want), "{told}");
        }
    }
}
