//! Counting where two sets of logits agree.

use crate::engine::predicted;

/// Sums over images.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    /// Images.
    pub images: u64,
    /// Images both predict alike.
    pub agree: u64,
    /// Images the training graph predicts right.
    pub graph: u64,
    /// Images the engine predicts right.
    pub engine: u64,
    /// Largest difference of a logit.
    pub largest: f32,
}

impl Tally {
    /// Adds images: their labels, and logits `[n, classes]` of both sides.
    pub fn add(&mut self, labels: &[i64], graph: &[f32], engine: &[f32], classes: usize) {
        for ((&label, a), b) in labels.iter().zip(graph.chunks(classes)).zip(engine.chunks(classes)) {
            let (x, y) = (predicted(a), predicted(b));
            self.images += 1;
            self.agree += u64::from(x == y);
            self.graph += u64::from(x as i64 == label);
            self.engine += u64::from(y as i64 == label);
            let differences = a.iter().zip(b).map(|(p, q)| (p - q).abs());
            self.largest = differences.fold(self.largest, f32::max);
        }
    }

    fn percent(&self, n: u64) -> f64 {
        100.0 * n as f64 / self.images.max(1) as f64
    }

    /// Percent of images both predict alike.
    pub fn agreement(&self) -> f64 {
        self.percent(self.agree)
    }

    /// Top-1 of the training graph in percent.
    pub fn top1_graph(&self) -> f64 {
        self.percent(self.graph)
    }

    /// Top-1 of the engine in percent.
    pub fn top1_engine(&self) -> f64 {
        self.percent(self.engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_and_accuracy_are_counted_apart() {
        let mut t = Tally::default();
        t.add(&[0, 1, 1], &[2.0, 1.0, 0.0, 1.0, 3.0, 1.0], &[2.0, 1.0, 2.0, 1.0, 0.0, 1.5], 2);
        assert_eq!((t.images, t.agree, t.graph, t.engine), (3, 1, 2, 2));
        assert_eq!(t.largest, 3.0);
        assert!((t.agreement() - 100.0 / 3.0).abs() < 1e-9);
    }
}
