//! What stands in floating point in files of FP16.

use super::*;

/// Statistics of a BatchNorm that stands apart are in files of FP16 as they were trained, whatever FP16 can hold.
#[test]
fn a_batch_norm_that_stands_apart_keeps_its_statistics_in_files_of_fp16() {
    let (mut b, x) = Builder::new("Apart", [3, SIDE as usize, SIDE as usize]);
    let x = b.conv("stem", x, 4, 3, 1).unwrap();
    let y = b.batch_norm_with("apart.bn", x, ParamKind::Gamma, 1e-12, 0.1).unwrap();
    let y = b.push("relu", Op::Relu, &[y]).unwrap();
    let y = b.conv("conv", y, 4, 3, 1).unwrap();
    let x = b.push("add", Op::Add, &[y, x]).unwrap();
    let x = b.push("pool", Op::GlobalAvgPool, &[x]).unwrap();
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc", x, 10).unwrap();
    let base = b.finish(x).unwrap();
    for profile in [Profile::Fp32, Profile::Openvino, Profile::Tensorrt] {
        let mut network = Network::new(&base, profile, 8);
        // The stem's channels are as wide as the statistics say, and their squares are beyond FP16 at both ends.
        let widths = [1e-3f32, 0.03, 1.0, 600.0];
        let stem = network.state.get_mut("stem.weight").unwrap();
        let row = stem.data.len() / 4;
        stem.data.iter_mut().enumerate().for_each(|(i, w)| *w *= widths[i / row]);
        let var = &mut network.state.get_mut("apart.bn.running_var").unwrap().data;
        var.iter_mut().zip(widths).for_each(|(v, w)| *v = w * w);
        let mean = &mut network.state.get_mut("apart.bn.running_mean").unwrap().data;
        mean.iter_mut().zip(widths).for_each(|(m, w)| *m = 0.1 * w);
        let opset = if profile == Profile::Tensorrt { 19 } else { 13 };
        let model = network.emit(opset, FloatType::Fp16).unwrap();
        let graph = model.graph.as_ref().unwrap();
        for name in ["weight", "bias", "running_mean", "running_var"] {
            let name = format!("apart.bn.{name}");
            let stored = graph.initializer.iter().find(|t| t.name() == name).unwrap();
            assert_eq!(stored.data_type(), i32::from(DataType::Float), "{name}");
        }
        check(&[(profile.name().into(), model.clone())]);
        if profile != Profile::Fp32 {
            continue;
        }
        let given = Vec::<f32>::try_from(images(8).view([-1])).unwrap();
        let mut engine = load_network(engine(profile), &model.encode_to_vec(), vec![port(8)], 1).unwrap();
        let theirs = Tensor::from_slice(&engine.infer(&given).unwrap()).view([8, 10]);
        let ours = network.trained().logits(&images(8)).unwrap();
        let apart = (&theirs - &ours).abs().max().double_value(&[]) / ours.abs().max().double_value(&[]);
        println!("logits of FP16 are {apart:.1e} apart");
        assert!(apart < 1e-2, "{apart}: {theirs} {ours}");
    }
}
