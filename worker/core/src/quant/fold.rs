//! What a layer's numbers become in a deployed network, one output channel at a time: BatchNorm folded into weight and bias,
//! and the bias as an integer. Export writes what these functions say, and evaluation computes with it.
//!
//! BatchNorm in evaluation is `factor * x + shift`. Folded, the scale of the weight becomes `scale * |factor|`, its codes
//! change their sign where the factor is negative, and the bias becomes `bias * factor + shift`. Codes are symmetric, so
//! nothing is rounded anew, but for a channel whose bias does not fit INT32 (see [`Channel::with_integer_bias`]).

use super::scheme::MIN_SCALE;

/// Largest magnitude of an INT32 bias: leaves room for the sum it is added to.
pub const MAX_BIAS_CODE: i32 = 1 << 30;

/// BatchNorm of one channel with its running statistics: `factor * x + shift`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// `gamma / sqrt(var + eps)`.
    pub factor: f64,
    /// `beta - mean * factor`.
    pub shift: f64,
}

/// Parameters of a BatchNorm as numbers, one each a channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm<'a> {
    /// Gamma.
    pub gamma: &'a [f32],
    /// Beta.
    pub beta: &'a [f32],
    /// Running mean.
    pub mean: &'a [f32],
    /// Running variance.
    pub var: &'a [f32],
    /// Added to the variance.
    pub eps: f64,
}

impl Norm<'_> {
    /// What it does to channel `c`.
    pub fn channel(&self, c: usize) -> Affine {
        let factor = f64::from(self.gamma[c]) / (f64::from(self.var[c]) + self.eps).sqrt();
        Affine { factor, shift: f64::from(self.beta[c]) - f64::from(self.mean[c]) * factor }
    }
}

impl Affine {
    /// Of a channel without BatchNorm.
    pub const IDENTITY: Self = Self { factor: 1.0, shift: 0.0 };

    /// The bias of a layer (0 where it has none), folded.
    pub fn bias(self, bias: f32) -> f32 {
        (f64::from(bias) * self.factor + self.shift) as f32
    }

    /// A weight in floating point, folded.
    pub fn weight(self, weight: f32) -> f32 {
        (f64::from(weight) * self.factor) as f32
    }
}

/// Quantized weights of one output channel, folded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Channel {
    /// FP32 scale of its codes, above 0.
    pub scale: f32,
    /// The factor that was folded in.
    factor: f64,
    /// What codes of training are multiplied by, before they are rounded: 1, or -1 where the factor is negative; 0 where
    /// the channel is silent, and less than 1 in magnitude where the scale was raised.
    ratio: f64,
}

impl Channel {
    /// A channel whose weights training quantizes with `scale`, with `affine` folded in. One that BatchNorm silences, or
    /// whose scale no runtime can divide by, has codes 0 and scale 1: it is exactly its bias.
    pub fn new(scale: f32, affine: Affine) -> Self {
        let factor = affine.factor;
        let folded = (f64::from(scale) * factor.abs()) as f32;
        match folded < MIN_SCALE {
            true => Self { scale: 1.0, factor, ratio: 0.0 },
            false => Self { scale: folded, factor, ratio: factor.signum() },
        }
    }

    /// The code that is deployed for a code of training.
    pub fn code(&self, trained: i64) -> i8 {
        (trained as f64 * self.ratio).round_ties_even() as i8
    }

    /// Whether the codes of its weights were rounded anew, because its bias did not fit.
    pub fn is_raised(&self) -> bool {
        self.ratio != 0.0 && self.ratio.abs() != 1.0
    }

    /// The weight that makes the layer, before its BatchNorm, compute what is deployed for a code of training. The code times
    /// training's own scale where the channel is neither silent nor raised.
    pub fn trained_weight(&self, trained: i64) -> f32 {
        (f64::from(self.code(trained)) * f64::from(self.scale) / self.factor) as f32
    }

    /// The folded bias as the integer that is added to sums of codes, for inputs with scale `input`. Its unit is that of the
    /// sums: input scale times weight scale, in FP32. Where its code would be beyond [`MAX_BIAS_CODE`], the channel's scale
    /// is raised until it is not, and the codes of its weights, whose units are at most 2^-30 of the bias each, are rounded anew.
    pub fn with_integer_bias(self, bias: f32, input: f32) -> (Self, IntegerBias) {
        let (x, b, max) = (f64::from(input), f64::from(bias), f64::from(MAX_BIAS_CODE));
        let scale = self.scale.max((b.abs() / (x * max)) as f32);
        let ratio = self.ratio * (f64::from(self.scale) / f64::from(scale));
        let channel = Self { scale, ratio, ..self };
        // Rounded against the unit as it is stored.
        let unit = (x * f64::from(scale)) as f32;
        (channel, IntegerBias { code: (b / f64::from(unit)).round_ties_even() as i32, unit })
    }
}

/// What stands behind the products of a layer, by output channel: its own bias and its BatchNorm, where it has them. What is
/// deployed of a channel follows from it, for files and evaluations alike.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Behind<'a> {
    /// The layer's own bias.
    pub bias: Option<&'a [f32]>,
    /// The BatchNorm that is folded in.
    pub norm: Option<Norm<'a>>,
}

impl Behind<'_> {
    /// BatchNorm of channel `c`.
    pub fn affine(&self, c: usize) -> Affine {
        self.norm.map_or(Affine::IDENTITY, |norm| norm.channel(c))
    }

    /// The whole bias of channel `c`, folded.
    pub fn bias(&self, c: usize) -> f32 {
        self.affine(c).bias(self.bias.map_or(0.0, |bias| bias[c]))
    }

    /// Channel `c`, whose weights training quantizes with `scale`, where the bias is added in floating point.
    pub fn channel(&self, c: usize, scale: f32) -> Channel {
        Channel::new(scale, self.affine(c))
    }

    /// [`Self::channel`] and its whole bias, where that is added as an integer to sums for inputs with scale `input`.
    pub fn with_integer_bias(&self, c: usize, scale: f32, input: f32) -> (Channel, IntegerBias) {
        self.channel(c, scale).with_integer_bias(self.bias(c), input)
    }
}

/// A bias that is added to sums of codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IntegerBias {
    /// The integer.
    pub code: i32,
    /// What it counts.
    pub unit: f32,
}

impl IntegerBias {
    /// What it stands for.
    pub fn value(self) -> f64 {
        f64::from(self.code) * f64::from(self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORM: Norm = Norm {
        gamma: &[1.5, -0.7, 0.0],
        beta: &[0.5, -1.0, 0.25],
        mean: &[0.25, 2.0, 1.0],
        var: &[4.0, 0.25, 1.0],
        eps: 0.0,
    };

    #[test]
    fn a_batch_norm_is_a_factor_and_a_shift() {
        let all = [0, 1, 2].map(|c| NORM.channel(c));
        assert_eq!(all[0], Affine { factor: 0.75, shift: 0.3125 });
        assert!((all[1].factor + 1.4).abs() < 1e-7 && (all[1].shift - 1.8).abs() < 1e-6, "{:?}", all[1]);
        assert_eq!(all[2], Affine { factor: 0.0, shift: 0.25 });
        assert_eq!((all[0].bias(2.0), all[0].weight(2.0)), (1.8125, 1.5));
        assert_eq!((Affine::IDENTITY.bias(2.0), Affine::IDENTITY.weight(-3.0)), (2.0, -3.0));
        let wide = Norm { eps: 12.0, ..NORM };
        assert_eq!(wide.channel(0).factor, 0.375);
    }

    #[test]
    fn folding_changes_no_code_but_for_its_sign_and_silence() {
        let of = |factor| Channel::new(0.5, Affine { factor, shift: 0.0 });
        for code in [-127, -3, 0, 1, 127] {
            assert_eq!(i64::from(of(3.0).code(code)), code);
            assert_eq!(i64::from(of(-3.0).code(code)), -code);
            assert_eq!(of(0.0).code(code), 0);
            for factor in [3.0, -3.0] {
                assert_eq!(of(factor).trained_weight(code), 0.5 * code as f32);
            }
            assert!([3.0, -3.0, 0.0].iter().all(|&factor| !of(factor).is_raised()));
        }
        assert_eq!((of(3.0).scale, of(-3.0).scale, of(0.0).scale), (1.5, 1.5, 1.0));
        // The smallest scale there is is one; half of it is none.
        let smallest = |factor| Channel::new(MIN_SCALE, Affine { factor, shift: 0.0 });
        assert_eq!((smallest(1.0).scale, smallest(1.0).code(5)), (MIN_SCALE, 5));
        assert_eq!((smallest(0.5).scale, smallest(0.5).code(5)), (1.0, 0));
    }

    #[test]
    fn a_channel_is_deployed_with_the_bias_and_the_batch_norm_that_stand_behind_its_products() {
        let bias = [2.0, 0.0, 1.0];
        let both = Behind { bias: Some(&bias), norm: Some(NORM) };
        // 2 * 0.75 + 0.3125, in units of 0.5 * 0.75 * 0.25.
        assert_eq!(
            (both.affine(0), both.bias(0), both.channel(0, 0.5).scale),
            (NORM.channel(0), 1.8125, 0.375)
        );
        let (channel, integer) = both.with_integer_bias(0, 0.5, 0.25);
        assert_eq!(channel, both.channel(0, 0.5), "nothing was raised");
        assert_eq!((integer.code, integer.unit), (19, 0.09375));
        let own = Behind { norm: None, ..both };
        assert_eq!((own.affine(2), own.bias(2), own.channel(2, 0.5).scale), (Affine::IDENTITY, 1.0, 0.5));
        assert_eq!(own.with_integer_bias(2, 0.5, 0.25).1.code, 8);
        let norm = Behind { bias: None, ..both };
        assert_eq!((norm.bias(0), norm.channel(0, 0.5)), (0.3125, both.channel(0, 0.5)));
        let bare = Behind::default();
        assert_eq!((bare.bias(2), bare.with_integer_bias(2, 0.5, 1.0).1.code), (0.0, 0));
    }

    #[test]
    fn biases_are_codes_of_the_sums() {
        let of = |bias, input, weight| Channel::new(weight, Affine::IDENTITY).with_integer_bias(bias, input);
        let plain = |bias, input, weight| {
            let (channel, bias) = of(bias, input, weight);
            assert_eq!(channel, Channel::new(weight, Affine::IDENTITY), "nothing was raised");
            (bias.code, bias.unit, bias.value())
        };
        assert_eq!(plain(0.26, 0.5, 0.25), (2, 0.125, 0.25));
        assert_eq!(plain(-0.3125, 0.5, 0.25), (-2, 0.125, -0.25));
        // The largest code that fits, and the first that does not.
        let max = MAX_BIAS_CODE as f32;
        assert_eq!(plain(max, 1.0, 1.0), (MAX_BIAS_CODE, 1.0, f64::from(max)));
        let (raised, bias) = of(2.0 * max, 1.0, 1.0);
        assert_eq!((raised.scale, bias.code, bias.unit), (2.0, MAX_BIAS_CODE, 2.0));
        for (bias, input, weight) in [(1.0, 1e-20, 1e-20), (-1.0, MIN_SCALE, MIN_SCALE), (7.0, 0.02, 1e-12)] {
            let (channel, integer) = of(bias, input, weight);
            assert!(
                integer.code.abs() <= MAX_BIAS_CODE + 256 && integer.code.signum() == bias.signum() as i32
            );
            assert!((integer.value() - f64::from(bias)).abs() <= 1e-7 * f64::from(bias.abs()), "{integer:?}");
            assert!(channel.scale > weight);
        }
    }

    #[test]
    fn weights_of_a_raised_channel_are_rounded_anew_for_file_and_training_alike() {
        let factor = -0.5;
        let folded = Channel::new(4.0, Affine { factor, shift: 0.0 });
        let (raised, bias) = folded.with_integer_bias(3.0 * 2.0 * MAX_BIAS_CODE as f32, 1.0);
        assert_eq!((folded.scale, raised.scale, bias.code), (2.0, 6.0, MAX_BIAS_CODE));
        for (code, want) in [(127, -42), (-127, 42), (3, -1), (1, 0), (0, 0)] {
            assert_eq!(raised.code(code), want);
            // Folded, this weight is the deployed code times the deployed scale.
            let weight = raised.trained_weight(code);
            assert_eq!((raised.is_raised(), f64::from(weight) * factor), (true, f64::from(want) * 6.0));
        }
        let silent = Channel::new(1.0, Affine { factor: 0.0, shift: 0.0 });
        let (silent, _) = silent.with_integer_bias(8.0 * MAX_BIAS_CODE as f32, 1.0);
        assert_eq!((silent.scale, silent.code(127), silent.is_raised()), (8.0, 0, false));
    }
}
