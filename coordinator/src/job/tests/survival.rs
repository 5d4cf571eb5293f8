//! What is told of a job that outlives its workers, which jobs do not, and what comes late.

use super::regroup::{at, attach, exited, formed, surviving};
use super::*;

#[test]
fn status_tells_forming_running_and_reforming_apart() {
    let (mut w, h) = surviving(2, 1);
    let status = |w: &mut World| match w.ok(Event::Status { watching: false }) {
        Reply::Status(s) => (s.phase(), s.message.clone(), s.members.iter().filter(|m| m.gone).count()),
        other => panic!("{other:?}"),
    };
    assert_eq!(status(&mut w).0, JobPhase::Forming);
    w.beat(&h[0]);
    let (phase, message, _) = status(&mut w);
    assert_eq!(phase, JobPhase::Forming);
    assert!(!message.contains("rank 0"), "{message}");
    contains(&message, &["connected", "rank 1 (host a, local index 1"]);
    w.beat(&h[1]);
    assert_eq!((status(&mut w).0, status(&mut w).1), (JobPhase::Running, String::new()));
    w.ok(exited(1));
    let (phase, message, gone) = status(&mut w);
    assert_eq!((phase, gone), (JobPhase::Reforming, 1));
    contains(&message, &["waiting for rank 0", "killed by signal 9"]);
    w.event(attach(&h[0], at(1, 0), Wait::First));
    assert_eq!(status(&mut w).0, JobPhase::Forming);
    w.beat(&Header { generation: 2, ..h[0].clone() });
    assert_eq!(status(&mut w).0, JobPhase::Running);
}

#[test]
fn a_step_that_is_finished_in_a_generation_says_that_all_of_it_are_connected() {
    let (mut w, h) = surviving(3, 1);
    let phase = |w: &mut World| match w.ok(Event::Status { watching: false }) {
        Reply::Status(s) => s.phase(),
        other => panic!("{other:?}"),
    };
    let beat = |w: &mut World, header: &Header, step: u64| {
        let header = header.clone();
        w.ok(Event::Heartbeat(
            header,
            Beat { step, collectives: 0, connected: false, leaving: false, ..Beat::default() },
        ));
    };
    beat(&mut w, &h[0], 0);
    assert_eq!(phase(&mut w), JobPhase::Forming);
    // No more than one of them has told of it yet.
    beat(&mut w, &h[0], 1);
    assert_eq!(phase(&mut w), JobPhase::Running);
    w.ok(exited(2));
    w.event(attach(&h[0], at(1, 0), Wait::First));
    w.event(attach(&h[1], at(2, 0), Wait::First));
    // What was finished before says nothing of the new generation, by whichever of its words it comes.
    let now = Header { generation: 2, ..h[0].clone() };
    beat(&mut w, &h[0], 2);
    beat(&mut w, &now, 2);
    assert_eq!(phase(&mut w), JobPhase::Forming);
    let report = StepReport { step: 3, ..StepReport::default() };
    w.ok(Event::ReportStep { header: now, report });
    assert_eq!(phase(&mut w), JobPhase::Running);
}

#[test]
fn whether_a_job_goes_on_is_told_before_anybody_has_come() {
    for min_world in [1, 2] {
        let mut w = World::new(2);
        w.config.min_world = min_world;
        w.job = Job::new(&w.config, 7);
        match w.ok(Event::Status { watching: false }) {
            Reply::Status(s) => assert_eq!((s.min_workers, s.expected_workers), (min_world, 2)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_benchmark_ends_with_any_of_its_workers_whatever_the_minimum_says_and_says_why() {
    for lost in [true, false] {
        let mut w = World::new(3);
        w.config.min_world = 1;
        w.job = Job::new(&w.config, 7);
        let timed = |i| RegisterRequest { job: Some(spec_of(json!({"benchmark": true}))), ..request("a", i) };
        let h: Vec<Header> = (0..3).map(|i| w.join(timed(i))).collect();
        let plan = w.job.plan.clone().unwrap();
        assert_eq!((plan.min_world, plan.microbatches), (3, 3), "no generation but the first is planned for");
        let setting = plan.settings.iter().find(|s| s.name == "min-world").unwrap();
        contains(&setting.reason, &["a benchmark ends with any of its workers", "--min-world (1)"]);
        match w.ok(Event::Status { watching: false }) {
            Reply::Status(s) => assert_eq!(s.min_workers, 3),
            other => panic!("{other:?}"),
        }
        if lost {
            assert_eq!(w.ok(exited(1)), Reply::GoesOn(false), "as of any job that ends with its workers");
            w.pass(w.config.heartbeat_timeout, &[&h[0], &h[2]]);
        } else {
            w.fail(&h[1], "no memory", FailureKind::Own);
        }
        contains(&w.abort().message, &["rank 1", "a benchmark ends with any of its workers", "--min-world"]);
        assert!(matches!(w.refused(attach(&h[0], at(1, 0), Wait::First)), Refusal::Ended(_)));
    }
    // One whose end has nothing to do with a minimum does not speak of it, nor does one that was given none.
    let (mut w, h) = surviving(2, 2);
    w.fail(&h[0], "no memory", FailureKind::Own);
    assert!(!w.abort().message.contains("--min-world"));
}

#[test]
fn a_question_for_the_plan_that_comes_late_is_no_worker_that_has_come_and_has_not_begun() {
    let words: [fn(&Header) -> Event; 4] = [
        |h| Event::StoreSet { header: h.clone(), key: "k".into(), value: vec![1] },
        |h| {
            Event::Heartbeat(
                h.clone(),
                Beat { step: 0, collectives: 1, connected: false, leaving: false, ..Beat::default() },
            )
        },
        |h| {
            Event::Heartbeat(
                h.clone(),
                Beat { step: 0, collectives: 0, connected: true, leaving: false, ..Beat::default() },
            )
        },
        |h| Event::ReportStep { header: h.clone(), report: StepReport { step: 9, ..StepReport::default() } },
    ];
    for word in words {
        let (mut w, h) = surviving(3, 2);
        w.ok(word(&h[0]));
        w.ok(exited(2));
        w.event(attach(&h[1], at(9, 0), Wait::First));
        // Repeated, or long under way: the worker is in its step, and will come and say how far it is.
        for wait in [Wait::First, Wait::Again] {
            assert_eq!(w.plan(&h[0], wait), Answer::Park);
            assert!(matches!(w.job.phase, Phase::Reforming { .. }), "it was taken for one that has come");
        }
        w.event(attach(&h[0], at(9, 0), Wait::First));
        assert_eq!(formed(&mut w, &h[1]).source, Some(0), "nine steps are done");
        // Nor does it undo that it has come.
        let (mut w, h) = surviving(3, 2);
        w.ok(exited(2));
        w.event(attach(&h[0], at(9, 0), Wait::First));
        assert_eq!(w.plan(&h[0], Wait::First), Answer::Park);
        w.event(attach(&h[1], at(8, 0), Wait::First));
        assert_eq!(formed(&mut w, &h[1]).source, Some(0));
    }
    // A beat before the plan is there says nothing: this one waits for it.
    let (mut w, h) = surviving(3, 2);
    w.ok(Event::Heartbeat(
        h[0].clone(),
        Beat { step: 0, collectives: 0, connected: false, leaving: false, ..Beat::default() },
    ));
    w.ok(exited(2));
    w.event(attach(&h[1], None, Wait::First));
    assert!(matches!(w.plan(&h[0], Wait::First), Answer::Reply(Reply::Plan(p)) if p.generation.is_some()));
}

#[test]
fn a_call_of_an_earlier_generation_that_comes_late_is_no_worker_that_has_come_to_the_next_one() {
    let (mut w, h) = surviving(2, 1);
    for header in &h {
        w.event(attach(header, at(5, 0), Wait::First));
    }
    let now: Vec<Header> = h.iter().map(|h| Header { generation: 2, ..h.clone() }).collect();
    w.ok(Event::StoreSet { header: now[1].clone(), key: "k".into(), value: vec![1] });
    assert_eq!(w.event(attach(&now[0], at(7, 0), Wait::First)), Answer::Park);
    assert_eq!(w.job.generation, 3);
    // Its first call of all, once more, with what it said then.
    assert_eq!(w.refused(attach(&h[1], at(5, 0), Wait::First)).kind(), "stale-generation");
    assert!(matches!(w.job.phase, Phase::Reforming { .. }), "it was taken for one that has come");
    w.event(attach(&now[1], at(8, 0), Wait::First));
    assert_eq!(formed(&mut w, &now[0]).source, Some(1), "the eighth step is done");
    // One whose answer was lost has heard of no generation since, and has come to whichever there is.
    let (mut w, h) = surviving(2, 1);
    for header in &h {
        w.event(attach(header, at(5, 0), Wait::First));
    }
    w.event(attach(&Header { generation: 2, ..h[0].clone() }, at(5, 0), Wait::First));
    w.event(attach(&h[1], at(5, 0), Wait::Again));
    assert_eq!(formed(&mut w, &h[1]).number, 3);
}

#[test]
fn below_the_minimum_no_generation_is_formed_while_the_root_cause_of_a_failure_is_awaited() {
    let (mut w, h) = surviving(3, 2);
    w.ok(exited(2));
    w.event(attach(&h[0], at(1, 0), Wait::First));
    w.event(attach(&h[1], at(1, 0), Wait::First));
    let [h0, h1] = [0, 1].map(|i| Header { generation: 2, ..h[i].clone() });
    w.fail(&h1, "connection reset by peer", FailureKind::Communication);
    // The other one's collective broke as well.
    assert_eq!(w.event(attach(&h0, at(3, 0), Wait::First)), Answer::Park);
    match w.ok(attach(&h0, at(3, 0), Wait::Expired)) {
        Reply::Attached(None, text) => contains(&text, &["root cause", "connection reset by peer"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(w.job.generation, 2);
    w.pass(ms(6000), &[&h0]);
    contains(&w.abort().message, &["connection reset by peer", "no other worker has failed"]);
    assert!(matches!(w.event(attach(&h0, at(3, 0), Wait::Again)), Answer::Refuse(Refusal::Ended(_))));
}

#[test]
fn one_that_has_been_silent_since_its_plan_has_begun_where_another_has_finished_a_step() {
    for before in [true, false] {
        let (mut w, h) = surviving(3, 2);
        w.ok(exited(2));
        // What it had asked before it had its plan comes late; it has trained since, and no word of that has come.
        let ask = |w: &mut World| assert_eq!(w.plan(&h[1], Wait::First), Answer::Park);
        if before {
            ask(&mut w);
        }
        w.event(attach(&h[0], at(4, 0), Wait::First));
        if !before {
            ask(&mut w);
        }
        assert!(matches!(w.job.phase, Phase::Reforming { .. }), "it was taken for one that has come");
        w.event(attach(&h[1], at(5, 0), Wait::First));
        assert_eq!(formed(&mut w, &h[0]).source, Some(1), "the fifth step is done");
    }
}
