//! Manifests as other versions wrote them.
//!
//! The format's number grows only when a reader that does not know the new one would read it wrongly. Keys may be added
//! without that: a reader that does not know a key leaves it out and names it; a key that a writer did not know yet has
//! the value in [`BEFORE`], or else that of a new run, which every key added since must agree with.

use super::CheckpointError;
use super::manifest::{FORMAT, Manifest};
use crate::config::RunConfig;
use serde_json::{Map, Value};
use std::path::Path;

/// Keys of the configuration that were added after the first format and whose value for a new run is not what runs did
/// before there was the key: what it is in a checkpoint that does not say.
const BEFORE: &[(&str, &str)] = &[];

/// Parses a manifest of any format up to this version's.
pub(super) fn read(path: &Path, text: &[u8]) -> Result<Manifest, CheckpointError> {
    let mut value: Value = serde_json::from_slice(text).map_err(|e| CheckpointError::damaged(path, e))?;
    if !value.get("format").is_some_and(Value::is_u64) {
        let why = "its manifest.json is that of something else (it has no `format`); give a folder that `octrain train` has written".into();
        let path = path.parent().unwrap_or(path).into();
        return Err(CheckpointError::Foreign { path, wanted: "a checkpoint", why });
    }
    let found = value.get("format").and_then(Value::as_u64).unwrap_or(0) as u32;
    if found > FORMAT {
        return Err(CheckpointError::Format { path: path.into(), found, known: FORMAT });
    }
    let mut unknown = Vec::new();
    if let Some(config) = value.get_mut("config").and_then(Value::as_object_mut) {
        unknown = open_config(config);
    }
    let writer = value.get("octrain-version").and_then(Value::as_str).unwrap_or("unknown").to_string();
    // A value this version does not know, of a key it does.
    if let Some(config) = value.get("config") {
        serde_json::from_value::<RunConfig>(config.clone()).map_err(|e| CheckpointError::Setting {
            path: path.into(),
            why: e.to_string(),
            writer,
        })?;
    }
    let mut manifest: Manifest =
        serde_json::from_value(value.clone()).map_err(|e| CheckpointError::damaged(path, e))?;
    let known = serde_json::to_value(&manifest).map_err(|e| CheckpointError::damaged(path, e))?;
    let known = known.as_object();
    let keys = value.as_object().into_iter().flat_map(Map::keys);
    unknown.extend(keys.filter(|k| known.is_some_and(|m| !m.contains_key(*k))).cloned());
    manifest.unknown = unknown;
    Ok(manifest)
}

/// Removes the keys this version does not know, and returns them; adds what [`BEFORE`] says.
fn open_config(config: &mut Map<String, Value>) -> Vec<String> {
    let Ok(Value::Object(known)) = serde_json::to_value(RunConfig::default()) else {
        unreachable!("a RunConfig is a table");
    };
    let unknown: Vec<String> = config.keys().filter(|k| !known.contains_key(*k)).cloned().collect();
    for key in &unknown {
        config.remove(key);
    }
    for (key, value) in BEFORE {
        if !config.contains_key(*key) {
            let value =
                serde_json::from_str(value).unwrap_or_else(|e| unreachable!("BEFORE holds JSON: {e}"));
            config.insert((*key).into(), value);
        }
    }
    unknown.into_iter().map(|k| format!("config.{k}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::store::testing::snapshot;
    use super::*;

    fn text(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut value = serde_json::to_value(snapshot(1, 0).manifest).unwrap();
        change(&mut value);
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn keys_of_a_newer_writer_are_named_and_left_out() {
        let read = read(
            Path::new("m"),
            &text(|v| {
                v["config"]["sharpness-aware"] = true.into();
                v["energy"] = 12.into();
            }),
        );
        let manifest = read.unwrap();
        assert_eq!(manifest.unknown, ["config.sharpness-aware", "energy"]);
        assert_eq!(manifest.config, RunConfig::default());
    }

    #[test]
    fn keys_an_older_writer_did_not_know_have_their_default() {
        let read = read(
            Path::new("m"),
            &text(|v| {
                v["config"].as_object_mut().unwrap().remove("overwrite");
                v.as_object_mut().unwrap().remove("run");
                v["format"] = 1.into();
            }),
        );
        let manifest = read.unwrap();
        assert!(
            manifest.unknown.is_empty() && manifest.run.is_none() && !manifest.config.checkpoints.overwrite
        );
    }

    #[test]
    fn json_of_something_else_is_no_damaged_checkpoint() {
        for other in ["{}", "[1]", r#"{"name": "app", "format": "web"}"#] {
            let e = read(Path::new("site/manifest.json"), other.as_bytes()).unwrap_err();
            assert!(matches!(e, CheckpointError::Foreign { .. }) && e.is_configuration(), "{e}");
            assert!(e.to_string().starts_with("`site` is not a checkpoint"), "{e}");
        }
        assert!(matches!(read(Path::new("m"), b"{\"form").unwrap_err(), CheckpointError::Damaged { .. }));
    }

    #[test]
    fn a_value_this_version_does_not_know_is_not_damage() {
        let e = read(Path::new("m"), &text(|v| v["config"]["amp"] = "fp8".into())).unwrap_err();
        assert!(matches!(e, CheckpointError::Setting { .. }), "{e}");
        assert!(e.to_string().contains("fp8") && !e.to_string().contains("damaged"), "{e}");
        for key in BEFORE {
            serde_json::from_str::<Value>(key.1).unwrap();
        }
    }
}
