//! Those for whom the others would wait in vain.

use super::*;

fn giving_up(host: &str, local_index: Option<u32>) -> GiveUpRequest {
    GiveUpRequest {
        job_id: "octrain".into(),
        generation: 0,
        host: host.into(),
        local_index,
        pid: 77,
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
