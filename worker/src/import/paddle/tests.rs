//! Programs that Paddle wrote (`worker/formats/tests/fixtures/paddle/write.py`), with weights that are made here.

use super::*;
use crate::import::{Origin, read as import};
use octrain_formats::paddle::program;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("formats/tests/fixtures/paddle").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A program of one of Paddle's ResNets, for five classes.
fn program_of(name: &str, form: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&fixture(&format!("{name}.{form}.gz"))[..]).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Numbers of a parameter: each parameter has others.
fn numbers(name: &str, len: usize) -> Vec<f32> {
    let start = name.bytes().fold(7u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b))) % 4096;
    (0..len as u32).map(|i| (start + i % 512) as f32 / 4096.0).collect()
}

/// Names and shapes of a program's parameters, in the order of their names.
fn parameters(program: &Program) -> Vec<(String, Vec<usize>)> {
    let shape = |name: &str| program.vars[name].shape.as_ref().unwrap().iter().map(|d| *d as usize).collect();
    program.parameters().into_iter().map(|name| (name.to_string(), shape(name))).collect()
}

/// A `.pdiparams` of such parameters.
fn streams(all: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, shape) in all {
        let mut desc = vec![0x08, 5];
        for mut dim in shape.iter().copied() {
            desc.push(0x10);
            while dim > 0x7f {
                desc.push(dim as u8 | 0x80);
                dim >>= 7;
            }
            desc.push(dim as u8);
        }
        out.extend([0; 16]);
        out.extend((desc.len() as u32).to_le_bytes());
        out.extend(desc);
        out.extend(numbers(name, shape.iter().product()).iter().flat_map(|x| x.to_le_bytes()));
    }
    out
}

/// A pickled dict of such arrays, and of words in a dict under `StructuredToParameterName@@`.
fn pickled(all: &[(String, Vec<usize>)], structured: &[(String, String)]) -> Vec<u8> {
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let mut out = b"\x80\x02}(".to_vec();
    for (name, shape) in all {
        let data: Vec<u8> =
            numbers(name, shape.iter().product()).iter().flat_map(|x| x.to_le_bytes()).collect();
        let dims: Vec<u8> =
            shape.iter().flat_map(|d| [&b"J"[..], &(*d as u32).to_le_bytes()].concat()).collect();
        out.extend(text(name));
        out.extend(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01(");
        out.extend(dims);
        out.extend(b"tcnumpy\ndtype\n");
        out.extend(text("f4"));
        out.extend(b"\x89\x88\x87R\x89B");
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(data);
        out.extend(b"tb");
    }
    if !structured.is_empty() {
        out.extend(text("StructuredToParameterName@@"));
        out.extend(b"}(");
        structured.iter().for_each(|(module, name)| out.extend([text(module), text(name)].concat()));
        out.extend(b"u");
    }
    out.extend(b"u.");
    out
}

/// A folder as the reference leaves it.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (end, bytes) in files {
        fs::write(dir.path().join(format!("resnet_50_paddle.{end}")), bytes).unwrap();
    }
    dir
}

fn velocities(program: &Program) -> Vec<(String, Vec<usize>)> {
    let trained = |name: &str| name.ends_with(".w_0") || name.ends_with(".b_0");
    let of = |(name, shape): (String, Vec<usize>)| (format!("{name}_velocity_0"), shape);
    parameters(program).into_iter().filter(|(name, _)| trained(name)).map(of).collect()
}

const FORMS: [(&str, &str, &str); 4] = [
    ("resnet18", "old.pdmodel", "pdmodel"),
    ("resnet18", "new.json", "json"),
    ("resnet50", "old.pdmodel", "pdmodel"),
    ("resnet50", "new.json", "json"),
];

#[test]
fn paddle_s_resnets_are_octrain_s_whatever_their_names_order_of_memory_and_channels() {
    for (name, form, end) in FORMS {
        let bytes = program_of(name, form);
        let p = program(&bytes).unwrap();
        let (all, mut opt) = (parameters(&p), velocities(&p));
        opt.push(("learning_rate_0".into(), vec![]));
        let (weights, momentum) = (streams(&all), pickled(&opt, &[]));
        let dir = folder(&[(end, &bytes), ("pdiparams", &weights), ("pdopt", &momentum)]);
        let imported = import(dir.path(), &Wanted::default()).unwrap();
        assert_eq!(imported.origin, Origin::Paddle);
        let Network { graph, model, optimizer, notes, .. } = imported.network;
        let (known, channels) = if name == "resnet18" { ("ResNet18", 3) } else { ("ResNet50", 4) };
        assert_eq!(graph, models::build(known, [channels, 224, 224], 5).unwrap(), "{name} {form}");
        assert_eq!(model.len(), all.len());
        // The first and the last parameter that the program reads, by the order of its operators.
        let first = p.ops.iter().find_map(|op| op.input("Filter", 1)).unwrap();
        assert_eq!(model["conv1.weight"].data, numbers(first, 64 * channels * 49));
        let last = p.ops.iter().rev().find(|op| op.kind.starts_with("matmul")).unwrap();
        let (weight, rows) = (last.input("Y", 1).unwrap(), if name == "resnet18" { 512 } else { 2048 });
        let theirs = numbers(weight, rows * 5);
        assert_eq!(model["fc.weight"].shape, [5, rows]);
        assert!((0..5 * rows).all(|i| model["fc.weight"].data[i] == theirs[i % rows * 5 + i / rows]));
        // What is trained has its own momentum, the layer's turned like its weight.
        assert_eq!(optimizer.len(), graph.trainable().count());
        let velocity = numbers(&format!("{weight}_velocity_0"), rows * 5);
        assert_eq!(optimizer["momentum.fc.weight"].data[1], velocity[5]);
        assert!(notes.iter().any(|note| note.contains("learning_rate_0")), "{notes:?}");
        // By the name of one file, and without the optimizer.
        let file = dir.path().join(format!("resnet_50_paddle.{end}"));
        assert_eq!(import(&file, &Wanted::default()).unwrap().network.model, model);
        fs::remove_file(dir.path().join("resnet_50_paddle.pdopt")).unwrap();
        assert!(import(dir.path(), &Wanted::default()).unwrap().network.optimizer.is_empty());
    }
}

#[test]
fn settings_of_batch_norm_are_kept_and_a_network_of_its_own_stays_what_it_is() {
    let (bytes, weights) = (fixture("new.infer.json"), fixture("new.infer.pdiparams"));
    let dir = folder(&[("json", &bytes), ("pdiparams", &weights)]);
    let network = import(dir.path(), &Wanted::default()).unwrap().network;
    assert_eq!(network.graph.name, "resnet_50_paddle");
    assert!(network.notes[0].contains("none of Octrain's networks"), "{:?}", network.notes);
    let norms = network.graph.nodes.iter().filter_map(|node| match &node.op {
        Op::BatchNorm(norm) => Some((norm.eps, norm.momentum)),
        _ => None,
    });
    assert_eq!(norms.collect::<Vec<_>>(), [(1e-3, 0.2); 3]);
    let wanted = Wanted { network: Some("ResNet18".into()), image_shape: None };
    let told = import(dir.path(), &wanted).unwrap_err().to_string();
    for part in [
        "not those of ResNet18",
        "the file has, and ResNet18 has not: 1 Conv with a weight [4, 3, 3, 3], of conv2d_1.w_0",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn weights_that_nothing_reads_and_a_second_file_of_weights_are_passed_over_with_a_note() {
    let mut p = program(&program_of("resnet18", "old.pdmodel")).unwrap();
    let replaced = p.vars["conv2d_0.w_0"].clone();
    p.vars.insert("conv2d_99.w_0".into(), replaced);
    let read = |p: &Program| {
        let weights = Weights::Streams(octrain_formats::paddle::streams(&streams(&parameters(p))).unwrap());
        of_program("x", p, weights, None, &Wanted::default(), Path::new("x"))
    };
    let network = read(&p).unwrap();
    assert_eq!(network.graph.name, "ResNet18");
    assert!(
        network.notes.iter().any(|n| n.contains("no operator reads them: conv2d_99.w_0")),
        "{:?}",
        network.notes
    );
    // One that an operator reads, of a part that is not taken, is none of these.
    p.ops[0].inputs.push(("Other".into(), vec!["conv2d_99.w_0".into()]));
    assert!(read(&p).unwrap_err().to_string().contains("1 left over: conv2d_99.w_0"));

    let bytes = program_of("resnet18", "old.pdmodel");
    let all = parameters(&program(&bytes).unwrap());
    let named = pickled(&all, &[]);
    let dir = folder(&[("pdmodel", &bytes), ("pdiparams", &streams(&all)), ("pdparams", &named)]);
    let notes = import(dir.path(), &Wanted::default()).unwrap().network.notes;
    assert!(notes.iter().any(|note| note.contains("resnet_50_paddle.pdparams is passed over")), "{notes:?}");
}

#[test]
fn what_modules_wrote_has_torchvision_s_names_but_for_statistics() {
    let graph = models::build("ResNet18", [3, 224, 224], 5).unwrap();
    let theirs = |name: &str| name.replace("running_mean", "_mean").replace("running_var", "_variance");
    let turned = |shape: &[usize]| if shape.len() == 2 { vec![shape[1], shape[0]] } else { shape.to_vec() };
    let all: Vec<_> = graph.params.iter().map(|p| (theirs(&p.name), turned(&p.shape))).collect();
    let structured: Vec<_> =
        all.iter().enumerate().map(|(i, (name, _))| (name.clone(), format!("p_{i}"))).collect();
    let trained = graph.params.iter().enumerate().filter(|(_, p)| p.kind.trainable());
    let opt: Vec<_> = trained.map(|(i, p)| (format!("p_{i}_velocity_0"), turned(&p.shape))).collect();
    let (weights, momentum) = (pickled(&all, &structured), pickled(&opt, &[]));
    let dir = folder(&[("pdparams", &weights), ("pdopt", &momentum)]);
    let network = import(dir.path(), &Wanted::default()).unwrap().network;
    assert_eq!(network.graph, graph);
    assert_eq!(network.model["bn1.running_var"].data, numbers("bn1._variance", 64));
    assert_eq!(network.model["fc.weight"].data[1], numbers("fc.weight", 10)[5]);
    let i = graph.params.iter().position(|p| p.name == "bn1.bias").unwrap();
    assert_eq!(network.optimizer["momentum.bn1.bias"].data, numbers(&format!("p_{i}_velocity_0"), 64));
}

#[test]
fn what_is_missing_damaged_or_of_another_network_is_one_message() {
    let bytes = program_of("resnet18", "old.pdmodel");
    let all = parameters(&program(&bytes).unwrap());
    let weights = streams(&all);
    let told = |files: &[(&str, &[u8])], wanted: &Wanted| {
        let dir = folder(files);
        let e = import(dir.path(), wanted).unwrap_err();
        assert!(e.is_configuration(), "{e}");
        e.to_string()
    };
    let any = Wanted::default();
    for (files, parts) in [
        (&[("pdmodel", &bytes[..])][..], &["resnet_50_paddle.pdiparams", "is missing, the weights"][..]),
        (&[("pdiparams", &weights)], &["resnet_50_paddle.pdmodel", "is missing, the program"]),
        (&[("pdopt", b"x")], &["is missing, the program", "is missing, the weights"]),
        (&[("pdparams", &pickled(&all[..3], &[]))], &["have the names of a program", "is missing"]),
        (
            &[("pdmodel", b"GIF89a"), ("pdiparams", b"\x01"), ("pdopt", b"x")],
            &["pdmodel: it is", "pdiparams: it is damaged", "pdopt: it is"],
        ),
        (
            &[("pdmodel", &bytes), ("pdiparams", &streams(&all[1..]))],
            &["are 101 tensors, and the program has 102 parameters"],
        ),
    ] {
        let told = told(files, &any);
        assert!(parts.iter().all(|part| told.contains(part)), "{parts:?} in {told}");
    }
    // Another network's weights: everything that differs.
    let mut other = all.clone();
    (other[0].1[0], other[90].1[0]) = (7, 9);
    let told_other = told(&[("pdmodel", &bytes), ("pdiparams", &streams(&other))], &any);
    for (name, shape) in [&other[0], &other[90]] {
        assert!(told_other.contains(&format!("{name} is {shape:?}, not ")), "{told_other}");
    }
    let wanted = Wanted { network: None, image_shape: Some([4, 224, 224]) };
    let told_images = told(&[("pdmodel", &bytes), ("pdiparams", &weights)], &wanted);
    assert!(told_images.contains("for images of 3 channels, and 4 are wanted"), "{told_images}");
    let half = pickled(&velocities(&program(&bytes).unwrap())[1..], &[]);
    let told_half = told(&[("pdmodel", &bytes), ("pdiparams", &weights), ("pdopt", &half)], &any);
    assert!(told_half.contains("1 without momentum, where others have it"), "{told_half}");
    let quantized = String::from_utf8(program_of("resnet18", "new.json")).unwrap();
    let quantized = quantized.replace("1.relu\"", "1.fake_quantize_dequantize_moving_average_abs_max\"");
    let told_quantized = told(&[("json", quantized.as_bytes()), ("pdiparams", &weights)], &any);
    assert!(told_quantized.contains("it is quantized already (17 operators"), "{told_quantized}");
    let unread =
        String::from_utf8(program_of("resnet18", "new.json")).unwrap().replace("1.relu\"", "1.mish\"");
    let told_unread = told(&[("json", unread.as_bytes()), ("pdiparams", &weights)], &any);
    assert_eq!(told_unread.matches("`mish` (which makes").count(), 17, "{told_unread}");
    let dir = folder(&[("pdmodel", &bytes), ("pdiparams", &weights)]);
    fs::write(dir.path().join("other.pdmodel"), &bytes).unwrap();
    let several = import(dir.path(), &any).unwrap_err().to_string();
    assert!(several.contains("several networks of Paddle's (other, resnet_50_paddle)"), "{several}");
    let one: PathBuf = dir.path().join("resnet_50_paddle.pdmodel");
    assert!(import(&one, &any).is_ok());
}
