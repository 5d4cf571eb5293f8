//! Tensors one behind the other, without names: `.pdiparams`.

use super::wire::{Fields, fixed, take};
use crate::elements::View;
use crate::{Element, FormatError, Tensor};

/// Levels of detail of a sequence; a weight has none.
const MOST_LEVELS: u64 = 8;
/// Bytes of a description of type and shape.
const LONGEST: usize = 1024;
/// Dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;
/// Tensors of a file. Those without elements are 22 bytes.
const MOST: usize = 1 << 20;

/// Whether a file begins like this: of version 0, with few levels of detail, if it is long enough to tell.
pub(super) fn plausible(bytes: &[u8]) -> bool {
    let Some((head, _)) = bytes.split_first_chunk::<16>() else { return false };
    head[..4] == [0; 4] && u64::from(head[4]) <= MOST_LEVELS && head[5..12] == [0; 7]
}

/// The type of elements by Paddle's number.
pub(super) fn element(number: i64) -> Result<Element, FormatError> {
    Ok(match number {
        0 => Element::Bool,
        1 => Element::I16,
        2 => Element::I32,
        3 => Element::I64,
        4 => Element::F16,
        5 => Element::F32,
        6 => Element::F64,
        20 => Element::U8,
        21 => Element::I8,
        22 => Element::Bf16,
        other => {
            let found =
                format!("of elements of Paddle's type {other}, which is none that weights are kept in");
            return Err(FormatError::Foreign { wanted: "a tensor of numbers", found });
        }
    })
}

/// Reads all tensors of a file, in its order; elements that are made never exceed the file's bytes.
///
/// # Errors
/// When it is cut short, or holds what is no dense tensor.
pub fn read(bytes: &[u8]) -> Result<Vec<Tensor>, FormatError> {
    let (mut rest, mut room, mut out) = (bytes, bytes.len(), Vec::new());
    while !rest.is_empty() {
        if out.len() == MOST {
            let found = format!("it holds more than {MOST} tensors");
            return Err(FormatError::Foreign { wanted: "a file of weights", found });
        }
        let number = out.len();
        out.push(tensor(&mut rest, &mut room).map_err(|e| e.within(&format!("tensor {number}")))?);
    }
    Ok(out)
}

fn tensor(rest: &mut &[u8], room: &mut usize) -> Result<Tensor, FormatError> {
    version(rest)?;
    let levels = u64::from_le_bytes(fixed(rest)?);
    if levels > MOST_LEVELS {
        return Err(FormatError::damaged(format!("{levels} levels of detail")));
    }
    for _ in 0..levels {
        let length = u64::from_le_bytes(fixed(rest)?);
        take(rest, usize::try_from(length).map_err(FormatError::damaged)?)?;
    }
    version(rest)?;
    let length = i32::from_le_bytes(fixed(rest)?);
    let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| FormatError::damaged("a description of no plausible length"))?;
    let (element, shape) = described(take(rest, length)?)?;
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let data = elements.and_then(|n| n.checked_mul(element.bytes())).filter(|n| *n <= rest.len());
    let data = data.ok_or_else(|| FormatError::damaged(format!("cut short within a tensor of {shape:?}")))?;
    Tensor::gather(element, take(rest, data)?, &View::whole(shape), room)
}

fn version(rest: &mut &[u8]) -> Result<(), FormatError> {
    match u32::from_le_bytes(fixed(rest)?) {
        0 => Ok(()),
        other => Err(FormatError::damaged(format!("of version {other}, where there is only 0"))),
    }
}

/// Type and shape of a tensor by its message.
fn described(message: &[u8]) -> Result<(Element, Vec<usize>), FormatError> {
    let (mut kind, mut dims) = (None, Vec::new());
    for field in Fields::of(message) {
        match field? {
            (1, value) => kind = Some(element(value.int()?)?),
            (2, value) => value.ints(&mut dims)?,
            _ => {}
        }
    }
    let kind = kind.ok_or_else(|| FormatError::damaged("no type of elements"))?;
    if dims.len() > MOST_DIMENSIONS {
        return Err(FormatError::damaged(format!("{} dimensions", dims.len())));
    }
    let dims = dims.into_iter().map(|d| usize::try_from(d).map_err(FormatError::damaged));
    Ok((kind, dims.collect::<Result<_, _>>()?))
}
