//! A step whose neighbours run as one against the same step operator by operator, which a watched one is. The network is small
//! and its batch large, so that last bits do not grow from layer to layer; `tests/tests/oracle.rs` has the large ones.

use super::*;
use crate::exec::ExecError;
use crate::exec::ops::{Call, Forward, register};
use crate::graph::{
    Builder, Clip, Given, OnnxNode, OnnxScope, Op, Operator, ParamKind, Site, Square, TensorType,
};
use crate::strategy::{Freeze, Layout};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};

/// Every kind of chain: BatchNorm with ReLU, with a sum and ReLU, alone, with ReLU6, and a sum without activation.
fn network() -> Graph {
    let (mut b, x) = Builder::new("Chains", [3, 12, 12]);
    let layer = |b: &mut Builder, name: &str, x, square| {
        let y = b.convolution(&format!("{name}.conv"), x, square).unwrap();
        b.batch_norm(&format!("{name}.bn"), y, ParamKind::Gamma).unwrap()
    };
    let x = layer(&mut b, "stem", x, Square::new(8, 3, 1));
    let x = b.push("stem.relu", Op::Relu, &[x]).unwrap();
    let y = layer(&mut b, "first", x, Square::new(16, 3, 1));
    let shortcut = layer(&mut b, "shortcut", x, Square::new(16, 1, 1));
    let x = b.push("add", Op::Add, &[y, shortcut]).unwrap();
    let x = b.push("relu", Op::Relu, &[x]).unwrap();
    let y = layer(&mut b, "depthwise", x, Square::depthwise(16, 3, 1));
    let y = b.push("clip", Op::Clip(Clip::RELU6), &[y]).unwrap();
    let y = layer(&mut b, "project", y, Square::new(16, 1, 1));
    let x = b.push("sum", Op::Add, &[x, y]).unwrap();
    let x = b.push("pool", Op::GlobalAvgPool, &[x]).unwrap();
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc", x, 10).unwrap();
    b.finish(x).unwrap()
}

/// Loss after a step, and by name the gradients, BatchNorm's statistics, and how far the ranges have moved: to what was seen, or
/// by the gradients of learned scales.
pub(super) fn one_step(qat: Option<Qat>, watched: bool, int8: bool) -> (f64, Vec<(String, Tensor)>) {
    let strategy = Strategy { layout: Layout::Nhwc, qat, ..Strategy::default() };
    let optimizer = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local));
    let optimizer = optimizer.int8_forward(int8);
    let mut program = optimizer.minimize(network(), CrossEntropy::default()).unwrap();
    let noise = |i: u32| ((i.wrapping_mul(2_654_435_761) >> 12) % 2048) as f32 / 512.0 - 2.0;
    let numbers: Vec<f32> = (0..32 * 3 * 12 * 12).map(noise).collect();
    let images = Tensor::from_slice(&numbers).view([32, 3, 12, 12]);
    let labels = Tensor::from_slice(&(0..32).map(|i| i * 7 % 10).collect::<Vec<i64>>());
    if program.strategy().qat.is_some() {
        assert!(program.calibrate(Before::Training, &[(0, images.shallow_clone())], 1, &|| false).unwrap());
    }
    let ranges = program.weights.ranges.copy();
    let microbatch = Microbatch { images: &images, labels: &labels };
    let outcome = match watched {
        true => program.step_watched(&[microbatch], AfterStep::GoOn, Some(&mut |_, _| {})),
        false => program.step(&[microbatch]),
    };
    let names = program.weights.layout.trainable.iter().map(|slot| slot.name.clone());
    let mut all: Vec<(String, Tensor)> = names.zip(program.gradients().iter().map(Tensor::copy)).collect();
    for slot in &program.weights.layout.buffers {
        all.push((slot.name.clone(), program.weights.get(&slot.name).unwrap().copy()));
    }
    all.push(("ranges".into(), &program.weights.ranges - ranges));
    (outcome.unwrap().loss, all)
}

#[test]
fn a_step_of_neighbours_as_one_is_a_step_of_each_by_itself() {
    let recipes = [
        None,
        Some(Qat::default()),
        Some(Qat { target: Target::Onnxruntime, ..Qat::default() }),
        Some(Qat { target: Target::Tensorrt, ..Qat::default() }),
        Some(Qat { learn_scales: true, ..Qat::default() }),
        Some(Qat { unclipped_straight_through: true, ..Qat::default() }),
        Some(Qat { freeze_bn: Freeze::Step(0), ..Qat::default() }),
    ];
    for qat in recipes {
        let ((loss, one), (apart_loss, apart)) =
            (one_step(qat.clone(), false, false), one_step(qat.clone(), true, false));
        // A value between two codes may become either of them.
        let most = if qat.is_some() { 5e-2 } else { 1e-4 };
        assert!((loss - apart_loss).abs() <= 0.02 * most * loss, "{qat:?}: loss {loss}, {apart_loss}");
        assert_eq!(one.len(), apart.len());
        for ((name, a), (_, b)) in one.iter().zip(&apart) {
            // A learned scale's gradient is a sum of rounding errors, as free as these: whether there is one is what counts.
            if name == "ranges" && qat.as_ref().is_some_and(|qat| qat.learn_scales) {
                let moved =
                    |t: &Tensor| Vec::<f32>::try_from(t).unwrap().iter().filter(|m| **m != 0.0).count();
                assert_eq!(moved(a), moved(b));
                assert!(moved(a) >= 7, "{a:?}");
                continue;
            }
            let norm = |t: Tensor| t.to_kind(Kind::Double).norm().double_value(&[]);
            let (off, all) = (norm(a - b), norm(b.copy()));
            assert!(off <= most * all + 1e-6, "{name} of {qat:?}: {off:e} of {all:e}");
        }
    }
}

/// Hands on what it reads and notes where that is: the handle, and the memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Notes;

static NOTED: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

impl Operator for Notes {
    fn kind(&self) -> &'static str {
        "NotesWhatItReads"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Err("it is a test's".into())
    }
}

impl Forward for Notes {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let place = (call.x().as_ptr() as usize, call.x().data_ptr() as usize);
        NOTED.lock().unwrap_or_else(PoisonError::into_inner).push(place);
        Ok(call.x().f_mul_scalar(2.0)?)
    }
}

#[test]
fn two_readers_of_a_chain_have_a_handle_each_in_one_piece_of_memory() {
    register::<Notes>("NotesWhatItReads").unwrap();
    let (mut b, x) = Builder::new("TwoReaders", [3, 12, 12]);
    let x = b.convolution("conv", x, Square::new(8, 3, 1)).unwrap();
    let x = b.batch_norm("bn", x, ParamKind::Gamma).unwrap();
    let x = b.push("relu", Op::Relu, &[x]).unwrap();
    let both = ["first", "second"].map(|name| b.push(name, Op::custom(Notes), &[x]).unwrap());
    let x = b.push("add", Op::Add, &both).unwrap();
    let x = b.push("pool", Op::GlobalAvgPool, &[x]).unwrap();
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc", x, 10).unwrap();
    let strategy = Strategy { layout: Layout::Nhwc, ..Strategy::default() };
    let mut program = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local))
        .minimize(b.finish(x).unwrap(), CrossEntropy::default())
        .unwrap();
    let images = Tensor::randn([4, 3, 12, 12], (Kind::Float, Device::Cpu));
    let labels = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
    program.step(&[Microbatch { images: &images, labels: &labels }]).unwrap();
    let noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
    let [(first, here), (second, there)] = noted[..] else { panic!("{noted:?}") };
    assert!(first != second && here == there, "{noted:?}");
}
