//! How values are spread, counted batch by batch without knowing beforehand how far they reach.

/// Bins on either side of 0.
pub const SIDE: usize = 128;

/// Counts of equally wide bins over `[-bound, bound]`; the bound doubles when values lie beyond it.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    bound: f64,
    counts: Vec<u64>,
}

impl Spread {
    /// Empty; `bound` is the first guess at the largest absolute value.
    pub fn new(bound: f64) -> Self {
        let usable = bound.is_finite() && bound > 0.0;
        Self { bound: if usable { bound } else { f64::from(f32::MIN_POSITIVE) }, counts: vec![0; 2 * SIDE] }
    }

    /// Makes room for finite values up to `absmax` and returns the bound to count them by.
    pub fn reach(&mut self, absmax: f64) -> f64 {
        while self.bound < absmax {
            self.bound *= 2.0;
            let mut counts = vec![0; 2 * SIDE];
            for (i, count) in self.counts.iter().enumerate() {
                // Bins pair up away from 0, which stays an edge.
                let place = if i >= SIDE { SIDE + (i - SIDE) / 2 } else { SIDE - 1 - (SIDE - 1 - i) / 2 };
                counts[place] += count;
            }
            self.counts = counts;
        }
        self.bound
    }

    /// The bound as it stands.
    #[cfg(test)]
    pub(super) fn reach_of(&self) -> f64 {
        self.bound
    }

    /// Adds counts of all bins, made by the bound that [`Spread::reach`] gave.
    pub fn add(&mut self, counts: &[u64]) {
        self.counts.iter_mut().zip(counts).for_each(|(sum, c)| *sum += c);
    }

    /// Adds plain values.
    #[cfg(test)]
    pub(super) fn add_values(&mut self, values: &[f64]) {
        let bound = self.reach(values.iter().fold(0.0, |m, v| v.abs().max(m)));
        for v in values {
            let bin = (v / bound * SIDE as f64).floor() as i64 + SIDE as i64;
            self.counts[bin.clamp(0, 2 * SIDE as i64 - 1) as usize] += 1;
        }
    }

    /// The counts between the outermost bins that hold anything, with the ends of those: `(low, high, counts)`.
    /// `None` when nothing was counted.
    pub fn trimmed(&self) -> Option<(f64, f64, Vec<u64>)> {
        let first = self.counts.iter().position(|&c| c > 0)?;
        let last = self.counts.iter().rposition(|&c| c > 0)?;
        let edge = |i: usize| (i as f64 - SIDE as f64) / SIDE as f64 * self.bound;
        Some((edge(first), edge(last + 1), self.counts[first..=last].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stay_where_they_were_when_the_bound_doubles() {
        let mut s = Spread::new(1.0);
        s.add_values(&[-1.0, -0.5, 0.0, 0.0, 0.999]);
        let before = s.trimmed().unwrap();
        assert_eq!((before.0, before.1), (-1.0, 1.0));
        assert_eq!(before.2.iter().sum::<u64>(), 5);
        s.add_values(&[6.0]);
        let (low, high, counts) = s.trimmed().unwrap();
        assert_eq!((low, counts.iter().sum::<u64>(), counts[0]), (-1.0, 6, 1));
        assert!((6.0..6.1).contains(&high) && counts[counts.len() - 1] == 1, "{high}");
        let width = (high - low) / counts.len() as f64;
        assert_eq!(counts[(1.0 / width) as usize], 2, "the zeros lie right of 0");
        // Counted at once, the result is the same.
        let mut once = Spread::new(1.0);
        once.add_values(&[-1.0, -0.5, 0.0, 0.0, 0.999, 6.0]);
        assert_eq!(s, once);
    }

    #[test]
    fn any_guess_does_and_nothing_is_nothing() {
        for guess in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-30, 1e9] {
            let mut s = Spread::new(guess);
            assert_eq!(s.trimmed(), None);
            s.add_values(&[0.0, 3e38, -2.0]);
            assert_eq!(s.trimmed().unwrap().2.iter().sum::<u64>(), 3, "{guess}");
        }
    }
}
