//! Files of networks whose nodes have the names of other things.

use super::*;
use octrain::graph::Clip;

/// A network whose nodes have names of its parameters, of the ends of a file and of what files have besides: all are legal.
fn confusing() -> Graph {
    let (mut b, x) = Builder::new("Confusing", [3, SIDE as usize, SIDE as usize]);
    let x = b.conv("logits", x, 8, 3, 1).unwrap();
    let x = b.push("logits.weight", Op::Relu, &[x]).unwrap();
    let y = b.conv("out", x, 8, 3, 1).unwrap();
    let y = b.push("out.weight.codes", Op::Relu, &[y]).unwrap();
    let z = b.conv("output", y, 8, 3, 1).unwrap();
    let z = b.push("logits.weight.dequantized", Op::Clip(Clip::RELU6), &[z]).unwrap();
    let x = b.push("out.folded_bias", Op::Add, &[z, x]).unwrap();
    let x = b.push("max_code", Op::HardSigmoid, &[x]).unwrap();
    let x = b.push("max_code/0", Op::GlobalAvgPool, &[x]).unwrap();
    let x = b.push("input.codes", Op::Flatten, &[x]).unwrap();
    let x = b.linear("number/6", x, 10).unwrap();
    b.finish(x).unwrap()
}

#[test]
fn whatever_nodes_are_named_every_name_of_a_file_is_one_thing() {
    let mut files = Vec::new();
    for profile in [Profile::Fp32].into_iter().chain(INT8) {
        for reduced in [false, true] {
            let network = Network::of(&confusing(), profile, 8, reduced);
            for (opset, float_type) in [(13, FloatType::Fp32), (19, FloatType::Fp16)] {
                let Ok(model) = network.emit(opset, float_type) else {
                    assert_eq!((profile, float_type), (Profile::Onnxruntime, FloatType::Fp16));
                    continue;
                };
                let what = format!("{} {float_type:?} reduced {reduced}", profile.name());
                let graph = model.graph.as_ref().unwrap();
                let made = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
                let stored = graph.initializer.iter().map(|t| t.name());
                let all: Vec<&str> = made.chain(stored).chain(["input"]).collect();
                assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{what}: {all:?}");
                let names: BTreeSet<&str> = graph.node.iter().map(|n| n.name()).collect();
                assert_eq!(names.len(), graph.node.len(), "{what}");
                let trained = network.trained();
                let kind = engine(profile);
                if profile == Profile::Fp32 {
                    let given = Vec::<f32>::try_from(images(8).view([-1])).unwrap();
                    let bytes = model.encode_to_vec();
                    let mut engine = load_network(kind, &bytes, vec![port(8)], 1).unwrap();
                    let theirs = Tensor::from_slice(&engine.infer(&given).unwrap()).view([8, 10]);
                    let ours = trained.logits(&images(8)).unwrap();
                    assert!(theirs.allclose(&ours, 1e-2, 1e-2, false), "{what}: {theirs} {ours}");
                } else if adds_exactly("codes of 8-bit weights in engines") {
                    let mut layers = Layers::new(&model, kind).unwrap();
                    layers.compare(&trained, &images(8)).unwrap();
                    for layer in layers.layers().iter().filter(|l| l.quantized()) {
                        let within = layer.codes.within_one();
                        assert!(within >= 99.9, "{what}, {}: {:?}", layer.name(), layer.codes);
                    }
                    assert!(layers.layers().last().unwrap().relative < 5e-3, "{what}");
                }
                files.push((what.replace(' ', "-"), model));
            }
        }
    }
    assert_eq!(files.len(), 14);
    check(&files);
}
