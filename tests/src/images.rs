//! Class-per-folder trees of real image files, made on the spot.

use std::path::{Path, PathBuf};

/// Writes `images` JPEG or PNG files (by turns) into each of `train/<class>/` and `val/<class>/` for the classes `a`,
/// `b`, ...; every class has a colour of its own, so that a network can tell them apart.
///
/// # Panics
/// When a file cannot be written.
pub fn tree(root: &Path, classes: usize, images: usize, side: u32) -> PathBuf {
    for split in ["train", "val"] {
        for class in 0..classes {
            let folder = root.join(split).join(char::from(b'a' + class as u8).to_string());
            std::fs::create_dir_all(&folder).expect("a folder");
            for i in 0..images {
                let picture = image::RgbImage::from_fn(side, side, |x, y| {
                    let mut pixel = [(x * 7 + i as u32 * 13) as u8 / 2, (y * 5) as u8 / 2, 40];
                    pixel[class % 3] = 200u8.saturating_add((i * 3 % 50) as u8);
                    image::Rgb(pixel)
                });
                let extension = if i % 2 == 0 { "jpg" } else { "png" };
                picture.save(folder.join(format!("{i}.{extension}"))).expect("an image file");
            }
        }
    }
    root.to_path_buf()
}
