//! The exponential moving average of the weights (Polyak and Juditsky, SIAM J. Control Optim. 30:838, 1992), of BatchNorm's
//! statistics and of the quantizers' ranges with them, so that it is a network of its own.

use crate::exec::{ExecError, Weights};
use crate::strategy::Averaging;
use tch::Tensor;

/// An average beside the weights that are trained.
pub(super) struct Average {
    averaging: Averaging,
    /// In the layout of those that are trained.
    weights: Weights,
    /// Whether there has been an update.
    begun: bool,
}

impl Average {
    /// One that begins with the first update; `room` are weights of the layout of those that are trained, whose numbers do
    /// not matter.
    pub fn new(averaging: Averaging, room: Weights) -> Self {
        Self { averaging, weights: room, begun: false }
    }

    /// The average; none before the first update.
    pub fn get(&self) -> Option<&Weights> {
        self.begun.then_some(&self.weights)
    }

    /// As [`Self::get`], to be changed.
    pub fn get_mut(&mut self) -> Option<&mut Weights> {
        self.begun.then_some(&mut self.weights)
    }

    /// Goes on from an average, or, where there is none, begins anew: then the next update copies the weights.
    pub fn restore(&mut self, average: Option<&crate::checkpoint::State>) -> Result<(), ExecError> {
        self.begun = average.is_some();
        if let Some(state) = average {
            self.weights.load(state)?;
        }
        Ok(())
    }

    /// Whether there has been an update is what it is elsewhere, where the numbers are from.
    pub fn begin(&mut self, begun: bool) {
        self.begun = begun;
    }

    /// After step `step`, from 0, which may have been skipped: one that is followed by an update moves the average.
    pub fn after(&mut self, step: u64, trained: &Weights) -> Result<(), tch::TchError> {
        let Some(kept) = self.averaging.kept(step) else { return Ok(()) };
        self.weights.follow(trained, if self.begun { kept } else { 0.0 })?;
        self.begun = true;
        Ok(())
    }

    /// All its numbers.
    pub fn tensors(&self) -> [&Tensor; 3] {
        [&self.weights.flat, &self.weights.buffers, &self.weights.ranges]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Local;
    use crate::graph::Graph;
    use crate::models;
    use crate::optim::schedule::Schedule;
    use crate::optim::{CrossEntropy, DistributedOptimizer, Microbatch, Program, Sgd};
    use crate::strategy::{Freeze, Qat, Strategy};
    use tch::{Device, Kind};

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn network() -> Graph {
        models::build("ResNet20", [3, 32, 32], 10).unwrap()
    }

    fn program(averaging: Option<Averaging>, qat: Option<Qat>) -> Program {
        let strategy = Strategy { qat, ..Strategy::default() };
        DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local))
            .schedule(Schedule { total_steps: 4, ..Schedule::constant(0.05) })
            .averaging(averaging)
            .minimize(network(), CrossEntropy::default())
            .unwrap()
    }

    /// Images without pattern that `number` decides, and nothing that other tests draw from at once.
    fn images(number: i64) -> Tensor {
        let wave = ((Tensor::arange(4 * 3 * 32 * 32, FLOAT) + 1.0) * (12.9 + number as f64)).sin();
        ((wave * 43758.5).frac() * 1.7).view([4, 3, 32, 32])
    }

    fn step(program: &mut Program, number: i64) {
        let (images, labels) = (images(number), Tensor::arange(4, (Kind::Int64, Device::Cpu)));
        program.step(&[Microbatch { images: &images, labels: &labels }]).unwrap();
    }

    fn equal(a: &Weights, b: &Weights) -> bool {
        a.flat.equal(&b.flat) && a.buffers.equal(&b.buffers) && a.ranges.equal(&b.ranges)
    }

    fn preprocessing() -> crate::data::Preprocessing {
        crate::data::Preprocessing::of(&crate::config::DataSettings::default())
    }

    fn saved(program: &Program) -> crate::checkpoint::Snapshot {
        program
            .snapshot(
                ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].map(String::from).to_vec(),
                preprocessing(),
            )
            .unwrap()
    }

    const HALF: Averaging = Averaging { decay: 0.5, every: 2, warmup: 0 };

    #[test]
    fn an_average_follows_weights_statistics_and_learned_ranges_and_changes_nothing_of_training() {
        let qat = || Some(Qat { learn_scales: true, ..Qat::default() });
        let (mut with, mut without) = (program(Some(HALF), qat()), program(None, qat()));
        assert!(with.average().is_none() && equal(with.network(), &with.weights));
        let mut want: Option<[Tensor; 3]> = None;
        for number in 0..4 {
            step(&mut with, number);
            step(&mut without, number);
            assert!(equal(&with.weights, &without.weights), "step {number}");
            let now = [&with.weights.flat, &with.weights.buffers, &with.weights.ranges].map(Tensor::copy);
            want = match want {
                None => Some(now),
                Some(want) if number % 2 == 0 => {
                    Some(std::array::from_fn(|i| &want[i] * 0.5 + &now[i] * 0.5))
                }
                same => same,
            };
            let average = with.updater.average.as_ref().unwrap();
            for (got, want) in average.tensors().into_iter().zip(want.as_ref().unwrap()) {
                assert!(got.allclose(want, 1e-6, 1e-9, false), "step {number}");
            }
        }
        assert!(!equal(with.average().unwrap(), &with.weights));
    }

    #[test]
    fn a_program_goes_on_with_its_average_and_one_that_has_none_yet_begins_it() {
        let mut whole = program(Some(HALF), None);
        (0..4).for_each(|number| step(&mut whole, number));
        let mut first = program(Some(HALF), None);
        (0..2).for_each(|number| step(&mut first, number));
        let stored = saved(&first);
        assert!(stored.unaveraged.is_some());
        let folder = tempfile::tempdir().unwrap();
        let stored =
            crate::checkpoint::load(&crate::checkpoint::save(folder.path(), &stored).unwrap()).unwrap();
        assert!(stored.manifest.averaged());
        let mut second = program(Some(HALF), None);
        second.restore(&stored).unwrap();
        assert!(equal(second.average().unwrap(), first.average().unwrap()));
        (2..4).for_each(|number| step(&mut second, number));
        assert!(equal(&second.weights, &whole.weights));
        assert!(equal(second.average().unwrap(), whole.average().unwrap()));
        // Who keeps none goes on with the weights, not with their average.
        let mut plain = program(None, None);
        plain.restore(&stored).unwrap();
        assert!(equal(&plain.weights, &first.weights) && saved(&plain).unaveraged.is_none());
        let mut begins = program(Some(HALF), None);
        begins.restore(&saved(&plain)).unwrap();
        assert!(begins.average().is_none());
        step(&mut begins, 2);
        assert!(equal(begins.average().unwrap(), &begins.weights), "the first update copies");
    }

    #[test]
    fn what_is_equal_stays_so_and_a_range_that_was_not_known_is_taken() {
        let weights = || {
            let mut weights = program(None, Some(Qat::default())).weights;
            let _ = weights.ranges.fill_(0.1);
            let _ = weights.buffers.fill_(1.0 / 3.0);
            weights
        };
        let (mut average, mut trained) = (weights(), weights());
        for _ in 0..100 {
            average.follow(&trained, 0.9).unwrap();
        }
        assert!(equal(&average, &trained));
        let _ = average.ranges.get(0).fill_(-1.0);
        let _ = trained.flat.fill_(2.0);
        let before = average.flat.copy();
        average.follow(&trained, 0.75).unwrap();
        assert!(average.ranges.equal(&trained.ranges));
        assert!(average.flat.allclose(&(before * 0.75 + 0.5), 1e-6, 1e-7, false));
    }

    #[test]
    fn statistics_anew_are_those_of_each_network() {
        let qat = Qat { freeze_bn: Freeze::Never, bn_images: 4, ..Qat::default() };
        let mut program = program(Some(HALF), Some(qat));
        (0..3).for_each(|number| step(&mut program, number));
        let images = images(3);
        assert!(program.reestimate_batch_norm(&[(0, images.shallow_clone())], 1, &|| false).unwrap());
        let of_trained = program.weights.buffers.copy();
        let average = program.average().unwrap();
        assert!(!average.buffers.equal(&of_trained));
        // The first BatchNorm sees one convolution of the images: what that makes of them, by either's weights.
        let conv = |weights: &Weights| {
            images.conv2d::<Tensor>(&weights.get("conv1.weight").unwrap(), None, 1, 1, 1, 1)
        };
        for weights in [&program.weights, average] {
            let mean = conv(weights).mean_dim([0i64, 2, 3].as_slice(), false, Kind::Float);
            let got = weights.get("bn1.running_mean").unwrap();
            // Both are quantized.
            assert!(
                (got - &mean).abs().max().double_value(&[])
                    < 0.02 * mean.abs().max().double_value(&[]) + 0.01
            );
        }
    }
}
