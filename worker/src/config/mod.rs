//! Flags and TOML to one validated [`RunConfig`], before anything binds or allocates.

mod numbers;
mod resolve;
mod run_config;
mod validate;

pub use resolve::{ConfigError, Given, resolve};
pub use run_config::*;
