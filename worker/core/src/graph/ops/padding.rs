//! Zeros around an image.

use serde::{Deserialize, Serialize};

/// Rows and columns of zeros around an image. In files it is `[height, width]` where both sides are alike, else `[top, left,
/// bottom, right]`, ONNX's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<usize>", into = "Vec<usize>")]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Columns to the left.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// So many on every side.
    pub const fn all(side: usize) -> Self {
        Self::symmetric([side, side])
    }

    /// `[height, width]`: so many above and below, left and right.
    pub const fn symmetric([height, width]: [usize; 2]) -> Self {
        Self { top: height, left: width, bottom: height, right: width }
    }

    /// TensorFlow's `SAME` for an image of `[height, width]`: the result has `ceil(size / stride)` places, and an odd zero
    /// stands below and to the right.
    pub fn same(size: [usize; 2], kernel: [usize; 2], stride: [usize; 2]) -> Self {
        let side = |i: usize| {
            let places = size[i].div_ceil(stride[i].max(1));
            let reached = places.saturating_sub(1).saturating_mul(stride[i]).saturating_add(kernel[i]);
            let wanted = reached.saturating_sub(size[i]);
            [wanted / 2, wanted - wanted / 2]
        };
        let ([top, bottom], [left, right]) = (side(0), side(1));
        Self { top, left, bottom, right }
    }

    /// `[height, width]` if both sides are alike.
    pub fn as_symmetric(self) -> Option<[usize; 2]> {
        (self.top == self.bottom && self.left == self.right).then_some([self.top, self.left])
    }

    pub(super) fn of_height(self) -> [usize; 2] {
        [self.top, self.bottom]
    }

    pub(super) fn of_width(self) -> [usize; 2] {
        [self.left, self.right]
    }

    /// ONNX's `pads`.
    pub(super) fn onnx(self) -> [usize; 4] {
        [self.top, self.left, self.bottom, self.right]
    }
}

impl From<Padding> for Vec<usize> {
    fn from(padding: Padding) -> Self {
        padding.as_symmetric().map_or_else(|| padding.onnx().to_vec(), |both| both.to_vec())
    }
}

impl TryFrom<Vec<usize>> for Padding {
    type Error = String;

    fn try_from(sides: Vec<usize>) -> Result<Self, String> {
        match sides[..] {
            [height, width] => Ok(Self::symmetric([height, width])),
            [top, left, bottom, right] => Ok(Self { top, left, bottom, right }),
            _ => Err(format!("a padding has 2 or 4 sides, not {}", sides.len())),
        }
    }
}

/// As dumps have it: one number if all sides are alike, two for height and width, else all four.
impl std::fmt::Display for Padding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.as_symmetric() {
            Some([height, width]) if height == width => write!(f, "{height}"),
            Some([height, width]) => write!(f, "{height}x{width}"),
            None => write!(f, "{},{},{},{}", self.top, self.left, self.bottom, self.right),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_is_tensorflows() {
        // 224 / 2 = 112 places want 111 * 2 + 3 = 225 elements; 7 at stride 1 wants 2 more.
        let of = |size, kernel, stride| Padding::same([size; 2], [kernel; 2], [stride; 2]);
        assert_eq!(of(224, 3, 2), Padding { top: 0, left: 0, bottom: 1, right: 1 });
        assert_eq!(of(112, 5, 2), Padding { top: 1, left: 1, bottom: 2, right: 2 });
        assert_eq!(
            (of(7, 3, 1), of(15, 3, 2), of(8, 1, 2)),
            (Padding::all(1), Padding::all(1), Padding::all(0))
        );
    }

    #[test]
    fn files_have_two_numbers_or_four() {
        for (padding, text) in [
            (Padding::all(1), "[1,1]"),
            (Padding::symmetric([3, 0]), "[3,0]"),
            (Padding { top: 0, left: 0, bottom: 1, right: 1 }, "[0,0,1,1]"),
        ] {
            assert_eq!(serde_json::to_string(&padding).unwrap(), text);
            assert_eq!(serde_json::from_str::<Padding>(text).unwrap(), padding);
        }
        assert!(serde_json::from_str::<Padding>("[1]").unwrap_err().to_string().contains("2 or 4 sides"));
    }
}
