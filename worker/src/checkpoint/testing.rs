//! A small checkpoint for tests.

use super::{FORMAT, HostTensor, LossScaleState, Manifest, Position, QatState, Snapshot, StartedFrom, State};
use crate::config::RunConfig;
use crate::data::Preprocessing;
use crate::graph::{Builder, Graph, Op};

/// A network of one class and four parameters.
fn network() -> Graph {
    let (mut b, x) = Builder::new("Tiny", [3, 32, 32]);
    let x = b.push("pool", Op::GlobalAvgPool, &[x]).unwrap();
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc", x, 1).unwrap();
    b.finish(x).unwrap()
}

fn of(epoch: u32, step: u64, config: RunConfig) -> Snapshot {
    let graph = network();
    let data = vec![epoch as f32, step as f32, 0.1];
    let weight = HostTensor { shape: vec![1, 3], data };
    let bias = HostTensor { shape: vec![1], data: vec![0.5] };
    let classes = vec!["a".into()];
    let manifest = Manifest {
        format: FORMAT,
        octrain_version: "0".into(),
        created_unix: 1,
        started_from: Some(StartedFrom::Seed(7)),
        position: Position { epoch, step_in_epoch: step, global_step: 9 },
        steps_per_epoch: 5,
        global_batch: 8,
        world_size: 2,
        loss_scale: LossScaleState { scale: 128.0, good_steps: 3 },
        qat: config.quantization.qat.then_some(QatState {
            target: config.quantization.target,
            calibrated: 0,
            observers_frozen: true,
        }),
        metrics: [("val.top1".to_string(), 0.1 + 0.2)].into(),
        config: Some(config.clone()),
        ..Manifest::new(&graph, classes, Preprocessing::of(&config.data), config.strategy())
    };
    let optimizer = State::from([("momentum.fc.weight".to_string(), weight.clone())]);
    let model = [("fc.weight", weight), ("fc.bias", bias)].map(|(n, t)| (n.to_string(), t)).into();
    Snapshot { manifest, graph, model, unaveraged: None, optimizer }
}

fn config() -> RunConfig {
    RunConfig::default().with(|c| {
        c.model.image_shape = [3, 32, 32];
        c.data.crop_size = 32;
        c.data.resize_short = 32;
    })
}

/// A small checkpoint at the end of `epoch` epochs and `step` steps.
pub fn snapshot(epoch: u32, step: u64) -> Snapshot {
    of(epoch, step, config())
}

/// One that was trained with quantization.
pub fn quantized() -> Snapshot {
    of(1, 0, config().with(|c| c.quantization.qat = true))
}
