//! How much of which parameters decays.

use crate::exec::WeightsLayout;
use crate::graph::DecayGroup;
use std::ops::Range;
use tch::{TchError, Tensor};

/// Weight decay of each group of parameters; what a rate means is the update rule's.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WeightDecay {
    /// Of layers' weights.
    pub weights: f64,
    /// Of the scales and shifts of normalisations.
    pub norms: f64,
    /// Of layers' biases.
    pub biases: f64,
    /// Of class tokens and embeddings of positions.
    pub embeddings: f64,
}

impl WeightDecay {
    /// Of layers' weights alone, as is usual.
    pub const fn of_weights(rate: f64) -> Self {
        Self { weights: rate, norms: 0.0, biases: 0.0, embeddings: 0.0 }
    }

    /// Of everything alike.
    pub const fn of_all(rate: f64) -> Self {
        Self { weights: rate, norms: rate, biases: rate, embeddings: rate }
    }

    /// The rate of a group.
    pub fn rate(&self, group: DecayGroup) -> f64 {
        match group {
            DecayGroup::Weight => self.weights,
            DecayGroup::Norm => self.norms,
            DecayGroup::Bias => self.biases,
            DecayGroup::Embedding => self.embeddings,
        }
    }

    /// What decays of parameters that lie as `layout` says: as few pieces as there are, without those of rate 0.
    pub(super) fn pieces(&self, layout: &WeightsLayout) -> Vec<Decayed> {
        let mut pieces: Vec<Decayed> = Vec::new();
        let mut offset = 0;
        for &(group, len) in &layout.groups {
            let rate = self.rate(group);
            match pieces.last_mut() {
                Some(last) if last.rate == rate => last.len += len,
                _ => pieces.push(Decayed { offset, len, rate }),
            }
            offset += len;
        }
        pieces.retain(|piece| piece.rate != 0.0 && piece.len > 0);
        pieces
    }
}

/// A piece of flat parameters that decays at one rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decayed {
    /// Its first element.
    pub offset: i64,
    /// Number of elements.
    pub len: i64,
    /// How much of it decays, not 0.
    pub rate: f64,
}

impl Decayed {
    /// The piece of a flat tensor.
    pub fn of(&self, flat: &Tensor) -> Result<Tensor, TchError> {
        flat.f_narrow(0, self.offset, self.len)
    }

    /// The whole of `n` elements in pieces, in order, each with its rate: 0 between and behind the pieces of `decayed`, which
    /// are in order.
    pub(super) fn covering(decayed: &[Decayed], n: i64) -> Vec<(Range<i64>, f64)> {
        let mut all = vec![];
        let mut at = 0;
        for piece in decayed {
            all.push((at..piece.offset, 0.0));
            at = piece.offset + piece.len;
            all.push((piece.offset..at, piece.rate));
        }
        all.push((at..n, 0.0));
        all.retain(|(range, _)| !range.is_empty());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, Op, ParamKind, Parameter};
    use crate::models;

    #[test]
    fn groups_of_one_rate_are_one_piece_and_what_does_not_decay_is_none() {
        let layout = WeightsLayout::new(&models::build("ResNet20", [3, 32, 32], 10).unwrap());
        let [weights, norms, biases] = [0, 1, 2].map(|i| layout.groups[i].1);
        assert_eq!((biases, weights + norms + biases), (10, layout.trainable_len));
        let pieces = |weights, norms, biases| {
            let pieces = WeightDecay { weights, norms, biases, embeddings: 0.0 }.pieces(&layout);
            pieces.iter().map(|p| (p.offset, p.len, p.rate)).collect::<Vec<_>>()
        };
        assert_eq!(pieces(0.1, 0.0, 0.0), [(0, weights, 0.1)]);
        let all = WeightDecay::of_all(0.1).pieces(&layout);
        assert_eq!(all, [Decayed { offset: 0, len: layout.trainable_len, rate: 0.1 }]);
        assert_eq!(pieces(0.1, 0.0, 0.1), [(0, weights, 0.1), (weights + norms, biases, 0.1)]);
        assert_eq!(pieces(0.1, 0.2, 0.2), [(0, weights, 0.1), (weights, norms + biases, 0.2)]);
        assert_eq!(pieces(0.0, 0.0, 0.0), []);
        // Each parameter lies in the piece of its group.
        for slot in &layout.trainable {
            let group = slot.kind.decay_group().unwrap();
            let decay = WeightDecay { weights: 1.0, norms: 2.0, biases: 3.0, embeddings: 4.0 };
            let piece = decay.pieces(&layout).into_iter().find(|p| slot.offset < p.offset + p.len).unwrap();
            assert_eq!(piece.rate, decay.rate(group), "{}", slot.name);
        }
    }

    #[test]
    fn pieces_and_what_lies_between_them_cover_all() {
        let piece = |offset, len, rate| Decayed { offset, len, rate };
        let of = |decayed: &[Decayed], n| Decayed::covering(decayed, n);
        assert_eq!(of(&[], 5), [(0..5, 0.0)]);
        assert_eq!(of(&[piece(0, 5, 0.1)], 5), [(0..5, 0.1)]);
        let between = [piece(1, 2, 0.1), piece(3, 1, 0.2)];
        assert_eq!(of(&between, 6), [(0..1, 0.0), (1..3, 0.1), (3..4, 0.2), (4..6, 0.0)]);
    }

    #[test]
    fn factors_of_branches_decay_as_normalisations_do_and_embeddings_by_a_rate_of_their_own() {
        let (mut b, x) = Builder::new("Tokens", [3, 4, 4]);
        let mut parameter = |name: &str, kind| {
            let name = b.param(name, &[1, 3, 4, 4], kind);
            b.push(&name, Op::Parameter(Parameter::new(name.clone())), &[]).unwrap()
        };
        let positions = parameter("positions", ParamKind::Embedding);
        let factors = parameter("layer_scale", ParamKind::LayerScale);
        let x = b.push("add", Op::Add, &[x, positions]).unwrap();
        let x = b.push("mul", Op::Mul, &[x, factors]).unwrap();
        let graph = b.finish(x).unwrap();
        let decay = WeightDecay { norms: 0.25, embeddings: 0.5, ..WeightDecay::default() };
        let pieces = decay.pieces(&WeightsLayout::new(&graph));
        let want = [(0, 48, 0.25), (48, 48, 0.5)].map(|(offset, len, rate)| Decayed { offset, len, rate });
        assert_eq!(pieces, want);
    }
}
