//! Where `unsafe` may stand, and that each block says why it is sound.

use super::{Source, Violation};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::str::FromStr;

/// How far above a block its SAFETY note may start, in lines.
const NOTE_REACH: usize = 8;

/// Path prefixes in which `unsafe` may stand.
#[derive(Debug, Clone, Copy)]
pub struct UnsafeRules {
    /// From the repository root, e.g. `worker/src/collective/nccl`.
    pub allowed: &'static [&'static str],
}

impl UnsafeRules {
    /// Every `unsafe` outside the allowed places, and every block or impl without a SAFETY note.
    ///
    /// # Errors
    /// When a file is not Rust.
    pub fn check(&self, sources: &[Source]) -> Result<Vec<Violation>, String> {
        let mut found = Vec::new();
        for source in sources {
            let stream = TokenStream::from_str(&source.text).map_err(|e| format!("{}: {e}", source.path))?;
            let lines: Vec<&str> = source.text.lines().collect();
            let allowed = self.allowed.iter().any(|prefix| source.path.starts_with(prefix));
            let mut uses = Vec::new();
            collect(stream, &mut uses);
            for (line, needs_note) in uses {
                let mut add = |what: &str| {
                    found.push(Violation { place: source.path.clone(), line, what: what.into() });
                };
                if !allowed {
                    add("`unsafe` outside the native bindings; wrap the call there");
                }
                let above = &lines[line.saturating_sub(NOTE_REACH + 1)..line];
                if needs_note && !above.iter().any(|l| l.contains("SAFETY:")) {
                    add("`unsafe` without a `// SAFETY:` note above it");
                }
            }
        }
        Ok(found)
    }
}

/// Lines with the keyword `unsafe`, and whether a note is due (blocks and impls; not declarations).
fn collect(stream: TokenStream, uses: &mut Vec<(usize, bool)>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(word) if *word == "unsafe" => {
                let note = match tokens.get(at + 1) {
                    Some(TokenTree::Group(g)) => g.delimiter() == Delimiter::Brace,
                    Some(TokenTree::Ident(next)) => *next == "impl",
                    _ => false,
                };
                // `#[unsafe(no_mangle)]` and `unsafe extern` declare; nothing is called.
                uses.push((word.span().start().line, note));
            }
            TokenTree::Group(group) => collect(group.stream(), uses),
            _ => {}
        }
    }
}
