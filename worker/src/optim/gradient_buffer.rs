//! What ranks add up in a step, in one flat buffer.

use super::buckets::{Bucket, plan_buckets};
use super::departures::Destination;
use super::under_way::UnderWay;
use super::{AfterStep, OptimError, Sharing};
use crate::collective::Collective;
use crate::exec::{ExecError, Record, WeightsLayout};
use crate::strategy::ReduceType;
use tch::{Device, Kind, TchError, Tensor};

/// Sums over microbatches besides gradients and statistics, on the host.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Sums {
    /// Of the microbatches' mean losses.
    pub loss: f64,
    /// Images predicted right.
    pub correct: f64,
    /// Images.
    pub images: f64,
    /// What ranks want to be done after the step: the sum of their [`AfterStep::weight`].
    pub after: f64,
}

/// Elements of [`Sums`].
const SUMS: i64 = 4;

/// Gradients, BatchNorm's statistics, gradients of learned scales and [`Sums`], in this order, FP32. Parameters' gradients
/// are views, so that whole ranges are reduced and updated. What a forward records goes beside them.
pub(super) struct GradientBuffer {
    /// BatchNorm's statistics and the quantizers' maxima of this rank's microbatches.
    pub record: Record,
    flat: Tensor,
    /// Whether no microbatch's gradients have come since they were forgotten: the next are copied, not added to zeros.
    fresh: bool,
    views: Vec<Tensor>,
    buckets: Vec<Bucket>,
    /// Elements of the gradients, the statistics and the learned scales.
    parts: [i64; 3],
}

impl GradientBuffer {
    /// Zeros for a network and `learned` scales, reduced as `sharing` says.
    pub fn new(
        layout: &WeightsLayout,
        learned: i64,
        sharing: &Sharing,
        device: Device,
    ) -> Result<Self, ExecError> {
        let Sharing { bucket_bytes, reduce_type, .. } = *sharing;
        let tail = layout.buffers_len + learned + SUMS;
        let flat = Tensor::f_zeros([layout.trainable_len + tail], (Kind::Float, device))?;
        Ok(Self {
            record: Record::new(layout, device)?,
            views: WeightsLayout::views(&flat, &layout.trainable),
            buckets: plan_buckets(layout, tail, bucket_bytes, reduce_type),
            parts: [layout.trainable_len, layout.buffers_len, learned],
            flat,
            fresh: true,
        })
    }

    /// Zeros for the same network, `layout`, in one piece.
    pub fn another(&self, layout: &WeightsLayout, device: Device) -> Result<Self, ExecError> {
        let sharing = Sharing { microbatches: 0, bucket_bytes: usize::MAX, reduce_type: ReduceType::Fp32 };
        Self::new(layout, self.parts[2], &sharing, device)
    }

    fn part(&self, index: usize) -> Tensor {
        let start = self.parts[..index].iter().sum();
        self.flat.narrow(0, start, self.parts.get(index).copied().unwrap_or(SUMS))
    }

    /// Forgets all: without a microbatch the sums are zeros.
    pub fn clear(&mut self) -> Result<(), ExecError> {
        self.fresh = true;
        self.record.clear()?;
        let tail = self.flat.f_narrow(0, self.parts[0], self.flat.numel() as i64 - self.parts[0])?;
        Ok(tail.shallow_clone().f_zero_().map(drop)?)
    }

    /// The buffer, its buckets, and where the parameters' gradients of the next microbatch go, which is then no more to be added.
    pub fn destinations(&mut self) -> (Tensor, Vec<Bucket>, Vec<Destination>) {
        let copies = std::mem::take(&mut self.fresh);
        let mut all = Vec::with_capacity(self.views.len());
        let mut offset = 0;
        for view in &self.views {
            let bucket = self.buckets.partition_point(|b| b.offset + b.len <= offset);
            offset += view.numel() as i64;
            all.push(Destination { view: view.shallow_clone(), copies, bucket });
        }
        (self.flat.shallow_clone(), self.buckets.clone(), all)
    }

    /// Adds the gradients of a microbatch: those of the parameters, then, if they are learned, of the scales.
    pub fn add(&mut self, gradients: &[Tensor]) -> Result<(), TchError> {
        let (_, _, destinations) = self.destinations();
        for (mut destination, gradient) in destinations.into_iter().zip(gradients) {
            destination.take(gradient)?;
        }
        self.add_scales(gradients)
    }

    /// The same of those of the scales alone.
    pub fn add_scales(&mut self, gradients: &[Tensor]) -> Result<(), TchError> {
        if let Some(scales) = gradients.get(self.views.len()) {
            let _ = self.scales().f_add_(scales)?;
        }
        Ok(())
    }

    /// Adds a microbatch's mean loss and the number of its images that were predicted right, both of one element, where they lie:
    /// nobody waits for them.
    pub fn add_results(&mut self, loss: &Tensor, correct: &Tensor, images: i64) -> Result<(), TchError> {
        let sums = self.part(3);
        let _ = sums.f_get(0)?.f_add_(&loss.f_detach()?.f_reshape([0i64; 0])?)?;
        let _ = sums.f_get(1)?.f_add_(correct)?;
        let _ = sums.f_get(2)?.f_add_scalar_(images as f64)?;
        Ok(())
    }

    /// Takes what was recorded, and what this rank wants to be done after the step.
    pub fn put(&mut self, after: AfterStep) -> Result<(), TchError> {
        if self.fresh {
            let _ = self.gradients().f_zero_()?;
        }
        self.statistics().f_copy_(&self.record.stats)?;
        self.part(3).f_get(3)?.f_fill_(after.weight()).map(drop)
    }

    /// Starts to add up over all ranks what has not left yet, bucket by bucket, behind what has.
    pub fn start_rest(
        &self,
        collective: &dyn Collective,
        under_way: &mut Vec<UnderWay>,
    ) -> Result<(), OptimError> {
        for bucket in &self.buckets[under_way.len()..] {
            under_way.push(UnderWay::bucket(collective, &self.flat, *bucket)?);
        }
        Ok(())
    }

    /// The parameters' gradients, one a parameter, in the layout's order.
    pub fn views(&self) -> &[Tensor] {
        &self.views
    }

    /// The same, flat.
    pub fn gradients(&self) -> Tensor {
        self.part(0)
    }

    /// BatchNorm's statistics, `[buffers_len]`.
    pub fn statistics(&self) -> Tensor {
        self.part(1)
    }

    /// Gradients of learned scales, `[quantizers]`, or empty.
    pub fn scales(&self) -> Tensor {
        self.part(2)
    }

    /// What a step is decided by, read from the device at once: the sums, the Euclidean norm of the gradients, those of learned
    /// scales among them, as they were summed, and the numbers of `besides`, FP32, one tensor after the other.
    pub fn read(&self, besides: &[Tensor]) -> Result<(Sums, f64, Vec<f32>), TchError> {
        let norm = |t: Tensor| t.f_norm()?.f_view([1]);
        let mut all = vec![self.part(3), norm(self.gradients())?, norm(self.scales())?];
        besides.iter().try_for_each(|t| t.f_view([-1]).map(|t| all.push(t)))?;
        let mut host = Vec::<f32>::try_from(&Tensor::f_cat(&all, 0)?.f_to_device(Device::Cpu)?)?;
        let rest = host.split_off(SUMS as usize + 2);
        let host: Vec<f64> = host.into_iter().map(f64::from).collect();
        let [loss, correct, images, after, norm, of_scales] = host[..] else {
            unreachable!("there are {SUMS} sums and two norms")
        };
        // Without scales the one number as it is.
        Ok((Sums { loss, correct, images, after }, norm.hypot(of_scales), rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Local;
    use crate::models;

    #[test]
    fn parts_do_not_overlap_and_gradients_are_views() {
        let layout = WeightsLayout::new(&models::build("ResNet20", [3, 32, 32], 10).unwrap());
        let sharing = Sharing { microbatches: 1, bucket_bytes: 1 << 16, reduce_type: ReduceType::Fp32 };
        let mut buffer = GradientBuffer::new(&layout, 5, &sharing, Device::Cpu).unwrap();
        let mut gradients: Vec<Tensor> = buffer.views().iter().map(Tensor::ones_like).collect();
        gradients.push(Tensor::full([5], 2.0, (Kind::Float, Device::Cpu)));
        let _ = buffer.record.stats.fill_(3.0);
        let sums = Sums { loss: 4.0, correct: 5.0, images: 6.0, after: AfterStep::Stop.weight() };
        for (loss, correct, images) in [(1.5, 2, 2), (2.5, 3, 4)] {
            buffer.add(&gradients).unwrap();
            buffer.add_results(&Tensor::from(loss), &Tensor::from(i64::from(correct)), images).unwrap();
        }
        buffer.put(AfterStep::Stop).unwrap();
        let mut under_way = Vec::new();
        buffer.start_rest(&Local, &mut under_way).unwrap();
        assert_eq!(under_way.len(), buffer.buckets.len());
        let all = |t: Tensor, value: f64| t.numel() > 0 && t.eq(value).all().int64_value(&[]) == 1;
        assert!(all(buffer.gradients(), 2.0) && all(buffer.scales(), 4.0) && all(buffer.statistics(), 3.0));
        let besides = Tensor::from_slice(&[7.0f32, 8.0]);
        let (read, norm, rest) = buffer.read(&[besides.shallow_clone(), besides]).unwrap();
        assert_eq!((read, rest), (sums, vec![7.0, 8.0, 7.0, 8.0]));
        let elements = layout.trainable_len as f64;
        assert!((norm / (4.0 * elements + 16.0 * 5.0).sqrt() - 1.0).abs() < 1e-6);
        buffer.clear().unwrap();
        buffer.put(AfterStep::GoOn).unwrap();
        assert!(all(buffer.gradients(), 0.0) && all(buffer.statistics(), 0.0) && all(buffer.scales(), 0.0));
        assert_eq!(buffer.read(&[]).unwrap(), (Sums::default(), 0.0, vec![]));
    }
}
