//! Weights as they are deployed: codes and scales, with BatchNorm folded in.
//!
//! With `f = gamma / sqrt(var + eps)` per output channel: the scale becomes `step * |f|`, codes change their sign
//! where f is negative, and the bias is `beta - mean * f`. Codes are symmetric, so nothing is rounded anew.

use super::ExportError;
use crate::checkpoint::State;
use crate::graph::Layer;
use crate::quant::scheme::MIN_STEP;

/// Weights of one convolution or linear layer, per output channel.
#[derive(Debug, Clone, PartialEq)]
pub struct FoldedWeights {
    /// Codes of the layer's scheme, in the shape of the weight; none without a scheme.
    pub codes: Vec<i8>,
    /// FP32 scale of each output channel, above 0; none without a scheme.
    pub scales: Vec<f32>,
    /// The floating-point weights, folded, for layers that are not quantized.
    pub float: Vec<f32>,
    /// Bias of each output channel.
    pub bias: Vec<f32>,
}

fn values<'a>(state: &'a State, name: &str) -> Result<&'a [f32], ExportError> {
    let t = state.get(name).ok_or_else(|| ExportError::Missing(name.into()))?;
    match t.data.iter().find(|x| !x.is_finite()) {
        Some(&value) => Err(ExportError::NotFinite { name: name.into(), value }),
        None => Ok(&t.data),
    }
}

/// Weight and bias of a layer with `channels` outputs, with the BatchNorm that was folded into it, if any.
pub fn fold(state: &State, layer: &Layer, channels: usize) -> Result<FoldedWeights, ExportError> {
    let weights = values(state, &layer.weight)?;
    let start = layer.bias.as_deref().map(|b| values(state, b)).transpose()?;
    let (mut factors, mut shifts) = (vec![1.0f64; channels], vec![0.0f64; channels]);
    if let Some(bn) = &layer.folded {
        let [gamma, beta] = [values(state, &bn.gamma)?, values(state, &bn.beta)?];
        let [mean, var] = [values(state, &bn.mean)?, values(state, &bn.var)?];
        for c in 0..channels {
            factors[c] = f64::from(gamma[c]) / (f64::from(var[c]) + bn.eps).sqrt();
            shifts[c] = f64::from(beta[c]) - f64::from(mean[c]) * factors[c];
        }
    }
    let per_channel = weights.len() / channels;
    let mut out = FoldedWeights {
        codes: Vec::with_capacity(weights.len()),
        scales: Vec::with_capacity(channels),
        float: Vec::with_capacity(weights.len()),
        bias: Vec::with_capacity(channels),
    };
    for (c, row) in weights.chunks_exact(per_channel).enumerate() {
        let (f, shift) = (factors[c], shifts[c]);
        if let Some(scheme) = layer.scheme {
            let absmax = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            let not_finite = || ExportError::NotFinite { name: layer.weight.clone(), value: absmax };
            let step = scheme.step(absmax).ok_or_else(not_finite)?;
            let scale = (f64::from(step) * f.abs()) as f32;
            // A channel that BatchNorm silences, or one whose scale no runtime can divide by: exactly its bias.
            let silent = scale < MIN_STEP;
            let sign = if f < 0.0 { -1 } else { 1 };
            let code = |w: f32| if silent { 0 } else { (sign * scheme.code(w, step)) as i8 };
            out.codes.extend(row.iter().map(|&w| code(w)));
            out.scales.push(if silent { 1.0 } else { scale });
        }
        out.float.extend(row.iter().map(|&w| (f64::from(w) * f) as f32));
        let first = start.map_or(0.0, |b| f64::from(b[c]));
        out.bias.push((first * f + shift) as f32);
    }
    Ok(out)
}

/// Largest magnitude of an INT32 bias: leaves room for the sum it is added to.
const BIAS_MAX: f64 = (1u64 << 30) as f64;

impl FoldedWeights {
    /// INT32 biases for inputs of step `input`, with their scales `input * scale`. Where a bias would not fit, the
    /// channel's scale is raised until it does; its weights, at most 2^-30 of the bias each, are rounded anew.
    pub fn integer_bias(&mut self, input: f32) -> (Vec<i32>, Vec<f32>) {
        let per_channel = self.codes.len() / self.scales.len();
        let (mut biases, mut scales) = (Vec::new(), Vec::new());
        for (c, &bias) in self.bias.iter().enumerate() {
            let (x, b) = (f64::from(input), f64::from(bias));
            if b.abs() / (x * f64::from(self.scales[c])) > BIAS_MAX {
                let raised = (b.abs() / (x * BIAS_MAX)) as f32;
                let ratio = f64::from(self.scales[c]) / f64::from(raised);
                for q in &mut self.codes[c * per_channel..(c + 1) * per_channel] {
                    *q = (f64::from(*q) * ratio).round_ties_even() as i8;
                }
                self.scales[c] = raised;
            }
            // Rounded against the scale as it is stored.
            let scale = (x * f64::from(self.scales[c])) as f32;
            biases.push((b / f64::from(scale)).round_ties_even() as i32);
            scales.push(scale);
        }
        (biases, scales)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::HostTensor;
    use crate::graph::BatchNorm;
    use crate::quant::scheme::Scheme;

    fn state(gamma: &[f32]) -> (State, BatchNorm) {
        let n = gamma.len();
        let mut state = State::new();
        let mut put = |name: &str, shape: Vec<usize>, data: Vec<f32>| {
            state.insert(name.into(), HostTensor { shape, data });
        };
        let weights: Vec<f32> = (0..n * 9).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 300.0).collect();
        put("w", vec![n, 1, 3, 3], weights);
        put("g", vec![n], gamma.to_vec());
        put("b", vec![n], (0..n).map(|i| i as f32 - 1.0).collect());
        put("m", vec![n], vec![0.25; n]);
        put("v", vec![n], (0..n).map(|i| 0.1 + i as f32).collect());
        let [gamma, beta, mean, var] = ["g", "b", "m", "v"].map(String::from);
        (state, BatchNorm { gamma, beta, mean, var, eps: 1e-5, momentum: 0.1 })
    }

    fn layer(weight: &str, folded: Option<BatchNorm>) -> Layer {
        Layer { scheme: Some(Scheme::weight(8)), folded, ..Layer::new(weight, None) }
    }

    #[test]
    fn a_layer_has_the_codes_of_its_own_scheme_or_none() {
        let (state, bn) = state(&[1.5, -0.7]);
        let of = |scheme| fold(&state, &Layer { scheme, ..layer("w", Some(bn.clone())) }, 2).unwrap();
        for (bits, largest) in [(8, 127), (7, 63), (4, 7), (2, 1)] {
            let folded = of(Some(Scheme::weight(bits)));
            let top = |row: &[i8]| row.iter().map(|q| q.abs()).max().unwrap();
            assert!(folded.codes.chunks(9).all(|row| top(row) == largest), "{bits}: {:?}", folded.codes);
        }
        let float = of(None);
        assert_eq!((float.codes.len(), float.scales.len()), (0, 0));
        assert_eq!((float.float, float.bias), {
            let eight = of(Some(Scheme::weight(8)));
            (eight.float, eight.bias)
        });
    }

    #[test]
    fn no_code_changes_but_for_its_sign() {
        let (state, bn) = state(&[1.5, -0.7, 1e-3, -20.0]);
        let folded = fold(&state, &layer("w", Some(bn)), 4).unwrap();
        let plain = fold(&state, &layer("w", None), 4).unwrap();
        for c in 0..4 {
            let sign = if [1, 3].contains(&c) { -1 } else { 1 };
            for i in c * 9..c * 9 + 9 {
                assert_eq!(folded.codes[i], sign * plain.codes[i]);
                // The folded weight is the fake-quantized weight times gamma / sigma.
                let f = state["g"].data[c] / (state["v"].data[c] + 1e-5).sqrt();
                let trained = f32::from(plain.codes[i]) * plain.scales[c] * f;
                let deployed = f32::from(folded.codes[i]) * folded.scales[c];
                assert!((trained - deployed).abs() <= 1e-6 * trained.abs(), "{trained} {deployed}");
            }
        }
        assert!(plain.codes.iter().any(|q| q.abs() == 127));
    }

    #[test]
    fn a_silent_channel_is_its_bias() {
        let (state, bn) = state(&[0.0, 1.0, f32::MIN_POSITIVE]);
        let folded = fold(&state, &layer("w", Some(bn)), 3).unwrap();
        for c in [0, 2] {
            assert!(folded.codes[c * 9..c * 9 + 9].iter().all(|&q| q == 0));
            assert_eq!((folded.scales[c], folded.bias[c]), (1.0, state["b"].data[c]));
        }
    }

    #[test]
    fn integer_biases_always_fit() {
        let (mut s, bn) = state(&[1.0, 1e-20, -3.0]);
        s.get_mut("b").unwrap().data = vec![0.5, 2.0, -7.0];
        let mut folded = fold(&s, &layer("w", Some(bn)), 3).unwrap();
        let before = folded.clone();
        let (biases, scales) = folded.integer_bias(0.02);
        for c in 0..3 {
            let back = f64::from(biases[c]) * f64::from(scales[c]);
            assert!((back - f64::from(folded.bias[c])).abs() <= f64::from(scales[c]), "{back}");
        }
        assert_eq!(folded.codes[..9], before.codes[..9]);
        assert_eq!(folded.codes[18..], before.codes[18..]);
        assert!(folded.scales[1] > before.scales[1] && folded.codes[9..18].iter().all(|&q| q == 0));
    }

    #[test]
    fn numbers_of_a_diverged_run_are_refused_by_name() {
        let (mut s, bn) = state(&[1.0]);
        s.get_mut("w").unwrap().data[3] = f32::NAN;
        assert!(fold(&s, &layer("w", Some(bn)), 1).unwrap_err().to_string().contains("`w`"));
        assert!(fold(&s, &layer("x", None), 1).unwrap_err().to_string().contains("`x`"));
    }
}
