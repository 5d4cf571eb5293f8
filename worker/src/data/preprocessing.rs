//! How an image becomes a network's input in evaluation, as exported files say it: settings that this loader reads
//! back, and the facts of its arithmetic that somebody else's code needs besides.

use crate::config::DataSettings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Settings of the preprocessing, by the names of their flags.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Preprocessing {
    /// Side of the centre crop, in pixels.
    pub crop_size: usize,
    /// Short side of the whole image before the crop, in pixels.
    pub resize_short: usize,
    /// Factor on pixels of 0 to 255.
    pub normalize_scale: f32,
    /// Mean per channel (red, green, blue), subtracted after scaling.
    pub normalize_mean: [f32; 3],
    /// Standard deviation per channel, divided by in the end.
    pub normalize_std: [f32; 3],
}

/// What [`super::Geometry::eval`] does that no setting changes, by the keys of a file.
fn arithmetic() -> [(&'static str, Value); 11] {
    [
        ("color-order", json!("RGB")),
        ("pixel-type", json!("uint8")),
        ("resize-interpolation", json!("bilinear")),
        ("resize-antialias", json!(true)),
        ("resize-long", json!("round(long * resize-short / short)")),
        ("crop", json!("center")),
        ("crop-offset", json!("round((resized - crop-size) / 2)")),
        ("rounding", json!("half away from zero")),
        ("normalize", json!("(pixel * normalize-scale - normalize-mean) / normalize-std")),
        ("layout", json!("NCHW")),
        ("dtype", json!("float32")),
    ]
}

impl Preprocessing {
    /// That of a run's evaluations.
    pub fn of(data: &DataSettings) -> Self {
        Self {
            crop_size: data.crop_size,
            resize_short: data.resize_short,
            normalize_scale: data.normalize_scale,
            normalize_mean: data.normalize_mean,
            normalize_std: data.normalize_std,
        }
    }

    /// Makes a run's evaluations prepare images like this.
    pub fn set(&self, data: &mut DataSettings) {
        let Self { crop_size, resize_short, normalize_scale, normalize_mean, normalize_std } = self;
        (data.crop_size, data.resize_short) = (*crop_size, *resize_short);
        data.normalize_scale = *normalize_scale;
        (data.normalize_mean, data.normalize_std) = (*normalize_mean, *normalize_std);
    }

    /// All that is to be known to feed a network of so many input channels, as a JSON object: the settings, the loader's
    /// arithmetic, and how many of the channels are empty (zeros) behind red, green and blue.
    pub fn described(&self, channels: usize) -> Value {
        let mut all = match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            other => unreachable!("settings are a table: {other:?}"),
        };
        all.extend(arithmetic().map(|(key, value)| (key.to_string(), value)));
        all.insert("channels".into(), json!(channels));
        all.insert("empty-channels".into(), json!(channels.saturating_sub(3)));
        Value::Object(all)
    }

    /// The settings of a description.
    ///
    /// # Errors
    /// When it is none, or asks for something that this loader does otherwise.
    pub fn read(text: &str) -> Result<Self, String> {
        Self::of_description(serde_json::from_str(text).map_err(|e| e.to_string())?)
    }

    /// [`Self::read`] of a description that was parsed already.
    pub fn of_description(all: Map<String, Value>) -> Result<Self, String> {
        // Files of the first release do not say these; they were prepared like this, too.
        for (key, ours) in arithmetic() {
            if let Some(other) = all.get(key).filter(|told| **told != ours) {
                return Err(format!("it wants {key} {other}; images are prepared with {ours} here"));
            }
        }
        serde_json::from_value(Value::Object(all)).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_described_is_read_back_and_what_cannot_be_done_is_refused() {
        let settings = Preprocessing::of(&DataSettings { crop_size: 96, ..DataSettings::default() });
        let told = settings.described(4);
        assert_eq!((&told["empty-channels"], &told["color-order"]), (&json!(1), &json!("RGB")));
        assert_eq!(Preprocessing::read(&told.to_string()), Ok(settings.clone()));
        let first_release = serde_json::to_string(&settings).unwrap();
        assert_eq!(Preprocessing::read(&first_release), Ok(settings.clone()));
        let mut other = told.clone();
        other["resize-interpolation"] = json!("bicubic");
        let why = Preprocessing::read(&other.to_string()).unwrap_err();
        assert!(why.contains("resize-interpolation") && why.contains("bicubic"), "{why}");
        assert!(Preprocessing::read("{}").unwrap_err().contains("crop-size"));
    }
}
