//! What is to be known of an operator.

use super::super::{Param, TensorType};
use super::{Layer, OnnxNode, OnnxScope};
use crate::quant::scheme::Sign;
use crate::strategy::Target;

/// The facts of an operator: everything that shape inference, passes, placement, execution and files want to know of it
/// without running it. Its attributes are the fields of what implements this.
///
/// Only [`Operator::kind`] and [`Operator::infer`] must be given. What is left out is what holds for an operator of which
/// nothing more is known: it may change every code, make any sign, has no rule for quantization and no place in ONNX files.
pub trait Operator: std::fmt::Debug {
    /// Name of the operator, e.g. `Conv`.
    fn kind(&self) -> &'static str;

    /// How many values it reads.
    fn arity(&self) -> Arity {
        Arity::Exactly(1)
    }

    /// Type of the value it makes. What does not fit is said without naming the node.
    fn infer(&self, given: &Given) -> Result<TensorType, String>;

    /// Names of the parameters it reads; trainable ones in the order in which execution gets them.
    fn params(&self) -> Vec<&str> {
        self.layer().map_or_else(Vec::new, Layer::params)
    }

    /// Weight and bias, for operators that are a product with a weight: mixed precision computes them in a narrow type,
    /// quantization gives their weights codes, a BatchNorm behind them can be folded into them.
    fn layer(&self) -> Option<&Layer> {
        None
    }

    /// [`Operator::layer`], to be changed by passes: an operator that has one must give both.
    fn layer_mut(&mut self) -> Option<&mut Layer> {
        None
    }

    /// Whether every value it makes is one of those of its only input, or zero, so that codes pass through it: a quantizer
    /// behind it can stand before it, its value has the sign of its input, and no target wants its input quantized for it.
    fn hands_on(&self) -> bool {
        false
    }

    /// Whether engines add a residual sum within it, so that the input of an Add that comes from it stays unquantized.
    fn absorbs_sum(&self) -> bool {
        false
    }

    /// Whether its value can be negative, from the same of its inputs.
    fn sign(&self, inputs: &[Sign]) -> Sign {
        if self.hands_on() { kept(inputs) } else { Sign::Signed }
    }

    /// The positions of the inputs that are quantized so that `target` computes it in integers; none of them where it
    /// computes in whatever type it is given. `None` where there is no rule: then `--qat-skip` must name the node.
    fn quantized_inputs(&self, target: Target, site: &Site) -> Option<Vec<usize>> {
        let _ = (target, site);
        self.hands_on().then(Vec::new)
    }

    /// Whether every target computes it in floating point, though products around it are quantized: files list it as such.
    fn stays_float(&self) -> bool {
        false
    }

    /// Whether a file in FP16 has it in FP32 between casts, as it computes with parameters that FP16 cannot hold.
    fn wants_fp32(&self) -> bool {
        false
    }

    /// Whether a bias that its layer adds to a value of this type can be an integer in units of its products, where the
    /// target has integer biases.
    fn takes_integer_bias(&self, value: &TensorType) -> bool {
        let _ = value;
        true
    }

    /// Whether it does nothing outside training: files do not have it.
    fn only_in_training(&self) -> bool {
        false
    }

    /// Whether engines compute it within the layer before it, whose quantized result is then its own.
    fn ends_a_layer(&self) -> bool {
        self.cuts_off().is_some()
    }

    /// Whether it is a convolution or a product of matrices, which engines compute in integers where what it reads is quantized.
    fn is_product(&self) -> bool {
        self.layer().is_some()
    }

    /// The least and the largest number that it makes, where it does nothing but cut values off there.
    fn cuts_off(&self) -> Option<[f32; 2]> {
        None
    }

    /// The ONNX nodes that compute it, the last of which makes its value; or why there are none.
    fn onnx(&self, scope: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let _ = scope;
        Err("its facts name no ONNX operator (Operator::onnx)".into())
    }

    /// The operator with its attributes in dumps, e.g. `Conv[16x3x3x3 s1 p1 int8]`.
    fn describe(&self, shapes: &Shapes) -> String {
        let _ = shapes;
        self.kind().into()
    }
}

/// How many values an operator reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// Always this many.
    Exactly(usize),
    /// This many or more.
    AtLeast(usize),
}

impl Arity {
    /// Whether an operator can have this many inputs.
    pub fn allows(self, inputs: usize) -> bool {
        match self {
            Arity::Exactly(n) => inputs == n,
            Arity::AtLeast(n) => inputs >= n,
        }
    }
}

impl std::fmt::Display for Arity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Arity::Exactly(0) => f.write_str("no"),
            Arity::Exactly(n) => write!(f, "{n}"),
            Arity::AtLeast(n) => write!(f, "{n} or more"),
        }
    }
}

/// Shapes of the parameters of a graph.
#[derive(Debug, Clone, Copy)]
pub struct Shapes<'a>(&'a [Param]);

impl<'a> Shapes<'a> {
    /// Of these parameters.
    pub fn new(params: &'a [Param]) -> Self {
        Self(params)
    }

    /// Shape of the parameter of this name.
    pub fn of(&self, name: &str) -> Option<&'a [usize]> {
        self.0.iter().find(|p| p.name == name).map(|p| p.shape.as_slice())
    }

    /// The shape as dumps have it, e.g. `16x3x3x3`; `?` of a parameter that is not declared.
    pub fn text(&self, name: &str) -> String {
        let dims = |shape: &[usize]| shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        self.of(name).map_or("?".into(), dims)
    }
}

/// What the type of a value is inferred from.
#[derive(Debug)]
pub struct Given<'a> {
    /// The type that the node has been given; what the graph's input has.
    pub declared: &'a TensorType,
    /// Types of the values it reads, as many as its arity allows.
    pub inputs: Vec<&'a TensorType>,
    /// The graph's parameters.
    pub shapes: Shapes<'a>,
}

impl<'a> Given<'a> {
    /// Shape of a parameter; one that is not declared is an error.
    pub fn param(&self, name: &str) -> Result<&'a [usize], String> {
        self.shapes.of(name).ok_or_else(|| format!("parameter `{name}` is not declared"))
    }

    /// `[C, H, W]` of an input that must be an image.
    pub fn image(&self, slot: usize) -> Result<[usize; 3], String> {
        match self.inputs[slot].shape[..] {
            [c, h, w] => Ok([c, h, w]),
            _ => Err(format!("wants an input [C,H,W], has {}", self.inputs[slot])),
        }
    }
}

/// Places of a sliding window of side `kernel` along `size` elements with `padding` before and behind them.
pub fn windows(size: usize, kernel: usize, stride: usize, padding: [usize; 2]) -> Result<usize, String> {
    let padded = padding[0].checked_add(padding[1]).and_then(|both| both.checked_add(size));
    match padded.and_then(|padded| padded.checked_sub(kernel)) {
        Some(free) if stride > 0 && kernel > 0 => Ok(free / stride + 1),
        _ => {
            let [before, behind] = padding;
            let padding =
                if before == behind { before.to_string() } else { format!("{before} and {behind}") };
            Err(format!("window {kernel} (stride {stride}, padding {padding}) does not fit a side of {size}"))
        }
    }
}

/// The shape that two values broadcast to: equal dimensions, or one of them 1.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let dim = |(&a, &b): (&usize, &usize)| match (a, b) {
        _ if a == b => Some(a),
        (1, other) | (other, 1) => Some(other),
        _ => None,
    };
    if a.len() == b.len() { a.iter().zip(b).map(dim).collect() } else { None }
}

/// Where a node stands in its graph, as far as placement rules look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// For every input, the most operators that absorb sums on any way to it from the graph's input.
    pub absorbing: Vec<usize>,
    /// For every input, how many dimensions it has besides the batch: 3 of an image, 2 of a sequence of tokens.
    pub ranks: Vec<usize>,
    /// For every input, whether it is that of a layer that the target computes in integers, with what engines compute within
    /// it, and nothing else reads it: quantized, it is written as codes.
    pub of_layer: Vec<bool>,
    /// For every input, whether what makes it is computed in integers, if its value is quantized: the target quantizes what
    /// that reads. A value that is made in floating point gains nothing by codes but for operators that compute with them.
    pub of_integers: Vec<bool>,
}

impl Site {
    /// Whether every input is an image `[C, H, W]` or a row `[F]`: what convolutional networks are made of. The residual
    /// stream of tokens between the products of a transformer stays in floating point on every target.
    pub fn is_convolutional(&self) -> bool {
        self.ranks.iter().all(|&rank| rank != 2)
    }
}

/// The sign of an operator that makes nothing negative of what is not.
pub(super) fn kept(inputs: &[Sign]) -> Sign {
    if inputs.contains(&Sign::Signed) { Sign::Signed } else { Sign::Unsigned }
}
