//! Ranges from what a floating-point network makes of images: the one way to find them, whoever hands the images out.
//!
//! It takes two walks over the images. In the first [`Record`](super::Record) has the largest absolute value of every quantizer
//! in each microbatch. The second is for observers that want histograms: [`Counts`] counts all values up to the largest of
//! the first.

use super::{Evaluator, ExecError, WeightsLayout};
use crate::graph::{Node, Op};
use crate::quant::histogram::{BINS, Histogram};
use crate::quant::observer::RangeObserver;
use crate::quant::scheme::Scheme;
use tch::{Device, Kind, Tensor};

/// Values counted at a time, so that no copies of a whole activation are made.
const PIECE: i64 = 1 << 23;

/// How many absolute values of every quantizer lie in which bin below its largest.
pub struct Counts {
    tops: Vec<f32>,
    /// `[quantizers, BINS + 1]`, 64-bit integers on the host: bins over `[0, largest]`, then exact zeros. The counts of all
    /// images are the sum of those of all ranks.
    pub bins: Tensor,
}

impl Counts {
    /// Nothing counted yet. `maxima` has for every quantizer the absolute maxima of all microbatches.
    pub fn new(maxima: &[Vec<f32>]) -> Result<Self, ExecError> {
        let tops: Vec<f32> = maxima.iter().map(|m| m.iter().copied().fold(0.0, f32::max)).collect();
        let bins = Tensor::f_zeros([tops.len() as i64, BINS as i64 + 1], (Kind::Int64, Device::Cpu))?;
        Ok(Self { tops, bins })
    }

    /// Counts what `network` makes of `images` (`[b, C, H, W]`); `layout` is that of its weights.
    ///
    /// # Errors
    /// Those of a forward, and what libtorch refuses in counting, with the node's name.
    pub fn add(
        &mut self,
        network: &Evaluator,
        layout: &WeightsLayout,
        images: &Tensor,
    ) -> Result<(), ExecError> {
        let mut failed = None;
        let mut watch = |node: &Node, value: &Tensor| {
            if let Op::Quantize(q) = &node.op
                && let Some(i) = layout.quantizer_index(&q.name)
                && let Err(e) = count(value, self.tops[i], &self.bins.get(i as i64))
            {
                failed.get_or_insert((node.name.clone(), e));
            }
        };
        let _ = network.watched(images, Some(&mut watch))?;
        match failed {
            Some((node, source)) => Err(ExecError::Node { node, source }),
            None => Ok(()),
        }
    }

    /// One histogram a quantizer, in the order of the layout.
    pub fn histograms(self) -> Result<Vec<Histogram>, ExecError> {
        let host = Vec::<i64>::try_from(&self.bins.f_flatten(0, -1)?)?;
        let rows = host.chunks_exact(BINS + 1).zip(self.tops);
        let histogram = |(row, absmax): (&[i64], f32)| Histogram {
            absmax,
            zeros: row[BINS] as u64,
            counts: row[..BINS].iter().map(|&c| c as u64).collect(),
        };
        Ok(rows.map(histogram).collect())
    }
}

/// For every quantizer of `schemes` the range that `observer` gives it from its `maxima`, an absolute maximum a microbatch; none
/// where the range is `known`, or there are no maxima. `histograms` has one a quantizer where the observer wants them, and may be empty
/// where it does not.
///
/// # Panics
/// When the observer asks for a histogram although it does not want any.
pub fn calibrated(
    observer: &dyn RangeObserver,
    schemes: &[Scheme],
    known: &[Option<f32>],
    maxima: &[Vec<f32>],
    histograms: &[Histogram],
) -> Vec<Option<f32>> {
    let range = |(i, maxima): (usize, &Vec<f32>)| {
        let mut histogram = || {
            histograms.get(i).cloned().expect("an observer that asks for a histogram says that it wants them")
        };
        (known[i].is_none() && !maxima.is_empty())
            .then(|| observer.calibrated(schemes[i], maxima, &mut histogram))
    };
    maxima.iter().enumerate().map(range).collect()
}

/// Adds the absolute values of a tensor to `counts`: bins over `[0, top]`, then exact zeros.
fn count(value: &Tensor, top: f32, counts: &Tensor) -> Result<(), tch::TchError> {
    let flat = value.f_detach()?.f_contiguous()?.f_view([-1])?.f_to_kind(Kind::Float)?.f_abs()?;
    let zeros = flat.f_eq(0.0)?.f_sum(Kind::Int64)?.f_to_device(Device::Cpu)?;
    let _ = counts.f_narrow(0, BINS as i64, 1)?.f_add_(&zeros)?;
    if top == 0.0 {
        return Ok(());
    }
    for piece in flat.f_split(PIECE, 0)? {
        let part = piece
            .f_masked_select(&piece.f_gt(0.0)?)?
            .f_to_kind(Kind::Double)?
            .f_div_scalar(f64::from(top))?;
        let bins = part.f_mul_scalar(BINS as f64)?.f_to_kind(Kind::Int64)?.f_clamp_max(BINS as i64 - 1)?;
        let bins = bins.f_bincount::<Tensor>(None, BINS as i64)?.f_to_device(Device::Cpu)?;
        let _ = counts.f_narrow(0, 0, BINS as i64)?.f_add_(&bins)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::observer::RecipeObserver;
    use crate::quant::scheme::Sign;
    use crate::strategy::{Observer, Qat};

    #[test]
    fn every_quantizer_without_a_range_gets_it_from_its_own_maxima_or_histogram() {
        let known = [None, Some(9.0), None, None];
        let [signed, unsigned] = [Sign::Signed, Sign::Unsigned].map(Scheme::activation);
        let schemes = [signed, signed, unsigned, unsigned];
        let maxima = [vec![1.0, 3.0], vec![5.0], vec![2.0, 0.5], vec![]];
        let values: [&[f32]; 4] = [&[0.25, 1.0, 3.0], &[5.0], &[0.5, 2.0], &[]];
        let of = |observer| RecipeObserver::from(&Qat { observer, percentile: 100.0, ..Qat::default() });
        let max = calibrated(&of(Observer::Max), &schemes, &known, &maxima, &[]);
        assert_eq!(max, [Some(3.0), None, Some(2.0), None]);
        let mean = calibrated(&of(Observer::MovingAverage), &schemes, &known, &maxima, &[]);
        assert_eq!(mean, [Some(2.0), None, Some(1.25), None]);
        let histograms = [3.0, 5.0, 2.0, 0.0].into_iter().zip(values).map(|(top, v)| Histogram::of(v, top));
        let histograms: Vec<Histogram> = histograms.collect();
        let least = calibrated(&of(Observer::Mse), &schemes, &known, &maxima, &histograms);
        for (i, range) in least.into_iter().enumerate() {
            let want = [0, 2].contains(&i).then(|| histograms[i].least_squares(schemes[i]));
            assert_eq!(range, want, "quantizer {i}");
        }
    }

    #[test]
    fn tensors_are_counted_as_plain_numbers_are() {
        let x = Tensor::randn([3, 40, 50], (Kind::Float, Device::Cpu)).relu() - 0.25;
        let values = Vec::<f32>::try_from(&x.view([-1])).unwrap();
        let top = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let counts = Tensor::zeros([BINS as i64 + 1], (Kind::Int64, Device::Cpu));
        count(&x.permute([1, 2, 0]), top, &counts).unwrap();
        let host = Vec::<i64>::try_from(&counts).unwrap();
        let want = Histogram::of(&values, top);
        assert_eq!(host[BINS] as u64, want.zeros);
        assert_eq!(host.iter().sum::<i64>(), 6000);
        let got: Vec<u64> = host[..BINS].iter().map(|&c| c as u64).collect();
        assert_eq!(got, want.counts);
    }
}
