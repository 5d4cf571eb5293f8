//! The fake-quant kernels of a GPU against the CPU's loops, bit for bit.

use super::{Check, check};
use crate::native::{self, NativeError};
use tch::{Device, Kind, TchError, Tensor};

/// What an operator leaves behind, on the CPU and in FP32.
type Results = Vec<Tensor>;

fn text(e: NativeError) -> String {
    e.to_string()
}

fn tch(e: TchError) -> String {
    e.to_string()
}

/// Numbers of every size, halves between codes among them; without NaN, which equals nothing.
fn numbers(kind: Kind) -> Result<Tensor, String> {
    let halves = Tensor::f_arange_start_step(-200.0, 200.0, 0.25, (Kind::Float, Device::Cpu)).map_err(tch)?;
    let noise = Tensor::f_randn([40_003], (Kind::Float, Device::Cpu)).map_err(tch)? * 3.0;
    let wide = Tensor::f_randn([10_001], (Kind::Float, Device::Cpu)).map_err(tch)? * 1e4;
    // 64 rows for the steps by channel.
    let all = Tensor::f_cat(&[halves, noise, wide], 0).map_err(tch)?;
    let whole = all.size()[0] / 64 * 64;
    all.f_narrow(0, 0, whole).and_then(|t| t.f_view([64, -1])).and_then(|t| t.f_to_kind(kind)).map_err(tch)
}

/// Everything the operator does with `x` on `device`.
fn results(x: &Tensor, device: Device) -> Result<Results, String> {
    let leaf =
        |t: &Tensor| t.f_to_device(device).and_then(|t| t.f_detach()).map(|t| t.set_requires_grad(true));
    let steps = Tensor::f_linspace(0.01, 0.5, 64, (Kind::Float, Device::Cpu)).map_err(tch)?;
    let one = Tensor::from_slice(&[0.037f32]);
    let mut out = Results::new();
    for channels in [false, true] {
        let step = if channels { &steps } else { &one };
        let on = step.f_to_device(device).map_err(tch)?;
        let input = leaf(x).map_err(tch)?;
        let y = match channels {
            true => native::fake_quant_per_channel(&input, &on, -127, 127, false),
            false => native::fake_quant(&input, &on, -127, 127, false),
        }
        .map_err(text)?;
        let dy = y.f_ones_like().map_err(tch)?;
        let dx = Tensor::f_run_backward(
            &[y.f_mul(&dy).and_then(|t| t.f_sum(Kind::Float)).map_err(tch)?],
            &[&input],
            false,
            false,
        );
        out.push(y);
        out.extend(dx.map_err(tch)?);
        let (input, learned) = (leaf(x).map_err(tch)?, leaf(step).map_err(tch)?);
        let y = match channels {
            true => native::fake_quant_learned_per_channel(&input, &learned, -127, 127, 0.5),
            false => native::fake_quant_learned(&input, &learned, -127, 127, 0.5),
        }
        .map_err(text)?;
        let loss = y.f_sum(Kind::Float).map_err(tch)?;
        out.push(y);
        out.extend(Tensor::f_run_backward(&[loss], &[&input, &learned], false, false).map_err(tch)?);
    }
    out.push(native::abs_max(&x.f_to_device(device).map_err(tch)?).map_err(text)?);
    let home = |t: &Tensor| {
        t.f_detach().and_then(|t| t.f_to_device(Device::Cpu)).and_then(|t| t.f_to_kind(Kind::Float))
    };
    out.iter().map(home).collect::<Result<_, _>>().map_err(tch)
}

fn compared(kind: Kind, device: Device) -> Result<String, String> {
    tch::manual_seed(1);
    let x = numbers(kind)?;
    let (cpu, gpu) = (results(&x, Device::Cpu)?, results(&x, device)?);
    // The gradient of a learned step is a sum in FP64 whose order differs between devices.
    let learned = |i: usize| matches!(i, 4 | 9);
    for (i, (a, b)) in cpu.iter().zip(&gpu).enumerate() {
        let equal = match learned(i) {
            true => a.f_allclose(b, 1e-5, 1e-6, false),
            false => a.f_equal(b),
        };
        if !equal.map_err(tch)? {
            let most = a.f_sub(b).and_then(|d| d.f_abs()).and_then(|d| d.f_max()).map_err(tch)?;
            return Err(format!("result {i} differs from the CPU's by up to {}", most.double_value(&[])));
        }
    }
    Ok(format!("{} results of {} numbers are the CPU's", cpu.len(), x.numel()))
}

/// Every element type.
pub(super) fn against_the_cpu(device: Device) -> Vec<Check> {
    [("kernels in FP32", Kind::Float), ("kernels in BF16", Kind::BFloat16), ("kernels in FP16", Kind::Half)]
        .map(|(name, kind)| check(name, compared(kind, device)))
        .into()
}
