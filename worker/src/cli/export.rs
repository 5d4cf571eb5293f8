//! `octrain export`: a checkpoint as an ONNX file for one runtime.

use super::{Exit, checkpoint_base, output};
use crate::checkpoint::{self, Manifest, Origin, Snapshot};
use crate::config::CheckpointChoice;
use crate::export::{self, About, FloatType, Options, Profile, Task, emit, scale_table};
use crate::graph::Graph;
use crate::metrics::say;
use crate::passes;
use crate::strategy::{Purpose, Strategy};
use anyhow::Result;
use prost::Message;
use std::path::{Path, PathBuf};

/// Arguments of `octrain export`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct ExportArgs {
    /// Checkpoint folder, or a folder of checkpoints.
    #[arg(long, value_name = "FOLDER")]
    pub from_checkpoint: PathBuf,
    /// `auto` (the furthest), `best` (that of the highest top-1) or a number of epochs.
    #[arg(long, value_name = "WHICH")]
    pub last_epoch_of_checkpoint: Option<CheckpointChoice>,
    /// Runtime the file is for.
    #[arg(long, value_enum)]
    pub profile: Profile,
    /// The file.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// ONNX operator set, 13 to 21 (not given: 13, or 19 for `tensorrt` in FP16).
    #[arg(long)]
    pub opset: Option<i64>,
    /// Type of what the file keeps in floating point (not given: fp16 for `tensorrt`, which from TensorRT 11 on computes in the
    /// types that the file says and needs TensorRT 10 or later; fp32 for the others, and for TensorRT before 10).
    #[arg(long, value_enum)]
    pub float_type: Option<FloatType>,
    /// Also write the scales as a JSON table.
    #[arg(long, value_name = "FILE")]
    pub scale_table: Option<PathBuf>,
}

impl ExportArgs {
    /// How the file is written.
    fn options(&self) -> Options {
        let profile = self.profile;
        let float_type = self.float_type.unwrap_or_else(|| FloatType::of(profile));
        let opset = self.opset.unwrap_or_else(|| float_type.opset(profile));
        Options { profile, opset, float_type }
    }
}

/// What a file of a checkpoint is made by.
///
/// # Errors
/// When the profile is quantized and the checkpoint is not.
pub fn strategy(folder: &Path, manifest: &Manifest, profile: Profile) -> Result<Strategy, Exit> {
    manifest.strategy.deployed(profile.target()).ok_or_else(|| {
        Exit::configuration(format!(
            "{} was trained without --qat, so it has no activation ranges: train with --qat from it (--from-pretrained-params), or export --profile fp32",
            folder.display()
        ))
    })
}

/// The network of a checkpoint as a file has it: the same pass list as in training, decided for export.
fn deployed_graph(checkpoint: &Snapshot, strategy: &Strategy) -> Result<Graph> {
    Ok(passes::run(checkpoint.graph.clone(), strategy, Purpose::Export).map_err(Exit::configuration)?)
}

/// The same network as it is evaluated in training.
pub fn trained_graph(checkpoint: &Snapshot, strategy: &Strategy) -> Result<Graph> {
    Ok(passes::run(checkpoint.graph.clone(), strategy, Purpose::Eval).map_err(Exit::configuration)?)
}

/// What the file says of a checkpoint's network.
fn metadata(folder: &Path, checkpoint: &Snapshot, graph: &Graph) -> Vec<(String, String)> {
    let Snapshot { manifest, model, .. } = checkpoint;
    let Manifest { class_names, preprocessing, .. } = manifest.clone();
    let about = About {
        strategy: &manifest.strategy,
        position: manifest.position,
        task: Some(&Task { class_names, preprocessing }),
        checkpoint: Some(&Origin::of(folder, manifest)),
        settings: manifest.config.as_ref(),
    };
    export::metadata(graph, model, about)
}

/// Runs the command.
pub fn main(args: &ExportArgs) -> Result<u8> {
    output::ensure_folder("--output", &args.output)?;
    args.scale_table.iter().try_for_each(|path| output::ensure_folder("--scale-table", path))?;
    let (folder, manifest) = checkpoint_base::find(&args.from_checkpoint, args.last_epoch_of_checkpoint)?;
    let strategy = strategy(&folder, &manifest, args.profile)?;
    checkpoint_base::announce(&folder, &manifest);
    let checkpoint = checkpoint::load(&folder).map_err(Exit::checkpoint)?;
    let (state, graph) = (&checkpoint.model, deployed_graph(&checkpoint, &strategy)?);
    let options = args.options();
    let metadata = metadata(&folder, &checkpoint, &graph);
    let exported = emit(&graph, state, options, metadata).map_err(Exit::configuration)?;
    let bytes = exported.model.encode_to_vec();
    output::write("--output", &args.output, &bytes)?;
    if let Some(path) = &args.scale_table {
        let table = serde_json::to_string_pretty(&scale_table(&graph, state))?;
        output::write("--scale-table", path, table.as_bytes())?;
    }
    say!("{} ({} KiB, profile {})", args.output.display(), bytes.len() / 1024, args.profile.name());
    for (node, why) in &exported.fp32_nodes {
        say!("stays in floating point: {node} ({why})");
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{HostTensor, State};
    use crate::config::DataSettings;
    use crate::data::Preprocessing;
    use crate::models;
    use crate::quant::scheme::Scheme;
    use crate::strategy::Qat;
    use std::collections::BTreeMap;

    /// A checkpoint of a ResNet20 without its numbers.
    fn checkpoint(qat: Qat) -> Snapshot {
        let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        let strategy = Strategy { qat: Some(qat), ..Strategy::default() };
        let classes = (0..10).map(|i| i.to_string()).collect();
        let manifest = Manifest::new(&graph, classes, Preprocessing::of(&DataSettings::default()), strategy);
        Snapshot { manifest, graph, model: State::new(), unaveraged: None, optimizer: State::new() }
    }

    /// Numbers for every parameter and range.
    fn state(graph: &Graph) -> State {
        let mut state = State::new();
        for p in &graph.params {
            let data = (0..p.len())
                .map(|i| (i * 7919 % 1000) as f32 / 500.0 - 0.9)
                .map(|x| if p.shape.len() > 1 { x } else { x.abs() + 0.1 });
            state.insert(p.name.clone(), HostTensor { shape: p.shape.clone(), data: data.collect() });
        }
        for (_, q) in graph.quantizers() {
            let range = HostTensor { shape: vec![1], data: vec![3.0] };
            state.insert(crate::checkpoint::range_key(&q.name), range);
        }
        state
    }

    #[test]
    fn a_file_says_what_stays_in_floating_point_and_why() {
        let of = |patterns: &[&str]| {
            let skip = patterns.iter().map(|p| p.to_string()).collect();
            let checkpoint = checkpoint(Qat { skip, ..Qat::default() });
            let strategy = strategy(Path::new("x"), &checkpoint.manifest, Profile::Openvino).unwrap();
            let graph = deployed_graph(&checkpoint, &strategy).unwrap();
            let options = Options { profile: Profile::Openvino, opset: 13, float_type: FloatType::Fp32 };
            let model = emit(&graph, &state(&graph), options, vec![]).unwrap().model;
            let entry = model.metadata_props.into_iter().find(|e| e.key() == "octrain.fp32_layers").unwrap();
            serde_json::from_str::<BTreeMap<String, String>>(entry.value()).unwrap()
        };
        assert!(of(&[]).is_empty());
        let told = of(&["layer2.0.*", "fc"]);
        let names: Vec<&str> = told.keys().map(String::as_str).collect();
        assert_eq!(names, ["fc", "layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0"]);
        assert!(told.values().all(|why| why.contains("`qat.skip`")), "{told:?}");
    }

    #[test]
    fn files_for_tensorrt_are_in_fp16_unless_something_else_is_said() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: ExportArgs,
        }
        let of = |words: &str| {
            let line = format!("x --from-checkpoint a --output b {words}");
            let options = <Line as clap::Parser>::parse_from(line.split(' ')).args.options();
            (options.float_type, options.opset)
        };
        for (words, want) in [
            ("--profile tensorrt", (FloatType::Fp16, 19)),
            ("--profile tensorrt --opset 21", (FloatType::Fp16, 21)),
            ("--profile tensorrt --float-type fp32", (FloatType::Fp32, 13)),
            ("--profile openvino", (FloatType::Fp32, 13)),
            ("--profile openvino --float-type fp16", (FloatType::Fp16, 13)),
            ("--profile onnxruntime --opset 17", (FloatType::Fp32, 17)),
        ] {
            assert_eq!(of(words), want, "{words}");
        }
        // An opset that cannot have it is refused, and not obeyed in FP32.
        let (float_type, opset) = of("--profile tensorrt --opset 13");
        assert!(float_type.check(Profile::Tensorrt, opset).unwrap_err().to_string().contains("or fp32"));
    }

    #[test]
    fn weights_of_seven_bits_stay_within_63_in_every_profile() {
        for bits in [7, 8] {
            let checkpoint = checkpoint(Qat { weight_bits: bits, ..Qat::default() });
            for profile in [Profile::Openvino, Profile::Onnxruntime, Profile::Tensorrt] {
                let strategy = strategy(Path::new("x"), &checkpoint.manifest, profile).unwrap();
                let trained = trained_graph(&checkpoint, &strategy).unwrap();
                let schemes = trained.nodes.iter().filter_map(|n| n.op.layer()).map(|layer| layer.scheme);
                assert!(schemes.into_iter().all(|scheme| scheme == Some(Scheme::weight(bits))));
                let graph = deployed_graph(&checkpoint, &strategy).unwrap();
                let options = Options { profile, opset: 13, float_type: FloatType::Fp32 };
                let model = emit(&graph, &state(&graph), options, vec![]).unwrap().model;
                let tensors: BTreeMap<String, export::onnx::TensorProto> =
                    model.graph.unwrap().initializer.into_iter().map(|t| (t.name().to_string(), t)).collect();
                let weights = graph.nodes.iter().filter_map(|n| Some(&n.op.layer()?.weight));
                for weight in weights {
                    let codes = tensors[&format!("{weight}.codes")].raw_data();
                    let largest = codes.iter().map(|&q| (q as i8).unsigned_abs()).max();
                    // Every channel's largest weight has the largest code.
                    assert_eq!(largest, Some(if bits == 7 { 63 } else { 127 }), "{weight}");
                }
            }
        }
    }
}
