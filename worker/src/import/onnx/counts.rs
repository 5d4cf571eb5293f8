//! Whole numbers that depend on the size of the batch: what exporters compute shapes of.

use super::attributes::axis;
use super::fold::{casts_to_float, of_integers};
use super::rearrange::slices;
use super::value::{Count, Known, Value};
use octrain_formats::onnx::{Constant, Node};
use std::rc::Rc;

/// The numbers of a value that is one or a row of them, and whether it is one; none of other values.
pub(super) fn row(value: &Value) -> Option<(Vec<Count>, bool)> {
    match value {
        Value::Counts(all, single) => Some((all.clone(), *single)),
        Value::Known(known) if known.constant.shape.len() < 2 => {
            let all = known.constant.as_integers()?.iter().map(|&n| Count::number(n)).collect();
            Some((all, known.constant.shape.is_empty()))
        }
        _ => None,
    }
}

/// A row of numbers as a value: a constant where none depends on the batch.
pub(super) fn value(all: Vec<Count>, single: bool) -> Value {
    if all.iter().any(|c| c.batch) {
        return Value::Counts(all, single);
    }
    let numbers: Vec<i64> = all.iter().map(|c| c.times).collect();
    let shape = if single { vec![] } else { vec![numbers.len()] };
    Value::Known(Known { constant: Rc::new(Constant::integers(shape, numbers)), origin: None })
}

fn arithmetic(op: &str, a: Count, b: Count) -> Option<Count> {
    let of = |batch| of_integers(op, a.times, b.times).map(|times| Count { batch, times });
    match (op, a.batch, b.batch) {
        (_, false, false) => of(false),
        ("Add" | "Sub" | "Min" | "Max", true, true) => of(true),
        ("Mul", ..) if a.batch != b.batch => of(true),
        ("Mod", true, false) if a.times.checked_rem(b.times) == Some(0) => Some(Count::number(0)),
        ("Div", true, false) if a.times.checked_rem(b.times) == Some(0) => of(true),
        ("Div", true, true) if a.times.checked_rem(b.times) == Some(0) => of(false),
        // A size is no number that somebody wrote down, such as -1.
        ("Equal", ..) if a.batch != b.batch => Some(Count::number(0)),
        ("Equal", true, true) => of(false),
        _ => None,
    }
}

/// What a node makes of numbers that depend on the batch; none where that cannot be told.
pub(super) fn compute(node: &Node, given: &[Value]) -> Option<Value> {
    let first = row(given.first()?)?;
    let numbers = |i: usize| {
        let (all, _) = row(given.get(i)?)?;
        all.iter().map(|c| (!c.batch).then_some(c.times)).collect::<Option<Vec<i64>>>()
    };
    match node.op.as_str() {
        "Identity" => Some(value(first.0, first.1)),
        "Cast" if casts_to_float(node) == Ok(false) => Some(value(first.0, first.1)),
        "Gather" => {
            let (index, single) = (numbers(1)?, row(&given[1])?.1);
            let all = index.iter().map(|&n| Some(first.0[axis(n, first.0.len()).ok()?]));
            Some(value(all.collect::<Option<_>>()?, single))
        }
        "Slice" => {
            let inputs = [1, 2, 3, 4].map(numbers);
            let part = slices(node, inputs, &[Some(first.0.len())]).ok()?[0];
            let (start, count, step) = part.unwrap_or((0, first.0.len(), 1));
            let all = (0..count).map(|i| first.0.get((start as i64 + i as i64 * step) as usize).copied());
            Some(value(all.collect::<Option<_>>()?, false))
        }
        "Concat" => {
            let all: Option<Vec<Vec<Count>>> = given.iter().map(|v| Some(row(v)?.0)).collect();
            Some(value(all?.concat(), false))
        }
        "Unsqueeze" => first.1.then(|| value(first.0, false)),
        "Squeeze" => (first.0.len() == 1).then(|| value(first.0, true)),
        "Reshape" => match numbers(1)?.len() {
            0 if first.0.len() == 1 => Some(value(first.0, true)),
            1 => Some(value(first.0, false)),
            _ => None,
        },
        op @ ("Add" | "Sub" | "Mul" | "Div" | "Min" | "Max" | "Mod" | "Equal") => {
            let second = row(given.get(1)?)?;
            let (all, single) = paired(&first, &second)?;
            let all: Option<Vec<Count>> = all.into_iter().map(|(a, b)| arithmetic(op, a, b)).collect();
            Some(value(all?, single))
        }
        "Where" => {
            let (a, b) = (row(given.get(1)?)?, row(given.get(2)?)?);
            let (pairs, single) = paired(&a, &b)?;
            let (choices, single) = paired(&first, &(vec![Count::number(0); pairs.len()], single))?;
            if choices.len() != pairs.len() {
                return None;
            }
            let choose = |((c, _), (a, b)): ((Count, _), (Count, Count))| match (c.batch, c.times) {
                (false, 0) => Some(b),
                (false, _) => Some(a),
                (true, _) => None,
            };
            Some(value(choices.into_iter().zip(pairs).map(choose).collect::<Option<_>>()?, single))
        }
        _ => None,
    }
}

/// Two rows side by side, one of them repeated where it is a single number.
fn paired(a: &(Vec<Count>, bool), b: &(Vec<Count>, bool)) -> Option<(Vec<(Count, Count)>, bool)> {
    let len = match (a.0.len(), b.0.len()) {
        (x, y) if x == y => x,
        (1, other) | (other, 1) => other,
        _ => return None,
    };
    let at = |row: &[Count], i: usize| if row.len() == 1 { row[0] } else { row[i] };
    Some(((0..len).map(|i| (at(&a.0, i), at(&b.0, i))).collect(), a.1 && b.1))
}
