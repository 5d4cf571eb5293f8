//! The fewest layers to leave in floating point for a budget of accuracy.

/// What to do about a network's loss of accuracy.
#[derive(Debug, Clone, PartialEq)]
pub enum Proposal {
    /// Nothing: with everything quantized the loss is within the budget.
    Met,
    /// Leave these layers in floating point.
    Skip {
        /// Names, the most harmful first.
        layers: Vec<String>,
        /// Top-1 that was measured with them skipped, in percent.
        top1: f64,
    },
    /// No set of layers that was tried keeps to the budget while anything is quantized.
    OutOfReach {
        /// The best top-1 that was measured, in percent.
        top1: f64,
        /// How many layers were skipped for it.
        skipped: usize,
    },
}

/// Points of rounding that do not count against a budget.
const ROUNDING: f64 = 1e-9;

/// Skips layers one after the other in the order of `ranked`, the most harmful first, until the network that `measure`
/// evaluates (top-1 in percent with these layers skipped) loses at most `budget` points of `float`; then takes back every
/// layer that turns out not to be needed. At least one layer stays quantized. `quantized` is top-1 with none skipped.
pub fn propose<E>(
    float: f64,
    quantized: f64,
    budget: f64,
    ranked: &[String],
    mut measure: impl FnMut(&[String]) -> Result<f64, E>,
) -> Result<Proposal, E> {
    let within = |top1: f64| float - top1 <= budget + ROUNDING;
    if within(quantized) {
        return Ok(Proposal::Met);
    }
    let (mut best, mut best_count) = (quantized, 0);
    for count in 1..ranked.len() {
        let mut top1 = measure(&ranked[..count])?;
        if !within(top1) {
            if top1 > best {
                (best, best_count) = (top1, count);
            }
            continue;
        }
        let mut layers = ranked[..count].to_vec();
        // The last one is needed: without it the budget was not met.
        for i in (0..count - 1).rev() {
            let mut fewer = layers.clone();
            fewer.remove(i);
            let without = measure(&fewer)?;
            if within(without) {
                (layers, top1) = (fewer, without);
            }
        }
        return Ok(Proposal::Skip { layers, top1 });
    }
    Ok(Proposal::OutOfReach { top1: best, skipped: best_count })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// A network that loses so many points for each of these layers that is quantized.
    fn run(costs: &[(&str, f64)], ranked: &[&str], budget: f64) -> (Proposal, usize) {
        let cost = |skip: &[String]| -> f64 {
            costs.iter().filter(|(n, _)| !skip.iter().any(|s| s == n)).map(|(_, c)| c).sum()
        };
        let ranked: Vec<String> = ranked.iter().map(|r| r.to_string()).collect();
        let mut measured = 0;
        let quantized = 90.0 - cost(&[]);
        let out = propose(90.0, quantized, budget, &ranked, |skip| {
            measured += 1;
            Ok::<_, Infallible>(90.0 - cost(skip))
        });
        (out.unwrap(), measured)
    }

    #[test]
    fn a_budget_that_is_met_costs_no_measurement() {
        assert_eq!(run(&[("a", 0.5)], &["a", "b"], 0.5), (Proposal::Met, 0));
        assert_eq!(run(&[("a", -3.0)], &["a", "b"], 0.0), (Proposal::Met, 0));
    }

    #[test]
    fn the_most_harmful_are_skipped_and_those_that_are_not_needed_taken_back() {
        let costs = [("a", 5.0), ("b", 0.2), ("c", 3.0), ("d", 0.3)];
        let skip =
            |names: &[&str], top1: f64| (names.iter().map(|n| n.to_string()).collect::<Vec<_>>(), top1);
        let of = |ranked: &[&str], budget: f64| match run(&costs, ranked, budget).0 {
            Proposal::Skip { layers, top1 } => (layers, (top1 * 10.0).round() / 10.0),
            other => panic!("{other:?}"),
        };
        assert_eq!(of(&["a", "c", "d", "b"], 4.0), skip(&["a"], 86.5));
        assert_eq!(of(&["a", "c", "d", "b"], 1.0), skip(&["a", "c"], 89.5));
        // A bad ranking costs measurements, not layers.
        assert_eq!(of(&["b", "a", "d", "c", "e"], 1.0), skip(&["a", "c"], 89.5));
    }

    #[test]
    fn a_budget_out_of_reach_is_said_and_something_stays_quantized() {
        let (out, measured) = run(&[("a", 5.0), ("b", 4.0), ("c", 3.0)], &["a", "b", "c"], 1.0);
        assert_eq!((out, measured), (Proposal::OutOfReach { top1: 87.0, skipped: 2 }, 2));
        assert_eq!(run(&[("a", 5.0)], &["a"], 1.0).0, Proposal::OutOfReach { top1: 85.0, skipped: 0 });
    }
}
