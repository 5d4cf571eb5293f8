//! A job that goes on without some of its workers.

use super::*;
use octrain_proto::v1::Saver;

/// A running job of `a:0`, `a:1`, ... that goes on with `min_world` of them.
pub(super) fn surviving(world_size: u32, min_world: u32) -> (World, Vec<Header>) {
    let mut w = World::new(world_size);
    w.config.min_world = min_world;
    w.job = Job::new(&w.config, 7);
    let headers = (0..world_size).map(|i| w.join(request("a", i))).collect();
    (w, headers)
}

pub(super) fn at(step: u64, stage: u32) -> Option<Standing> {
    Some(Standing { step, stage })
}

pub(super) fn attach(header: &Header, standing: Option<Standing>, wait: Wait) -> Event {
    Event::Attach { header: header.clone(), standing, message: "connection closed".into(), wait }
}

pub(super) fn exited(local_index: u32) -> Event {
    Event::Exited(Box::new(ExitedRequest {
        job_id: "octrain".into(),
        generation: 0,
        host: "a".into(),
        local_index,
        pid: 1,
        status: "was killed by signal 9".into(),
        token: format!("of a/{local_index}"),
    }))
}

/// The generation that a worker which has come to it gets.
pub(super) fn formed(w: &mut World, header: &Header) -> Generation {
    match w.event(attach(header, at(0, 0), Wait::Again)) {
        Answer::Reply(Reply::Attached(Some(formed), _)) => formed,
        other => panic!("{other:?}"),
    }
}

fn regroup(w: &mut World, header: &Header) -> Option<Regroup> {
    let beat = Event::Heartbeat(
        header.clone(),
        Beat { step: 0, collectives: 0, connected: true, leaving: false, ..Beat::default() },
    );
    match w.ok(beat) {
        Reply::Heartbeat(heard) => heard.regroup,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dead_worker_ends_the_generation_at_once_and_the_others_form_the_next_one() {
    let (mut w, h) = surviving(4, 2);
    let plan = w.job.plan.clone().unwrap();
    w.ok(Event::StoreSet { header: h[0].clone(), key: "k".into(), value: vec![1] });
    let step = step(w.now, w.job.clone(), &w.config, exited(1));
    assert_eq!(step.answer, Answer::Reply(Reply::GoesOn(true)));
    assert_eq!(step.wakes, Wakes::Everybody);
    let told = step.regroup.clone().unwrap();
    assert_eq!(told.generation, 2);
    contains(&told.why, &["rank 1", "its launcher saw that it was killed by signal 9"]);
    w.job = step.job;
    assert_eq!(regroup(&mut w, &h[0]), Some(told));
    // What belongs to the generation that is over is refused.
    let stale = w.refused(Event::StoreSet { header: h[0].clone(), key: "k".into(), value: vec![2] });
    assert_eq!(stale.kind(), "stale-generation");
    let ahead = Header { generation: 2, ..h[0].clone() };
    let early = w.refused(Event::StoreGet { header: ahead.clone(), key: "k".into(), wait: Wait::First });
    assert_eq!(early.kind(), "not-running");
    assert_eq!(w.event(attach(&h[0], at(7, 0), Wait::First)), Answer::Park);
    match w.ok(attach(&h[0], at(7, 0), Wait::Expired)) {
        Reply::Attached(None, waiting) => contains(&waiting, &["local index 2", "local index 3"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(w.event(attach(&h[3], at(8, 0), Wait::First)), Answer::Park);
    let last = match w.ok(attach(&h[2], at(8, 1), Wait::First)) {
        Reply::Attached(Some(formed), _) => formed,
        other => panic!("{other:?}"),
    };
    // Ranks close up in the old order; the state is that of the one that is furthest.
    let places: Vec<u32> = last.roster.iter().map(|p| p.local_index).collect();
    assert_eq!((places, last.number, last.rank, last.source), (vec![0, 2, 3], 2, 1, Some(1)));
    let ranks = [0, 2, 3].map(|i: usize| formed(&mut w, &h[i]).rank);
    assert_eq!(ranks, [0, 1, 2]);
    assert_eq!(w.job.plan.as_ref(), Some(&plan), "what holds for the run is what it was");
    assert_eq!(last.plan_sha256, plan.sha256);
    // The store is empty, and open to the new generation.
    assert_eq!(
        w.ok(Event::StoreGet { header: ahead, key: "k".into(), wait: Wait::Expired }),
        Reply::Found(None)
    );
    // Whoever is gone hears that the job goes on.
    let abort = w.beat(&h[1]).unwrap();
    assert_eq!(abort.kind(), AbortKind::Dropped);
    assert!(matches!(w.refused(attach(&h[1], at(7, 0), Wait::First)), Refusal::Ended(_)));
    for i in [0, 2, 3] {
        let header = Header { generation: 2, ..h[i].clone() };
        w.ok(Event::Leave { header, interrupted: false, before_plan: false });
    }
    assert_eq!(w.ended, [Outcome::Finished { interrupted: false }]);
}

#[test]
fn a_job_that_does_not_go_on_ends_with_the_first_worker_and_below_the_minimum() {
    let (mut w, h) = surviving(2, 2);
    let watch = w.watch(&h[1]);
    w.event(Event::Disconnected { member: h[1].member.clone(), watch });
    w.pass(ms(2000), &[&h[0]]);
    assert_eq!((w.abort().kind(), w.abort().culprit), (AbortKind::WorkerLost, Some(1)));
    assert_eq!(w.abort().saver, None, "its workers know the one roster there is");
    let (mut w, h) = surviving(3, 2);
    assert_eq!(w.ok(exited(0)), Reply::GoesOn(true));
    w.event(attach(&h[1], at(1, 0), Wait::First));
    assert_eq!(w.ok(exited(2)), Reply::GoesOn(false));
    assert_eq!((w.abort().kind(), w.abort().culprit), (AbortKind::WorkerLost, Some(2)));
    assert!(matches!(w.refused(attach(&h[1], at(1, 0), Wait::Again)), Refusal::Ended(_)));
}

#[test]
fn a_failed_collective_makes_a_generation_of_the_same_workers() {
    let (mut w, h) = surviving(2, 1);
    assert_eq!(w.event(attach(&h[1], at(3, 0), Wait::First)), Answer::Park);
    contains(&regroup(&mut w, &h[0]).unwrap().why, &["rank 1", "connection closed"]);
    // The first comes, and its answer is lost: it asks again.
    let first = w.ok(attach(&h[0], at(3, 0), Wait::First));
    assert_eq!(w.ok(attach(&h[0], at(3, 0), Wait::First)), first);
    assert_eq!((formed(&mut w, &h[1]).rank, w.job.generation), (1, 2));
    // From one of a generation that is over, it does not end the new one.
    assert_eq!(regroup(&mut w, &Header { generation: 2, ..h[0].clone() }), None);
    assert_eq!(w.job.generation, 2);
}

#[test]
fn without_a_state_all_begin_anew() {
    let (mut w, h) = surviving(3, 1);
    w.ok(exited(2));
    w.event(attach(&h[0], at(0, 0), Wait::First));
    w.event(attach(&h[1], None, Wait::First));
    assert_eq!(formed(&mut w, &h[0]).source, None);
}

#[test]
fn one_who_lives_and_does_not_come_is_given_up_and_so_is_one_who_falls_silent() {
    for hangs in [true, false] {
        let (mut w, h) = surviving(3, 2);
        w.event(attach(&h[0], at(1, 0), Wait::First));
        w.event(attach(&h[1], at(1, 0), Wait::First));
        let alive: Vec<&Header> = if hangs { h.iter().collect() } else { h[..2].iter().collect() };
        let limit = if hangs { w.config.regroup_timeout } else { w.config.heartbeat_timeout };
        w.pass(limit - ms(500), &alive);
        assert!(matches!(w.job.phase, Phase::Reforming { .. }), "hangs: {hangs}");
        w.pass(ms(1000), &alive);
        assert_eq!(formed(&mut w, &h[1]).roster.len(), 2);
        assert_eq!(w.beat(&h[2]).unwrap().kind(), AbortKind::Dropped);
    }
}

#[test]
fn what_is_no_workers_fault_ends_the_job_and_a_worker_that_fails_does_not() {
    for kind in [FailureKind::Configuration, FailureKind::NotFinite, FailureKind::External] {
        let (mut w, h) = surviving(3, 1);
        w.fail(&h[0], "x", kind);
        assert!(w.job.outcome().is_some(), "{kind:?}");
    }
    for kind in [FailureKind::Own, FailureKind::Communication, FailureKind::Waited] {
        let (mut w, h) = surviving(3, 1);
        w.fail(&h[0], "the GPU is gone", kind);
        contains(&regroup(&mut w, &h[1]).unwrap().why, &["rank 0", "the GPU is gone"]);
        // Its own words are its end, as it is the one to blame for it.
        let abort = w.beat(&h[0]).unwrap();
        assert_eq!((abort.kind(), abort.culprit), (AbortKind::Dropped, Some(0)));
    }
}

#[test]
fn generations_that_come_and_go_without_a_step_end_the_job() {
    let (mut w, h) = surviving(2, 1);
    let mut all = h.clone();
    let mut again = |w: &mut World, step: u64| {
        for header in &all {
            w.event(attach(header, at(step, 0), Wait::First));
        }
        all.iter_mut().for_each(|h| h.generation = w.job.generation);
    };
    for step in 1..9 {
        again(&mut w, step);
        assert!(w.job.outcome().is_none(), "a step was finished in each");
    }
    for _ in 0..4 {
        again(&mut w, 8);
        assert!(w.job.outcome().is_none());
    }
    again(&mut w, 8);
    contains(&w.abort().message, &["5 generations in a row", "connection closed"]);
}

#[test]
fn those_who_have_left_were_done_and_are_neither_missed_nor_waited_for() {
    let (mut w, h) = surviving(3, 2);
    w.ok(Event::Leave { header: h[0].clone(), interrupted: false, before_plan: false });
    assert_eq!(w.ok(exited(1)), Reply::GoesOn(true));
    let alone = match w.ok(attach(&h[2], at(9, 3), Wait::First)) {
        Reply::Attached(Some(formed), _) => formed,
        other => panic!("{other:?}"),
    };
    assert_eq!((alone.roster.len(), alone.rank), (1, 0));
    let header = Header { generation: 2, ..h[2].clone() };
    w.ok(Event::Leave { header, interrupted: false, before_plan: false });
    assert_eq!(w.ended, [Outcome::Finished { interrupted: false }]);
    // The last one to be awaited may also be lost.
    let (mut w, h) = surviving(3, 2);
    for header in &h[..2] {
        w.ok(Event::Leave { header: header.clone(), interrupted: false, before_plan: false });
    }
    assert_eq!(w.ok(exited(2)), Reply::GoesOn(true));
    assert_eq!(w.ended, [Outcome::Finished { interrupted: false }]);
}

#[test]
fn a_launcher_s_word_of_a_process_that_is_no_member_changes_nothing() {
    let (mut w, _) = surviving(2, 1);
    let Event::Exited(good) = exited(1) else { unreachable!() };
    for other in [
        ExitedRequest { pid: 9, ..(*good).clone() },
        ExitedRequest { host: "b".into(), ..(*good).clone() },
        ExitedRequest { local_index: 5, ..(*good).clone() },
        // All that status shows is right.
        ExitedRequest { token: String::new(), ..(*good).clone() },
        ExitedRequest { token: "of a/0".into(), ..(*good).clone() },
        ExitedRequest { token: "of a/".into(), ..(*good).clone() },
    ] {
        // It goes on without that one, which it never had.
        assert_eq!(w.ok(Event::Exited(Box::new(other))), Reply::GoesOn(true));
        assert_eq!(w.job.generation, 1);
    }
    // Nor does the right one end a job that ends with any of its workers: that has its own ways to know.
    let (mut by_default, _) = World::running(2);
    assert_eq!(by_default.ok(exited(1)), Reply::GoesOn(false));
    assert_eq!(by_default.job.outcome(), None);
    // Who has none is ended by nobody's word.
    let mut none = World::new(2);
    none.config.min_world = 1;
    none.job = Job::new(&none.config, 7);
    for i in 0..2 {
        none.join(RegisterRequest { token: String::new(), ..request("a", i) });
    }
    none.ok(Event::Exited(Box::new(ExitedRequest { token: String::new(), ..(*good).clone() })));
    assert_eq!(none.job.generation, 1);
    let job = ExitedRequest { job_id: "other".into(), ..(*good).clone() };
    assert_eq!(w.refused(Event::Exited(Box::new(job))).kind(), "job");
    let stale = ExitedRequest { generation: 9, ..*good };
    assert_eq!(w.refused(Event::Exited(Box::new(stale))).kind(), "stale-generation");
    // Before the start, the place is free again.
    let mut w = World::new(2);
    w.config.min_world = 1;
    w.job = Job::new(&w.config, 7);
    w.join(request("a", 1));
    w.ok(exited(1));
    w.join(RegisterRequest { nonce: "another".into(), ..request("a", 1) });
}

#[test]
fn what_a_worker_that_is_given_up_says_later_ends_neither_the_others_generation_nor_the_job() {
    let kinds = [
        FailureKind::Own,
        FailureKind::Communication,
        FailureKind::Waited,
        FailureKind::Configuration,
        FailureKind::NotFinite,
        FailureKind::External,
    ];
    for kind in kinds {
        for now_running in [false, true] {
            let (mut w, h) = surviving(3, 2);
            w.ok(exited(1));
            w.event(attach(&h[0], at(1, 0), Wait::First));
            if now_running {
                w.event(attach(&h[2], at(1, 0), Wait::First));
            }
            w.fail(&h[1], "it broke", kind);
            assert_eq!((w.job.outcome(), w.job.generation), (None, 2), "{kind:?} {now_running}");
            assert_eq!(matches!(w.job.phase, Phase::Running { .. }), now_running, "{kind:?}");
            if now_running {
                // One that has come since says nothing of the new generation with an old word.
                w.fail(&h[2], "it broke", kind);
                assert_eq!((w.job.outcome(), w.job.generation), (None, 2), "{kind:?}");
                assert!(w.job.members[&h[2].member].counted());
            }
        }
    }
    // One that cannot come is not waited for, whatever it calls its fault: the others meet that themselves, if it is theirs.
    for kind in kinds {
        let (mut w, h) = surviving(3, 1);
        w.ok(exited(1));
        w.event(attach(&h[0], at(1, 0), Wait::First));
        w.fail(&h[2], "no memory", kind);
        assert_eq!(formed(&mut w, &h[0]).roster.len(), 1, "{kind:?}");
    }
}

fn saver(w: &World) -> Option<(String, u32)> {
    w.abort().saver.map(|Saver { host, local_index }| (host, local_index))
}

#[test]
fn below_the_minimum_the_one_who_saves_is_left_and_furthest() {
    let a = |local_index| Some(("a".to_string(), local_index));
    // Two at once, the first ranks of the roster that the others have joined last.
    let (mut w, _) = surviving(4, 3);
    w.ok(exited(0));
    w.ok(exited(1));
    assert_eq!(saver(&w), a(2));
    // By what it has told, where none has come yet.
    let (mut w, h) = surviving(4, 3);
    w.ok(Event::Heartbeat(
        h[3].clone(),
        Beat { step: 8, collectives: 0, connected: true, leaving: false, ..Beat::default() },
    ));
    w.ok(exited(0));
    w.ok(exited(1));
    assert_eq!(saver(&w), a(3));
    // One that has come, of those the furthest, whatever others have told.
    let (mut w, h) = surviving(5, 4);
    w.ok(Event::Heartbeat(
        h[4].clone(),
        Beat { step: 9, collectives: 0, connected: true, leaving: false, ..Beat::default() },
    ));
    w.ok(exited(0));
    w.event(attach(&h[2], at(7, 2), Wait::First));
    w.event(attach(&h[3], at(8, 0), Wait::First));
    w.ok(exited(1));
    assert_eq!(saver(&w), a(3));
    match w.refused(attach(&h[2], at(7, 2), Wait::Again)) {
        Refusal::Ended(abort) => assert_eq!(abort.saver, w.abort().saver, "who waits hears of it as well"),
        other => panic!("{other:?}"),
    }
    // What another generation had come with is over: after it, the step that was told counts.
    let (mut w, h) = surviving(3, 2);
    w.ok(exited(0));
    for i in [1, 2] {
        w.event(attach(&h[i], at(1, u32::from(i == 1)), Wait::First));
    }
    let now = Header { generation: 2, ..h[2].clone() };
    w.ok(Event::Heartbeat(
        now,
        Beat { step: 5, collectives: 0, connected: true, leaving: false, ..Beat::default() },
    ));
    w.ok(exited(1));
    assert_eq!(saver(&w), a(2));
    // Numbers that are not finite are saved by nobody.
    let (mut w, h) = surviving(3, 2);
    w.fail(&h[0], "NaN", FailureKind::NotFinite);
    assert_eq!(saver(&w), None);
    // One that is alone saves whatever it was.
    let (mut w, h) = surviving(2, 1);
    w.ok(exited(0));
    w.event(attach(&h[1], at(1, 0), Wait::First));
    w.fail(&Header { generation: 2, ..h[1].clone() }, "the mount is gone", FailureKind::Configuration);
    assert_eq!(saver(&w), a(1));
    // The last one that says so, where each has found it by itself.
    let (mut w, h) = surviving(2, 1);
    w.fail(&h[0], "the mount is gone", FailureKind::Own);
    w.fail(&h[1], "the mount is gone", FailureKind::Own);
    assert_eq!(saver(&w), a(1));
}

#[test]
fn of_those_that_are_as_far_one_of_another_host_than_the_lost_one_saves() {
    let mut w = World::new(4);
    w.config.min_world = 4 - 1;
    w.job = Job::new(&w.config, 7);
    let h: Vec<Header> =
        [("a", 0), ("a", 1), ("b", 0), ("b", 1)].map(|(host, i)| w.join(request(host, i))).into();
    w.ok(exited(0));
    w.fail(&h[3], "x", FailureKind::Own);
    assert_eq!(saver(&w), Some(("a".into(), 1)), "its own word is no lost host");
    let mut w2 = World::new(4);
    w2.config.min_world = 3;
    w2.job = Job::new(&w2.config, 7);
    for (host, i) in [("a", 0), ("a", 1), ("a", 2), ("b", 0)] {
        w2.join(request(host, i));
    }
    w2.ok(exited(0));
    w2.ok(exited(1));
    assert_eq!(saver(&w2), Some(("b".into(), 0)));
}

#[test]
fn one_that_the_job_has_finished_without_hears_so_if_it_comes_soon() {
    for comes in [true, false] {
        let (mut w, h) = surviving(2, 1);
        w.pass(w.config.heartbeat_timeout, &[&h[0]]);
        w.event(attach(&h[0], at(1, 0), Wait::First));
        let header = Header { generation: 2, ..h[0].clone() };
        w.ok(Event::Leave { header, interrupted: false, before_plan: false });
        assert_eq!(w.ended, [Outcome::Finished { interrupted: false }]);
        assert!(!w.job.drained(w.now, &w.config), "it may be asleep only");
        if comes {
            assert_eq!(w.beat(&h[1]).unwrap().kind(), AbortKind::Dropped);
        } else {
            w.now += w.config.linger;
        }
        assert!(w.job.drained(w.now, &w.config));
    }
    // One whose end was seen is not waited for.
    let (mut w, h) = surviving(2, 1);
    w.ok(exited(1));
    w.event(attach(&h[0], at(1, 0), Wait::First));
    let header = Header { generation: 2, ..h[0].clone() };
    w.ok(Event::Leave { header, interrupted: false, before_plan: false });
    assert!(w.job.drained(w.now, &w.config));
    // Nor is anyone, when it is told to stop.
    let (mut w, h) = surviving(2, 1);
    w.pass(w.config.heartbeat_timeout, &[&h[0]]);
    w.event(attach(&h[0], at(1, 0), Wait::First));
    let header = Header { generation: 2, ..h[0].clone() };
    w.ok(Event::Leave { header, interrupted: false, before_plan: false });
    w.event(Event::Shutdown { why: "done".into() });
    assert!(w.job.drained(w.now, &w.config));
}

#[test]
fn one_that_waits_for_its_plan_while_another_is_lost_comes_to_the_next_generation() {
    let mut w = World::new(3);
    w.config.min_world = 2;
    w.job = Job::new(&w.config, 7);
    let mut h: Vec<Header> = (0..2).map(|i| w.join(request("a", i))).collect();
    assert_eq!(w.plan(&h[0], Wait::First), Answer::Park);
    h.push(w.join(request("a", 2)));
    w.ok(exited(1));
    // Its call is asked again, or made for the first time, only now.
    assert_eq!(w.plan(&h[0], Wait::Again), Answer::Park);
    match w.plan(&h[0], Wait::Expired) {
        Answer::Reply(Reply::Plan(p)) => contains(&p.waiting_for, &["local index 2"]),
        other => panic!("{other:?}"),
    }
    w.event(attach(&h[2], None, Wait::First));
    for rank in [0, 2] {
        match w.plan(&h[rank], Wait::Again) {
            Answer::Reply(Reply::Plan(p)) => {
                let formed = p.generation.unwrap();
                assert_eq!((formed.number, formed.roster.len(), formed.source), (2, 2, None));
                assert!(p.plan.is_some());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(w.job.members[&h[0].member].counted());
    assert!(matches!(w.plan(&h[1], Wait::First), Answer::Refuse(Refusal::Ended(_))));
}

#[test]
fn one_that_gives_up_before_its_plan_has_reached_it_is_missed_where_too_few_are_left() {
    for (min_world, reforming) in [(1, false), (1, true), (2, false), (2, true)] {
        let (mut w, h) = surviving(3, min_world);
        if reforming {
            w.event(attach(&h[0], None, Wait::First));
        }
        let gone = |w: &mut World, i: usize| {
            w.ok(Event::Leave { header: h[i].clone(), interrupted: false, before_plan: true })
        };
        gone(&mut w, 1);
        assert_eq!((w.job.outcome(), w.job.generation), (None, 2), "{min_world} {reforming}");
        gone(&mut w, 2);
        assert_eq!(w.job.outcome().is_some(), min_world == 2, "{min_world} {reforming}");
    }
    // Asked to stop, as the others are.
    let (mut w, h) = surviving(3, 1);
    w.ok(Event::Leave { header: h[1].clone(), interrupted: true, before_plan: true });
    assert_eq!(w.abort().kind(), AbortKind::Shutdown);
}
