//! The embedded default: the UCI "Optical Recognition of Handwritten Digits" test set (1,797 real scans of 8x8
//! pixels with 17 grey levels), as scikit-learn ships it; set-up takes the file from its wheel.

use super::source::{Broken, Images};
use super::{DataError, Split};
use crate::native::libraries::deps_dir;
use image::{Rgb, RgbImage};
use std::io::Read;
use std::path::Path;

/// Every fifth row is for evaluation.
const FOLD: usize = 5;
/// Pixels of a side.
const SIDE: usize = 8;

pub(super) struct Digits {
    /// 64 grey levels of 0..=16, and the digit.
    rows: Vec<([u8; SIDE * SIDE], u8)>,
    split: Split,
}

fn parse(text: &str) -> Result<Vec<([u8; SIDE * SIDE], u8)>, String> {
    text.lines()
        .enumerate()
        .map(|(i, line)| {
            let values: Result<Vec<u8>, _> =
                line.split(',').map(|v| v.trim().parse::<f32>().map(|x| x as u8)).collect();
            let values = values.map_err(|e| format!("line {}: {e}", i + 1))?;
            let (Some((&label, _)), Some(pixels)) = (values.split_last(), values.first_chunk()) else {
                return Err(format!("line {} is empty", i + 1));
            };
            if values.len() != SIDE * SIDE + 1 || label > 9 || pixels.iter().any(|&p| p > 16) {
                return Err(format!("line {} is not 64 grey levels and a digit", i + 1));
            }
            Ok((*pixels, label))
        })
        .collect()
}

fn read(path: &Path) -> Result<Vec<([u8; SIDE * SIDE], u8)>, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).map_err(|e| e.to_string())?;
    parse(&text)
}

impl Digits {
    pub fn open(split: Split) -> Result<Self, DataError> {
        let path = deps_dir().join("digits/digits.csv.gz");
        let rows = read(&path).map_err(|why| DataError::Digits { path: path.clone(), why })?;
        let mine = |i: usize| i.is_multiple_of(FOLD) == (split == Split::Val);
        let rows: Vec<_> = rows.into_iter().enumerate().filter(|&(i, _)| mine(i)).map(|(_, r)| r).collect();
        if rows.is_empty() {
            return Err(DataError::Digits { path, why: "it is empty".into() });
        }
        Ok(Self { rows, split })
    }
}

impl Images for Digits {
    fn len(&self) -> usize {
        self.rows.len()
    }
    fn label(&self, index: usize) -> usize {
        self.rows[index].1.into()
    }
    fn name(&self, index: usize) -> String {
        format!("digits/{}/{index}", self.split.folder())
    }
    fn image(&self, index: usize) -> Result<RgbImage, Broken> {
        let pixels = &self.rows[index].0;
        let grey = |x: u32, y: u32| (u32::from(pixels[y as usize * SIDE + x as usize]) * 255 / 16) as u8;
        Ok(RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| Rgb([grey(x, y); 3])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_scans_are_split_four_to_one_with_all_digits_in_both() {
        let (train, val) = (Digits::open(Split::Train).unwrap(), Digits::open(Split::Val).unwrap());
        assert_eq!((train.len(), val.len()), (1437, 360));
        for set in [&train, &val] {
            let mut counts = [0; 10];
            (0..set.len()).for_each(|i| counts[set.label(i)] += 1);
            assert!(counts.iter().all(|&c| c >= set.len() / 15), "{counts:?}");
        }
        assert!(val.image(0).unwrap().pixels().any(|p| p.0[0] > 200));
    }

    #[test]
    fn lines_that_are_not_digits_are_named() {
        assert!(parse("1,2,3").unwrap_err().contains("line 1"));
        let good = format!("{}7", "16,".repeat(64));
        assert_eq!(parse(&good).unwrap()[0].1, 7);
        assert!(parse(&format!("{good}\n{}10", "0,".repeat(64))).unwrap_err().contains("line 2"));
    }
}
