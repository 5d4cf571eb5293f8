//! Who is named as the cause, when one stands still and others fall over it.

use super::*;

/// A job of three whose rank 1 is heard for the last time at 1 s.
fn one_stands_still() -> (World, Vec<Header>) {
    let (mut w, h) = World::running(3);
    w.pass(ms(1000), &[&h[0], &h[1], &h[2]]);
    w.pass(ms(2500), &[&h[0], &h[2]]);
    (w, h)
}

fn breaks(w: &mut World, header: &Header) {
    let watch = w.watch(header);
    w.event(Event::Disconnected { member: header.member.clone(), watch });
}

#[test]
fn the_one_that_fell_silent_is_named_though_all_others_report_first() {
    let (mut w, h) = one_stands_still();
    w.fail(&h[0], "all-reduce: timed out", FailureKind::Communication);
    w.fail(&h[2], "all-reduce: peer closed", FailureKind::Communication);
    w.pass(ms(2000), &[]);
    assert!(w.ended.is_empty());
    w.pass(ms(500), &[]);
    assert_eq!((w.abort().kind(), w.abort().culprit), (AbortKind::WorkerLost, Some(1)));
    contains(&w.abort().message, &["rank 1", "no heartbeat for 5.0 s", "rank 0", "timed out"]);
}

#[test]
fn the_one_that_fell_silent_is_named_though_another_fell_over_it_without_a_word() {
    let (mut w, h) = one_stands_still();
    // Rank 2 crashes in consequence; its grace is over before the time of rank 1 is.
    breaks(&mut w, &h[2]);
    w.fail(&h[0], "all-reduce: peer closed", FailureKind::Communication);
    w.pass(ms(2000), &[]);
    assert!(w.ended.is_empty());
    w.pass(ms(500), &[]);
    assert_eq!((w.abort().kind(), w.abort().culprit), (AbortKind::WorkerLost, Some(1)));
    contains(&w.abort().message, &["rank 1", "also silent: rank 2"]);
}

#[test]
fn the_one_that_crashed_is_named_once_the_silent_one_is_heard_again() {
    let (mut w, h) = one_stands_still();
    breaks(&mut w, &h[2]);
    w.pass(ms(2000), &[&h[0]]);
    assert!(w.ended.is_empty());
    w.beat(&h[1]);
    w.event(Event::Tick);
    assert_eq!((w.abort().kind(), w.abort().culprit), (AbortKind::WorkerLost, Some(2)));
}

#[test]
fn a_short_silence_excuses_nobody() {
    let (mut w, h) = World::running(3);
    w.pass(ms(1000), &[&h[0], &h[1], &h[2]]);
    // One heartbeat late, which is nothing.
    w.pass(ms(1500), &[&h[0], &h[2]]);
    breaks(&mut w, &h[2]);
    w.fail(&h[0], "all-reduce: peer closed", FailureKind::Communication);
    assert_eq!(w.abort().culprit, Some(2));
}

#[test]
fn a_worker_that_asks_again_and_again_takes_one_line_of_the_status() {
    let mut w = World::new(2);
    w.join(request("a", 0));
    for _ in 0..40 {
        w.refuse(RegisterRequest { nonce: "another process".into(), ..request("a", 0) });
    }
    w.refuse(RegisterRequest { protocol_version: 0, ..request("b", 0) });
    assert_eq!(w.job.refusals.len(), 2);
}

impl World {
    /// Heartbeats that tell how many collectives each has entered.
    fn enter(&mut self, headers: &[Header], entered: &[u64]) {
        for (header, &collectives) in headers.iter().zip(entered) {
            self.ok(Event::Heartbeat(
                header.clone(),
                Beat { step: 41, collectives, connected: true, leaving: false, ..Beat::default() },
            ));
        }
    }
}

const LATE: &str = "nccl all_reduce on rank 0: no answer from the other ranks within 600 s";

#[test]
fn a_rank_that_waited_in_vain_is_not_blamed_but_the_one_that_had_not_come() {
    let (mut w, h) = World::running(3);
    let all: Vec<&Header> = h.iter().collect();
    w.enter(&h, &[7, 6, 7]);
    w.fail(&h[0], LATE, FailureKind::Waited);
    w.fail(&h[2], LATE, FailureKind::Waited);
    w.pass(ms(4500), &all);
    assert!(w.ended.is_empty(), "the root cause may still come");
    w.pass(ms(500), &all);
    assert_eq!((w.abort().kind(), w.abort().culprit), (AbortKind::WorkerLost, Some(1)));
    let text = w.abort().message;
    contains(
        &text,
        &["rank 0", "waited in vain", LATE, "had not reached that call: rank 1 (host a", "last step 41"],
    );
    assert!(!text.contains("failed") && !text.contains("rank 2"), "{text}");
}

#[test]
fn who_waited_in_vain_outweighs_one_whose_connection_broke_before() {
    let (mut w, h) = World::running(3);
    let all: Vec<&Header> = h.iter().collect();
    w.enter(&h, &[7, 6, 7]);
    // Rank 0 has given up and closed its connections; the news of rank 2, which fell over that, is faster.
    w.fail(&h[2], "all-reduce: connection closed by peer", FailureKind::Communication);
    w.pass(ms(1000), &all);
    w.fail(&h[0], LATE, FailureKind::Waited);
    // A later broken connection takes nothing back.
    w.fail(&h[2], "all-reduce: connection closed by peer", FailureKind::Communication);
    w.pass(ms(3500), &all);
    assert!(w.ended.is_empty(), "the root cause may still come");
    // Counted from the first word.
    w.pass(ms(500), &all);
    assert_eq!((w.abort().kind(), w.abort().culprit), (AbortKind::WorkerLost, Some(1)));
    contains(&w.abort().message, &["rank 0", "waited in vain", LATE, "had not reached that call: rank 1"]);
}

#[test]
fn where_it_cannot_be_known_nobody_is_blamed() {
    // Two had not come: both are named, neither is the culprit. All had come: nobody is.
    for (entered, words) in [
        (
            [7, 6, 6],
            "had not reached that call: rank 1 (host a, local index 1, pid 1, last step 41), rank 2 ",
        ),
        ([7, 7, 7], "every rank had reached that call"),
        // One that told more than the other waited for is not behind.
        ([7, 7, 8], "every rank had reached that call"),
    ] {
        let (mut w, h) = World::running(3);
        w.enter(&h, &entered);
        w.fail(&h[0], LATE, FailureKind::Waited);
        w.pass(ms(5000), &h.iter().collect::<Vec<_>>());
        assert_eq!((w.abort().kind(), w.abort().culprit), (AbortKind::WorkerLost, None));
        contains(&w.abort().message, &[words]);
    }
}

#[test]
fn one_that_waited_in_vain_hears_of_the_root_cause_where_it_comes() {
    let (mut w, h) = World::running(2);
    w.enter(&h, &[7, 6]);
    w.fail(&h[0], LATE, FailureKind::Waited);
    w.fail(&h[1], "a kernel hangs", FailureKind::Own);
    assert_eq!((w.abort().kind(), w.abort().culprit), (AbortKind::WorkerFailed, Some(1)));
    contains(&w.abort().message, &["rank 1", "a kernel hangs", "noticed first by: rank 0", "waited in vain"]);
    // One that fell silent is lost as ever.
    let (mut w, h) = World::running(2);
    w.enter(&h, &[7, 6]);
    w.fail(&h[0], LATE, FailureKind::Waited);
    w.pass(ms(5500), &[&h[0]]);
    contains(&w.abort().message, &["rank 1", "is lost: no heartbeat", "waited in vain"]);
}

#[test]
fn numbers_that_are_not_finite_are_no_workers_fault() {
    let (mut w, h) = World::running(2);
    w.fail(&h[1], "the loss is NaN at step 3", FailureKind::NotFinite);
    let abort = w.abort();
    assert_eq!((abort.kind(), abort.culprit), (AbortKind::NotFinite, None));
    contains(&abort.message, &["rank 1", "found that the training has failed", "the loss is NaN at step 3"]);
    // What the others then fall over changes nothing, and a call that comes late hears the kind as well.
    w.fail(&h[0], "all-reduce: peer closed", FailureKind::Communication);
    assert_eq!(w.abort(), abort);
    assert_eq!(crate::refusal::Refusal::Ended(abort).kind(), "ended-not-finite");
    // An echo that came first only waits for it.
    let (mut w, h) = World::running(2);
    w.fail(&h[0], "all-reduce: peer closed", FailureKind::Communication);
    w.fail(&h[1], "the loss is NaN at step 3", FailureKind::NotFinite);
    assert_eq!((w.abort().kind(), w.abort().culprit), (AbortKind::NotFinite, None));
}

#[test]
fn a_coordinator_that_stood_still_does_not_blame_those_who_gave_it_up() {
    for (by, blamed) in [(9_000, true), (15_000, false)] {
        let (mut w, h) = World::running(2);
        let watch = w.watch(&h[1]);
        w.event(Event::HeldUp { by: ms(by) });
        w.event(Event::Disconnected { member: h[1].member.clone(), watch });
        w.pass(ms(3_000), &[&h[0]]);
        let abort = w.abort();
        assert_eq!(
            (abort.kind(), abort.culprit.is_some()),
            (AbortKind::WorkerLost, blamed),
            "{}",
            abort.message
        );
        assert_eq!(abort.message.contains("the coordinator itself stood still for 15.0 s"), !blamed);
    }
    // One that is lost long after it is lost for a reason of its own.
    let (mut w, h) = World::running(2);
    w.event(Event::HeldUp { by: ms(15_000) });
    w.pass(ms(11_000), &[&h[0], &h[1]]);
    w.pass(ms(5_000), &[&h[0]]);
    assert_eq!(w.abort().culprit, Some(1));
}
