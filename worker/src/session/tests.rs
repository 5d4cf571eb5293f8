//! The session against a real coordinator on a port of the system's choice.

use super::*;
use crate::collective::StoreError;
use crate::config::RunConfig;
use crate::strategy::{Device, Purpose};
use octrain_coordinator::config::CoordinatorConfig;
use octrain_coordinator::server::{Embedded, serve};
use octrain_coordinator::{Outcome, plan};
use octrain_proto::v1::{self, RegisterReply, StatusReply, StatusRequest};
use std::sync::mpsc;

const LONG: Duration = Duration::from_secs(20);

fn coordinator(world: u32) -> Embedded {
    let config = CoordinatorConfig {
        linger: Duration::from_millis(300),
        ..CoordinatorConfig::new("127.0.0.1:0", world)
    }
    .with_heartbeat_timeout(Duration::from_secs(2));
    serve(config).unwrap()
}

fn spec(config: &RunConfig) -> JobSpec {
    let model = ModelFacts { name: "ResNet20".into(), parameters: 272_474, layers: 22, batch_norms: 21 };
    job_spec(&serde_json::to_value(config).unwrap(), Purpose::Train, model, 50_000)
}

fn options(address: impl ToString, local_index: u32) -> SessionOptions {
    SessionOptions {
        host: "here".into(),
        local_index,
        local_world: 2,
        ..SessionOptions::new(address.to_string(), spec(&RunConfig::default()), machine::capabilities(vec![]))
    }
}

/// Two sessions, in the order of their ranks.
fn pair(c: &Embedded) -> (Session, Session) {
    let address = c.address();
    let other = std::thread::spawn(move || Session::connect(options(address, 1)).unwrap());
    let first = Session::connect(options(address, 0)).unwrap();
    (first, other.join().unwrap())
}

/// Waits until the coordinator's status is as wanted.
fn await_status(c: &Embedded, wanted: impl Fn(&StatusReply) -> bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let address = format!("http://{}", c.address());
        let mut client = v1::coordinator_client::CoordinatorClient::connect(address).await.unwrap();
        while !wanted(&client.status(StatusRequest::default()).await.unwrap().into_inner()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

/// Waits until so many workers have registered.
fn await_members(c: &Embedded, count: usize) {
    await_status(c, |status| status.members.len() >= count);
}

#[test]
fn two_workers_meet_in_the_store_report_and_leave() {
    let c = coordinator(2);
    let (a, b) = pair(&c);
    assert_eq!((a.generation().rank(), b.generation().rank(), a.generation().world_size()), (0, 1, 2));
    assert_eq!(plan::digest(a.plan()), plan::digest(b.plan()));
    let (sa, sb) = (a.store(), b.store());
    let waiting = std::thread::spawn(move || sb.get("k", LONG, &Abort::new()));
    sa.set("k", b"v").unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), b"v");
    assert_eq!(sa.add("n", 3).unwrap(), 3);
    assert!(sa.check(&["k".into(), "n".into()]).unwrap());
    assert!(sa.delete("k").unwrap() && !sa.delete("k").unwrap());
    let late = sa.get("never", Duration::from_millis(50), a.abort()).unwrap_err();
    assert!(matches!(&late, StoreError::Timeout { key, .. } if key == "never"), "{late}");
    a.report_step(1, StepReport { loss: 0.5, ..StepReport::default() });
    a.leave();
    b.leave_interrupted();
    assert_eq!(c.wait(LONG), Some(Outcome::Finished { interrupted: true }));
}

#[test]
fn a_failure_reaches_the_others_and_names_the_culprit() {
    let c = coordinator(2);
    let (a, b) = pair(&c);
    let (tell, told) = mpsc::channel();
    let _told = a.abort().attach(move || tell.send(()).unwrap());
    // The echo comes first; the root cause still wins.
    a.report_failure("all-reduce: connection closed by peer", FailureKind::Communication);
    b.report_step(7, StepReport::default());
    // Steps travel on their own.
    await_status(&c, |status| status.members.iter().any(|m| m.step == 7));
    b.report_failure("no space left", FailureKind::Own);
    told.recv_timeout(LONG).unwrap();
    let why = a.abort_reason().unwrap();
    for part in ["rank 1", "host here", "local index 1", "no space left", "last step 7"] {
        assert!(why.contains(part), "{part} in: {why}");
    }
    assert_eq!(a.abort_kind(), Some(AbortKind::WorkerFailed));
    let store = a.store().get("k", LONG, a.abort()).unwrap_err();
    assert_eq!(store, StoreError::Ended(why));
}

#[test]
fn a_wait_for_a_key_ends_with_the_job_and_with_its_token() {
    let c = coordinator(2);
    let (a, b) = pair(&c);
    // Nothing here ends because of its deadline.
    let wait = |abort: &Abort| {
        let (store, abort) = (a.store(), abort.clone());
        std::thread::spawn(move || store.get("never", Duration::from_secs(600), &abort).unwrap_err())
    };
    let token = Abort::new();
    let alone = wait(&token);
    token.trip();
    assert!(matches!(alone.join().unwrap(), StoreError::Ended(why) if why.contains("aborted")));
    let with_the_job = wait(&Abort::new());
    b.report_failure("no space left", FailureKind::Own);
    assert!(matches!(with_the_job.join().unwrap(), StoreError::Ended(why) if why.contains("no space left")));
}

#[test]
fn a_launcher_learns_whether_the_job_goes_on_before_any_worker_has_come() {
    for min_world in [1, 2] {
        let config = CoordinatorConfig::new("127.0.0.1:0", 2).with_min_world(min_world);
        let c = serve(config).unwrap();
        let course = course(&c.address().to_string(), &Credentials::default()).unwrap();
        assert_eq!(course, Some(Course { survives: min_world == 1, absence: None }));
    }
}

#[test]
fn a_session_dropped_without_leaving_is_a_lost_worker() {
    let c = coordinator(2);
    let (a, b) = pair(&c);
    drop(b);
    let why = a.wait_abort(LONG).unwrap();
    assert!(why.contains("rank 1") && why.contains("connection broke"), "{why}");
    assert_eq!(a.abort_kind(), Some(AbortKind::WorkerLost));
}

#[test]
fn a_coordinator_that_goes_away_ends_the_job_here() {
    let c = coordinator(1);
    let a = Session::connect(SessionOptions { local_world: 1, ..options(c.address(), 0) }).unwrap();
    drop(c);
    let why = a.wait_abort(LONG).unwrap();
    assert!(why.contains("has not answered"), "{why}");
}

#[test]
fn an_unreachable_coordinator_is_named_and_a_stop_is_heeded() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let short = SessionOptions { connect_timeout: Duration::from_millis(700), ..options(free, 0) };
    let e = Session::connect(short.clone()).unwrap_err();
    assert!(
        matches!(&e, SessionError::Unreachable { .. }) && e.to_string().contains(&free.to_string()),
        "{e}"
    );
    let unknown = SessionOptions { coordinator: "no-such-host.invalid:29400".into(), ..short };
    let e = Session::connect(unknown).unwrap_err();
    assert!(e.to_string().contains("does not resolve"), "{e}");
    for bad in ["nonsense", "host:", ":1", "host:99999", "host:0"] {
        let e = Session::connect(options(bad, 0)).unwrap_err();
        assert!(matches!(e, SessionError::Address { .. }) && e.is_configuration(), "{bad}: {e}");
    }
    let stop = SessionOptions { interrupted: Arc::new(|| true), ..options(free, 0) };
    assert!(matches!(Session::connect(stop), Err(SessionError::Interrupted(_))));
}

#[test]
fn refusals_are_configuration_errors_in_the_coordinators_words() {
    let c = coordinator(2);
    let address = c.address();
    let first = std::thread::spawn(move || Session::connect(options(address, 0)));
    let other = RunConfig::default().with(|c| c.optimizer.lr = 0.5);
    await_members(&c, 1);
    let e = Session::connect(SessionOptions { job: spec(&other), ..options(address, 1) }).unwrap_err();
    assert!(e.is_configuration() && e.to_string().contains("lr: 0.5 against 0.256"), "{e}");
    drop(c.shutdown("test"));
    assert!(first.join().unwrap().unwrap_err().is_ended());
}

#[test]
fn a_job_that_is_full_is_tried_until_the_time_is_over_and_may_be_tried_again() {
    let c = coordinator(2);
    let (_a, _b) = pair(&c);
    let begin = Instant::now();
    let short = SessionOptions { connect_timeout: Duration::from_secs(3), ..options(c.address(), 2) };
    let e = Session::connect(short).unwrap_err();
    assert!(begin.elapsed() > Duration::from_secs(1), "it gave up after {:?}", begin.elapsed());
    assert!(!e.is_configuration() && e.is_peers(), "{e}");
    assert!(e.to_string().contains("has all its 2 workers"), "{e}");
}

#[test]
fn a_worker_started_anew_waits_until_its_predecessor_is_given_up() {
    let c = coordinator(2);
    let address = c.address();
    // The predecessor: registered, and never heard again.
    let facts = octrain_proto::v1::WorkerFacts {
        host: "here".into(),
        local_index: 0,
        local_world: 2,
        pid: 1,
        capabilities: Some(machine::capabilities(vec![])),
    };
    let request = octrain_proto::v1::RegisterRequest {
        protocol_version: octrain_proto::PROTOCOL_VERSION,
        job_id: "octrain".into(),
        generation: 0,
        nonce: "predecessor".into(),
        token: String::new(),
        worker: Some(facts),
        job: Some(spec(&RunConfig::default())),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut client = runtime.block_on(async {
        let mut client =
            v1::coordinator_client::CoordinatorClient::connect(format!("http://{address}")).await.unwrap();
        client.register(request).await.unwrap();
        client
    });
    let first = std::thread::spawn(move || Session::connect(options(address, 0)).unwrap());
    // The other one comes only then, or the job would start with the predecessor.
    runtime.block_on(async {
        let mine = |m: &octrain_proto::v1::MemberStatus| m.pid == std::process::id();
        while !client
            .status(octrain_proto::v1::StatusRequest::default())
            .await
            .unwrap()
            .into_inner()
            .members
            .iter()
            .any(mine)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let b = Session::connect(options(address, 1)).unwrap();
    let a = first.join().unwrap();
    assert_eq!((a.generation().rank(), b.generation().rank()), (0, 1));
}

#[test]
fn one_that_waits_to_be_let_in_when_the_job_finishes_hears_that_and_of_no_failure() {
    let config = CoordinatorConfig::new("127.0.0.1:0", 2).with_min_world(1);
    let c = serve(config.with_heartbeat_timeout(Duration::from_secs(5))).unwrap();
    let (a, b) = pair(&c);
    let place = b.generation().rank();
    b.goodbye(false, true);
    a.attach("the other one is gone", Some(Standing::default())).unwrap();
    let other = Session::connect(options(c.address(), place)).unwrap();
    assert!(other.generation().joins());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| other.attach("it comes", None));
        // It waits, or comes a moment later, to the same answer.
        std::thread::sleep(Duration::from_millis(300));
        a.leave();
        let e = waits.join().unwrap().unwrap_err();
        assert!(matches!(&e, SessionError::Refused { kind, .. } if kind == "finished"), "{e}");
    });
    assert_eq!((other.abort_reason(), other.abort().is_tripped()), (None, false));
}

#[test]
fn a_worker_that_is_done_leaves_even_if_nobody_hears_it() {
    let c = coordinator(1);
    let a = Session::connect(SessionOptions { local_world: 1, ..options(c.address(), 0) }).unwrap();
    drop(c);
    let begin = Instant::now();
    a.leave();
    assert!(begin.elapsed() < LONG, "it took {:?}", begin.elapsed());
}

#[test]
fn what_another_process_causes_may_be_tried_again() {
    let refused = |kind: &str| SessionError::Refused {
        address: "x:1".into(),
        kind: kind.into(),
        message: String::new(),
    };
    let ended = |configuration| SessionError::Ended { message: String::new(), configuration };
    let waited = Duration::ZERO;
    for (e, configuration, peers) in [
        (refused("duplicate"), false, true),
        (refused("full"), false, true),
        (refused("unknown-member"), false, true),
        (refused("config-mismatch"), true, false),
        (refused("job"), true, false),
        (ended(true), true, false),
        (ended(false), false, true),
        (SessionError::NoPlan { waited, waiting_for: String::new() }, false, true),
        (SessionError::Unreachable { address: "x:1".into(), waited, last: String::new() }, false, true),
        (SessionError::Address { address: "x".into() }, true, false),
    ] {
        assert_eq!((e.is_configuration(), e.is_peers()), (configuration, peers), "{e}");
    }
}

#[test]
fn a_plan_that_was_tampered_with_or_meant_for_others_is_refused() {
    let options = options("x:1", 0);
    let worker = |local_index| octrain_proto::v1::WorkerFacts {
        host: "here".into(),
        local_index,
        local_world: 2,
        pid: 1,
        capabilities: Some(options.capabilities.clone()),
    };
    let facts = octrain_coordinator::strategy::JobFacts {
        job: options.job.clone(),
        workers: vec![worker(0), worker(1)],
        min_world: 2,
    };
    let plan::Planned { plan: good, roster } = plan::build("octrain", &facts).unwrap();
    let registered = RegisterReply { job_id: "octrain".into(), generation: 3, ..RegisterReply::default() };
    let check = |plan: &BuildPlan| connect::trust(plan, &registered, &options);
    assert_eq!(check(&good), Ok(()));
    let reseal = |mut plan: BuildPlan| {
        plan.sha256 = plan::digest(&plan).to_vec();
        plan
    };
    let cases = [
        (BuildPlan { microbatches: 4, ..good.clone() }, "hash"),
        (BuildPlan { sha256: vec![], ..good.clone() }, "hash"),
        (BuildPlan { protocol_version: octrain_proto::PROTOCOL_VERSION + 1, ..good.clone() }, "protocol"),
        (reseal(BuildPlan { config_sha256: "00".into(), ..good.clone() }), "another configuration"),
        (reseal(BuildPlan { job_id: "other".into(), ..good.clone() }), "another job"),
        (reseal(BuildPlan { purpose: Purpose::Eval as i32, ..good.clone() }), "another purpose"),
    ];
    for (plan, want) in cases {
        let why = check(&plan).unwrap_err();
        assert!(why.contains(want), "{want} in: {why}");
    }
    let own = generation::Own::of(&options);
    let formed = plan::generation(&good, 3, roster.clone(), Some(1));
    assert_eq!(generation::trust(&formed, &good, &own), Ok(()));
    let mut swapped = roster;
    swapped.swap(0, 1);
    for (other, want) in [
        (v1::Generation { rank: 1, ..formed.clone() }, "not this worker"),
        (v1::Generation { rank: 2, ..formed.clone() }, "not this worker"),
        (v1::Generation { roster: swapped, ..formed.clone() }, "not this worker"),
        (v1::Generation { source: Some(2), ..formed.clone() }, "no rank"),
        (v1::Generation { plan_sha256: vec![1], ..formed.clone() }, "another plan"),
    ] {
        let why = generation::trust(&other, &good, &own).unwrap_err();
        assert!(why.contains(want), "{want} in: {why}");
    }
}

#[test]
fn a_plan_that_names_a_gpu_other_than_this_workers_is_refused() {
    let mut options = options("x:1", 0);
    let gpu =
        |uuid: &str| CudaDevice { name: "H200".into(), major: 9, uuid: uuid.into(), ..CudaDevice::default() };
    let worker = |local_index, sees: CudaDevice| octrain_proto::v1::WorkerFacts {
        host: "here".into(),
        local_index,
        local_world: 2,
        pid: 1,
        capabilities: Some(Capabilities { cuda_devices: vec![sees], ..options.capabilities.clone() }),
    };
    let workers = vec![worker(0, gpu("GPU-a")), worker(1, gpu("GPU-b"))];
    let facts = octrain_coordinator::strategy::JobFacts { job: options.job.clone(), workers, min_world: 2 };
    let plan::Planned { plan, roster } = plan::build("octrain", &facts).unwrap();
    let formed = plan::generation(&plan, 3, roster, None);
    for (sees, want) in
        [(vec![gpu("GPU-a")], None), (vec![gpu("GPU-b")], Some("GPU-a")), (vec![], Some("cuda:0"))]
    {
        options.capabilities.cuda_devices = sees;
        let why = generation::trust(&formed, &plan, &generation::Own::of(&options)).err();
        assert_eq!(why.is_some(), want.is_some(), "{why:?}");
        assert!(
            want.is_none_or(|words| why.as_ref().is_some_and(|w| w.contains(words))),
            "{want:?} in: {why:?}"
        );
    }
    let other = BuildPlan { device: Device::Cpu as i32, ..plan };
    let why = generation::trust(&formed, &other, &generation::Own::of(&options)).unwrap_err();
    assert!(why.contains("Cpu") && why.contains("Some(0)"), "{why}");
}

#[test]
fn an_error_another_worker_caused_becomes_that_workers() {
    let verdict =
        |kind, culprit| Some(AbortReason { kind, message: "rank 1 is lost".into(), culprit, saver: None });
    use AbortKind::{Configuration, WorkerFailed, WorkerLost};
    use FailureKind::{Communication, Own};
    // (kind of this worker's error, verdict, exit code, whose message)
    for (kind, verdict, code, mine) in [
        (Own, verdict(WorkerFailed, Some(0)), 1, true),
        (Own, None, 1, true),
        (Communication, None, 3, true),
        (FailureKind::Waited, None, 3, true),
        (FailureKind::Configuration, verdict(Configuration, Some(0)), 2, true),
        (Communication, verdict(WorkerLost, Some(1)), 3, false),
        (Communication, verdict(WorkerFailed, Some(0)), 1, true),
        // The late one of others that waited in vain, once it is awake.
        (Communication, verdict(WorkerLost, Some(0)), 3, false),
        (FailureKind::Waited, verdict(WorkerLost, Some(0)), 3, false),
        (Own, verdict(WorkerLost, Some(0)), 1, true),
        (Communication, verdict(Configuration, Some(1)), 2, false),
        (Communication, verdict(AbortKind::Shutdown, None), 3, false),
        (FailureKind::NotFinite, verdict(AbortKind::NotFinite, None), 1, true),
        (Communication, verdict(AbortKind::NotFinite, None), 1, false),
        (FailureKind::NotFinite, verdict(WorkerLost, Some(1)), 3, false),
        (FailureKind::NotFinite, None, 1, true),
        (FailureKind::External, verdict(AbortKind::External, None), 3, true),
        (FailureKind::External, None, 3, true),
        (Communication, verdict(AbortKind::External, None), 3, false),
    ] {
        let c = conclusion("all-reduce failed", kind, verdict.clone(), 0, false);
        assert_eq!((c.code, c.message == "all-reduce failed"), (code, mine), "{kind:?} {verdict:?}");
        // Who was asked to stop, in a job that was, has stopped; whatever else ended it, nothing is different.
        let stopped = verdict.as_ref().is_some_and(|v| v.kind == AbortKind::Shutdown);
        let asked = conclusion("all-reduce failed", kind, verdict.clone(), 0, true);
        assert_eq!(asked.code, if stopped { 4 } else { code }, "{kind:?} {verdict:?}");
    }
}

#[test]
fn a_rank_that_falls_over_anothers_nan_learns_that_nothing_is_worth_saving() {
    let c = coordinator(2);
    let (a, b) = pair(&c);
    b.report_failure("the loss is NaN at step 3", FailureKind::NotFinite);
    assert_eq!(a.blame("all-reduce: the job was ended", FailureKind::Communication), None);
    assert_eq!(a.abort_kind(), Some(AbortKind::NotFinite));
    let other = std::thread::spawn(move || b.conclude("the loss is NaN at step 3", FailureKind::NotFinite));
    let mine = a.conclude("all-reduce: the job was ended", FailureKind::Communication);
    let other = other.join().unwrap();
    assert_eq!((other.code, other.message.as_str()), (1, "the loss is NaN at step 3"));
    assert_eq!(mine.code, 1, "{}", mine.message);
    assert!(mine.message.contains("the loss is NaN at step 3"), "{}", mine.message);
}

#[test]
fn a_failed_collective_concludes_with_the_root_cause() {
    let c = coordinator(2);
    let (a, b) = pair(&c);
    let other = std::thread::spawn(move || b.conclude("no space left on device", FailureKind::Own));
    let mine = a.conclude("all-reduce: connection closed by peer", FailureKind::Communication);
    let other = other.join().unwrap();
    assert_eq!((other.code, other.message.as_str()), (1, "no space left on device"));
    assert_eq!(mine.code, 3);
    assert!(mine.message.contains("rank 1") && mine.message.contains("no space left"), "{}", mine.message);
}
