//! What quantization does to weights.

use super::{AnalyzeError, Sqnr};
use crate::exec::weight_scales;
use crate::native;
use crate::quant::scheme::Scheme;
use tch::{Kind, Tensor};

/// Figures of one weight `[out, ...]`, quantized per output channel.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightFigures {
    /// Of the whole weight.
    pub sqnr: Sqnr,
    /// The output channel with the lowest ratio among those that are not all zero, and its ratio.
    pub worst: Option<(usize, Sqnr)>,
    /// Share of the weights other than 0 that become code 0.
    pub lost: f64,
    /// Output channels that are all zero.
    pub dead: Vec<usize>,
    /// Output channels.
    pub channels: usize,
}

fn rows(t: &Tensor) -> Result<Vec<f64>, tch::TchError> {
    Vec::<f64>::try_from(&t.f_to_kind(Kind::Double)?.f_contiguous()?.f_view([-1])?)
}

impl WeightFigures {
    /// Quantizes a weight as training and export do.
    pub fn of(weight: &Tensor, scheme: Scheme) -> Result<Self, AnalyzeError> {
        let (qmin, qmax) = (scheme.qmin(), scheme.qmax());
        let quantized =
            native::fake_quant_per_channel(weight, &weight_scales(weight, scheme)?, qmin, qmax, false)?;
        let channels = weight.size()[0] as usize;
        let (before, after) = (rows(weight)?, rows(&quantized)?);
        let width = (before.len() / channels.max(1)).max(1);
        let (mut sqnr, mut worst, mut dead) = (Sqnr::default(), None::<(usize, Sqnr)>, Vec::new());
        for (i, (x, q)) in before.chunks(width).zip(after.chunks(width)).enumerate() {
            let own = Sqnr {
                signal: x.iter().map(|v| v * v).sum(),
                noise: x.iter().zip(q).map(|(v, q)| (v - q).powi(2)).sum(),
            };
            sqnr.add(own);
            if x.iter().all(|&v| v == 0.0) {
                dead.push(i);
            } else if worst.is_none_or(|(_, w)| own.db() < w.db()) {
                worst = Some((i, own));
            }
        }
        let nonzero = before.iter().filter(|&&v| v != 0.0).count();
        let gone = before.iter().zip(&after).filter(|&(&v, &q)| v != 0.0 && q == 0.0).count();
        Ok(Self { sqnr, worst, lost: gone as f64 / nonzero.max(1) as f64, dead, channels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_weight_hides_the_others_of_its_channel_only() {
        // Channel 0 is exact codes, channel 1 has one weight that makes the others round to 0, channel 2 is dead.
        let w =
            Tensor::from_slice(&[127.0f32, -1.0, 64.0, 1000.0, 1.0, -2.0, 0.0, 0.0, 0.0]).view([3, 3, 1, 1]);
        let f = WeightFigures::of(&w, Scheme::weight(8)).unwrap();
        assert_eq!((f.dead.clone(), f.channels), (vec![2], 3));
        let (channel, worst) = f.worst.unwrap();
        assert_eq!((channel, worst.noise), (1, 5.0));
        assert_eq!(f.sqnr.noise, 5.0);
        assert!((f.lost - 2.0 / 6.0).abs() < 1e-12);
        // Half the codes, twice the scale: 6 dB less, about.
        tch::manual_seed(1);
        let w = Tensor::randn([64, 32, 3, 3], (Kind::Float, tch::Device::Cpu));
        let [eight, seven] =
            [8, 7].map(|bits| WeightFigures::of(&w, Scheme::weight(bits)).unwrap().sqnr.db());
        assert!((eight - seven - 6.0).abs() < 0.5 && eight > 35.0, "{eight} {seven}");
    }
}
