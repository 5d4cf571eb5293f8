//! Whether ranks hold the same numbers, and where they stop.

use super::average::Average;
use super::{OptimError, Program};
use crate::exec::ExecError;
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

fn short(hash: Sha256) -> i64 {
    i64::from_le_bytes(hash.finalize()[..8].try_into().expect("a SHA-256 has 32 bytes"))
}

impl Program {
    /// SHA-256 of parameters, the update rule's state and the average, of ranges and statistics, and of where the program stands
    /// (steps, loss scale), shortened to 8 bytes each.
    pub(super) fn fingerprint(&self) -> Result<[i64; 3], ExecError> {
        let hash = |tensors: &[&Tensor]| -> Result<i64, ExecError> {
            let mut h = Sha256::new();
            for t in tensors {
                for x in Vec::<f32>::try_from(&t.f_to_device(Device::Cpu)?)? {
                    h.update(x.to_bits().to_le_bytes());
                }
            }
            Ok(short(h))
        };
        let short_of = |text: String| short(Sha256::new().chain_update(text));
        let averages = self.updater.average.iter().flat_map(Average::tensors);
        Ok([
            hash(
                &std::iter::once(&self.weights.flat)
                    .chain(self.state().tensors())
                    .chain(averages)
                    .collect::<Vec<_>>(),
            )?,
            hash(&[&self.weights.ranges, &self.weights.buffers])?,
            short_of(format!("{:?}", self.place())),
        ])
    }

    /// Whether any rank was asked to stop: the same answer on all, which call this in the same places. A rank that
    /// left alone would let the others wait in their next reduction.
    pub fn agree_to_stop(&self, asked: bool) -> Result<bool, OptimError> {
        self.reducer.any(asked, self.device())
    }

    /// Whether all ranks hold the same parameters, scales and statistics to the last bit.
    pub fn ensure_equal_ranks(&self) -> Result<(), OptimError> {
        if self.reducer.alone() {
            return Ok(());
        }
        let mine = Tensor::f_from_slice(&self.fingerprint()?)?.f_to_device(self.device())?;
        let all: Vec<Vec<i64>> = self
            .collective()
            .all_gather(&mine)?
            .iter()
            .map(|t| Vec::<i64>::try_from(&t.f_to_device(Device::Cpu)?))
            .collect::<Result<_, _>>()?;
        for (i, what) in ["parameters", "scales or BatchNorm statistics", "steps done or loss scale"]
            .into_iter()
            .enumerate()
        {
            let ranks: Vec<usize> = (0..all.len()).filter(|&r| all[r][i] != all[0][i]).collect();
            if !ranks.is_empty() {
                return Err(OptimError::Diverged { what: what.into(), ranks });
            }
        }
        Ok(())
    }
}
