//! What a quantizer sees, and what it makes of it.

use super::{AnalyzeError, Spread, Sqnr};
use crate::graph::Quantizer;
use crate::native;
use crate::quant::scheme::Scheme;
use tch::{Kind, Tensor};

/// Everything counted about one quantizer, batch by batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Activation {
    /// Name of the value.
    pub name: String,
    /// How it is quantized.
    pub scheme: Scheme,
    /// The quantization range: the largest code stands for it.
    pub range: f32,
    /// Values seen.
    pub values: u64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Sum of the values.
    pub sum: f64,
    /// Values beyond the outermost codes.
    pub clipped: u64,
    /// Values that are exactly 0.
    pub zeros: u64,
    /// Values that round to code 0, exact zeros included.
    pub code_zero: u64,
    /// Values against what their codes stand for.
    pub sqnr: Sqnr,
    /// How the values are spread.
    pub spread: Spread,
    /// Per channel the smallest and the largest value.
    extremes: Vec<(f64, f64)>,
}

/// Smallest or largest value per channel of `[b, C, ...]`, in FP64.
fn per_channel(x: &Tensor, largest: bool) -> Result<Vec<f64>, tch::TchError> {
    let others: Vec<i64> = (0..x.dim() as i64).filter(|&d| d != 1).collect();
    let reduced = if largest { x.f_amax(&others[..], false)? } else { x.f_amin(&others[..], false)? };
    Vec::<f64>::try_from(&reduced.f_to_kind(Kind::Double)?)
}

fn count(mask: &Tensor) -> Result<u64, tch::TchError> {
    Ok(mask.f_sum(Kind::Int64)?.f_int64_value(&[])? as u64)
}

impl Activation {
    /// Nothing seen yet by a quantizer of this range, which must be finite and not negative.
    pub fn new(quantizer: &Quantizer, range: f32) -> Self {
        Self {
            name: quantizer.name.clone(),
            scheme: quantizer.scheme,
            range,
            values: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: 0.0,
            clipped: 0,
            zeros: 0,
            code_zero: 0,
            sqnr: Sqnr::default(),
            spread: Spread::new(f64::from(range)),
            extremes: Vec::new(),
        }
    }

    /// Adds finite values `[b, C, ...]`.
    pub fn see(&mut self, x: &Tensor) -> Result<(), AnalyzeError> {
        if x.numel() == 0 {
            return Ok(());
        }
        let x = x.f_detach()?.f_to_kind(Kind::Float)?;
        let scale = self.scheme.scale(self.range).expect("ranges are finite and not negative");
        let (qmin, qmax) = (self.scheme.qmin(), self.scheme.qmax());
        let codes = x.f_div_scalar(f64::from(scale))?.f_round()?;
        let beyond = codes.f_gt(qmax as f64)?.f_logical_or(&codes.f_lt(qmin as f64)?)?;
        self.values += x.numel() as u64;
        self.clipped += count(&beyond)?;
        self.code_zero += count(&codes.f_eq(0.0)?)?;
        self.zeros += count(&x.f_eq(0.0)?)?;
        self.sum += x.f_sum(Kind::Double)?.f_double_value(&[])?;
        let made = native::fake_quant(&x, &Tensor::from_slice(&[scale]), qmin, qmax, false)?;
        self.sqnr.add(sqnr(&x, &made)?);
        let (low, high) = (per_channel(&x, false)?, per_channel(&x, true)?);
        if self.extremes.is_empty() {
            self.extremes = vec![(f64::INFINITY, f64::NEG_INFINITY); low.len()];
        }
        for (e, (l, h)) in self.extremes.iter_mut().zip(low.into_iter().zip(high)) {
            *e = (e.0.min(l), e.1.max(h));
            (self.min, self.max) = (self.min.min(l), self.max.max(h));
        }
        let bound = self.spread.reach(self.min.abs().max(self.max.abs()));
        let side = super::spread::SIDE as i64;
        let bins = x.f_contiguous()?.f_view([-1])?.f_mul_scalar(side as f64 / bound)?.f_floor()?;
        let bins = bins.f_to_kind(Kind::Int64)?.f_clamp(-side, side - 1)?.f_add_scalar(side)?;
        let counts = Vec::<i64>::try_from(&bins.f_bincount::<Tensor>(None, 2 * side)?)?;
        self.spread.add(&counts.into_iter().map(|c| c as u64).collect::<Vec<_>>());
        Ok(())
    }

    fn share(&self, n: u64) -> f64 {
        n as f64 / self.values.max(1) as f64
    }

    /// Mean of the values.
    pub fn mean(&self) -> f64 {
        self.sum / self.values.max(1) as f64
    }

    /// Share of the values that were clipped.
    pub fn saturated(&self) -> f64 {
        self.share(self.clipped)
    }

    /// Share of the values that round to code 0.
    pub fn zero_codes(&self) -> f64 {
        self.share(self.code_zero)
    }

    /// Share of the values other than 0 that round to code 0.
    pub fn lost(&self) -> f64 {
        (self.code_zero - self.zeros) as f64 / (self.values - self.zeros).max(1) as f64
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.extremes.len()
    }

    /// Channels that were never anything but 0.
    pub fn dead(&self) -> Vec<usize> {
        (0..self.extremes.len()).filter(|&c| self.extremes[c] == (0.0, 0.0)).collect()
    }

    /// Channels that always had the same value, other than 0.
    pub fn constant(&self) -> Vec<usize> {
        let same = |&(low, high): &(f64, f64)| low == high && low != 0.0;
        (0..self.extremes.len()).filter(|&c| same(&self.extremes[c])).collect()
    }
}

/// Signal and noise of `changed` against `x`, of one shape.
pub fn sqnr(x: &Tensor, changed: &Tensor) -> Result<Sqnr, tch::TchError> {
    let sum = |t: Tensor| t.f_square()?.f_sum(Kind::Double)?.f_double_value(&[]);
    Ok(Sqnr { signal: sum(x.shallow_clone())?, noise: sum(x.f_sub(changed)?)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::scheme::Sign;

    fn seen(sign: Sign, range: f32, batches: &[Tensor]) -> Activation {
        let mut a = Activation::new(
            &Quantizer { name: "x".into(), scheme: Scheme::activation(sign), active: true },
            range,
        );
        batches.iter().for_each(|b| a.see(b).unwrap());
        a
    }

    #[test]
    fn codes_and_channels_are_counted() {
        // Scale 1, three channels: one dead, one constant.
        let batch = |a: f32, b: f32| Tensor::from_slice(&[a, 0.0, 7.0, b, 0.0, 7.0]).view([2, 3]);
        let a = seen(Sign::Unsigned, 255.0, &[batch(0.4, 255.6), batch(300.0, 255.4)]);
        assert_eq!((a.values, a.clipped, a.zeros, a.code_zero), (12, 2, 4, 5));
        assert_eq!((a.min, a.max, a.channels()), (0.0, 300.0, 3));
        assert_eq!((a.dead(), a.constant()), (vec![1], vec![2]));
        assert_eq!(a.lost(), 1.0 / 8.0);
        assert!((a.mean() - (0.4 + 255.6 + 300.0 + 255.4 + 28.0) / 12.0).abs() < 1e-5);
        let noise = [0.4f64, 0.6, 45.0, 0.4].iter().map(|d| d * d).sum::<f64>();
        assert!((a.sqnr.noise / noise - 1.0).abs() < 1e-4, "{} {noise}", a.sqnr.noise);
        let (low, high, counts) = a.spread.trimmed().unwrap();
        assert_eq!(counts.iter().sum::<u64>(), 12);
        assert!(low <= 0.0 && high >= 300.0);
    }

    #[test]
    fn signed_codes_are_clipped_on_both_sides_and_plain_counting_agrees() {
        tch::manual_seed(2);
        let x = Tensor::randn([4, 5, 6, 6], (Kind::Float, tch::Device::Cpu));
        let a = seen(Sign::Signed, 1.0, &[x.narrow(0, 0, 2), x.narrow(0, 2, 2)]);
        let values = Vec::<f32>::try_from(&x.view([-1])).unwrap();
        let scale = a.scheme.scale(1.0).unwrap();
        let code = |v: &f32| (v / scale).round_ties_even();
        assert_eq!(a.clipped, values.iter().filter(|v| code(v).abs() > 127.0).count() as u64);
        assert_eq!(a.code_zero, values.iter().filter(|v| code(v) == 0.0).count() as u64);
        assert!(a.clipped > 0 && a.saturated() < 0.5 && a.dead().is_empty() && a.constant().is_empty());
        let mut plain = Spread::new(1.0);
        plain.add_values(&values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
        assert_eq!(a.spread.trimmed().map(|t| t.2.iter().sum::<u64>()), Some(720));
        assert_eq!(a.spread.reach_of(), plain.reach_of());
    }

    #[test]
    fn a_range_of_nothing_is_counted_too() {
        let zero = Tensor::zeros([2, 2], (Kind::Float, tch::Device::Cpu));
        let a = seen(Sign::Signed, 0.0, &[zero]);
        assert_eq!((a.code_zero, a.dead(), a.sqnr.noise), (4, vec![0, 1], 0.0));
    }
}
