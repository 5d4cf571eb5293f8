//! Nodes, types and parameters.

use super::Initializer;
use super::Op;
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
    /// `[C, H, W]` of an image, `[T, D]` of tokens, `[F]` of a row; any number of dimensions.
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
    /// Gamma of a BatchNorm or LayerNorm.
    Gamma,
    /// BatchNorm's gamma at the end of a residual branch (may start at zero).
    ResidualGamma,
    /// Beta of a BatchNorm or LayerNorm.
    Beta,
    /// The scale of a layer: factors of a residual branch, by channel.
    LayerScale,
    /// An embedding: a class token, or one of positions.
    Embedding,
    /// Running mean: a buffer.
    RunningMean,
    /// Running variance: a buffer.
    RunningVar,
}

/// Parameters that decay alike. In flat tensors a group lies in one piece, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DecayGroup {
    /// Weights of layers: what decays wherever anything does.
    Weight,
    /// Scales and shifts of normalisations and of residual branches.
    Norm,
    /// Biases of layers.
    Bias,
    /// Embeddings: class tokens, and those of positions.
    Embedding,
}

impl DecayGroup {
    /// All of them, in order.
    pub const ALL: [DecayGroup; 4] =
        [DecayGroup::Weight, DecayGroup::Norm, DecayGroup::Bias, DecayGroup::Embedding];
}

impl ParamKind {
    /// Whether the optimizer updates it.
    pub fn trainable(self) -> bool {
        self.decay_group().is_some()
    }

    /// The group it decays with; none for buffers, which no optimizer updates.
    pub fn decay_group(self) -> Option<DecayGroup> {
        match self {
            ParamKind::ConvWeight | ParamKind::LinearWeight => Some(DecayGroup::Weight),
            ParamKind::Gamma | ParamKind::ResidualGamma | ParamKind::Beta | ParamKind::LayerScale => {
                Some(DecayGroup::Norm)
            }
            ParamKind::Embedding => Some(DecayGroup::Embedding),
            ParamKind::Bias => Some(DecayGroup::Bias),
            ParamKind::RunningMean | ParamKind::RunningVar => None,
        }
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
    /// What it is drawn from before training, where it is a weight. The rest begins as its kind says.
    #[serde(default, skip_serializing_if = "Initializer::is_default")]
    pub initializer: Initializer,
}

impl Param {
    /// Number of scalars; none where it is beyond what can be counted, as only a file can have it.
    pub(super) fn checked_len(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |len, &side| len.checked_mul(side))
    }

    /// Number of scalars.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no scalars.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
