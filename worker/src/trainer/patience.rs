//! How long a collective may wait.

use super::TrainError;
use std::time::Duration;

/// Longest wait of a collective, where [`PATIENCE`] does not say otherwise; where a worker dies, the coordinator's
/// liveness ends the job long before.
const COLLECTIVE: Duration = Duration::from_secs(600);

/// Environment variable with the longest wait of a collective, in seconds.
pub(super) const PATIENCE: &str = "OCTRAIN_COLLECTIVE_TIMEOUT";

/// The longest wait of a collective: what the variable says, if it says something.
pub(super) fn patience(said: Option<&str>) -> Result<Duration, TrainError> {
    let Some(said) = said.filter(|s| !s.is_empty()) else { return Ok(COLLECTIVE) };
    match said.parse::<u64>() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(TrainError::Config(format!("{PATIENCE} is `{said}`, not whole seconds from 1 to 86400"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_of_a_collective_can_be_set_and_is_checked() {
        assert_eq!(patience(None).unwrap(), COLLECTIVE);
        assert_eq!(patience(Some("")).unwrap(), COLLECTIVE);
        assert_eq!(patience(Some("90")).unwrap(), Duration::from_secs(90));
        for bad in ["0", "86401", "1.5", "ten"] {
            let e = patience(Some(bad)).unwrap_err();
            assert_eq!(e.kind(), crate::session::FailureKind::Configuration);
            assert!(e.to_string().contains(PATIENCE) && e.to_string().contains(bad), "{e}");
        }
    }
}
