//! A happening as a line of the event file.

use super::happening::{Happening, Told};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// What every line of a coordinator has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Name of the job.
    pub job: String,
    /// Tells this run from all others; says nothing of what its members know it by.
    pub run: String,
    /// The coordinator's among those that the run has had, from 1.
    pub term: u64,
}

impl Head {
    /// That of a coordinator of the run that its members know by `secret`.
    pub fn new(job: &str, secret: u64, term: u64) -> Self {
        let hash = Sha256::new().chain_update("octrain run").chain_update(secret.to_be_bytes()).finalize();
        Self { job: job.into(), run: crate::hex::hex(&hash[..8]), term }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    job: &'a str,
    run: &'a str,
    term: u64,
    generation: u64,
    #[serde(flatten)]
    what: &'a Happening,
}

/// The line, with its end.
pub fn line(head: &Head, time: SystemTime, generation: u64, what: &Happening) -> Vec<u8> {
    let Head { job, run, term } = head;
    let line = Line { time: rfc3339(time), job, run, term: *term, generation, what };
    let mut bytes =
        serde_json::to_vec(&line).expect("keys are text, and numbers that are not finite become null");
    bytes.push(b'\n');
    bytes
}

/// The same of what was told.
pub(super) fn of(head: &Head, time: SystemTime, told: &Told) -> Vec<u8> {
    line(head, time, told.generation, &told.what)
}

/// UTC with microseconds, by RFC 3339.
pub fn rfc3339(at: SystemTime) -> String {
    let nanoseconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let at = i128::try_from(nanoseconds).ok().and_then(|n| OffsetDateTime::from_unix_timestamp_nanos(n).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond()
    )
}

#[cfg(test)]
mod tests {
    use super::super::happening::{Found, Who};
    use super::*;
    use serde_json::{Value, json};
    use std::time::Duration;

    #[test]
    fn times_are_those_of_utc() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_709_210_096_000_007, "2024-02-29T12:34:56.000007Z"),
            (4_102_444_799_999_999, "2099-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn a_line_is_one_object_whatever_a_worker_has_said() {
        let worker = Who { host: "a\nb".into(), local_index: 1, pid: 7, rank: Some(1) };
        let why = "\"}\u{2028}\n".to_string();
        let what =
            Happening::WorkerLost { worker, found: Found::Silent, why: why.clone(), detect_s: 5.25, step: 3 };
        let bytes = line(&Head::new("j", 7, 2), UNIX_EPOCH, 4, &what);
        assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
        let read: Value = serde_json::from_slice(&bytes).unwrap();
        let run = read["run"].as_str().unwrap();
        assert!(run.len() == 16 && !run.contains("0007"), "{run}");
        let want = json!({
            "time": "1970-01-01T00:00:00.000000Z", "job": "j", "run": run, "term": 2, "generation": 4,
            "event": "worker_lost", "worker": {"host": "a\nb", "local_index": 1, "pid": 7, "rank": 1},
            "found": "silent", "why": why, "detect_s": 5.25, "step": 3,
        });
        assert_eq!(read, want);
    }
}
