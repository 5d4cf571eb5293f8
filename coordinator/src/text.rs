//! Text from elsewhere, made fit for logs, terminals and headers: on one line, without control characters, and
//! bounded.

/// Longest message of a refused call, in bytes. It travels in a trailer, percent-encoded (up to three times as long),
/// and peers drop trailers of more than 16 KiB, with the message.
pub const MAX_STATUS: usize = 3072;
/// Longest reason for the end of a job, in bytes; a refusal has to have room for it.
pub const MAX_REASON: usize = 2560;

/// Whether a character can do more in a terminal or a log than be shown: control characters, line separators, and
/// those that change the direction of writing.
pub fn hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// The text on one line of about `max` bytes: what is [`hostile`] is escaped as in Rust (`\n`, `\u{1b}`), and what is
/// too long ends with its full length. Applied to its own result it changes nothing.
pub fn line(text: &str, max: usize) -> String {
    let text = text.trim_end();
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let before = out.len();
        if hostile(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        if out.len() > max {
            // Room for this note, so that the result is not shortened again.
            let note = format!("... ({} bytes in all)", text.len());
            let mut keep = before.min(max.saturating_sub(note.len()));
            while !out.is_char_boundary(keep) {
                keep -= 1;
            }
            out.truncate(keep);
            out.push_str(&note);
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_whatever_was_sent() {
        for (text, want) in [
            ("all-reduce: peer closed", "all-reduce: peer closed"),
            ("größer ✓\n", "größer ✓"),
            ("a\nINFO all is well\r\n\tb", "a\\nINFO all is well\\r\\n\\tb"),
            ("\u{1b}[2Jgone \u{7f}\u{9b}\u{0}", "\\u{1b}[2Jgone \\u{7f}\\u{9b}\\u{0}"),
            ("safe\u{202e}efas\u{2028}", "safe\\u{202e}efas"),
        ] {
            assert_eq!(line(text, 200), want);
            assert_eq!(line(&line(text, 200), 200), line(text, 200));
        }
    }

    #[test]
    fn long_text_keeps_its_beginning_and_tells_its_length() {
        for text in ["x".repeat(5000), "ä✓".repeat(1000), "\u{1b}".repeat(5000)] {
            let short = line(&text, 100);
            assert!(short.len() <= 100 && short.ends_with(" bytes in all)"), "{short}");
            assert_eq!(line(&short, 100), short);
        }
    }
}
