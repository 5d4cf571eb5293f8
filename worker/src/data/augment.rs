//! Images to numbers: the reference's augmentation for training, resize and centre-crop for evaluation.

use super::rng::CounterRng;
use super::{DataError, Preprocessing};
use crate::config::{Augmentation, DataSettings};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use tch::{Kind, TchError, Tensor};

/// Border of `pad-crop` in pixels, unless told.
const PAD: usize = 4;
/// Border of `pad-crop-no-flip` in pixels, unless told.
const PAD_CHARACTERS: usize = 2;

/// How an image becomes `[crop, crop, channels]` numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    /// Channels: 3, or 4 with an empty fourth.
    pub channels: usize,
    /// Side of the crop.
    pub crop: usize,
    /// Short side before the centre crop in evaluation.
    pub resize_short: usize,
    /// Augmentation in training; never [`Augmentation::Auto`].
    pub augmentation: Augmentation,
    /// Border of a pad-crop in pixels.
    pub padding: usize,
    /// Area of the random-resized-crop as a part of the image.
    pub scale: [f32; 2],
    /// Aspect ratio of the random-resized-crop.
    pub ratio: [f32; 2],
    /// `(pixel * factor - mean) / std`
    pub factor: f32,
    /// Mean per channel.
    pub mean: [f32; 3],
    /// Standard deviation per channel.
    pub std: [f32; 3],
}

/// A rectangle of an image in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Area {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

fn resize(image: &RgbImage, area: Area, [width, height]: [usize; 2]) -> Result<Vec<u8>, String> {
    let source = ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3);
    let source = source.map_err(|e| e.to_string())?;
    let mut target = Image::new(width as u32, height as u32, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).crop(
        area.left,
        area.top,
        area.width,
        area.height,
    );
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| e.to_string())?;
    Ok(target.into_vec())
}

/// torchvision's random-resized-crop: ten tries for an area and ratio that fit, then the largest centred crop whose
/// ratio is allowed.
fn random_area(width: f64, height: f64, scale: [f32; 2], ratio: [f32; 2], rng: &mut CounterRng) -> Area {
    let logs = ratio.map(f32::ln);
    for _ in 0..10 {
        let area = width * height * f64::from(rng.range(scale[0], scale[1]));
        let ratio = f64::from(rng.range(logs[0], logs[1]).exp());
        let (w, h) = ((area * ratio).sqrt().round(), (area / ratio).sqrt().round());
        if w >= 1.0 && h >= 1.0 && w <= width && h <= height {
            let left = rng.below((width - w) as u64 + 1) as f64;
            let top = rng.below((height - h) as u64 + 1) as f64;
            return Area { left, top, width: w, height: h };
        }
    }
    let whole = width / height;
    let (low, high) = (f64::from(ratio[0]), f64::from(ratio[1]));
    let (w, h) = if whole < low {
        (width, (width / low).round())
    } else if whole > high {
        ((height * high).round(), height)
    } else {
        (width, height)
    };
    Area { left: ((width - w) / 2.0).floor(), top: ((height - h) / 2.0).floor(), width: w, height: h }
}

impl Geometry {
    /// The geometry of a run, with images of so many channels.
    pub fn new(data: &DataSettings, channels: usize) -> Self {
        let augmentation = match data.augmentation {
            Augmentation::Auto if data.image_root == "digits" => Augmentation::PadCropNoFlip,
            Augmentation::Auto if data.crop_size <= 64 => Augmentation::PadCrop,
            Augmentation::Auto => Augmentation::RandomResizedCrop,
            given => given,
        };
        Self {
            channels,
            crop: data.crop_size,
            resize_short: data.resize_short,
            augmentation,
            padding: data.crop_padding.unwrap_or(match augmentation {
                Augmentation::PadCropNoFlip => PAD_CHARACTERS,
                _ => PAD,
            }),
            scale: data.rand_crop_scale,
            ratio: data.rand_crop_ratio,
            factor: data.normalize_scale,
            mean: data.normalize_mean,
            std: data.normalize_std,
        }
    }

    /// For evaluation alone, with images of so many channels.
    pub fn for_evaluation(settings: &Preprocessing, channels: usize) -> Self {
        Self {
            channels,
            crop: settings.crop_size,
            resize_short: settings.resize_short,
            augmentation: Augmentation::None,
            padding: 0,
            scale: [1.0; 2],
            ratio: [1.0; 2],
            factor: settings.normalize_scale,
            mean: settings.normalize_mean,
            std: settings.normalize_std,
        }
    }

    /// Whether images can be made by it.
    ///
    /// # Errors
    /// On the first number that cannot be, by its field's name.
    pub fn check(&self) -> Result<(), DataError> {
        let refused = |why: String| Err(DataError::Settings(why));
        if !(3..=4).contains(&self.channels) {
            return refused(format!("channels is {}; it is 3, or 4 with an empty fourth", self.channels));
        }
        if self.crop == 0 {
            return refused("crop is 0; it is a side in pixels, at least 1".into());
        }
        if self.resize_short < self.crop {
            return refused(format!(
                "resize_short is {}, smaller than crop, {}; the crop is cut out of the resized image",
                self.resize_short, self.crop
            ));
        }
        for (what, [low, high]) in [("scale", self.scale), ("ratio", self.ratio)] {
            if !(low > 0.0 && low <= high && high.is_finite()) {
                return refused(format!(
                    "{what} is {low}, {high}; both are above 0, the smallest comes first"
                ));
            }
        }
        match self.std.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            Some(std) => refused(format!("std has {std}; each is a finite number above 0")),
            None => Ok(()),
        }
    }

    /// Resize of the short side, centre crop: 8-bit RGB of the crop.
    fn centre(&self, image: &RgbImage, short: usize) -> Result<Vec<u8>, String> {
        let (w, h) = (image.width() as usize, image.height() as usize);
        if (w, h) == (self.crop, self.crop) && short == self.crop {
            return Ok(image.as_raw().clone());
        }
        if short < self.crop || self.crop == 0 {
            return Err(format!("a crop of {} does not fit a short side of {short}", self.crop));
        }
        // Cropping and resizing in one: the part of the image that the centre crop keeps.
        let scale = w.min(h) as f64 / short as f64;
        let side = |pixels: usize| ((pixels as f64 / scale).round() as usize).max(short);
        let offset = |pixels: usize| ((side(pixels) - self.crop) as f64 / 2.0).round();
        let kept = |pixels: usize| pixels as f64 / side(pixels) as f64;
        let area = Area {
            left: offset(w) * kept(w),
            top: offset(h) * kept(h),
            width: self.crop as f64 * kept(w),
            height: self.crop as f64 * kept(h),
        };
        resize(image, area, [self.crop; 2])
    }

    /// Numbers of one image.
    pub fn len(&self) -> usize {
        self.crop * self.crop * self.channels
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An image for evaluation, normalised, to [`Self::len`] numbers.
    pub fn eval(&self, image: &RgbImage, out: &mut [f32]) -> Result<(), String> {
        self.evaluated(image, out)
    }

    /// For evaluation.
    pub(super) fn evaluated<T: Element>(&self, image: &RgbImage, out: &mut [T]) -> Result<(), String> {
        let pixels = self.centre(image, self.resize_short)?;
        self.write(&pixels, [0, 0], false, out);
        Ok(())
    }

    /// For training; `rng` is the sample's own in this epoch.
    pub(super) fn train<T: Element>(
        &self,
        image: &RgbImage,
        rng: &mut CounterRng,
        out: &mut [T],
    ) -> Result<(), String> {
        let (pixels, pad, flips) = match self.augmentation {
            Augmentation::RandomResizedCrop => {
                let (w, h) = (f64::from(image.width()), f64::from(image.height()));
                let area = random_area(w, h, self.scale, self.ratio, rng);
                (resize(image, area, [self.crop; 2])?, 0, true)
            }
            Augmentation::PadCrop => (self.centre(image, self.crop)?, self.padding, true),
            Augmentation::PadCropNoFlip => (self.centre(image, self.crop)?, self.padding, false),
            Augmentation::None | Augmentation::Auto => (self.centre(image, self.resize_short)?, 0, false),
        };
        let mut shift = || rng.below(2 * pad as u64 + 1) as isize - pad as isize;
        let shifts = [shift(), shift()];
        let flip = flips && rng.uniform() < 0.5;
        self.write(&pixels, shifts, flip, out);
        Ok(())
    }

    /// The crop's elements, moved by `shifts` (x, y) over black, mirrored if `flip`.
    fn write<T: Element>(&self, pixels: &[u8], shifts: [isize; 2], flip: bool, out: &mut [T]) {
        let (side, channels) = (self.crop as isize, T::channels(self));
        for y in 0..side {
            for x in 0..side {
                let from_x = if flip { side - 1 - x } else { x } + shifts[0];
                let from_y = y + shifts[1];
                let inside = (0..side).contains(&from_x) && (0..side).contains(&from_y);
                let to = (y * side + x) as usize * channels;
                for c in 0..3 {
                    let value = match inside {
                        true => pixels[(from_y * side + from_x) as usize * 3 + c],
                        false => 0,
                    };
                    out[to + c] = T::of(self, c, value);
                }
                out[to + 3..to + channels].fill(T::default());
            }
        }
    }

    /// Mean and standard deviation, `[2, 3]`.
    pub(super) fn numbers(&self) -> Result<Tensor, TchError> {
        Tensor::f_from_slice(&[self.mean, self.std].concat())?.f_view([2, 3])
    }

    /// Raw pixels `[b, crop, crop, 3]`, 8 bits, as images `[b, channels, crop, crop]`, where they lie, and [`Self::numbers`] too:
    /// to the last bit what a loader that normalises gives.
    pub(super) fn normalised(&self, pixels: &Tensor, numbers: &Tensor) -> Result<Tensor, TchError> {
        let scaled = pixels.f_to_kind(Kind::Float)?.f_mul_scalar_(f64::from(self.factor))?;
        let mut all = scaled.shallow_clone().f_sub_(&numbers.f_get(0)?)?.f_div_(&numbers.f_get(1)?)?;
        if self.channels > 3 {
            all = all.f_constant_pad_nd([0, self.channels as i64 - 3])?;
        }
        all.f_permute([0, 3, 1, 2])
    }
}

/// What a loader makes of pixels.
pub(super) trait Element: tch::kind::Element + Default + Send {
    /// Elements of a pixel.
    fn channels(geometry: &Geometry) -> usize;
    /// The element of a channel's value.
    fn of(geometry: &Geometry, channel: usize, value: u8) -> Self;
}

/// Normalised, with empty channels behind the three.
impl Element for f32 {
    fn channels(geometry: &Geometry) -> usize {
        geometry.channels
    }
    fn of(geometry: &Geometry, channel: usize, value: u8) -> Self {
        (f32::from(value) * geometry.factor - geometry.mean[channel]) / geometry.std[channel]
    }
}

/// As they are.
impl Element for u8 {
    fn channels(_: &Geometry) -> usize {
        3
    }
    fn of(_: &Geometry, _: usize, value: u8) -> Self {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn geometry(crop: usize, resize_short: usize, augmentation: Augmentation, channels: usize) -> Geometry {
        let data = DataSettings { crop_size: crop, resize_short, augmentation, ..DataSettings::default() };
        Geometry { factor: 1.0, mean: [0.0; 3], std: [1.0; 3], ..Geometry::new(&data, channels) }
    }

    fn ramp(w: u32, h: u32) -> RgbImage {
        RgbImage::from_fn(w, h, |x, y| Rgb([x as u8, y as u8, 7]))
    }

    #[test]
    fn evaluation_takes_the_centre_and_leaves_the_fourth_channel_empty() {
        let g = geometry(8, 8, Augmentation::None, 4);
        let mut out = vec![9.0; g.len()];
        g.eval(&ramp(12, 8), &mut out).unwrap();
        assert_eq!(out[..4], [2.0, 0.0, 7.0, 0.0]);
        assert_eq!(out[out.len() - 4..], [9.0, 7.0, 7.0, 0.0]);
        // 256 of 512 pixels, centre 128: columns 64..192 of the small image, 128..384 of the large one.
        let g = geometry(128, 256, Augmentation::None, 3);
        let mut out = vec![0.0; g.len()];
        let image = RgbImage::from_fn(512, 640, |x, y| Rgb([(x / 2) as u8, (y / 4) as u8, 0]));
        g.eval(&image, &mut out).unwrap();
        assert!((out[0] - 64.0).abs() <= 1.0 && (out[1] - 48.0).abs() <= 1.0, "{:?}", &out[..2]);
    }

    #[test]
    fn pad_crop_moves_over_black_and_flips() {
        let g = geometry(8, 8, Augmentation::PadCrop, 3);
        let image = RgbImage::from_fn(8, 8, |x, _| Rgb([100 + x as u8, 1, 1]));
        let (mut black, mut flipped) = (0, 0);
        for i in 0..200 {
            let mut out = vec![0.0; g.len()];
            g.train(&image, &mut CounterRng::new(1, [0, i]), &mut out).unwrap();
            let row: Vec<f32> = out.chunks(3).skip(8 * 4).take(8).map(|p| p[0]).collect();
            black += row.iter().filter(|&&v| v == 0.0).count();
            let seen: Vec<f32> = row.into_iter().filter(|&v| v > 0.0).collect();
            flipped += usize::from(seen.windows(2).all(|w| w[0] > w[1]));
            assert!(seen.windows(2).all(|w| (w[0] - w[1]).abs() == 1.0), "{seen:?}");
        }
        assert!(black > 200 && (60..140).contains(&flipped), "{black} {flipped}");
    }

    #[test]
    fn random_areas_lie_within_the_image_and_within_their_bounds() {
        for (w, h) in [(500.0, 375.0), (20.0, 1000.0), (1000.0, 20.0), (1.0, 1.0)] {
            for i in 0..200 {
                let mut rng = CounterRng::new(3, [9, i]);
                let a = random_area(w, h, [0.08, 1.0], [0.75, 4.0 / 3.0], &mut rng);
                assert!(a.left >= 0.0 && a.top >= 0.0 && a.width >= 1.0 && a.height >= 1.0, "{a:?}");
                assert!(a.left + a.width <= w && a.top + a.height <= h, "{a:?}");
            }
        }
    }
}
