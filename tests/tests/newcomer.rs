//! What is said to somebody who comes with data and settings of their own: what was found and what of it is left out,
//! defaults that suit a short run, and for every mistake what is wrong, where, and what to do.

use octrain_tests::run::{octrain, refuse, said, succeed};
use octrain_tests::{images, skipped};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The shortest run there is: one step on 32 pixels.
const SHORT: &[&str] = &[
    "--model-arch-name",
    "ResNet20",
    "--crop-size",
    "32",
    "--device",
    "cpu",
    "--epochs",
    "1",
    "--max-steps",
    "1",
    "--show-config",
    "false",
];

/// Three classes of twelve images in each half.
fn data(dir: &Path) -> std::path::PathBuf {
    images::tree(&dir.join("data"), 3, 12, 36)
}

/// A checkpoint of one step on three classes, and its file.
fn exported() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    let made = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path());
        let out = dir.path().join("out");
        let place = ["--image-root", text(&data), "--batch-size", "8", "--output-dir", text(&out)];
        succeed(&[&["train"], SHORT, &place].concat());
        let file = dir.path().join("fp32.onnx");
        succeed(&["export", "--from-checkpoint", text(&out), "--profile", "fp32", "--output", text(&file)]);
        dir
    });
    made.path()
}

#[test]
fn what_was_found_and_what_is_left_out_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    fs::create_dir_all(data.join("train/a/more/deep")).unwrap();
    fs::copy(data.join("train/a/0.jpg"), data.join("train/a/more/deep/new.jpg")).unwrap();
    for other in ["train/a/1.webp", "train/a/more/2.webp", "train/b/3.bmp", "train/notes.txt"] {
        fs::write(data.join(other), "x").unwrap();
    }
    let out = dir.path().join("out");
    // Neither the number of classes nor channels nor warm-up is given.
    let place = ["--image-root", text(&data), "--batch-size", "8", "--output-dir", text(&out)];
    let told = succeed(&[&["train"], &SHORT[..8], &["--show-config", "false"], &place].concat());
    for line in [
        "train: 37 images in 3 classes of ",
        "2 .webp",
        "1 .bmp",
        "1 beside the class folders",
        "val: 36 images in 3 classes of ",
        "5 of 37 training images drop out of every epoch",
        "warm-up is 0 of 4 steps",
    ] {
        assert!(told.contains(line), "{line} in {told}");
    }
    let plan = succeed(&[&["plan"], &SHORT[..8], &["--show-config", "false"], &place[..4]].concat());
    assert!(plan.contains("train: 37 images in 3 classes"), "{plan}");
}

#[test]
fn classes_of_one_half_are_an_error_unless_they_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    fs::rename(data.join("val/c"), data.join("val/z")).unwrap();
    let out = dir.path().join("out");
    let line =
        [&["train"], SHORT, &["--image-root", text(&data), "--batch-size", "8", "--output-dir", text(&out)]]
            .concat();
    let told = refuse(2, &line);
    for part in ["train/ alone has c", "val/ alone has z", "--allow-missing-classes"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let told = succeed(&[&line[..], &["--allow-missing-classes"]].concat());
    assert!(told.contains("val: 36 images in 3 classes") && told.contains("none of c"), "{told}");
}

#[test]
fn numbers_of_classes_come_from_the_data_and_others_are_refused_with_both() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let line = ["plan", "--image-root", text(&data), "--batch-size", "8", "--crop-size", "32"];
    let told = refuse(2, &[&line[..], &["--num-of-class", "5"]].concat());
    assert!(told.contains("--num-of-class is 5") && told.contains("has 3 classes"), "{told}");
    let told = succeed(&["graph", "--model-arch-name", "ResNet18", "--crop-size", "64"]);
    assert!(told.contains("1000 classes") && told.contains("f32[N,1000]"), "{told}");
    let told = succeed(&["plan", "--nproc", "2", "--model-arch-name", "ResNet50", "--qat", "--amp", "bf16"]);
    assert!(told.contains("in 10 classes of digits"), "{told}");
}

#[test]
fn a_batch_beyond_the_data_is_refused_with_the_number_that_fits() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let line = ["plan", "--image-root", text(&data), "--crop-size", "32", "--device", "cpu"];
    for (flags, want) in [
        (&["--batch-size", "64"][..], "--batch-size 36 fits"),
        (&["--batch-size", "64", "--nproc", "2"], "--batch-size 18 fits"),
        (&["--batch-size", "8", "--global-batch-size", "64"], "--global-batch-size 32 fits"),
        (&["--batch-size", "1", "--nproc", "64"], "use at most 36"),
    ] {
        let told = refuse(2, &[&line[..], flags].concat());
        assert!(told.contains(want) && told.contains("36 training images"), "{want} in {told}");
    }
}

#[test]
fn infer_and_verify_want_the_classes_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    fs::rename(data.join("val/c"), data.join("val/z")).unwrap();
    fs::rename(data.join("train/c"), data.join("train/z")).unwrap();
    let (made, root) = (exported(), text(&data));
    let (file, out) = (made.join("fp32.onnx"), made.join("out"));
    let infer = ["infer", "--model", text(&file), "--image-root", root, "--batch-size", "4"];
    let verify = ["verify", "--from-checkpoint", text(&out), "--model", text(&file), "--image-root", root];
    for line in [&infer[..], &verify] {
        let told = refuse(2, line);
        for part in ["fp32.onnx", "the data lacks c", "the data alone has z"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(!told.contains("--num-of-class"), "advice to use a flag that it does not have: {told}");
    }
    for split in ["train/z", "val/z"] {
        fs::remove_dir_all(data.join(split)).unwrap();
    }
    for line in [&infer[..], &verify] {
        let told = refuse(2, line);
        assert!(told.contains("the data lacks c") && told.contains("--allow-missing-classes"), "{told}");
    }
    // What corrupt images are told to allow is a flag that is there.
    for name in ["val/a/0.jpg", "val/a/2.jpg"] {
        fs::write(data.join(name), "").unwrap();
    }
    let allowing = ["--allow-missing-classes", "--max-corrupt-images", "2"];
    let told = refuse(1, &[&infer[..], &allowing[..1]].concat());
    assert!(told.contains("--max-corrupt-images") && told.contains("val/a/"), "{told}");
    let told = succeed(&[&infer[..], &allowing].concat());
    assert!(told.contains("(22 images, 2 corrupt images left out)") && told.contains("none of c"), "{told}");
}

#[test]
fn settings_that_make_no_sense_are_named_with_their_range() {
    let dir = tempfile::tempdir().unwrap();
    let place = ["--image-root", "digits", "--batch-size", "16", "--output-dir", text(dir.path())];
    let line = [&["train"], SHORT, &place].concat();
    for (flags, want) in [
        (&["--lr", "nan"][..], "--lr is NaN; it is a finite number of 0 or more"),
        (&["--lr", "-1"], "--lr is -1"),
        (&["--lr", "inf"], "--lr is inf"),
        (&["--lr", "fast"], "'--lr <LR>'"),
        (&["--epochs", "-3"], "'--epochs <EPOCHS>'"),
        (&["--batch-size", "0"], "--batch-size is 0"),
        (&["--batch-size", "-8"], "'--batch-size <BATCH_SIZE>'"),
        (&["--batch-size", "99999999999"], "--batch-size is 99999999999"),
        (&["--momentum", "1.5"], "--momentum is 1.5"),
        (&["--weight-decay", "-1e-4"], "--weight-decay is -0.0001"),
        (&["--warmup-epochs", "-1"], "--warmup-epochs is -1"),
        (&["--lr", "--epochs"], "'--epochs' for '--lr <LR>'"),
        (&["--label-smoothing", "1"], "--label-smoothing is 1"),
        (&["--normalize-std", "0.2,0,0.2"], "--normalize-std is 0"),
        (&["--normalize-scale", "nan"], "--normalize-scale is NaN"),
        (&["--rand-crop-scale", "0.5,0.1"], "the smallest comes first"),
        (&["--rand-crop-ratio", "inf,inf"], "--rand-crop-ratio is inf"),
        (&["--image-shape", "3,32"], "3 numbers"),
        (&["--image-shape", "1,32,32"], "1 channels"),
        (&["--crop-size", "0"], "--crop-size is 0"),
        (&["--num-of-class", "1"], "--num-of-class is 1"),
        (&["--nproc", "0"], "--nproc is 0"),
        (&["--nproc", "100000"], "--nproc is 100000"),
        (&["--data-threads", "1000000"], "--data-threads is 1000000"),
        (&["--scale-loss", "0"], "--scale-loss is 0"),
        (&["--bucket-mib", "nan"], "--bucket-mib is NaN"),
        (&["--qat", "--qat-observer", "percentile", "--qat-percentile", "101"], "--qat-percentile is 101"),
        (&["--qat", "--qat-freeze-bn", "nan"], "--qat-freeze-bn is NaN"),
        (&["--amp", "int8"], "'int8'"),
        (&["--optimiser", "sgd"], "'--optimiser'"),
        (&["--optimizer", "adam"], "'adam'"),
        (&["--optimizer", "adamw", "--nesterov"], "--nesterov is part of the update rule sgd"),
        (&["--optimizer", "adamw", "--momentum", "0.9"], "--momentum is part of the update rule sgd"),
        (&["--target", "tensorrt"], "--target is part of quantization-aware training: say --qat too"),
        (&["--optimizer", "adamw", "--adam-beta2", "1"], "--adam-beta2 is 1"),
        (&["--adam-epsilon", "0"], "--adam-epsilon is 0"),
        (&["--model-arch-name", "resnet51"], "ResNet50"),
    ] {
        let told = refuse(2, &[&line[..], flags].concat());
        assert!(told.contains(want), "{want} in {told}");
        assert!(!told.contains("panicked") && !told.contains("backtrace"), "{told}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    for (toml, want) in [
        ("lr = nan", "--lr is NaN"),
        ("lr = -inf", "--lr is -inf"),
        ("lr = -1", "--lr is -1"),
        ("lr = \"0.1\"", "lr"),
        ("learning_rate = 0.1", "learning_rate"),
        ("image-shape = [3, 32]", "image-shape"),
    ] {
        fs::write(&file, toml).unwrap();
        let told = refuse(2, &[&line[..], &["--config", text(&file)]].concat());
        assert!(told.contains("run.toml") && told.contains(want), "{want} in {told}");
    }
}

#[test]
fn folders_that_are_not_what_is_wanted_are_described() {
    let dir = tempfile::tempdir().unwrap();
    let good = data(dir.path());
    let at = |name: &str| dir.path().join(name);
    // Made by what people do: the split itself, another word for it, one image, files without folders, no images.
    fs::create_dir_all(at("renamed")).unwrap();
    fs::rename(data(&at("tmp")).join("train"), at("renamed/training")).unwrap();
    fs::create_dir_all(at("flat/train")).unwrap();
    fs::copy(good.join("train/a/0.jpg"), at("flat/train/0.jpg")).unwrap();
    for split in ["train", "val"] {
        fs::create_dir_all(at("webp").join(split).join("a")).unwrap();
        fs::write(at("webp").join(split).join("a/1.webp"), "x").unwrap();
        fs::create_dir_all(at("one").join(split).join("a")).unwrap();
        fs::copy(good.join("train/a/0.jpg"), at("one").join(split).join("a/0.jpg")).unwrap();
    }
    images::tree(&at("no val"), 2, 4, 36);
    fs::remove_dir_all(at("no val/val")).unwrap();
    fs::write(at("file.zip"), "PK").unwrap();
    for (root, want) in [
        ("data/train", "its folders: a, b, c"),
        ("renamed", "its folders: training"),
        ("flat", "holds no class folders (but 1 files)"),
        ("webp", "holds no images (but 1 .webp"),
        ("one", "one class only (a)"),
        ("no val", "--run-scope train_only"),
        ("file.zip", "not a folder"),
        ("nowhere", "no such folder"),
    ] {
        let (root_flag, out) = (at(root), at("out of refusals"));
        let place = ["--image-root", text(&root_flag), "--batch-size", "1", "--output-dir", text(&out)];
        let told = refuse(2, &[&["train"], SHORT, &place].concat());
        assert!(told.contains(want) && told.contains(root), "{want} in {told}");
        assert!(!told.contains("panicked"), "{told}");
    }
    // Spaces, other scripts, grey and transparent pictures of several sizes are nothing special.
    let odd = at("ünïcode and spaces");
    for split in ["train", "val"] {
        for (i, class) in ["ein Hund", "猫"].iter().enumerate() {
            let folder = odd.join(split).join(class);
            fs::create_dir_all(&folder).unwrap();
            image::GrayImage::new(40 + i as u32, 20).save(folder.join("grau 1.png")).unwrap();
            image::RgbaImage::new(8, 50).save(folder.join("透明.png")).unwrap();
        }
    }
    let out = at("out");
    let place = ["--image-root", text(&odd), "--batch-size", "4", "--output-dir", text(&out)];
    let told = succeed(&[&["train"], SHORT, &place].concat());
    assert!(told.contains("train: 4 images in 2 classes"), "{told}");
}

#[test]
fn a_file_of_pytorch_that_holds_no_weights_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/formats/tests/fixtures");
    for (name, code, part) in [
        ("whole.zip.pth", 2, "torch.save(model.state_dict(), \"weights.pth\")"),
        ("script.pth", 2, "TorchScript"),
        ("cut.pth", 2, "is damaged"),
        // Of another network: what does not fit is listed.
        ("plain.legacy.pth", 2, "conv.weight"),
    ] {
        let path = match name {
            "cut.pth" => dir.path().join(name),
            _ => fixtures.join(name),
        };
        if name == "cut.pth" {
            let whole = fs::read(fixtures.join("plain.zip.pth")).unwrap();
            fs::write(&path, &whole[..1000]).unwrap();
        }
        let place = ["--image-root", "digits", "--batch-size", "16", "--from-pretrained-params", text(&path)];
        let run = dir.path().join("run");
        let output = ["--output-dir", text(&run)];
        let told = refuse(code, &[&["train"], SHORT, &place, &output].concat());
        assert!(told.contains(name) && told.contains(part), "{part} in {told}");
    }
}

#[test]
fn an_export_to_a_full_or_read_only_disk_says_so_and_leaves_nothing() {
    let out = exported().join("out");
    for (option, code, want) in
        [("size=64k", 1, "no space left on device"), ("size=64k,ro", 2, "Read-only file system")]
    {
        let dir = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", option, "tmpfs", text(dir.path())];
        if !Command::new("mount").args(mount).output().is_ok_and(|o| o.status.success()) {
            skipped("a small disk cannot be mounted here (root is needed)");
            return;
        }
        let file = dir.path().join("m.onnx");
        let line = ["export", "--from-checkpoint", text(&out), "--profile", "fp32", "--output", text(&file)];
        let output = octrain(&line);
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
        let told = said(&output);
        assert_eq!(output.status.code(), Some(code), "{told}");
        for part in [want, "m.onnx", "--output", "nothing was written"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert_eq!(left, 0, "something half-written was left behind");
    }
}
