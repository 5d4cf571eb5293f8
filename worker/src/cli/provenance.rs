//! Whether a file was exported from a checkpoint, by what both say of themselves.

use crate::checkpoint::{self, Manifest, Origin};
use crate::engine::ModelInfo;
use crate::export::Profile;
use std::path::Path;

/// Settings of a recipe that a file follows from besides its weights, ranges and target.
const IN_FILES: [&str; 3] = ["skip", "weight-bits", "reduce-range"];

/// The flag that sets a setting of the recipe of quantization, by its key there.
fn flag(key: &str) -> String {
    match key {
        "qat" | "target" => format!("--{key}"),
        "unclipped-straight-through" => "--qat-pass-through".into(),
        "distillation" => "--qat-distill".into(),
        _ => format!("--qat-{key}"),
    }
}

/// In what a file differs from those that are exported from a checkpoint; nothing where it can be one.
pub fn differing(info: &ModelInfo, profile: Profile, folder: &Path, manifest: &Manifest) -> Vec<String> {
    let mut all = Vec::new();
    let shape = |[c, h, w]: [usize; 3]| format!("{c},{h},{w}");
    if info.image_shape != manifest.image_shape {
        let (theirs, ours) = (shape(info.image_shape), shape(manifest.image_shape));
        all.push(format!("it is for images {theirs}, and the checkpoint for {ours}"));
    }
    let (theirs, ours) = (info.class_names.as_ref(), &manifest.class_names);
    if theirs != Some(ours) || info.classes != ours.len() {
        let first = theirs.and_then(|theirs| theirs.iter().zip(ours).find(|(a, b)| a != b));
        all.push(match (theirs, first) {
            (None, _) => "it names no classes".into(),
            (_, Some((theirs, ours))) => {
                format!("a class is `{theirs}` in it and `{ours}` in the checkpoint")
            }
            (_, None) => format!("it has {} classes, and the checkpoint {}", info.classes, ours.len()),
        });
    }
    let ours = Origin::of(folder, manifest);
    let other = info.origin.as_ref().filter(|theirs| theirs.same_weights(&ours) == Some(false));
    if let Some(theirs) = other {
        all.push(format!("it comes from checkpoint {} ({theirs}), and this one is {ours}", theirs.name));
    }
    // Of the same weights and ranges, schedules and observers make the same file.
    let matters = |key: &str| match other {
        Some(_) => true,
        None => profile.target().is_some() && (key == "qat" || IN_FILES.contains(&key)),
    };
    let recipe = info.strategy.as_ref().map(|theirs| checkpoint::recipe(theirs, &manifest.strategy));
    for (key, theirs, ours) in recipe.into_iter().flatten().filter(|(key, ..)| matters(key)) {
        all.push(format!("{} is {theirs} in it and {ours} in the checkpoint", flag(&key)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DataSettings;
    use crate::data::Preprocessing;
    use crate::models;
    use crate::strategy::{Amp, Layout, Qat, Strategy, Target};
    use clap::CommandFactory;
    use serde_json::{Value, json};

    #[test]
    fn every_setting_of_a_recipe_is_told_by_its_flag() {
        let command = super::super::Cli::command();
        let train = command.find_subcommand("train").unwrap();
        let known: Vec<&str> = train.get_arguments().filter_map(clap::Arg::get_long).collect();
        let Value::Object(recipe) = serde_json::to_value(Qat::default()).unwrap() else { panic!() };
        for key in recipe.keys().map(String::as_str).chain(["qat"]) {
            assert!(known.contains(&flag(key).trim_start_matches("--")), "{key}: there is no {}", flag(key));
        }
        assert!(IN_FILES.iter().all(|key| recipe.contains_key(*key)));
    }

    #[test]
    fn what_of_a_recipe_is_another_is_named_whole_and_what_a_file_does_not_say_is_not_held_against_it() {
        let ours = Strategy { qat: Some(Qat { weight_bits: 7, ..Qat::default() }), ..Strategy::default() };
        let mut theirs = serde_json::to_value(&ours).unwrap();
        let told = |theirs: &Value| {
            let all = checkpoint::recipe(theirs, &ours).into_iter();
            all.map(|(key, theirs, ours)| format!("{key}: {theirs}, {ours}")).collect::<Vec<_>>()
        };
        assert_eq!(told(&theirs), [""; 0]);
        theirs["amp"] = json!("bf16");
        theirs["qat"]["weight-bits"] = json!(8);
        theirs["qat"]["skip"] = json!(["fc"]);
        theirs["qat"]["percentile"] = json!(99.99f64.next_up());
        theirs["qat"]["of-a-newer-version"] = json!(1);
        theirs["qat"].as_object_mut().unwrap().remove("reduce-range");
        assert_eq!(told(&theirs), [r#"skip: ["fc"], []"#, "weight-bits: 8, 7"]);
        theirs["qat"] = Value::Null;
        assert_eq!(told(&theirs), ["qat: false, true"]);
    }

    #[test]
    fn a_file_of_the_same_weights_and_another_recipe_is_none_of_the_checkpoint_where_that_changes_its_codes()
    {
        let graph = models::build("ResNet20", [3, 32, 32], 2).unwrap();
        let strategy = |qat: Qat| Strategy { amp: Amp::Off, layout: Layout::Nchw, qat: Some(qat) };
        let classes = ["cat", "dog"].map(String::from).to_vec();
        let preprocessing = Preprocessing::of(&DataSettings::default());
        let manifest = Manifest::new(&graph, classes.clone(), preprocessing, strategy(Qat::default()));
        let file = |qat: Qat| ModelInfo {
            input: "input".into(),
            output: "logits".into(),
            image_shape: [3, 32, 32],
            batch: None,
            classes: 2,
            normalised: false,
            class_names: Some(classes.clone()),
            profile: Some("openvino".into()),
            origin: None,
            strategy: Some(serde_json::to_value(strategy(qat)).unwrap()),
            preprocessing: None,
            largest_weight_code: 127,
            bytes: 1,
        };
        let told = |file: &ModelInfo, profile| differing(file, profile, Path::new("run/1"), &manifest);
        let skip = vec!["fc".to_string()];
        let other = file(Qat { weight_bits: 7, skip, reduce_range: true, ..Qat::default() });
        assert_eq!(
            told(&other, Profile::Openvino),
            [
                "--qat-reduce-range is true in it and false in the checkpoint",
                "--qat-skip is [\"fc\"] in it and [] in the checkpoint",
                "--qat-weight-bits is 7 in it and 8 in the checkpoint",
            ]
        );
        // Another observer that came to the same ranges made the same file, and so did any recipe in floating point.
        let same = file(Qat { percentile: 99.0, bn_images: 8, target: Target::Tensorrt, ..Qat::default() });
        assert_eq!(
            [told(&same, Profile::Openvino), told(&other, Profile::Fp32)],
            [vec![], Vec::<String>::new()]
        );
        let named = Some(["cat", "cow"].map(String::from).to_vec());
        let another = ModelInfo { class_names: named, image_shape: [3, 64, 64], ..same };
        assert_eq!(
            told(&another, Profile::Openvino),
            [
                "it is for images 3,64,64, and the checkpoint for 3,32,32",
                "a class is `cow` in it and `dog` in the checkpoint",
            ]
        );
    }
}
