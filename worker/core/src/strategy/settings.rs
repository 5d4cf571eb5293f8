//! The strategy as flat settings: the part of a run's configuration that the coordinator reads.

use super::{Amp, Layout, QuantizationSettings, Strategy};
use serde::{Deserialize, Serialize};

/// Settings that a [`Strategy`] is made of, by the names of their flags. A key that is missing is an error, so that no
/// default can differ between those who read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StrategySettings {
    /// Mixed precision.
    pub amp: Amp,
    /// Memory order.
    pub data_layout: Layout,
    /// Quantization-aware training.
    #[serde(flatten)]
    pub quantization: QuantizationSettings,
}

impl From<&StrategySettings> for Strategy {
    fn from(s: &StrategySettings) -> Strategy {
        Strategy { amp: s.amp, layout: s.data_layout, qat: s.quantization.recipe() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::{Distillation, Freeze, Observer, Qat, Target};

    /// Settings none of which is a default, as a configuration file has them.
    const TEXT: &str = r#"{
        "amp": "fp16", "data-layout": "NCHW", "qat": true, "target": "tensorrt", "qat-calibration-images": 3,
        "qat-freeze-observers": 0.25, "qat-freeze-bn": 0.5, "qat-observer-momentum": 0.75, "qat-pass-through": true,
        "qat-skip": ["fc"], "qat-observer": "entropy", "qat-percentile": 90.0, "qat-weight-bits": 7,
        "qat-reduce-range": true,
        "qat-learn-scales": true, "qat-int8-forward": true, "qat-bn-images": 64, "qat-distill": true, "qat-distill-weight": 0.125,
        "qat-distill-temperature": 2.0
    }"#;

    #[test]
    fn every_setting_reaches_the_strategy() {
        let settings: StrategySettings = serde_json::from_str(TEXT).unwrap();
        let qat = Qat {
            target: Target::Tensorrt,
            skip: vec!["fc".into()],
            weight_bits: 7,
            reduce_range: true,
            observer: Observer::Entropy,
            percentile: 90.0,
            calibration_images: 3,
            observer_momentum: 0.75,
            learn_scales: true,
            unclipped_straight_through: true,
            freeze_observers: Freeze::Part(0.25),
            freeze_bn: Freeze::Part(0.5),
            bn_images: 64,
            distillation: Some(Distillation { weight: 0.125, temperature: 2.0 }),
        };
        let want = Strategy { amp: Amp::Fp16, layout: Layout::Nchw, qat: Some(qat.clone()) };
        assert_eq!(Strategy::from(&settings), want);
        assert_eq!(want.without_qat(), Strategy { qat: None, ..want.clone() });
        let with = |quantization| Strategy::from(&StrategySettings { quantization, ..settings.clone() }).qat;
        let given = settings.quantization.clone();
        let alone = QuantizationSettings { qat_distill: false, ..given.clone() };
        assert_eq!(with(alone), Some(Qat { distillation: None, ..qat }));
        assert_eq!(with(QuantizationSettings { qat: false, ..given }), None);
    }

    #[test]
    fn a_missing_setting_is_an_error_and_a_recipe_of_before_is_read() {
        let missing = TEXT.replace("\"qat-weight-bits\": 7,", "");
        let said = serde_json::from_str::<StrategySettings>(&missing).unwrap_err().to_string();
        assert!(said.contains("qat-weight-bits"), "{said}");
        let qat = Qat { unclipped_straight_through: true, ..Qat::default() };
        let text = serde_json::to_string(&qat).unwrap();
        let before = text.replace("unclipped-straight-through", "pass-through");
        assert_ne!(text, before);
        assert_eq!(serde_json::from_str::<Qat>(&before).unwrap(), qat);
    }
}
