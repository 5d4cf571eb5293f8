//! `ROOT/train/<class>/` and `ROOT/val/<class>/`, as torchvision's `ImageFolder` counts them: a class is a folder of the
//! first level, its images are the JPEG and PNG files at any depth beneath, links followed. Classes, folders and files are
//! sorted by name, so that all ranks and runs number them alike.

use super::found::{Found, LeftOut, counted};
use super::source::{Broken, Images};
use super::wanted::{Names, Wanted};
use super::{DataError, Split, held_out};
use image::RgbImage;
use std::ffi::OsString;
use std::fs::{self, DirEntry};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub(super) struct Folder {
    /// Files, by class.
    files: Vec<(PathBuf, u32)>,
}

/// A split that is open.
pub(super) struct Opened {
    pub images: Folder,
    /// Names of the classes, in the order of their labels.
    pub classes: Vec<String>,
    pub found: Found,
}

fn entries(path: &Path) -> Result<Vec<DirEntry>, DataError> {
    let unlisted = |e: std::io::Error| DataError::unlisted(path, &e);
    fs::read_dir(path).map_err(unlisted)?.collect::<Result<_, _>>().map_err(unlisted)
}

/// What an entry is, links followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    /// A pipe, a socket: reading one would wait for ever.
    Other,
    /// A link to nothing.
    Broken,
}

fn kind(entry: &DirEntry) -> Kind {
    let of = |t: fs::FileType| match (t.is_dir(), t.is_file()) {
        (true, _) => Kind::Folder,
        (_, true) => Kind::File,
        _ => Kind::Other,
    };
    match entry.file_type() {
        Ok(t) if !t.is_symlink() => of(t),
        _ => fs::metadata(entry.path()).map_or(Kind::Broken, |m| of(m.file_type())),
    }
}

/// Why a file is not an image, for counting; none if it is one.
fn not_an_image(path: &Path) -> Option<String> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
    match extension.as_deref() {
        Some("jpg" | "jpeg" | "png") if !hidden => None,
        _ if hidden => Some("hidden".into()),
        Some(e) => Some(format!(".{e}")),
        None => Some("without an extension".into()),
    }
}

/// A class's folders with their images, in no order, and what is left out.
#[derive(Default)]
struct Walk {
    folders: Vec<(PathBuf, Vec<OsString>)>,
    left_out: LeftOut,
}

impl Walk {
    fn leave_out(&mut self, kind: impl Into<String>) {
        *self.left_out.entry(kind.into()).or_default() += 1;
    }

    /// Looks into `path`; `above` are the real places of the folders it was reached through.
    fn enter(&mut self, path: &Path, above: &mut Vec<PathBuf>) -> Result<(), DataError> {
        let real = fs::canonicalize(path).map_err(|e| DataError::unlisted(path, &e))?;
        if above.iter().any(|a| a.starts_with(&real)) {
            self.leave_out("links to a folder above");
            return Ok(());
        }
        above.push(real);
        let mut images = Vec::new();
        for entry in entries(path)? {
            let place = entry.path();
            match (kind(&entry), not_an_image(&place)) {
                (Kind::Folder, _) => self.enter(&place, above)?,
                (Kind::Other, _) => self.leave_out("pipes, sockets or devices"),
                // A link to nothing that is called an image is one that cannot be read, and is counted as such.
                (Kind::File | Kind::Broken, None) => images.push(entry.file_name()),
                (Kind::File | Kind::Broken, Some(why)) => self.leave_out(why),
            }
        }
        images.sort();
        self.folders.push((path.into(), images));
        above.pop();
        Ok(())
    }

    /// The images, sorted by the text of their folder's path, then by name.
    fn files(&mut self) -> Vec<PathBuf> {
        self.folders.sort_by(|a, b| a.0.as_os_str().cmp(b.0.as_os_str()));
        self.folders.iter().flat_map(|(folder, names)| names.iter().map(|n| folder.join(n))).collect()
    }
}

/// The images beneath a folder, in order, and what is left out there.
pub(super) fn images_beneath(path: &Path) -> Result<(Vec<PathBuf>, LeftOut), String> {
    let mut walk = Walk::default();
    match walk.enter(path, &mut Vec::new()) {
        Ok(()) => Ok((walk.files(), walk.left_out)),
        Err(DataError::Missing { path, why } | DataError::Unlisted { path, why }) => {
            Err(format!("{}: {why}", path.display()))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// Names of the class folders of a split, sorted, and the number of files beside them.
fn class_folders(path: &Path) -> Result<(Vec<String>, usize), DataError> {
    let (mut names, mut beside) = (Vec::new(), 0);
    for entry in entries(path)? {
        if kind(&entry) != Kind::Folder {
            beside += 1;
            continue;
        }
        names.push(entry.file_name().into_string().map_err(|_| DataError::Name { path: entry.path() })?);
    }
    names.sort();
    match names.is_empty() {
        true => Err(DataError::Empty {
            path: path.into(),
            what: "class folders",
            has: format!("{beside} files"),
            of_class: false,
        }),
        false => Ok((names, beside)),
    }
}

/// Names that `a` has and `b` has not.
fn without(a: &[String], b: &[String]) -> Vec<String> {
    a.iter().filter(|n| !b.contains(n)).cloned().collect()
}

/// The classes of the labels: those that are known, else those of both splits, which must have the same.
fn labels(root: &Path, split: Split, here: &[String], wanted: &Wanted) -> Result<Vec<String>, DataError> {
    if let Names::Known { names, whose, remedy } = wanted.names {
        let fits = without(here, names).is_empty()
            && (wanted.allow_missing_classes || without(names, here).is_empty());
        return match fits {
            true => Ok(names.to_vec()),
            false => Err(DataError::other_classes(wanted.root, whose, names, here, remedy)),
        };
    }
    let other = root.join(split.other().folder());
    if wanted.val_fraction > 0.0 || !other.is_dir() {
        return Ok(here.to_vec());
    }
    let there = class_folders(&other)?.0;
    let (only_here, only_there) = (without(here, &there), without(&there, here));
    if !wanted.allow_missing_classes && (!only_here.is_empty() || !only_there.is_empty()) {
        let alone = [(split, only_here), (split.other(), only_there)];
        return Err(DataError::one_sided(root, alone));
    }
    let mut all = [here, &only_there].concat();
    all.sort();
    Ok(all)
}

/// Opens a split of a folder.
pub(super) fn open(root: &Path, split: Split, wanted: &Wanted) -> Result<Opened, DataError> {
    match fs::metadata(root) {
        Ok(there) if there.is_dir() => {}
        Ok(_) => return Err(DataError::missing(root, "it is not a folder")),
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(DataError::missing(root, "no such folder")),
        Err(e) => return Err(DataError::unlisted(root, &e)),
    }
    let folder = match wanted.val_fraction > 0.0 {
        true => held_out::folder(root)?,
        false => root.join(split.folder()),
    };
    if !folder.is_dir() {
        return Err(DataError::no_split(root, split));
    }
    let (here, beside) = class_folders(&folder)?;
    let classes = labels(root, split, &here, wanted)?;
    let (mut files, mut left_out, mut absent) = (Vec::new(), LeftOut::new(), without(&classes, &here));
    if beside > 0 {
        left_out.insert("beside the class folders".into(), beside);
    }
    for class in &here {
        let label = classes.iter().position(|c| c == class).expect("labels hold every class that is here");
        let (path, mut walk) = (folder.join(class), Walk::default());
        walk.enter(&path, &mut Vec::new())?;
        let images = walk.files();
        if images.is_empty() {
            if !wanted.allow_missing_classes {
                let has = counted(&walk.left_out);
                return Err(DataError::Empty { path, what: "images", has, of_class: true });
            }
            absent.push(class.clone());
        }
        let images = match wanted.val_fraction > 0.0 {
            true => held_out::part(images, &folder, class, split, wanted.val_fraction)?,
            false => images,
        };
        files.extend(images.into_iter().map(|path| (path, label as u32)));
        for (kind, n) in walk.left_out {
            *left_out.entry(kind).or_default() += n;
        }
    }
    absent.sort();
    let found = Found {
        split,
        root: wanted.root.into(),
        images: files.len(),
        classes: classes.len(),
        absent,
        left_out,
    };
    if files.is_empty() {
        let has = counted(&found.left_out);
        return Err(DataError::Empty { path: folder, what: "images", has, of_class: false });
    }
    Ok(Opened { images: Folder { files }, classes, found })
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
    fn image(&self, index: usize) -> Result<RgbImage, Broken> {
        let bytes = fs::read(&self.files[index].0).map_err(|e| Broken::Unread(e.to_string()))?;
        decode(&bytes).map_err(Broken::Corrupt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree(dir: &Path, files: &[&str]) {
        for file in files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            RgbImage::new(4, 4).save(&path).unwrap();
        }
    }

    fn wanted(dir: &Path) -> Wanted<'_> {
        Wanted {
            root: dir.to_str().unwrap(),
            names: Names::OfData,
            side: 4,
            synthetic_images: 0,
            val_fraction: 0.0,
            allow_missing_classes: false,
        }
    }

    /// Images as `place:label`, relative to the folder of the split.
    fn files(dir: &Path, split: Split, set: &Opened) -> Vec<String> {
        let prefix = format!("{}/", dir.join(split.folder()).display());
        let place = |i| set.images.name(i).strip_prefix(&prefix).unwrap().to_string();
        (0..set.images.len()).map(|i| format!("{}:{}", place(i), set.images.label(i))).collect()
    }

    #[test]
    fn classes_and_files_are_sorted_and_other_files_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path(), &["train/b/2.png", "train/b/1.jpg", "train/a/x.PNG", "val/b/v.png", "val/a/v.png"]);
        for other in ["a/notes.txt", "a/1.webp", "b/2.WEBP", "b/.DS_Store", "b/README", "list.csv"] {
            fs::write(dir.path().join("train").join(other), "x").unwrap();
        }
        let train = open(dir.path(), Split::Train, &wanted(dir.path())).unwrap();
        assert_eq!(train.classes, ["a", "b"]);
        assert_eq!(files(dir.path(), Split::Train, &train), ["a/x.PNG:0", "b/1.jpg:1", "b/2.png:1"]);
        let told = train.found.to_string();
        for part in [
            "train: 3 images in 2 classes",
            "2 .webp",
            "1 .txt",
            "1 hidden",
            "1 without an extension",
            "1 beside the class folders",
            "convert them",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
        let val = open(dir.path(), Split::Val, &wanted(dir.path())).unwrap();
        assert_eq!((val.images.label(1), val.found.left_out.len()), (1, 0));
    }

    #[test]
    fn nested_folders_and_links_count_as_torchvision_counts_them() {
        let dir = tempfile::tempdir().unwrap();
        // torchvision sorts folders by the text of their paths: `deep-x` comes before `deep/er`.
        tree(
            dir.path(),
            &["train/a/2.png", "train/a/deep/er/1.png", "train/a/deep-x/3.png", "train/b/1.png"],
        );
        let elsewhere = dir.path().join("elsewhere");
        tree(&elsewhere, &["more/7.png"]);
        let a = dir.path().join("train/a");
        symlink(elsewhere.join("more"), a.join("linked")).unwrap();
        symlink(elsewhere.join("more/7.png"), a.join("3.png")).unwrap();
        symlink(&a, a.join("deep/round")).unwrap();
        symlink(dir.path(), a.join("deep/up")).unwrap();
        symlink("nowhere", a.join("4.png")).unwrap();
        let set = open(dir.path(), Split::Train, &wanted(dir.path())).unwrap();
        assert_eq!(
            files(dir.path(), Split::Train, &set),
            [
                "a/2.png:0",
                "a/3.png:0",
                "a/4.png:0",
                "a/deep-x/3.png:0",
                "a/deep/er/1.png:0",
                "a/linked/7.png:0",
                "b/1.png:1"
            ]
        );
        assert_eq!(set.found.left_out, [("links to a folder above".to_string(), 2)].into());
        assert!(set.images.image(2).is_err(), "a link to nothing is an image that cannot be read");
    }

    #[test]
    fn classes_of_one_split_are_named_unless_they_are_allowed() {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path(), &["train/a/1.png", "train/b/1.png", "val/b/1.png", "val/z/1.png"]);
        for split in [Split::Train, Split::Val] {
            let told = open(dir.path(), split, &wanted(dir.path())).err().unwrap().to_string();
            for part in ["train/ alone has a", "val/ alone has z", "allow that classes are missing"] {
                assert!(told.contains(part), "{part} in {told}");
            }
        }
        let allowed = Wanted { allow_missing_classes: true, ..wanted(dir.path()) };
        let train = open(dir.path(), Split::Train, &allowed).unwrap();
        let val = open(dir.path(), Split::Val, &allowed).unwrap();
        assert_eq!(train.classes, ["a", "b", "z"]);
        assert_eq!(train.classes, val.classes);
        assert_eq!(files(dir.path(), Split::Val, &val), ["b/1.png:1", "z/1.png:2"]);
        assert_eq!((train.found.absent, val.found.absent), (vec!["z".into()], vec!["a".into()]));
        // A class folder without images is such a class; a split without any image is none.
        fs::create_dir(dir.path().join("val/m")).unwrap();
        let val = open(dir.path(), Split::Val, &allowed).unwrap();
        assert_eq!(val.classes, ["a", "b", "m", "z"]);
        assert_eq!(files(dir.path(), Split::Val, &val), ["b/1.png:1", "z/1.png:3"]);
        assert_eq!(val.found.absent, ["a", "m"]);
        let told = open(dir.path(), Split::Val, &wanted(dir.path())).err().unwrap().to_string();
        assert!(told.contains("val/ alone has m"), "{told}");
        for class in ["b", "z"] {
            fs::remove_file(dir.path().join("val").join(class).join("1.png")).unwrap();
        }
        let told = open(dir.path(), Split::Val, &allowed).err().unwrap().to_string();
        assert!(told.contains("holds no images"), "{told}");
    }

    #[test]
    fn classes_of_a_file_number_the_labels_and_others_are_named() {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path(), &["val/a/1.png", "val/c/1.png"]);
        let names = ["c", "b", "a"].map(String::from);
        let known = Names::Known { names: &names, whose: "m.onnx", remedy: "give its data" };
        let strict = Wanted { names: known, ..wanted(dir.path()) };
        let told = open(dir.path(), Split::Val, &strict).err().unwrap().to_string();
        assert!(
            told.contains("m.onnx") && told.contains("data lacks b") && told.contains("its data"),
            "{told}"
        );
        let set = open(dir.path(), Split::Val, &Wanted { allow_missing_classes: true, ..strict }).unwrap();
        assert_eq!(files(dir.path(), Split::Val, &set), ["a/1.png:2", "c/1.png:0"]);
        tree(dir.path(), &["val/x/1.png"]);
        let told = open(dir.path(), Split::Val, &Wanted { allow_missing_classes: true, ..strict });
        assert!(told.err().unwrap().to_string().contains("data alone has x"));
    }

    #[test]
    fn what_is_missing_or_empty_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = |split| open(dir.path(), split, &wanted(dir.path())).err().unwrap().to_string();
        tree(dir.path(), &["cats/1.png", "dogs/1.png"]);
        let told = text(Split::Train);
        for part in ["no folder `train/`", "held out", "cats, dogs"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(text(Split::Val).contains("no folder `val/`"));
        fs::create_dir_all(dir.path().join("train")).unwrap();
        assert!(text(Split::Train).contains("no class folders"));
        fs::create_dir_all(dir.path().join("train/a")).unwrap();
        fs::write(dir.path().join("train/a/1.webp"), "x").unwrap();
        let told = text(Split::Train);
        assert!(told.contains("no images") && told.contains("1 .webp"), "{told}");
        let e = open(Path::new("/no/such"), Split::Train, &wanted(dir.path())).err().unwrap().to_string();
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
