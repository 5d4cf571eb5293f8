//! Building a graph node by node.

use super::*;

/// A convolution with a square kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Square {
    /// Output channels.
    pub out: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Stride in height and width.
    pub stride: usize,
    /// Groups.
    pub groups: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// Zeros around the image.
    pub padding: Padding,
}

impl Square {
    /// Without groups or bias, padded by half the kernel, so that stride 1 keeps the size where the kernel is odd.
    pub const fn new(out: usize, kernel: usize, stride: usize) -> Self {
        Self { out, kernel, stride, groups: 1, bias: false, padding: Padding::all(kernel / 2) }
    }

    /// One filter a channel: depthwise, of so many channels.
    pub const fn depthwise(channels: usize, kernel: usize, stride: usize) -> Self {
        Self { groups: channels, ..Self::new(channels, kernel, stride) }
    }

    /// With a bias.
    pub const fn biased(self) -> Self {
        Self { bias: true, ..self }
    }
}

/// Appends nodes and declares their parameters by torchvision's names.
pub struct Builder {
    graph: Graph,
    /// What weights are drawn from: a convolution's of so many groups, and a fully connected layer's.
    convolutions: fn(usize) -> Initializer,
    linears: Initializer,
}

impl Builder {
    /// A graph with an FP32 image input of `shape` `[C, H, W]`.
    pub fn new(name: &str, shape: [usize; 3]) -> (Self, NodeId) {
        let ty = TensorType { shape: shape.to_vec(), dtype: DType::F32 };
        let input = Node { name: "input".into(), op: Op::Input, inputs: Vec::new(), ty };
        let graph = Graph {
            name: name.into(),
            nodes: vec![input],
            params: Vec::new(),
            output: NodeId(0),
            layout: Layout::Nchw,
        };
        let (convolutions, linears) = (|_| Initializer::FanIn, Initializer::FanIn);
        (Self { graph, convolutions, linears }, NodeId(0))
    }

    /// What the weights of layers are drawn from that are appended from now on: of convolutions, by the number of their groups, and
    /// of fully connected layers. [`Initializer::FanIn`] at first.
    pub fn initializers(&mut self, convolutions: fn(usize) -> Initializer, linears: Initializer) {
        (self.convolutions, self.linears) = (convolutions, linears);
    }

    /// Appends a node and types it.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> Result<NodeId, GraphError> {
        let id = NodeId(self.graph.nodes.len());
        let ty = TensorType { shape: Vec::new(), dtype: DType::F32 };
        self.graph.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec(), ty });
        self.graph.nodes[id.0].ty = infer_type(&self.graph, id)?;
        Ok(id)
    }

    /// Declares a parameter that an operator is to read; its name.
    pub fn param(&mut self, name: impl Into<String>, shape: &[usize], kind: ParamKind) -> String {
        self.drawn(name.into(), shape, kind, Initializer::default())
    }

    fn drawn(&mut self, name: String, shape: &[usize], kind: ParamKind, initializer: Initializer) -> String {
        self.graph.params.push(Param { name: name.clone(), shape: shape.to_vec(), kind, initializer });
        name
    }

    /// Shape of a value, without the batch.
    pub fn shape(&self, x: NodeId) -> &[usize] {
        &self.graph.node(x).ty.shape
    }

    /// Channels of an image (its first dimension).
    pub fn channels(&self, x: NodeId) -> usize {
        self.shape(x).first().copied().unwrap_or(0)
    }

    /// Features of a row or of tokens (the last dimension).
    pub fn features(&self, x: NodeId) -> usize {
        self.shape(x).last().copied().unwrap_or(0)
    }

    /// A convolution without bias: square `kernel`, padding `kernel / 2`.
    pub fn conv(
        &mut self,
        name: &str,
        x: NodeId,
        out: usize,
        kernel: usize,
        stride: usize,
    ) -> Result<NodeId, GraphError> {
        self.convolution(name, x, Square::new(out, kernel, stride))
    }

    /// A convolution with a square kernel.
    pub fn convolution(&mut self, name: &str, x: NodeId, square: Square) -> Result<NodeId, GraphError> {
        let Square { out, kernel, stride, groups, bias, padding } = square;
        let shape = [out, self.channels(x) / groups.max(1), kernel, kernel];
        let initializer = (self.convolutions)(groups);
        let weight = self.drawn(format!("{name}.weight"), &shape, ParamKind::ConvWeight, initializer);
        let bias = bias.then(|| self.param(format!("{name}.bias"), &[out], ParamKind::Bias));
        let conv =
            Conv { layer: Layer::new(weight, bias), stride: [stride; 2], padding, dilation: [1, 1], groups };
        self.push(name, Op::Conv(conv), &[x])
    }

    /// Batch normalisation (eps 1e-5, momentum 0.1); `gamma` says whether it ends a residual branch.
    pub fn batch_norm(&mut self, name: &str, x: NodeId, gamma: ParamKind) -> Result<NodeId, GraphError> {
        self.batch_norm_with(name, x, gamma, 1e-5, 0.1)
    }

    /// Batch normalisation; `momentum` is the share of the batch in the running statistics.
    pub fn batch_norm_with(
        &mut self,
        name: &str,
        x: NodeId,
        gamma: ParamKind,
        eps: f64,
        momentum: f64,
    ) -> Result<NodeId, GraphError> {
        let c = [self.channels(x)];
        let bn = BatchNorm {
            gamma: self.param(format!("{name}.weight"), &c, gamma),
            beta: self.param(format!("{name}.bias"), &c, ParamKind::Beta),
            mean: self.param(format!("{name}.running_mean"), &c, ParamKind::RunningMean),
            var: self.param(format!("{name}.running_var"), &c, ParamKind::RunningVar),
            eps,
            momentum,
        };
        self.push(name, Op::BatchNorm(bn), &[x])
    }

    /// Layer normalisation over the last dimension.
    pub fn layer_norm(&mut self, name: &str, x: NodeId, eps: f64) -> Result<NodeId, GraphError> {
        let d = [self.features(x)];
        let norm = LayerNorm {
            gamma: self.param(format!("{name}.weight"), &d, ParamKind::Gamma),
            beta: self.param(format!("{name}.bias"), &d, ParamKind::Beta),
            eps,
        };
        self.push(name, Op::LayerNorm(norm), &[x])
    }

    /// A fully connected layer with bias, over the last dimension.
    pub fn linear(&mut self, name: &str, x: NodeId, out: usize) -> Result<NodeId, GraphError> {
        let shape = [out, self.features(x)];
        let weight = self.drawn(format!("{name}.weight"), &shape, ParamKind::LinearWeight, self.linears);
        let bias = Some(self.param(format!("{name}.bias"), &[out], ParamKind::Bias));
        self.push(name, Op::Linear(Linear { layer: Layer::new(weight, bias) }), &[x])
    }

    /// Ends the graph at `output` and checks it.
    pub fn finish(mut self, output: NodeId) -> Result<Graph, GraphError> {
        self.graph.output = output;
        self.graph.verify()?;
        Ok(self.graph)
    }
}
