//! Manifests as they are written, and as other versions wrote them.
//!
//! The format's number grows only when a reader that does not know the new one would read it wrongly. Keys may be added
//! without that: a reader that does not know a key leaves it out and names it; a key that a writer did not know yet has
//! the value that [`BEFORE`] says, or else that of a new run, which every key added since must agree with. The first release wrote
//! neither preprocessing nor strategy: they are those of its settings ([`complete`]), and its network is built by name
//! (`network.rs`).

use super::CheckpointError;
use super::consistent::contradiction;
use super::manifest::{FORMAT, Manifest};
use crate::config::RunConfig;
use crate::data::Preprocessing;
use crate::graph::NetworkFacts;
use crate::passes::Passes;
use crate::strategy::{Purpose, Strategy};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;

/// A key of the configuration that was added after the first format and whose value for a new run is not what runs did before
/// there was the key.
struct Before {
    key: &'static str,
    /// What it is in a checkpoint that does not say.
    value: bool,
    /// The same key in the recipe of the strategy (`strategy.qat`). It is then a key of the recipe, and a run without one says
    /// nothing about it.
    recipe: &'static str,
}

/// All of them. Unsigned codes ended at 127 for every target before there were those up to 255.
const BEFORE: &[Before] = &[Before { key: "qat-reduce-range", value: true, recipe: "reduce-range" }];

/// A manifest as it stands in its file.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    manifest: &'a Manifest,
    preprocessing: Value,
}

impl<'a> Written<'a> {
    fn of(manifest: &'a Manifest) -> Self {
        Self { manifest, preprocessing: manifest.preprocessing.described(manifest.image_shape[0]) }
    }
}

/// The text of a manifest. One that contradicts itself is refused, as it would be by whoever reads it.
pub(super) fn write(path: &Path, manifest: &Manifest) -> Result<Vec<u8>, CheckpointError> {
    if let Some(why) = contradiction(manifest) {
        return Err(CheckpointError::Contradiction { path: path.into(), why });
    }
    serde_json::to_vec_pretty(&Written::of(manifest)).map_err(|e| CheckpointError::damaged(path, e))
}

/// Parses a manifest of any format up to this version's.
pub(super) fn read(path: &Path, text: &[u8]) -> Result<Manifest, CheckpointError> {
    let mut value: Value = serde_json::from_slice(text).map_err(|e| CheckpointError::damaged(path, e))?;
    let format = value.get("format").and_then(Value::as_u64);
    let (Some(found), Some(all)) = (format, value.as_object_mut()) else {
        let why = "its manifest.json is that of something else (it has no `format`); give a folder that `octrain train` has written".into();
        let path = path.parent().unwrap_or(path).into();
        return Err(CheckpointError::Foreign { path, wanted: "a checkpoint", why });
    };
    if found > u64::from(FORMAT) {
        return Err(CheckpointError::Format { path: path.into(), found, known: FORMAT });
    }
    let writer = all.get("octrain-version").and_then(Value::as_str).unwrap_or("unknown").to_string();
    let setting = |why: String| CheckpointError::Setting { path: path.into(), why, writer: writer.clone() };
    without_idle_parts(all);
    with_recipe_of_before(all);
    let Settings { config, unread, mut unknown } = settings(all.remove("config").unwrap_or_default());
    if let Err(missing) = complete(all, config.as_ref()) {
        return Err(match unread {
            Some(why) => setting(why),
            None => CheckpointError::damaged(path, format!("it has neither `{missing}` nor `config`")),
        });
    }
    // A value this version does not know, of a key it does.
    serde_json::from_value::<Strategy>(all["strategy"].clone())
        .map_err(|e| setting(format!("strategy: {e}")))?;
    let description = all["preprocessing"].as_object().cloned().unwrap_or_default();
    Preprocessing::of_description(description).map_err(|e| setting(format!("preprocessing: {e}")))?;
    let mut manifest: Manifest =
        serde_json::from_value(value.clone()).map_err(|e| CheckpointError::damaged(path, e))?;
    let known =
        serde_json::to_value(Written::of(&manifest)).map_err(|e| CheckpointError::damaged(path, e))?;
    unknown.extend(unheard(&value, &known));
    (manifest.config, manifest.unread, manifest.unknown) = (config, unread, unknown);
    match contradiction(&manifest) {
        Some(why) => Err(CheckpointError::Contradiction { path: path.into(), why }),
        None => Ok(manifest),
    }
}

/// The settings of a run, as far as this version can read them.
struct Settings {
    config: Option<RunConfig>,
    /// Why they cannot be read.
    unread: Option<String>,
    /// Keys of them that were left out.
    unknown: Vec<String>,
}

fn settings(mut value: Value) -> Settings {
    if value.is_null() {
        return Settings { config: None, unread: None, unknown: Vec::new() };
    }
    let unknown = value.as_object_mut().map(open_config).unwrap_or_default();
    match serde_json::from_value(value) {
        Ok(config) => Settings { config: Some(config), unread: None, unknown },
        Err(e) => Settings { config: None, unread: Some(e.to_string()), unknown },
    }
}

/// Gives a manifest what the first release did not write: preprocessing and strategy, which followed from the settings, and
/// the passes, which follow from the strategy. The error is the key that is missing where there are no settings either.
fn complete(all: &mut Map<String, Value>, config: Option<&RunConfig>) -> Result<(), &'static str> {
    let to =
        |value: serde_json::Result<Value>| value.unwrap_or_else(|e| unreachable!("it is plain data: {e}"));
    if !all.contains_key("strategy") {
        let config = config.ok_or("strategy")?;
        all.insert("strategy".into(), to(serde_json::to_value(config.strategy())));
    }
    if !all.contains_key("preprocessing") {
        let config = config.ok_or("preprocessing")?;
        all.insert("preprocessing".into(), to(serde_json::to_value(Preprocessing::of(&config.data))));
    }
    if !all.contains_key("passes") {
        let strategy: Strategy = serde_json::from_value(all["strategy"].clone()).unwrap_or_default();
        let names = Passes::default().names(&strategy, &NetworkFacts::default(), Purpose::Train);
        all.insert("passes".into(), names.into());
    }
    Ok(())
}

/// Takes from a recipe that learns its ranges what had no effect beside that, and was written before it was refused.
fn without_idle_parts(all: &mut Map<String, Value>) {
    let on = |group: &Value, key: &str| group.get(key).and_then(Value::as_bool) == Some(true);
    let names = ["unclipped-straight-through", "pass-through"];
    let groups = [
        ("/strategy/qat", "learn-scales", &names[..]),
        ("/config", "qat-learn-scales", &["qat-pass-through"]),
    ];
    let mut whole = Value::Object(std::mem::take(all));
    for (at, learns, idle) in groups {
        let Some(group) = whole.pointer_mut(at).filter(|group| on(group, learns)) else { continue };
        for key in idle {
            if let Some(value) = group.get_mut(*key) {
                *value = false.into();
            }
        }
    }
    if let Value::Object(whole) = whole {
        *all = whole;
    }
}

/// Gives a recipe what [`BEFORE`] says where it does not.
fn with_recipe_of_before(all: &mut Map<String, Value>) {
    let recipe = all.get_mut("strategy").and_then(|s| s.get_mut("qat")).and_then(Value::as_object_mut);
    if let Some(recipe) = recipe {
        for before in BEFORE {
            recipe.entry(before.recipe).or_insert_with(|| before.value.into());
        }
    }
}

/// Keys of `value` that `known` does not have, at any depth, as `run.host`.
fn unheard(value: &Value, known: &Value) -> Vec<String> {
    let (Value::Object(value), Value::Object(known)) = (value, known) else { return Vec::new() };
    let mut out = Vec::new();
    for (key, value) in value {
        match known.get(key) {
            None => out.push(key.clone()),
            Some(known) => out.extend(unheard(value, known).into_iter().map(|k| format!("{key}.{k}"))),
        }
    }
    out
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
    if config.get("qat").and_then(Value::as_bool) == Some(true) {
        for before in BEFORE {
            config.entry(before.key).or_insert_with(|| before.value.into());
        }
    }
    unknown.into_iter().map(|k| format!("config.{k}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{quantized, snapshot};
    use super::*;
    use crate::quant::scheme::Sign;
    use crate::strategy::Qat;
    use serde_json::json;

    fn text(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        changed(&snapshot(1, 0).manifest, change)
    }

    fn changed(manifest: &Manifest, change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut value = serde_json::from_slice(&write(Path::new("m"), manifest).unwrap()).unwrap();
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
                v["strategy"]["sparsity"] = 0.5.into();
            }),
        );
        let manifest = read.unwrap();
        assert_eq!(manifest.unknown, ["config.sharpness-aware", "energy", "strategy.sparsity"]);
        assert_eq!(manifest.config, snapshot(1, 0).manifest.config);
    }

    #[test]
    fn keys_an_older_writer_did_not_know_have_their_default() {
        let read = read(
            Path::new("m"),
            &text(|v| {
                v["config"].as_object_mut().unwrap().remove("overwrite");
                let all = v.as_object_mut().unwrap();
                ["run", "started-from", "strategy", "preprocessing", "passes"]
                    .iter()
                    .for_each(|key| drop(all.remove(*key)));
                v["format"] = 1.into();
            }),
        );
        let manifest = read.unwrap();
        assert!(manifest.unknown.is_empty() && manifest.run.is_none());
        let config = manifest.config.as_ref().unwrap();
        assert!(!config.checkpoints.overwrite);
        assert_eq!(manifest.strategy, config.strategy());
        assert_eq!(manifest.preprocessing, Preprocessing::of(&config.data));
        assert_eq!(manifest.passes, snapshot(1, 0).manifest.passes);
    }

    #[test]
    fn a_recipe_of_before_unsigned_codes_of_eight_bits_keeps_those_of_seven() {
        let before = |v: &mut Value| {
            v["config"].as_object_mut().unwrap().remove("qat-reduce-range");
            v["strategy"]["qat"].as_object_mut().unwrap().remove("reduce-range");
        };
        let now = quantized().manifest;
        assert_eq!(now.strategy.qat.as_ref().map(|qat| qat.reduce_range), Some(false));
        let manifest = read(Path::new("m"), &changed(&now, before)).unwrap();
        assert!(manifest.unknown.is_empty());
        let recipe = manifest.strategy.qat.clone().unwrap();
        assert_eq!(recipe, Qat { reduce_range: true, ..now.strategy.qat.clone().unwrap() });
        assert_eq!(recipe.activation(Sign::Unsigned).qmax(), 127);
        assert_eq!(manifest.config.unwrap().strategy(), manifest.strategy);
        // The first release had nothing but settings.
        let first = |v: &mut Value| {
            before(v);
            v.as_object_mut().unwrap().remove("strategy");
        };
        assert_eq!(read(Path::new("m"), &changed(&now, first)).unwrap().strategy.qat, Some(recipe));
        // A training in floating point has no recipe: one that starts from it has that of new runs.
        let plain = |v: &mut Value| drop(v["config"].as_object_mut().unwrap().remove("qat-reduce-range"));
        let manifest = read(Path::new("m"), &text(plain)).unwrap();
        assert!(!manifest.config.unwrap().quantization.qat_reduce_range);
        // What is written is read as it is.
        assert_eq!(read(Path::new("m"), &changed(&now, |_| ())).unwrap().strategy, now.strategy);
    }

    #[test]
    fn a_recipe_with_a_part_that_had_no_effect_is_read_without_it() {
        let bytes = changed(&quantized().manifest, |v| {
            v["config"]["qat-learn-scales"] = true.into();
            v["config"]["qat-pass-through"] = true.into();
            v["strategy"]["qat"]["learn-scales"] = true.into();
            v["strategy"]["qat"]["unclipped-straight-through"] = true.into();
        });
        let manifest = read(Path::new("m"), &bytes).unwrap();
        let recipe = manifest.strategy.qat.clone().unwrap();
        assert!(recipe.learn_scales && !recipe.unclipped_straight_through);
        assert_eq!(manifest.config.unwrap().strategy(), manifest.strategy);
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
    fn settings_that_cannot_be_read_matter_to_who_goes_on_with_the_run_alone() {
        let folder = Path::new("run/3");
        let strange = |v: &mut Value| v["config"]["seed"] = "yesterday's".into();
        let manifest = read(Path::new("m"), &text(strange)).unwrap();
        let e = manifest.settings(folder).unwrap_err();
        assert!(matches!(e, CheckpointError::Setting { .. }) && e.is_configuration(), "{e}");
        assert!(
            e.to_string().contains("yesterday's") && e.to_string().contains("run/3/manifest.json"),
            "{e}"
        );
        let manifest = read(Path::new("m"), &text(|v| v["config"] = Value::Null)).unwrap();
        let e = manifest.settings(folder).unwrap_err();
        assert!(e.to_string().contains("weights alone"), "{e}");
        // The first release had nothing else.
        let first = |v: &mut Value| {
            v.as_object_mut().unwrap().remove("strategy");
            strange(v);
        };
        let e = read(Path::new("m"), &text(first)).unwrap_err();
        assert!(matches!(e, CheckpointError::Setting { .. }), "{e}");
        let bare = |v: &mut Value| {
            let all = v.as_object_mut().unwrap();
            drop((all.remove("strategy"), all.remove("config")));
        };
        let e = read(Path::new("m"), &text(bare)).unwrap_err();
        assert!(matches!(e, CheckpointError::Damaged { .. }) && e.to_string().contains("`strategy`"), "{e}");
    }

    #[test]
    fn a_value_this_version_does_not_know_is_not_damage() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 3] = [
            (|v| v["strategy"]["amp"] = "fp8".into(), "fp8"),
            (|v| v["preprocessing"]["resize-interpolation"] = "bicubic".into(), "bicubic"),
            (|v| v["preprocessing"] = json!("as usual"), "crop-size"),
        ];
        for (change, named) in cases {
            let e = read(Path::new("m"), &text(change)).unwrap_err();
            assert!(matches!(e, CheckpointError::Setting { .. }), "{e}");
            assert!(e.to_string().contains(named) && !e.to_string().contains("damaged"), "{e}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_what_does() {
        let (plain, quantized) = (snapshot(1, 0).manifest, quantized().manifest);
        read(Path::new("m"), &changed(&quantized, |_| ())).unwrap();
        type Change = fn(&mut Value);
        let cases: [(&Manifest, Change, &str); 9] = [
            (&quantized, |v| v["qat"] = Value::Null, "no state of it (`qat`)"),
            (&quantized, |v| v["strategy"]["qat"] = Value::Null, "no recipe that led to it (`strategy.qat`)"),
            (&quantized, |v| v["qat"]["target"] = "tensorrt".into(), "`qat.target` is tensorrt"),
            (&quantized, |v| v["strategy"]["qat"]["weight-bits"] = 4.into(), "weight-bits is 4"),
            (&quantized, |v| v["passes"] = json!(["drop-dead"]), "`quantize-weights`, which follows from it"),
            (&plain, |v| v["passes"] = json!(["drop-dead", "quantize-weights"]), "qat is not set"),
            (&plain, |v| v["strategy"]["amp"] = "bf16".into(), "`strategy` and `config`"),
            (&plain, |v| v["preprocessing"]["crop-size"] = 9.into(), "`preprocessing` and `config`"),
            (&plain, |v| v["image-shape"] = json!([3, 9, 9]), "`image-shape` and `config`"),
        ];
        for (manifest, change, want) in cases {
            let e = read(Path::new("a/manifest.json"), &changed(manifest, change)).unwrap_err();
            assert!(matches!(e, CheckpointError::Contradiction { .. }) && e.is_configuration(), "{e}");
            assert!(
                e.to_string().contains(want) && e.to_string().contains("a/manifest.json"),
                "{want} in {e}"
            );
        }
        let broken = Manifest { qat: None, ..quantized };
        assert!(matches!(write(Path::new("m"), &broken), Err(CheckpointError::Contradiction { .. })));
    }
}
