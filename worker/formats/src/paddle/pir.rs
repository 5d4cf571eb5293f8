//! Programs of Paddle 3 (PIR), which are JSON.

use super::program::{Attribute, Count, Op, Program, Var};
use crate::FormatError;
use serde_json::{Map, Value};

/// Values, by the marks that stand between them. Each costs a hundred bytes at most.
const MOST_MARKS: usize = 1 << 21;

fn foreign(found: impl Into<String>) -> FormatError {
    FormatError::Foreign { wanted: "a program of Paddle 3", found: found.into() }
}

/// Reads a program. Nesting is limited by the parser of JSON.
pub(super) fn read(bytes: &[u8]) -> Result<Program, FormatError> {
    if bytes.iter().filter(|b| matches!(b, b',' | b':' | b'[' | b'{')).count() > MOST_MARKS {
        return Err(foreign(format!("it has more than {MOST_MARKS} values")));
    }
    let json: Value = serde_json::from_slice(bytes).map_err(FormatError::damaged)?;
    if json["base_code"]["magic"] != "pir" {
        return Err(foreign("its magic is not `pir`"));
    }
    let blocks = list(&json["program"]["regions"]).flat_map(|region| list(&region["blocks"]));
    let mut blocks = blocks.peekable();
    let Some(first) = blocks.next() else { return Err(foreign("it has no block")) };
    let (mut out, mut count) = (Program::default(), Count::default());
    out.inner_blocks = blocks.count();
    let mut names = Names::default();
    for json in list(&first["ops"]) {
        add(json, &mut out, &mut names, &mut count)?;
    }
    Ok(out)
}

/// What values are called: parameters by their own names, others by their numbers.
#[derive(Default)]
struct Names(std::collections::BTreeMap<i64, String>);

impl Names {
    fn of(&self, id: i64) -> String {
        self.0.get(&id).cloned().unwrap_or_else(|| format!("%{id}"))
    }
}

/// The items of a list; none of what is no list.
fn list(json: &Value) -> impl Iterator<Item = &Value> {
    json.as_array().into_iter().flatten()
}

/// One value or a list of some, as results are written.
fn one_or_more(json: &Value) -> &[Value] {
    match json {
        Value::Array(all) => all,
        Value::Object(_) => std::slice::from_ref(json),
        _ => &[],
    }
}

fn id(json: &Value) -> Result<i64, FormatError> {
    json["%"].as_i64().ok_or_else(|| FormatError::damaged("a value of an operator has no number"))
}

/// The shape of a dense tensor's type: `[element, dims, layout, levels, offset]`.
fn shape(json: &Value) -> Option<Vec<i64>> {
    json["TT"]["D"].get(1)?.as_array()?.iter().map(Value::as_i64).collect()
}

fn add(json: &Value, out: &mut Program, names: &mut Names, count: &mut Count) -> Result<(), FormatError> {
    count.more(1)?;
    let kind = json["#"].as_str().ok_or_else(|| FormatError::damaged("an operator has no name"))?;
    let results = one_or_more(&json["O"]);
    if kind == "p" {
        // Distributed or not, persistable or not, trainable or not, and the name.
        let name = json["A"].get(3).and_then(Value::as_str);
        let (Some(name), [result]) = (name, results) else {
            return Err(FormatError::damaged("a parameter has no name, or no value"));
        };
        names.0.insert(id(result)?, name.into());
        let var = Var { shape: shape(result), persistable: true, is_parameter: true };
        out.vars.insert(name.into(), var);
        return Ok(());
    }
    // `1.conv2d`: the dialect goes by number; what is done in place has a stroke behind its name.
    let kind = kind.split_once('.').map_or(kind, |(_, kind)| kind).trim_end_matches('_');
    let mut op = Op { kind: kind.into(), attributes: attributes(&json["A"], count)?, ..Op::default() };
    for (place, operand) in list(&json["I"]).enumerate() {
        count.more(1)?;
        // An argument that is left out has the number 0.
        op.inputs.push((place.to_string(), vec![names.of(id(operand)?)]));
    }
    let stays = kind == "data" && op.text("name").is_some();
    for (place, result) in results.iter().enumerate() {
        count.more(1)?;
        if let Some(name) = op.text("name").filter(|_| stays && place == 0) {
            names.0.insert(id(result)?, name.into());
        }
        let name = names.of(id(result)?);
        out.vars.insert(name.clone(), Var { shape: shape(result), ..Var::default() });
        op.outputs.push((place.to_string(), vec![name]));
    }
    out.ops.push(op);
    Ok(())
}

fn attributes(
    json: &Value,
    count: &mut Count,
) -> Result<std::collections::BTreeMap<String, Attribute>, FormatError> {
    let mut out = std::collections::BTreeMap::new();
    for entry in list(json).filter_map(Value::as_object) {
        count.more(1)?;
        let Some(name) = entry.get("N").and_then(Value::as_str) else { continue };
        let told = entry.get("AT").and_then(Value::as_object);
        out.insert(name.to_string(), told.map_or(Attribute::Other, attribute));
    }
    Ok(out)
}

/// `{"#": "0.a_i32", "D": 2}`.
fn attribute(typed: &Map<String, Value>) -> Attribute {
    let kind = typed.get("#").and_then(Value::as_str).unwrap_or_default();
    let Some(data) = typed.get("D") else { return Attribute::Other };
    let kind = kind.split_once('.').map_or(kind, |(_, kind)| kind);
    let read = match kind {
        "a_bool" => data.as_bool().map(Attribute::Bool),
        "a_i32" | "a_i64" | "a_index" => data.as_i64().map(Attribute::Int),
        "a_f32" | "a_f64" => number(data).map(Attribute::Float),
        "a_str" | "a_dtype" => data.as_str().map(|text| Attribute::Text(text.into())),
        "a_intarray" => list(data).map(Value::as_i64).collect::<Option<_>>().map(Attribute::Ints),
        "a_array" => array(data),
        "a_scalar" => scalar(data),
        _ => None,
    };
    read.unwrap_or(Attribute::Other)
}

/// Numbers that JSON has none for are words.
fn number(data: &Value) -> Option<f64> {
    data.as_f64().or_else(|| data.as_str()?.parse().ok())
}

/// A number with its type before it.
fn scalar(data: &Value) -> Option<Attribute> {
    let last = data.as_array().and_then(|all| all.last()).unwrap_or(data);
    last.as_i64().map(Attribute::Int).or_else(|| number(last).map(Attribute::Float))
}

/// Attributes of one type.
fn array(data: &Value) -> Option<Attribute> {
    let all: Vec<Attribute> = list(data).filter_map(Value::as_object).map(attribute).collect();
    let ints: Option<Vec<i64>> =
        all.iter().map(|a| if let Attribute::Int(n) = a { Some(*n) } else { None }).collect();
    let floats = || {
        let one = |a: &Attribute| if let Attribute::Float(n) = a { Some(*n) } else { None };
        all.iter().map(one).collect::<Option<Vec<f64>>>()
    };
    let texts = || {
        let one = |a: &Attribute| if let Attribute::Text(t) = a { Some(t.clone()) } else { None };
        all.iter().map(one).collect::<Option<Vec<String>>>()
    };
    ints.map(Attribute::Ints)
        .or_else(|| floats().map(Attribute::Floats))
        .or_else(|| texts().map(Attribute::Texts))
}
