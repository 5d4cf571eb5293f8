//! Shared means for the end-to-end tests.
