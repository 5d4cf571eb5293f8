//! Images by the names of their files, without labels.

use super::folder::{decode, images_beneath};
use super::found::{LeftOut, counted};
use super::source::{Broken, Images};
use super::{Geometry, RgbImage};
use std::fs;
use std::path::{Path, PathBuf};

/// What was named, looked up.
#[derive(Debug, Default)]
pub struct ImageFiles {
    /// Files to read, in the order in which they were named; those of a folder in the order of a class's.
    pub files: Vec<PathBuf>,
    /// Names that lead to no image file, and why.
    pub refused: Vec<(PathBuf, String)>,
    /// Files of folders that are not used, by kind.
    left_out: LeftOut,
}

impl ImageFiles {
    /// Looks up files, which are taken whatever their extension, and folders, whose JPEG and PNG files are taken at any
    /// depth, as those of a class are.
    pub fn find(named: &[PathBuf]) -> Self {
        let mut found = Self::default();
        for path in named {
            match fs::metadata(path) {
                Err(e) => found.refused.push((path.clone(), e.to_string())),
                Ok(m) if m.is_file() => found.files.push(path.clone()),
                Ok(m) if m.is_dir() => match images_beneath(path) {
                    Err(e) => found.refused.push((path.clone(), e)),
                    Ok((files, left_out)) => {
                        if files.is_empty() {
                            found.refused.push((path.clone(), nothing_in(&left_out)));
                        }
                        found.files.extend(files);
                        for (kind, n) in left_out {
                            *found.left_out.entry(kind).or_default() += n;
                        }
                    }
                },
                // Reading a pipe would wait for whoever writes to it.
                Ok(_) => found.refused.push((path.clone(), "it is neither a file nor a folder".into())),
            }
        }
        found
    }

    /// The files of folders that are not used, as text; none where all are.
    pub fn left_out(&self) -> Option<String> {
        (!self.left_out.is_empty()).then(|| counted(&self.left_out))
    }
}

/// For a loader whose labels nobody asks for: all are 0.
impl Images for ImageFiles {
    fn len(&self) -> usize {
        self.files.len()
    }
    fn label(&self, _: usize) -> usize {
        0
    }
    fn name(&self, index: usize) -> String {
        self.files[index].display().to_string()
    }
    fn image(&self, index: usize) -> Result<RgbImage, Broken> {
        let bytes = fs::read(&self.files[index]).map_err(|e| Broken::Unread(e.to_string()))?;
        decode(&bytes).map_err(Broken::Corrupt)
    }
}

fn nothing_in(left_out: &LeftOut) -> String {
    match left_out.is_empty() {
        true => "the folder holds no JPEG or PNG file".into(),
        false => format!("the folder holds no JPEG or PNG file, but {}", counted(left_out)),
    }
}

/// Reads a JPEG or PNG file and prepares it for evaluation into `out`, [`Geometry::len`] numbers `[H, W, C]`.
///
/// # Errors
/// What is wrong with the image.
pub fn read_image(path: &Path, geometry: &Geometry, out: &mut [f32]) -> Result<(), String> {
    geometry.eval(&decode(&fs::read(path).map_err(|e| e.to_string())?)?, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_looked_up_and_what_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("b/deep")).unwrap();
        fs::create_dir_all(at("none")).unwrap();
        for name in ["b/2.png", "b/deep/1.jpg", "b/list.txt", "odd.dat", "none/x.webp"] {
            fs::write(at(name), "x").unwrap();
        }
        let found = ImageFiles::find(&["odd.dat", "b", "none", "gone"].map(at));
        assert_eq!(found.files, ["odd.dat", "b/2.png", "b/deep/1.jpg"].map(at));
        assert_eq!(found.left_out().unwrap(), "1 .txt, 1 .webp (only JPEG and PNG are read: convert them)");
        let names: Vec<_> = found.refused.iter().map(|(p, _)| p.clone()).collect();
        assert_eq!(names, ["none", "gone"].map(at));
        assert!(found.refused[0].1.contains("1 .webp"), "{:?}", found.refused);
    }
}
