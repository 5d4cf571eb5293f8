//! Products with a weight, in the type of their operands.

use crate::native;
use tch::{Device, Kind, TchError, Tensor};

/// A convolution or matrix product. In FP16 on the CPU, and in BF16 where oneDNN has no kernels for it
/// ([`native::bf16_products`]), it is computed in FP32 from the 16-bit numbers and rounded once, forward and backward, which is
/// what a GPU's tensor cores and oneDNN do (products summed in FP32); libtorch's own kernels for such types take many times
/// as long.
pub fn product<E: From<TchError>>(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    f: impl Fn(&Tensor, &Tensor, Option<&Tensor>) -> Result<Tensor, E>,
) -> Result<Tensor, E> {
    let kind = x.kind();
    let narrow = kind == Kind::Half || kind == Kind::BFloat16 && !native::bf16_products();
    if !narrow || x.device() != Device::Cpu {
        return f(x, weight, bias);
    }
    let wide = |t: &Tensor| t.f_to_kind(Kind::Float);
    let bias = bias.map(wide).transpose()?;
    Ok(f(&wide(x)?, &wide(weight)?, bias.as_ref())?.f_to_kind(kind)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_16_bits_are_summed_in_fp32_and_rounded_once() {
        // Summed in FP16, 4096 ones end at 2048, where one more is below half a unit; in BF16 at 256.
        for kind in [Kind::Half, Kind::BFloat16] {
            summed_and_rounded(kind);
        }
    }

    fn summed_and_rounded(kind: Kind) {
        let ones = |shape: &[i64]| Tensor::ones(shape, (kind, Device::Cpu)).set_requires_grad(true);
        let (x, w) = (ones(&[3, 4096]), ones(&[2, 4096]));
        let y = product(&x, &w, None, |x, w, b| x.f_linear(w, b)).unwrap();
        assert_eq!((y.kind(), y.eq(4096.0).all().int64_value(&[])), (kind, 1), "{y}");
        let (image, kernel) = (ones(&[1, 512, 3, 3]), ones(&[1, 512, 3, 3]));
        let z =
            product(&image, &kernel, None, |x, w, b| x.f_conv2d(w, b, [1, 1], [0, 0], [1, 1], 1)).unwrap();
        assert_eq!((z.kind(), z.double_value(&[0, 0, 0, 0])), (kind, 4608.0));
        // Backward too: the weight's gradient sums over 3 rows of 1, the input's over 2 outputs of 1.
        y.sum(Kind::Float).backward();
        for (t, value) in [(&x, 2.0), (&w, 3.0)] {
            let g = t.grad();
            assert_eq!((g.kind(), g.eq(value).all().int64_value(&[])), (kind, 1), "{g}");
        }
    }
}
