//! What a training forward leaves behind besides its loss: BatchNorm's batch statistics and quantizers' maxima.

use super::{ExecError, WeightsLayout};
use crate::quant::observer::NonFinite;
use tch::{Device, Kind, Tensor};

/// Statistics of the microbatches a rank has run in one step.
pub struct Record {
    /// Batch statistics of the microbatch that runs, one slot a running statistic.
    pub(super) scratch: Vec<Tensor>,
    scratch_flat: Tensor,
    /// Sum over microbatches of the batch means and unbiased variances, `[buffers_len]`.
    pub stats: Tensor,
    /// Per quantizer: largest absolute value and count of non-finite values so far, `[quantizers, 2]`.
    pub maxima: Tensor,
}

impl Record {
    /// Empty.
    pub fn new(layout: &WeightsLayout, device: Device) -> Result<Self, ExecError> {
        let f32s = (Kind::Float, device);
        let scratch_flat = Tensor::f_zeros([layout.buffers_len], f32s)?;
        Ok(Self {
            scratch: WeightsLayout::views(&scratch_flat, &layout.buffers),
            scratch_flat,
            stats: Tensor::f_zeros([layout.buffers_len], f32s)?,
            maxima: Tensor::f_zeros([layout.quantizers.len() as i64, 2], f32s)?,
        })
    }

    /// Forgets all.
    pub fn clear(&mut self) -> Result<(), ExecError> {
        for t in [&mut self.stats, &mut self.maxima, &mut self.scratch_flat] {
            let _ = t.f_zero_()?;
        }
        Ok(())
    }

    /// Adds the microbatch's batch statistics to the sum.
    pub fn end_microbatch(&mut self) -> Result<(), ExecError> {
        let _ = self.stats.f_add_(&self.scratch_flat)?;
        Ok(())
    }

    /// What quantizer `index` has seen so far, to be raised in place: `[absmax over finite values, count of others]`.
    pub(super) fn row(&self, index: usize) -> Result<Tensor, ExecError> {
        Ok(self.maxima.f_get(index as i64)?)
    }

    /// Takes what quantizer `index` saw: `[absmax over finite values, count of others]`.
    pub(super) fn observe(&mut self, index: usize, seen: &Tensor) -> Result<(), ExecError> {
        let mut row = self.row(index)?;
        row.f_copy_(&row.f_maximum(seen)?)?;
        Ok(())
    }

    /// The maxima on the host; an error naming the first tensor that held NaN or infinity.
    pub fn host_maxima(maxima: &Tensor, layout: &WeightsLayout) -> Result<Vec<f32>, ExecError> {
        let host = Vec::<f32>::try_from(&maxima.f_to_device(Device::Cpu)?.f_flatten(0, -1)?)?;
        Self::finite_maxima(&host, layout)
    }

    /// The same of `maxima` as it was read from its device, row by row.
    pub fn finite_maxima(host: &[f32], layout: &WeightsLayout) -> Result<Vec<f32>, ExecError> {
        for (name, pair) in layout.quantizers.iter().zip(host.chunks_exact(2)) {
            if pair[1] > 0.0 {
                return Err(NonFinite { tensor: name.clone(), count: pair[1] as u64 }.into());
            }
        }
        Ok(host.chunks_exact(2).map(|pair| pair[0]).collect())
    }
}
