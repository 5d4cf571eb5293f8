//! Protocol buffers' wire format, field by field, without a copy.

use crate::FormatError;

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// A number, as many bytes as it needs.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Text, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// Four bytes.
    Fixed32(u32),
}

/// The fields of a message, in the order of the file, with their numbers.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn next_field(&mut self) -> Result<(u64, Value<'a>), FormatError> {
        let key = varint(&mut self.rest)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut self.rest)?),
            1 => Value::Fixed64(u64::from_le_bytes(fixed(&mut self.rest)?)),
            2 => {
                let length = usize::try_from(varint(&mut self.rest)?).map_err(FormatError::damaged)?;
                Value::Bytes(take(&mut self.rest, length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(fixed(&mut self.rest)?)),
            other => {
                return Err(FormatError::damaged(format!(
                    "a field of wire type {other}, which there is none"
                )));
            }
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let next = self.next_field();
        if next.is_err() {
            self.rest = &[];
        }
        Some(next)
    }
}

pub(super) fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], FormatError> {
    let (taken, left) =
        rest.split_at_checked(length).ok_or_else(|| FormatError::damaged("it is cut short"))?;
    *rest = left;
    Ok(taken)
}

pub(super) fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FormatError> {
    let taken = take(rest, N)?;
    Ok(std::array::from_fn(|i| taken[i]))
}

fn varint(rest: &mut &[u8]) -> Result<u64, FormatError> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = fixed(rest)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(FormatError::damaged("a number has more than 64 bits"))
}

impl<'a> Value<'a> {
    fn other(self) -> FormatError {
        FormatError::damaged(
            format!("a field is {self:.0?}, which it never is").chars().take(80).collect::<String>(),
        )
    }

    /// A signed number, two's complement.
    pub fn int(self) -> Result<i64, FormatError> {
        match self {
            Value::Varint(n) => Ok(n.cast_signed()),
            other => Err(other.other()),
        }
    }

    pub fn bool(self) -> Result<bool, FormatError> {
        Ok(self.int()? != 0)
    }

    pub fn float(self) -> Result<f64, FormatError> {
        match self {
            Value::Fixed32(bits) => Ok(f64::from(f32::from_bits(bits))),
            Value::Fixed64(bits) => Ok(f64::from_bits(bits)),
            other => Err(other.other()),
        }
    }

    pub fn bytes(self) -> Result<&'a [u8], FormatError> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(other.other()),
        }
    }

    pub fn text(self) -> Result<String, FormatError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(FormatError::damaged)
    }

    /// Appends one number, or packed ones.
    pub fn ints(self, to: &mut Vec<i64>) -> Result<(), FormatError> {
        let Value::Bytes(mut packed) = self else {
            to.push(self.int()?);
            return Ok(());
        };
        while !packed.is_empty() {
            to.push(varint(&mut packed)?.cast_signed());
        }
        Ok(())
    }

    /// Appends one FP32 number, or packed ones.
    pub fn floats(self, to: &mut Vec<f64>) -> Result<(), FormatError> {
        let Value::Bytes(mut packed) = self else {
            to.push(self.float()?);
            return Ok(());
        };
        while !packed.is_empty() {
            to.push(f64::from(f32::from_le_bytes(fixed(&mut packed)?)));
        }
        Ok(())
    }
}
