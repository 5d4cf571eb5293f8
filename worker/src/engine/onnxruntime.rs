//! ONNX Runtime's CPU provider.

use super::origin::{batch_norm_of, layer_behind};
use super::profile::computes_layer;
use super::{Engine, EngineError, Port, check_inputs};
use crate::native::libraries::deps_dir;
use octrain_formats::onnx::proto::{ModelProto, NodeProto};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::value::TensorRef;
use prost::Message;
use std::sync::OnceLock;

const NAME: &str = "onnxruntime";

pub(super) struct OnnxRuntime {
    session: Session,
    ports: Vec<Port>,
}

fn failed(what: &'static str) -> impl Fn(ort::Error) -> EngineError {
    move |e| EngineError::Runtime { engine: NAME, what, why: e.to_string() }
}

/// The library, loaded once in a process.
fn environment() -> Result<&'static Environment, EngineError> {
    static LOADED: OnceLock<Result<Environment, String>> = OnceLock::new();
    let path = deps_dir().join("onnxruntime/lib/libonnxruntime.so");
    let made = LOADED.get_or_init(|| {
        let builder = ort::init_from(&path).map_err(|e| e.to_string())?;
        builder.with_name("octrain").with_telemetry(false).build().map_err(|e| e.to_string())
    });
    made.as_ref().map_err(|why| EngineError::Library { engine: NAME, path, why: why.clone() })
}

impl OnnxRuntime {
    pub fn load(network: &[u8], ports: Vec<Port>, threads: usize) -> Result<Self, EngineError> {
        let environment = environment()?;
        let mut builder = Session::builder(environment).map_err(failed("make a session"))?;
        if threads > 0 {
            builder = builder.with_intra_threads(threads).map_err(|e| failed("set its threads")(e.into()))?;
        }
        let session = builder.commit_from_memory(network).map_err(failed("load the file"))?;
        Ok(Self { session, ports })
    }
}

/// The nodes of the network after the runtime's own rewriting: what it runs. Layers that it has named anew have the name
/// that they have in the file.
pub(super) fn optimized(network: &[u8]) -> Result<Vec<NodeProto>, EngineError> {
    let unwritten =
        |why: String| EngineError::Runtime { engine: NAME, what: "write its optimized network", why };
    let folder = tempfile::tempdir().map_err(|e| unwritten(e.to_string()))?;
    let path = folder.path().join("optimized.onnx");
    let builder = Session::builder(environment()?).map_err(failed("make a session"))?;
    // Its warning that such a file belongs to this machine is no news here: it is read and removed at once.
    let builder = builder.with_log_level(LogLevel::Error).map_err(|e| failed("make a session")(e.into()))?;
    let mut builder =
        builder.with_optimized_model_path(&path).map_err(|e| failed("make a session")(e.into()))?;
    builder.commit_from_memory(network).map_err(failed("load the file"))?;
    let bytes = std::fs::read(&path).map_err(|e| unwritten(e.to_string()))?;
    let graph = |bytes: &[u8]| {
        let model = ModelProto::decode(bytes).map_err(|e| unwritten(e.to_string()))?;
        Ok::<_, EngineError>(model.graph.unwrap_or_default())
    };
    let (file, mut rewritten) = (graph(network)?, graph(&bytes)?.node);
    for node in rewritten.iter_mut().filter(|n| computes_layer(n.op_type())) {
        if let Some(norm) = batch_norm_of(&file, node.name()) {
            (node.name, node.op_type) = (Some(norm.into()), Some("BatchNormalization".into()));
        } else if let Some(layer) = layer_behind(&file, node.name()) {
            node.name = Some(layer.into());
        }
    }
    Ok(rewritten)
}

impl Engine for OnnxRuntime {
    fn batch_size(&self) -> usize {
        self.ports[0].shape[0]
    }

    fn run(&mut self, inputs: &[&[f32]]) -> Result<Vec<f32>, EngineError> {
        check_inputs(&self.ports, inputs)?;
        let mut named = Vec::with_capacity(inputs.len());
        for (port, &input) in self.ports.iter().zip(inputs) {
            let tensor = TensorRef::from_array_view((port.shape.clone(), input));
            named.push((port.name.as_str(), tensor.map_err(failed("take its input"))?));
        }
        let outputs = self.session.run(named).map_err(failed("run"))?;
        let (_, values) = outputs[0].try_extract_tensor::<f32>().map_err(failed("give its output"))?;
        Ok(values.to_vec())
    }
}
