//! The terminal that a progress bar is drawn on: whole pictures, of which those that a terminal which holds still
//! (Ctrl-S) cannot take are left out. Drawing never waits.

use super::output::sketch;
use console::Term;
use indicatif::TermLike;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Collects a picture until it is complete.
#[derive(Debug, Default)]
pub(super) struct Screen {
    picture: Mutex<String>,
}

impl Screen {
    fn add(&self, text: &str) -> io::Result<()> {
        self.picture.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }

    /// A movement of the cursor, as terminals take it; 0 would be taken for 1.
    fn go(&self, steps: usize, letter: char) -> io::Result<()> {
        if steps == 0 { Ok(()) } else { self.add(&format!("\x1b[{steps}{letter}")) }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        Term::stderr().size().1
    }

    fn height(&self) -> u16 {
        Term::stderr().size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D')
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.add(s)?;
        self.add("\n")
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.add(s)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let picture = std::mem::take(&mut *self.picture.lock().unwrap_or_else(PoisonError::into_inner));
        if picture.is_empty() { Ok(()) } else { sketch(&picture) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_what_a_terminal_would_have_got() {
        let screen = Screen::default();
        screen.move_cursor_up(0).unwrap();
        screen.move_cursor_up(2).unwrap();
        screen.clear_line().unwrap();
        screen.write_str("epoch 0").unwrap();
        assert_eq!(*screen.picture.lock().unwrap(), "\x1b[2A\r\x1b[2Kepoch 0");
    }
}
