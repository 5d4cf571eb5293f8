//! What an update rule and a loss are.

use super::{Decayed, WeightDecay};
use tch::{Reduction, TchError, Tensor};

/// One update of flat weights; all tensors are `[n]`, FP32, on one device.
#[derive(Debug)]
pub struct Update<'a> {
    /// What is updated, in place.
    pub weights: &'a Tensor,
    /// The rule's state, updated in place: one tensor for each of [`UpdateRule::buffers`], in their order; zeros before the
    /// first update.
    pub buffers: &'a [Tensor],
    /// Means over the global batch; they may be overwritten.
    pub gradients: &'a Tensor,
    /// The pieces of the weights that decay, as [`UpdateRule::decay`] says.
    pub decayed: &'a [Decayed],
    /// Learning rate.
    pub lr: f64,
    /// Which update it is, from 1; steps whose update was skipped do not count.
    pub count: u64,
}

/// How weights follow their gradients. A rule is called for the weights and, where scales are learned, for these too, with
/// buffers of their own.
pub trait UpdateRule: Send {
    /// Its name, for people, e.g. `sgd`.
    fn name(&self) -> &'static str;

    /// Names of the numbers it keeps for every weight from step to step, e.g. `momentum`. Checkpoints hold the buffers under
    /// these names, so that they are part of a rule's format.
    fn buffers(&self) -> &'static [&'static str];

    /// Whether [`Update::count`] matters to it, so that checkpoints hold it too.
    fn counts(&self) -> bool {
        false
    }

    /// Updates weights and buffers.
    fn update(&self, update: Update) -> Result<(), TchError>;

    /// What decays, and how much of it: [`Update::decayed`] follows from it. Nothing does unless a rule says so.
    fn decay(&self) -> WeightDecay {
        WeightDecay::default()
    }
}

/// A rule that is chosen at run time.
impl UpdateRule for Box<dyn UpdateRule> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn buffers(&self) -> &'static [&'static str] {
        (**self).buffers()
    }

    fn counts(&self) -> bool {
        (**self).counts()
    }

    fn update(&self, update: Update) -> Result<(), TchError> {
        (**self).update(update)
    }

    fn decay(&self) -> WeightDecay {
        (**self).decay()
    }
}

/// What is minimised.
pub trait Loss: Send {
    /// The mean loss of a microbatch, a scalar, differentiable by `logits` `[b, classes]` (FP32). `labels` are `[b]`,
    /// 64-bit integers.
    fn loss(&self, logits: &Tensor, labels: &Tensor) -> Result<Tensor, TchError>;
}

/// Softmax cross-entropy with label smoothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CrossEntropy {
    /// Share of the target spread evenly over all classes.
    pub label_smoothing: f64,
}

impl Loss for CrossEntropy {
    fn loss(&self, logits: &Tensor, labels: &Tensor) -> Result<Tensor, TchError> {
        logits.f_cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, self.label_smoothing)
    }
}
