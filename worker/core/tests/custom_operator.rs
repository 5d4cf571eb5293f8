//! An operator, and a layer with a weight, from outside the crate: through building, passes, placement, dumps and files.

use octrain_core::graph::{
    Builder, DType, Given, Graph, GraphError, Layer, OnnxInput, OnnxNode, OnnxScope, Op, Operator, ParamKind,
    Shapes, Site, TensorType, register,
};
use octrain_core::passes;
use octrain_core::quant::scheme::Sign;
use octrain_core::strategy::{Amp, Purpose, Qat, Strategy, Target};
use serde::{Deserialize, Serialize};

/// `x * sigmoid(slope * x)`: computed in integers by one target only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Swish {
    slope: f64,
}

impl Operator for Swish {
    fn kind(&self) -> &'static str {
        "Swish"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        match self.slope.is_finite() {
            true => Ok(given.inputs[0].clone()),
            false => Err(format!("its slope is {}", self.slope)),
        }
    }

    fn quantized_inputs(&self, target: Target, _: &Site) -> Option<Vec<usize>> {
        (target == Target::Onnxruntime).then(|| vec![0])
    }

    fn describe(&self, _: &Shapes) -> String {
        format!("Swish[{}]", self.slope)
    }
}

/// A product of every channel with every other at each place: weight `[out, in]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Mix {
    layer: Layer,
}

impl Operator for Mix {
    fn kind(&self) -> &'static str {
        "Mix"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let [channels, h, w] = given.image(0)?;
        match given.param(&self.layer.weight)? {
            [out, inn] if *inn == channels => {
                Ok(TensorType { shape: vec![*out, h, w], dtype: self.layer.compute })
            }
            other => Err(format!("weight {other:?} does not fit {channels} channels")),
        }
    }

    fn layer(&self) -> Option<&Layer> {
        Some(&self.layer)
    }

    fn layer_mut(&mut self) -> Option<&mut Layer> {
        Some(&mut self.layer)
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![0])
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::new("Einsum", vec![OnnxInput::Value(0), OnnxInput::Weight])])
    }
}

/// Keeps the largest of its channels: never negative where they are not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Squashed;

impl Operator for Squashed {
    fn kind(&self) -> &'static str {
        "Squashed"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn sign(&self, _: &[Sign]) -> Sign {
        Sign::Unsigned
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }
}

fn network(slope: f64) -> Result<Graph, GraphError> {
    let (mut b, x) = Builder::new("Swishing", [3, 8, 8]);
    let x = b.conv("stem", x, 4, 3, 1)?;
    let x = b.batch_norm("norm", x, ParamKind::Gamma)?;
    let x = b.push("swish", Op::custom(Swish { slope }), &[x])?;
    let weight = b.param("mix.weight", &[6, 4], ParamKind::ConvWeight);
    let x = b.push("mix", Op::custom(Mix { layer: Layer::new(weight, None) }), &[x])?;
    let x = b.batch_norm("mixed", x, ParamKind::Gamma)?;
    let x = b.push("squash", Op::custom(Squashed), &[x])?;
    let x = b.push("pool", Op::GlobalAvgPool, &[x])?;
    let x = b.push("flatten", Op::Flatten, &[x])?;
    let x = b.linear("fc", x, 5)?;
    b.finish(x)
}

fn strategy(target: Target, skip: &[&str]) -> Strategy {
    let skip = skip.iter().map(|s| s.to_string()).collect();
    Strategy { amp: Amp::Bf16, qat: Some(Qat { target, skip, ..Qat::default() }), ..Strategy::default() }
}

#[test]
fn its_shape_rule_is_asked_and_its_words_name_the_node() {
    let said = network(f64::NAN).unwrap_err().to_string();
    assert_eq!(said, "node `swish` (Swish): its slope is NaN");
    assert!(network(1.0).unwrap().to_string().contains("swish = Swish[1](norm) : f32[N,4,8,8]"));
}

#[test]
fn placement_obeys_its_rule_and_refuses_it_by_name_where_there_is_none() {
    let said = passes::run(network(1.0).unwrap(), &strategy(Target::Openvino, &[]), Purpose::Train)
        .unwrap_err()
        .to_string();
    assert!(said.contains("`swish` (Swish)") && said.contains("leave it in floating point"), "{said}");
    let graph =
        passes::run(network(1.0).unwrap(), &strategy(Target::Openvino, &["swish"]), Purpose::Train).unwrap();
    let mix = graph.node(graph.find("mix").unwrap());
    let layer = mix.op.layer().unwrap();
    assert_eq!((layer.quantized(), layer.compute, mix.ty.dtype), (true, DType::Bf16, DType::Bf16));
    let quantizers: Vec<_> =
        graph.quantizers().filter(|(_, q)| q.active).map(|(_, q)| (q.name.as_str(), q.scheme.sign)).collect();
    assert_eq!(quantizers, [("input", Sign::Signed), ("swish", Sign::Signed), ("pool", Sign::Unsigned)]);
}

#[test]
fn batch_norm_folds_into_a_layer_of_ones_own() {
    let graph =
        passes::run(network(1.0).unwrap(), &strategy(Target::Openvino, &["swish"]), Purpose::Export).unwrap();
    let op = &graph.node(graph.find("mix").unwrap()).op;
    assert_eq!(op.layer().unwrap().folded.as_ref().unwrap().gamma, "mixed.weight");
    let scope =
        OnnxScope { shapes: graph.shapes(), inputs: vec![], opset: 13, target: None, reads_constant: false };
    assert_eq!(op.facts().onnx(&scope).unwrap()[0].op_type, "Einsum");
    let said = graph.node(graph.find("swish").unwrap()).op.facts().onnx(&scope).unwrap_err();
    assert!(said.contains("Operator::onnx"), "{said}");
}

#[test]
fn graphs_are_written_by_kind_and_read_by_who_knows_it() {
    let graph = network(0.5).unwrap();
    let text = serde_json::to_string(&graph).unwrap();
    assert!(text.contains(r#"{"Custom":{"kind":"Swish","attributes":{"slope":0.5}}}"#), "{text}");
    let said = serde_json::from_str::<Graph>(&text).unwrap_err().to_string();
    assert!(said.contains("operator `Swish` is none") && said.contains("register"), "{said}");
    register::<Swish>("Swish").unwrap();
    register::<Mix>("Mix").unwrap();
    register::<Squashed>("Squashed").unwrap();
    let read: Graph = serde_json::from_str(&text).unwrap();
    assert_eq!(read, graph);
    read.verify().unwrap();
    assert_ne!(read, network(0.25).unwrap());
    // Once more is no mistake, another type is.
    register::<Swish>("Swish").unwrap();
    assert_eq!(register::<Mix>("Swish").unwrap_err().0, "Swish");
    let damaged = serde_json::from_str::<Graph>(&text.replace("slope", "slop")).unwrap_err().to_string();
    assert!(damaged.contains("operator `Swish` cannot be read") && damaged.contains("slope"), "{damaged}");
    register::<Squashed>("Pressed").unwrap();
    let other = text.replace("\"kind\":\"Squashed\"", "\"kind\":\"Pressed\"");
    let said = serde_json::from_str::<Graph>(&other).unwrap_err().to_string();
    assert!(said.contains("`Pressed` is registered as a type that calls itself `Squashed`"), "{said}");
}

#[test]
fn a_custom_operator_is_what_it_is() {
    let Op::Custom(custom) = Op::custom(Swish { slope: 2.0 }) else { panic!() };
    assert_eq!(custom.get::<Swish>(), Some(&Swish { slope: 2.0 }));
    assert_eq!(custom.get::<Mix>(), None);
    assert_eq!(custom, custom.clone());
    assert_ne!(Op::custom(Squashed), Op::custom(Swish { slope: 2.0 }));
}
