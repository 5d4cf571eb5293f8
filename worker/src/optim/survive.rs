//! A program whose ranks change: what lives from one group of ranks to the next, and how the numbers of one rank become
//! those of all.

use super::average::Average;
use super::loss_scale::LossScale;
use super::{OptimError, Program};
use crate::collective::Collective;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

/// What a program is besides its tensors: where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Steps done.
    step: u64,
    /// A dynamic loss scale, by its bits, which no text rounds, and the good steps since it last changed.
    scale: Option<(u64, u32)>,
    /// Updates done.
    updates: u64,
    /// The average of the weights has begun.
    averaged: bool,
    /// The step before which BatchNorm's statistics were estimated anew.
    estimated: Option<u64>,
}

impl Program {
    /// Goes on with other ranks, of which this is one. All else is as it was: a step that failed has changed nothing.
    pub fn regroup(&mut self, collective: Box<dyn Collective>) {
        self.reducer.collective = collective.into();
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        Place {
            step: self.global_step,
            scale: match self.updater.loss_scale {
                LossScale::Dynamic { scale, good } => Some((scale.to_bits(), good)),
                LossScale::Off | LossScale::Static(_) => None,
            },
            updates: self.updater.state.updates,
            averaged: self.average().is_some(),
            estimated: self.quantization.estimated,
        }
    }

    /// Takes on the state of rank `source`, which stands at `place`: tensors come over the collective, and only where a
    /// rank's differ. Every rank calls it; whether any numbers had to be sent.
    ///
    /// # Errors
    /// Where a call of the collective fails; nothing was changed then.
    pub fn follow_rank(&mut self, source: usize, place: Place) -> Result<bool, OptimError> {
        let _guard = tch::no_grad_guard();
        let differ = !self.reducer.alone() && self.differs_from(source)?;
        if differ {
            let averages = self.updater.average.iter().flat_map(Average::tensors);
            let own = [&self.weights.flat, &self.weights.buffers, &self.weights.ranges];
            let all = own.into_iter().chain(self.updater.state.tensors()).chain(averages);
            let mine = self.reducer.collective.rank() == source;
            let mut come = Vec::new();
            for tensor in all.filter(|t| t.numel() > 0) {
                let sent = if mine { tensor.shallow_clone() } else { tensor.f_zeros_like()? };
                self.reducer.collective.broadcast(&sent, source)?;
                come.push((tensor.shallow_clone(), sent));
            }
            // All or none: a rank that has a part of them would pass for one that stands there.
            for (mut own, sent) in come.into_iter().filter(|_| !mine) {
                own.f_copy_(&sent)?;
            }
        }
        self.global_step = place.step;
        if let Some((scale, good)) = place.scale {
            self.updater.loss_scale = LossScale::Dynamic { scale: f64::from_bits(scale), good };
        }
        self.updater.state.updates = place.updates;
        if let Some(average) = &mut self.updater.average {
            average.begin(place.averaged);
        }
        self.quantization.estimated = place.estimated;
        Ok(differ)
    }

    /// Whether any rank holds other tensors than rank `source`.
    fn differs_from(&self, source: usize) -> Result<bool, OptimError> {
        // Where each stands is known, and set anyhow.
        let mine = Tensor::f_from_slice(&self.fingerprint()?[..2])?.f_to_device(self.device())?;
        let all: Vec<Vec<i64>> = self
            .collective()
            .all_gather(&mine)?
            .iter()
            .map(|t| Vec::<i64>::try_from(&t.f_to_device(Device::Cpu)?))
            .collect::<Result<_, _>>()?;
        Ok(all.iter().any(|rank| all.get(source) != Some(rank)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{Abort, Gloo, Local, MemoryStore};
    use crate::models;
    use crate::optim::schedule::Schedule;
    use crate::optim::{CrossEntropy, DistributedOptimizer, Microbatch, Sgd};
    use crate::strategy::{Averaging, Qat, Strategy};
    use std::sync::Arc;
    use std::time::Duration;
    use tch::Kind;

    fn program(seed: u64) -> Program {
        let strategy = Strategy { qat: Some(Qat::default()), ..Strategy::default() };
        DistributedOptimizer::new(Sgd { momentum: 0.9, ..Sgd::default() }, strategy, Box::new(Local))
            .schedule(Schedule { total_steps: 8, ..Schedule::constant(0.05) })
            .loss_scale(LossScale::Dynamic { scale: 8.0, good: 0 })
            .averaging(Some(Averaging { decay: 0.5, every: 1, warmup: 0 }))
            .seed(seed)
            .minimize(models::build("ResNet20", [3, 32, 32], 10).unwrap(), CrossEntropy::default())
            .unwrap()
    }

    fn step(program: &mut Program) {
        tch::manual_seed(1);
        let images = Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
        let labels = Tensor::arange(4, (Kind::Int64, Device::Cpu));
        program.step(&[Microbatch { images: &images, labels: &labels }]).unwrap();
    }

    #[test]
    fn the_state_of_one_rank_becomes_that_of_all_to_the_last_bit() {
        let store = Arc::new(MemoryStore::default());
        // Rank 0 has nothing of it, and rank 1 is three steps further.
        let ranks: Vec<_> = [0, 1]
            .map(|rank| {
                let store = Arc::clone(&store);
                std::thread::spawn(move || {
                    let mut program = program(rank as u64);
                    if rank == 1 {
                        (0..3).for_each(|_| step(&mut program));
                    }
                    let told = Arc::clone(&store);
                    let place = match rank {
                        1 => program.place(),
                        _ => Place {
                            step: 3,
                            scale: Some((8f64.to_bits(), 3)),
                            updates: 3,
                            averaged: true,
                            estimated: None,
                        },
                    };
                    let connect = || {
                        let abort = Abort::new();
                        Gloo::connect(told.clone(), rank, 2, "127.0.0.1", Duration::from_secs(60), &abort)
                            .unwrap()
                    };
                    program.regroup(Box::new(connect()));
                    let sent = program.follow_rank(1, place).unwrap();
                    program.ensure_equal_ranks().unwrap();
                    let again = program.follow_rank(1, place).unwrap();
                    (sent, again, program.place(), program.global_step, program.average().is_some())
                })
            })
            .into_iter()
            .map(|t| t.join().unwrap())
            .collect();
        assert_eq!(ranks[0], ranks[1]);
        let (sent, again, _, step, averaged) = ranks[0];
        assert_eq!((sent, again, step, averaged), (true, false, 3, true), "what is equal is not sent");
    }
}
