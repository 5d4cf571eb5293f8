//! `octrain resize`: how many workers a running job is to have.

use super::Exit;
use super::credentials::CredentialFlags;
use super::status::same_version;
use crate::launcher::{EXIT_ABORTED, EXIT_CONFIGURATION, EXIT_ERROR, EXIT_OK};
use crate::metrics::print;
use crate::session::{self, SessionError};
use anyhow::Result;

/// Arguments of `octrain resize`.
#[derive(Debug, Clone, clap::Args)]
pub struct ResizeArgs {
    /// `HOST:PORT` of the coordinator.
    #[arg(value_name = "HOST:PORT", env = "OCTRAIN_COORDINATOR")]
    pub coordinator: String,
    /// Workers that the job is to have: from its minimum to as many as it was started with, or as its coordinator allows (--max-world).
    #[arg(value_name = "N")]
    pub workers: u32,
    /// What shows the coordinator that this process may say so.
    #[command(flatten)]
    pub credentials: CredentialFlags,
}

/// Runs the command.
pub fn main(args: &ResizeArgs) -> Result<u8> {
    let credentials = args.credentials.read()?;
    let wish = || -> Result<String, Exit> {
        let status = session::status(&args.coordinator, &credentials, false).map_err(refused)?;
        same_version(&args.coordinator, &status)?;
        session::resize(&args.coordinator, &credentials, args.workers).map_err(refused)
    };
    print(format!("{}\n", wish()?))?;
    Ok(EXIT_OK)
}

/// How the command ends where nothing becomes of the wish.
fn refused(e: SessionError) -> Exit {
    let (code, message) = match e {
        // It may become one later.
        SessionError::Refused { kind, message, .. } if kind == "not-running" => (EXIT_ABORTED, message),
        SessionError::Refused { kind, message, .. } if kind == "resize" => (EXIT_CONFIGURATION, message),
        SessionError::Refused { kind, .. } if kind == "finished" => {
            (EXIT_CONFIGURATION, "the job has finished: it has no workers any more".into())
        }
        SessionError::Ended { message, .. } => {
            (EXIT_CONFIGURATION, format!("the job has ended, and has no workers any more: {message}"))
        }
        SessionError::Address { address } => {
            (EXIT_CONFIGURATION, format!("`{address}` is not HOST:PORT, e.g. node-0:29400"))
        }
        SessionError::Unreachable { address, last: why, .. } | SessionError::Lost { address, why, .. } => (
            EXIT_ERROR,
            format!(
                "no coordinator answers at {address} ({why}); a job that has ended has none; otherwise check the address, and that no firewall is between"
            ),
        ),
        e if e.is_configuration() => (EXIT_CONFIGURATION, super::advice::told(&e)),
        e => (EXIT_ERROR, super::advice::told(&e)),
    };
    Exit { code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_code() {
        let of = |kind: &str| {
            let (address, message) = ("a:1".into(), "why".into());
            refused(SessionError::Refused { address, kind: kind.into(), message })
        };
        for (kind, code) in [("not-running", 3), ("resize", 2), ("finished", 2), ("token", 2), ("busy", 1)] {
            assert_eq!(of(kind).code, code, "{kind}");
        }
        assert_eq!(of("resize").message, "why");
        let ended = SessionError::Ended { message: "rank 1 is lost".into(), configuration: false };
        assert_eq!(refused(ended).code, 2);
        let lost = SessionError::Lost { address: "a:1".into(), call: "resize", why: "reset".into() };
        assert_eq!(refused(lost).code, 1);
    }
}
