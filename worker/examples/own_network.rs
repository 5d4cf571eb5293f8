//! A network of one's own on data of one's own, trained for INT8 and written for OpenVINO.
//!
//! `cargo run --example own_network -- own.onnx`

use octrain::collective::Local;
use octrain::export::Profile;
use octrain::graph::{Builder, Graph, GraphError, Op, ParamKind, Window};
use octrain::optim::schedule::Schedule;
use octrain::optim::{CrossEntropy, DistributedOptimizer, Microbatch, Sgd};
use octrain::strategy::{Qat, Strategy};
use tch::{Device, Kind, Tensor};

const SIDE: i64 = 16;
const BATCH: i64 = 32;
const STEPS: u64 = 60;

/// Two convolutions, a pooling and a classifier, under the names that PyTorch would give them.
fn network(classes: usize) -> Result<Graph, GraphError> {
    let (mut b, x) = Builder::new("Own", [3, SIDE as usize, SIDE as usize]);
    let mut x = x;
    for (i, channels) in [16, 32].into_iter().enumerate() {
        x = b.conv(&format!("conv{i}"), x, channels, 3, 1)?;
        x = b.batch_norm(&format!("bn{i}"), x, ParamKind::Gamma)?;
        x = b.push(&format!("relu{i}"), Op::Relu, &[x])?;
        x = b.push(&format!("pool{i}"), Op::MaxPool(Window { kernel: 2, stride: 2, padding: 0 }), &[x])?;
    }
    x = b.push("avgpool", Op::GlobalAvgPool, &[x])?;
    x = b.push("flatten", Op::Flatten, &[x])?;
    let logits = b.linear("fc", x, classes)?;
    b.finish(logits)
}

/// Noise with a bright square: the class is the quarter it lies in.
fn batch() -> (Tensor, Tensor) {
    let images = Tensor::randn([BATCH, 3, SIDE, SIDE], (Kind::Float, Device::Cpu)) * 0.5;
    let labels = Tensor::randint(4, [BATCH], (Kind::Int64, Device::Cpu));
    for i in 0..BATCH {
        let class = labels.int64_value(&[i]);
        let (row, column) = (class / 2 * SIDE / 2, class % 2 * SIDE / 2);
        let _ = images.get(i).narrow(1, row + 2, 4).narrow(2, column + 2, 4).g_add_scalar_(2.0);
    }
    (images, labels)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "own.onnx".into());
    tch::manual_seed(1);

    // The one field: everything that quantization needs follows from it.
    let strategy = Strategy { qat: Some(Qat::default()), ..Strategy::default() };
    let schedule = Schedule { total_steps: STEPS, ..Schedule::constant(0.05) };
    let mut program = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local))
        .schedule(schedule)
        .minimize(network(4)?, CrossEntropy::default())?;
    let mut right = 0.0;
    for step in 0..STEPS {
        let (images, labels) = batch();
        let outcome = program.step(&[Microbatch { images: &images, labels: &labels }])?;
        if step % 10 == 9 {
            println!("step {}: loss {:.3}, {:.0} % right", step + 1, outcome.loss, 100.0 * outcome.top1);
        }
        right = outcome.top1;
    }
    program.export(Profile::Openvino, &path)?;
    println!("{path} holds the network in INT8");
    if right < 0.9 { Err("it did not learn".into()) } else { Ok(()) }
}
