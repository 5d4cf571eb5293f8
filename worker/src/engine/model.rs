//! What a file says about itself.

use super::{EngineError, EngineKind, Port};
use crate::checkpoint::Origin;
use crate::export::onnx::{DimensionValue, ModelProto, ValueInfoProto};
use prost::Message;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// How images become numbers, by the names of the flags.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Preprocessing {
    /// Side of the centre crop.
    pub crop_size: usize,
    /// Short side before it.
    pub resize_short: usize,
    /// Factor on pixels.
    pub normalize_scale: f32,
    /// Mean per channel.
    pub normalize_mean: [f32; 3],
    /// Standard deviation per channel.
    pub normalize_std: [f32; 3],
}

/// Facts of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Name of the input.
    pub input: String,
    /// Name of the output.
    pub output: String,
    /// `[C, H, W]`.
    pub image_shape: [usize; 3],
    /// Number of classes.
    pub classes: usize,
    /// Their names, in the order of the logits; none for files of others.
    pub class_names: Option<Vec<String>>,
    /// Profile it was exported for; none for files of others.
    pub profile: Option<String>,
    /// Checkpoint it was exported from; none for files of others.
    pub origin: Option<Origin>,
    /// Preprocessing; none for files of others.
    pub preprocessing: Option<Preprocessing>,
    /// Size in bytes.
    pub bytes: u64,
}

fn dims(value: &ValueInfoProto) -> Vec<Option<usize>> {
    let shape = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).and_then(|t| t.shape.as_ref());
    let size = |v: &Option<DimensionValue>| match v {
        Some(DimensionValue::DimValue(n)) => usize::try_from(*n).ok(),
        _ => None,
    };
    shape.map_or_else(Vec::new, |s| s.dim.iter().map(|d| size(&d.value)).collect())
}

impl ModelInfo {
    /// Reads a file's facts.
    pub fn read(path: &Path) -> Result<ModelInfo, EngineError> {
        let failed = |why: String| EngineError::File { path: path.into(), why };
        let bytes = super::read(path)?;
        let model =
            ModelProto::decode(&bytes[..]).map_err(|e| failed(format!("it is not an ONNX file ({e})")))?;
        let graph = model.graph.ok_or_else(|| failed("it is not an ONNX file (it has no graph)".into()))?;
        let ([input], [output]) = (&graph.input[..], &graph.output[..]) else {
            let (i, o) = (graph.input.len(), graph.output.len());
            return Err(failed(format!(
                "it has {i} inputs and {o} outputs; one image batch and one output are wanted"
            )));
        };
        let ([_, Some(c), Some(h), Some(w)], [_, Some(classes)]) = (&dims(input)[..], &dims(output)[..])
        else {
            return Err(failed("its input is not [N,C,H,W] or its output not [N,classes]".into()));
        };
        let metadata: BTreeMap<String, String> =
            model.metadata_props.into_iter().map(|e| (e.key, e.value)).collect();
        let preprocessing = metadata.get("octrain.preprocessing").map(|text| serde_json::from_str(text));
        let origin = metadata.get("octrain.checkpoint").map(|text| serde_json::from_str(text));
        Ok(ModelInfo {
            input: input.name.clone(),
            output: output.name.clone(),
            image_shape: [*c, *h, *w],
            classes: *classes,
            class_names: metadata
                .get("octrain.classes")
                .map(|text| serde_json::from_str(text))
                .transpose()
                .map_err(|e| failed(format!("its classes: {e}")))?,
            profile: metadata.get("octrain.profile").cloned(),
            origin: origin.transpose().map_err(|e| failed(format!("its checkpoint: {e}")))?,
            preprocessing: preprocessing
                .transpose()
                .map_err(|e| failed(format!("its preprocessing: {e}")))?,
            bytes: bytes.len() as u64,
        })
    }

    /// What to know when `engine` is not the runtime the file was written for; none when it is, or any is.
    pub fn foreign(&self, engine: EngineKind) -> Option<String> {
        let profile = self.profile.as_deref().filter(|p| *p != "fp32" && *p != engine.name())?;
        Some(format!(
            "the file was written for {profile} and runs in {name}: {name} may compute parts of it otherwise or in FP32, so neither speed nor accuracy are those of `octrain export --profile {name}`",
            name = engine.name()
        ))
    }

    /// The input, for batches of `batch` images.
    pub fn port(&self, batch: usize) -> Port {
        let [c, h, w] = self.image_shape;
        Port { name: self.input.clone(), shape: vec![batch, c, h, w] }
    }

    /// Numbers of one image.
    pub fn image_len(&self) -> usize {
        self.image_shape.iter().product()
    }
}
