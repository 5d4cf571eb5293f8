//! `ROOT/train/<class>/*.{jpg,jpeg,png}` and `ROOT/val/<class>/...`. Classes and files are sorted by name, so that
//! all ranks and runs number them alike.

use super::source::Images;
use super::{DataError, Split};
use image::RgbImage;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) struct Folder {
    /// Files, by class.
    files: Vec<(PathBuf, u32)>,
}

/// Names within a folder that satisfy `keep`, sorted.
fn names(path: &Path, keep: impl Fn(&fs::DirEntry) -> bool) -> Result<Vec<String>, DataError> {
    let missing = |e: std::io::Error| DataError::Missing { path: path.into(), why: e.to_string() };
    let mut out = Vec::new();
    for entry in fs::read_dir(path).map_err(missing)? {
        let entry = entry.map_err(missing)?;
        if let (true, Ok(name)) = (keep(&entry), entry.file_name().into_string()) {
            out.push(name);
        }
    }
    out.sort();
    Ok(out)
}

fn classes(path: &Path) -> Result<Vec<String>, DataError> {
    let names = names(path, |e| e.path().is_dir())?;
    match names.is_empty() {
        true => Err(DataError::Empty { path: path.into(), what: "class folders" }),
        false => Ok(names),
    }
}

fn is_image(entry: &fs::DirEntry) -> bool {
    let path = entry.path();
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png"))
}

impl Folder {
    /// Opens a split; classes are those of `train/` where it is there.
    pub fn open(root: &Path, split: Split) -> Result<(Self, Vec<String>), DataError> {
        if !root.is_dir() {
            let why = if root.exists() { "it is not a folder" } else { "no such folder" };
            return Err(DataError::Missing { path: root.into(), why: why.into() });
        }
        let folder = root.join(split.folder());
        let here = classes(&folder)?;
        let train = root.join(Split::Train.folder());
        let all = if train.is_dir() { classes(&train)? } else { here.clone() };
        let mut files = Vec::new();
        for class in here {
            let Ok(label) = all.binary_search(&class) else {
                return Err(DataError::ForeignClass { path: folder, class });
            };
            let path = folder.join(&class);
            let images = names(&path, is_image)?;
            if images.is_empty() {
                return Err(DataError::Empty { path, what: "images" });
            }
            files.extend(images.into_iter().map(|name| (path.join(name), label as u32)));
        }
        Ok((Self { files }, all))
    }
}

/// A JPEG that ends before its end marker would decode to an image whose lower part is grey.
fn is_truncated_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8]) && !bytes[bytes.len() / 2..].windows(2).any(|w| w == [0xff, 0xd9])
}

/// Decodes JPEG or PNG to RGB.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    if is_truncated_jpeg(bytes) {
        return Err("the JPEG is truncated".into());
    }
    image::load_from_memory(bytes).map(|i| i.to_rgb8()).map_err(|e| e.to_string())
}

impl Images for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }
    fn label(&self, index: usize) -> usize {
        self.files[index].1 as usize
    }
    fn name(&self, index: usize) -> String {
        self.files[index].0.display().to_string()
    }
    fn image(&self, index: usize) -> Result<RgbImage, String> {
        decode(&fs::read(&self.files[index].0).map_err(|e| e.to_string())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(dir: &Path, files: &[&str]) {
        for file in files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            RgbImage::new(4, 4).save(&path).unwrap();
        }
    }

    #[test]
    fn classes_and_files_are_sorted_and_other_files_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path(), &["train/b/2.png", "train/b/1.jpg", "train/a/x.PNG", "val/b/v.png"]);
        fs::write(dir.path().join("train/a/notes.txt"), "x").unwrap();
        let (train, names) = Folder::open(dir.path(), Split::Train).unwrap();
        assert_eq!(names, ["a", "b"]);
        let files: Vec<String> = train
            .files
            .iter()
            .map(|(p, l)| format!("{}:{l}", p.file_name().unwrap().to_str().unwrap()))
            .collect();
        assert_eq!(files, ["x.PNG:0", "1.jpg:1", "2.png:1"]);
        let (val, names) = Folder::open(dir.path(), Split::Val).unwrap();
        assert_eq!((val.label(0), names.len()), (1, 2));
    }

    #[test]
    fn what_is_missing_or_empty_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = |split| Folder::open(dir.path(), split).err().unwrap().to_string();
        assert!(text(Split::Train).contains("train") && text(Split::Train).contains("--image-root"));
        fs::create_dir_all(dir.path().join("train")).unwrap();
        assert!(text(Split::Train).contains("no class folders"));
        fs::create_dir_all(dir.path().join("train/a")).unwrap();
        assert!(text(Split::Train).contains("no images"));
        tree(dir.path(), &["train/a/1.png", "val/z/1.png"]);
        assert!(text(Split::Val).contains("class `z`"));
        let e = Folder::open(Path::new("/no/such"), Split::Train).err().unwrap().to_string();
        assert!(e.contains("/no/such"), "{e}");
    }

    #[test]
    fn damaged_images_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jpg");
        RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * y) as u8, x as u8, y as u8])).save(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(decode(&bytes).unwrap().dimensions(), (64, 64));
        for cut in [0, 1, 100, bytes.len() / 2, bytes.len() - 2] {
            assert!(decode(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(decode(b"not an image at all").is_err());
    }
}
