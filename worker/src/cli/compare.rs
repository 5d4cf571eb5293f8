//! `octrain compare`: the baselines of quantization from one floating-point checkpoint, side by side with the accuracy
//! of what is deployed: post-training quantization, quantization-aware training, and floating-point training of the
//! same schedule (fine-tuning alone improves a network too).

use super::recipe::{Recipe, last, run};
use super::{Exit, checkpoint_base};
use crate::checkpoint::write_atomic;
use crate::config::{effective, recipe_keys};
use crate::metrics::{print, say, table};
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Arguments of `octrain compare`.
#[derive(Debug, Clone, clap::Args)]
pub struct CompareArgs {
    /// The floating-point checkpoint all start from, with the settings it was trained with; flags win.
    #[arg(long, value_name = "FOLDER", required_unless_present = "from_pretrained_params")]
    pub from_checkpoint: Option<PathBuf>,
    /// The floating-point weights all start from, without any settings.
    #[arg(long, value_name = "FOLDER", conflicts_with = "from_checkpoint", requires = "image_root")]
    pub from_pretrained_params: Option<PathBuf>,
    /// `digits`, or a folder with `train/<class>/` and `val/<class>/`; not given: the data of the checkpoint.
    #[arg(long, value_name = "DATA")]
    pub image_root: Option<String>,
    /// Where checkpoints, models and `report.json` go.
    #[arg(long, value_name = "FOLDER", default_value = "runs/compare")]
    pub output: PathBuf,
    /// Flags of `octrain train` for the fine-tuning, quantized or not.
    #[arg(last = true, value_name = "TRAIN FLAGS")]
    pub flags: Vec<OsString>,
}

/// How a file of each profile is deployed here. TensorRT needs its own GPU; its files run in OpenVINO as well.
const DEPLOYED: [(&str, &str); 3] =
    [("openvino", "openvino"), ("onnxruntime", "onnxruntime"), ("tensorrt", "openvino")];

/// The trainings, with what sets them apart.
const STAGES: [(&str, &[&str]); 3] =
    [("ptq", &["--qat", "--epochs", "0"]), ("qat", &["--qat"]), (CONTROL, &["--qat", "false"])];

/// The training in floating point.
const CONTROL: &str = "control";

/// Training flags without those of quantization, which a training in floating point refuses. A flag's value is whatever
/// follows it up to the next flag, as there are no words of other kinds.
fn in_floating_point(flags: &[OsString]) -> Vec<OsString> {
    let recipe = recipe_keys();
    let is_of_quantization = |flag: &str| {
        let name = flag.split('=').next().unwrap_or(flag);
        name == "qat" || recipe.iter().any(|key| key == name)
    };
    let mut dropped = false;
    let mut kept = Vec::new();
    for word in flags {
        if let Some(flag) = word.to_string_lossy().strip_prefix("--") {
            dropped = is_of_quantization(flag);
        }
        if !dropped {
            kept.push(word.clone());
        }
    }
    kept
}

/// What flags say of a setting, the last of them.
fn told(flags: &[OsString], key: &str) -> Option<String> {
    let words: Vec<_> = flags.iter().map(|word| word.to_string_lossy()).collect();
    let flag = format!("--{key}");
    let mut values =
        words.iter().enumerate().filter_map(|(i, word)| match word.strip_prefix(flag.as_str())? {
            "" => Some(words.get(i + 1).map(|value| value.to_string()).unwrap_or_default()),
            rest => rest.strip_prefix('=').map(String::from),
        });
    values.next_back()
}

/// The stages' recipe and the weights they start from.
fn recipe(args: &CompareArgs) -> Result<(Recipe, PathBuf)> {
    let recipe = |data: &str, val_fraction, train| Recipe {
        output: args.output.clone(),
        data: data.into(),
        val_fraction,
        train,
    };
    if let Some(told) = told(&args.flags, "image-root") {
        let what = "the data of every stage and of the engines";
        return Err(Exit::configuration(format!("give {what} before the `--`: --image-root {told}")).into());
    }
    let held_out = told(&args.flags, "val-fraction").map(|text| {
        text.parse().map_err(|_| Exit::configuration(format!("--val-fraction {text} is no number")))
    });
    let held_out: Option<f64> = held_out.transpose()?;
    if let Some(weights) = &args.from_pretrained_params {
        let data = args.image_root.as_deref().unwrap_or_default();
        let recipe = recipe(data, held_out.unwrap_or(0.0), args.flags.clone());
        recipe.begin()?;
        return Ok((recipe, weights.clone()));
    }
    if told(&args.flags, "config").is_some() {
        let message = "the stages have the settings that the checkpoint was trained with: give what differs as flags behind the `--`, not --config";
        return Err(Exit::configuration(message).into());
    }
    let path = args.from_checkpoint.as_deref().unwrap_or(Path::new("."));
    let (folder, manifest) = checkpoint_base::find(path, None)?;
    if manifest.qat.is_some() {
        let message = format!(
            "{} was trained with --qat; the comparison starts from a floating-point checkpoint",
            folder.display()
        );
        return Err(Exit::configuration(message).into());
    }
    let mut settings = checkpoint_base::settings(&manifest);
    let data = args.image_root.clone().unwrap_or_else(|| settings.data.image_root.clone());
    settings.data.val_fraction = checkpoint_base::val_fraction(held_out, &data, &manifest);
    let file = args.output.join("settings.toml");
    let mut train = vec![OsString::from("--config"), file.clone().into()];
    train.extend(args.flags.iter().cloned());
    let recipe = recipe(&data, settings.data.val_fraction, train);
    // Before an earlier experiment's folder, in which it may lie, is moved aside.
    let start = folder.canonicalize().unwrap_or(folder.clone());
    if recipe.output.canonicalize().is_ok_and(|output| start.starts_with(output)) {
        let message = format!("{} lies in --output, which is moved aside", folder.display());
        return Err(Exit::configuration(message).into());
    }
    checkpoint_base::announce(&folder, &manifest);
    recipe.begin()?;
    write_atomic(&file, toml::to_string(&effective(&settings))?.as_bytes())?;
    Ok((recipe, folder))
}

/// Runs all stages and writes `report.json`.
pub fn main(args: &CompareArgs) -> Result<u8> {
    let (recipe, start) = recipe(args)?;
    let start = start.to_string_lossy().into_owned();
    let float = Recipe { train: in_floating_point(&recipe.train), ..recipe.clone() };
    let mut report = Map::new();
    let mut rows = Vec::new();
    for (stage, flags) in STAGES {
        let extra = [&["--from-pretrained-params", &start, "--show-config", "false"], flags].concat();
        let of_stage = if stage == CONTROL { &float } else { &recipe };
        run(&of_stage.train(stage, &extra))?;
        let graph = last(&recipe.at(&format!("{stage}.jsonl")), "val.top1")?;
        report.insert(format!("{stage}.top1"), json!(graph));
        let mut row = vec![stage.to_string(), format!("{graph:.2}")];
        if stage == CONTROL {
            run(&recipe.export(stage, "fp32", "control-fp32.onnx"))?;
            let top1 = recipe.deployed_top1("control-fp32.onnx", "openvino")?;
            report.insert("control.fp32.top1".into(), json!(top1));
            row.extend([format!("{top1:.2} (fp32)"), "-".into(), "-".into()]);
        } else {
            for (profile, engine) in DEPLOYED {
                let file = format!("{stage}-{profile}.onnx");
                run(&recipe.export(stage, profile, &file))?;
                let top1 = recipe.deployed_top1(&file, engine)?;
                report.insert(format!("{stage}.{profile}.top1"), json!(top1));
                row.push(format!("{top1:.2}"));
            }
        }
        rows.push(row.try_into().expect("five columns"));
    }
    let path = recipe.at("report.json");
    write_atomic(&path, serde_json::to_string_pretty(&Value::Object(report))?.as_bytes())?;
    say!("");
    let head = ["from one checkpoint", "graph %", "openvino", "onnxruntime", "tensorrt (run in openvino)"];
    print(table::<5>(&head, &rows))?;
    say!(
        "\ntop-1 in percent, in the training graph and in each profile's engine; report in {}",
        path.display()
    );
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flags_say_is_the_last_of_them_however_it_is_written() {
        let of = |line: &str| told(&line.split(' ').map(OsString::from).collect::<Vec<_>>(), "val-fraction");
        assert_eq!(of("--lr 0.1 --val-fraction 0.5"), Some("0.5".into()));
        assert_eq!(of("--val-fraction 0.5 --val-fraction=0.25 --lr 0.1"), Some("0.25".into()));
        assert_eq!(of("--val-fractions 0.5 --lr 0.1"), None);
    }

    #[test]
    fn control_and_qat_differ_by_whether_they_quantize() {
        let [ptq, qat, control] = STAGES;
        assert_eq!((qat.0, qat.1), ("qat", &["--qat"][..]));
        assert_eq!((control.0, control.1), (CONTROL, &["--qat", "false"][..]));
        assert!(ptq.1.starts_with(qat.1));
    }

    #[test]
    fn the_control_has_all_flags_but_those_of_the_recipe() {
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let all = "--config a.toml --qat --target tensorrt --lr 0.1 --qat-skip=fc,conv1 --amp --qat-pass-through false \
            --qat-freeze-bn -1 --epochs 3 --qat-learn-scales";
        assert_eq!(in_floating_point(&words(all)), words("--config a.toml --lr 0.1 --amp --epochs 3"));
        assert_eq!(in_floating_point(&[]), [""; 0]);
    }
}
