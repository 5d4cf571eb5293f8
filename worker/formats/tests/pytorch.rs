//! Files that PyTorch wrote (`fixtures/write.py`), and what becomes of them.

mod damage;

use damage::damaged;
use octrain_formats::pytorch::{StateDict, plausible, read};
use octrain_formats::{Element, FormatError};
use std::fs;
use std::path::PathBuf;

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn state(name: &str) -> StateDict {
    read(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| i as f32 / 4.0 - 1.0).collect()
}

const FORMS: [&str; 2] = ["zip", "legacy"];

#[test]
fn a_state_dict_is_read_by_the_names_it_gives() {
    for form in FORMS {
        let read = state(&format!("plain.{form}.pth"));
        let names: Vec<&str> = read.tensors.keys().map(String::as_str).collect();
        let bn = ["bias", "num_batches_tracked", "running_mean", "running_var", "weight"];
        let mut want: Vec<String> = bn.iter().map(|of| format!("bn.{of}")).collect();
        want.push("conv.weight".into());
        assert_eq!(
            (names, read.under, read.left_out.len()),
            (want.iter().map(String::as_str).collect(), None, 0)
        );
        let conv = &read.tensors["conv.weight"];
        assert_eq!((conv.shape.as_slice(), &conv.data), (&[3, 2, 2, 2][..], &numbers(24)));
        assert_eq!(read.tensors["bn.running_var"].data, [1.0; 3]);
        let counter = &read.tensors["bn.num_batches_tracked"];
        assert_eq!((counter.element, counter.shape.len(), &counter.data[..]), (Element::I64, 0, &[0.0][..]));
    }
}

#[test]
fn every_type_and_every_view_is_what_it_was() {
    for form in FORMS {
        let read = state(&format!("forms.{form}.pth")).tensors;
        let of = |name: &str| (read[name].element, read[name].shape.clone(), read[name].data.clone());
        assert_eq!(of("half"), (Element::F16, vec![2, 2], numbers(4)));
        assert_eq!(of("bf16"), (Element::Bf16, vec![2, 2], numbers(4)));
        assert_eq!(of("double"), (Element::F64, vec![3], numbers(3)));
        assert_eq!(of("parameter"), (Element::F32, vec![2], numbers(2)));
        assert_eq!(of("channels_last"), (Element::F32, vec![1, 2, 2, 2], numbers(8)));
        let shared = numbers(24);
        assert_eq!(of("rows"), (Element::F32, vec![2, 6], shared[6..18].to_vec()));
        let column: Vec<f32> = shared.iter().skip(5).step_by(6).copied().collect();
        assert_eq!(of("column"), (Element::F32, vec![4], column));
        assert_eq!(of("scalar"), (Element::F32, vec![], vec![2.5]));
        assert_eq!(of("empty"), (Element::F32, vec![0, 3], vec![]));
    }
}

#[test]
fn weights_are_found_inside_a_training_script_s_checkpoint() {
    for form in FORMS {
        let (plain, wrapped) = (state(&format!("plain.{form}.pth")), state(&format!("wrapped.{form}.pth")));
        assert_eq!((&plain.tensors, wrapped.under.as_deref()), (&wrapped.tensors, Some("state_dict")));
    }
}

#[test]
fn what_holds_no_weights_by_name_says_what_it_is_and_what_to_do() {
    for (name, parts) in [
        ("whole.zip.pth", ["an object of __main__.Net", "torch.save(model.state_dict()"]),
        ("whole.legacy.pth", ["it holds an object", "torch.save(model.state_dict()"]),
        ("nothing.zip.pth", ["entries epoch, lr", "state dict"]),
        ("nothing.legacy.pth", ["entries epoch, lr", "state dict"]),
        ("script.pth", ["TorchScript", "state_dict()"]),
    ] {
        let told = read(&fixture(name)).unwrap_err();
        assert!(matches!(told, FormatError::Foreign { .. }), "{name}: {told}");
        for part in parts {
            assert!(told.to_string().contains(part), "{name}: {part} in {told}");
        }
    }
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_an_error_and_no_panic() {
    for name in ["forms.zip.pth", "forms.legacy.pth", "wrapped.legacy.pth"] {
        let whole = fixture(name);
        assert!(plausible(&whole));
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{name} up to {end}");
        }
    }
}

#[test]
fn attributes_and_wrappers_change_nothing_and_no_mark_is_overlooked() {
    for form in FORMS {
        let of = |name: &str| read(&fixture(&format!("{name}.{form}.pth")));
        let marked = of("marked").unwrap().tensors;
        assert_eq!(marked.keys().collect::<Vec<_>>(), ["b", "marked"]);
        assert_eq!(marked["marked"].data, numbers(2));
        for name in ["surrogate", "default"] {
            assert_eq!(of(name).unwrap().tensors["w"].data, numbers(4), "{name}");
        }
        for (name, part) in [
            ("negated", "resolve_neg()"),
            ("expanded", "tensor.contiguous()"),
            ("parameters", "it holds an object"),
            ("own", "write it as a plain tensor"),
        ] {
            let told = of(name).unwrap_err();
            let foreign = matches!(told, FormatError::Foreign { .. });
            assert!(foreign && told.to_string().contains(part), "{name}.{form}: {told}");
        }
    }
}

#[test]
fn an_ordered_dict_of_python_2_is_given_its_pairs() {
    // OrderedDict([["epoch", 3]]), as protocol 2 of Python 2.7 writes it.
    let bytes = b"\x80\x02ccollections\nOrderedDict\n](](U\x05epochK\x03ee\x85R.";
    let (pickle, _) = octrain_formats::pickle::read(bytes).unwrap();
    let value = pickle.get(pickle.root(), "epoch").and_then(|id| pickle.size(id));
    assert_eq!(value, Some(3));
}

/// A legacy file around an object's opcodes, whose only storage is empty.
fn legacy(object: &[u8]) -> Vec<u8> {
    let head = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    [head, object, b"](X\x01\x00\x00\x000e.", &[0; 8]].concat()
}

#[test]
fn what_is_recalled_again_and_again_is_not_copied() {
    let long = |n: usize| [&b"X"[..], &(n as u32).to_le_bytes(), &vec![b'k'; n]].concat();
    // A name of 1 MiB for each of 200,000 globals: 200 GB if each had its own.
    let globals = [&long(1 << 20)[..], b"q\x00", &b"h\x00h\x00\x930".repeat(200_000), b"."].concat();
    assert!(octrain_formats::pickle::read(&globals).is_ok());
    // A key of 1 MiB for each of 200,000 entries, beside one tensor of nothing.
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x00tQ"];
    let tensor =
        [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage.concat()[..], b"K\x00K\x00\x85K\x01\x85\x89}tR"];
    let entries = b"h\x00h\x01".repeat(200_000);
    let (key, w) = (long(1 << 20), text("w"));
    let object = [b"}(", &key[..], b"q\x00K\x07q\x01", &entries, &w, &tensor.concat(), b"u."].concat();
    let state = read(&legacy(&object)).unwrap();
    assert_eq!(state.tensors["w"].shape, [0]);
    assert!(state.left_out.len() == 1 && state.left_out[0].len() < 200, "{}", state.left_out.len());
}

#[test]
fn whatever_bytes_are_changed_nothing_panics_and_memory_stays_bounded() {
    for name in ["plain.zip.pth", "forms.zip.pth", "forms.legacy.pth", "wrapped.legacy.pth"] {
        for (round, bytes) in damaged(&fixture(name)) {
            if let Ok(state) = read(&bytes) {
                let made: usize = state.tensors.values().map(|t| t.data.len()).sum();
                assert!(
                    made <= bytes.len(),
                    "{name}, round {round}: {made} elements of {} bytes",
                    bytes.len()
                );
            }
        }
    }
}
