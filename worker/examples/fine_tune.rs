//! Fine-tuning with quantization from weights that PyTorch's users have: torchvision's ResNet-18 as a `.safetensors`
//! file, for a data set of other classes.
//!
//! ```python
//! import torchvision, safetensors.torch
//! model = torchvision.models.resnet18(weights="IMAGENET1K_V1")
//! safetensors.torch.save_file(model.state_dict(), "resnet18.safetensors")
//! ```
//! `cargo run --example fine_tune -- resnet18.safetensors FOLDER int8.onnx`, where FOLDER has `train/<class>/`.

use octrain::checkpoint;
use octrain::collective::Local;
use octrain::config::RunConfig;
use octrain::data::{DataConfig, Dataset, Geometry, Preprocessing, Sharding, Split, TrainLoader, Wanted};
use octrain::export::{Profile, Task};
use octrain::models;
use octrain::optim::schedule::Schedule;
use octrain::optim::{Before, CrossEntropy, DistributedOptimizer, Microbatch, Sgd};
use octrain::strategy::{Qat, Strategy};
use std::path::Path;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, folder, output] = &arguments[..] else {
        return Err("usage: fine_tune WEIGHTS.safetensors FOLDER OUTPUT.onnx".into());
    };
    let settings = RunConfig::default().with(|c| {
        c.data.image_root = folder.clone();
        c.model.image_shape = [3, 64, 64];
        c.data.crop_size = 64;
        c.data.resize_short = 72;
        c.data.batch_size = 16;
    });
    let train = Arc::new(Dataset::open(Split::Train, &Wanted::of(&settings.model, &settings.data))?);
    println!("{}", train.found);
    let data = DataConfig {
        geometry: Geometry::new(&settings.data, settings.model.image_shape[0]),
        sharding: Sharding::alone(settings.data.batch_size),
        seed: 3,
        threads: 2,
        max_corrupt: None,
    };
    let mut loader = TrainLoader::new(train.clone(), data.clone())?;

    let network = models::build("ResNet18", settings.model.image_shape, train.classes.len())?;
    let qat = Qat { calibration_images: 64, ..Qat::default() };
    let mut program = DistributedOptimizer::new(
        Sgd { momentum: 0.9, ..Sgd::default() },
        Strategy { qat: Some(qat), ..Strategy::default() },
        Box::new(Local),
    )
    .schedule(Schedule { total_steps: loader.steps(), ..Schedule::constant(0.01) })
    .minimize(network, CrossEntropy { label_smoothing: 0.1 })?;

    // What the file does not have in this shape starts anew: the classifier, if there are other classes.
    let anew = program.weights.load(&checkpoint::load_weights(Path::new(weights))?)?;
    println!("not in {weights}: {}", anew.join(", "));
    if anew.iter().any(|name| !name.starts_with("fc.")) {
        return Err(format!("{weights} does not hold a ResNet-18").into());
    }

    // As many images as the recipe says; without this, the first step's own.
    program.calibrate_on(Before::Training, &train, &data, &|| false)?;

    loader.start_epoch(0, 0)?;
    while let Some(batch) = loader.next()? {
        let outcome = program.step(&[Microbatch { images: &batch.images, labels: &batch.labels }])?;
        println!("step {}: loss {:.3}", outcome.step + 1, outcome.loss);
    }
    // `octrain predict` reads names and preparation from the file.
    let task = Task { class_names: train.classes.clone(), preprocessing: Preprocessing::of(&settings.data) };
    program.export_for(Profile::Onnxruntime, output, &task)?;
    println!("{output} holds the network in INT8");
    Ok(())
}
