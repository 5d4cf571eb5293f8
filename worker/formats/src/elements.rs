//! Types of elements, and tensors as FP32.

use crate::FormatError;
use half::{bf16, f16};

/// Type of a tensor's elements, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// IEEE, 64 bits.
    F64,
    /// IEEE, 32 bits.
    F32,
    /// IEEE, 16 bits.
    F16,
    /// The upper half of an F32.
    Bf16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 8 bits.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Element {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::Bf16 | Element::I16 => 2,
            Element::I8 | Element::U8 | Element::Bool => 1,
        }
    }

    /// Whether elements are floating-point numbers, which weights are; others are counters and masks.
    pub fn is_float(self) -> bool {
        matches!(self, Element::F64 | Element::F32 | Element::F16 | Element::Bf16)
    }

    /// The element in `raw`, which has [`Element::bytes`] bytes, rounded to FP32.
    fn value(self, raw: &[u8]) -> f32 {
        fn n<const N: usize>(raw: &[u8]) -> [u8; N] {
            std::array::from_fn(|i| raw[i])
        }
        match self {
            Element::F64 => f64::from_le_bytes(n(raw)) as f32,
            Element::F32 => f32::from_le_bytes(n(raw)),
            Element::F16 => f16::from_le_bytes(n(raw)).to_f32(),
            Element::Bf16 => bf16::from_le_bytes(n(raw)).to_f32(),
            Element::I64 => i64::from_le_bytes(n(raw)) as f32,
            Element::I32 => i32::from_le_bytes(n(raw)) as f32,
            Element::I16 => f32::from(i16::from_le_bytes(n(raw))),
            Element::I8 => f32::from(i8::from_le_bytes(n(raw))),
            Element::U8 | Element::Bool => f32::from(raw[0]),
        }
    }
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Type of the elements in the file.
    pub element: Element,
    /// Sizes of the dimensions, outermost first; empty for one number.
    pub shape: Vec<usize>,
    /// Elements in row-major order, as FP32.
    pub data: Vec<f32>,
}

/// What a view shows of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// First element.
    pub offset: usize,
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// Elements from one index to the next, for each dimension.
    pub strides: Vec<usize>,
}

impl View {
    /// All of a storage, the last index running fastest.
    pub fn whole(shape: Vec<usize>) -> Self {
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i]);
        }
        Self { offset: 0, shape, strides }
    }

    /// All of a storage, the first index running fastest.
    pub fn columns_first(shape: Vec<usize>) -> Self {
        let mut strides = vec![1usize; shape.len()];
        for i in 1..shape.len() {
            strides[i] = strides[i - 1].saturating_mul(shape[i - 1]);
        }
        Self { offset: 0, shape, strides }
    }
}

impl Tensor {
    /// Gathers a view of a storage's bytes. At most `room` elements are made.
    pub(crate) fn gather(
        element: Element,
        storage: &[u8],
        view: &View,
        room: &mut usize,
    ) -> Result<Self, FormatError> {
        let View { offset, shape, strides } = view;
        if shape.len() != strides.len() {
            return Err(FormatError::damaged(format!("a tensor of shape {shape:?} has strides {strides:?}")));
        }
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let len = len.filter(|n| n <= room).ok_or_else(|| FormatError::Foreign {
            wanted: "a file that holds its tensors",
            found: format!(
                "of shape {shape:?}, with which they have more elements than the file has bytes; write expanded ones as they are: tensor.contiguous()"
            ),
        })?;
        *room -= len;
        let last = shape.iter().zip(strides).try_fold(*offset, |at, (&d, &s)| {
            d.saturating_sub(1).checked_mul(s).and_then(|step| at.checked_add(step))
        });
        let held = storage.len() / element.bytes();
        if len > 0 && last.is_none_or(|last| last >= held) {
            return Err(FormatError::damaged(format!(
                "a tensor of shape {shape:?} reaches beyond its {held} elements"
            )));
        }
        let mut data = Vec::with_capacity(len);
        let mut index = vec![0usize; shape.len()];
        for _ in 0..len {
            let at = index.iter().zip(strides).fold(*offset, |at, (&i, &s)| at + i * s);
            data.push(element.value(&storage[at * element.bytes()..][..element.bytes()]));
            for (i, &size) in index.iter_mut().zip(shape).rev() {
                *i += 1;
                if *i < size {
                    break;
                }
                *i = 0;
            }
        }
        Ok(Tensor { element, shape: shape.clone(), data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(shape: &[usize], strides: &[usize], offset: usize) -> Result<Vec<f32>, FormatError> {
        let storage: Vec<u8> = (0..6u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
        let view = View { offset, shape: shape.into(), strides: strides.into() };
        Tensor::gather(Element::F32, &storage, &view, &mut 24).map(|t| t.data)
    }

    #[test]
    fn views_are_gathered_row_by_row_whatever_their_strides() {
        assert_eq!(gather(&[2, 3], &[3, 1], 0).unwrap(), [0., 1., 2., 3., 4., 5.]);
        assert_eq!(gather(&[3, 2], &[1, 3], 0).unwrap(), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(gather(&[2], &[2], 1).unwrap(), [1., 3.]);
        assert_eq!(gather(&[], &[], 4).unwrap(), [4.]);
        // One row shown four times.
        assert_eq!(gather(&[4, 2], &[0, 1], 0).unwrap(), [0., 1., 0., 1., 0., 1., 0., 1.]);
        assert!(gather(&[0, 3], &[3, 1], 99).unwrap().is_empty());
    }

    #[test]
    fn what_reaches_beyond_the_storage_or_blows_up_is_damage() {
        for (shape, strides, offset) in [
            (&[2, 3][..], &[3, 1][..], 1),
            (&[7], &[1], 0),
            (&[2], &[usize::MAX], 1),
            (&[usize::MAX, 2], &[0, 0], 0),
            (&[5, 5], &[0, 0], 0),
            (&[2], &[1, 1], 0),
            (&[], &[], 6),
        ] {
            let told = gather(shape, strides, offset);
            assert!(told.is_err(), "{shape:?} {strides:?}: {told:?}");
        }
    }

    #[test]
    fn every_type_becomes_fp32() {
        let of = |element: Element, raw: &[u8]| {
            let view = View { offset: 0, shape: vec![], strides: vec![] };
            Tensor::gather(element, raw, &view, &mut 1).unwrap().data[0]
        };
        assert_eq!(of(Element::F64, &1.5f64.to_le_bytes()), 1.5);
        assert_eq!(of(Element::F16, &f16::from_f32(-0.25).to_le_bytes()), -0.25);
        assert_eq!(of(Element::Bf16, &bf16::from_f32(3.0).to_le_bytes()), 3.0);
        assert_eq!(of(Element::I64, &(-7i64).to_le_bytes()), -7.0);
        assert_eq!(of(Element::I32, &9i32.to_le_bytes()), 9.0);
        assert_eq!(of(Element::I16, &(-2i16).to_le_bytes()), -2.0);
        assert_eq!(
            (of(Element::I8, &[0xff]), of(Element::U8, &[255]), of(Element::Bool, &[1])),
            (-1.0, 255.0, 1.0)
        );
        assert!(Element::Bf16.is_float() && !Element::I64.is_float());
    }
}
