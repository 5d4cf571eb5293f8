//! A launcher or worker that cannot be run as configured says so to the coordinator before it ends: the others would
//! wait for it in vain.

use super::Exit;
use crate::launcher::EXIT_CONFIGURATION;
use crate::launcher::signals::{self, Stage};
use crate::metrics::last_word;
use crate::session::{GivingUp, SessionError, give_up};
use anyhow::Error;
use std::time::Duration;

/// Longest wait for a coordinator that is only to be told of an error.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Passes an error on; where it is one of the configuration, it is said at once and then told to the coordinator.
pub fn told(who: &GivingUp, e: Error) -> Error {
    let message = match e.downcast_ref::<Exit>() {
        Some(exit) if exit.code == EXIT_CONFIGURATION => exit.message.clone(),
        _ => return e,
    };
    last_word(format_args!("octrain: {message}"));
    tell(who, &brief(&message));
    Exit::configuration("").into()
}

/// Tells the coordinator. A signal ends that, and changes nothing about the error.
pub fn tell(who: &GivingUp, why: &str) {
    let GivingUp { coordinator, patience, .. } = who;
    last_word(format_args!(
        "octrain: telling the coordinator at {coordinator}, for at most {} s",
        patience.as_secs()
    ));
    let told = signals::enter(Stage::Supervising).map_err(SessionError::Runtime);
    match told.and_then(|interrupt| give_up(who, why, || interrupt.requested())) {
        Ok(()) => last_word("octrain: told; the job is ended"),
        Err(e) => last_word(format_args!("octrain: not told: {e}")),
    }
}

/// What is wrong with a command line, on one line: without the usage that a person is shown below it.
pub fn brief(text: &str) -> String {
    let said =
        text.lines().map(str::trim).take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more"));
    said.filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_error_is_told_without_its_usage() {
        let command = clap::Command::new("x").arg(clap::Arg::new("epochs").long("epochs"));
        let e = command.try_get_matches_from(["x", "--epoch", "3"]).unwrap_err();
        let told = brief(&e.render().to_string());
        assert!(told.starts_with("error: unexpected argument '--epoch' found"), "{told}");
        assert!(told.contains("'--epochs'") && !told.contains('\n') && !told.contains("Usage"), "{told}");
    }
}
