//! Kubernetes manifests held against the API's types, strictly: what a type does not know is an error.

use crate::skipped;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The token of overlays that are [rendered].
pub const TOKEN: &str = "the-token-of-a-rendered-run";

/// The documents that `kubectl kustomize` makes of a folder, or none where there is no kubectl: said aloud, as a skip
/// must be.
///
/// # Panics
/// When the folder does not render.
pub fn rendered(folder: &Path) -> Option<Vec<Value>> {
    let Some(overlays) = folder.parent().filter(|p| p.ends_with("overlays")) else { return render(folder) };
    // A run has a token beside it, which is in no repository: one is put into a copy.
    let copy = tempfile::tempdir().expect("a temporary folder");
    let all = overlays.parent().expect("the manifests");
    let copied = Command::new("cp").arg("-r").arg(all).arg(copy.path().join("all")).status();
    assert!(copied.expect("cp runs").success(), "cannot copy {}", all.display());
    let folder = copy.path().join("all/overlays").join(folder.file_name().expect("a name"));
    std::fs::write(folder.join("token"), TOKEN).expect("the copy can be written");
    render(&folder)
}

fn render(folder: &Path) -> Option<Vec<Value>> {
    match Command::new("kubectl").arg("kustomize").arg(folder).output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            skipped(&format!("kubectl is not on the PATH, so {} was not rendered", folder.display()));
            None
        }
        Err(e) => panic!("kubectl: {e}"),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {why}", folder.display());
            Some(documents(&String::from_utf8_lossy(&output.stdout)).expect("kubectl writes YAML"))
        }
    }
}

/// The documents of a YAML stream.
///
/// # Errors
/// The parser's message.
pub fn documents(yaml: &str) -> Result<Vec<Value>, String> {
    use serde::Deserialize;
    serde_yaml::Deserializer::from_str(yaml)
        .map(|document| Value::deserialize(document).map_err(|e| e.to_string()))
        .filter(|value| !matches!(value, Ok(Value::Null)))
        .collect()
}

/// Where `given` says something that `understood`, the same object after a round trip through its API type, does
/// not: a misspelt or misplaced field, or a value that was read as another. Paths look like `spec.template`.
///
/// Quantities and ports may be written as a number or a string, so those two forms are equal here.
pub fn lost(given: &Value, understood: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", given, understood, &mut found);
    found
}

/// Where `understood` has a field that `given` lacks: one that the API's type requires. A template's empty metadata
/// is none.
pub fn required(given: &Value, understood: &Value) -> Vec<String> {
    let mut found = Vec::new();
    complete("", given, understood, &mut found);
    found
}

fn complete(at: &str, given: &Value, understood: &Value, found: &mut Vec<String>) {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            for (key, value) in understood {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                match given.get(key) {
                    Some(other) => complete(&at, other, value, found),
                    None if is_empty(value) && key == "metadata" => {}
                    None => found.push(format!("{at}: required and not given")),
                }
            }
        }
        (Value::Array(given), Value::Array(understood)) => {
            for (index, (value, other)) in given.iter().zip(understood).enumerate() {
                complete(&format!("{at}[{index}]"), value, other, found);
            }
        }
        _ => {}
    }
}

fn compare(at: &str, given: &Value, understood: &Value, found: &mut Vec<String>) {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            for (key, value) in given {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                match understood.get(key) {
                    Some(other) => compare(&at, value, other, found),
                    // An empty map or list is dropped by the round trip and means the same.
                    None if is_empty(value) => {}
                    None => found.push(format!("{at}: the API's type has no such field")),
                }
            }
        }
        (Value::Array(given), Value::Array(understood)) if given.len() == understood.len() => {
            for (index, (value, other)) in given.iter().zip(understood).enumerate() {
                compare(&format!("{at}[{index}]"), value, other, found);
            }
        }
        _ if given == understood || scalar(given).is_some_and(|g| Some(g) == scalar(understood)) => {}
        _ => found.push(format!("{at}: {given} was understood as {understood}")),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(|o| o.is_empty())
        || value.as_array().is_some_and(|a| a.is_empty())
        || value.is_null()
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Number(n) => Some(n.to_string()),
        Value::String(s) => Some(s.clone()),
        _ => None,
    }
}
