//! The paths (`a::b::c`) a source file mentions, in `use` trees, code and macro arguments alike.

use super::Source;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::str::FromStr;

/// One path as written, with `self`/`super` resolved against the file's place in its crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathUse {
    /// Segments; the first is `crate` or the name of an external crate (or of a local item).
    pub segments: Vec<String>,
    /// Line, from 1.
    pub line: usize,
    /// Whether it stands in a `#[cfg(test)]` module.
    pub in_test: bool,
}

/// Every path of two or more segments in `source`, and every name that `use` or `extern crate` brings in.
///
/// # Errors
/// The tokenizer's message when the file is not Rust.
pub fn paths(source: &Source) -> Result<Vec<PathUse>, String> {
    let stream = TokenStream::from_str(&source.text).map_err(|e| format!("{}: {e}", source.path))?;
    let mut walk = Walk { module: source.module(), in_test: source.is_test(), found: Vec::new() };
    walk.stream(stream);
    Ok(walk.found)
}

struct Walk {
    module: Vec<String>,
    in_test: bool,
    found: Vec<PathUse>,
}

impl Walk {
    fn stream(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let (mut at, mut test_next) = (0, false);
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Punct(p) if p.as_char() == '#' => {
                    test_next |=
                        matches!(tokens.get(at + 1), Some(TokenTree::Group(g)) if is_cfg_test(&g.stream()));
                    at += 1;
                }
                TokenTree::Ident(word) if *word == "use" => {
                    at = self.tree(&tokens, at + 1, &[], true);
                    test_next = false;
                }
                TokenTree::Ident(word) if *word == "mod" => at = self.module(&tokens, at, &mut test_next),
                TokenTree::Ident(_) if !follows_dot(&tokens, at) => at = self.tree(&tokens, at, &[], false),
                TokenTree::Group(group) => {
                    self.stream(group.stream());
                    at += 1;
                    test_next &= group.delimiter() == Delimiter::Bracket;
                }
                _ => at += 1,
            }
        }
    }

    /// `mod name { ... }`: the same walk, one module deeper.
    fn module(&mut self, tokens: &[TokenTree], at: usize, test: &mut bool) -> usize {
        let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
            (tokens.get(at + 1), tokens.get(at + 2))
        else {
            *test = false;
            return at + 1;
        };
        let outer = self.in_test;
        self.in_test |= std::mem::take(test);
        self.module.push(name.to_string());
        self.stream(body.stream());
        self.module.pop();
        self.in_test = outer;
        at + 3
    }

    /// A path or a `use` tree that starts at `at`; returns where it ends.
    fn tree(&mut self, tokens: &[TokenTree], mut at: usize, prefix: &[String], used: bool) -> usize {
        let mut segments = prefix.to_vec();
        while is_colons(tokens, at) {
            at += 2; // `::name`
        }
        let line = tokens.get(at).map_or(0, |t| t.span().start().line);
        loop {
            match tokens.get(at) {
                Some(TokenTree::Ident(word)) => {
                    let word = word.to_string();
                    if word != "self" || segments.is_empty() {
                        segments.push(word.trim_start_matches("r#").to_string());
                    }
                    at += 1;
                }
                Some(TokenTree::Punct(p)) if used && p.as_char() == '*' => {
                    segments.push("*".into());
                    at += 1;
                    break;
                }
                Some(TokenTree::Group(group)) if used && group.delimiter() == Delimiter::Brace => {
                    self.group(&group.stream().into_iter().collect::<Vec<_>>(), &segments);
                    return at + 1;
                }
                _ => break,
            }
            if !is_colons(tokens, at) {
                break;
            }
            at += 2;
        }
        if used || segments.len() > 1 {
            self.add(segments, line);
        }
        at
    }

    /// The branches of `prefix::{a, b::c}`.
    fn group(&mut self, tokens: &[TokenTree], prefix: &[String]) {
        for branch in tokens.split(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == ',')) {
            if !branch.is_empty() {
                self.tree(branch, 0, prefix, true);
            }
        }
    }

    fn add(&mut self, segments: Vec<String>, line: usize) {
        let mut rest = segments.as_slice();
        let mut base = None;
        while let Some((first, tail)) = rest.split_first() {
            let here = base.get_or_insert_with(|| self.module.clone());
            match first.as_str() {
                "self" => rest = tail,
                "super" => {
                    here.pop();
                    rest = tail;
                }
                _ => break,
            }
        }
        let relative = rest.len() < segments.len();
        let segments = match base {
            Some(base) if relative => [vec!["crate".to_string()], base, rest.to_vec()].concat(),
            _ => segments,
        };
        self.found.push(PathUse { segments, line, in_test: self.in_test });
    }
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |t: Option<&TokenTree>| matches!(t, Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(tokens.get(at)) && colon(tokens.get(at + 1))
}

fn follows_dot(tokens: &[TokenTree], at: usize) -> bool {
    at > 0 && matches!(&tokens[at - 1], TokenTree::Punct(p) if p.as_char() == '.')
}

fn is_cfg_test(attribute: &TokenStream) -> bool {
    let text: String = attribute.to_string().split_whitespace().collect();
    text.starts_with("cfg(") && text.contains("test") && !text.contains("not(test")
}
