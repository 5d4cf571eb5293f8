//! `octrain quickstart`: the whole path on real images, by the commands a user would type: FP training in mixed
//! precision, an FP control and a QAT run of the same schedule from its checkpoint, export, INT8 inference, and a
//! table that compares them.

use super::recipe::{Recipe, last, run, words};
use crate::metrics::{print, say, table};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `octrain quickstart`.
#[derive(Debug, Clone, clap::Args)]
pub struct QuickstartArgs {
    /// `digits` (embedded) or a folder with `train/<class>/` and `val/<class>/`.
    #[arg(long, default_value = "digits")]
    pub data: String,
    /// Workers on this host.
    #[arg(long, default_value_t = 2)]
    pub nproc: usize,
    /// Where checkpoints, models and the report go.
    #[arg(long, default_value = "runs/quickstart")]
    pub output: PathBuf,
    /// Network.
    #[arg(long, default_value = "ResNet20")]
    pub model_arch_name: String,
    /// Side of the images.
    #[arg(long, default_value_t = 32)]
    pub crop_size: usize,
    /// Images per microbatch.
    #[arg(long, default_value_t = 32)]
    pub batch_size: usize,
    /// Epochs of FP training.
    #[arg(long, default_value_t = 20)]
    pub epochs: u32,
    /// Epochs of the QAT run and of its FP control.
    #[arg(long, default_value_t = 4)]
    pub qat_epochs: u32,
    /// Peak learning rate of FP training.
    #[arg(long, default_value_t = 0.1)]
    pub lr: f64,
    /// Peak learning rate of the QAT run and of its FP control.
    #[arg(long, default_value_t = 0.005)]
    pub qat_lr: f64,
    /// Compute precision of all three runs.
    #[arg(long, default_value = "bf16")]
    pub amp: String,
    /// Steps timed per throughput figure.
    #[arg(long, default_value_t = 50)]
    pub benchmark_steps: u64,
}

/// The training flags all stages share.
fn flags(a: &QuickstartArgs, classes: usize) -> Vec<OsString> {
    words([
        "--model-arch-name",
        &a.model_arch_name,
        "--num-of-class",
        &classes.to_string(),
        "--image-shape",
        &format!("3,{0},{0}", a.crop_size),
        "--crop-size",
        &a.crop_size.to_string(),
        "--resize-short",
        &(if a.crop_size <= 64 { a.crop_size } else { a.crop_size * 8 / 7 }).to_string(),
        "--batch-size",
        &a.batch_size.to_string(),
        "--momentum",
        "0.9",
        "--weight-decay",
        "0.0005",
        "--amp",
        &a.amp,
        "--nproc",
        &a.nproc.to_string(),
        "--device",
        "cpu",
        "--show-config",
        "false",
    ])
}

/// One training: its schedule and what else sets it apart.
fn train(recipe: &Recipe, stage: &str, epochs: u32, lr: f64, extra: &[&str]) -> Vec<OsString> {
    let (epochs, lr, warm) = (epochs.to_string(), lr.to_string(), (f64::from(epochs) / 10.0).to_string());
    let schedule = ["--epochs", &epochs, "--lr", &lr, "--warmup-epochs", &warm];
    let intervals = ["--eval-interval", &epochs, "--save-interval", &epochs];
    recipe.train(stage, &[&schedule[..], &intervals[..], extra].concat())
}

/// Number of classes of the data: folders in `train/`, or the ten digits.
fn classes(data: &str) -> Result<usize> {
    if matches!(data, "digits" | "synthetic") {
        return Ok(10);
    }
    let train = Path::new(data).join("train");
    let entries = std::fs::read_dir(&train).with_context(|| {
        format!("cannot read {}: --data wants a folder with train/<class>/ and val/<class>/", train.display())
    })?;
    let count = entries.filter_map(Result::ok).filter(|e| e.path().is_dir()).count();
    if count < 2 {
        bail!("{} holds {count} class folders, at least 2 are needed", train.display());
    }
    Ok(count)
}

/// Runs all stages and writes `report.json`.
pub fn main(args: &QuickstartArgs) -> Result<()> {
    let started = Instant::now();
    let train_flags = flags(args, classes(&args.data)?);
    let recipe = Recipe {
        output: args.output.clone(),
        data: args.data.clone(),
        val_fraction: 0.0,
        train: train_flags,
    };
    recipe.begin()?;

    let fp = recipe.text("fp");
    run(&train(&recipe, "fp", args.epochs, args.lr, &[]))?;
    run(&train(&recipe, "control", args.qat_epochs, args.qat_lr, &["--from-pretrained-params", &fp]))?;
    run(&train(&recipe, "qat", args.qat_epochs, args.qat_lr, &["--from-pretrained-params", &fp, "--qat"]))?;
    run(&recipe.export("control", "fp32", "fp32.onnx"))?;
    for profile in ["openvino", "onnxruntime", "tensorrt"] {
        run(&recipe.export("qat", profile, &format!("int8-{profile}.onnx")))?;
    }
    let engines = [
        ("fp32", "fp32.onnx", "openvino"),
        ("int8", "int8-openvino.onnx", "openvino"),
        ("fp32-onnxruntime", "fp32.onnx", "onnxruntime"),
        ("int8-onnxruntime", "int8-onnxruntime.onnx", "onnxruntime"),
    ];
    let mut report = Map::new();
    for stage in ["fp", "control", "qat"] {
        report
            .insert(format!("{stage}.top1"), json!(last(&recipe.at(&format!("{stage}.jsonl")), "val.top1")?));
    }
    let mut rows = Vec::new();
    for (name, file, engine) in engines {
        let (accuracy, speed) = (format!("{name}.infer.jsonl"), format!("{name}.speed.jsonl"));
        run(&recipe.infer(file, engine, &accuracy, None))?;
        run(&recipe.infer(file, engine, &speed, Some(args.benchmark_steps)))?;
        let top1 = last(&recipe.at(&accuracy), "infer.top1")?;
        let rate = last(&recipe.at(&speed), "infer.images_per_second")?;
        let bytes = std::fs::metadata(recipe.at(file)).with_context(|| format!("cannot stat {file}"))?.len();
        report.insert(format!("{name}.top1"), json!(top1));
        report.insert(format!("{name}.images_per_second"), json!(rate));
        report.insert(format!("{name}.bytes"), json!(bytes));
        rows.push([
            file.to_owned(),
            engine.to_owned(),
            format!("{top1:.2}"),
            format!("{rate:.0}"),
            format!("{}", bytes / 1024),
        ]);
    }
    let path = recipe.at("report.json");
    report.insert("seconds".into(), json!(started.elapsed().as_secs_f64()));
    let text = serde_json::to_string_pretty(&Value::Object(report.clone()))?;
    crate::checkpoint::write_atomic(&path, text.as_bytes())?;

    let training = ["fp", "control", "qat"].map(|stage| {
        let top1 = report[&format!("{stage}.top1")].as_f64().unwrap_or(f64::NAN);
        [
            format!("{stage} (training graph)"),
            format!("octrain, {}", args.amp),
            format!("{top1:.2}"),
            "-".into(),
            "-".into(),
        ]
    });
    say!("");
    let rows: Vec<_> = training.into_iter().chain(rows).collect();
    print(table(&["network", "runs in", "top-1 %", "images/s", "KiB"], &rows))?;
    say!("\n{} stages in {:.0} s; report in {}", 3 + 4 + 8, started.elapsed().as_secs_f64(), path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_qat_differ_by_one_flag() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: QuickstartArgs,
        }
        let args = <Cli as clap::Parser>::parse_from(["x"]).args;
        let recipe =
            Recipe { output: "o".into(), data: "digits".into(), val_fraction: 0.0, train: flags(&args, 10) };
        let stage = |extra: &[&str]| train(&recipe, "s", args.qat_epochs, args.qat_lr, extra);
        let control = stage(&["--from-pretrained-params", "p"]);
        let qat = stage(&["--from-pretrained-params", "p", "--qat"]);
        assert_eq!(qat[..control.len()], control[..]);
        assert_eq!(qat[control.len()..], [OsString::from("--qat")]);
    }
}
