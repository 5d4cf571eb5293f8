//! Files that Paddle wrote (`fixtures/paddle/write.py`), and what becomes of them.

mod damage;

use damage::damaged;
use octrain_formats::paddle::{self, Attribute, Program, StateDict};
use octrain_formats::{Element, FormatError, Tensors};
use std::fs;
use std::path::PathBuf;

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/paddle").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn program(name: &str) -> Program {
    paddle::program(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn state(name: &str) -> StateDict {
    paddle::state(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What `write.py` fills a parameter with.
fn numbers(name: &str, len: usize) -> Vec<f32> {
    let start = (name.bytes().map(usize::from).sum::<usize>() % 16) as f32 / 4.0 - 2.0;
    (0..len).map(|i| (i % 32) as f32 / 4.0 + start).collect()
}

fn assert_numbers(tensors: &Tensors, skipped: &[&str]) {
    for (name, tensor) in tensors.iter().filter(|(name, _)| !skipped.contains(&name.as_str())) {
        assert_eq!(tensor.data, numbers(name, tensor.data.len()), "{name}");
        assert_eq!(tensor.shape.iter().product::<usize>(), tensor.data.len(), "{name}");
    }
}

/// Names, shapes: of the small network of `write.py`.
fn parameters() -> Vec<(String, Vec<i64>)> {
    let norm = |i: usize, c: i64| {
        ["b_0", "w_0", "w_1", "w_2"].map(|part| (format!("batch_norm2d_{i}.{part}"), vec![c]))
    };
    let conv = |i: usize, shape: [i64; 4]| (format!("conv2d_{i}.w_0"), shape.to_vec());
    let mut all: Vec<_> = [norm(0, 3), norm(1, 4), norm(2, 3)].concat();
    all.extend([conv(0, [3, 4, 1, 1]), conv(1, [4, 3, 3, 3]), conv(2, [3, 4, 3, 3])]);
    all.extend([("linear_0.b_0".to_string(), vec![2]), ("linear_0.w_0".to_string(), vec![3, 2])]);
    all
}

#[test]
fn programs_of_every_form_say_their_parameters_and_how_they_compute() {
    for (name, layout) in [
        ("old.infer.pdmodel", "NHWC"),
        ("old.train.pdmodel", "NHWC"),
        ("new.infer.json", "NCHW"),
        ("new.train.json", "NCHW"),
    ] {
        let p = program(name);
        let told: Vec<_> =
            p.parameters().into_iter().map(|n| (n.to_string(), p.vars[n].shape.clone().unwrap())).collect();
        assert_eq!(told, parameters(), "{name}");
        assert_eq!(p.inner_blocks, 0);
        let image = &p.vars["image"];
        let open = if layout == "NHWC" { vec![-1, 8, 8, 3] } else { vec![-1, 3, 8, 8] };
        assert_eq!((image.shape.clone(), image.persistable), (Some(open), false), "{name}");
        let of = |kind: &str| p.ops.iter().find(|op| op.kind == kind).unwrap();
        let conv = of("conv2d");
        assert_eq!((conv.input("Input", 0), conv.input("Filter", 1)), (Some("image"), Some("conv2d_1.w_0")));
        assert_eq!((conv.ints("strides"), conv.ints("paddings")), (Some(&[2, 2][..]), Some(&[1, 1][..])));
        assert_eq!((conv.int("groups"), conv.text("data_format")), (Some(1), Some(layout)));
        let norm = of("batch_norm");
        let epsilon = norm.float("epsilon").unwrap();
        assert!((epsilon - 1e-3).abs() < 1e-9 && (norm.float("momentum").unwrap() - 0.8).abs() < 1e-6);
        assert_eq!(norm.input("X", 0), conv.output("Output", 0));
        let places = [("Mean", 1), ("Variance", 2), ("Scale", 3), ("Bias", 4)];
        let wanted = ["w_1", "w_2", "w_0", "b_0"].map(|part| format!("batch_norm2d_1.{part}"));
        assert_eq!(places.map(|(key, place)| norm.input(key, place).unwrap().to_string()), wanted, "{name}");
        assert_eq!(p.ops.iter().filter(|op| op.kind == "conv2d").count(), 3);
    }
    let old = program("old.train.pdmodel");
    assert!(
        old.vars["conv2d_0.w_0_velocity_0"].persistable && !old.vars["conv2d_0.w_0_velocity_0"].is_parameter
    );
    assert!(
        old.ops
            .iter()
            .any(|op| op.attributes.values().any(|a| matches!(a, Attribute::Texts(t) if !t.is_empty())))
    );
}

#[test]
fn weights_lie_in_the_order_of_their_sorted_names() {
    for (name, program_of, element) in [
        ("old.infer.pdiparams", "old.infer.pdmodel", Element::F32),
        ("new.infer.pdiparams", "new.infer.json", Element::F32),
        ("float16.pdiparams", "float16.pdmodel", Element::F16),
        ("bfloat16.pdiparams", "bfloat16.pdmodel", Element::Bf16),
    ] {
        let bytes = fixture(name);
        assert!(paddle::plausible_streams(&bytes), "{name}");
        let tensors = paddle::streams(&bytes).unwrap();
        let p = program(program_of);
        let names = p.parameters();
        assert_eq!(tensors.len(), names.len(), "{name}");
        assert!(tensors.iter().all(|t| t.element == element), "{name}");
        let named: Tensors = names.iter().map(|n| n.to_string()).zip(tensors).collect();
        for (name, shape) in parameters() {
            let shape: Vec<usize> = shape.iter().map(|d| *d as usize).collect();
            assert_eq!(named[&name].shape, shape);
        }
        // Both types have the numbers exactly.
        assert_numbers(&named, &[]);
    }
}

#[test]
fn states_are_read_whatever_protocol_and_version_wrote_them() {
    for form in ["old", "new"] {
        let params = state(&format!("{form}.train.pdparams"));
        let names: Vec<String> = parameters().into_iter().map(|(name, _)| name).collect();
        assert_eq!(params.tensors.keys().cloned().collect::<Vec<_>>(), names);
        assert_numbers(&params.tensors, &[]);
        let opt = state(&format!("{form}.train.pdopt"));
        assert_eq!(opt.tensors.len(), 12, "{:?}", opt.tensors.keys());
        assert_numbers(&opt.tensors, &["learning_rate_0"]);
        assert_eq!(opt.tensors["learning_rate_0"].data, [0.1]);
    }
    let dynamic = state("dynamic.pdparams");
    assert_eq!(dynamic.structured["conv1.weight"], "conv2d_1.w_0");
    assert_numbers(&dynamic.tensors, &[]);
    assert_eq!(state("protocol2.pdparams"), dynamic);
    let opt = state("dynamic.pdopt");
    assert_eq!(opt.left_out, ["LR_Scheduler (a dict)"]);
    assert!(opt.tensors.contains_key("linear_0.w_0_velocity_0"));
    for (name, element) in [("float16", Element::F16), ("bfloat16", Element::Bf16), ("float64", Element::F64)]
    {
        // A tensor that is in no module is written with its name, as a pair.
        let read = state(&format!("{name}.pdparams"));
        assert_eq!((read.tensors["w"].element, &read.tensors["w"].data), (element, &numbers("w", 6)));
        assert_eq!(read.left_out, ["epoch (an int)"]);
    }
    let split = state("split.pdparams").tensors;
    assert_eq!((split.len(), &split["w"].shape[..], &split["w"].data), (2, &[3, 4][..], &numbers("w", 12)));
    let columns = state("columns.pdparams").tensors;
    assert_numbers(&columns, &[]);
    assert_eq!((columns["w"].shape.as_slice(), columns.len()), (&[2, 3][..], 2));
}

#[test]
fn what_is_something_else_says_what_it_is() {
    for (name, part) in [
        ("big_endian.pdparams", "big-endian"),
        ("nothing.pdparams", "no arrays by name, but epoch (an int), lr (a float)"),
    ] {
        let told = paddle::state(&fixture(name)).unwrap_err();
        assert!(matches!(told, FormatError::Foreign { .. }) && told.to_string().contains(part), "{told}");
    }
    for bytes in [&b""[..], b"GIF89a", b"{\"base_code\":", b"{\"base_code\":{\"magic\":\"pir\"}}"] {
        assert!(paddle::program(bytes).is_err(), "{bytes:?}");
    }
    assert!(paddle::plausible_program(&fixture("old.infer.pdmodel")));
    assert!(paddle::plausible_pir(&fixture("new.infer.json")));
    for other in ["old.infer.pdiparams", "dynamic.pdparams"] {
        assert!(!paddle::plausible_program(&fixture(other)) && !paddle::plausible_pir(&fixture(other)));
    }
}

/// Reads a file as what it is; how many elements were made.
fn read(name: &str, bytes: &[u8]) -> Result<usize, FormatError> {
    let made = |tensors: &Tensors| tensors.values().map(|t| t.data.len()).sum();
    match name.rsplit('.').next() {
        Some("pdiparams") => paddle::streams(bytes).map(|all| all.iter().map(|t| t.data.len()).sum()),
        Some("pdmodel" | "json") => paddle::program(bytes).map(|_| 0),
        _ => paddle::state(bytes).map(|state| made(&state.tensors)),
    }
}

const ALL: [&str; 7] = [
    "old.infer.pdmodel",
    "old.infer.pdiparams",
    "new.infer.json",
    "bfloat16.pdiparams",
    "dynamic.pdparams",
    "protocol2.pdparams",
    "split.pdparams",
];

#[test]
fn a_file_that_is_cut_short_anywhere_is_an_error_and_no_panic() {
    for name in ALL {
        let whole = fixture(name);
        for end in 0..whole.len() {
            let cut = &whole[..end];
            // Weights may end behind any tensor, and a program behind its first block.
            let complete = match name.rsplit('.').next() {
                Some("pdiparams") => {
                    paddle::streams(cut).is_ok_and(|some| paddle::streams(&whole).unwrap().starts_with(&some))
                }
                Some("pdmodel") => paddle::program(cut).is_ok_and(|some| some == program(name)),
                _ => false,
            };
            assert!(read(name, cut).is_err() || complete, "{name} up to {end}");
        }
    }
}

#[test]
fn whatever_bytes_are_changed_nothing_panics_and_memory_stays_bounded() {
    for name in ALL {
        let whole = fixture(name);
        for (round, bytes) in damaged(&whole) {
            if let Ok(made) = read(name, &bytes) {
                assert!(
                    made <= bytes.len(),
                    "{name}, round {round}: {made} elements of {} bytes",
                    bytes.len()
                );
            }
        }
    }
}

#[test]
fn what_a_file_repeats_is_not_multiplied() {
    let text = |text: &[u8]| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text].concat();
    // One array of a million elements under 100,000 names: what is made is bounded by the file.
    let mut file = b"}(".to_vec();
    let dtype = [b"cnumpy\ndtype\n", &text(b"f4")[..], b"\x89\x88\x87R"].concat();
    let head =
        [b"cnumpy.core.multiarray\n_reconstruct\n", &b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R"[..]].concat();
    let data = [&b"B"[..], &4_000_000u32.to_le_bytes(), &vec![0; 4_000_000]].concat();
    let shape = b"J\x40\x42\x0f\x00\x85";
    file.extend([&text(b"a"), &head, &b"(K\x01"[..], shape, &dtype, b"\x89", &data, b"tbq\x00"].concat());
    for i in 0..100_000u32 {
        file.extend(text(format!("{i}").as_bytes()));
        file.extend(b"h\x00");
    }
    file.extend(b"u.");
    let told = paddle::state(&file).unwrap_err().to_string();
    assert!(told.contains("larger than the file"), "{told}");
    // Empty operators, two bytes each.
    let block = |n: usize| b"\x22\x00".repeat(n);
    let len = |n: usize| -> Vec<u8> {
        let mut n = n;
        let mut out = Vec::new();
        while n > 0x7f {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    };
    let ops = block(2 << 20);
    let told = paddle::program(&[&b"\x0a"[..], &len(ops.len()), &ops].concat()).unwrap_err().to_string();
    assert!(told.contains("more than 1048576 parts"), "{told}");
    let nested = [b"{\"base_code\":".to_vec(), b"[".repeat(1 << 20)].concat();
    assert!(paddle::program(&nested).is_err());
    let many = [b"{\"base_code\":[".to_vec(), b"0,".repeat(3 << 20)].concat();
    assert!(paddle::program(&many).unwrap_err().to_string().contains("more than 2097152 values"));
}
