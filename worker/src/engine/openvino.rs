//! OpenVINO. What is not quantized runs in FP32, whatever the CPU would rather do, so that figures are comparable.

use super::{Engine, EngineError, ModelInfo};
use crate::native::libraries::deps_dir;
use openvino::{Core, DeviceType, ElementType, InferRequest, PartialShape, RwPropertyKey, Shape, Tensor};
use std::path::Path;

const NAME: &str = "openvino";

pub(super) struct OpenVino {
    request: InferRequest,
    input: Tensor,
    batch: usize,
    image: usize,
    // Kept as long as the request that belongs to it.
    _core: Core,
}

fn failed(what: &'static str) -> impl Fn(openvino::InferenceError) -> EngineError {
    move |e| {
        let why = e.message.clone().unwrap_or_else(|| e.to_string());
        EngineError::Runtime { engine: NAME, what, why: why.trim().to_string() }
    }
}

impl OpenVino {
    pub fn load(path: &Path, info: &ModelInfo, batch: usize, threads: usize) -> Result<Self, EngineError> {
        let library = deps_dir().join("openvino/lib/libopenvino_c.so");
        openvino_sys::library::load_from(library.clone()).map_err(|why| EngineError::Library {
            engine: NAME,
            path: library.clone(),
            why,
        })?;
        let mut core = Core::new().map_err(|e| EngineError::Library {
            engine: NAME,
            path: library.clone(),
            why: e.to_string(),
        })?;
        let threads = threads.to_string();
        let mut properties = vec![
            (RwPropertyKey::HintInferencePrecision, "f32"),
            (RwPropertyKey::HintPerformanceMode, "LATENCY"),
        ];
        if threads != "0" {
            properties.push((RwPropertyKey::InferenceNumThreads, &threads));
        }
        for (key, value) in properties {
            core.set_property(&DeviceType::CPU, &key, value).map_err(failed("set a property"))?;
        }
        let file = path.to_string_lossy();
        let mut model = core.read_model_from_file(&file, "").map_err(failed("read the file"))?;
        let [c, h, w] = info.image_shape.map(|d| d as i64);
        let dims = [batch as i64, c, h, w];
        let shape = PartialShape::new_static(4, &dims).map_err(failed("make a shape"))?;
        model.reshape_single_input(&shape).map_err(failed("set the batch size"))?;
        let mut compiled =
            core.compile_model(&model, DeviceType::CPU).map_err(failed("compile the network"))?;
        let mut request = compiled.create_infer_request().map_err(failed("make a request"))?;
        let shape = Shape::new(&dims).map_err(failed("make a shape"))?;
        let input = Tensor::new(ElementType::F32, &shape).map_err(failed("make a tensor"))?;
        request.set_input_tensor(&input).map_err(failed("set the input"))?;
        Ok(Self { request, input, batch, image: info.image_len(), _core: core })
    }
}

impl Engine for OpenVino {
    fn batch_size(&self) -> usize {
        self.batch
    }

    fn infer(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        if images.len() != self.batch * self.image {
            return Err(EngineError::Input { wanted: self.batch * self.image, got: images.len() });
        }
        self.input.get_data_mut::<f32>().map_err(failed("give its input"))?.copy_from_slice(images);
        self.request.infer().map_err(failed("run"))?;
        let output = self.request.get_output_tensor().map_err(failed("give its output"))?;
        Ok(output.get_data::<f32>().map_err(failed("give its output"))?.to_vec())
    }
}
