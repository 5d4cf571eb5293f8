//! Ranges from histograms of absolute values, as pure functions on counts: every rank that holds the same counts
//! finds the same range to the last bit.
//!
//! Sources: the percentile and the relative entropy (Kullback-Leibler divergence) are those of NVIDIA's TensorRT
//! calibration (S. Migacz, "8-bit inference with TensorRT", GTC 2017); the squared error is minimised over ranges as
//! in arXiv 1810.05723, section 3.

use super::scheme::Scheme;

/// Bins of a histogram.
pub const BINS: usize = 2048;
/// Points of a bin at which its error is taken.
const POINTS: usize = 4;

/// Absolute values of a tensor: `BINS` equal bins over `[0, absmax]`. Exact zeros are counted apart: they cost
/// nothing, whatever the range, and after a ReLU they are many.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Largest absolute value.
    pub absmax: f32,
    /// Values that are exactly 0.
    pub zeros: u64,
    /// Values other than 0, by bin.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Of plain numbers; those above `absmax` are left out.
    pub fn of(values: &[f32], absmax: f32) -> Self {
        let mut h = Self { absmax, zeros: 0, counts: vec![0; BINS] };
        for x in values.iter().map(|x| x.abs()).filter(|&x| x <= absmax) {
            if x == 0.0 {
                h.zeros += 1;
            } else {
                let bin = (f64::from(x) / f64::from(absmax) * BINS as f64) as usize;
                h.counts[bin.min(BINS - 1)] += 1;
            }
        }
        h
    }

    fn width(&self) -> f64 {
        f64::from(self.absmax) / BINS as f64
    }

    fn range(&self, bins: usize) -> f32 {
        if bins == BINS { self.absmax } else { (self.width() * bins as f64) as f32 }
    }

    /// The smallest range that holds `percent` of all values, zeros included; the maximum where all are zero.
    pub fn percentile(&self, percent: f64) -> f32 {
        let all = self.zeros + self.counts.iter().sum::<u64>();
        let wanted = (percent * all as f64 / 100.0).ceil() as u64;
        let mut seen = self.zeros;
        for (bin, count) in self.counts.iter().enumerate() {
            seen += count;
            // A range of no bin at all would clip everything that is not zero.
            if seen >= wanted && seen > self.zeros {
                return self.range(bin + 1);
            }
        }
        self.absmax
    }

    /// The range of the smallest sum of squared differences between values and what their codes of `scheme` stand for.
    pub fn least_squares(&self, scheme: Scheme) -> f32 {
        let qmax = scheme.qmax() as f64;
        self.best(scheme, |bins| {
            let scale = self.width() * bins as f64 / qmax;
            let error = |bin: usize| {
                let point = |p: usize| {
                    let x = (bin as f64 + (p as f64 + 0.5) / POINTS as f64) * self.width();
                    let code = (x / scale).round_ties_even().min(qmax);
                    (x - code * scale).powi(2)
                };
                (0..POINTS).map(point).sum::<f64>()
            };
            let counted = self.counts.iter().enumerate().filter(|(_, c)| **c > 0);
            Some(counted.map(|(bin, &count)| count as f64 * error(bin)).sum())
        })
    }

    /// The range whose codes of `scheme` tell the distribution of the values with the least loss of information: the smallest
    /// Kullback-Leibler divergence of the distribution over codes from that of the values clipped to the range.
    pub fn least_entropy(&self, scheme: Scheme) -> f32 {
        self.best(scheme, |bins| self.divergence(levels(scheme), bins))
    }

    /// Divergence for so many codes and a range of `bins` bins; none where it is not defined.
    fn divergence(&self, levels: usize, bins: usize) -> Option<f64> {
        let kept = &self.counts[..bins];
        let outliers: u64 = self.counts[bins..].iter().sum();
        let total = (kept.iter().sum::<u64>() + outliers) as f64;
        let mut sum = 0.0;
        for level in 0..levels {
            let [from, to] = [level, level + 1].map(|l| l * bins / levels);
            let group = &kept[from..to];
            let filled = group.iter().filter(|&&c| c > 0).count();
            if filled == 0 {
                continue;
            }
            // Each code's mass is spread evenly over the bins of it that hold anything.
            let spread = group.iter().sum::<u64>() as f64 / filled as f64;
            for (i, &count) in group.iter().enumerate().filter(|(_, c)| **c > 0) {
                let clipped = if from + i == bins - 1 { outliers } else { 0 };
                let p = (count + clipped) as f64 / total;
                sum += p * (p / (spread / (total - outliers as f64))).ln();
            }
        }
        // Outliers that fall into a bin no code tells of cannot be told at all.
        (outliers == 0 || kept[bins - 1] > 0).then_some(sum)
    }

    /// The range with the smallest cost; the larger of equals, so the maximum where nothing was counted. Ranges tried reach
    /// from the last bin's end down to one bin a code: below, a code would be narrower than a bin.
    fn best(&self, scheme: Scheme, cost: impl Fn(usize) -> Option<f64>) -> f32 {
        let mut best = (f64::INFINITY, BINS);
        for bins in (levels(scheme)..=BINS).rev().step_by(8) {
            if let Some(cost) = cost(bins)
                && cost < best.0
            {
                best = (cost, bins);
            }
        }
        self.range(best.1)
    }
}

/// Codes from 0 to the largest: those that absolute values have.
fn levels(scheme: Scheme) -> usize {
    scheme.qmax() as usize + 1
}

#[cfg(test)]
mod tests {
    use super::super::scheme::Sign;
    use super::*;

    const SIGNED: Scheme = Scheme::activation(Sign::Signed);
    const UNSIGNED: Scheme = Scheme::activation(Sign::Unsigned);

    /// Absolute values of a normal distribution with deviation 1, by a sum of uniforms.
    fn normal(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    fn absmax(x: &[f32]) -> f32 {
        x.iter().fold(0.0, |m, v| m.max(v.abs()))
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let x: Vec<f32> = (1..=10_000).map(|i| i as f32 / 100.0).collect();
        let h = Histogram::of(&x, 100.0);
        for percent in [50.0, 99.0, 99.9, 100.0] {
            let got = h.percentile(percent);
            assert!((f64::from(got) - percent).abs() <= 200.0 / BINS as f64, "{percent}: {got}");
        }
        // Half the values are zero: the 60th percentile is the 20th of the others.
        let h = Histogram { zeros: 10_000, ..h };
        assert!((h.percentile(60.0) - 20.0).abs() < 0.1);
        // A percentile within the zeros still leaves one bin.
        assert!(h.percentile(10.0) > 0.0);
    }

    /// Mean squared error of quantizing `x` with a range and codes up to `top`, plainly.
    fn squared_error(x: &[f32], range: f32, top: f32) -> f64 {
        let scale = range / top;
        let error = |v: f32| f64::from(v - (v / scale).round_ties_even().clamp(-top, top) * scale).powi(2);
        x.iter().map(|&v| error(v)).sum::<f64>() / x.len() as f64
    }

    #[test]
    fn least_squares_is_no_worse_than_any_range_tried_plainly() {
        let mut x = normal(20_000);
        x.push(40.0);
        let top = absmax(&x);
        let mut before = 0.0;
        for (scheme, codes) in [(SIGNED, 127.0), (UNSIGNED.reduced(), 127.0), (UNSIGNED, 255.0)] {
            let found = Histogram::of(&x, top).least_squares(scheme);
            let error = |range: f32| squared_error(&x, range, codes);
            let here = error(found);
            let best = (1..200).map(|i| error(top * i as f32 / 200.0)).fold(f64::INFINITY, f64::min);
            assert!(here <= best * 1.02, "range {found}: {here:e} against {best:e}");
            assert!(here < error(top) && found < top);
            // Twice the codes are worth a wider range.
            assert_eq!(found > before, codes == 255.0 || before == 0.0, "{found} after {before}");
            before = found;
        }
    }

    /// Counts of a million values of a normal distribution with deviation 1, over `[0, absmax]`.
    fn bell(absmax: f32) -> Histogram {
        let width = f64::from(absmax) / BINS as f64;
        let count = |bin: usize| {
            let x = (bin as f64 + 0.5) * width;
            (2e6 / (2.0 * std::f64::consts::PI).sqrt() * (-0.5 * x * x).exp() * width).round() as u64
        };
        Histogram { absmax, zeros: 0, counts: (0..BINS).map(count).collect() }
    }

    #[test]
    fn entropy_clips_far_outliers_and_keeps_a_plain_distribution() {
        // The smallest range that is tried has a bin a code.
        for (scheme, far) in [(SIGNED, 60.0), (UNSIGNED.reduced(), 60.0), (UNSIGNED, 30.0)] {
            let plain = bell(4.5).least_entropy(scheme);
            assert!(plain > 3.3, "{plain}");
            let mut far = bell(far);
            far.counts[BINS - 1] = 5;
            let clipped = far.least_entropy(scheme);
            assert!(clipped > 3.3 && clipped < 10.0, "{clipped}");
        }
    }

    #[test]
    fn values_fall_into_bins_of_equal_width() {
        let h = Histogram::of(&[0.0, -0.0, 1.0, -1.5, 2047.0, -2048.0, 2048.5, 0.25], BINS as f32);
        let filled: Vec<(usize, u64)> =
            h.counts.iter().copied().enumerate().filter(|(_, c)| *c > 0).collect();
        assert_eq!((h.zeros, filled), (2, vec![(0, 1), (1, 2), (BINS - 1, 2)]));
        assert_eq!((h.absmax, h.width(), h.range(3), h.range(BINS)), (2048.0, 1.0, 3.0, 2048.0));
        // The whole range is the maximum itself, not a product that was rounded.
        let third = Histogram::of(&[], 1.0 / 3.0);
        assert_eq!((third.range(BINS), third.range(BINS / 2)), (1.0 / 3.0, 1.0 / 6.0));
    }

    #[test]
    fn a_percentile_is_the_end_of_the_bin_that_reaches_it() {
        let mut counts = vec![0; BINS];
        (counts[0], counts[9], counts[BINS - 1]) = (50, 49, 1);
        let h = Histogram { absmax: BINS as f32, zeros: 0, counts };
        let of = |percent| h.percentile(percent);
        assert_eq!(
            [of(1.0), of(50.0), of(50.1), of(99.0), of(99.1), of(100.0)],
            [1.0, 1.0, 10.0, 10.0, 2048.0, 2048.0]
        );
        let half = Histogram { zeros: 100, ..h };
        assert_eq!(
            [50.0, 75.0, 75.1, 99.5, 99.6].map(|p| half.percentile(p)),
            [1.0, 1.0, 10.0, 10.0, 2048.0]
        );
    }

    #[test]
    fn a_percentile_among_the_zeros_is_the_first_bin_that_holds_anything() {
        let mut late = Histogram { absmax: BINS as f32, zeros: 100, counts: vec![0; BINS] };
        late.counts[9] = 7;
        assert_eq!(late.percentile(10.0), 10.0);
    }

    /// Ranges that are tried for codes up to `top`, in bins, the largest first.
    fn tried(top: usize) -> impl Iterator<Item = usize> {
        (0..=(BINS - top) / 8).map(|i| BINS - 8 * i)
    }

    #[test]
    fn ranges_are_tried_from_the_largest_down_to_one_bin_a_code() {
        let h = bell(4.0);
        let seen = std::cell::RefCell::new(Vec::new());
        let keep = |bins: usize| -> Option<f64> {
            seen.borrow_mut().push(bins);
            Some(1.0)
        };
        assert_eq!(h.best(SIGNED, keep), 4.0, "the larger of equals");
        assert_eq!(*seen.borrow(), tried(127).collect::<Vec<_>>());
        assert_eq!(h.best(SIGNED, |bins| Some(bins as f64)), 128.0 / 512.0);
        assert_eq!(h.best(UNSIGNED, |bins| Some(bins as f64)), 256.0 / 512.0);
        assert_eq!(h.best(SIGNED, |bins| (bins == 1024).then_some(5.0)), 2.0);
        assert_eq!(h.best(SIGNED, |_| None), 4.0);
    }

    /// Squared error of counts for a range of so many bins and codes up to `top`, by four points of each bin.
    fn cost(h: &Histogram, bins: usize, top: f64) -> f64 {
        let scale = f64::from(h.absmax) / 2048.0 * bins as f64 / top;
        let mut sum = 0.0;
        for (bin, &count) in h.counts.iter().enumerate().filter(|(_, c)| **c > 0) {
            for part in [0.125, 0.375, 0.625, 0.875] {
                let x = f64::from(h.absmax) * (bin as f64 + part) / 2048.0;
                let code = (x / scale).round_ties_even();
                let back = if code > top { top * scale } else { code * scale };
                sum += 0.25 * count as f64 * (x - back) * (x - back);
            }
        }
        sum
    }

    #[test]
    fn least_squares_is_the_least_of_all_ranges_tried() {
        let mut outlier = bell(30.0);
        outlier.counts[BINS - 1] = 3;
        let spikes = (1..40).map(|k| {
            let mut h = Histogram { absmax: 3.0, zeros: 0, counts: vec![0; BINS] };
            (1..4usize).for_each(|i| h.counts[(i * k * 7919) % 1500] = (i * i) as u64);
            h
        });
        let mut clipped = 0;
        for h in [bell(4.5), bell(12.0), outlier].into_iter().chain(spikes) {
            for (scheme, top) in [(SIGNED, 127), (UNSIGNED.reduced(), 127), (UNSIGNED, 255)] {
                let costs = tried(top).map(|bins| (cost(&h, bins, top as f64), bins));
                let (_, least) = costs.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
                clipped += usize::from(least < BINS);
                assert_eq!(h.least_squares(scheme), h.range(least));
            }
        }
        assert!(clipped > 60, "{clipped}");
    }

    /// Kullback-Leibler divergence by its definition, from both distributions bin by bin.
    fn divergence(h: &Histogram, levels: usize, bins: usize) -> f64 {
        let (mut p, mut q) = (vec![0.0; bins], vec![0.0; bins]);
        for level in 0..levels {
            let of = level * bins / levels..(level + 1) * bins / levels;
            let mass: u64 = h.counts[of.clone()].iter().sum();
            let filled = h.counts[of.clone()].iter().filter(|&&c| c > 0).count();
            for bin in of.filter(|&bin| h.counts[bin] > 0) {
                (p[bin], q[bin]) = (h.counts[bin] as f64, mass as f64 / filled as f64);
            }
        }
        p[bins - 1] += h.counts[bins..].iter().sum::<u64>() as f64;
        let (all, kept) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
        p.iter()
            .zip(&q)
            .filter(|(p, _)| **p > 0.0)
            .map(|(p, q)| p / all * ((p / all) / (q / kept)).ln())
            .sum()
    }

    #[test]
    fn the_divergence_is_that_of_its_definition() {
        let mut sparse = bell(6.0);
        sparse.counts.iter_mut().enumerate().filter(|(i, _)| i % 3 == 1).for_each(|(_, c)| *c = 0);
        for h in [bell(4.5), bell(12.0), sparse] {
            for (levels, bins) in
                [128, 256].into_iter().flat_map(|l| [l, 264, 776, 1024, 2040, BINS].map(|b| (l, b)))
            {
                let defined = h.counts[bins - 1] > 0 || h.counts[bins..].iter().all(|&c| c == 0);
                match h.divergence(levels, bins) {
                    Some(got) => {
                        let want = divergence(&h, levels, bins);
                        assert!(
                            defined && (got - want).abs() <= 1e-12 + 1e-9 * want.abs(),
                            "{bins}: {got}, not {want}"
                        );
                    }
                    None => assert!(!defined, "{bins}"),
                }
            }
        }
        let mut gap = bell(4.5);
        gap.counts[1023] = 0;
        assert_eq!(gap.divergence(128, 1024), None, "outliers that no code tells of");
        assert!(gap.divergence(128, 1025).is_some());
        // Nothing beyond the range: an empty last bin is no matter.
        gap.counts[1023..].fill(0);
        assert!(gap.divergence(128, 1024).is_some());
    }

    #[test]
    fn constant_and_zero_tensors_keep_their_range() {
        for (x, top) in [(vec![0.0f32; 100], 0.0f32), (vec![3.0; 100], 3.0), (vec![], 0.0)] {
            let h = Histogram::of(&x, top);
            for range in [h.percentile(99.0), h.least_squares(SIGNED), h.least_entropy(UNSIGNED)] {
                assert_eq!(range, top);
            }
        }
    }
}
