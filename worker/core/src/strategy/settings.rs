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
