//! Two processes that train one network together without any coordinator: they meet in a folder, and Gloo adds up their
//! gradients. The first process starts the second.
//!
//! `cargo run --example two_processes`

use octrain::collective::{Abort, Collective, FolderStore, Gloo};
use octrain::models;
use octrain::optim::{CrossEntropy, DistributedOptimizer, Microbatch, Sgd};
use octrain::strategy::{Qat, Strategy};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

const RANKS: usize = 2;
const STEPS: i64 = 3;

type Failure = Box<dyn std::error::Error>;

/// What one rank does; the sum of its weights in the end.
fn train(rank: usize, folder: &str) -> Result<f64, Failure> {
    let store = Arc::new(FolderStore::new(folder.as_ref()));
    let patience = Duration::from_secs(60);
    let gloo = Gloo::connect(store, rank, RANKS, "127.0.0.1", patience, &Abort::new())?;
    println!("rank {} of {} is connected", gloo.rank(), gloo.world_size());
    let strategy = Strategy { qat: Some(Qat::default()), ..Strategy::default() };
    let mut program = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(gloo))
        .minimize(models::build("ResNet20", [3, 32, 32], 10)?, CrossEntropy::default())?;
    // Every microbatch is of one rank; this one has those whose number leaves its rank as remainder.
    let images = |number: i64| {
        tch::manual_seed(number);
        Tensor::randn([8, 3, 32, 32], (Kind::Float, Device::Cpu))
    };
    for step in 0..STEPS {
        let number = step * RANKS as i64 + rank as i64;
        let labels = Tensor::randint(10, [8], (Kind::Int64, Device::Cpu));
        let outcome = program.step(&[Microbatch { images: &images(number), labels: &labels }])?;
        println!("rank {rank}, step {step}: loss {:.6} over both", outcome.loss);
    }
    program.ensure_equal_ranks()?;
    program.finish()?;
    Ok(program.weights.flat.sum(Kind::Double).double_value(&[]))
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [rank, folder] = &arguments[..] {
        println!("rank {rank} ends with {}", train(rank.parse()?, folder)?);
        return Ok(());
    }
    let folder = std::env::temp_dir().join(format!("octrain-two-processes-{}", std::process::id()));
    let folder = folder.to_str().ok_or("the temporary folder's name is not UTF-8")?;
    std::fs::create_dir(folder)?;
    let mut other = Command::new(std::env::current_exe()?).args(["1", folder]).spawn()?;
    let mine = train(0, folder);
    let theirs = other.wait()?;
    std::fs::remove_dir_all(folder)?;
    println!("rank 0 ends with {}", mine?);
    if theirs.success() { Ok(()) } else { Err("the other rank failed".into()) }
}
