//! Which passes run: a pure function of strategy, network and purpose, with the reason for each.

use super::Pass;
use crate::graph::NetworkFacts;
use crate::quant::scheme::Sign;
use crate::strategy::{Amp, Layout, Purpose, Qat, Strategy};

/// Whether a pass runs, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The pass.
    pub pass: Pass,
    /// It runs.
    pub on: bool,
    /// Why it does, or why it does not.
    pub reason: String,
}

/// Decides on every one of Octrain's own passes, in the order they run. The coordinator, training, evaluation, export
/// and users of the library all get their decisions here.
pub fn decide(strategy: &Strategy, network: &NetworkFacts, purpose: Purpose) -> Vec<Decision> {
    Pass::ALL.iter().map(|&pass| decision(pass, strategy, network, purpose)).collect()
}

pub(super) fn decision(
    pass: Pass,
    strategy: &Strategy,
    network: &NetworkFacts,
    purpose: Purpose,
) -> Decision {
    let (on, reason) = match pass {
        Pass::DropDead => (true, "always: what the output does not need costs time and memory".into()),
        Pass::QuantizeWeights | Pass::QuantizeActivations | Pass::ObserveSuperset => match &strategy.qat {
            None => (false, "qat is not set".into()),
            Some(qat) => (true, quantize(pass, qat, network)),
        },
        Pass::AmpCast => amp(strategy.amp, purpose),
        Pass::MemoryLayout => match strategy.layout {
            Layout::Nhwc => (true, "layout NHWC: channels-last is what fast convolutions want".into()),
            Layout::Nchw => (false, "layout NCHW".into()),
        },
        Pass::FoldBatchNorm => fold(network, purpose),
    };
    Decision { pass, on, reason }
}

fn quantize(pass: Pass, qat: &Qat, network: &NetworkFacts) -> String {
    let target = qat.target.name();
    match pass {
        Pass::QuantizeWeights => format!(
            "qat: of the {} layers of {} that have weights, {} train with INT{} ones",
            network.layers,
            network.name,
            if qat.skip.is_empty() { "all" } else { "those that `qat.skip` does not name" },
            qat.weight_bits
        ),
        Pass::QuantizeActivations => format!(
            "qat: inputs are quantized where {target} will compute in INT8, with codes up to {} behind a ReLU",
            qat.activation(Sign::Unsigned).qmax()
        ),
        _ => format!(
            "qat: ranges other targets than {target} need are recorded, so every profile can be exported"
        ),
    }
}

fn amp(amp: Amp, purpose: Purpose) -> (bool, String) {
    let on = |name: &str, computes: &str| {
        format!("amp {name}: convolutions and linear layers compute in {computes}, master weights stay FP32")
    };
    match (amp, purpose) {
        (Amp::Off, _) => (false, "amp is off: FP32 throughout".into()),
        (_, Purpose::Export) => (
            false,
            "nothing is cast in a deployed graph: the file's type of floating-point values is that of export"
                .into(),
        ),
        (Amp::Bf16, _) => (true, on("bf16", "BF16")),
        (Amp::Fp16, _) => (true, on("fp16", "FP16")),
    }
}

fn fold(network: &NetworkFacts, purpose: Purpose) -> (bool, String) {
    match purpose {
        _ if network.batch_norms == 0 => (false, format!("{} has no BatchNorm", network.name)),
        Purpose::Train => (false, "trained unfolded; export folds exactly".into()),
        Purpose::Eval => (false, "evaluated as trained, unfolded; export folds exactly".into()),
        Purpose::Export => {
            let count = network.batch_norms;
            (true, format!("export: of {count} BatchNorms, those right behind a layer fold exactly into it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(strategy: &Strategy, purpose: Purpose) -> Vec<Pass> {
        let network = NetworkFacts { name: "N".into(), parameters: 9, layers: 2, batch_norms: 2 };
        decide(strategy, &network, purpose).into_iter().filter(|d| d.on).map(|d| d.pass).collect()
    }

    #[test]
    fn passes_follow_from_the_strategy() {
        use Pass::*;
        let plain = Strategy::default();
        assert_eq!(on(&plain, Purpose::Train), [DropDead, MemoryLayout]);
        assert_eq!(on(&plain, Purpose::Export), [DropDead, MemoryLayout, FoldBatchNorm]);
        let qat = Strategy { amp: Amp::Bf16, layout: Layout::Nchw, qat: Some(Qat::default()) };
        let quantize = [DropDead, QuantizeWeights, QuantizeActivations, ObserveSuperset];
        assert_eq!(on(&qat, Purpose::Train), [&quantize[..], &[AmpCast]].concat());
        assert_eq!(on(&qat, Purpose::Eval), [&quantize[..], &[AmpCast]].concat());
        assert_eq!(on(&qat, Purpose::Export), [&quantize[..], &[FoldBatchNorm]].concat());
        assert_eq!(on(&qat.without_qat(), Purpose::Train), [DropDead, AmpCast]);
    }

    #[test]
    fn every_decision_says_why() {
        let network = NetworkFacts { name: "Net".into(), parameters: 9, layers: 21, batch_norms: 0 };
        for amp in Amp::ALL {
            for qat in [None, Some(Qat::default())] {
                let strategy = Strategy { amp: *amp, qat, ..Strategy::default() };
                for &purpose in Purpose::ALL {
                    let all = decide(&strategy, &network, purpose);
                    assert_eq!(all.iter().map(|d| d.pass).collect::<Vec<_>>(), Pass::ALL);
                    let said = |pass: Pass| all[pass as usize].reason.as_str();
                    assert!(said(Pass::AmpCast).contains("amp") || purpose == Purpose::Export);
                    assert_eq!(said(Pass::FoldBatchNorm), "Net has no BatchNorm");
                    let weights = said(Pass::QuantizeWeights);
                    match strategy.qat {
                        None => assert_eq!(weights, "qat is not set"),
                        Some(_) => assert!(
                            weights.starts_with("qat: of the 21 layers of Net that have weights, all train"),
                            "{weights}"
                        ),
                    }
                }
            }
        }
        let qat = Strategy { amp: Amp::Fp16, qat: Some(Qat::default()), ..Strategy::default() };
        let all = decide(&qat, &network, Purpose::Eval);
        let said = |pass: Pass| all[pass as usize].reason.as_str();
        assert!(said(Pass::DropDead).starts_with("always"));
        assert_eq!(
            said(Pass::QuantizeActivations),
            "qat: inputs are quantized where openvino will compute in INT8, with codes up to 255 behind a ReLU"
        );
        assert!(said(Pass::ObserveSuperset).starts_with("qat: ranges other targets than openvino need"));
        assert!(
            said(Pass::AmpCast).starts_with("amp fp16: ") && said(Pass::AmpCast).contains("compute in FP16")
        );
        assert!(said(Pass::MemoryLayout).starts_with("layout NHWC: "));
        let said = |purpose| {
            decide(&Strategy::default(), &NetworkFacts { batch_norms: 3, ..network.clone() }, purpose)[6]
                .reason
                .clone()
        };
        assert_eq!(said(Purpose::Train), "trained unfolded; export folds exactly");
        assert_eq!(said(Purpose::Eval), "evaluated as trained, unfolded; export folds exactly");
        assert_eq!(
            said(Purpose::Export),
            "export: of 3 BatchNorms, those right behind a layer fold exactly into it"
        );
    }
}
