//! Where a step's time goes.

use std::time::{Duration, Instant};

/// A part of a step. On a GPU, which is given work ahead of time, the time of a part is what this thread takes for it, waits
/// included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Forward and loss, and before the first one whatever a step begins with.
    Forward,
    /// Backward, and adding its gradients to those of the microbatches before.
    Backward,
    /// Reduction over all ranks that nothing else hides: doing it, and waiting for others.
    Reduce,
    /// What the sums change: norm, update rule, statistics, averages.
    Update,
}

/// When a stage began and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Which it was.
    pub stage: Stage,
    /// Its begin.
    pub begun: Instant,
    /// Its end.
    pub ended: Instant,
}

/// Measures a step, whose stages follow one another without a gap.
#[derive(Debug)]
pub(super) struct Stopwatch {
    last: Instant,
    spans: Vec<Span>,
}

impl Stopwatch {
    /// From now on.
    pub fn start() -> Self {
        Self { last: Instant::now(), spans: Vec::new() }
    }

    /// What was done since the start, or since the last call, was `stage`.
    pub fn lap(&mut self, stage: Stage) {
        let now = Instant::now();
        self.spans.push(Span { stage, begun: self.last, ended: now });
        self.last = now;
    }

    /// All stages, in order.
    pub fn spans(self) -> Vec<Span> {
        self.spans
    }
}

/// Time of all spans of a stage.
pub(super) fn total(spans: &[Span], stage: Stage) -> Duration {
    spans.iter().filter(|s| s.stage == stage).map(|s| s.ended - s.begun).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Local;
    use crate::models;
    use crate::optim::{CrossEntropy, DistributedOptimizer, Microbatch, Sgd, Sharing};
    use crate::strategy::{ReduceType, Strategy};
    use tch::{Device, Kind, Tensor};

    #[test]
    fn stages_follow_one_another_and_add_up_to_the_step() {
        let mut watch = Stopwatch::start();
        let begun = watch.last;
        for stage in [Stage::Forward, Stage::Backward, Stage::Forward, Stage::Backward, Stage::Update] {
            watch.lap(stage);
        }
        let ended = watch.last;
        let spans = watch.spans();
        assert!(spans.windows(2).all(|pair| pair[0].ended == pair[1].begun));
        assert_eq!((spans[0].begun, spans[4].ended), (begun, ended));
        let of = |stage| total(&spans, stage);
        assert_eq!(of(Stage::Forward) + of(Stage::Backward) + of(Stage::Update), ended - begun);
        assert_eq!(of(Stage::Reduce), Duration::ZERO);
    }

    #[test]
    fn a_step_says_where_its_time_went() {
        let network = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        let optimizer = DistributedOptimizer::new(Sgd::default(), Strategy::default(), Box::new(Local));
        let sharing = Sharing { microbatches: 2, bucket_bytes: 1 << 20, reduce_type: ReduceType::Fp32 };
        let optimizer = optimizer.sharing(sharing);
        let mut program = optimizer.minimize(network, CrossEntropy::default()).unwrap();
        let images = Tensor::zeros([2, 3, 32, 32], (Kind::Float, Device::Cpu));
        let labels = Tensor::zeros([2], (Kind::Int64, Device::Cpu));
        let step = [(); 2].map(|()| Microbatch { images: &images, labels: &labels });
        let outcome = program.step(&step).unwrap();
        let stages: Vec<Stage> = outcome.spans.iter().map(|s| s.stage).collect();
        use Stage::{Backward, Forward, Reduce, Update};
        assert_eq!(stages, [Forward, Backward, Forward, Backward, Backward, Reduce, Update]);
        assert!(outcome.spans.windows(2).all(|pair| pair[0].ended == pair[1].begun));
        assert!([Forward, Backward, Update].iter().all(|stage| outcome.time(*stage) > Duration::ZERO));
    }
}
