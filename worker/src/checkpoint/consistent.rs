//! Whether what a manifest says fits together: a pure function, asked before it is written and after it is read.

use super::Manifest;
use crate::data::Preprocessing;
use crate::graph::NetworkFacts;
use crate::passes::{self, Pass};
use crate::strategy::{Purpose, Strategy};

/// What of a manifest contradicts what else of it; none where nothing does.
pub(super) fn contradiction(m: &Manifest) -> Option<String> {
    recipe(m).or_else(|| passes(m)).or_else(|| settings(m))
}

/// Recipe of quantization and its state: neither is without the other.
fn recipe(m: &Manifest) -> Option<String> {
    match (&m.strategy.qat, &m.qat) {
        (None, None) => None,
        (None, Some(_)) => Some(
            "it holds the state of quantization (`qat`) and no recipe that led to it (`strategy.qat`)".into(),
        ),
        (Some(_), None) => {
            Some("its recipe says quantization (`strategy.qat`), and it holds no state of it (`qat`)".into())
        }
        (Some(recipe), Some(state)) if recipe.target != state.target => {
            Some(format!("`strategy.qat.target` is {}, and `qat.target` is {}", recipe.target, state.target))
        }
        (Some(recipe), Some(_)) => recipe.check().err().map(|e| format!("`strategy` cannot be: {e}")),
    }
}

/// Passes that are listed without what asks for them, or the other way round. Passes of a program's own are its own affair.
fn passes(m: &Manifest) -> Option<String> {
    // Of the network only reasons depend in training, and what is folded, which nothing is.
    let decided = |strategy: &Strategy| passes::decide(strategy, &NetworkFacts::default(), Purpose::Train);
    let listed = |pass: Pass| m.passes.iter().any(|name| name == pass.name());
    let float = decided(&m.strategy.without_qat());
    for (decision, float) in decided(&m.strategy).into_iter().zip(float) {
        let name = decision.pass.name();
        if !decision.on && listed(decision.pass) {
            let reason = decision.reason;
            return Some(format!(
                "it lists the pass `{name}`, which its strategy does not ask for: {reason}"
            ));
        }
        if decision.on && !float.on && !listed(decision.pass) {
            return Some(format!(
                "its strategy has a recipe of quantization, and `{name}`, which follows from it, is not among its `passes`"
            ));
        }
    }
    None
}

/// The checkpoint's own facts and the settings of its run.
fn settings(m: &Manifest) -> Option<String> {
    let config = m.config.as_ref()?;
    let differs = [
        ("strategy", config.strategy() != m.strategy),
        ("preprocessing", Preprocessing::of(&config.data) != m.preprocessing),
        ("image-shape", config.model.image_shape != m.image_shape),
    ];
    let (key, _) = differs.into_iter().find(|(_, differs)| *differs)?;
    Some(format!("`{key}` and `config` say different things of the same training"))
}
