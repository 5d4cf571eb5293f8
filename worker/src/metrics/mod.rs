//! JSON lines, progress bars, plain lines.
