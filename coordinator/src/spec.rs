//! The job's specification: the same from every worker, compared key by key.

use crate::hex::hex;
use crate::text::line;
use octrain_core::strategy::Purpose;
use octrain_proto::v1::{JobSpec, ModelFacts};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// Differing keys that are named.
const MAX_DIFFERENCES: usize = 12;
/// Longest key or value shown, in bytes.
const MAX_SHOWN: usize = 80;

/// Makes the specification of a configuration (a JSON object with the flags as keys).
pub fn spec(config: &Value, purpose: Purpose, model: ModelFacts, train_images: u64) -> JobSpec {
    let config_json = canonical(config);
    JobSpec {
        config_sha256: hex(&Sha256::digest(config_json.as_bytes())),
        config_json,
        purpose: purpose as i32,
        model: Some(model),
        train_images,
        kept_global_batch: 0,
    }
}

/// Canonical JSON: keys sorted at every level, no blanks.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let fields: Vec<String> =
                keys.iter().map(|k| format!("{}:{}", Value::from(k.as_str()), canonical(&map[*k]))).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        plain => plain.to_string(),
    }
}

/// A specification nobody can work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not JSON.
    #[error("its configuration is not JSON ({0})")]
    Json(String),
    /// Not an object.
    #[error("its configuration is not a JSON object")]
    NotAnObject,
    /// The hash does not belong to the configuration.
    #[error("its configuration does not have the hash it claims")]
    Hash,
    /// No model.
    #[error("it says nothing on its model")]
    NoModel,
}

/// Checks that a specification is what [`spec`] makes.
pub fn check(spec: &JobSpec) -> Result<(), SpecError> {
    let value: Value = serde_json::from_str(&spec.config_json).map_err(|e| SpecError::Json(e.to_string()))?;
    if !value.is_object() {
        return Err(SpecError::NotAnObject);
    }
    if spec.config_sha256 != hex(&Sha256::digest(spec.config_json.as_bytes())) {
        return Err(SpecError::Hash);
    }
    if spec.model.is_none() {
        return Err(SpecError::NoModel);
    }
    Ok(())
}

/// In what two specifications differ: `key: this one, the other one`. Empty when they agree. What each worker sees to go
/// on with may differ.
pub fn differences(mine: &JobSpec, other: &JobSpec) -> Vec<String> {
    let mut out = Vec::new();
    if mine.config_sha256 != other.config_sha256 {
        let parse = |s: &JobSpec| serde_json::from_str(&s.config_json).unwrap_or(Value::Null);
        let (a, b): (Value, Value) = (parse(mine), parse(other));
        let keys: BTreeSet<String> =
            [&a, &b].iter().filter_map(|v| v.as_object()).flat_map(|m| m.keys().cloned()).collect();
        let show = |v: Option<&Value>| v.map_or("absent".to_string(), |v| line(&v.to_string(), MAX_SHOWN));
        let mut differing = keys.iter().filter(|key| a.get(*key) != b.get(*key));
        for key in differing.by_ref().take(MAX_DIFFERENCES) {
            let name = line(key, MAX_SHOWN);
            out.push(format!("{name}: {} against {}", show(a.get(key)), show(b.get(key))));
        }
        match differing.count() {
            0 => {}
            more => out.push(format!("and {more} more")),
        }
    }
    if mine.purpose != other.purpose {
        out.push(format!("purpose: {:?} against {:?}", mine.purpose(), other.purpose()));
    }
    if mine.model != other.model {
        out.push(format!("model: {:?} against {:?}", mine.model, other.model));
    }
    if mine.train_images != other.train_images {
        out.push(format!("training images: {} against {}", mine.train_images, other.train_images));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(config: Value) -> JobSpec {
        spec(&config, Purpose::Train, ModelFacts::default(), 10)
    }

    #[test]
    fn the_order_of_keys_does_not_matter_and_values_do() {
        let a = of(json!({"lr": 0.1, "b": [1, {"y": 1, "x": 2}]}));
        let b = of(json!({"b": [1, {"x": 2, "y": 1}], "lr": 0.1}));
        assert_eq!(a, b);
        assert_eq!(check(&a), Ok(()));
        let c = of(json!({"b": [1], "lr": 0.2, "qat": true}));
        let got = differences(&c, &a);
        assert_eq!(
            got,
            ["b: [1] against [1,{\"x\":2,\"y\":1}]", "lr: 0.2 against 0.1", "qat: true against absent"]
        );
        let more = JobSpec { train_images: 11, purpose: Purpose::Eval as i32, ..a.clone() };
        assert_eq!(differences(&more, &a), ["purpose: Eval against Train", "training images: 11 against 10"]);
        assert!(differences(&a, &a).is_empty());
        let sees = JobSpec { kept_global_batch: 64, ..a.clone() };
        assert!(differences(&sees, &a).is_empty(), "a checkpoint may appear between two registrations");
    }

    #[test]
    fn damaged_specifications_are_refused() {
        let good = of(json!({"lr": 0.1}));
        let cases = [
            (JobSpec { config_json: "{".into(), ..good.clone() }, "Json"),
            (of(json!([1])), "NotAnObject"),
            (JobSpec { config_json: "{\"lr\":0.2}".into(), ..good.clone() }, "Hash"),
            (JobSpec { model: None, ..good.clone() }, "NoModel"),
        ];
        for (case, want) in cases {
            let got = format!("{:?}", check(&case).unwrap_err());
            assert!(got.starts_with(want), "{got}");
        }
    }
}
