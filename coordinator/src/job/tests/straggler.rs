//! Who is said to be slow, and when.

use super::*;
use octrain_proto::v1::{Notice, NoticeKind, Whereabouts};

/// Workers that do a step a second and say how much of it was their own work.
struct Steps {
    w: World,
    h: Vec<Header>,
    /// Steps of all, and the microseconds of each worker.
    done: (u64, Vec<u64>),
}

impl Steps {
    fn new(world: u32) -> Self {
        let (mut w, h) = World::running(world);
        let microbatches = u64::from(world);
        w.job.plan.as_mut().unwrap().microbatches = microbatches;
        Self { w, h, done: (0, vec![0; world as usize]) }
    }

    /// So many seconds in which a step takes each of them so many milliseconds of its own. What is said.
    fn take(&mut self, seconds: u64, own_ms: &[u64]) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..seconds {
            self.done.0 += 1;
            for (i, header) in self.h.iter().enumerate() {
                self.done.1[i] += 1000 * own_ms[i];
                let at = Whereabouts { steps: self.done.0, own_us: self.done.1[i], ..Whereabouts::default() };
                let (step, collectives) = (self.done.0, 2 * self.done.0);
                let beat = Beat { step, collectives, connected: true, at, ..Beat::default() };
                self.w.ok(Event::Heartbeat(header.clone(), beat));
            }
            self.w.now += ms(1000);
            let step = step(self.w.now, self.w.job.clone(), &self.w.config, Event::Tick);
            self.w.job = step.job;
            said.extend(step.reason);
        }
        said
    }

    fn slow(&mut self) -> Vec<Option<u32>> {
        match self.w.ok(Event::Status { watching: false }) {
            Reply::Status(s) => s.members.iter().filter(|m| m.slow).map(|m| m.rank).collect(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn one_that_is_slow_for_long_is_told_once_and_taken_back_once_it_is_well_again() {
    let mut s = Steps::new(4);
    assert_eq!(s.take(30, &[100, 110, 90, 100]), Vec::<String>::new());
    // Of one window nothing follows.
    assert_eq!(s.take(10, &[100, 400, 90, 100]), Vec::<String>::new());
    assert_eq!(s.take(40, &[100, 110, 90, 100]), Vec::<String>::new());
    let said = s.take(60, &[100, 400, 90, 100]);
    let [text] = &said[..] else { panic!("{said:?}") };
    for part in ["rank 1 (host a, local index 1, ", "is slow: 0.3", "times the median of 4 workers"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(s.slow(), [Some(1)]);
    let told: Vec<Notice> = s.w.job.notices(s.w.now);
    assert_eq!(
        (told.len(), told[0].kind(), &told[0].ranks[..], told[0].lasted_ms),
        (1, NoticeKind::Slow, &[1][..], None)
    );
    // Between both bounds it stays what it is.
    assert_eq!(s.take(60, &[100, 135, 90, 100]), Vec::<String>::new());
    assert_eq!(s.slow(), [Some(1)]);
    let said = s.take(60, &[100, 100, 90, 100]);
    assert!(
        said.len() == 1 && said[0].contains("rank 1 (") && said[0].contains("is no longer slow"),
        "{said:?}"
    );
    assert!(s.slow().is_empty() && s.w.job.notices(s.w.now)[0].lasted_ms.is_some());
    assert!(s.w.ended.is_empty(), "nobody is punished");
}

#[test]
fn of_two_the_slower_one_is_named_and_milliseconds_are_nothing() {
    let mut s = Steps::new(2);
    let said = s.take(60, &[300, 100]);
    assert!(said.len() == 1 && said[0].contains("rank 0 ("), "{said:?}");
    let mut s = Steps::new(2);
    assert_eq!(s.take(60, &[9, 1]), Vec::<String>::new());
}

#[test]
fn one_that_has_more_of_a_step_is_not_slow_for_that() {
    let mut s = Steps::new(3);
    s.w.job.plan.as_mut().unwrap().microbatches = 4;
    // Shares of 1, 1 and 2 microbatches.
    assert_eq!(s.take(60, &[100, 100, 200]), Vec::<String>::new());
    // For one that has less of it and is done with the others nobody waits.
    assert_eq!(s.take(60, &[200, 100, 200]), Vec::<String>::new());
    let said = s.take(60, &[400, 100, 200]);
    assert!(said.len() == 1 && said[0].contains("rank 0 ("), "{said:?}");
}

#[test]
fn a_window_lasts_until_all_have_done_some_steps() {
    let mut s = Steps::new(2);
    let long = |s: &mut Steps| {
        let mut said = s.take(1, &[9000, 3000]);
        // No step is done meanwhile.
        for _ in 0..9 {
            s.w.now += ms(1000);
            let (step, at) = (s.done.0, s.done.1.clone());
            for (i, header) in s.h.clone().iter().enumerate() {
                let at = Whereabouts { steps: step, own_us: at[i], ..Whereabouts::default() };
                let beat = Beat { step, collectives: 2 * step, connected: true, at, ..Beat::default() };
                s.w.ok(Event::Heartbeat(header.clone(), beat));
            }
            let step = super::step(s.w.now, s.w.job.clone(), &s.w.config, Event::Tick);
            s.w.job = step.job;
            said.extend(step.reason);
        }
        said
    };
    for n in 1..=8 {
        assert_eq!(long(&mut s), Vec::<String>::new(), "step {n}");
    }
    let said: Vec<String> = (0..3).flat_map(|_| long(&mut s)).collect();
    assert!(said.len() == 1 && said[0].contains("rank 0 ("), "{said:?}");
}
