//! Whatever bytes are sent to whatever call, with the job's token and without, the coordinator does not panic, its memory stays
//! bounded, and its job does not notice. `scripts/fuzz.sh` sends a million messages.

mod process;
mod raw;
mod worker;

use process::{end, start};
use raw::{Member, Raw, messages};
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::Code;

const TOKEN: &str = "the-token-of-the-job-that-is-fuzzed";
/// Connections that strangers send on at once.
const STRANGERS: u64 = 16;
/// Memory that the coordinator may have had at most, in KiB.
const MOST: u64 = 96 << 10;

/// A generator of its own, so that what fails can be made again: xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) as usize
    }

    /// Bytes and bits of a message changed, taken out and put in, the message cut, said twice or grown; or anything at all.
    fn damaged(&mut self, whole: &[u8]) -> Vec<u8> {
        if self.next().is_multiple_of(8) {
            return (0..self.next() % 512).map(|_| self.next() as u8).collect();
        }
        let mut bytes = whole.to_vec();
        for _ in 0..1 + self.next() % 8 {
            if bytes.is_empty() {
                bytes.push(self.next() as u8);
            }
            let at = self.next() % bytes.len();
            match self.next() % 8 {
                0 | 1 => bytes[at] = self.next() as u8,
                2 | 3 => bytes[at] ^= 1 << (self.next() % 8),
                4 => drop(bytes.drain(at..(at + self.next() % 16).min(bytes.len()))),
                5 => bytes.insert(at, self.next() as u8),
                6 => bytes.truncate(at),
                // Fields that come again are joined.
                _ if bytes.len() < 1 << 16 => bytes.extend_from_within(..),
                _ => bytes.resize(6 << 20, 0x0a),
            }
        }
        bytes
    }
}

/// The most memory that a process has had, in KiB.
fn peak(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// One stranger's messages.
async fn send(address: std::net::SocketAddr, seed: u64, sent: Arc<AtomicU64>, all: u64) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed + 1));
    let (messages, mut raw) = (messages(), Raw::connect(address).await);
    while sent.fetch_add(1, Ordering::Relaxed) < all {
        let (name, whole) = &messages[random.next() % messages.len()];
        let message = random.damaged(whole);
        let token = match random.next() % 4 {
            0 => None,
            1 => Some("another-token-of-another-job"),
            _ => Some(TOKEN),
        };
        match raw.call(name, message, token).await {
            Ok(_) => assert_eq!(token, Some(TOKEN), "{name} was answered to a stranger"),
            Err(e) if token != Some(TOKEN) => {
                // One of more than is read may break off before the answer.
                assert!(
                    matches!(e.code(), Code::Unauthenticated | Code::Unknown | Code::Unavailable),
                    "{name}: {e}"
                );
            }
            // What is no message is tonic's to refuse.
            Err(e) => {
                assert!(e.code() != Code::Internal || e.message().contains("failed to decode"), "{name}: {e}")
            }
        }
        if random.next().is_multiple_of(256) {
            // No HTTP at all.
            let _ = TcpStream::connect(address).unwrap().write_all(&random.damaged(whole));
            raw = Raw::connect(address).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_to_a_coordinator_nothing_panics_and_its_job_goes_on() {
    let rounds = std::env::var("OCTRAIN_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4000);
    let mut token = tempfile::NamedTempFile::new().unwrap();
    token.write_all(TOKEN.as_bytes()).unwrap();
    let (mut child, address) = start(&["--world-size", "1", "--token-file", token.path().to_str().unwrap()]);
    let stderr = child.stderr.take().unwrap();
    let log = tokio::task::spawn_blocking(move || std::io::read_to_string(stderr).unwrap());
    let mut member = Member::join(address, TOKEN).await;
    let sent = Arc::new(AtomicU64::new(0));
    let strangers: Vec<_> =
        (0..STRANGERS).map(|seed| tokio::spawn(send(address, seed, Arc::clone(&sent), rounds))).collect();
    let mut step = 0;
    while strangers.iter().any(|s| !s.is_finished()) {
        step += 1;
        member.beat(step).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    for stranger in strangers {
        stranger.await.expect("what a stranger expects");
    }
    let peak = peak(child.id());
    println!("{rounds} messages, at most {peak} KiB");
    assert!(peak < MOST, "{peak} KiB");
    member.beat(step + 1).await;
    member.leave().await;
    let (status, _) = tokio::task::spawn_blocking(move || end(child)).await.unwrap();
    let log = log.await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(log.len() < 1 << 20, "{} bytes of log", log.len());
}
