//! What became of the generations, as `Status` tells it.

use super::regroup::{at, attach, exited, surviving};
use super::*;
use octrain_proto::v1::PastGeneration;

fn told(w: &mut World) -> Vec<PastGeneration> {
    match w.ok(Event::Status { watching: false }) {
        Reply::Status(status) => status.generations,
        other => panic!("{other:?}"),
    }
}

fn step(header: &Header, generation: u64, step: u64) -> Event {
    let header = Header { generation, ..header.clone() };
    Event::Heartbeat(
        header,
        Beat { step, collectives: 0, connected: false, leaving: false, ..Beat::default() },
    )
}

#[test]
fn a_generation_says_when_it_was_formed_connected_and_had_finished_a_step() {
    let (mut w, h) = surviving(3, 2);
    let first = PastGeneration { generation: 1, workers: 3, formed_ms: Some(0), ..Default::default() };
    assert_eq!(told(&mut w), std::slice::from_ref(&first));
    w.now += ms(100);
    for header in &h {
        w.beat(header);
    }
    w.now += ms(300);
    w.ok(step(&h[1], 1, 1));
    let first = PastGeneration { connected_ms: Some(100), stepped_ms: Some(400), ago_ms: 400, ..first };
    assert_eq!(told(&mut w), std::slice::from_ref(&first));

    w.now += ms(1000);
    w.ok(exited(0));
    // Until they come to the next one, they speak as those of the last.
    h[1..].iter().for_each(|header| drop(w.beat(header)));
    w.now += ms(200);
    let second = told(&mut w).remove(1);
    assert_eq!((second.generation, second.workers, second.formed_ms), (2, 0, None));
    assert!(second.why.contains("killed"), "{}", second.why);
    for header in &h[1..] {
        w.event(attach(header, at(1, 0), Wait::First));
    }
    w.now += ms(50);
    // It had finished its step before, and what the lost one has done since is nobody's.
    w.ok(step(&h[1], 2, 1));
    w.ok(step(&h[0], 1, 7));
    let formed = told(&mut w).remove(1);
    assert_eq!((formed.formed_ms, formed.connected_ms, formed.stepped_ms), (Some(200), None, None));
    w.ok(step(&h[2], 2, 2));
    let second = PastGeneration { workers: 2, ago_ms: 250, formed_ms: Some(200), ..second };
    let second = PastGeneration { connected_ms: Some(250), stepped_ms: Some(250), ..second };
    let first = PastGeneration { ago_ms: 1650, ..first };
    assert_eq!(told(&mut w), [first, second]);
}

#[test]
fn a_generation_that_is_formed_at_once_says_why_all_the_same_and_the_last_ones_are_kept() {
    let (mut w, h) = surviving(2, 1);
    let mut headers = h.clone();
    for generation in 1..40 {
        w.now += ms(10);
        w.event(attach(&headers[0], at(generation, 0), Wait::First));
        w.event(attach(&headers[1], at(generation, 0), Wait::First));
        headers.iter_mut().for_each(|h| h.generation = generation + 1);
        w.ok(step(&headers[0], generation + 1, generation + 1));
    }
    let all = told(&mut w);
    assert_eq!((all.len(), all[0].generation, all[15].generation), (16, 25, 40));
    w.now += ms(10);
    w.ok(Event::Leave { header: headers[1].clone(), interrupted: false, before_plan: false });
    w.event(attach(&headers[0], at(50, 0), Wait::First));
    let last = told(&mut w).pop().unwrap();
    assert_eq!((last.generation, last.workers, last.formed_ms), (41, 1, Some(0)));
    assert!(last.why.starts_with("rank 0") && !last.why.contains("formed"), "{}", last.why);
}

#[test]
fn a_step_that_only_the_lost_one_had_finished_counts_when_it_is_done_again() {
    let (mut w, h) = surviving(3, 2);
    w.ok(step(&h[0], 1, 11));
    w.ok(exited(0));
    for header in &h[1..] {
        w.event(attach(header, at(10, 0), Wait::First));
    }
    w.now += ms(400);
    w.ok(step(&h[1], 2, 11));
    assert_eq!(told(&mut w)[1].stepped_ms, Some(400));
}

#[test]
fn workers_that_have_failed_before_they_met_are_not_connected() {
    let (mut w, h) = World::running(2);
    for header in &h {
        w.fail(header, "connection refused", FailureKind::Communication);
    }
    let Reply::Status(status) = w.ok(Event::Status { watching: false }) else { panic!() };
    assert_eq!((status.phase(), status.generations[0].connected_ms), (JobPhase::Forming, None));
}

#[test]
fn a_coordinator_stays_for_a_moment_for_whoever_watches() {
    let leave = |watching: bool| {
        let (mut w, h) = World::running(1);
        w.now += ms(1000);
        w.ok(Event::Status { watching });
        w.now += ms(1000);
        w.ok(Event::Leave { header: h[0].clone(), interrupted: false, before_plan: false });
        w
    };
    let w = leave(false);
    assert!(w.job.drained(w.now, &w.config));
    let mut w = leave(true);
    assert!(!w.job.drained(w.now, &w.config) && !w.job.drained(w.now + ms(4900), &w.config));
    assert!(w.job.drained(w.now + ms(5000), &w.config));
    w.now += ms(1);
    w.ok(Event::Status { watching: true });
    assert!(w.job.drained(w.now, &w.config), "it has heard");
}
