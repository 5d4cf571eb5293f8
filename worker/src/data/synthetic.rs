//! Random images whose class can be learned: stripes whose direction and width depend on the class, under noise.

use super::Split;
use super::rng::CounterRng;
use super::source::{Broken, Images};
use image::{Rgb, RgbImage};

pub(super) struct Synthetic {
    pub images: usize,
    pub classes: usize,
    pub side: usize,
    pub split: Split,
}

impl Images for Synthetic {
    fn len(&self) -> usize {
        self.images
    }
    fn label(&self, index: usize) -> usize {
        index % self.classes
    }
    fn name(&self, index: usize) -> String {
        format!("synthetic/{}/{index}", self.split.folder())
    }
    fn image(&self, index: usize) -> Result<RgbImage, Broken> {
        let mut rng = CounterRng::new(0x5eed, [self.split as u64, index as u64]);
        let class = self.label(index) as f32;
        let angle = std::f32::consts::PI * class / self.classes as f32;
        let (dx, dy) = (angle.cos(), angle.sin());
        let width = std::f32::consts::TAU * (3.0 + class % 3.0) / self.side as f32;
        let phase = rng.range(0.0, std::f32::consts::TAU);
        let side = self.side as u32;
        Ok(RgbImage::from_fn(side, side, |x, y| {
            let wave = ((x as f32 * dx + y as f32 * dy) * width + phase).sin();
            let noise = rng.range(-60.0, 60.0);
            let value = (128.0 + 60.0 * wave + noise).clamp(0.0, 255.0) as u8;
            Rgb([value, value / 2 + 40, 255 - value])
        }))
    }
}
