//! What was found in a split, and what of it is not used: said at the start of whatever reads it.

use super::source::Split;
use std::collections::BTreeMap;
use std::fmt;

/// Names listed in one message.
const LISTED: usize = 10;
/// Formats of images that are not read.
const OTHER_IMAGES: [&str; 10] =
    [".avif", ".bmp", ".gif", ".heic", ".jfif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"];

/// The first names of a list, and how many more there are.
pub(crate) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Files that are not used, by kind: `.webp`, `hidden`, ...
pub(super) type LeftOut = BTreeMap<String, usize>;

/// The same as text: `4 .bmp, 2 .webp`.
pub(super) fn counted(left_out: &LeftOut) -> String {
    let kinds: Vec<String> = left_out.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    let advice = match left_out.keys().any(|k| OTHER_IMAGES.contains(&k.as_str())) {
        true => " (only JPEG and PNG are read: convert them)",
        false => "",
    };
    format!("{}{advice}", kinds.join(", "))
}

/// What a split holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The split.
    pub split: Split,
    /// Where it comes from.
    pub root: String,
    /// Images in use.
    pub images: usize,
    /// Classes of the network.
    pub classes: usize,
    /// Classes without an image here.
    pub absent: Vec<String>,
    /// Files that are not used, by kind.
    pub left_out: BTreeMap<String, usize>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (split, here) = (self.split.folder(), self.classes - self.absent.len());
        write!(f, "{split}: {} images in {here} classes of {}", self.images, self.root)?;
        if !self.absent.is_empty() {
            write!(f, "; none of {}", listed(&self.absent))?;
        }
        if !self.left_out.is_empty() {
            write!(f, "; files left out: {}", counted(&self.left_out))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_not_used_is_counted_by_kind() {
        let mut found = Found {
            split: Split::Val,
            root: "photos".into(),
            images: 7,
            classes: 3,
            absent: vec![],
            left_out: LeftOut::new(),
        };
        assert_eq!(found.to_string(), "val: 7 images in 3 classes of photos");
        found.absent = vec!["cat".into()];
        found.left_out = [(".txt".to_string(), 1), (".webp".to_string(), 4)].into();
        assert_eq!(
            found.to_string(),
            "val: 7 images in 2 classes of photos; none of cat; files left out: 1 .txt, 4 .webp (only JPEG and PNG are read: convert them)"
        );
        let many: Vec<String> = (0..12).map(|i| i.to_string()).collect();
        assert!(listed(&many).ends_with("9 and 2 more"));
    }
}
