//! Flags and TOML to one validated [`RunConfig`], before anything binds or allocates.

mod continuity;
mod list;
mod numbers;
mod resolve;
mod run_config;
mod validate;

pub use continuity::{differences, unlike, with_former_defaults};
pub use list::parse_list;
pub use resolve::{ConfigError, Given, given_checkpoint, resolve};
pub use run_config::*;
pub use validate::validate;
