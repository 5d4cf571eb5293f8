//! What a file says about itself.

use super::output::{classes_of, is_normalised};
use super::{EngineError, EngineKind, Port, sums};
use crate::checkpoint::Origin;
use crate::data::Preprocessing;
use octrain_formats::onnx::proto::tensor_proto::DataType;
use octrain_formats::onnx::proto::{GraphProto, ModelProto, ValueInfoProto};
use prost::Message;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;

/// Facts of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Name of the input.
    pub input: String,
    /// Name of the output.
    pub output: String,
    /// `[C, H, W]`.
    pub image_shape: [usize; 3],
    /// The only batch size it takes; none where it takes any.
    pub batch: Option<usize>,
    /// Number of classes.
    pub classes: usize,
    /// Whether its outputs are probabilities already (its last operator is Softmax), and no logits.
    pub normalised: bool,
    /// Names of the classes, in the order of the outputs; none for files of others.
    pub class_names: Option<Vec<String>>,
    /// Profile it was exported for; none for files of others.
    pub profile: Option<String>,
    /// Checkpoint it was exported from; none for files of others.
    pub origin: Option<Origin>,
    /// How its checkpoint was trained, as the file has it, where it says so.
    pub strategy: Option<serde_json::Value>,
    /// Preprocessing; none for files of others.
    pub preprocessing: Option<Preprocessing>,
    /// The largest magnitude of the codes in its 8-bit weights; 0 where it has none.
    pub largest_weight_code: u8,
    /// Size in bytes.
    pub bytes: u64,
}

/// What is known of a file besides what it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// `[C, H, W]`.
    pub image_shape: Option<[usize; 3]>,
    /// Number of classes.
    pub classes: Option<usize>,
}

/// Sizes for people: `[N,3,224,224]`.
pub(super) fn shown(dims: &[Option<usize>]) -> String {
    let one = |d: &Option<usize>| d.map_or_else(|| "?".into(), |n| n.to_string());
    format!("[{}]", dims.iter().map(one).collect::<Vec<_>>().join(","))
}

/// Whether a network takes inputs of these shapes as it is: its own dimensions are those, and only that of the batch may be
/// left open. A network that cannot be read takes none, so that the runtime says what is wrong with it.
pub(super) fn takes_as_it_is(network: &[u8], ports: &[Port]) -> bool {
    let Some(graph) = ModelProto::decode(network).ok().and_then(|model| model.graph) else { return false };
    ports.iter().all(|port| {
        let input = graph.input.iter().find(|input| input.name() == port.name);
        let own = input.and_then(ValueInfoProto::dims).unwrap_or_default();
        let fits = |(i, (own, wanted)): (usize, (&Option<usize>, &usize))| match own {
            Some(own) => own == wanted,
            None => i == 0,
        };
        own.len() == port.shape.len() && own.iter().zip(&port.shape).enumerate().all(fits)
    })
}

/// The one input that is no weight: old files list those among the inputs.
fn only_input(graph: &GraphProto) -> Result<&ValueInfoProto, String> {
    let weight = |v: &&ValueInfoProto| graph.initializer.iter().any(|t| t.name == v.name);
    let inputs: Vec<_> = graph.input.iter().filter(|v| !weight(v)).collect();
    match inputs[..] {
        [input] => Ok(input),
        _ => Err(format!("it has {} inputs; one batch of images is wanted", inputs.len())),
    }
}

/// The batch size, if it is fixed, and `[C, H, W]`, of which `told` says what the file leaves open.
fn image_shape(
    input: &ValueInfoProto,
    told: Option<[usize; 3]>,
) -> Result<(Option<usize>, [usize; 3]), String> {
    let element = input.tensor().map_or(0, |t| t.elem_type());
    if element != i32::from(DataType::Float) {
        return Err(format!(
            "its input `{}` is not of FP32 numbers (ONNX element type {element})",
            input.name()
        ));
    }
    let dims = input.dims().unwrap_or_default();
    let &[batch, c, h, w] = &dims[..] else {
        return Err(format!("its input is {}; images come as [N,C,H,W]", shown(&dims)));
    };
    let own = [c, h, w];
    if let Some(told) = told
        && own.iter().zip(told).any(|(own, told)| own.is_some_and(|own| own != told))
    {
        let [c, h, w] = told;
        return Err(format!("its input is {}, not the {c},{h},{w} of --image-shape", shown(&dims)));
    }
    match (own, told) {
        ([Some(c), Some(h), Some(w)], _) | (_, Some([c, h, w])) => Ok((batch, [c, h, w])),
        _ => {
            Err(format!("its input is {}: give the size that is open with --image-shape C,H,W", shown(&dims)))
        }
    }
}

fn entry<T: DeserializeOwned>(
    metadata: &BTreeMap<String, String>,
    key: &str,
    what: &str,
) -> Result<Option<T>, String> {
    let read = |text: &String| serde_json::from_str(text).map_err(|e| format!("its {what}: {e}"));
    metadata.get(key).map(read).transpose()
}

impl ModelInfo {
    /// Reads the facts of a file; `told` says what it leaves open.
    ///
    /// # Errors
    /// When it cannot be read, says otherwise than `told`, or is no classifier of one batch of FP32 images `[N, C, H, W]`.
    pub fn read(path: &Path, told: Told) -> Result<ModelInfo, EngineError> {
        let bytes = super::read(path)?;
        let failed = |why| EngineError::File { path: path.into(), why };
        Self::decode(&bytes, told).map_err(failed)
    }

    fn decode(bytes: &[u8], told: Told) -> Result<ModelInfo, String> {
        let model = ModelProto::decode(bytes).map_err(|e| format!("it is not an ONNX file ({e})"))?;
        let graph = model.graph.ok_or("it is not an ONNX file (it has no graph)")?;
        let input = only_input(&graph)?;
        let [output] = &graph.output[..] else {
            return Err(format!(
                "it has {} outputs; the scores of its classes are wanted",
                graph.output.len()
            ));
        };
        let (batch, image_shape) = image_shape(input, told.image_shape)?;
        let classes = classes_of(output, told.classes)?;
        let metadata: BTreeMap<String, String> =
            model.metadata_props.iter().map(|e| (e.key().into(), e.value().into())).collect();
        let preprocessing = metadata.get("octrain.preprocessing").map(|text| Preprocessing::read(text));
        Ok(ModelInfo {
            input: input.name().into(),
            output: output.name().into(),
            image_shape,
            batch,
            classes,
            normalised: is_normalised(&graph, output),
            class_names: entry(&metadata, "octrain.classes", "classes")?,
            profile: metadata.get("octrain.profile").cloned(),
            origin: entry(&metadata, "octrain.checkpoint", "checkpoint")?,
            strategy: entry(&metadata, "octrain.strategy", "strategy")?,
            largest_weight_code: sums::largest_weight_code(&graph),
            preprocessing: preprocessing.transpose().map_err(|e| format!("its preprocessing: {e}"))?,
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

    /// What to know where this CPU may not add up exactly what an engine multiplies; none where it does.
    pub fn inexact(&self) -> Option<String> {
        sums::note(self.largest_weight_code, sums::adds_exactly())
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

#[cfg(test)]
mod tests {
    use super::*;
    use octrain_formats::onnx::proto::{NodeProto, TensorProto};

    fn file(input: ValueInfoProto, output: ValueInfoProto, last: &str) -> ModelProto {
        let mut weight = input.clone();
        weight.name = Some("w".into());
        let graph = GraphProto {
            node: vec![NodeProto::new(last, "", &["x"], "y", vec![])],
            initializer: vec![TensorProto::floats("w", &[1], &[0.0])],
            input: vec![input, weight],
            output: vec![output],
            ..GraphProto::default()
        };
        ModelProto { graph: Some(graph), ..ModelProto::default() }
    }

    fn read(model: &ModelProto, told: Option<[usize; 3]>) -> Result<ModelInfo, String> {
        ModelInfo::decode(&model.encode_to_vec(), Told { image_shape: told, classes: None })
    }

    #[test]
    fn files_of_others_are_read_for_what_they_say() {
        let x = ValueInfoProto::batch("x", &[3, 8, 8]);
        let info = read(&file(x.clone(), ValueInfoProto::batch("y", &[5]), "Gemm"), None).unwrap();
        assert_eq!((info.image_shape, info.classes, info.batch), ([3, 8, 8], 5, None));
        assert_eq!((info.class_names, info.preprocessing, info.normalised), (None, None, false));
        // Of one batch size, with an output of four dimensions, and Softmax at its end.
        let fixed = ValueInfoProto::fixed("x", &[2, 3, 8, 8]);
        let info = read(&file(fixed, ValueInfoProto::fixed("y", &[2, 5, 1, 1]), "Softmax"), None).unwrap();
        assert_eq!((info.batch, info.classes, info.normalised), (Some(2), 5, true));
    }

    #[test]
    fn what_a_file_leaves_open_is_told_and_what_it_says_is_not_overruled() {
        // A size of 0 is how open ones are written by some.
        let open = file(ValueInfoProto::batch("x", &[3, 0, 0]), ValueInfoProto::batch("y", &[5]), "Gemm");
        let why = read(&open, None).unwrap_err();
        assert!(why.contains("[?,3,?,?]") && why.contains("--image-shape"), "{why}");
        assert_eq!(read(&open, Some([3, 8, 8])).unwrap().image_shape, [3, 8, 8]);
        assert!(read(&open, Some([4, 8, 8])).unwrap_err().contains("not the 4,8,8"));
        let mut halves = open.clone();
        let input = &mut halves.graph.as_mut().unwrap().input[0];
        input.tensor_mut().unwrap().elem_type = Some(DataType::Float16.into());
        assert!(read(&halves, Some([3, 8, 8])).unwrap_err().contains("not of FP32"));
        let unnumbered =
            file(ValueInfoProto::batch("x", &[3, 8, 8]), ValueInfoProto::batch("y", &[0]), "Gemm");
        assert!(read(&unnumbered, None).unwrap_err().contains("--classes FILE"));
        let told =
            |n| ModelInfo::decode(&unnumbered.encode_to_vec(), Told { classes: Some(n), image_shape: None });
        assert_eq!(told(7).unwrap().classes, 7);
        let flat = file(ValueInfoProto::batch("x", &[3]), ValueInfoProto::batch("y", &[5]), "Gemm");
        assert!(read(&flat, None).unwrap_err().contains("[N,C,H,W]"));
    }

    #[test]
    fn a_network_takes_its_own_shapes_with_any_batch_where_that_is_open() {
        let network = |input| file(input, ValueInfoProto::batch("y", &[5]), "Gemm").encode_to_vec();
        let takes = |network: &[u8], name: &str, shape: &[usize]| {
            takes_as_it_is(network, &[Port { name: name.into(), shape: shape.to_vec() }])
        };
        let open = network(ValueInfoProto::batch("x", &[3, 8, 8]));
        assert!(takes(&open, "x", &[1, 3, 8, 8]) && takes(&open, "x", &[16, 3, 8, 8]));
        assert!(
            !takes(&open, "x", &[1, 3, 9, 8]) && !takes(&open, "x", &[1, 3, 8]) && !takes(&open, "z", &[1])
        );
        let fixed = network(ValueInfoProto::fixed("x", &[2, 3, 8, 8]));
        assert!(takes(&fixed, "x", &[2, 3, 8, 8]) && !takes(&fixed, "x", &[1, 3, 8, 8]));
        assert!(!takes(&network(ValueInfoProto::batch("x", &[3, 0, 0])), "x", &[1, 3, 8, 8]));
        assert!(!takes(b"no network", "x", &[1, 3, 8, 8]));
    }
}
