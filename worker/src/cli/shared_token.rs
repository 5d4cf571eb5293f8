//! The token of a job on this host alone, which the process that starts it draws, and where its user finds it.

use super::Exit;
use super::resume::quoted;
use crate::session::JobToken;
use anyhow::{Context, Result};
use std::io::Write;
use tempfile::NamedTempFile;

/// The token of a job, and the file that has it for as long as the job lasts.
pub struct SharedToken {
    /// The token.
    pub token: JobToken,
    /// Readable by this user alone; none where the environment has the token, or where no file can be written.
    file: Option<NamedTempFile>,
}

impl SharedToken {
    /// The token of the environment, else a new one.
    ///
    /// # Errors
    /// When what the environment has is none, or when the system gives no random bytes.
    pub fn of_job() -> Result<Self> {
        if let Some(token) = JobToken::find(None).map_err(Exit::configuration)? {
            return Ok(Self { token, file: None });
        }
        let token = JobToken::draw().context("cannot draw the job's token from /dev/urandom")?;
        let written = || {
            let mut file = tempfile::Builder::new().prefix("octrain-").suffix(".token").tempfile()?;
            writeln!(file, "{}", token.secret())?;
            Ok::<_, std::io::Error>(file)
        };
        let unwritten = |e| {
            tracing::warn!(
                "no file can have the job's token ({e}), so `octrain status` cannot ask for it; OCTRAIN_TOKEN may have one of yours"
            )
        };
        let file = written().map_err(unwritten).ok();
        Ok(Self { token, file })
    }

    /// How `octrain status` is given the token, with a blank in front.
    pub fn flag(&self) -> String {
        let flag =
            |file: &NamedTempFile| format!(" --token-file {}", quoted(&file.path().display().to_string()));
        self.file.as_ref().map_or_else(String::new, flag)
    }
}
