//! Weights as they are deployed: codes, scales and biases of a layer, with BatchNorm folded in, by `quant::fold`.

use super::ExportError;
use crate::checkpoint::State;
use crate::graph::{BatchNorm, Layer};
use crate::quant::fold::{Behind, IntegerBias, Norm};

/// Weights of one convolution or linear layer, per output channel.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FoldedWeights {
    /// Codes of the layer's scheme, in the shape of the weight; none without a scheme.
    pub codes: Vec<i8>,
    /// FP32 scale of each output channel, above 0; none without a scheme.
    pub scales: Vec<f32>,
    /// The floating-point weights, folded, for layers that are not quantized.
    pub float: Vec<f32>,
    /// Bias of each output channel.
    pub bias: Vec<f32>,
    /// The same as integers, where the layer adds them as such.
    pub integer_bias: Vec<IntegerBias>,
}

impl FoldedWeights {
    /// The same with the weights of each channel in a column: `[in, out]`.
    pub fn transposed(self) -> Self {
        let channels = self.bias.len();
        Self { codes: columns(&self.codes, channels), float: columns(&self.float, channels), ..self }
    }
}

/// A matrix of so many rows, read column by column.
fn columns<T: Copy>(values: &[T], rows: usize) -> Vec<T> {
    let width = values.len() / rows.max(1);
    (0..width).flat_map(|c| (0..rows).map(move |r| values[r * width + c])).collect()
}

fn values<'a>(state: &'a State, name: &str) -> Result<&'a [f32], ExportError> {
    let t = state.get(name).ok_or_else(|| ExportError::Missing(name.into()))?;
    match t.data.iter().find(|x| !x.is_finite()) {
        Some(&value) => Err(ExportError::NotFinite { name: name.into(), value }),
        None => Ok(&t.data),
    }
}

fn norm<'a>(state: &'a State, norm: &BatchNorm) -> Result<Norm<'a>, ExportError> {
    let [gamma, beta, mean, var] = norm.names().map(|name| values(state, name));
    Ok(Norm { gamma: gamma?, beta: beta?, mean: mean?, var: var?, eps: norm.eps })
}

/// Weight and bias of a layer with `channels` outputs, with the BatchNorm that was folded into it, if any. `input` is the
/// scale of its input where it adds its bias as an integer.
pub fn fold(
    state: &State,
    layer: &Layer,
    channels: usize,
    input: Option<f32>,
) -> Result<FoldedWeights, ExportError> {
    let weights = values(state, &layer.weight)?;
    let behind = Behind {
        bias: layer.bias.as_deref().map(|b| values(state, b)).transpose()?,
        norm: layer.folded.as_ref().map(|n| norm(state, n)).transpose()?,
    };
    let mut out = FoldedWeights::default();
    for (c, row) in weights.chunks_exact(weights.len() / channels).enumerate() {
        if let Some(scheme) = layer.scheme {
            let absmax = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            let not_finite = || ExportError::NotFinite { name: layer.weight.clone(), value: absmax };
            let scale = scheme.scale(absmax).ok_or_else(not_finite)?;
            let channel = match input {
                Some(input) => {
                    let (channel, bias) = behind.with_integer_bias(c, scale, input);
                    out.integer_bias.push(bias);
                    channel
                }
                None => behind.channel(c, scale),
            };
            out.codes.extend(row.iter().map(|&w| channel.code(scheme.code(w, scale))));
            out.scales.push(channel.scale);
        }
        let affine = behind.affine(c);
        out.float.extend(row.iter().map(|&w| affine.weight(w)));
        out.bias.push(behind.bias(c));
    }
    Ok(out)
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
        let of = |scheme| fold(&state, &Layer { scheme, ..layer("w", Some(bn.clone())) }, 2, None).unwrap();
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
        let folded = fold(&state, &layer("w", Some(bn)), 4, None).unwrap();
        let plain = fold(&state, &layer("w", None), 4, None).unwrap();
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
        let folded = fold(&state, &layer("w", Some(bn)), 3, None).unwrap();
        for c in [0, 2] {
            assert!(folded.codes[c * 9..c * 9 + 9].iter().all(|&q| q == 0));
            assert_eq!((folded.scales[c], folded.bias[c]), (1.0, state["b"].data[c]));
        }
    }

    #[test]
    fn integer_biases_always_fit() {
        let (mut s, bn) = state(&[1.0, 1e-20, -3.0]);
        s.get_mut("b").unwrap().data = vec![0.5, 2.0, -7.0];
        let before = fold(&s, &layer("w", Some(bn.clone())), 3, None).unwrap();
        let folded = fold(&s, &layer("w", Some(bn)), 3, Some(0.02)).unwrap();
        assert_eq!((before.integer_bias.len(), folded.integer_bias.len()), (0, 3));
        for (bias, integer) in folded.bias.iter().zip(&folded.integer_bias) {
            let apart = (integer.value() - f64::from(*bias)).abs();
            assert!(apart <= f64::from(integer.unit), "{integer:?} is not {bias}");
        }
        assert_eq!(folded.codes[..9], before.codes[..9]);
        assert_eq!(folded.codes[18..], before.codes[18..]);
        assert!(folded.scales[1] > before.scales[1] && folded.codes[9..18].iter().all(|&q| q == 0));
    }

    #[test]
    fn numbers_of_a_diverged_run_are_refused_by_name() {
        let (mut s, bn) = state(&[1.0]);
        s.get_mut("w").unwrap().data[3] = f32::NAN;
        assert!(fold(&s, &layer("w", Some(bn)), 1, None).unwrap_err().to_string().contains("`w`"));
        assert!(fold(&s, &layer("x", None), 1, None).unwrap_err().to_string().contains("`x`"));
    }
}
