//! Tensors of a file as numbers, in every form that the standard stores them in.

use super::proto::TensorProto;
use super::proto::tensor_proto::{DataLocation, DataType};
use half::{bf16, f16};

/// Elements of a constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// Of any floating-point type, rounded to FP32.
    Floats(Vec<f32>),
    /// Of any type of integers; truth values are 0 and 1.
    Integers(Vec<i64>),
}

/// A tensor whose elements are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    /// Sizes of the dimensions, outermost first; empty for one number.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub numbers: Numbers,
}

impl Numbers {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Numbers::Floats(all) => all.len(),
            Numbers::Integers(all) => all.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those at these places, in their order.
    pub fn at(&self, places: impl Iterator<Item = usize>) -> Self {
        match self {
            Numbers::Floats(all) => Numbers::Floats(places.map(|i| all[i]).collect()),
            Numbers::Integers(all) => Numbers::Integers(places.map(|i| all[i]).collect()),
        }
    }
}

impl Constant {
    /// Floating-point numbers.
    pub fn floats(shape: Vec<usize>, values: Vec<f32>) -> Self {
        Self { shape, numbers: Numbers::Floats(values) }
    }

    /// Integers.
    pub fn integers(shape: Vec<usize>, values: Vec<i64>) -> Self {
        Self { shape, numbers: Numbers::Integers(values) }
    }

    /// Its elements, where they are floating-point numbers.
    pub fn as_floats(&self) -> Option<&[f32]> {
        match &self.numbers {
            Numbers::Floats(all) => Some(all),
            Numbers::Integers(_) => None,
        }
    }

    /// Its elements, where they are integers.
    pub fn as_integers(&self) -> Option<&[i64]> {
        match &self.numbers {
            Numbers::Integers(all) => Some(all),
            Numbers::Floats(_) => None,
        }
    }

    /// Its only element, where it is one floating-point number.
    pub fn number(&self) -> Option<f32> {
        match self.as_floats() {
            Some(&[one]) => Some(one),
            _ => None,
        }
    }
}

/// Name of an element type for people.
pub(super) fn type_name(code: i32) -> String {
    DataType::try_from(code)
        .map_or_else(|_| format!("of element type {code}"), |t| t.as_str_name().to_string())
}

/// The bytes that tensors of a file lie in besides itself, by the name that the file gives them; or why there are none, as a
/// clause about that file.
pub(super) type Beside<'a> = &'a std::collections::BTreeMap<String, Result<Vec<u8>, String>>;

/// Where in which other file a tensor lies: its name, first byte, and bytes where told.
pub(super) fn elsewhere(tensor: &TensorProto) -> Option<(&str, Option<&str>, Option<&str>)> {
    let external = tensor.data_location() == DataLocation::External;
    let of = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
    external.then(|| (of("location").unwrap_or_default(), of("offset"), of("length")))
}

/// Reads a tensor. At most `room` elements are made.
///
/// # Errors
/// What is wrong with it, or why it is not taken, without its name.
pub(super) fn read(tensor: &TensorProto, beside: Beside, room: &mut usize) -> Result<Constant, String> {
    let shape: Vec<usize> = tensor
        .dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| format!("it has a dimension of {d}")))
        .collect::<Result<_, _>>()?;
    // A dimension of 0 hides others that nobody could count.
    let counted =
        shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1))).filter(|n| *n <= (*room).max(1));
    let len = counted.map(|n| if shape.contains(&0) { 0 } else { n });
    let len = len.ok_or_else(|| format!("its shape {shape:?} has more elements than the file has bytes"))?;
    *room -= len;
    let element = DataType::try_from(tensor.data_type()).unwrap_or(DataType::Undefined);
    if tensor.segment.is_some() {
        return Err("it is stored in segments".into());
    }
    let numbers = match (elsewhere(tensor), &tensor.raw_data) {
        (Some(place), _) => {
            let bytes = outside(place, beside)?;
            let width = width(element).ok_or_else(|| refused(tensor))?;
            let bytes = match place.2 {
                Some(_) => bytes,
                // Up to the end of the file, where nothing says how many.
                None => len.checked_mul(width).and_then(|n| bytes.get(..n)).unwrap_or(bytes),
            };
            raw(element, bytes)
        }
        (None, Some(bytes)) if !bytes.is_empty() || len == 0 => raw(element, bytes),
        (None, _) => typed(element, tensor),
    };
    let numbers = numbers.ok_or_else(|| refused(tensor))?;
    match numbers.len() == len {
        true => Ok(Constant { shape, numbers }),
        false => Err(format!("its shape {shape:?} wants {len} elements, and it holds {}", numbers.len())),
    }
}

fn refused(tensor: &TensorProto) -> String {
    format!("its elements are {}, which are not read", type_name(tensor.data_type()))
}

/// The bytes of a tensor that lies in another file.
fn outside<'a>(
    (name, offset, length): (&str, Option<&str>, Option<&str>),
    beside: Beside<'a>,
) -> Result<&'a [u8], String> {
    let bytes = match beside.get(name) {
        Some(Ok(bytes)) => bytes,
        Some(Err(why)) => return Err(format!("it lies in the file `{name}`, {why}")),
        None => return Err(format!("it lies in the file `{name}`, where only initializers may")),
    };
    let number = |text: Option<&str>, default| text.map_or(Ok(default), str::parse::<usize>);
    let place = number(offset, 0).and_then(|first| Ok((first, number(length, 0)?)));
    let (first, count) = place.map_err(|e| format!("its place in the file `{name}` cannot be read: {e}"))?;
    let rest = bytes.get(first..);
    let found = if length.is_some() { rest.and_then(|rest| rest.get(..count)) } else { rest };
    found.ok_or_else(|| format!("it reaches beyond the {} bytes of the file `{name}`", bytes.len()))
}

/// Bytes of one element, of the types that are read.
fn width(element: DataType) -> Option<usize> {
    use DataType::*;
    Some(match element {
        Double | Int64 | Uint64 => 8,
        Float | Int32 | Uint32 => 4,
        Float16 | Bfloat16 | Int16 | Uint16 => 2,
        Int8 | Uint8 | Bool => 1,
        _ => return None,
    })
}

/// Elements of raw bytes; none of types that are not read, or where the last element is cut short.
fn raw(element: DataType, bytes: &[u8]) -> Option<Numbers> {
    if !bytes.len().is_multiple_of(width(element)?) {
        return Some(Numbers::Integers(Vec::new()));
    }
    fn all<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|raw| f(*raw)).collect()
    }
    use DataType::*;
    Some(match element {
        Float => Numbers::Floats(all(bytes, f32::from_le_bytes)),
        Double => Numbers::Floats(all(bytes, |raw| f64::from_le_bytes(raw) as f32)),
        Float16 => Numbers::Floats(all(bytes, |raw| f16::from_le_bytes(raw).to_f32())),
        Bfloat16 => Numbers::Floats(all(bytes, |raw| bf16::from_le_bytes(raw).to_f32())),
        Int64 => Numbers::Integers(all(bytes, i64::from_le_bytes)),
        // Counts beyond what shapes have wrap, as they do in other readers.
        Uint64 => Numbers::Integers(all(bytes, |raw| u64::from_le_bytes(raw) as i64)),
        Int32 => Numbers::Integers(all(bytes, |raw| i32::from_le_bytes(raw).into())),
        Uint32 => Numbers::Integers(all(bytes, |raw| u32::from_le_bytes(raw).into())),
        Int16 => Numbers::Integers(all(bytes, |raw| i16::from_le_bytes(raw).into())),
        Uint16 => Numbers::Integers(all(bytes, |raw| u16::from_le_bytes(raw).into())),
        Int8 => Numbers::Integers(all(bytes, |raw: [u8; 1]| i8::from_le_bytes(raw).into())),
        Uint8 => Numbers::Integers(all(bytes, |raw: [u8; 1]| raw[0].into())),
        Bool => Numbers::Integers(all(bytes, |raw: [u8; 1]| (raw[0] != 0).into())),
        _ => return None,
    })
}

/// Elements of the field of their type; none of types that are not read.
fn typed(element: DataType, tensor: &TensorProto) -> Option<Numbers> {
    use DataType::*;
    let words = || tensor.int32_data.iter();
    Some(match element {
        Float => Numbers::Floats(tensor.float_data.clone()),
        Double => Numbers::Floats(tensor.double_data.iter().map(|&x| x as f32).collect()),
        Float16 => Numbers::Floats(words().map(|&w| f16::from_bits(w as u16).to_f32()).collect()),
        Bfloat16 => Numbers::Floats(words().map(|&w| bf16::from_bits(w as u16).to_f32()).collect()),
        Int64 => Numbers::Integers(tensor.int64_data.clone()),
        Uint32 | Uint64 => Numbers::Integers(tensor.uint64_data.iter().map(|&w| w as i64).collect()),
        Int32 | Int16 | Int8 | Uint16 | Uint8 => Numbers::Integers(words().map(|&w| w.into()).collect()),
        Bool => Numbers::Integers(words().map(|&w| (w != 0).into()).collect()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn of(tensor: &TensorProto) -> Result<Numbers, String> {
        read(tensor, &BTreeMap::new(), &mut 100).map(|c| c.numbers)
    }

    #[test]
    fn numbers_are_the_same_in_every_form() {
        use DataType::*;
        let raw = |element, bytes: &[u8], n: usize| TensorProto::new("t", &[n], element, bytes.to_vec());
        let typed = |element: DataType, n: i64| TensorProto {
            dims: vec![n],
            data_type: Some(element.into()),
            ..TensorProto::default()
        };
        let floats = Numbers::Floats(vec![1.5, -0.25]);
        let of_f64: Vec<u8> = [1.5f64, -0.25].iter().flat_map(|x| x.to_le_bytes()).collect();
        let of_f16: Vec<u8> = [1.5, -0.25].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let of_bf16: Vec<u8> = [1.5, -0.25].iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let bits = |f: fn(f32) -> u16| [1.5, -0.25].iter().map(|&x| i32::from(f(x))).collect();
        for tensor in [
            TensorProto::floats("t", &[2], &[1.5, -0.25]),
            raw(Double, &of_f64, 2),
            raw(Float16, &of_f16, 2),
            raw(Bfloat16, &of_bf16, 2),
            TensorProto { float_data: vec![1.5, -0.25], ..typed(Float, 2) },
            TensorProto { double_data: vec![1.5, -0.25], ..typed(Double, 2) },
            TensorProto { int32_data: bits(|x| f16::from_f32(x).to_bits()), ..typed(Float16, 2) },
            TensorProto { int32_data: bits(|x| bf16::from_f32(x).to_bits()), ..typed(Bfloat16, 2) },
        ] {
            assert_eq!(of(&tensor).as_ref(), Ok(&floats), "{tensor:?}");
        }
        let integers = Numbers::Integers(vec![-7]);
        for tensor in [
            TensorProto::longs("t", &[1], &[-7]),
            TensorProto::integers("t", &[1], &[-7]),
            raw(Int16, &(-7i16).to_le_bytes(), 1),
            TensorProto::bytes("t", &[1], &[-7]),
            TensorProto { int64_data: vec![-7], ..typed(Int64, 1) },
            TensorProto { int32_data: vec![-7], ..typed(Int8, 1) },
        ] {
            assert_eq!(of(&tensor).as_ref(), Ok(&integers), "{tensor:?}");
        }
        assert_eq!(of(&raw(Bool, &[2, 0], 2)), Ok(Numbers::Integers(vec![1, 0])));
        assert_eq!(of(&raw(Uint32, &[255; 4], 1)), Ok(Numbers::Integers(vec![4_294_967_295])));
        assert_eq!(
            of(&TensorProto { uint64_data: vec![9], ..typed(Uint64, 1) }),
            Ok(Numbers::Integers(vec![9]))
        );
        assert_eq!(of(&typed(Float, 0)), Ok(Numbers::Floats(vec![])));
    }

    #[test]
    fn what_a_tensor_says_of_itself_must_be_so() {
        let floats = |dims: &[i64], n: usize| TensorProto {
            dims: dims.to_vec(),
            ..TensorProto::floats("t", &[], &vec![0.0; n])
        };
        for (tensor, part) in [
            (floats(&[3], 2), "wants 3 elements, and it holds 2"),
            (floats(&[-1], 1), "a dimension of -1"),
            (floats(&[1 << 40, 1 << 40], 1), "more elements than the file has bytes"),
            (floats(&[101], 101), "more elements than the file has bytes"),
            (TensorProto::new("t", &[1], DataType::String, vec![1]), "elements are STRING"),
            (TensorProto::new("t", &[1], DataType::Int4, vec![1]), "elements are INT4"),
            (TensorProto::new("t", &[1], DataType::Float, vec![1, 2, 3]), "holds 0"),
            (TensorProto { data_type: Some(99), ..TensorProto::default() }, "element type 99"),
        ] {
            let told = of(&tensor).unwrap_err();
            assert!(told.contains(part), "{part}: {told}");
        }
    }

    #[test]
    fn tensors_in_another_file_lie_where_they_say() {
        let entry = |key: &str, value: &str| super::super::proto::StringStringEntryProto::new(key, value);
        let tensor = |entries: &[(&str, &str)]| TensorProto {
            data_location: Some(DataLocation::External.into()),
            external_data: entries.iter().map(|(k, v)| entry(k, v)).collect(),
            raw_data: None,
            ..TensorProto::floats("t", &[1], &[0.0])
        };
        let beside =
            BTreeMap::from([("w.data".to_string(), Ok([1.0f32, 2.0].map(f32::to_le_bytes).concat()))]);
        let of = |entries: &[(&str, &str)]| read(&tensor(entries), &beside, &mut 10).map(|c| c.number());
        assert_eq!(of(&[("location", "w.data"), ("offset", "4"), ("length", "4")]), Ok(Some(2.0)));
        assert_eq!(of(&[("location", "w.data")]), Ok(Some(1.0)));
        for (entries, part) in [
            (&[("location", "w.data"), ("offset", "6"), ("length", "4")][..], "beyond the 8 bytes"),
            (&[("location", "w.data"), ("offset", "-4")], "cannot be read"),
            (
                &[("location", "w.data"), ("offset", "4"), ("length", "99999999999999999999")],
                "cannot be read",
            ),
            (&[("location", "other.data")], "`other.data`, where only initializers may"),
            (&[], "the file ``"),
        ] {
            let told = of(entries).unwrap_err();
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}
