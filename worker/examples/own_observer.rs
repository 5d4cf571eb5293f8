//! An observer of one's own: ranges are the median of what calibration saw, and are widened in training, never narrowed.
//!
//! `cargo run --example own_observer`

use octrain::collective::Local;
use octrain::models;
use octrain::optim::{Before, CrossEntropy, DistributedOptimizer, Microbatch, Sgd};
use octrain::quant::histogram::Histogram;
use octrain::quant::observer::RangeObserver;
use octrain::quant::scheme::Scheme;
use octrain::strategy::{Qat, Strategy};
use tch::{Device, Kind, Tensor};

struct Median;

impl RangeObserver for Median {
    fn wants_histogram(&self) -> bool {
        false
    }

    fn calibrated(&self, _: Scheme, maxima: &[f32], _: &mut dyn FnMut() -> Histogram) -> f32 {
        let mut sorted = maxima.to_vec();
        sorted.sort_by(f32::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn moved(&self, range: f32, observed: f32) -> f32 {
        range.max(0.5 * (range + observed))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tch::manual_seed(2);
    let strategy = Strategy { qat: Some(Qat::default()), ..Strategy::default() };
    let mut program = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local))
        .observer(Median)
        .minimize(models::build("ResNet20", [3, 32, 32], 10)?, CrossEntropy::default())?;

    let images = |factor: f64| Tensor::randn([8, 3, 32, 32], (Kind::Float, Device::Cpu)) * factor;
    let calibration: Vec<_> = [1.0, 2.0, 50.0].map(images).into_iter().enumerate().collect();
    program.calibrate(Before::Training, &calibration, calibration.len(), &|| false)?;
    let input = |ranges: Vec<Option<f32>>| ranges[0].expect("calibration has set it");
    let before = input(program.weights.ranges_host()?);
    let median = calibration[1].1.abs().max().double_value(&[]) as f32;
    println!("the image's range is {before}, the median of the three maxima");
    assert_eq!(before, median);

    let (louder, labels) = (images(4.0), Tensor::zeros([8], (Kind::Int64, Device::Cpu)));
    program.step(&[Microbatch { images: &louder, labels: &labels }])?;
    let after = input(program.weights.ranges_host()?);
    println!("after a step on louder images it is {after}");
    assert!(after > before);
    Ok(())
}
