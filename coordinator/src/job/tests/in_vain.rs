//! Those for whom the others would wait in vain.

use super::*;

fn giving_up(host: &str, local_index: Option<u32>) -> GiveUpRequest {
    GiveUpRequest {
        job_id: "octrain".into(),
        generation: 0,
        host: host.into(),
        local_index,
        pid: 77,
        workers: 0,
        message: "unexpected argument '--epoch'".into(),
    }
}

fn give_up(request: GiveUpRequest) -> Event {
    Event::GiveUp(Box::new(request))
}

#[test]
fn a_launcher_that_cannot_be_run_ends_the_wait_with_its_words() {
    for (local_index, who) in [(None, "host b (pid 77)"), (Some(1), "host b local 1 (pid 77)")] {
        let mut w = World::new(3);
        let a = w.join(request("a", 0));
        w.ok(give_up(giving_up("b", local_index)));
        let abort = w.abort();
        assert_eq!(abort.kind(), AbortKind::Configuration);
        contains(&abort.message, &["cannot be run as configured", who, "unexpected argument '--epoch'"]);
        assert_eq!(w.beat(&a), Some(abort));
    }
}

#[test]
fn strangers_and_those_whose_place_is_taken_end_nothing() {
    let mut w = World::new(2);
    w.join(request("a", 0));
    for (request, kind) in [
        (GiveUpRequest { job_id: "other".into(), ..giving_up("b", None) }, "job"),
        (GiveUpRequest { generation: 9, ..giving_up("b", None) }, "stale-generation"),
        (giving_up("", None), "invalid"),
        // A second launch on a host that is there already.
        (giving_up("a", None), "duplicate"),
        (giving_up("a", Some(0)), "duplicate"),
    ] {
        assert_eq!(w.refused(give_up(request)).kind(), kind);
    }
    let taken = RegisterRequest { nonce: "another process".into(), ..request("a", 0) };
    assert_eq!(w.refuse(taken.clone()).kind(), "duplicate");
    assert_eq!(w.refuse(RegisterRequest { protocol_version: 99, ..taken }).kind(), "protocol");
    assert_eq!(w.refuse(RegisterRequest { job_id: "other".into(), ..request("b", 0) }).kind(), "job");
    let foreign = RegisterRequest { protocol_version: 99, job_id: "other".into(), ..request("b", 0) };
    assert_eq!(w.refuse(foreign).kind(), "protocol");
    assert_eq!(w.job.phase, Phase::Gathering);

    // What has started goes on.
    w.join(request("a", 1));
    assert_eq!(w.refused(give_up(giving_up("b", None))).kind(), "full");
    assert_eq!(w.refuse(RegisterRequest { protocol_version: 99, ..request("b", 0) }).kind(), "protocol");
    assert_eq!(
        w.refuse(RegisterRequest { job: Some(spec_of(json!({"seed": 1}))), ..request("b", 0) }).kind(),
        "full"
    );
    assert!(matches!(w.job.phase, Phase::Running { .. }));

    // Where workers are named, no other one counts.
    let mut w = World::new(1);
    w.config.expected = vec![Place { host: "a".into(), local_index: 0 }];
    assert_eq!(w.refused(give_up(giving_up("b", None))).kind(), "unexpected");
    assert_eq!(w.refuse(RegisterRequest { protocol_version: 99, ..request("b", 0) }).kind(), "protocol");
    assert_eq!(w.job.phase, Phase::Gathering);
}

#[test]
fn a_registration_that_can_never_fit_ends_the_wait_and_says_whose_it_is() {
    let of = |change: Value| Some(spec_of(change));
    let mut crowded = request("a", 1);
    crowded.worker.as_mut().unwrap().local_world = 4;
    for (wrong, kind, words) in [
        (
            RegisterRequest { job: of(json!({"seed": 1, "qat": true})), ..request("a", 1) },
            "config-mismatch",
            &["host a local 1", "host a local 0", "qat: true against false", "seed: 1 against 42"][..],
        ),
        (
            RegisterRequest { protocol_version: 99, ..request("a", 1) },
            "protocol",
            &["host a local 1", "protocol version 99"],
        ),
        (
            RegisterRequest { job: of(json!({"amp": "int8"})), ..request("a", 1) },
            "configuration",
            &["host a local 1", "int8"],
        ),
        (
            RegisterRequest {
                job: Some(JobSpec { train_images: 0, ..spec_of(json!({})) }),
                ..request("a", 1)
            },
            "configuration",
            &["host a local 1 has no training images"],
        ),
        (crowded, "configuration", &["one of 4 workers of its host, but the whole job has 3"]),
    ] {
        let mut w = World::new(3);
        let a = w.join(request("a", 0));
        let refusal = w.refuse(wrong);
        assert_eq!(refusal.kind(), kind);
        let abort = w.abort();
        assert_eq!(abort.kind(), AbortKind::Configuration);
        contains(&abort.message, words);
        assert_eq!(w.beat(&a), Some(abort));
    }
}

#[test]
fn who_comes_after_a_job_that_could_not_begin_is_told_and_the_coordinator_stays_for_that() {
    let mut w = World::new(4);
    w.config.linger_for_late = ms(60_000);
    let a = w.join(request("a", 0));
    w.now = ms(1_000);
    w.ok(give_up(giving_up("b", None)));
    let abort = w.abort();
    assert_eq!(w.beat(&a), Some(abort.clone()));
    // All who are registered know; two have yet to come.
    w.now = ms(31_000);
    assert!(!w.job.drained(w.now, &w.config));
    assert_eq!(w.refuse(request("c", 0)), Refusal::Ended(abort.clone()));
    assert_eq!(w.refuse(request("c", 0)), Refusal::Ended(abort.clone()));
    assert!(!w.job.drained(w.now, &w.config), "one that asks twice is one");
    let mut last = w.job.clone();
    assert_eq!(w.refuse(request("c", 1)), Refusal::Ended(abort));
    assert!(w.job.drained(w.now, &w.config), "all four know");
    // The last one never comes.
    std::mem::swap(&mut w.job, &mut last);
    assert!(!w.job.drained(ms(60_999), &w.config));
    assert!(w.job.drained(ms(61_000), &w.config));
}

#[test]
fn nobody_is_awaited_by_a_job_that_began_or_that_is_stopped_or_whose_time_to_register_is_over() {
    let mut w = World::new(2);
    w.config.linger_for_late = ms(60_000);
    w.event(Event::Shutdown { why: "SIGTERM".into() });
    assert!(w.job.drained(w.now, &w.config));

    // After the end, too.
    let mut w = World::new(3);
    w.config.linger_for_late = ms(60_000);
    w.ok(give_up(giving_up("b", None)));
    assert!(!w.job.drained(w.now, &w.config));
    w.event(Event::Shutdown { why: "SIGTERM".into() });
    assert_eq!(w.abort().kind(), AbortKind::Configuration);
    assert!(w.job.drained(w.now, &w.config));

    let mut w = World::new(2);
    w.config.linger_for_late = ms(60_000);
    w.now = w.config.register_timeout;
    w.event(Event::Tick);
    assert_eq!(w.abort().kind(), AbortKind::RegisterTimeout);
    assert!(w.job.drained(w.now, &w.config));

    let (mut w, headers) = World::running(2);
    w.config.linger_for_late = ms(60_000);
    let kind = FailureKind::Configuration;
    w.ok(Event::ReportFailure { header: headers[0].clone(), message: "no such class".into(), kind });
    for header in &headers {
        w.beat(header);
    }
    assert!(w.job.drained(w.now, &w.config));
}

#[test]
fn launchers_of_several_workers_with_the_same_fault_are_counted_by_their_workers() {
    let mut w = World::new(5);
    w.config.linger_for_late = ms(60_000);
    w.ok(give_up(GiveUpRequest { workers: 2, ..giving_up("b", None) }));
    assert!(!w.job.drained(w.now, &w.config));
    // The second one is told of the end, and counts; asking twice, it counts once.
    for _ in 0..2 {
        let told = w.refused(give_up(GiveUpRequest { workers: 2, ..giving_up("c", None) }));
        assert!(matches!(told, Refusal::Ended(_)), "{told:?}");
        assert!(!w.job.drained(w.now, &w.config));
    }
    // One of another version is refused as such, and knows.
    assert_eq!(w.refuse(RegisterRequest { protocol_version: 99, ..request("d", 0) }).kind(), "protocol");
    assert!(w.job.drained(w.now, &w.config), "all five know");
}
