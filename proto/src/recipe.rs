//! The recipe of quantization-aware training on the wire.

use crate::v1;
use octrain_core::strategy::{Distillation, Freeze, Qat, UnknownChoice};

/// A recipe as it is sent, scheduled for a training of `total_steps` steps: freezing is a step or never.
pub fn recipe(qat: &Qat, total_steps: u64) -> v1::QatRecipe {
    let qat = qat.scheduled(total_steps);
    v1::QatRecipe {
        target: qat.target as i32,
        calibration_images: qat.calibration_images,
        freeze_observers_step: qat.freeze_observers.step(total_steps),
        freeze_bn_step: qat.freeze_bn.step(total_steps),
        observer_momentum: qat.observer_momentum,
        unclipped_straight_through: qat.unclipped_straight_through,
        skip: qat.skip,
        observer: qat.observer as i32,
        percentile: qat.percentile,
        weight_bits: qat.weight_bits,
        reduce_range: qat.reduce_range,
        learn_scales: qat.learn_scales,
        bn_images: qat.bn_images,
        distillation: qat
            .distillation
            .map(|d| v1::Distillation { weight: d.weight, temperature: d.temperature }),
    }
}

/// The recipe that was sent. A choice this version does not know is an error.
pub fn qat(recipe: &v1::QatRecipe) -> Result<Qat, UnknownChoice> {
    let at = |step: Option<u64>| step.map_or(Freeze::Never, Freeze::Step);
    Ok(Qat {
        target: recipe.target.try_into()?,
        skip: recipe.skip.clone(),
        weight_bits: recipe.weight_bits,
        reduce_range: recipe.reduce_range,
        observer: recipe.observer.try_into()?,
        percentile: recipe.percentile,
        calibration_images: recipe.calibration_images,
        observer_momentum: recipe.observer_momentum,
        learn_scales: recipe.learn_scales,
        unclipped_straight_through: recipe.unclipped_straight_through,
        freeze_observers: at(recipe.freeze_observers_step),
        freeze_bn: at(recipe.freeze_bn_step),
        bn_images: recipe.bn_images,
        distillation: recipe
            .distillation
            .map(|d| Distillation { weight: d.weight, temperature: d.temperature }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use octrain_core::passes::Pass;
    use octrain_core::strategy::{Amp, Device, Layout, Observer, Purpose, ReduceType, Target};

    #[test]
    fn a_recipe_comes_back_as_it_was_sent() {
        let sent = Qat {
            target: Target::Tensorrt,
            skip: vec!["fc".into()],
            weight_bits: 7,
            reduce_range: true,
            observer: Observer::Max,
            percentile: 99.0,
            calibration_images: 3,
            observer_momentum: 0.5,
            learn_scales: false,
            unclipped_straight_through: true,
            freeze_observers: Freeze::Part(0.5),
            freeze_bn: Freeze::Never,
            bn_images: 4,
            distillation: Some(Distillation { weight: 0.25, temperature: 3.0 }),
        };
        assert_eq!(qat(&recipe(&sent, 100)), Ok(sent.scheduled(100)));
        let learned = Qat { learn_scales: true, ..sent };
        assert_eq!(recipe(&learned, 100).freeze_observers_step, Some(0));
        let strange = v1::QatRecipe { observer: 77, ..recipe(&learned, 1) };
        assert_eq!(qat(&strange).unwrap_err().to_string(), "77 is no Observer");
    }

    #[test]
    fn choices_have_the_numbers_and_names_of_the_protocols_file() {
        let files = protox::compile(["proto/coordinator.proto"], ["proto"]).unwrap();
        let of = |name: &str| -> Vec<(i32, String)> {
            let e = files.file[0].enum_type.iter().find(|e| e.name() == name).unwrap();
            e.value.iter().map(|v| (v.number(), v.name().to_string())).collect()
        };
        fn ours<T: Copy>(
            what: &str,
            all: &[T],
            number: fn(T) -> i32,
            name: fn(T) -> &'static str,
        ) -> Vec<(i32, String)> {
            let text = |c: T| format!("{what}_{}", name(c)).to_uppercase().replace('-', "_");
            all.iter().map(|&c| (number(c), text(c))).collect()
        }
        assert_eq!(ours("amp", Amp::ALL, |c| c as i32, Amp::name), of("Amp"));
        assert_eq!(ours("device", Device::ALL, |c| c as i32, Device::name), of("Device"));
        assert_eq!(ours("layout", Layout::ALL, |c| c as i32, Layout::name), of("Layout"));
        assert_eq!(ours("observer", Observer::ALL, |c| c as i32, Observer::name), of("Observer"));
        assert_eq!(ours("pass", Pass::ALL, |c| c as i32, Pass::name), of("Pass"));
        assert_eq!(ours("purpose", Purpose::ALL, |c| c as i32, Purpose::name), of("Purpose"));
        assert_eq!(ours("reduce-type", ReduceType::ALL, |c| c as i32, ReduceType::name), of("ReduceType"));
        assert_eq!(ours("target", Target::ALL, |c| c as i32, Target::name), of("Target"));
    }
}
