//! Building a graph node by node.

use super::*;

/// Appends nodes and declares their parameters by torchvision's names.
pub struct Builder {
    graph: Graph,
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
        (Self { graph }, NodeId(0))
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
        let param = Param { name: name.into(), shape: shape.to_vec(), kind };
        self.graph.params.push(param.clone());
        param.name
    }

    /// Channels (or features) of a value.
    pub fn channels(&self, x: NodeId) -> usize {
        self.graph.node(x).ty.shape[0]
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
        let shape = [out, self.channels(x), kernel, kernel];
        let weight = self.param(format!("{name}.weight"), &shape, ParamKind::ConvWeight);
        let conv = Conv {
            layer: Layer::new(weight, None),
            stride: [stride; 2],
            padding: Padding::all(kernel / 2),
            dilation: [1, 1],
            groups: 1,
        };
        self.push(name, Op::Conv(conv), &[x])
    }

    /// Batch normalisation (eps 1e-5, momentum 0.1); `gamma` says whether it ends a residual branch.
    pub fn batch_norm(&mut self, name: &str, x: NodeId, gamma: ParamKind) -> Result<NodeId, GraphError> {
        let c = [self.channels(x)];
        let bn = BatchNorm {
            gamma: self.param(format!("{name}.weight"), &c, gamma),
            beta: self.param(format!("{name}.bias"), &c, ParamKind::Beta),
            mean: self.param(format!("{name}.running_mean"), &c, ParamKind::RunningMean),
            var: self.param(format!("{name}.running_var"), &c, ParamKind::RunningVar),
            eps: 1e-5,
            momentum: 0.1,
        };
        self.push(name, Op::BatchNorm(bn), &[x])
    }

    /// A fully connected layer with bias.
    pub fn linear(&mut self, name: &str, x: NodeId, out: usize) -> Result<NodeId, GraphError> {
        let weight = self.param(format!("{name}.weight"), &[out, self.channels(x)], ParamKind::LinearWeight);
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
