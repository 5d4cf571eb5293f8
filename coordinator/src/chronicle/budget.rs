//! How much is written: whoever makes a job say the same again and again does not fill the disk.

use crate::membership::Now;

/// Bytes that may come at once: as many workers as are possible can register.
const AT_ONCE: u64 = 8 << 20;
/// Bytes a second in the long run.
const RATE: u64 = 64 << 10;

/// Bytes that may be written, and lines that were not.
#[derive(Debug)]
pub struct Budget {
    room: u64,
    at: Now,
    left_out: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { room: AT_ONCE, at: Now::ZERO, left_out: 0 }
    }
}

impl Budget {
    /// Whether there is room for a line of so many bytes; one that is not written is counted.
    pub fn takes(&mut self, now: Now, bytes: usize) -> bool {
        let since = now.saturating_sub(self.at).as_micros() as u64;
        let more = since.saturating_mul(RATE) / 1_000_000;
        self.room = self.room.saturating_add(more).min(AT_ONCE);
        // What is too little for a byte is kept for the next time.
        self.at += Now::from_micros(more.saturating_mul(1_000_000).div_ceil(RATE));
        if self.room == AT_ONCE {
            self.at = self.at.max(now);
        }
        let Some(room) = self.room.checked_sub(bytes as u64) else {
            self.left_out += 1;
            return false;
        };
        self.room = room;
        true
    }

    /// Lines that were not written since this was last asked.
    pub fn left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_in_the_long_run_the_rate() {
        let mut budget = Budget::default();
        let line = 1024;
        let burst = (0..10_000).filter(|_| budget.takes(Now::ZERO, line)).count();
        assert_eq!((burst, budget.left_out()), (8192, 10_000 - 8192));
        let mut taken = 0;
        for ms in 0..10_000 {
            taken += usize::from(budget.takes(Now::from_millis(ms), line));
        }
        assert!((638..=640).contains(&taken), "{taken} KiB in ten seconds");
        assert_eq!((budget.left_out(), budget.left_out()), (10_000 - taken as u64, 0));
        // A long rest is no more than a burst.
        assert_eq!((0..10_000).filter(|_| budget.takes(Now::from_secs(1 << 30), line)).count(), 8192);
    }
}
