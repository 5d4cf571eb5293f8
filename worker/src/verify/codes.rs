//! Integer codes of both sides, held against each other.

/// Differences of the codes of one layer, in units of its last place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Codes {
    /// Codes compared.
    pub values: u64,
    /// Those that differ by 1.
    pub by_one: u64,
    /// Those that differ by more.
    pub by_more: u64,
    /// The largest difference; `u64::MAX` where a side holds NaN.
    pub largest: u64,
}

impl Codes {
    /// Adds values of both sides, which are codes times `scale`.
    pub fn add(&mut self, trained: &[f32], deployed: &[f32], scale: f32) {
        for (a, b) in trained.iter().zip(deployed) {
            let apart = (a / scale).round_ties_even() - (b / scale).round_ties_even();
            let apart = if apart.is_nan() { u64::MAX } else { apart.abs() as u64 };
            self.values += 1;
            self.by_one += u64::from(apart == 1);
            self.by_more += u64::from(apart > 1);
            self.largest = self.largest.max(apart);
        }
    }

    /// Adds another count.
    pub fn merge(&mut self, other: &Codes) {
        self.values += other.values;
        self.by_one += other.by_one;
        self.by_more += other.by_more;
        self.largest = self.largest.max(other.largest);
    }

    /// Percent of the codes that differ by 1 at most.
    pub fn within_one(&self) -> f64 {
        100.0 - self.percent(self.by_more)
    }

    /// Percent of the codes that are equal.
    pub fn equal(&self) -> f64 {
        100.0 - self.percent(self.by_one + self.by_more)
    }

    fn percent(&self, n: u64) -> f64 {
        100.0 * n as f64 / self.values.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_counted_in_codes() {
        let mut c = Codes::default();
        c.add(&[0.0, 0.5, -63.5, 1.0], &[0.0, 1.0, -64.0, 2.5], 0.5);
        assert_eq!(c, Codes { values: 4, by_one: 2, by_more: 1, largest: 3 });
        assert_eq!((c.within_one(), c.equal()), (75.0, 25.0));
        c.merge(&Codes { values: 4, by_one: 0, by_more: 0, largest: 0 });
        assert_eq!((c.values, c.within_one(), c.largest), (8, 87.5, 3));
    }

    #[test]
    fn nan_is_the_largest_difference() {
        let mut c = Codes::default();
        c.add(&[f32::NAN, 1.0], &[1.0, f32::NAN], 1.0);
        assert_eq!((c.by_more, c.largest), (2, u64::MAX));
    }
}
