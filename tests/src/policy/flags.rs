//! Rooms of the library speak of its API: a flag is the command line's.

use super::{Source, Violation};
use proc_macro2::{TokenStream, TokenTree};
use std::str::FromStr;

/// Where no text names a flag.
#[derive(Debug, Clone, Copy)]
pub struct FlagRules {
    /// Path prefixes, e.g. `worker/src/exec/`.
    pub rooms: &'static [&'static str],
    /// Words that may stand in a text all the same, and why.
    pub exceptions: &'static [(&'static str, &'static str)],
}

impl FlagRules {
    /// Every string that names a flag, outside tests, comments and attributes of the command line's parser.
    ///
    /// # Errors
    /// When a file is not Rust.
    pub fn check(&self, sources: &[Source]) -> Result<Vec<Violation>, String> {
        let mut found = Vec::new();
        let within = |s: &&Source| self.rooms.iter().any(|r| s.path.starts_with(r)) && !s.is_test();
        for source in sources.iter().filter(within) {
            let stream = TokenStream::from_str(&source.text).map_err(|e| format!("{}: {e}", source.path))?;
            let mut strings = Vec::new();
            collect(stream, &mut strings);
            for (line, text) in strings {
                let rest = self.exceptions.iter().fold(text, |text, (words, _)| text.replace(words, ""));
                if let Some(flag) = flag(&rest) {
                    found.push(Violation {
                        place: source.path.clone(),
                        line,
                        what: format!(
                            "`{flag}` is a flag: say it in terms of the API; worker/src/cli/advice.rs adds the flag"
                        ),
                    });
                }
            }
        }
        Ok(found)
    }
}

/// The first word of a text that looks like a flag: two dashes and a small letter, behind nothing of a word.
fn flag(text: &str) -> Option<&str> {
    text.match_indices("--").find_map(|(at, _)| {
        let word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        let behind = !text[..at].ends_with(word);
        let name = &text[at + 2..];
        let len = name.find(|c: char| !word(c)).unwrap_or(name.len());
        (behind && name.starts_with(|c: char| c.is_ascii_lowercase())).then(|| &text[at..at + 2 + len])
    })
}

fn collect(stream: TokenStream, strings: &mut Vec<(usize, String)>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let word = |at: usize| match tokens.get(at) {
        Some(TokenTree::Ident(w)) => w.to_string(),
        _ => String::new(),
    };
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(w) if *w == "mod" && word(at + 1) == "tests" => at += 2,
            // A doc comment is an attribute, `doc = "..."`; what clap makes help of is for the command line.
            TokenTree::Ident(w) if *w == "doc" => at += 2,
            TokenTree::Literal(l) => {
                let text = l.to_string();
                if text.starts_with('"') || text.starts_with("r\"") || text.starts_with("r#") {
                    strings.push((l.span().start().line, text));
                }
            }
            TokenTree::Group(g) => collect(g.stream(), strings),
            _ => {}
        }
        at += 1;
    }
}
