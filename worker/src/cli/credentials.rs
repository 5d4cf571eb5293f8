//! Flags of what shows a coordinator that a process is of its job.

use super::Exit;
use super::resume::quoted;
use crate::session::{Credentials, JobToken};
use std::path::PathBuf;

/// What shows a coordinator that this process is of its job.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CredentialFlags {
    /// File with the job's token, where its coordinator was given one. The environment may have the token itself (OCTRAIN_TOKEN) in
    /// its place.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl CredentialFlags {
    /// Reads them.
    ///
    /// # Errors
    /// When a file that is named is none.
    pub fn read(&self) -> Result<Credentials, Exit> {
        let token = JobToken::find(self.token_file.as_deref()).map_err(Exit::configuration)?;
        Ok(Credentials { token })
    }

    /// As they are given again, each with a blank in front.
    pub fn again(&self) -> String {
        match &self.token_file {
            Some(path) => format!(" --token-file {}", quoted(&path.display().to_string())),
            None => String::new(),
        }
    }
}
