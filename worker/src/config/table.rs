//! A configuration as one flat table of keys and values, as files and checkpoints hold it.

use super::RunConfig;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value};

/// The keys and values of a configuration.
pub(super) fn table(config: &RunConfig) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        other => unreachable!("a RunConfig is a table: {other:?}"),
    }
}

/// A configuration out of a table that has every key, but those that may be none.
pub(super) fn complete<'de, D: Deserializer<'de> + Clone>(all: D) -> Result<RunConfig, D::Error> {
    Ok(RunConfig {
        run: Deserialize::deserialize(all.clone())?,
        model: Deserialize::deserialize(all.clone())?,
        data: Deserialize::deserialize(all.clone())?,
        optimizer: Deserialize::deserialize(all.clone())?,
        precision: Deserialize::deserialize(all.clone())?,
        quantization: Deserialize::deserialize(all.clone())?,
        checkpoints: Deserialize::deserialize(all.clone())?,
        machine: Deserialize::deserialize(all)?,
    })
}

/// A value that is not of its key's kind.
#[derive(Debug, PartialEq)]
pub(super) struct Unfit {
    /// The key.
    pub key: String,
    /// What is wrong with its value.
    pub why: String,
}

/// The configuration of the keys that are `given`, which are known ones; `over_defaults` reads them over the defaults.
///
/// # Errors
/// The first key whose value is not of its kind.
pub(super) fn read<V: Clone>(
    given: Vec<(String, V)>,
    over_defaults: impl Fn(Vec<(String, V)>) -> Result<RunConfig, String>,
) -> Result<RunConfig, Unfit> {
    over_defaults(given.clone()).map_err(|whole| {
        // Who reads all of them does not say which it was; alone, it fails too.
        let alone = |(key, value): (String, V)| {
            let why = over_defaults(vec![(key.clone(), value)]).err()?;
            Some(Unfit { key, why })
        };
        given.into_iter().find_map(alone).unwrap_or(Unfit { key: "the settings".into(), why: whole })
    })
}

/// A key that is missing has its default; one that there is not is an error, and so is a value that is not of its kind.
impl<'de> Deserialize<'de> for RunConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let given = Map::<String, Value>::deserialize(from)?;
        let defaults = table(&RunConfig::default());
        if let Some(key) = given.keys().find(|key| !defaults.contains_key(*key)) {
            return Err(D::Error::custom(format!("there is no setting `{key}`")));
        }
        let over_defaults = |given| {
            let mut all = defaults.clone();
            all.extend(given);
            complete(Value::Object(all)).map_err(|e| e.to_string())
        };
        read(given.into_iter().collect(), over_defaults)
            .map_err(|Unfit { key, why }| D::Error::custom(format!("`{key}`: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/config/default.json");
        std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    #[test]
    fn groups_do_not_show_in_what_is_written() {
        let written = serde_json::to_string_pretty(&RunConfig::default()).unwrap();
        assert_eq!(written.trim(), golden().trim());
    }

    #[test]
    fn what_is_written_is_read_back_and_what_is_missing_has_its_default() {
        assert_eq!(serde_json::from_str::<RunConfig>(&golden()).unwrap(), RunConfig::default());
        let some: RunConfig =
            serde_json::from_str(r#"{"lr": 1, "qat-skip": ["fc"], "warmup-epochs": 0.5}"#).unwrap();
        let want = RunConfig::default().with(|c| {
            c.optimizer.lr = 1.0;
            c.quantization.qat_skip = vec!["fc".into()];
            c.optimizer.warmup_epochs = Some(0.5);
        });
        assert_eq!(some, want);
        let text = serde_json::to_string(&want).unwrap();
        assert_eq!(serde_json::from_str::<RunConfig>(&text).unwrap(), want);
    }

    #[test]
    fn a_key_there_is_not_and_a_value_of_another_kind_are_refused_by_name() {
        let told = |text: &str| serde_json::from_str::<RunConfig>(text).unwrap_err().to_string();
        assert!(told(r#"{"lr": 0.1, "bacth-size": 2}"#).contains("there is no setting `bacth-size`"));
        let why = told(r#"{"batch-size": 2, "lr": "fast", "seed": 3}"#);
        assert!(why.contains("`lr`: invalid type: string \"fast\""), "{why}");
        assert!(told(r#"{"amp": "fp8"}"#).contains("`amp`: unknown variant `fp8`"));
        assert!(told(r#"{"batch-size": null}"#).contains("`batch-size`"));
        assert!(told("[1]").contains("invalid type"));
    }
}
