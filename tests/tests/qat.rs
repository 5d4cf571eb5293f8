//! Quantization-aware training by the command line: the same scales on any number of workers, every observer,
//! learned scales, the forward on INT8 codes, distillation, narrow ranges in FP16, and what is refused.

use octrain::checkpoint::{self, State};
use octrain_tests::run::{Running, SMALL, newest, refuse, report, succeed, tensors};
use octrain_tests::{adds_exactly, verified_as_far_as_sums_are_exact};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use tempfile::TempDir;

/// A floating-point checkpoint all tests start from.
fn trained() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    let made = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().to_str().unwrap();
        let flags = [
            "--epochs",
            "1",
            "--max-steps",
            "12",
            "--batch-size",
            "32",
            "--lr",
            "0.05",
            "--output-dir",
            output,
        ];
        succeed(&[&["train"], SMALL, &flags].concat());
        dir
    });
    made.path()
}

const RECIPE: [&str; 9] =
    ["--qat", "--epochs", "1", "--qat-calibration-images", "64", "--run-scope", "train_only", "--lr", "0.01"];

/// `octrain train --qat` from it, into `output`.
fn line<'a>(output: &'a Path, extra: &[&'a str]) -> Vec<&'a str> {
    let start =
        ["--from-pretrained-params", trained().to_str().unwrap(), "--output-dir", output.to_str().unwrap()];
    [&["train"], SMALL, &start, &RECIPE, extra].concat()
}

fn qat(output: &Path, extra: &[&str]) -> String {
    succeed(&line(output, extra))
}

/// The ranges of a run's checkpoint.
fn ranges(output: &Path) -> BTreeMap<String, Vec<u32>> {
    let mut all = tensors(&newest(output).join("model.safetensors"));
    all.retain(|name, _| name.starts_with("quant."));
    assert!(all.len() > 20, "only {} ranges", all.len());
    all
}

const M4: [&str; 6] = ["--batch-size", "16", "--global-batch-size", "64", "--threads", "1"];

#[test]
fn calibration_gives_the_same_scales_on_any_number_of_workers_by_every_observer() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for observer in ["moving-average", "max", "percentile", "mse", "entropy"] {
        let worlds: &[&str] = if observer == "entropy" { &["1", "2", "4"] } else { &["1", "4"] };
        let found: Vec<_> = worlds
            .iter()
            .map(|world| {
                let output = dir.path().join(format!("{observer}-{world}"));
                let flags = ["--epochs", "0", "--nproc", world, "--qat-observer", observer];
                let percent: &[&str] =
                    if observer == "percentile" { &["--qat-percentile", "99"] } else { &[] };
                qat(&output, &[&M4[..], &flags, percent, &["--qat-bn-images", "64"]].concat());
                let all = tensors(&newest(&output).join("model.safetensors"));
                (ranges(&output), all)
            })
            .collect();
        for other in &found[1..] {
            assert!(other.0 == found[0].0, "{observer}: ranges differ between 1 and more workers");
            assert!(
                other.1 == found[0].1,
                "{observer}: BatchNorm's statistics differ between 1 and more workers"
            );
        }
        seen.push(found.into_iter().next().unwrap().0);
    }
    // Before training, by each microbatch's statistics: what is held in it, and what is not moved.
    for observer in ["max", "percentile", "mse"] {
        let found = [("1", "1"), ("1", "2"), ("4", "1")].map(|(world, threads)| {
            let output = dir.path().join(format!("{observer}-{world}-{threads}-trained"));
            let moves: &[&str] = if observer == "max" { &["--qat-freeze-observers", "0"] } else { &[] };
            let how = [&["--nproc", world, "--qat-observer", observer], moves].concat();
            let one =
                ["--batch-size", "16", "--global-batch-size", "64", "--threads", threads, "--max-steps", "1"];
            qat(&output, &[&one[..], &how].concat());
            ranges(&output)
        });
        assert!(found[0] == found[1] && found[0] == found[2], "{observer}: ranges by threads and workers");
    }
    // Each observer has its own idea of a range, none beyond the largest value.
    let max = &seen[1];
    for (i, ranges) in seen.iter().enumerate().filter(|(i, _)| *i != 1) {
        assert!(ranges != max, "observer {i} found the maximum everywhere");
        let beyond = ranges.iter().filter(|(name, r)| f32::from_bits(r[0]) > f32::from_bits(max[*name][0]));
        assert_eq!(beyond.count(), 0);
    }
}

#[test]
fn the_first_step_moves_scales_alike_on_any_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let after = |world, steps, until| {
        let output = dir.path().join(format!("{steps}-{world}-{until}"));
        let how = ["--nproc", world, "--max-steps", steps, "--qat-freeze-observers", until];
        qat(&output, &[&M4[..], &how].concat());
        ranges(&output)
    };
    let found = ["1", "2", "4"].map(|world| after(world, "1", "1"));
    assert!(found[0] == found[1] && found[0] == found[2]);
    assert!(after("1", "1", "0") != found[0], "the step did not move any range");
}

#[test]
fn learned_scales_move_and_resume_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let recipe =
        ["--batch-size", "16", "--nproc", "2", "--qat-learn-scales", "--qat-distill", "--amp", "bf16"];
    let flags = [&recipe[..], &["--max-steps", "20", "--print-interval", "1"]].concat();
    qat(&at("whole"), &flags);
    qat(&at("begun"), &[&recipe[..], &["--max-steps", "1"]].concat());
    // The same calibration, so that what differs was learned: not what only observes, here what is added behind the second
    // BatchNorm of a block, and nearly all else; in so few steps some move by less than their last bit.
    let (learned, begun) = (ranges(&at("whole")), ranges(&at("begun")));
    let moved = |name: &str| begun[name] != learned[name];
    let (observing, learning): (Vec<&String>, Vec<&String>) =
        learned.keys().partition(|name| name.ends_with(".bn2.absmax"));
    assert!(observing.len() == 9 && !observing.iter().any(|name| moved(name)), "{observing:?}");
    let still: Vec<_> = learning.iter().filter(|name| !moved(name)).collect();
    assert!(5 * still.len() <= learning.len(), "of {} scales {still:?} were not learned", learning.len());
    let parts = at("parts");
    let mut run = Running::start(&line(&parts, &flags));
    run.wait_for("step 4/");
    run.signal("INT", run.id());
    assert_eq!(run.end().0, Some(4));
    assert!(newest(&parts).file_name().unwrap().to_str().unwrap().starts_with("0-"));
    let teacher = ["--qat-teacher", trained().to_str().unwrap()];
    let resumed = ["--last-epoch-of-checkpoint", "auto", "--output-dir", parts.to_str().unwrap()];
    succeed(&[&["train"], SMALL, &RECIPE, &flags, &teacher, &resumed].concat());
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let [a, b] = [at("whole"), parts.clone()].map(|f| tensors(&newest(&f).join(file)));
        assert!(a == b, "{file} differs after resuming");
    }
}

#[test]
fn a_forward_on_codes_is_alike_on_any_number_of_workers_and_resumes_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let codes = ["--qat-int8-forward", "--amp", "bf16"];
    let message = refuse(2, &line(&at("nchw"), &[&codes[..], &["--data-layout", "NCHW"]].concat()));
    assert!(message.contains("--qat-int8-forward is set, but it takes images whose"), "{message}");
    if !octrain::native::int8_products() {
        let message = refuse(2, &line(&at("refused"), &codes));
        return assert!(message.contains("which has no VNNI"), "{message}");
    }
    let one = [&M4[..], &codes, &["--max-steps", "1"]].concat();
    let found = ["1", "2", "4"].map(|world| {
        let text = qat(&at(world), &[&one[..], &["--nproc", world]].concat());
        let layers = "the forward of 21 layers is computed on INT8 codes; not fc: its product has 16 rows";
        assert!(text.contains(layers), "{text}");
        ranges(&at(world))
    });
    assert!(found[0] == found[1] && found[0] == found[2], "ranges by workers");
    qat(&at("float"), &[&M4[..], &["--amp", "bf16", "--max-steps", "1"]].concat());
    assert!(found[0] != ranges(&at("float")), "products of codes are rounded once");
    let flags =
        [&codes[..], &["--batch-size", "16", "--threads", "1", "--max-steps", "8", "--print-interval", "1"]]
            .concat();
    qat(&at("whole"), &flags);
    let parts = at("parts");
    let mut run = Running::start(&line(&parts, &flags));
    run.wait_for("step 3/");
    run.signal("INT", run.id());
    assert_eq!(run.end().0, Some(4));
    let resumed = ["--last-epoch-of-checkpoint", "auto", "--output-dir", parts.to_str().unwrap()];
    succeed(&[&["train"], SMALL, &RECIPE, &flags, &resumed].concat());
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let [a, b] = [at("whole"), parts.clone()].map(|f| tensors(&newest(&f).join(file)));
        assert!(a == b, "{file} differs after resuming");
    }
}

#[test]
fn distillation_changes_the_loss_and_needs_a_teacher() {
    let dir = tempfile::tempdir().unwrap();
    let losses = [&["--qat-distill"][..], &[]].map(|extra| {
        let (output, file) = (dir.path().join(extra.len().to_string()), dir.path().join("report.jsonl"));
        let flags = ["--batch-size", "32", "--max-steps", "2", "--print-interval", "1", "--report-file"];
        qat(&output, &[&flags[..], &[file.to_str().unwrap()], extra].concat());
        let steps = report(&file, "step");
        assert_eq!(steps.len(), 2);
        steps[0]["train.loss"].as_f64().unwrap()
    });
    assert!((losses[0] - losses[1]).abs() > 1e-4, "{losses:?}");
    let flags = ["--qat", "--qat-distill", "--epochs", "1", "--batch-size", "32", "--output-dir"];
    let message = refuse(2, &[&["train"], SMALL, &flags, &[dir.path().join("x").to_str().unwrap()]].concat());
    assert!(message.contains("--qat-teacher"), "{message}");
    let message = refuse(2, &[&["train"], SMALL, &["--qat-distill"]].concat());
    assert!(message.contains("say --qat too"), "{message}");
}

#[test]
fn a_range_of_a_ten_millionth_trains_in_fp16_exports_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("qat");
    // Pixels up to 255 become values up to 1e-7: below the smallest normal FP16 number.
    let tiny = ["--normalize-scale", "4e-10", "--normalize-mean", "0,0,0", "--normalize-std", "1,1,1"];
    let flags = ["--batch-size", "32", "--max-steps", "4", "--amp", "fp16", "--scale-loss", "128"];
    qat(&output, &[&tiny[..], &flags, &["--use-dynamic-loss-scaling"]].concat());
    let range = f32::from_bits(ranges(&output)["quant.input.absmax"][0]);
    assert!(range > 0.5e-7 && range < 2e-7, "the image's range is {range:e}");
    for (profile, engine) in
        [("openvino", "openvino"), ("onnxruntime", "onnxruntime"), ("tensorrt", "openvino")]
    {
        let file = dir.path().join(format!("{profile}.onnx"));
        let file = file.to_str().unwrap();
        succeed(&[
            "export",
            "--from-checkpoint",
            output.to_str().unwrap(),
            "--profile",
            profile,
            "--output",
            file,
        ]);
        let text = succeed(&["infer", "--model", file, "--engine", engine, "--image-root", "digits"]);
        assert!(text.contains("infer.top1"), "{text}");
    }
}

#[test]
fn post_training_quantization_is_qat_of_no_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("ptq");
    let text = qat(&output, &["--batch-size", "32", "--epochs", "0", "--run-scope", "train_eval"]);
    assert!(text.contains("calibrated") && text.contains("val.top1"), "{text}");
    assert!(output.join("0/manifest.json").exists());
    let message = refuse(2, &[&["train"], SMALL, &["--epochs", "0"]].concat());
    assert!(message.contains("--qat"), "{message}");
}

/// The checkpoint with other numbers in it, in a folder.
fn changed(root: &Path, change: impl Fn(&mut State)) {
    let mut snapshot = checkpoint::load(&newest(trained())).unwrap();
    change(&mut snapshot.model);
    checkpoint::save(root, &snapshot).unwrap();
}

#[test]
fn numbers_that_are_none_are_named_by_layer_before_they_reach_a_scale() {
    let dir = tempfile::tempdir().unwrap();
    let (root, output) = (dir.path().join("fp"), dir.path().join("qat"));
    for (name, layer, value) in [
        ("layer2.1.bn1.bias", "layer2.1.bn1", f32::NAN),
        ("layer1.2.bn2.weight", "layer1.2.bn2", f32::INFINITY),
        ("layer3.0.conv1.weight", "layer3.0.bn1.relu", f32::NAN),
    ] {
        changed(&root, |state| state.get_mut(name).unwrap().data[3] = value);
        let start = ["--from-pretrained-params", root.to_str().unwrap(), "--batch-size", "32"];
        let said = refuse(1, &line(&output, &start));
        assert!(said.contains(layer) && said.to_lowercase().contains("nan"), "{name}: {said}");
        // Nothing but whose folder it is.
        let saved = std::fs::read_dir(&output).unwrap().flatten().any(|e| e.path().is_dir());
        assert!(!saved, "{name}: saved");
    }
}

#[test]
fn constant_and_zero_channels_train_export_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let (root, output) = (dir.path().join("fp"), dir.path().join("qat"));
    changed(&root, |state| {
        let mut set = |name: &str, channels: std::ops::Range<usize>, value: f32| {
            let t = state.get_mut(name).unwrap();
            let each = t.data.len() / t.shape[0];
            t.data[channels.start * each..channels.end * each].fill(value);
        };
        // Weights of 0 in two channels, of one value in a third; a channel that is constant behind BatchNorm.
        set("layer1.0.conv1.weight", 0..2, 0.0);
        set("layer1.0.conv1.weight", 2..3, 0.25);
        set("layer1.0.bn1.weight", 4..5, 0.0);
        set("layer1.0.bn1.bias", 4..5, 0.7);
        // A layer of which nothing is left behind its ReLU: a range of 0.
        set("layer2.1.bn1.weight", 0..32, 0.0);
        set("layer2.1.bn1.bias", 0..32, -1.0);
    });
    let start =
        ["--from-pretrained-params", root.to_str().unwrap(), "--batch-size", "32", "--max-steps", "4"];
    qat(&output, &[&start[..], &["--lr", "0.0001"]].concat());
    let ranges = ranges(&output);
    assert_eq!(f32::from_bits(ranges["quant.layer2.1.bn1.relu.absmax"][0]), 0.0);
    for engine in ["openvino", "onnxruntime"] {
        let file = dir.path().join(format!("{engine}.onnx"));
        let (file, from) = (file.to_str().unwrap(), ["--from-checkpoint", output.to_str().unwrap()]);
        succeed(&[&["export", "--profile", engine, "--output", file], &from[..]].concat());
        let lines = dir.path().join(format!("{engine}.jsonl"));
        let flags = ["--report-file", lines.to_str().unwrap(), "--model", file, "--engine", engine];
        succeed(
            &[
                &["verify", "--max-images", "120", "--max-disagreement", "2"],
                &flags[..],
                &from[..],
                verified_as_far_as_sums_are_exact(),
            ]
            .concat(),
        );
        let told = &report(&lines, "verify")[0];
        assert_eq!(
            (told["verify.fp32_nodes"].as_u64(), told["verify.images"].as_u64()),
            (Some(0), Some(120))
        );
        let codes = told["verify.lsb_within_1"].as_f64().unwrap();
        assert!(codes >= 99.9 || !adds_exactly("codes of deployed files"), "{told}");
    }
}

#[test]
fn verify_knows_a_skipped_stage_by_whatever_names_engines_give_its_layers() {
    let dir = tempfile::tempdir().unwrap();
    let start = ["--from-pretrained-params", trained().to_str().unwrap(), "--batch-size", "32"];
    for engine in ["openvino", "onnxruntime"] {
        let (output, file) = (dir.path().join(engine), dir.path().join(format!("{engine}.onnx")));
        let (file, from) = (file.to_str().unwrap(), ["--from-checkpoint", output.to_str().unwrap()]);
        qat(
            &output,
            &[&start[..], &["--epochs", "0", "--target", engine, "--qat-skip", "layer3.*"]].concat(),
        );
        succeed(&[&["export", "--profile", engine, "--output", file], &from[..]].concat());
        let lines = dir.path().join(format!("{engine}.jsonl"));
        let flags = ["--report-file", lines.to_str().unwrap(), "--model", file, "--engine", engine];
        succeed(
            &[
                &["verify", "--max-images", "60", "--max-disagreement", "5"],
                &flags[..],
                &from[..],
                verified_as_far_as_sums_are_exact(),
            ]
            .concat(),
        );
        let told = &report(&lines, "verify")[0];
        // Of 22 layers, the third stage has 7.
        let skipped = told["verify.skipped_nodes"].as_array().map(Vec::len);
        let counted = ["fp32", "int8"].map(|of| told[format!("verify.{of}_nodes")].as_u64());
        assert_eq!((counted, skipped), ([Some(0), Some(15)], Some(7)), "{engine}: {told}");
    }
}
