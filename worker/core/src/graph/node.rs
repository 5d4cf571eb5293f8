//! Nodes, operators, types and parameters.

use crate::quant::scheme::Sign;
use serde::{Deserialize, Serialize};

/// Index of a node and of the value it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub usize);

/// Element type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

/// Shape without the batch dimension, and element type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorType {
    /// `[C, H, W]` or `[F]`.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

/// One operation; its value has the node's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Unique name, e.g. `layer1.0.conv1`.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// The values it reads.
    pub inputs: Vec<NodeId>,
    /// Type of its value.
    pub ty: TensorType,
}

/// Operators. Weights and statistics are named parameters of the graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// The image batch.
    Input,
    /// Two-dimensional convolution, weight `[out, in / groups, kh, kw]`.
    Conv(Conv),
    /// `y = x W^T + b`, weight `[out, in]`.
    Linear(Linear),
    /// Batch normalisation over all but the channel dimension.
    BatchNorm(BatchNorm),
    /// `max(x, 0)`.
    Relu,
    /// Maximum over windows.
    MaxPool(Window),
    /// Mean over height and width: `[C, H, W] -> [C, 1, 1]`.
    GlobalAvgPool,
    /// `[C, H, W] -> [C * H * W]`.
    Flatten,
    /// Sum of two values of one type.
    Add,
    /// Two or more values joined along the channels: `[C1, H, W], [C2, H, W] -> [C1 + C2, H, W]`.
    Concat,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Activation quantizer: observes, and fake-quantizes if active.
    Quantize(Quantizer),
    /// Change of element type.
    Cast(DType),
}

/// A convolution's attributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// Name of the weight.
    pub weight: String,
    /// Name of the bias, if any.
    pub bias: Option<String>,
    /// Stride in height and width.
    pub stride: [usize; 2],
    /// Zero padding on both sides of height and width.
    pub padding: [usize; 2],
    /// Groups.
    pub groups: usize,
    /// Whether the weight is quantized per output channel.
    pub quantized: bool,
    /// Element type in which it computes.
    pub compute: DType,
    /// The BatchNorm that was folded into it, by `fold-batch-norm`: weights and bias are made from its parameters.
    pub folded: Option<BatchNorm>,
}

/// A fully connected layer's attributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// Name of the weight.
    pub weight: String,
    /// Name of the bias, if any.
    pub bias: Option<String>,
    /// Whether the weight is quantized per output channel.
    pub quantized: bool,
    /// Element type in which it computes.
    pub compute: DType,
}

/// Batch normalisation's attributes: `y = gamma * (x - mean) / sqrt(var + eps) + beta`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// Name of gamma.
    pub gamma: String,
    /// Name of beta.
    pub beta: String,
    /// Name of the running mean.
    pub mean: String,
    /// Name of the running (unbiased) variance.
    pub var: String,
    /// Added to the variance.
    pub eps: f64,
    /// `running = (1 - momentum) * running + momentum * batch`.
    pub momentum: f64,
}

/// A pooling window, square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Side.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Padding with minus infinity on both sides.
    pub padding: usize,
}

/// An activation quantizer. Its state is the range `<name>.absmax`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantizer {
    /// Name of the observed value, and of the quantizer: the node whose value it reads.
    pub name: String,
    /// Whether codes are signed.
    pub sign: Sign,
    /// Fake-quantizes (else it only observes, so that other profiles can be written).
    pub active: bool,
}

/// What a parameter is, hence how it starts and whether it decays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParamKind {
    /// Weight of a convolution.
    ConvWeight,
    /// Weight of a fully connected layer.
    LinearWeight,
    /// Bias.
    Bias,
    /// BatchNorm's gamma.
    Gamma,
    /// BatchNorm's gamma at the end of a residual branch (may start at zero).
    ResidualGamma,
    /// BatchNorm's beta.
    Beta,
    /// Running mean: a buffer.
    RunningMean,
    /// Running variance: a buffer.
    RunningVar,
}

impl ParamKind {
    /// Whether the optimizer updates it.
    pub fn trainable(self) -> bool {
        !matches!(self, ParamKind::RunningMean | ParamKind::RunningVar)
    }

    /// Whether weight decay applies unless `--bn-weight-decay` widens it.
    pub fn decays(self) -> bool {
        matches!(self, ParamKind::ConvWeight | ParamKind::LinearWeight)
    }
}

/// A named parameter or buffer, FP32.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Param {
    /// Name, as torchvision has it: `layer1.0.conv1.weight`.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// What it is.
    pub kind: ParamKind,
}

impl Param {
    /// Number of scalars.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no scalars.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl BatchNorm {
    /// Names of its parameters: gamma, beta, running mean, running variance.
    pub fn params(&self) -> [&str; 4] {
        [&self.gamma, &self.beta, &self.mean, &self.var]
    }
}

impl Op {
    /// Name of the operator.
    pub fn kind(&self) -> &'static str {
        match self {
            Op::Input => "Input",
            Op::Conv(_) => "Conv",
            Op::Linear(_) => "Linear",
            Op::BatchNorm(_) => "BatchNorm",
            Op::Relu => "Relu",
            Op::MaxPool(_) => "MaxPool",
            Op::GlobalAvgPool => "GlobalAvgPool",
            Op::Flatten => "Flatten",
            Op::Add => "Add",
            Op::Concat => "Concat",
            Op::Sigmoid => "Sigmoid",
            Op::Quantize(_) => "Quantize",
            Op::Cast(_) => "Cast",
        }
    }

    /// Names of the parameters it reads.
    pub fn params(&self) -> Vec<&str> {
        match self {
            Op::Conv(Conv { weight, bias, folded, .. }) => std::iter::once(weight.as_str())
                .chain(bias.as_deref())
                .chain(folded.iter().flat_map(BatchNorm::params))
                .collect(),
            Op::Linear(Linear { weight, bias, .. }) => {
                std::iter::once(weight.as_str()).chain(bias.as_deref()).collect()
            }
            Op::BatchNorm(b) => b.params().to_vec(),
            _ => Vec::new(),
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
        })
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        write!(f, "{}[N,{}]", self.dtype, dims.join(","))
    }
}
