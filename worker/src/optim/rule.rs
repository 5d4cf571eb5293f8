//! What an update rule and a loss are.

use tch::{Reduction, TchError, Tensor};

/// How weights follow their gradients, with one momentum buffer that checkpoints hold. A rule that needs more state than
/// that, Adam's second moment for one, cannot be written against it yet: it is called for the weights and, where scales are
/// learned, for these too, with buffers of their own lengths.
pub trait UpdateRule: Send {
    /// Updates flat `weights` and their `momentum` buffer in place from flat `gradients`, which may be overwritten. The
    /// first `decayed` elements decay. All `[n]`, FP32, on one device; gradients are means over the global batch.
    fn update(
        &self,
        weights: &Tensor,
        momentum: &Tensor,
        gradients: &Tensor,
        decayed: i64,
        lr: f64,
    ) -> Result<(), TchError>;

    /// Whether BatchNorm's parameters and biases decay too.
    fn decays_all(&self) -> bool {
        false
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
