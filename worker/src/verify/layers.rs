//! Layer by layer: the engine is fed what the training graph fed the same layer.

use super::cut::{Cut, CutError, cuts};
use super::{Codes, values};
use crate::engine::{Engine, EngineError, EngineKind, Port, load_network};
use crate::exec::{Evaluator, ExecError};
use octrain_formats::onnx::proto::ModelProto;
use prost::Message;
use std::collections::BTreeSet;
use tch::Tensor;

/// What can go wrong between the two.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The file is not cut.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// The engine refuses a layer.
    #[error("layer `{layer}`: {source}")]
    Engine {
        /// The layer.
        layer: String,
        /// Why.
        source: EngineError,
    },
    /// The training graph cannot run.
    #[error(transparent)]
    Graph(#[from] ExecError),
    /// A tensor cannot be read.
    #[error(transparent)]
    Tensor(#[from] tch::TchError),
    /// The file names a value that training does not have.
    #[error(
        "the file's value `{0}` is not in the training graph; was the file exported from this checkpoint, for its profile?"
    )]
    Value(String),
}

/// A layer in the engine.
pub struct Layer {
    cut: Cut,
    engine: Option<Box<dyn Engine>>,
    /// Differences of its codes so far.
    pub codes: Codes,
    /// For the logits: the largest difference so far, as a part of the largest logit.
    pub relative: f32,
}

impl Layer {
    /// Name of the value it makes.
    pub fn name(&self) -> &str {
        &self.cut.name
    }

    /// Whether its output is quantized; else it makes the logits.
    pub fn quantized(&self) -> bool {
        self.cut.scale.is_some()
    }
}

/// All layers of a file.
pub struct Layers {
    kind: EngineKind,
    layers: Vec<Layer>,
    names: BTreeSet<String>,
}

fn host(t: &Tensor) -> Result<Vec<f32>, tch::TchError> {
    Vec::<f32>::try_from(&t.f_contiguous()?.f_view([-1])?)
}

fn shape(t: &Tensor) -> Vec<usize> {
    t.size().into_iter().map(|d| d as usize).collect()
}

impl Layers {
    /// Cuts a file for an engine.
    pub fn new(model: &ModelProto, kind: EngineKind) -> Result<Self, LayerError> {
        let cuts = cuts(model)?;
        let names = cuts
            .iter()
            .flat_map(|c| c.inputs.iter().map(|f| f.value.clone()).chain([c.name.clone()]))
            .collect();
        let layer = |cut| Layer { cut, engine: None, codes: Codes::default(), relative: 0.0 };
        Ok(Self { kind, layers: cuts.into_iter().map(layer).collect(), names })
    }

    /// Compares on one batch `[b, C, H, W]`; all batches must be of one size.
    pub fn compare(&mut self, graph: &Evaluator, images: &Tensor) -> Result<(), LayerError> {
        let (logits, values) = values(graph, images, &self.names)?;
        for layer in &mut self.layers {
            let value = |name: &str| values.get(name).ok_or_else(|| LayerError::Value(name.into()));
            let inputs = layer.cut.inputs.iter().map(|f| value(&f.value)).collect::<Result<Vec<_>, _>>()?;
            let wanted = if layer.quantized() { value(&layer.cut.name)? } else { &logits };
            let failed = |layer: &str| {
                let layer = layer.to_string();
                move |source| LayerError::Engine { layer, source }
            };
            let mut engine = match layer.engine.take() {
                Some(engine) => engine,
                None => start(&layer.cut, &inputs, wanted, self.kind).map_err(failed(&layer.cut.name))?,
            };
            let fed = inputs.iter().map(|t| host(t)).collect::<Result<Vec<_>, _>>()?;
            let fed: Vec<&[f32]> = fed.iter().map(Vec::as_slice).collect();
            let made = engine.run(&fed).map_err(failed(&layer.cut.name))?;
            layer.engine = Some(engine);
            let wanted = host(wanted)?;
            match layer.cut.scale {
                Some(scale) => layer.codes.add(&wanted, &made, scale),
                None => {
                    let largest = wanted.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
                    let apart = wanted.iter().zip(&made).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
                    layer.relative = layer.relative.max(apart / largest);
                }
            }
        }
        Ok(())
    }

    /// The layers with what has been counted, in the file's order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }
}

fn start(
    cut: &Cut,
    inputs: &[&Tensor],
    output: &Tensor,
    kind: EngineKind,
) -> Result<Box<dyn Engine>, EngineError> {
    let shapes: Vec<_> = inputs.iter().map(|t| shape(t)).collect();
    let network = cut.network(&shapes, &shape(output)).encode_to_vec();
    let ports = cut.inputs.iter().zip(shapes).map(|(f, shape)| Port { name: f.tensor.clone(), shape });
    // One thread each: there are many of them, and they run by turns.
    load_network(kind, &network, ports.collect(), 1)
}
