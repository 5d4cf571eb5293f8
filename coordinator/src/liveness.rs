//! Who is taken for dead. Silence is counted on the coordinator's own [clock](crate::clock), which stands still while
//! the coordinator does. A broken connection alone proves nothing (networks blink): it only shortens the time a worker
//! has to be heard.

use crate::chronicle::Found;
use crate::config::CoordinatorConfig;
use crate::membership::{Member, Members, Now};

/// Heartbeat time-outs that a member has to be heard by a coordinator that was started anew: its name may have to resolve to
/// another address first.
pub const UNHEARD: u32 = 6;

/// When a member, not heard again, is taken for dead.
pub fn deadline(member: &Member, config: &CoordinatorConfig) -> Now {
    let silent = member.last_seen + config.heartbeat_timeout;
    match member.disconnected {
        Some(at) => silent.min(at + config.disconnect_grace),
        None => silent,
    }
}

/// A member taken for dead.
#[derive(Debug, Clone, PartialEq)]
pub struct Lost {
    /// Its name.
    pub member: String,
    /// What makes it dead.
    pub cause: String,
    /// How that is known.
    pub found: Found,
}

/// Members past their deadline; the one that fell silent first comes first.
pub fn lost(now: Now, members: &Members, config: &CoordinatorConfig) -> Vec<Lost> {
    let mut late: Vec<(&String, &Member)> =
        members.iter().filter(|(_, m)| m.lives() && deadline(m, config) <= now).collect();
    late.sort_by_key(|(_, m)| m.disconnected.unwrap_or(m.last_seen));
    late.into_iter().map(|(name, m)| found(now, name, m)).collect()
}

/// A member that had missed at least two heartbeats when `this` one was heard of for the last time, and has not been
/// heard since. What happened to `this` one may be the echo of that silence: a peer that stands still takes down those
/// that wait for it.
pub fn silent_before<'a>(this: &Member, members: &'a Members, config: &CoordinatorConfig) -> Option<&'a str> {
    let heard = this.disconnected.unwrap_or(this.last_seen);
    let older = |m: &Member| m.counted() && m.last_seen + config.heartbeat_interval * 2 < heard;
    let silent = members.iter().filter(|(_, m)| m.disconnected.is_none() && older(m));
    silent.min_by_key(|(_, m)| m.last_seen).map(|(name, _)| name.as_str())
}

/// Whether a lost member is not to be blamed yet: its connection broke when another one had been silent for long, and
/// that one's time is not over. It is within the heartbeat time-out, or by a sign of life.
pub fn awaits_older(lost: &Lost, members: &Members, config: &CoordinatorConfig) -> bool {
    let this = members.get(&lost.member);
    this.is_some_and(|m| m.disconnected.is_some() && silent_before(m, members, config).is_some())
}

/// A member that is not heard any more.
pub fn found(now: Now, name: &str, member: &Member) -> Lost {
    let found = if member.disconnected.is_some() { Found::Disconnected } else { Found::Silent };
    Lost { member: name.into(), cause: cause(now, member), found }
}

/// What speaks for a member's death.
pub fn cause(now: Now, member: &Member) -> String {
    let silent = now.saturating_sub(member.last_seen).as_secs_f64();
    match member.disconnected {
        Some(_) => format!(
            "its connection broke without leaving and it has not been heard for {silent:.1} s (killed, crashed, out of memory, or its host is gone)"
        ),
        None => format!("no heartbeat for {silent:.1} s (stopped, its host is overloaded or unreachable)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::member;
    use std::time::Duration;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn with(last_seen: u64, disconnected: Option<u64>) -> Member {
        Member { last_seen: ms(last_seen), disconnected: disconnected.map(ms), ..member("a", 0, 1) }
    }

    #[test]
    fn deadlines() {
        let config = CoordinatorConfig::new("x", 1);
        for (m, want) in [
            (with(0, None), 5000),
            (with(700, None), 5700),
            (with(700, Some(1000)), 3000),
            (with(0, Some(4900)), 5000),
        ] {
            assert_eq!(deadline(&m, &config), ms(want), "{m:?}");
        }
    }

    #[test]
    fn the_first_to_fall_silent_comes_first_and_those_who_left_do_not_count() {
        let config = CoordinatorConfig::new("x", 4);
        let mut members = Members::new();
        members.insert("0".into(), with(2000, None));
        members.insert("1".into(), with(1000, None));
        members.insert("2".into(), Member { left: true, ..with(0, None) });
        members.insert("3".into(), Member { failed: true, ..with(0, None) });
        assert!(lost(ms(5999), &members, &config).is_empty());
        let names = |at| lost(ms(at), &members, &config).into_iter().map(|l| l.member).collect::<Vec<_>>();
        assert_eq!(names(6000), ["1"]);
        assert_eq!(names(7000), ["1", "0"]);
    }
}
