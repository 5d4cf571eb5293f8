//! Whose checkpoints these are.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A run: made when it starts anew, kept by all who go on with it, written into every manifest and into `run.json` of
/// the output folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunIdentity {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// Seconds since 1970 when it was started first.
    pub started_unix: u64,
    /// Host it was started on.
    pub host: String,
}

impl RunIdentity {
    /// A new one, different from all others: by host, process and nanosecond.
    pub fn new(host: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed = format!("{host} {} {}", std::process::id(), now.as_nanos());
        let digest = Sha256::digest(seed.as_bytes());
        Self {
            id: digest.iter().take(6).map(|b| format!("{b:02x}")).collect(),
            started_unix: now.as_secs(),
            host: host.into(),
        }
    }
}

impl fmt::Display for RunIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {} (started {} on {})", self.id, date(self.started_unix), self.host)
    }
}

/// Seconds since 1970 as `2026-11-24 21:05:09 UTC`.
pub fn date(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Years that begin in March have their leap day at the end; 400 of them are 146,097 days.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (h, m, s) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{date:02} {h:02}:{m:02}:{s:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, want) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_210_096, "2024-02-29 12:34:56 UTC"),
            (1_795_556_028, "2026-11-24 21:33:48 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(date(unix), want);
        }
    }

    #[test]
    fn no_two_runs_are_the_same() {
        let (a, b) = (RunIdentity::new("x"), RunIdentity::new("x"));
        assert_ne!(a.id, b.id);
        assert_eq!(a.id.len(), 12);
        assert!(a.to_string().starts_with(&format!("run {} (started 20", a.id)), "{a}");
    }
}
