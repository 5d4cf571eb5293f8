//! Our kernels on a GPU against the CPU: bit for bit, where no sum is in a number.

use super::{Check, check};
use crate::exec::weight_scales;
use crate::graph::Layout;
use crate::native::{self, Cut, NativeError, Norm, Pointwise, Rounding};
use crate::quant::scheme::{Scheme, Sign};
use tch::{Device, Kind, TchError, Tensor};

/// What an operator leaves behind, on the CPU and in FP32, and how far apart it may be on two devices, as a part of the largest
/// magnitude: 0 where it is the same bits. Sums come in another order.
struct Found {
    what: &'static str,
    value: Tensor,
    apart: f64,
}

/// What sums in FP32 or FP64 may differ by.
const SUM: f64 = 1e-5;

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
    let mut found = |what, value: Tensor, apart| -> Result<(), String> {
        let home =
            value.f_detach().and_then(|t| t.f_to_device(Device::Cpu)).and_then(|t| t.f_to_kind(Kind::Float));
        out.push(Found { what, value: home.map_err(tch)?, apart });
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
        found("fake-quant", y, 0.0)?;
        found("its gradient", dx, 0.0)?;
        let (input, learned) = (leaf(x)?, leaf(&scale)?);
        let y = match channels {
            true => native::fake_quant_learned_per_channel(&input, &learned, -127, 127, 0.5),
            false => native::fake_quant_learned(&input, &learned, -127, 127, 0.5),
        };
        let y = y.map_err(text)?;
        let mut gradients = backward(&y, &[&input, &learned])?;
        let (by_scale, dx) = (gradients.remove(1), gradients.remove(0));
        found("fake-quant with a learned scale", y, 0.0)?;
        found("its gradient", dx, 0.0)?;
        found("the scale\'s gradient", by_scale, SUM)?;
    }
    let scale = one.f_to_device(device).map_err(tch)?;
    let input = leaf(x)?;
    let (y, seen) = native::observe_fake_quant(&input, &scale, -127, 127, false).map_err(text)?;
    let dx = backward(&y, &[&input])?.remove(0);
    found("fake-quant that observes", y, 0.0)?;
    found("what it observes", seen, 0.0)?;
    found("its gradient", dx, 0.0)?;
    let (input, learned) = (leaf(x)?, leaf(&scale)?);
    let (y, seen) = native::observe_fake_quant_learned(&input, &learned, -127, 127, 0.5).map_err(text)?;
    let by_scale = backward(&y, &[&input, &learned])?.remove(1);
    found("fake-quant with a learned scale that observes", y, 0.0)?;
    found("what it observes", seen, 0.0)?;
    found("the scale\'s gradient", by_scale, SUM)?;
    found("the largest absolute value", native::abs_max(x).map_err(text)?, 0.0)?;
    let weights = x.f_to_kind(Kind::Float).map_err(tch)?;
    let scheme = Scheme::weight(8);
    let weight = match device {
        Device::Cpu => {
            let scales = weight_scales(&weights, scheme).map_err(tch)?;
            let y = native::fake_quant_per_channel(&weights, &scales, scheme.qmin(), scheme.qmax(), false);
            y.map_err(text)?.f_to_kind(x.kind()).map_err(tch)?
        }
        _ => native::weight(&weights, scheme, x.kind(), Layout::Nhwc).map_err(text)?,
    };
    found("a layer's weight", weight, 0.0)?;
    for channels in CHANNELS {
        let images = images(x, channels)?;
        let input = leaf(&images)?;
        let y = match device {
            Device::Cpu => input.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false).map_err(tch)?,
            _ => native::max_pool(&input, [3, 2, 1]).map_err(text)?,
        };
        let dx = backward(&y, &[&input])?.remove(0);
        found("the maximum over windows", y, 0.0)?;
        found("its gradient", dx, 0.0)?;
        for (batch, readers) in [(false, 1), (true, 1), (false, 2), (true, 2)] {
            chain(&images, batch, readers)?
                .into_iter()
                .try_for_each(|(what, value, apart)| found(what, value, apart))?;
        }
    }
    Ok(out)
}

/// Channels of images: whole eights, and not.
const CHANNELS: [i64; 2] = [24, 13];

/// The first of the numbers as channels-last images, where they lie: more than one piece of sums.
fn images(x: &Tensor, channels: i64) -> Result<Tensor, String> {
    let flat = x.f_view([-1]).and_then(|t| t.f_narrow(0, 0, 3 * 26 * 27 * channels)).map_err(tch)?;
    flat.f_view([3, 26, 27, channels]).and_then(|t| t.f_permute([0, 3, 1, 2])).map_err(tch)
}

/// BatchNorm, a sum and, with running statistics, ReLU6 and a quantizer as one operator, whose value one reads or two.
fn chain(x: &Tensor, batch: bool, readers: usize) -> Result<Vec<(&'static str, Tensor, f64)>, String> {
    let (channels, device) = (x.size()[1], x.device());
    let leaf = |t: Tensor| t.f_detach().map(|t| t.set_requires_grad(true)).map_err(tch);
    let line = |from: f64, to: f64| {
        Tensor::f_linspace(from, to, channels, (Kind::Float, Device::Cpu))
            .and_then(|t| t.f_to_device(device))
            .map_err(tch)
    };
    let (input, residual) = (leaf(x.shallow_clone())?, leaf(x.f_mul_scalar(0.5).map_err(tch)?)?);
    let (gamma, beta) = (leaf(line(0.5, 2.0)?)?, leaf(line(-1.0, 1.0)?)?);
    let (mean, var) = (line(-0.5, 0.5)?, line(1.0, 9.0)?);
    let scale = Tensor::from_slice(&[0.037f32]).f_to_device(device).map_err(tch)?;
    let seen = Tensor::f_zeros([2], (Kind::Float, device)).map_err(tch)?;
    let scheme = Scheme::activation(Sign::Signed);
    let of = Pointwise {
        norm: Some(Norm { gamma: &gamma, beta: &beta, mean: &mean, var: &var, eps: 1e-5, batch }),
        residual: Some(&residual),
        cut: (!batch).then_some(Cut { low: 0.0, high: 6.0, strict: true }),
        rounding: (!batch).then_some(Rounding { scale: &scale, scheme, unclipped: false }),
        normed: Some(&seen),
        last: None,
    };
    // Gradients unlike the values, of which a normalisation would leave rounding errors alone; the same on every device.
    let given = x
        .f_to_device(Device::Cpu)
        .and_then(|x| x.f_sin())
        .and_then(|t| t.f_to_device(device))
        .map_err(tch)?;
    let part = |y: &Tensor, of: f64| {
        let all = y.f_mul(&given).and_then(|y| y.f_mul_scalar(of));
        all.and_then(|y| y.f_sum(Kind::Float)).map_err(tch)
    };
    let (y, loss) = if readers == 2 {
        let [y, second] = native::pointwise_for_two(&input, &of).map_err(text)?;
        let loss = part(&y, 0.01)?.f_add(&part(&second, 0.03)?).map_err(tch)?;
        (y, loss)
    } else {
        let y = native::pointwise(&input, &of).map_err(text)?;
        let loss = part(&y, 0.01)?;
        (y, loss)
    };
    let mut by =
        Tensor::f_run_backward(&[loss], &[&input, &residual, &gamma, &beta], false, false).map_err(tch)?;
    let [by_beta, by_gamma, by_residual, dx] = [3, 2, 1, 0].map(|i| by.remove(i));
    // Without bounds, next to which a value may lie on either side; numbers are rounded to their type.
    let (value, sum) = if batch { (0.01, 0.01) } else { (0.0, SUM) };
    Ok(vec![
        ("a chain", y, value),
        ("what it observes", seen, value),
        ("its gradient", dx, value),
        ("the residual's gradient", by_residual, 0.0),
        ("gamma's gradient", by_gamma, sum),
        ("beta's gradient", by_beta, sum),
        ("its mean", mean, value),
        ("its variance", var, value),
    ])
}

fn compared(kind: Kind, device: Device) -> Result<String, String> {
    tch::manual_seed(1);
    let numbers = numbers(kind)?;
    let mut count = 0;
    for offset in OFFSETS {
        let here = results(&rows(&numbers, Device::Cpu, offset)?)?;
        let there = results(&rows(&numbers, device, offset)?)?;
        for (a, b) in here.iter().zip(&there) {
            let equal = match a.apart {
                0.0 => a.value.f_equal(&b.value),
                part => {
                    let most = a.value.f_abs().and_then(|t| t.f_max()).and_then(|t| t.f_double_value(&[]));
                    a.value.f_allclose(&b.value, 0.0, part * most.map_err(tch)?, false)
                }
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
        let most = found.iter().find(|f| f.what == "the largest absolute value").unwrap();
        assert!(observes.value.equal(&most.value) && most.value.double_value(&[0]) > 1e4);
        assert!(found.iter().all(|f| f.value.numel() > 0));
        for check in against_the_cpu(Device::Cpu) {
            assert!(check.outcome.unwrap().starts_with("258 results of "));
        }
    }

    #[test]
    fn a_result_that_differs_is_told() {
        let numbers = numbers(Kind::Float).unwrap();
        let [a, b] = [0, 1].map(|o| results(&rows(&numbers, Device::Cpu, o).unwrap()).unwrap());
        assert!(a.iter().zip(&b).any(|(a, b)| !a.value.equal(&b.value)), "other numbers, other results");
    }
}
