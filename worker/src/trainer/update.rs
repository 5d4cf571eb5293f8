//! How weights are updated, as the settings say: the update rule and its schedule.

use crate::config::{Optimizer, OptimizerSettings};
use crate::optim::schedule::Schedule;
use crate::optim::{AdamW, Sgd, UpdateRule, WeightDecay};

/// Warm-up where none was given, in epochs, as the reference has it.
const WARMUP_EPOCHS: f64 = 5.0;

/// The schedule, and what is to be said about it: a warm-up that nobody asked for takes a tenth of the run at most.
pub(super) fn schedule(
    settings: &OptimizerSettings,
    total_steps: u64,
    steps_per_epoch: u64,
) -> (Schedule, Option<String>) {
    let steps = |epochs: f64| (epochs * steps_per_epoch as f64).round() as u64;
    let (usual, tenth) = (steps(WARMUP_EPOCHS), total_steps / 10);
    let (warmup_steps, told) = match settings.warmup_epochs {
        Some(epochs) => (steps(epochs), None),
        None if usual > tenth => {
            let told = format!(
                "warm-up is {tenth} of {total_steps} steps, a tenth of this short run instead of {WARMUP_EPOCHS} epochs; --warmup-epochs says otherwise"
            );
            (tenth, Some(told))
        }
        None => (usual, None),
    };
    let schedule = Schedule {
        kind: settings.lr_scheduler,
        lr: settings.lr,
        warmup_start_lr: settings.warmup_start_lr,
        warmup_steps,
        total_steps,
    };
    (schedule, told)
}

/// What decays: the weights of layers, and of the rest what is told, or with `bn-weight-decay` all of it alike.
fn decay(settings: &OptimizerSettings) -> WeightDecay {
    let weights = settings.weight_decay;
    let rest = if settings.bn_weight_decay { weights } else { 0.0 };
    WeightDecay {
        weights,
        norms: settings.norm_weight_decay.unwrap_or(rest),
        biases: settings.bias_weight_decay.unwrap_or(rest),
        embeddings: settings.transformer_embedding_decay.unwrap_or(rest),
    }
}

/// The update rule of these settings.
pub(super) fn rule(settings: &OptimizerSettings) -> Box<dyn UpdateRule> {
    let weight_decay = decay(settings);
    match settings.optimizer {
        Optimizer::Sgd => {
            let OptimizerSettings { momentum, nesterov, .. } = *settings;
            Box::new(Sgd { momentum, nesterov, weight_decay })
        }
        Optimizer::Adamw => Box::new(AdamW {
            beta1: settings.adam_beta1,
            beta2: settings.adam_beta2,
            epsilon: settings.adam_epsilon,
            weight_decay,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::schedule::LearningRate;

    #[test]
    fn a_warm_up_nobody_asked_for_takes_a_tenth_of_the_run_at_most() {
        let at = |warmup_epochs: Option<f64>, epochs: u64| {
            schedule(&OptimizerSettings { warmup_epochs, ..OptimizerSettings::default() }, 100 * epochs, 100)
        };
        let (long, told) = at(None, 90);
        assert_eq!((long.warmup_steps, told), (500, None));
        let (short, told) = at(None, 1);
        assert_eq!(short.warmup_steps, 10);
        assert!(short.at(20) > 0.0 && told.unwrap().contains("10 of 100 steps"));
        let (given, told) = at(Some(5.0), 1);
        assert_eq!((given.warmup_steps, told), (500, None), "what is given is obeyed");
    }

    #[test]
    fn each_optimizer_is_the_rule_of_its_name() {
        let of = |optimizer| rule(&OptimizerSettings { optimizer, ..OptimizerSettings::default() });
        assert_eq!((of(Optimizer::Sgd).name(), of(Optimizer::Sgd).buffers()), ("sgd", &["momentum"][..]));
        assert_eq!((of(Optimizer::Adamw).name(), of(Optimizer::Adamw).buffers().len()), ("adamw", 2));
    }

    #[test]
    fn layers_weights_decay_and_of_the_rest_what_is_told() {
        let settings = |bn_weight_decay, norm_weight_decay, bias_weight_decay| OptimizerSettings {
            weight_decay: 0.5,
            bn_weight_decay,
            norm_weight_decay,
            bias_weight_decay,
            ..OptimizerSettings::default()
        };
        for optimizer in [Optimizer::Sgd, Optimizer::Adamw] {
            let of = |bn, norms, biases| {
                rule(&OptimizerSettings { optimizer, ..settings(bn, norms, biases) }).decay()
            };
            assert_eq!(of(false, None, None), WeightDecay::of_weights(0.5));
            assert_eq!(of(true, None, None), WeightDecay::of_all(0.5));
            let told = WeightDecay { weights: 0.5, norms: 0.25, biases: 0.0, embeddings: 0.125 };
            assert_eq!(of(false, Some(0.25), None), WeightDecay { embeddings: 0.0, ..told });
            assert_eq!(of(true, Some(0.25), Some(0.0)), WeightDecay { embeddings: 0.5, ..told });
            let embeddings = OptimizerSettings {
                optimizer,
                transformer_embedding_decay: Some(0.125),
                ..settings(true, Some(0.25), Some(0.0))
            };
            assert_eq!(rule(&embeddings).decay(), told);
        }
    }
}
