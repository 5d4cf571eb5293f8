//! No call of libtorch that panics where it should fail: on a GPU whatever allocates, launches or reads can.

use super::{Source, Violation};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::str::FromStr;

/// Methods of tensors that allocate, launch or read, and panic when that fails; each has a twin `f_...` that returns
/// the error. Names that the standard library has too, such as `sum`, cannot be told apart and are not here.
const METHODS: &[&str] = &[
    "to_device",
    "to_kind",
    "to_dtype",
    "copy_",
    "fill_",
    "zero_",
    "double_value",
    "int64_value",
    "copy_data",
    "contiguous",
    "equal",
    "isfinite",
    "masked_select",
    "index_select",
    "add_",
    "sub_",
    "mul_",
    "div_",
    "set_data",
    "relu_",
    "relu",
    "matmul",
    "conv2d",
    "softmax",
    "log_softmax",
    "argmax",
    "topk",
    "mean_dim",
    "zeros_like",
    "ones_like",
    "add_scalar",
    "mul_scalar",
    "div_scalar",
    "mul_scalar_",
    "backward",
];

/// Functions of `Tensor` that neither allocate nor launch.
const HARMLESS: &[&str] = &["shallow_clone", "size", "kind", "device", "from_ptr"];

/// Where the rule holds.
#[derive(Debug, Clone, Copy)]
pub struct FallibleRules {
    /// Path prefixes, e.g. `worker/src/exec/`.
    pub rooms: &'static [&'static str],
    /// Files in them that only tests use.
    pub tests: &'static [&'static str],
}

impl FallibleRules {
    /// Every infallible call outside tests.
    ///
    /// # Errors
    /// When a file is not Rust.
    pub fn check(&self, sources: &[Source]) -> Result<Vec<Violation>, String> {
        let mut found = Vec::new();
        let within = |s: &&Source| {
            self.rooms.iter().any(|r| s.path.starts_with(r))
                && !s.is_test()
                && !self.tests.contains(&&*s.path)
        };
        for source in sources.iter().filter(within) {
            let stream = TokenStream::from_str(&source.text).map_err(|e| format!("{}: {e}", source.path))?;
            let mut calls = Vec::new();
            collect(stream, &mut calls);
            found.extend(calls.into_iter().map(|(line, call)| Violation {
                place: source.path.clone(),
                line,
                what: format!("`{call}` panics where a GPU fails: use `f_{call}` and return the error"),
            }));
        }
        Ok(found)
    }
}

fn collect(stream: TokenStream, calls: &mut Vec<(usize, String)>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let punct = |at: usize, c: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == c);
    let word = |at: usize| match tokens.get(at) {
        Some(TokenTree::Ident(w)) => w.to_string(),
        _ => String::new(),
    };
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            // Tests may panic.
            TokenTree::Ident(w) if *w == "mod" && word(at + 1) == "tests" => at += 2,
            TokenTree::Punct(p) if p.as_char() == '.' && METHODS.contains(&&*word(at + 1)) => {
                let called = match tokens.get(at + 2) {
                    Some(TokenTree::Group(g)) => g.delimiter() == Delimiter::Parenthesis,
                    _ => false,
                };
                if called {
                    calls.push((p.span().start().line, word(at + 1)));
                }
            }
            TokenTree::Ident(w) if *w == "Tensor" && punct(at + 1, ':') && punct(at + 2, ':') => {
                let name = word(at + 3);
                if !name.is_empty() && !name.starts_with("f_") && !HARMLESS.contains(&&*name) {
                    calls.push((w.span().start().line, name));
                }
            }
            TokenTree::Group(g) => collect(g.stream(), calls),
            _ => {}
        }
        at += 1;
    }
}
