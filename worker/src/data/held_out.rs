//! A validation split out of one folder of classes: each image falls to one of the halves by a hash of its name, so that
//! it stays there when others are added or taken away.

use super::{DataError, Split};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The folder whose classes are split: `train/` where there is one, else the root itself.
///
/// # Errors
/// When there is a validation set already.
pub(super) fn folder(root: &Path) -> Result<PathBuf, DataError> {
    if root.join(Split::Val.folder()).is_dir() {
        let why = "it has a folder `val/` to evaluate on already; hold nothing out, or take `val/` away";
        return Err(DataError::held_out(root, why.into()));
    }
    let train = root.join(Split::Train.folder());
    Ok(if train.is_dir() { train } else { root.into() })
}

/// Which half the image at `path` falls to, when `fraction` of the images are for validation; `classes` is the folder of
/// the classes, whose own place does not matter.
fn half_of(path: &Path, classes: &Path, fraction: f64) -> Split {
    let name = path.strip_prefix(classes).unwrap_or(path);
    let digest = Sha256::digest(name.as_os_str().as_encoded_bytes());
    let first = digest.iter().take(8).fold(0u64, |n, &byte| n << 8 | u64::from(byte));
    // 2^64 places between 0 and 1.
    if (first as f64 / 2f64.powi(64)) < fraction { Split::Val } else { Split::Train }
}

/// The images of a class that fall to one half.
///
/// # Errors
/// When one of the halves gets none.
pub(super) fn part(
    images: Vec<PathBuf>,
    classes: &Path,
    class: &str,
    split: Split,
    fraction: f64,
) -> Result<Vec<PathBuf>, DataError> {
    let all = images.len();
    let (val, train): (Vec<_>, Vec<_>) =
        images.into_iter().partition(|path| half_of(path, classes, fraction) == Split::Val);
    let lacks = match (train.is_empty(), val.is_empty()) {
        (true, _) => Some("training"),
        (_, true) => Some("validation"),
        _ => None,
    };
    if let Some(what) = lacks {
        let why = format!(
            "of the {all} images of class `{class}` none falls to {what} at {fraction}: add images of it, give another fraction, or take the class away"
        );
        return Err(DataError::held_out(classes, why));
    }
    Ok(if split == Split::Val { val } else { train })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(n: usize) -> Vec<PathBuf> {
        (0..n).map(|i| format!("/data/cat/{i}.png").into()).collect()
    }

    fn val(n: usize, fraction: f64) -> Vec<PathBuf> {
        part(images(n), Path::new("/data"), "cat", Split::Val, fraction).unwrap()
    }

    #[test]
    fn an_image_keeps_its_half_when_others_come_and_wherever_the_folder_is() {
        let few = val(500, 0.2);
        assert!((70..130).contains(&few.len()), "{} of 500 for 0.2", few.len());
        let more = val(800, 0.2);
        assert!(few.iter().all(|path| more.contains(path)));
        // A larger fraction holds out the same images and others.
        let larger = val(500, 0.4);
        assert!(few.iter().all(|path| larger.contains(path)) && larger.len() > few.len());
        let train = part(images(500), Path::new("/data"), "cat", Split::Train, 0.2).unwrap();
        assert!(train.len() + few.len() == 500 && !train.iter().any(|path| few.contains(path)));
        let (here, there) = (Path::new("/data/cat/7.png"), Path::new("/mnt/x/cat/7.png"));
        assert_eq!(half_of(here, Path::new("/data"), 0.5), half_of(there, Path::new("/mnt/x"), 0.5));
    }

    #[test]
    fn a_class_without_images_in_one_half_is_named() {
        for (fraction, what) in [(1e-9, "validation"), (0.999_999_999, "training")] {
            let told =
                part(images(3), Path::new("/data"), "cat", Split::Train, fraction).unwrap_err().to_string();
            for want in ["3 images of class `cat`", what, "held out for validation"] {
                assert!(told.contains(want), "{want} in {told}");
            }
        }
    }
}
