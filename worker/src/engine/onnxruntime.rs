//! ONNX Runtime's CPU provider.

use super::{Engine, EngineError, ModelInfo};
use crate::native::libraries::deps_dir;
use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;
use std::path::Path;
use std::sync::OnceLock;

const NAME: &str = "onnxruntime";

pub(super) struct OnnxRuntime {
    session: Session,
    info: ModelInfo,
    batch: usize,
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
    pub fn load(path: &Path, info: &ModelInfo, batch: usize, threads: usize) -> Result<Self, EngineError> {
        let environment = environment()?;
        let mut builder = Session::builder(environment).map_err(failed("make a session"))?;
        if threads > 0 {
            builder = builder.with_intra_threads(threads).map_err(|e| failed("set its threads")(e.into()))?;
        }
        let session = builder.commit_from_file(path).map_err(failed("load the file"))?;
        Ok(Self { session, info: info.clone(), batch })
    }
}

impl Engine for OnnxRuntime {
    fn batch_size(&self) -> usize {
        self.batch
    }

    fn infer(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        let wanted = self.batch * self.info.image_len();
        if images.len() != wanted {
            return Err(EngineError::Input { wanted, got: images.len() });
        }
        let [c, h, w] = self.info.image_shape;
        let input =
            TensorRef::from_array_view(([self.batch, c, h, w], images)).map_err(failed("take its input"))?;
        let outputs =
            self.session.run(ort::inputs![self.info.input.as_str() => input]).map_err(failed("run"))?;
        let (_, logits) = outputs[0].try_extract_tensor::<f32>().map_err(failed("give its output"))?;
        Ok(logits.to_vec())
    }
}
