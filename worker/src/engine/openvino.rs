//! OpenVINO. What is not quantized runs in FP32, whatever the CPU would rather do, so that figures are comparable. A network
//! is compiled as its file has it, as whoever reads the file compiles it: with the batch left open where it is. A fixed
//! batch is another network to OpenVINO, which then takes residual sums of a ResNet apart from their convolutions.

use super::model::takes_as_it_is;
use super::{Engine, EngineError, Port, check_inputs};
use crate::native::libraries::deps_dir;
use crate::native::openvino_profile::{ExecutedNode, executed_nodes};
use openvino::{Core, DeviceType, ElementType, InferRequest, PartialShape, RwPropertyKey, Shape, Tensor};

const NAME: &str = "openvino";

/// Precision of what is not quantized, and scheduling.
const PROPERTIES: [(RwPropertyKey, &str); 2] =
    [(RwPropertyKey::HintInferencePrecision, "f32"), (RwPropertyKey::HintPerformanceMode, "LATENCY")];

pub(super) struct OpenVino {
    request: InferRequest,
    inputs: Vec<Tensor>,
    ports: Vec<Port>,
    // Kept as long as the request that belongs to it.
    _core: Core,
}

fn failed(what: &'static str) -> impl Fn(openvino::InferenceError) -> EngineError {
    move |e| {
        let why = e.message.clone().unwrap_or_else(|| e.to_string());
        EngineError::Runtime { engine: NAME, what, why: why.trim().to_string() }
    }
}

fn load_library() -> Result<(), EngineError> {
    let path = deps_dir().join("openvino/lib/libopenvino_c.so");
    openvino_sys::library::load_from(path.clone()).map_err(|why| EngineError::Library {
        engine: NAME,
        path,
        why,
    })
}

fn dims(port: &Port) -> Vec<i64> {
    port.shape.iter().map(|&d| d as i64).collect()
}

impl OpenVino {
    pub fn load(network: &[u8], ports: Vec<Port>, threads: usize) -> Result<Self, EngineError> {
        load_library()?;
        let mut core = Core::new().map_err(|e| EngineError::Runtime {
            engine: NAME,
            what: "start",
            why: e.to_string(),
        })?;
        for (key, value) in PROPERTIES {
            core.set_property(&DeviceType::CPU, &key, value).map_err(failed("set a property"))?;
        }
        if threads > 0 {
            let key = RwPropertyKey::InferenceNumThreads;
            core.set_property(&DeviceType::CPU, &key, &threads.to_string())
                .map_err(failed("set its threads"))?;
        }
        let mut model = core.read_model_from_buffer(network, None).map_err(failed("read the file"))?;
        if !takes_as_it_is(network, &ports) {
            let shapes = ports
                .iter()
                .map(|p| PartialShape::new_static(p.shape.len() as i64, &dims(p)))
                .collect::<Result<Vec<_>, _>>()
                .map_err(failed("make a shape"))?;
            let named: Vec<_> = ports.iter().zip(&shapes).map(|(p, s)| (p.name.as_str(), s)).collect();
            model.reshape(&named).map_err(failed("set the batch size"))?;
        }
        let mut compiled =
            core.compile_model(&model, DeviceType::CPU).map_err(failed("compile the network"))?;
        let mut request = compiled.create_infer_request().map_err(failed("make a request"))?;
        let mut inputs = Vec::with_capacity(ports.len());
        for port in &ports {
            let shape = Shape::new(&dims(port)).map_err(failed("make a shape"))?;
            let input = Tensor::new(ElementType::F32, &shape).map_err(failed("make a tensor"))?;
            request.set_tensor(&port.name, &input).map_err(failed("set the input"))?;
            inputs.push(input);
        }
        Ok(Self { request, inputs, ports, _core: core })
    }
}

/// The nodes that run when the network does, once.
pub(super) fn executed(network: &[u8], ports: &[Port]) -> Result<Vec<ExecutedNode>, EngineError> {
    load_library()?;
    let dims: Vec<Vec<i64>> = ports.iter().map(dims).collect();
    let inputs: Vec<_> = ports.iter().zip(&dims).map(|(p, d)| (p.name.as_str(), d.as_slice())).collect();
    let keys: Vec<_> = PROPERTIES.iter().map(|(key, value)| (key.as_ref(), *value)).collect();
    executed_nodes(network, &inputs, takes_as_it_is(network, ports), &keys)
        .map_err(|e| EngineError::Runtime { engine: NAME, what: "profile the network", why: e.to_string() })
}

impl Engine for OpenVino {
    fn batch_size(&self) -> usize {
        self.ports[0].shape[0]
    }

    fn run(&mut self, inputs: &[&[f32]]) -> Result<Vec<f32>, EngineError> {
        check_inputs(&self.ports, inputs)?;
        for (tensor, input) in self.inputs.iter_mut().zip(inputs) {
            tensor.get_data_mut::<f32>().map_err(failed("take its input"))?.copy_from_slice(input);
        }
        self.request.infer().map_err(failed("run"))?;
        let output = self.request.get_output_tensor_by_index(0).map_err(failed("give its output"))?;
        Ok(output.get_data::<f32>().map_err(failed("give its output"))?.to_vec())
    }
}
