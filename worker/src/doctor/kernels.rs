//! The fake-quant kernels of a GPU against the CPU's loops, bit for bit.

use super::{Check, check};
use crate::native::{self, NativeError};
use tch::{Device, Kind, TchError, Tensor};

/// What an operator leaves behind, on the CPU and in FP32, and whether it is the same bits on every device. The gradient
/// of a learned scale is a sum in FP64 whose order differs.
struct Found {
    what: &'static str,
    value: Tensor,
    exact: bool,
}

/// How far the first element lies behind an address that a wide load needs, in elements.
const OFFSETS: [i64; 3] = [0, 1, 3];

/// Rows, one for each scale by channel.
const ROWS: i64 = 64;

fn text(e: NativeError) -> String {
    e.to_string()
}

fn tch(e: TchError) -> String {
    e.to_string()
}

/// Numbers of every size, halves between codes among them; without NaN, which equals nothing. In front of the rows of
/// numbers stand as many others as the largest offset.
fn numbers(kind: Kind) -> Result<Tensor, String> {
    let halves = Tensor::f_arange_start_step(-200.0, 200.0, 0.25, (Kind::Float, Device::Cpu)).map_err(tch)?;
    let noise = Tensor::f_randn([40_003], (Kind::Float, Device::Cpu)).map_err(tch)? * 3.0;
    let wide = Tensor::f_randn([10_001], (Kind::Float, Device::Cpu)).map_err(tch)? * 1e4;
    let all = Tensor::f_cat(&[halves, noise, wide], 0).map_err(tch)?;
    let room = OFFSETS[2];
    let whole = (all.size()[0] - room) / ROWS * ROWS;
    all.f_narrow(0, 0, whole + room).and_then(|t| t.f_to_kind(kind)).map_err(tch)
}

/// The rows on a device, which begin `offset` elements behind the beginning of their memory.
fn rows(numbers: &Tensor, device: Device, offset: i64) -> Result<Tensor, String> {
    let whole = numbers.size()[0] - OFFSETS[2];
    let there = numbers.f_to_device(device).map_err(tch)?;
    there.f_narrow(0, offset, whole).and_then(|t| t.f_view([ROWS, -1])).map_err(tch)
}

/// Everything the operator does with `x`, where that lies.
fn results(x: &Tensor) -> Result<Vec<Found>, String> {
    let device = x.device();
    let leaf = |t: &Tensor| t.f_detach().map(|t| t.set_requires_grad(true)).map_err(tch);
    let scales = Tensor::f_linspace(0.01, 0.5, ROWS, (Kind::Float, Device::Cpu)).map_err(tch)?;
    let one = Tensor::from_slice(&[0.037f32]);
    let mut out = Vec::new();
    let mut found = |what, value: Tensor, exact| -> Result<(), String> {
        let home =
            value.f_detach().and_then(|t| t.f_to_device(Device::Cpu)).and_then(|t| t.f_to_kind(Kind::Float));
        out.push(Found { what, value: home.map_err(tch)?, exact });
        Ok(())
    };
    // Of the sum: ones arrive.
    let backward = |y: &Tensor, of: &[&Tensor]| {
        let loss = y.f_sum(Kind::Float).map_err(tch)?;
        Tensor::f_run_backward(&[loss], of, false, false).map_err(tch)
    };
    for channels in [false, true] {
        let scale = if channels { &scales } else { &one };
        let scale = scale.f_to_device(device).map_err(tch)?;
        let input = leaf(x)?;
        let y = match channels {
            true => native::fake_quant_per_channel(&input, &scale, -127, 127, false),
            false => native::fake_quant(&input, &scale, -127, 127, false),
        };
        let y = y.map_err(text)?;
        let dx = backward(&y, &[&input])?.remove(0);
        found("fake-quant", y, true)?;
        found("its gradient", dx, true)?;
        let (input, learned) = (leaf(x)?, leaf(&scale)?);
        let y = match channels {
            true => native::fake_quant_learned_per_channel(&input, &learned, -127, 127, 0.5),
            false => native::fake_quant_learned(&input, &learned, -127, 127, 0.5),
        };
        let y = y.map_err(text)?;
        let mut gradients = backward(&y, &[&input, &learned])?;
        let (by_scale, dx) = (gradients.remove(1), gradients.remove(0));
        found("fake-quant with a learned scale", y, true)?;
        found("its gradient", dx, true)?;
        found("the scale's gradient", by_scale, false)?;
    }
    let scale = one.f_to_device(device).map_err(tch)?;
    let input = leaf(x)?;
    let (y, seen) = native::observe_fake_quant(&input, &scale, -127, 127, false).map_err(text)?;
    let dx = backward(&y, &[&input])?.remove(0);
    found("fake-quant that observes", y, true)?;
    found("what it observes", seen, true)?;
    found("its gradient", dx, true)?;
    let (input, learned) = (leaf(x)?, leaf(&scale)?);
    let (y, seen) = native::observe_fake_quant_learned(&input, &learned, -127, 127, 0.5).map_err(text)?;
    let by_scale = backward(&y, &[&input, &learned])?.remove(1);
    found("fake-quant with a learned scale that observes", y, true)?;
    found("what it observes", seen, true)?;
    found("the scale's gradient", by_scale, false)?;
    found("the largest absolute value", native::abs_max(x).map_err(text)?, true)?;
    Ok(out)
}

fn compared(kind: Kind, device: Device) -> Result<String, String> {
    tch::manual_seed(1);
    let numbers = numbers(kind)?;
    let mut count = 0;
    for offset in OFFSETS {
        let here = results(&rows(&numbers, Device::Cpu, offset)?)?;
        let there = results(&rows(&numbers, device, offset)?)?;
        for (a, b) in here.iter().zip(&there) {
            let equal = match a.exact {
                true => a.value.f_equal(&b.value),
                false => a.value.f_allclose(&b.value, 1e-5, 1e-6, false),
            };
            if !equal.map_err(tch)? {
                let most =
                    a.value.f_sub(&b.value).and_then(|d| d.f_abs()).and_then(|d| d.f_max()).map_err(tch)?;
                let at = format!("{} of numbers {offset} elements from alignment", a.what);
                return Err(format!("{at} differs from the CPU's by up to {}", most.double_value(&[])));
            }
        }
        count += here.len();
    }
    Ok(format!("{count} results of {} numbers are the CPU's", numbers.size()[0] - OFFSETS[2]))
}

/// Every element type.
pub(super) fn against_the_cpu(device: Device) -> Vec<Check> {
    [("kernels in FP32", Kind::Float), ("kernels in BF16", Kind::BFloat16), ("kernels in FP16", Kind::Half)]
        .map(|(name, kind)| check(name, compared(kind, device)))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_is_tried_on_tensors_that_are_not_aligned() {
        let numbers = numbers(Kind::BFloat16).unwrap();
        let addresses = OFFSETS.map(|o| rows(&numbers, Device::Cpu, o).unwrap().data_ptr() as usize % 16);
        assert_eq!(addresses[0], 0);
        assert!(addresses[1] == 2 && addresses[2] == 6, "{addresses:?}");
        let found = results(&rows(&numbers, Device::Cpu, 1).unwrap()).unwrap();
        let observes = found.iter().find(|f| f.what == "what it observes").unwrap();
        let most = found.last().unwrap();
        assert!(observes.value.equal(&most.value) && most.value.double_value(&[0]) > 1e4);
        assert!(found.iter().all(|f| f.value.numel() > 0));
        for check in against_the_cpu(Device::Cpu) {
            assert!(check.outcome.unwrap().starts_with("51 results of "));
        }
    }

    #[test]
    fn a_result_that_differs_is_told() {
        let numbers = numbers(Kind::Float).unwrap();
        let [a, b] = [0, 1].map(|o| results(&rows(&numbers, Device::Cpu, o).unwrap()).unwrap());
        assert!(a.iter().zip(&b).any(|(a, b)| !a.value.equal(&b.value)), "other numbers, other results");
    }
}
