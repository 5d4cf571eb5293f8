//! A classifier in an ONNX file, Octrain's own or anybody's: what its metadata says of classes and preprocessing, and
//! what flags say where it does not.

use super::Exit;
use crate::config::{DataSettings, RunConfig, parse_list, validate};
use crate::data::{Geometry, Preprocessing, listed};
use crate::engine::{self, Engine, EngineKind, ModelInfo, Told};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a file does not say of itself, or says otherwise than wanted.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PreparationFlags {
    /// Names of the classes, one a line, in the order of the outputs (not given: those of the file's metadata).
    #[arg(long, value_name = "FILE", help_heading = "Preparation of images")]
    pub classes: Option<PathBuf>,
    /// Channels, height, width of an image, where the file leaves them open.
    #[arg(long, value_parser = parse_list::<usize, 3>, value_name = "LIST", help_heading = "Preparation of images")]
    pub image_shape: Option<[usize; 3]>,
    /// Side of the centre crop (not given: the height of the file's input).
    #[arg(long, value_name = "PIXELS", help_heading = "Preparation of images")]
    pub crop_size: Option<usize>,
    /// Short side before the centre crop (not given: as the file says).
    #[arg(long, value_name = "PIXELS", help_heading = "Preparation of images")]
    pub resize_short: Option<usize>,
    /// Factor on pixels before mean and deviation (not given: as the file says, else 1/255).
    #[arg(long, value_name = "FACTOR", allow_hyphen_values = true, help_heading = "Preparation of images")]
    pub normalize_scale: Option<f32>,
    /// Mean per channel, after scaling (not given: as the file says).
    #[arg(long, value_parser = parse_list::<f32, 3>, value_name = "LIST", allow_hyphen_values = true, help_heading = "Preparation of images")]
    pub normalize_mean: Option<[f32; 3]>,
    /// Standard deviation per channel, after scaling (not given: as the file says).
    #[arg(long, value_parser = parse_list::<f32, 3>, value_name = "LIST", allow_hyphen_values = true, help_heading = "Preparation of images")]
    pub normalize_std: Option<[f32; 3]>,
}

/// A classifier, with what is known of it.
#[derive(Debug)]
pub struct Classifier {
    /// The file.
    pub file: PathBuf,
    /// Its facts, with what flags say besides.
    pub info: ModelInfo,
    /// Flags without which its preprocessing is not known.
    missing: Vec<&'static str>,
}

/// The names in a file, one a line.
fn names(path: &Path) -> Result<Vec<String>, Exit> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Exit::configuration(format!("cannot read --classes `{}`: {e}", path.display())))?;
    names_in(&text).map_err(|why| Exit::configuration(format!("--classes `{}`{why}", path.display())))
}

/// The names in a text, one a line; a mark of the order of bytes before them is none of them.
///
/// # Errors
/// What is the matter, to be said behind the text's name.
fn names_in(text: &str) -> Result<Vec<String>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let names: Vec<String> = text.lines().map(|l| l.trim().to_string()).collect();
    if names.is_empty() {
        return Err(" is empty".into());
    }
    if let Some(line) = names.iter().position(String::is_empty) {
        let line = line + 1;
        return Err(format!(": line {line} is empty; it has one name a line, in the order of the outputs"));
    }
    let mut lines: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, name) in names.iter().enumerate() {
        lines.entry(name).or_default().push(i + 1);
    }
    let told = |(name, lines): (&str, Vec<usize>)| {
        let lines: Vec<String> = lines.iter().map(usize::to_string).collect();
        (lines.len() > 1).then(|| format!("{name} (lines {})", listed(&lines)))
    };
    let twice: Vec<String> = lines.into_iter().filter_map(told).collect();
    match twice.is_empty() {
        true => Ok(names),
        false => Err(format!(
            " has names that are not those of one class: {}; two classes of one name cannot be told apart",
            listed(&twice)
        )),
    }
}

impl PreparationFlags {
    /// The names of the classes that a flag gives.
    ///
    /// # Errors
    /// When its file cannot be read, or has an empty line.
    pub fn class_names(&self) -> Result<Option<Vec<String>>, Exit> {
        self.classes.as_deref().map(names).transpose()
    }

    /// The preprocessing for images of a shape: what the flags say, else a file, else `usual`.
    ///
    /// # Errors
    /// When no loader can prepare images like this.
    pub fn over(
        &self,
        file: Option<&Preprocessing>,
        usual: Preprocessing,
        image_shape: [usize; 3],
    ) -> Result<Preprocessing, Exit> {
        let told = self.preprocessing(Some(file.unwrap_or(&usual)), image_shape[1]).unwrap_or(usual);
        check(&told, image_shape)?;
        Ok(told)
    }

    /// The preprocessing of a file that wants images of `side`, from what the file says and the flags, which win; without
    /// it, the flags that are missing.
    fn preprocessing(
        &self,
        file: Option<&Preprocessing>,
        side: usize,
    ) -> Result<Preprocessing, Vec<&'static str>> {
        let resize_short = self.resize_short.or(file.map(|p| p.resize_short));
        let mean = self.normalize_mean.or(file.map(|p| p.normalize_mean));
        let std = self.normalize_std.or(file.map(|p| p.normalize_std));
        let (Some(resize_short), Some(normalize_mean), Some(normalize_std)) = (resize_short, mean, std)
        else {
            let all = [
                ("--resize-short", resize_short.is_some()),
                ("--normalize-mean", mean.is_some()),
                ("--normalize-std", std.is_some()),
            ];
            return Err(all.into_iter().filter(|(_, given)| !given).map(|(flag, _)| flag).collect());
        };
        Ok(Preprocessing {
            crop_size: self.crop_size.unwrap_or(side),
            resize_short,
            normalize_scale: self
                .normalize_scale
                .or(file.map(|p| p.normalize_scale))
                .unwrap_or(DataSettings::default().normalize_scale),
            normalize_mean,
            normalize_std,
        })
    }
}

impl Classifier {
    /// Reads a file's facts, and takes those of the flags besides.
    ///
    /// # Errors
    /// When the file is no classifier of images, or the flags do not fit it.
    pub fn read(file: &Path, flags: &PreparationFlags) -> Result<Self, Exit> {
        let given = flags.class_names()?;
        let told = Told { image_shape: flags.image_shape, classes: given.as_ref().map(Vec::len) };
        let mut info = ModelInfo::read(file, told).map_err(Exit::configuration)?;
        info.class_names = given.or(info.class_names);
        if let Some(names) = info.class_names.as_ref().filter(|names| names.len() != info.classes) {
            let message = format!(
                "{} has {} outputs, and names {} classes: name them with --classes FILE",
                file.display(),
                info.classes,
                names.len()
            );
            return Err(Exit::configuration(message));
        }
        let prepared = flags.preprocessing(info.preprocessing.as_ref(), info.image_shape[1]);
        let missing = match prepared {
            Ok(p) => {
                check(&p, info.image_shape)?;
                info.preprocessing = Some(p);
                Vec::new()
            }
            Err(missing) => {
                info.preprocessing = None;
                missing
            }
        };
        Ok(Self { file: file.into(), info, missing })
    }

    /// How its images are prepared.
    ///
    /// # Errors
    /// When neither file nor flags tell.
    pub fn geometry(&self) -> Result<Geometry, Exit> {
        let p = self.info.preprocessing.as_ref().ok_or_else(|| {
            Exit::configuration(format!(
                "{} does not say how its images are prepared (files of `octrain export` do): give {}, as it was trained with, and --normalize-scale where it is not 1/255",
                self.file.display(),
                self.missing.join(", ")
            ))
        })?;
        Ok(Geometry::for_evaluation(p, self.info.image_shape[0]))
    }

    /// The names of its classes.
    ///
    /// # Errors
    /// When neither file nor flags tell.
    pub fn class_names(&self) -> Result<&[String], Exit> {
        self.info.class_names.as_deref().ok_or_else(|| {
            Exit::configuration(format!(
                "{} does not say the names of its {} classes (files of `octrain export` do): give a file with one name a line, in the order of the outputs, as --classes FILE",
                self.file.display(),
                self.info.classes
            ))
        })
    }

    /// The classifier in a runtime, for batches of `wanted` images, or of as many as the file takes.
    ///
    /// # Errors
    /// When the file takes batches of another size only, or the runtime refuses it.
    pub fn load(&self, engine: EngineKind, wanted: usize, threads: usize) -> anyhow::Result<Box<dyn Engine>> {
        if let Some(fixed) = self.info.batch.filter(|fixed| *fixed != wanted) {
            let message = format!(
                "{} takes batches of {fixed} images only: say --batch-size {fixed}",
                self.file.display()
            );
            return Err(Exit::configuration(message).into());
        }
        Ok(engine::load(engine, &self.file, &self.info, wanted, threads)?)
    }
}

/// Whether a loader can prepare images like this.
fn check(p: &Preprocessing, image_shape: [usize; 3]) -> Result<(), Exit> {
    let config = RunConfig::default().with(|c| {
        c.model.image_shape = image_shape;
        c.data.crop_size = p.crop_size;
        c.data.resize_short = p.resize_short;
        c.data.normalize_scale = p.normalize_scale;
        c.data.normalize_mean = p.normalize_mean;
        c.data.normalize_std = p.normalize_std;
    });
    validate(&config).map_err(Exit::configuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_classes_are_one_a_line_and_each_of_one_class() {
        assert_eq!(names_in("\u{feff}cat\r\ndog\r\n"), Ok(vec!["cat".into(), "dog".into()]));
        for (text, part) in [
            ("", " is empty"),
            ("\u{feff}", " is empty"),
            ("a\n\nb", ": line 2 is empty"),
            ("a\nb\na\nc\na\n", ": a (lines 1, 3, 5); two classes"),
        ] {
            let told = names_in(text).unwrap_err();
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_what_neither_says_is_named() {
        let file = Preprocessing::of(&DataSettings::default());
        let none = PreparationFlags::default();
        assert_eq!(none.preprocessing(Some(&file), 224), Ok(file.clone()));
        assert_eq!(
            none.preprocessing(None, 224),
            Err(vec!["--resize-short", "--normalize-mean", "--normalize-std"])
        );
        let some = PreparationFlags { normalize_mean: Some([0.5; 3]), ..none };
        let other = some.preprocessing(Some(&file), 224).unwrap();
        assert_eq!((other.normalize_mean, other.normalize_std), ([0.5; 3], file.normalize_std));
        let all = PreparationFlags { resize_short: Some(40), normalize_std: Some([1.0; 3]), ..some };
        let told = all.preprocessing(None, 32).unwrap();
        assert_eq!((told.crop_size, told.resize_short, told.normalize_scale), (32, 40, 1.0 / 255.0));
        assert!(check(&told, [3, 32, 32]).is_ok());
        let why = check(&told, [3, 32, 48]).unwrap_err().message;
        assert!(why.contains("--image-shape 3,32,48"), "{why}");
    }
}
