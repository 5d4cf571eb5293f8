//! Checkpoints: format, atomic store, resume.
