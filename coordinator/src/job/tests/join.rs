//! Workers that come to a running job.

use super::regroup::{at, attach, exited, formed, surviving};
use super::*;

/// The process that is started for one that died: another nonce, token and pid.
fn replacement(local_index: u32) -> RegisterRequest {
    let request = request("a", local_index);
    let mut worker = request.worker.clone().unwrap();
    worker.pid = 2;
    RegisterRequest {
        nonce: format!("again {local_index}"),
        token: format!("again {local_index}"),
        worker: Some(worker),
        ..request
    }
}

fn exited_again(local_index: u32) -> Event {
    let Event::Exited(first) = exited(local_index) else { unreachable!() };
    Event::Exited(Box::new(ExitedRequest { pid: 2, token: format!("again {local_index}"), ..*first }))
}

/// What a worker hears with its heartbeat: whether a boundary is wanted, and whether its generation is over.
pub(super) fn heard(w: &mut World, header: &Header, step: u64) -> (bool, bool) {
    let beat = Event::Heartbeat(
        header.clone(),
        Beat { step, collectives: 0, connected: true, leaving: false, ..Beat::default() },
    );
    match w.ok(beat) {
        Reply::Heartbeat(heard) => (heard.boundary_wanted, heard.regroup.is_some()),
        other => panic!("{other:?}"),
    }
}

/// Three of four workers of a running job that goes on with two, in generation 2, after `a:1` has died at step 7.
fn three_of_four() -> (World, Vec<Header>) {
    let (mut w, h) = surviving(4, 2);
    w.ok(exited(1));
    for i in [0, 2, 3] {
        w.event(attach(&h[i], at(7, 0), Wait::First));
    }
    assert_eq!(formed(&mut w, &h[0]).roster.len(), 3);
    let h: Vec<Header> = [0, 2, 3].map(|i: usize| Header { generation: 2, ..h[i].clone() }).into();
    (w, h)
}

pub(super) fn joining(header: &Header, wait: Wait) -> Event {
    Event::Attach { header: header.clone(), standing: None, message: String::new(), wait }
}

/// [`three_of_four`], and the one that came in the place of `a:1` let in to generation 3, without a word of it yet.
fn let_in() -> (World, Vec<Header>, Header) {
    let (mut w, h) = three_of_four();
    let new = w.join(replacement(1));
    w.event(joining(&new, Wait::First));
    for header in &h {
        w.event(attach(header, at(9, 0), Wait::First));
    }
    assert_eq!(w.job.generation, 3);
    let h = h.into_iter().map(|header| Header { generation: 3, ..header }).collect();
    (w, h, new)
}

#[test]
fn one_that_comes_to_a_running_job_is_a_part_of_the_generation_behind_the_next_boundary() {
    let (mut w, h) = three_of_four();
    let plan = w.job.plan.clone().unwrap();
    let new = w.join(replacement(1));
    assert_eq!(new.generation, 2);
    // It has the plan, and its own place alone, and costs nobody anything.
    let Answer::Reply(Reply::Plan(told)) = w.plan(&new, Wait::First) else { panic!() };
    let alone = told.generation.unwrap();
    assert!(told.joins && told.plan.as_ref() == Some(&*plan));
    assert_eq!((alone.number, alone.roster.len(), alone.roster[0].local_index), (2, 1, 1));
    assert_eq!(heard(&mut w, &h[0], 8), (false, false));
    assert_eq!(heard(&mut w, &new, 0), (false, false));
    let early = w.refused(Event::StoreGet { header: new.clone(), key: "k".into(), wait: Wait::First });
    assert_eq!(early.kind(), "not-running");
    // Ready, it waits, and those who run hear of it.
    assert_eq!(w.event(joining(&new, Wait::First)), Answer::Park);
    match w.ok(joining(&new, Wait::Expired)) {
        Reply::Attached(None, waiting) => contains(&waiting, &["between two steps"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(w.job.generation, 2, "nothing has ended");
    for header in &h {
        assert_eq!(heard(&mut w, header, 8), (true, false));
    }
    // All leave at the boundary; the ranks are those of the beginning, and the state is that of one who ran.
    for (header, step) in h.iter().zip([9, 9, 9]) {
        w.event(attach(header, at(step, 0), Wait::First));
    }
    let Answer::Reply(Reply::Attached(Some(last), _)) = w.event(joining(&new, Wait::Again)) else { panic!() };
    let places: Vec<u32> = last.roster.iter().map(|p| p.local_index).collect();
    assert_eq!((last.number, places, last.rank, last.source), (3, vec![0, 1, 2, 3], 1, Some(0)));
    assert_eq!((&last.joined, &last.plan_sha256), (&vec![1], &plan.sha256));
    assert_eq!(formed(&mut w, &h[2]).rank, 3);
    let now: Vec<Header> = h.iter().chain([&new]).map(|h| Header { generation: 3, ..h.clone() }).collect();
    assert_eq!(heard(&mut w, &now[0], 9), (false, false));
    // From here on it is one of them: it is missed, and the job is done when it has left as well.
    w.ok(exited_again(1));
    assert_eq!(w.job.generation, 4);
    for header in &now[..3] {
        w.event(attach(header, at(9, 0), Wait::First));
    }
    for header in &now[..3] {
        let header = Header { generation: 4, ..header.clone() };
        w.ok(Event::Leave { header, interrupted: false, before_plan: false });
    }
    assert_eq!(w.ended, [Outcome::Finished { interrupted: false }]);
}

#[test]
fn one_that_is_ready_while_a_generation_is_formed_is_a_part_of_it_and_one_that_is_not_is_not_waited_for() {
    for ready in [true, false] {
        let (mut w, h) = surviving(3, 1);
        w.ok(exited(2));
        w.event(attach(&h[0], at(4, 0), Wait::First));
        let new = w.join(replacement(2));
        // Of the last generation that was formed: what it says never ends the one it comes to.
        assert_eq!(new.generation, 1);
        assert!(matches!(w.plan(&new, Wait::First), Answer::Reply(Reply::Plan(p)) if p.joins));
        if ready {
            assert_eq!(w.event(joining(&new, Wait::First)), Answer::Park);
        }
        w.event(attach(&h[1], at(5, 0), Wait::First));
        let all = formed(&mut w, &h[0]);
        assert_eq!((all.number, all.roster.len(), all.source), (2, 2 + usize::from(ready), Some(1)));
        let answer = w.event(joining(&new, Wait::First));
        assert_eq!(matches!(answer, Answer::Reply(Reply::Attached(Some(_), _))), ready);
        assert_eq!(w.job.generation, 2);
        let current = Header { generation: 2, ..h[0].clone() };
        assert_eq!(heard(&mut w, &current, 5), (!ready, false));
    }
}

#[test]
fn one_without_a_state_is_never_the_source_and_no_reason_to_begin_anew() {
    let (mut w, now, new) = let_in();
    // The generation breaks before it has taken on the others' state, and even before it has heard of it.
    for header in &now {
        w.event(attach(header, at(9, 0), Wait::First));
    }
    assert_eq!(w.job.generation, 4);
    assert_eq!(w.event(joining(&new, Wait::First)), Answer::Reply(regroup_of(&w)));
    let last = formed(&mut w, &now[0]);
    assert_eq!((last.roster.len(), last.source, last.joined), (4, Some(0), vec![1]));
    // Where nobody has begun, all do.
    let (mut w, h) = surviving(2, 1);
    w.ok(exited(1));
    let new = w.join(replacement(1));
    w.event(joining(&new, Wait::First));
    w.event(attach(&h[0], None, Wait::First));
    let all = formed(&mut w, &h[0]);
    assert_eq!((all.roster.len(), all.source), (2, None));
}

/// What the second rank of the generation that is formed is answered.
fn regroup_of(w: &World) -> Reply {
    match &w.job.phase {
        Phase::Running { formed, .. } => super::super::regroup::attached(formed, Some(1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_that_dies_on_its_way_in_costs_the_others_no_more_than_the_forming() {
    let deaths: [fn(&mut World, &Header, &[&Header]); 4] = [
        |w, _, _| assert_eq!(w.ok(exited_again(1)), Reply::GoesOn(true)),
        |w, _, others| w.pass(w.config.heartbeat_timeout + ms(500), others),
        |w, new, _| w.fail(new, "no such teacher", FailureKind::Configuration),
        |w, new, _| {
            w.ok(Event::Leave { header: new.clone(), interrupted: false, before_plan: true });
        },
    ];
    for (i, death) in deaths.iter().enumerate() {
        for (ready, reforming) in [(false, false), (true, false), (true, true)] {
            let (mut w, h) = three_of_four();
            let new = w.join(replacement(1));
            if ready {
                w.event(joining(&new, Wait::First));
            }
            if reforming {
                w.event(attach(&h[0], at(9, 0), Wait::First));
            }
            let others: Vec<&Header> = h.iter().collect();
            death(&mut w, &new, &others);
            assert_eq!((w.job.outcome(), w.job.members.contains_key(&new.member)), (None, false), "{i}");
            assert_eq!(w.job.generation, 2 + u64::from(reforming), "{i}");
            if reforming {
                w.event(attach(&h[1], at(9, 0), Wait::First));
                w.event(attach(&h[2], at(9, 0), Wait::First));
                assert_eq!(formed(&mut w, &h[0]).roster.len(), 3, "{i}");
            } else {
                assert_eq!(heard(&mut w, &h[0], 9), (false, false), "{i}: no boundary is wanted for nobody");
            }
            // The place is free for another one.
            w.join(RegisterRequest { nonce: "third".into(), ..replacement(1) });
        }
    }
    // Once it is in, it is lost as any other is; but what it says of itself before its first step is its own, unless all meet it.
    for (kind, step, ends) in [
        (FailureKind::Configuration, 0, false),
        (FailureKind::External, 0, false),
        (FailureKind::NotFinite, 0, true),
        (FailureKind::Configuration, 10, true),
    ] {
        let (mut w, _, new) = let_in();
        let new = Header { generation: 3, ..new };
        heard(&mut w, &new, step);
        w.fail(&new, "the images are others", kind);
        assert_eq!(w.job.outcome().is_some(), ends, "{kind:?} {step}");
        assert_eq!(w.job.generation, if ends { 3 } else { 4 });
    }
}

#[test]
fn who_cannot_be_a_part_of_the_running_job_is_refused_and_the_job_is_unharmed() {
    let (mut w, h) = three_of_four();
    let before = w.job.clone();
    let spec = |changes| Some(spec_of(changes));
    for (request, kind) in [
        (RegisterRequest { protocol_version: PROTOCOL_VERSION + 1, ..replacement(1) }, "protocol"),
        (RegisterRequest { job_id: "other".into(), ..replacement(1) }, "job"),
        (RegisterRequest { generation: 2, ..replacement(1) }, "stale-generation"),
        (RegisterRequest { job: spec(json!({"lr": 0.5})), ..replacement(1) }, "config-mismatch"),
        (replacement(0), "duplicate"),
    ] {
        assert_eq!(w.refuse(request).kind(), kind);
        assert_eq!((&w.job.phase, w.job.generation), (&before.phase, 2), "{kind}");
    }
    let give_up = GiveUpRequest {
        job_id: "octrain".into(),
        host: "a".into(),
        local_index: Some(1),
        pid: 2,
        message: "no images".into(),
        ..GiveUpRequest::default()
    };
    assert_eq!(w.refused(Event::GiveUp(Box::new(give_up))).kind(), "full");
    assert_eq!(w.job.outcome(), None);
    // One that never came so far is one that the job goes on without.
    assert_eq!(w.ok(exited_again(1)), Reply::GoesOn(true));
    // Another process for the same place is one too many, and so is any where all are there.
    w.join(RegisterRequest { generation: 1, ..replacement(1) });
    let twice = w.refuse(RegisterRequest { nonce: "third".into(), ..replacement(1) });
    assert_eq!(twice.kind(), "duplicate");
    let above = RegisterRequest { nonce: "b".into(), worker: Some(worker("b", 0, 0)), ..replacement(1) };
    assert_eq!(w.refuse(above.clone()).kind(), "full");
    // The same process again is the same.
    let members = w.job.members.len();
    w.join(replacement(1));
    assert_eq!(w.job.members.len(), members);
    // At its end the job takes nobody, and one that waits hears of it.
    let new = w.join(replacement(1));
    w.event(joining(&new, Wait::First));
    for (i, header) in h.iter().enumerate() {
        w.ok(Event::Leave { header: header.clone(), interrupted: false, before_plan: false });
        if i == 0 {
            let late =
                RegisterRequest { nonce: "b".into(), worker: Some(worker("b", 0, 0)), ..replacement(1) };
            assert_eq!(w.refuse(late).kind(), "finished");
        }
    }
    assert_eq!(w.ended, [Outcome::Finished { interrupted: false }]);
    assert!(!w.job.drained(w.now, &w.config), "it has yet to hear");
    assert_eq!(w.refused(joining(&new, Wait::Again)), Refusal::Finished);
    // Nor does a job that ends with any of its workers take any.
    let (mut w, _) = World::running(2);
    assert_eq!(w.refuse(RegisterRequest { nonce: "b".into(), ..request("b", 0) }).kind(), "full");
}

#[test]
fn a_host_of_its_own_may_come_in_the_place_of_one_that_is_gone() {
    let (mut w, h) = three_of_four();
    let new =
        w.join(RegisterRequest { nonce: "b".into(), worker: Some(worker("b", 0, 0)), ..replacement(1) });
    w.event(joining(&new, Wait::First));
    for header in &h {
        w.event(attach(header, at(9, 0), Wait::First));
    }
    let last = formed(&mut w, &h[0]);
    assert_eq!((last.roster.len(), last.joined), (4, vec![3]));
}

#[test]
fn one_that_joins_is_neither_counted_for_the_minimum_nor_named_to_save() {
    let (mut w, _) = three_of_four();
    let new = w.join(replacement(1));
    w.event(joining(&new, Wait::First));
    w.ok(exited(0));
    assert_eq!(w.job.outcome(), None);
    w.ok(exited(2));
    let abort = w.abort();
    assert_eq!(abort.kind(), AbortKind::WorkerLost);
    assert_eq!(abort.saver.map(|s| s.local_index), Some(3));
    assert!(matches!(w.refused(joining(&new, Wait::Again)), Refusal::Ended(_)));
}

#[test]
fn a_job_whose_state_only_the_dead_had_ends_and_does_not_begin_anew() {
    let (mut w, h) = surviving(2, 1);
    w.ok(exited(1));
    w.event(attach(&h[0], at(7, 0), Wait::First));
    let new = w.join(replacement(1));
    w.event(joining(&new, Wait::First));
    w.event(attach(&Header { generation: 2, ..h[0].clone() }, at(9, 0), Wait::First));
    assert_eq!(w.job.generation, 3);
    let last = w.clone();
    for message in ["is killed", "fails"] {
        let mut w = last.clone();
        match message {
            "is killed" => drop(w.event(exited(0))),
            _ => w.fail(
                &Header { generation: 3, ..h[0].clone() },
                "connection reset",
                FailureKind::Communication,
            ),
        }
        // It may have taken on the state just before, and says so when it comes.
        assert_eq!((w.job.outcome(), w.job.generation), (None, 4), "the last one that had it {message}");
        let mut has = w.clone();
        has.event(attach(&Header { generation: 3, ..new.clone() }, at(9, 0), Wait::First));
        assert!(matches!(has.job.phase, Phase::Running { .. }), "{:?}", has.job.phase);
        w.event(joining(&Header { generation: 3, ..new.clone() }, Wait::First));
        assert_eq!(w.abort().kind(), AbortKind::WorkerLost);
        contains(&w.abort().message, &["none of those who are left has the job's state"]);
        assert!(w.abort().saver.is_none_or(|saver| saver.local_index != 1), "it has nothing to save");
        assert!(matches!(w.event(joining(&new, Wait::Again)), Answer::Refuse(Refusal::Ended(_))));
    }
}

#[test]
fn one_that_is_left_out_does_not_leave_fewer_than_the_minimum() {
    let (mut w, h, new) = let_in();
    for generation in [3, 4] {
        // The minimum is two: with the one that breaks each generation, a single one would be left.
        if generation == 4 {
            w.ok(exited(2));
            w.ok(exited(3));
        }
        for header in &h {
            w.event(attach(&Header { generation, ..header.clone() }, at(9, 0), Wait::First));
        }
        w.event(joining(&Header { generation, ..new.clone() }, Wait::First));
    }
    let formed_of = match &w.job.phase {
        Phase::Running { formed, .. } => formed.roster.len(),
        _ => 0,
    };
    assert_ne!(formed_of, 1, "a generation below the minimum");
}

#[test]
fn one_that_has_taken_on_the_state_can_go_on_alone() {
    let (mut w, _, new) = let_in();
    let new = Header { generation: 3, ..new };
    heard(&mut w, &new, 10);
    for i in [0, 2, 3] {
        w.event(exited(i));
    }
    // Below the minimum of two, it is the one that saves.
    assert_eq!(w.abort().saver.map(|saver| saver.local_index), Some(1));
}

#[test]
fn one_that_breaks_each_generation_it_is_let_in_to_is_left_out_and_the_job_goes_on() {
    let (mut w, h, new) = let_in();
    let attach_all = |w: &mut World, generation: u64| {
        for header in &h {
            let header = Header { generation, ..header.clone() };
            w.event(attach(&header, at(9, 0), Wait::First));
        }
    };
    for generation in [3, 4] {
        attach_all(&mut w, generation);
        let answer = w.event(joining(&Header { generation, ..new.clone() }, Wait::First));
        match generation {
            3 => assert!(matches!(answer, Answer::Reply(_)), "{answer:?}"),
            _ => assert!(matches!(answer, Answer::Refuse(Refusal::Ended(_))), "{answer:?}"),
        }
    }
    let formed = formed(&mut w, &Header { generation: 4, ..h[0].clone() });
    assert_eq!((formed.number, formed.roster.len(), formed.source), (5, 3, Some(0)));
    assert!(w.job.refusals.iter().any(|(_, text)| text.contains("let in 2 times")));
    // Its generations were none of those in vain.
    for generation in 5..8 {
        attach_all(&mut w, generation);
        assert!(matches!(w.job.phase, Phase::Running { .. }), "{generation}");
    }
}

#[test]
fn one_that_the_others_do_not_reach_is_left_out_in_time() {
    let (mut w, h, new) = let_in();
    let new = Header { generation: 3, ..new };
    for _ in 0..61 {
        w.now += ms(1000);
        for header in h.iter().chain([&new]) {
            w.ok(Event::Heartbeat(
                header.clone(),
                Beat { step: 0, collectives: 0, connected: false, leaving: false, ..Beat::default() },
            ));
        }
        w.event(Event::Tick);
    }
    assert!(matches!(w.job.phase, Phase::Reforming { .. }), "{:?}", w.job.phase);
    assert!(w.beat(&new).is_some_and(|abort| abort.message.contains("address")));
}

#[test]
fn one_that_leaves_or_fails_without_having_heard_that_it_was_let_in_ends_its_generation() {
    let (mut w, _, new) = let_in();
    w.ok(Event::Leave { header: new, interrupted: true, before_plan: false });
    assert!(matches!(w.job.phase, Phase::Reforming { .. }) && !w.job.interrupted, "{:?}", w.job.phase);
    let again = w.join(RegisterRequest { nonce: "third".into(), ..replacement(1) });
    assert!(w.event(joining(&again, Wait::First)) == Answer::Park);

    let (mut w, _, new) = let_in();
    w.fail(&new, "no memory", FailureKind::Own);
    assert!(matches!(w.job.phase, Phase::Reforming { .. }), "{:?}", w.job.phase);
}

#[test]
fn one_that_has_nothing_is_not_named_to_save_and_what_all_have_met_is_told_by_any() {
    let (mut w, h) = surviving(4, 3);
    w.ok(exited(1));
    for i in [0, 2, 3] {
        w.event(attach(&h[i], at(7, 0), Wait::First));
    }
    let new = w.join(replacement(1));
    w.event(joining(&new, Wait::First));
    for i in [0, 2, 3] {
        w.event(attach(&Header { generation: 2, ..h[i].clone() }, at(9, 0), Wait::First));
    }
    heard(&mut w, &Header { generation: 3, ..h[3].clone() }, 9);
    w.ok(exited(0));
    w.event(joining(&Header { generation: 3, ..new }, Wait::First));
    w.ok(exited(2));
    assert_eq!(w.abort().saver.map(|saver| saver.local_index), Some(3));

    let (mut w, _, new) = let_in();
    w.fail(&Header { generation: 3, ..new }, "loss is NaN", FailureKind::NotFinite);
    assert_eq!(w.abort().kind(), AbortKind::NotFinite);
}

#[test]
fn a_place_is_not_held_by_one_that_never_gets_ready_nor_by_one_who_left_before_its_plan() {
    let (mut w, h) = three_of_four();
    let new = w.join(replacement(1));
    let (all, until): (Vec<&Header>, _) = (h.iter().chain([&new]).collect(), w.config.register_timeout);
    while w.job.members.contains_key(&new.member) && w.now < until + ms(2000) {
        w.pass(ms(1000), &all[..if w.now < until { 4 } else { 3 }]);
    }
    assert!(w.now >= until, "{:?}", w.now);
    w.join(RegisterRequest { nonce: "third".into(), ..replacement(1) });

    let (mut w, h) = surviving(3, 1);
    w.ok(Event::Leave { header: h[2].clone(), interrupted: false, before_plan: true });
    w.join(replacement(2));
}

#[test]
fn what_ends_with_another_worker_is_not_held_against_one_that_was_let_in() {
    let (mut w, h) = surviving(6, 2);
    w.ok(exited(1));
    let others = [0, 2, 3, 4, 5].map(|i: usize| h[i].clone());
    let attach_all = |w: &mut World, left: &[Header], generation: u64| {
        for header in left {
            w.event(attach(&Header { generation, ..header.clone() }, at(7, 0), Wait::First));
        }
    };
    attach_all(&mut w, &others, 1);
    let new = w.join(replacement(1));
    w.event(joining(&new, Wait::First));
    attach_all(&mut w, &others, 2);
    assert_eq!(w.job.generation, 3);
    // One after the other dies before a step is done.
    for (generation, dies) in [(3, 5), (4, 4), (5, 3)] {
        w.ok(exited(dies));
        let left = &others[..dies as usize - 1];
        attach_all(&mut w, left, generation);
        let answer = w.event(joining(&Header { generation, ..new.clone() }, Wait::First));
        assert!(matches!(answer, Answer::Reply(Reply::Attached(Some(_), _))), "{generation}: {answer:?}");
    }
}
