//! One ordered, named list of graph passes.
