//! Arguments and TOML to one validated, serialisable [`RunConfig`], before anything binds or allocates.

mod run_config;

pub use run_config::*;
