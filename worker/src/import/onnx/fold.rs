//! Operators computed here and now, since all they read is known: what exporters leave of shapes, masks and rearranged weights.

use super::attributes::{axis, float, integer};
use super::rearrange::{gather, reshaped, sliced, transposed};
use super::strides::{broadcast, elements, places, repeated};
use octrain_formats::onnx::{Attribute, Constant, Node, Numbers};

/// Operators that are computed here.
const FOLDED: [&str; 32] = [
    "Constant",
    "Identity",
    "Dropout",
    "Cast",
    "ConstantOfShape",
    "Range",
    "Shape",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Expand",
    "Concat",
    "Gather",
    "Slice",
    "Where",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Min",
    "Max",
    "Mod",
    "Equal",
    "Neg",
    "Sqrt",
    "Floor",
    "Ceil",
    "Reciprocal",
    "Exp",
];

/// Whether constants can go through an operator.
pub(super) fn is_folded(op: &str) -> bool {
    FOLDED.contains(&op)
}

/// What a node makes of constants; none where its operator is not computed here. At most `room` elements are made.
///
/// # Errors
/// When its inputs do not go together.
pub(super) fn fold(
    node: &Node,
    given: &[Option<&Constant>],
    room: &mut usize,
) -> Option<Result<Constant, String>> {
    let copies = matches!(
        node.op.as_str(),
        "Identity"
            | "Dropout"
            | "Cast"
            | "Reshape"
            | "Flatten"
            | "Squeeze"
            | "Unsqueeze"
            | "Transpose"
            | "Slice"
            | "Neg"
            | "Sqrt"
            | "Floor"
            | "Ceil"
            | "Reciprocal"
            | "Exp"
    );
    if let (true, Ok(first)) = (copies, at(given, 0))
        && let Err(why) = take(room, &first.shape)
    {
        return Some(Err(why));
    }
    let made = match node.op.as_str() {
        "Constant" => literal(node),
        "Identity" | "Dropout" => at(given, 0).cloned(),
        "Cast" => at(given, 0).and_then(|c| cast(node, c)),
        "ConstantOfShape" => at(given, 0).and_then(|c| filled(node, c, room)),
        "Range" => range(given, room),
        "Shape" => at(given, 0).and_then(|c| shape_of(node, c)),
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => at(given, 0)
            .and_then(|c| Ok(Constant { shape: reshaped(node, c.shape.clone(), given)?, ..c.clone() })),
        "Transpose" => at(given, 0).and_then(|c| transposed(node, c)),
        "Expand" => expanded(given, room),
        "Concat" => concat(node, given, room),
        "Gather" => gather(node, given, room),
        "Slice" => sliced(node, given),
        "Where" => chosen(given, room),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Min" | "Max" | "Mod" | "Equal" => {
            arithmetic(&node.op, given, room)
        }
        "Neg" | "Sqrt" | "Floor" | "Ceil" | "Reciprocal" | "Exp" => {
            at(given, 0).and_then(|c| unary(&node.op, c))
        }
        _ => return None,
    };
    Some(made)
}

/// An input that must be there.
pub(super) fn at<'a>(given: &[Option<&'a Constant>], i: usize) -> Result<&'a Constant, String> {
    given.get(i).copied().flatten().ok_or_else(|| format!("its input {i} is missing"))
}

/// The whole numbers of an input; none where it is left out.
pub(super) fn list(given: &[Option<&Constant>], i: usize) -> Result<Option<Vec<i64>>, String> {
    let Some(constant) = given.get(i).copied().flatten() else { return Ok(None) };
    let numbers = constant.as_integers().ok_or_else(|| format!("its input {i} is not of whole numbers"))?;
    Ok(Some(numbers.to_vec()))
}

/// How many elements a shape has, which are taken from the room that is left.
pub(super) fn take(room: &mut usize, shape: &[usize]) -> Result<usize, String> {
    // Dimensions of 0 hide others that nobody could count.
    let counted = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    let len = counted.filter(|n| n <= room).and_then(|_| elements(shape));
    let len =
        len.ok_or_else(|| format!("makes a constant of {shape:?}, which is more than a network has"))?;
    *room -= len;
    Ok(len)
}

/// The constant of a Constant.
fn literal(node: &Node) -> Result<Constant, String> {
    let of = |name: &str| node.attributes.get(name);
    match (of("value"), of("value_float"), of("value_floats"), of("value_int"), of("value_ints")) {
        (Some(Attribute::Tensor(constant)), ..) => Ok(constant.clone()),
        (_, Some(Attribute::Float(x)), ..) => Ok(Constant::floats(vec![], vec![*x])),
        (_, _, Some(Attribute::Floats(all)), ..) => Ok(Constant::floats(vec![all.len()], all.clone())),
        (_, _, _, Some(Attribute::Integer(n)), _) => Ok(Constant::integers(vec![], vec![*n])),
        (_, _, _, _, Some(Attribute::Integers(all))) => Ok(Constant::integers(vec![all.len()], all.clone())),
        _ => Err("it has no number".into()),
    }
}

/// Whether a Cast makes floating-point numbers, by the code of the standard's element type.
pub(super) fn casts_to_float(node: &Node) -> Result<bool, String> {
    match integer(node, "to", 0)? {
        1 | 10 | 11 | 16 => Ok(true),
        2..=7 | 9 | 12 | 13 => Ok(false),
        other => Err(format!("it makes elements of type {other}, which are not taken")),
    }
}

fn cast(node: &Node, c: &Constant) -> Result<Constant, String> {
    // Truth values are 0 and 1.
    let numbers = match (casts_to_float(node)?, integer(node, "to", 0)? == 9, &c.numbers) {
        (true, _, Numbers::Integers(all)) => Numbers::Floats(all.iter().map(|&n| n as f32).collect()),
        (false, true, Numbers::Floats(all)) => {
            Numbers::Integers(all.iter().map(|&x| i64::from(x != 0.0)).collect())
        }
        (false, true, Numbers::Integers(all)) => {
            Numbers::Integers(all.iter().map(|&n| i64::from(n != 0)).collect())
        }
        (false, false, Numbers::Floats(all)) => Numbers::Integers(all.iter().map(|&x| x as i64).collect()),
        (_, _, same) => same.clone(),
    };
    Ok(Constant { shape: c.shape.clone(), numbers })
}

fn filled(node: &Node, shape: &Constant, room: &mut usize) -> Result<Constant, String> {
    let sizes = shape.as_integers().ok_or("its shape is not of whole numbers")?;
    let shape = sizes.iter().map(|&n| usize::try_from(n).map_err(|_| format!("its shape is {sizes:?}")));
    let shape = shape.collect::<Result<Vec<_>, _>>()?;
    let len = take(room, &shape)?;
    let numbers = match node.attributes.get("value") {
        None => Numbers::Floats(vec![0.0; len]),
        Some(Attribute::Tensor(value)) if value.numbers.len() == 1 => {
            value.numbers.at(std::iter::repeat_n(0, len))
        }
        Some(_) => return Err("its value is not one number".into()),
    };
    Ok(Constant { shape, numbers })
}

fn range(given: &[Option<&Constant>], room: &mut usize) -> Result<Constant, String> {
    let of = |i| match at(given, i)?.numbers {
        Numbers::Integers(ref all) if all.len() == 1 => Ok(all[0]),
        _ => Err(format!("its input {i} is not one whole number")),
    };
    let (start, limit, delta): (i64, i64, i64) = (of(0)?, of(1)?, of(2)?);
    let span = limit.checked_sub(start).ok_or("its limits are too far apart")?;
    if delta == 0 {
        return Err("its steps are 0".into());
    }
    // Rounded up, where both go the same way.
    let count =
        if (span > 0) == (delta > 0) { span.unsigned_abs().div_ceil(delta.unsigned_abs()) } else { 0 };
    let len = take(room, &[usize::try_from(count).unwrap_or(usize::MAX)])?;
    Ok(Constant::integers(vec![len], (0..len as i64).map(|i| start + i * delta).collect()))
}

/// The part of a shape that a Shape is asked for.
pub(super) fn shape_part<T: Clone>(node: &Node, shape: &[T]) -> Result<Vec<T>, String> {
    let rank = shape.len() as i64;
    let clamp = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (clamp(integer(node, "start", 0)?), clamp(integer(node, "end", rank)?));
    Ok(shape.get(start..end).unwrap_or_default().to_vec())
}

fn shape_of(node: &Node, c: &Constant) -> Result<Constant, String> {
    let sizes: Vec<i64> = shape_part(node, &c.shape)?.iter().map(|&d| d as i64).collect();
    Ok(Constant::integers(vec![sizes.len()], sizes))
}

fn expanded(given: &[Option<&Constant>], room: &mut usize) -> Result<Constant, String> {
    let (c, sizes) = (at(given, 0)?, list(given, 1)?.ok_or("its shape is missing")?);
    let sizes = sizes.iter().map(|&n| usize::try_from(n).map_err(|_| format!("its shape is {sizes:?}")));
    let sizes = sizes.collect::<Result<Vec<_>, _>>()?;
    let shape = broadcast(&c.shape, &sizes).ok_or_else(|| format!("makes {sizes:?} of {:?}", c.shape))?;
    take(room, &shape)?;
    Ok(Constant { numbers: c.numbers.at(places(&shape, &repeated(&c.shape, shape.len()))), shape })
}

fn concat(node: &Node, given: &[Option<&Constant>], room: &mut usize) -> Result<Constant, String> {
    let first = at(given, 0)?;
    let along = axis(integer(node, "axis", 0)?, first.shape.len())?;
    let all = (0..given.len()).map(|i| at(given, i)).collect::<Result<Vec<_>, _>>()?;
    let mut shape = first.shape.clone();
    let alike = |c: &Constant| c.shape.iter().enumerate().all(|(i, &d)| i == along || d == shape[i]);
    if !all.iter().all(|c| c.shape.len() == shape.len() && alike(c)) {
        return Err("joins constants of shapes that do not fit".into());
    }
    let sum = all.iter().try_fold(0usize, |n, c| n.checked_add(c.shape[along]));
    shape[along] = sum.ok_or("joins more than can be counted")?;
    take(room, &shape)?;
    let outer: usize = shape[..along].iter().product();
    let floats = all.iter().all(|c| c.as_floats().is_some());
    let mut numbers = if floats { Numbers::Floats(vec![]) } else { Numbers::Integers(vec![]) };
    for row in 0..outer {
        for c in &all {
            let width = c.numbers.len() / outer;
            let part = row * width..(row + 1) * width;
            match (&mut numbers, &c.numbers) {
                (Numbers::Floats(to), Numbers::Floats(from)) => to.extend(&from[part]),
                (Numbers::Integers(to), Numbers::Integers(from)) => to.extend(&from[part]),
                _ => return Err("joins constants of several types".into()),
            }
        }
    }
    Ok(Constant { shape, numbers })
}

fn chosen(given: &[Option<&Constant>], room: &mut usize) -> Result<Constant, String> {
    let (condition, a, b) = (at(given, 0)?, at(given, 1)?, at(given, 2)?);
    let shape = broadcast(&a.shape, &b.shape).and_then(|both| broadcast(&both, &condition.shape));
    let shape = shape.ok_or("its inputs are of shapes that do not fit")?;
    take(room, &shape)?;
    let [condition_at, a_at, b_at] = [condition, a, b].map(|c| repeated(&c.shape, shape.len()));
    let condition = condition.as_integers().ok_or("its condition is no truth value")?;
    let at = places(&shape, &condition_at).zip(places(&shape, &a_at)).zip(places(&shape, &b_at));
    let numbers = match (&a.numbers, &b.numbers) {
        (Numbers::Floats(a), Numbers::Floats(b)) => {
            Numbers::Floats(at.map(|((c, i), j)| if condition[c] != 0 { a[i] } else { b[j] }).collect())
        }
        (Numbers::Integers(a), Numbers::Integers(b)) => {
            Numbers::Integers(at.map(|((c, i), j)| if condition[c] != 0 { a[i] } else { b[j] }).collect())
        }
        _ => return Err("chooses between numbers of several types".into()),
    };
    Ok(Constant { shape, numbers })
}

/// One of two whole numbers' operators; none where it has no result.
pub(super) fn of_integers(op: &str, a: i64, b: i64) -> Option<i64> {
    match op {
        "Add" => a.checked_add(b),
        "Sub" => a.checked_sub(b),
        "Mul" => a.checked_mul(b),
        "Div" => a.checked_div(b),
        "Pow" => a.checked_pow(u32::try_from(b).ok()?),
        "Min" => Some(a.min(b)),
        "Max" => Some(a.max(b)),
        // The remainder has the sign of the divisor.
        "Mod" => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        "Equal" => Some(i64::from(a == b)),
        _ => None,
    }
}

fn of_floats(op: &str, a: f32, b: f32) -> f32 {
    match op {
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        "Div" => a / b,
        "Pow" => a.powf(b),
        "Min" => a.min(b),
        "Mod" => a % b,
        _ => a.max(b),
    }
}

fn arithmetic(op: &str, given: &[Option<&Constant>], room: &mut usize) -> Result<Constant, String> {
    let mut made = at(given, 0)?.clone();
    for i in 1..given.len() {
        let (a, b) = (&made, at(given, i)?);
        let shape = broadcast(&a.shape, &b.shape)
            .ok_or_else(|| format!("its inputs are {:?} and {:?}, which do not fit", a.shape, b.shape))?;
        take(room, &shape)?;
        let [a_at, b_at] = [a, b].map(|c| repeated(&c.shape, shape.len()));
        let at = places(&shape, &a_at).zip(places(&shape, &b_at));
        let numbers = match (&a.numbers, &b.numbers) {
            (Numbers::Floats(a), Numbers::Floats(b)) if op == "Equal" => {
                Numbers::Integers(at.map(|(i, j)| i64::from(a[i] == b[j])).collect())
            }
            (Numbers::Floats(a), Numbers::Floats(b)) => {
                Numbers::Floats(at.map(|(i, j)| of_floats(op, a[i], b[j])).collect())
            }
            (Numbers::Integers(a), Numbers::Integers(b)) => {
                let all: Option<Vec<i64>> = at.map(|(i, j)| of_integers(op, a[i], b[j])).collect();
                Numbers::Integers(all.ok_or("its result is no whole number that can be counted")?)
            }
            (Numbers::Floats(a), Numbers::Integers(b)) if op == "Pow" => {
                Numbers::Floats(at.map(|(i, j)| a[i].powf(b[j] as f32)).collect())
            }
            _ => return Err("its inputs are of several types".into()),
        };
        made = Constant { shape, numbers };
    }
    Ok(made)
}

fn unary(op: &str, c: &Constant) -> Result<Constant, String> {
    let numbers = match (&c.numbers, op) {
        (Numbers::Floats(all), _) => {
            let of = |x: f32| match op {
                "Neg" => -x,
                "Sqrt" => x.sqrt(),
                "Floor" => x.floor(),
                "Ceil" => x.ceil(),
                "Reciprocal" => 1.0 / x,
                _ => x.exp(),
            };
            Numbers::Floats(all.iter().map(|&x| of(x)).collect())
        }
        (Numbers::Integers(all), "Neg") => Numbers::Integers(all.iter().map(|&n| n.wrapping_neg()).collect()),
        _ => return Err("it reads whole numbers".into()),
    };
    Ok(Constant { shape: c.shape.clone(), numbers })
}

/// Probability of a Dropout: an attribute, since operator set 12 an input.
pub(super) fn dropout(node: &Node, given: Option<&Constant>) -> Result<f32, String> {
    match given {
        Some(ratio) => ratio.number().ok_or_else(|| "its ratio is not one number".into()),
        None => float(node, "ratio", 0.5),
    }
}
