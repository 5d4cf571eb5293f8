//! Whether gradients leave while backward still runs: to measure what that hides.

use super::TrainError;

/// Environment variable that keeps gradients until backward is over, where it is 0. What is trained is the same.
pub(super) const OVERLAP: &str = "OCTRAIN_OVERLAP";

/// What the variable says; if nothing, they leave as they come.
pub(super) fn overlap(said: Option<&str>) -> Result<bool, TrainError> {
    match said {
        None | Some("" | "1") => Ok(true),
        Some("0") => Ok(false),
        Some(said) => Err(TrainError::Config(format!("{OVERLAP} is `{said}`, neither 0 nor 1"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_leave_as_they_come_unless_they_are_to_wait() {
        assert!([None, Some(""), Some("1")].iter().all(|said| overlap(*said).unwrap()));
        assert!(!overlap(Some("0")).unwrap());
        let e = overlap(Some("no")).unwrap_err();
        assert_eq!(e.kind(), crate::session::FailureKind::Configuration);
        assert!(e.to_string().contains("OCTRAIN_OVERLAP is `no`"), "{e}");
    }
}
