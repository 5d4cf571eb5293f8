//! Workers that leave a job which goes on.

use super::regroup::{at, attach, exited, formed, surviving};
use super::*;
use octrain_proto::v1::Departure;

/// What a worker hears that was asked to stop, alone, or was not: what becomes of it, and whether a boundary is wanted.
fn beat(w: &mut World, header: &Header, step: u64, leaving: bool) -> (Departure, bool) {
    let beat = Beat { step, collectives: 1, connected: true, leaving, ..Beat::default() };
    match w.ok(Event::Heartbeat(header.clone(), beat)) {
        Reply::Heartbeat(heard) => (heard.departure, heard.boundary_wanted),
        other => panic!("{other:?}"),
    }
}

fn resize(workers: u32) -> Event {
    Event::Resize { workers }
}

fn in_generation(h: &[Header], generation: u64) -> Vec<Header> {
    h.iter().map(|header| Header { generation, ..header.clone() }).collect()
}

fn places(g: &Generation) -> Vec<u32> {
    g.roster.iter().map(|p| p.local_index).collect()
}

/// All come to the next generation behind a boundary after `step`; what the last of them is answered.
fn part(w: &mut World, h: &[Header], step: u64) -> Vec<Answer> {
    for header in h {
        w.event(attach(header, at(step, 0), Wait::First));
    }
    h.iter().map(|header| w.event(attach(header, at(step, 0), Wait::Again))).collect()
}

#[test]
fn one_that_is_asked_to_stop_leaves_at_a_boundary_and_nothing_has_failed() {
    let (mut w, h) = surviving(3, 2);
    assert_eq!(beat(&mut w, &h[1], 4, false), (Departure::None, false));
    // The first rank, which writes.
    assert_eq!(beat(&mut w, &h[0], 4, true), (Departure::Boundary, true));
    assert_eq!(beat(&mut w, &h[1], 4, false), (Departure::None, true));
    assert_eq!(w.job.generation, 1, "nothing has ended");
    let Reply::Status(told) = w.ok(Event::Status { watching: false }) else { panic!() };
    assert_eq!(told.members.iter().map(|m| m.drains).collect::<Vec<_>>(), [true, false, false]);
    let answers = part(&mut w, &h, 5);
    assert_eq!(answers[0], Answer::Reply(Reply::Drained));
    let now = formed(&mut w, &h[1]);
    assert_eq!((now.number, places(&now), now.source, now.rank), (2, vec![1, 2], Some(0), 0));
    // Whatever it says or asks from then on is answered, and changes nothing.
    assert_eq!(beat(&mut w, &h[0], 5, true), (Departure::None, false));
    assert_eq!(w.event(attach(&h[0], at(5, 0), Wait::First)), Answer::Reply(Reply::Drained));
    w.ok(Event::Leave { header: h[0].clone(), interrupted: true, before_plan: false });
    assert_eq!(w.ok(exited(0)), Reply::GoesOn(true));
    let later = in_generation(&h, 2);
    assert_eq!(
        w.refused(Event::StoreGet { header: later[0].clone(), key: "k".into(), wait: Wait::First }).kind(),
        "stale-generation"
    );
    assert_eq!(beat(&mut w, &later[1], 6, false), (Departure::None, false));
    let Reply::Status(told) = w.ok(Event::Status { watching: false }) else { panic!() };
    assert!(told.members.iter().any(|m| m.drained && !m.gone && !m.left), "{told:?}");
    for header in &later[1..] {
        w.ok(Event::Leave { header: header.clone(), interrupted: false, before_plan: false });
    }
    assert_eq!(w.ended, [Outcome::Finished { interrupted: false }]);
    assert!(w.job.drained(w.now, &w.config));
}

#[test]
fn where_too_few_would_be_left_all_stop() {
    // Without a minimum, with as many as it needs, and where more are asked than it spares.
    let (mut w, h) = World::running(2);
    assert_eq!(beat(&mut w, &h[1], 4, true), (Departure::All, false));
    let (mut w, h) = surviving(3, 2);
    w.ok(exited(2));
    part(&mut w, &h[..2], 3);
    let h = in_generation(&h[..2], 2);
    assert_eq!(beat(&mut w, &h[0], 4, true), (Departure::All, false));
    let (mut w, h) = surviving(3, 2);
    assert_eq!(beat(&mut w, &h[0], 4, true), (Departure::Boundary, true));
    assert_eq!(beat(&mut w, &h[1], 4, true), (Departure::All, false));
    assert_eq!(beat(&mut w, &h[0], 4, true), (Departure::All, false), "all, and not all but one");
    for header in &h {
        w.ok(Event::Leave { header: header.clone(), interrupted: true, before_plan: false });
    }
    // What its launcher asks then is not answered as of one that the job goes on without.
    assert_eq!(w.ended, [Outcome::Finished { interrupted: true }]);
    assert_eq!(w.ok(exited(0)), Reply::GoesOn(false));
    // Before the start there is nothing to go on with.
    let mut w = World::new(2);
    w.config.min_world = 1;
    w.job = Job::new(&w.config, 7);
    let first = w.join(request("a", 0));
    assert_eq!(beat(&mut w, &first, 0, true), (Departure::All, false));
}

#[test]
fn one_whose_state_is_needed_leaves_behind_the_next_boundary() {
    let (mut w, h) = surviving(4, 2);
    assert_eq!(beat(&mut w, &h[2], 4, true).0, Departure::Boundary);
    // Before that one dies, and the one that leaves has finished a step that the others have not.
    w.ok(exited(0));
    let (left, ahead) = ([h[1].clone(), h[3].clone()], h[2].clone());
    w.event(attach(&ahead, at(5, 0), Wait::First));
    part(&mut w, &left, 4);
    let now = formed(&mut w, &ahead);
    assert_eq!((places(&now), now.source), (vec![1, 2, 3], Some(1)));
    let h = in_generation(&[h[1].clone(), h[2].clone(), h[3].clone()], 2);
    assert_eq!(beat(&mut w, &h[0], 5, false), (Departure::None, true));
    let answers = part(&mut w, &h, 6);
    assert_eq!(answers[1], Answer::Reply(Reply::Drained));
    assert_eq!(places(&formed(&mut w, &h[0])), [1, 3]);
}

#[test]
fn one_that_cannot_wait_for_a_boundary_is_gone_and_nobody_is_blamed() {
    let (mut w, h) = surviving(3, 1);
    assert_eq!(beat(&mut w, &h[1], 4, true).0, Departure::Boundary);
    w.fail(&h[1], "asked to stop, it has waited 20 s", FailureKind::Leaving);
    let answers = part(&mut w, &[h[0].clone(), h[2].clone()], 4);
    assert!(matches!(answers[0], Answer::Reply(Reply::Attached(Some(_), _))));
    assert_eq!(places(&formed(&mut w, &h[0])), [0, 2]);
    // Others were lost meanwhile: the job ends saved, and by no worker's fault.
    let (mut w, h) = surviving(3, 2);
    assert_eq!(beat(&mut w, &h[1], 4, true).0, Departure::Boundary);
    w.ok(exited(0));
    w.fail(&h[1], "asked to stop, it has waited 20 s", FailureKind::Leaving);
    let abort = w.abort();
    assert_eq!((abort.kind(), abort.culprit), (AbortKind::Shutdown, None));
    assert!(abort.saver.is_some_and(|s| s.local_index == 2), "the one that is left saves");
}

#[test]
fn a_job_becomes_smaller_by_its_highest_ranks_and_larger_by_those_who_come() {
    let (mut w, h) = surviving(4, 2);
    let Reply::Resized(text) = w.ok(resize(2)) else { panic!() };
    contains(&text, &["to have 2 workers", "rank 3", "rank 2"]);
    assert_eq!(beat(&mut w, &h[3], 4, false), (Departure::None, true));
    // It may be taken back as long as they are there.
    let Reply::Resized(text) = w.ok(resize(3)) else { panic!() };
    assert!(text.contains("rank 3") && !text.contains("rank 2"), "{text}");
    // One of the others is asked to stop: then it is the one that leaves.
    assert_eq!(beat(&mut w, &h[1], 4, true).0, Departure::Boundary);
    let answers = part(&mut w, &h, 5);
    assert_eq!(answers[1], Answer::Reply(Reply::Drained));
    assert_eq!(places(&formed(&mut w, &h[0])), [0, 2, 3]);
    let h = in_generation(&[h[0].clone(), h[2].clone(), h[3].clone()], 2);
    w.ok(resize(2));
    assert_eq!(part(&mut w, &h, 6)[2], Answer::Reply(Reply::Drained));
    // There is no room for others, and its launcher starts none.
    assert_eq!(w.ok(exited(3)), Reply::Vacant { recalled: false });
    let full = w.refuse(again(3));
    assert_eq!(full.kind(), "full");
    assert!(full.to_string().contains("all its 2 workers"), "{full}");
    w.ok(resize(3));
    assert_eq!(w.ok(exited(3)), Reply::Vacant { recalled: true });
    // One that was asked to stop is wanted back by nobody.
    assert_eq!(w.ok(exited(1)), Reply::GoesOn(true));
    let new = w.join(again(3));
    assert_eq!(w.ok(exited(3)), Reply::GoesOn(true), "it has come");
    // There is no room for it any more, before it was let in.
    w.ok(resize(2));
    assert_eq!(w.event(attach(&new, None, Wait::First)), Answer::Reply(Reply::Drained));
    let Reply::Status(told) = w.ok(Event::Status { watching: false }) else { panic!() };
    assert_eq!((told.wanted_workers, told.min_workers), (2, 2));
}

/// The registration of another process at a place.
fn again(local_index: u32) -> RegisterRequest {
    let name = format!("again {local_index}");
    RegisterRequest { nonce: name.clone(), token: name, ..request("a", local_index) }
}

/// A launcher's word of a process that it had started in the place of one that has left.
fn exited_again(local_index: u32) -> Event {
    let Event::Exited(first) = exited(local_index) else { unreachable!() };
    Event::Exited(Box::new(ExitedRequest { token: format!("again {local_index}"), pid: 2, ..*first }))
}

/// A job of 5 that has 2 workers, whose launchers wait at places 2 to 4.
fn smaller() -> (World, Vec<Header>) {
    let (mut w, h) = surviving(5, 2);
    w.ok(resize(2));
    part(&mut w, &h, 5);
    for i in 2..5 {
        assert_eq!(w.ok(exited(i)), Reply::Vacant { recalled: false });
    }
    (w, in_generation(&h[..2], 2))
}

#[test]
fn as_many_are_recalled_as_there_is_room_for_and_the_others_wait_on() {
    let (mut w, h) = smaller();
    w.ok(resize(3));
    let recalled = |w: &mut World, i: u32| w.ok(exited(i)) == Reply::Vacant { recalled: true };
    assert_eq!([2, 3, 4].map(|i| recalled(&mut w, i)), [true, false, false]);
    assert_eq!([4, 3, 2].map(|i| recalled(&mut w, i)), [false, false, true], "its answer was lost");
    let come = w.join(again(2));
    assert_eq!([3, 4].map(|i| recalled(&mut w, i)), [false, false]);
    w.ok(resize(4));
    assert_eq!([3, 4].map(|i| recalled(&mut w, i)), [true, false]);
    // It does not come: another one is wanted in its stead.
    w.config.register_timeout = ms(20_000);
    w.event(attach(&come, None, Wait::First));
    let alive = [&h[0], &h[1], &come];
    w.pass(ms(19_000), &alive);
    assert!(!recalled(&mut w, 4));
    w.pass(ms(1500), &alive);
    assert_eq!([4, 3].map(|i| recalled(&mut w, i)), [true, false]);
}

#[test]
fn one_that_was_recalled_and_found_no_room_is_waited_for_at_its_place_again() {
    let (mut w, _) = smaller();
    w.ok(resize(3));
    assert_eq!(w.ok(exited(2)), Reply::Vacant { recalled: true });
    w.ok(resize(2));
    assert_eq!(w.refuse(again(2)).kind(), "full");
    // Nobody has heard of that process; but of one that has left there.
    assert_eq!(w.ok(exited_again(2)), Reply::Vacant { recalled: false });
    w.ok(resize(3));
    assert_eq!(w.ok(exited_again(2)), Reply::Vacant { recalled: true });
    assert_eq!(w.ok(exited(3)), Reply::Vacant { recalled: false }, "there is room for one");
    w.join(again(2));
    assert_eq!(
        w.ok(exited_again(2)),
        Reply::GoesOn(true),
        "the token is its own, the process is another one"
    );
}

#[test]
fn a_size_that_cannot_be_is_refused_and_changes_nothing() {
    let mut gathering = World::new(3);
    gathering.config.min_world = 2;
    gathering.job = Job::new(&gathering.config, 7);
    assert_eq!(gathering.refused(resize(2)).kind(), "not-running");
    let (mut whole, _) = World::running(3);
    let told = whole.refused(resize(2)).to_string();
    contains(&told, &["no minimum", "--min-world"]);
    let (mut w, h) = surviving(3, 2);
    let before = w.job.clone();
    for wanted in [0, 1, 4, u32::MAX] {
        let told = w.refused(resize(wanted));
        assert_eq!(told.kind(), "resize");
        contains(&told.to_string(), &["from 2 to 3"]);
    }
    assert_eq!(w.job, before);
    w.ok(resize(3));
    assert_eq!(beat(&mut w, &h[0], 4, false), (Departure::None, false));
    w.ok(Event::Leave { header: h[0].clone(), interrupted: false, before_plan: false });
    assert_eq!(w.refused(resize(2)).kind(), "resize");
    for header in &h[1..] {
        w.ok(Event::Leave { header: header.clone(), interrupted: false, before_plan: false });
    }
    assert_eq!(w.refused(resize(2)).kind(), "finished");
}
