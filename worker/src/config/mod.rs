//! Flags and TOML to one validated [`RunConfig`], before anything binds or allocates.

mod choice;
mod continuity;
mod default;
mod error;
#[cfg(feature = "cli")]
mod list;
mod numbers;
#[cfg(feature = "cli")]
mod resolve;
mod run_config;
mod validate;

pub use choice::{Augmentation, LrScheduler, RunScope};
pub use continuity::{differences, unlike, with_former_defaults};
pub use error::{ConfigError, Given};
#[cfg(feature = "cli")]
pub use list::parse_list;
#[cfg(feature = "cli")]
pub use resolve::{given_checkpoint, resolve};
pub use run_config::*;
pub use validate::validate;
