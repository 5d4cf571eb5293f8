//! The state machine, event by event, on a clock of the tests' own.

mod blame;
mod departure;
mod drain;
mod growth;
mod hang;
mod history;
mod in_vain;
mod join;
mod news;
mod regroup;
mod replay;
mod straggler;
mod survival;

use super::*;
use crate::plan;
use crate::ranks::Place;
use crate::spec::spec;
use crate::strategy::testing::{config as settings, model, worker};
use octrain_core::strategy::Purpose;
use octrain_proto::PROTOCOL_VERSION;
use octrain_proto::v1::{
    ExitedRequest, FailureKind, GiveUpRequest, JobPhase, JobSpec, RegisterRequest, Standing, StepReport,
};
use serde_json::{Value, json};
use std::time::Duration;

const fn ms(n: u64) -> Now {
    Duration::from_millis(n)
}

/// A job under test: keeps state and time, asserts on answers.
#[derive(Clone)]
struct World {
    job: Job,
    config: CoordinatorConfig,
    now: Now,
    ended: Vec<Outcome>,
    told: Vec<Told>,
}

fn spec_of(changes: Value) -> JobSpec {
    spec(&settings(changes), Purpose::Train, model(), 50_000)
}

fn request(host: &str, local_index: u32) -> RegisterRequest {
    RegisterRequest {
        protocol_version: PROTOCOL_VERSION,
        job_id: "octrain".into(),
        generation: 0,
        nonce: format!("{host}/{local_index}"),
        token: format!("of {host}/{local_index}"),
        worker: Some(worker(host, local_index, 0)),
        job: Some(spec_of(json!({}))),
    }
}

impl World {
    fn new(world_size: u32) -> Self {
        let config = CoordinatorConfig::new("127.0.0.1:0", world_size);
        Self { job: Job::new(&config, 7), config, now: Now::ZERO, ended: Vec::new(), told: Vec::new() }
    }

    /// A running job with workers `a:0`, `a:1`, ...
    fn running(world_size: u32) -> (Self, Vec<Header>) {
        let mut w = Self::new(world_size);
        let headers = (0..world_size).map(|i| w.join(request("a", i))).collect();
        assert!(matches!(w.job.phase, Phase::Running { .. }));
        (w, headers)
    }

    fn event(&mut self, event: Event) -> Answer {
        let step = step(self.now, self.job.clone(), &self.config, event);
        self.job = step.job;
        self.ended.extend(step.ended);
        self.told.extend(step.told);
        step.answer
    }

    fn ok(&mut self, event: Event) -> Reply {
        match self.event(event) {
            Answer::Reply(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, event: Event) -> Refusal {
        match self.event(event) {
            Answer::Refuse(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn join(&mut self, request: RegisterRequest) -> Header {
        match self.ok(Event::Register(Box::new(request))) {
            Reply::Registered(r) => Header { job_id: r.job_id, generation: r.generation, member: r.member },
            other => panic!("{other:?}"),
        }
    }

    fn refuse(&mut self, request: RegisterRequest) -> Refusal {
        self.refused(Event::Register(Box::new(request)))
    }

    fn beat(&mut self, header: &Header) -> Option<Abort> {
        match self.ok(Event::Heartbeat(
            header.clone(),
            Beat { step: 0, collectives: 0, connected: true, leaving: false, ..Beat::default() },
        )) {
            Reply::Heartbeat(heard) => heard.abort,
            other => panic!("{other:?}"),
        }
    }

    fn watch(&mut self, header: &Header) -> u64 {
        match self.ok(Event::Watch { header: header.clone() }) {
            Reply::Watching { watch, .. } => watch,
            other => panic!("{other:?}"),
        }
    }

    fn fail(&mut self, header: &Header, message: &str, kind: FailureKind) {
        self.ok(Event::ReportFailure { header: header.clone(), message: message.into(), kind });
    }

    /// Lets time pass, with the ticks that are due; those in `alive` send heartbeats.
    fn pass(&mut self, by: Duration, alive: &[&Header]) {
        let until = self.now + by;
        while self.now < until {
            self.now += ms(500);
            for header in alive {
                self.beat(header);
            }
            self.event(Event::Tick);
        }
    }

    fn abort(&self) -> Abort {
        match self.job.outcome() {
            Some(Outcome::Failed { abort }) => abort,
            other => panic!("{other:?}"),
        }
    }

    fn plan(&mut self, header: &Header, wait: Wait) -> Answer {
        self.event(Event::GetPlan { header: header.clone(), wait })
    }
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
}

#[test]
fn four_workers_out_of_order_get_one_plan_and_finish() {
    let mut w = World::new(4);
    let places = [("pod-10", 1), ("pod-2", 1), ("pod-10", 0)];
    let mut headers: Vec<Header> = places.iter().map(|(h, l)| w.join(request(h, *l))).collect();
    assert_eq!(w.plan(&headers[0], Wait::First), Answer::Park);
    assert_eq!(w.plan(&headers[0], Wait::Again), Answer::Park);
    match w.plan(&headers[0], Wait::Expired) {
        Answer::Reply(Reply::Plan(p)) => {
            contains(&p.waiting_for, &["1 of 4 workers missing", "host pod-2 local 1"])
        }
        other => panic!("{other:?}"),
    }
    headers.push(w.join(request("pod-2", 0)));
    let ranks: Vec<u32> = headers
        .iter()
        .map(|h| match w.plan(h, Wait::Again) {
            Answer::Reply(Reply::Plan(p)) => {
                let plan = p.plan.unwrap();
                assert_eq!(plan::digest(&plan).as_slice(), plan.sha256);
                let formed = p.generation.unwrap();
                assert_eq!(formed.plan_sha256, plan.sha256);
                formed.rank
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ranks, [3, 1, 2, 0]);
    for (i, header) in headers.iter().enumerate() {
        assert!(w.ended.is_empty());
        w.ok(Event::Leave { header: header.clone(), interrupted: i == 1, before_plan: false });
    }
    assert_eq!(w.ended, [Outcome::Finished { interrupted: true }]);
    assert!(w.job.drained(w.now, &w.config));
}

#[test]
fn headers_are_checked() {
    let (mut w, headers) = World::running(2);
    let good = headers[0].clone();
    let beat = |header: Header| {
        Event::Heartbeat(
            header,
            Beat { step: 0, collectives: 0, connected: true, leaving: false, ..Beat::default() },
        )
    };
    let stale = w.refused(beat(Header { generation: 2, ..good.clone() }));
    assert_eq!(stale, Refusal::Stale { theirs: 2, ours: 1, job: "octrain".into() });
    let job = w.refused(beat(Header { job_id: "other".into(), ..good.clone() }));
    assert_eq!(job, Refusal::Job { theirs: "other".into(), ours: "octrain".into() });
    let unknown = w.refused(beat(Header { member: "0-1".into(), ..good.clone() }));
    assert_eq!(unknown, Refusal::Unknown { member: "0-1".into() });
    w.ok(Event::Leave { header: good.clone(), interrupted: false, before_plan: false });
    assert_eq!(w.refused(beat(good.clone())), Refusal::Left { member: good.member });
    // Every call of a stale generation is refused, not only heartbeats.
    let header = Header { generation: 9, ..headers[1].clone() };
    let key = || "k".to_string();
    for event in [
        Event::GetPlan { header: header.clone(), wait: Wait::First },
        Event::Watch { header: header.clone() },
        Event::ReportStep { header: header.clone(), report: StepReport::default() },
        Event::ReportFailure { header: header.clone(), message: "x".into(), kind: FailureKind::Own },
        Event::Leave { header: header.clone(), interrupted: false, before_plan: false },
        Event::StoreSet { header: header.clone(), key: key(), value: vec![] },
        Event::StoreGet { header: header.clone(), key: key(), wait: Wait::First },
        Event::StoreAdd { header: header.clone(), key: key(), amount: 1 },
        Event::StoreCheck { header: header.clone(), keys: vec![key()] },
        Event::StoreDelete { header: header.clone(), key: key() },
    ] {
        assert!(matches!(w.refused(event.clone()), Refusal::Stale { .. }), "{event:?}");
    }
    assert!(w.ended.is_empty());
}

#[test]
fn registrations_that_do_not_fit_are_refused_with_the_reason() {
    let mut w = World::new(3);
    w.join(request("a", 0));
    let good = request("a", 1);
    let refusal = w.refuse(RegisterRequest { job_id: "other".into(), ..good.clone() });
    assert_eq!(refusal.kind(), "job");
    let refusal = w.refuse(RegisterRequest { generation: 4, ..good.clone() });
    assert_eq!(refusal.kind(), "stale-generation");
    let refusal = w.refuse(RegisterRequest { nonce: "another process".into(), ..request("a", 0) });
    contains(&refusal.to_string(), &["host a local 0 is taken by pid 1"]);
    for broken in [
        RegisterRequest { worker: None, ..good.clone() },
        RegisterRequest { job: None, ..good.clone() },
        RegisterRequest { nonce: String::new(), ..good.clone() },
        RegisterRequest { worker: Some(worker("", 0, 0)), ..good.clone() },
        RegisterRequest {
            job: Some(JobSpec { config_sha256: "0".into(), ..spec_of(json!({})) }),
            ..good.clone()
        },
    ] {
        assert_eq!(w.refuse(broken).kind(), "invalid");
    }
    assert_eq!(w.job.members.len(), 1);
    w.join(good.clone());
    // The same process again, its first reply lost: the same identity, no second member.
    let (first, again) = (w.join(good.clone()), w.join(good));
    assert_eq!((first, w.job.members.len()), (again, 2));
    w.join(request("b", 0));
    assert_eq!(w.refuse(request("b", 1)).kind(), "full");
}

#[test]
fn only_expected_workers_are_admitted_where_they_are_named() {
    let mut w = World::new(1);
    w.config.expected = vec![Place { host: "a".into(), local_index: 0 }];
    contains(&w.refuse(request("b", 0)).to_string(), &["host b local 0", "expects: host a local 0"]);
    w.join(request("a", 0));
}

#[test]
fn a_silent_worker_ends_the_job_and_is_named() {
    let (mut w, h) = World::running(3);
    w.ok(Event::Heartbeat(
        h[1].clone(),
        Beat { step: 41, collectives: 0, connected: true, leaving: false, ..Beat::default() },
    ));
    w.pass(ms(4500), &[&h[0], &h[2]]);
    assert!(w.ended.is_empty());
    w.pass(ms(500), &[&h[0], &h[2]]);
    let abort = w.abort();
    assert_eq!(abort.kind(), AbortKind::WorkerLost);
    contains(
        &abort.message,
        &["rank 1", "host a", "local index 1", "pid 1", "last step 41", "no heartbeat for 5.0 s"],
    );
    assert_eq!(w.beat(&h[0]), Some(abort.clone()));
    assert!(!w.job.drained(w.now, &w.config));
    w.beat(&h[2]);
    assert!(w.job.drained(w.now, &w.config));
    assert_eq!(w.ended, [Outcome::Failed { abort }]);
}

#[test]
fn a_broken_connection_shortens_the_wait_and_a_sign_of_life_ends_it() {
    let (mut w, h) = World::running(2);
    let watch = w.watch(&h[1]);
    w.event(Event::Disconnected { member: h[1].member.clone(), watch });
    w.pass(ms(1500), &[&h[0]]);
    // It is back, on a new watch; the end of the old one means nothing any more.
    let newer = w.watch(&h[1]);
    w.event(Event::Disconnected { member: h[1].member.clone(), watch });
    w.pass(ms(3000), &[&h[0]]);
    assert!(w.ended.is_empty());
    w.event(Event::Disconnected { member: h[1].member.clone(), watch: newer });
    w.pass(ms(2000), &[&h[0]]);
    contains(&w.abort().message, &["rank 1", "connection broke without leaving"]);
}

#[test]
fn the_first_cause_wins_and_echoes_are_kept_beside_it() {
    let (mut w, h) = World::running(3);
    w.fail(&h[2], "a kernel hangs", FailureKind::Own);
    w.fail(&h[0], "all-reduce: peer closed", FailureKind::Communication);
    w.fail(&h[1], "something else", FailureKind::Own);
    let abort = w.abort();
    assert_eq!(abort.kind(), AbortKind::WorkerFailed);
    contains(&abort.message, &["rank 2", "a kernel hangs"]);
    assert_eq!(w.job.echoes.len(), 2);
    match w.ok(Event::Status { watching: false }) {
        Reply::Status(s) => {
            assert_eq!(s.phase(), JobPhase::Failed);
            contains(&s.message, &["a kernel hangs", "later: rank 0", "peer closed"]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(w.ended.len(), 1);
}

#[test]
fn a_failed_collective_waits_for_its_root_cause() {
    // The culprit speaks later.
    let (mut w, h) = World::running(3);
    w.fail(&h[0], "all-reduce: peer closed", FailureKind::Communication);
    w.fail(&h[2], "all-reduce: peer closed as well", FailureKind::Communication);
    assert!(w.ended.is_empty());
    w.fail(&h[1], "disk full", FailureKind::Own);
    contains(&w.abort().message, &["rank 1", "disk full", "noticed first by: rank 0"]);
    assert_eq!(w.abort().culprit, Some(1));

    // The culprit falls silent.
    let (mut w, h) = World::running(3);
    w.pass(ms(1000), &[&h[0], &h[2]]);
    w.fail(&h[0], "all-reduce: peer closed", FailureKind::Communication);
    w.pass(ms(4500), &[&h[2]]);
    contains(&w.abort().message, &["rank 1", "is lost", "rank 0", "peer closed"]);
    assert_eq!((w.abort().kind(), w.abort().culprit), (AbortKind::WorkerLost, Some(1)));

    // Its connection broke before the others noticed: no waiting.
    let (mut w, h) = World::running(3);
    let watch = w.watch(&h[1]);
    w.event(Event::Disconnected { member: h[1].member.clone(), watch });
    w.fail(&h[0], "all-reduce: peer closed", FailureKind::Communication);
    contains(&w.abort().message, &["rank 1", "is lost: its connection broke", "rank 0"]);

    // Nobody else has failed: then it is what it says.
    let (mut w, h) = World::running(3);
    w.fail(&h[0], "all-reduce: network unreachable", FailureKind::Communication);
    w.pass(ms(5500), &[&h[1], &h[2]]);
    contains(&w.abort().message, &["rank 0", "network unreachable", "no other worker has failed"]);
    assert_eq!(w.abort().kind(), AbortKind::WorkerFailed);
}

#[test]
fn a_configuration_failure_is_final() {
    let (mut w, h) = World::running(2);
    w.fail(&h[1], "refuses its plan", FailureKind::Configuration);
    assert_eq!(w.abort().kind(), AbortKind::Configuration);

    let mut w = World::new(2);
    let with = |local_index| RegisterRequest {
        job: Some(spec_of(json!({"global-batch-size": 32}))),
        ..request("a", local_index)
    };
    w.join(with(0));
    let late = w.join(with(1));
    assert_eq!(w.abort().kind(), AbortKind::Configuration);
    contains(&w.abort().message, &["1 microbatches, fewer than the 2 workers"]);
    let answer = w.plan(&late, Wait::First);
    assert!(matches!(answer, Answer::Refuse(Refusal::Ended(_))), "{answer:?}");
}

#[test]
fn of_workers_that_see_different_checkpoints_rank_0_counts() {
    for (first, second, microbatches) in [((0, 0), (1, 256), 2), ((1, 256), (0, 0), 2), ((1, 0), (0, 256), 8)]
    {
        let mut w = World::new(2);
        for (local_index, kept_global_batch) in [first, second] {
            let spec = JobSpec { kept_global_batch, ..spec_of(json!({})) };
            w.join(RegisterRequest { job: Some(spec), ..request("a", local_index) });
        }
        let Some(plan) = &w.job.plan else { panic!("it runs") };
        assert_eq!(plan.microbatches, microbatches, "{first:?} {second:?}");
    }
}

#[test]
fn before_the_start_a_lost_worker_is_forgotten_and_may_be_replaced() {
    let mut w = World::new(2);
    let first = w.join(request("a", 0));
    let second = RegisterRequest { nonce: "new process".into(), ..request("a", 0) };
    assert_eq!(w.refuse(second.clone()).kind(), "duplicate");
    w.pass(ms(5500), &[]);
    assert!(w.job.members.is_empty() && w.ended.is_empty());
    let unknown = w.refused(Event::Heartbeat(
        first,
        Beat { step: 0, collectives: 0, connected: true, leaving: false, ..Beat::default() },
    ));
    assert_eq!(unknown.kind(), "unknown-member");
    w.join(second);
    let third = w.join(request("a", 1));
    assert!(matches!(w.job.phase, Phase::Running { .. }));
    w.ok(Event::Leave { header: third, interrupted: false, before_plan: false });
}

#[test]
fn the_register_timeout_names_the_missing_and_the_refused() {
    let mut w = World::new(4);
    w.config.register_timeout = ms(10_000);
    let mut facts = request("pod-0", 0);
    facts.worker.as_mut().unwrap().local_world = 2;
    let header = w.join(facts);
    w.refuse(RegisterRequest { nonce: String::new(), ..request("pod-1", 0) });
    w.pass(ms(10_000), &[&header]);
    let abort = w.abort();
    assert_eq!(abort.kind(), AbortKind::RegisterTimeout);
    contains(
        &abort.message,
        &[
            "within 10 s",
            "3 of 4 workers missing",
            "host pod-0 local 1",
            "last heard: host pod-1 local 0: the registration lacks a nonce",
        ],
    );
    assert_eq!(w.beat(&header), Some(abort));
}

#[test]
fn the_store_opens_with_the_plan_and_closes_with_the_job() {
    let mut w = World::new(2);
    let first = w.join(request("a", 0));
    let set = |header: &Header| Event::StoreSet { header: header.clone(), key: "k".into(), value: vec![1] };
    let get = |header: &Header, wait| Event::StoreGet { header: header.clone(), key: "k".into(), wait };
    assert_eq!(w.refused(set(&first)), Refusal::NotRunning);
    let second = w.join(request("a", 1));
    assert_eq!(w.event(get(&second, Wait::First)), Answer::Park);
    assert_eq!(w.ok(get(&second, Wait::Expired)), Reply::Found(None));
    w.ok(set(&first));
    assert_eq!(w.ok(get(&second, Wait::Again)), Reply::Found(Some(vec![1])));
    let delete = Event::StoreDelete { header: first.clone(), key: "k".into() };
    assert_eq!((w.ok(delete.clone()), w.ok(delete)), (Reply::Yes(true), Reply::Yes(false)));
    w.event(Event::Shutdown { why: "SIGTERM".into() });
    assert!(matches!(w.refused(get(&second, Wait::Again)), Refusal::Ended(_)));
    contains(&w.abort().message, &["stopped: SIGTERM"]);
}

#[test]
fn a_parked_call_does_not_keep_its_caller_alive() {
    let (mut w, h) = World::running(2);
    let get = |wait| Event::StoreGet { header: h[1].clone(), key: "k".into(), wait };
    assert_eq!(w.event(get(Wait::First)), Answer::Park);
    for _ in 0..10 {
        w.pass(ms(500), &[&h[0]]);
        if w.ended.is_empty() {
            assert_eq!(w.event(get(Wait::Again)), Answer::Park);
        }
    }
    contains(&w.abort().message, &["rank 1"]);
}

#[test]
fn nothing_ends_twice() {
    let (mut w, h) = World::running(2);
    w.fail(&h[0], "first", FailureKind::Own);
    w.event(Event::Shutdown { why: "late".into() });
    w.ok(Event::Leave { header: h[1].clone(), interrupted: false, before_plan: false });
    w.pass(ms(20_000), &[]);
    contains(&w.abort().message, &["first"]);
    assert_eq!(w.ended.len(), 1);
    assert!(w.job.drained(w.now, &w.config));
}

#[test]
fn the_status_shows_members_in_the_order_of_ranks() {
    let mut w = World::new(2);
    w.join(request("pod-10", 0));
    let second = w.join(request("pod-2", 0));
    w.now = ms(700);
    let report = StepReport { step: 12, loss: 0.5, ..StepReport::default() };
    w.ok(Event::ReportStep { header: second, report });
    let Reply::Status(s) = w.ok(Event::Status { watching: false }) else { panic!() };
    let hosts: Vec<_> = s.members.iter().map(|m| (m.host.as_str(), m.rank, m.step, m.silent_ms)).collect();
    assert_eq!(hosts, [("pod-2", Some(0), 12, 0), ("pod-10", Some(1), 0, 700)]);
    assert_eq!((s.phase(), s.generation, s.expected_workers), (JobPhase::Running, 1, 2));
    assert!(s.plan.is_some());
}
