//! The coordinator over real connections, on ports of the system's choice.

use octrain_coordinator::config::CoordinatorConfig;
use octrain_coordinator::job::Outcome;
use octrain_coordinator::server::{self, ServeError, Serving};
use octrain_coordinator::{plan, spec};
use octrain_core::strategy::Purpose;
use octrain_proto::v1::*;
use std::time::Duration;
use tonic::Code;

mod worker;
use worker::*;

fn config(world_size: u32) -> CoordinatorConfig {
    CoordinatorConfig { register_timeout: LONG, ..CoordinatorConfig::new("127.0.0.1:0", world_size) }
        .with_heartbeat_timeout(Duration::from_secs(1))
}

async fn serve(world_size: u32) -> Serving {
    server::start(config(world_size)).await.unwrap()
}

async fn pair(serving: &Serving) -> (Worker, Worker) {
    let a = Worker::join(serving.address(), request("a", 0)).await.unwrap();
    let b = Worker::join(serving.address(), request("a", 1)).await.unwrap();
    (a, b)
}

#[tokio::test]
async fn four_workers_come_out_of_order_get_ranks_and_leave() {
    let serving = serve(4).await;
    let mut workers = Vec::new();
    for (host, local) in [("pod-10", 1), ("pod-2", 1), ("pod-10", 0)] {
        workers.push(Worker::join(serving.address(), request(host, local)).await.unwrap());
    }
    let waiting = workers[0].plan(20).await.unwrap();
    assert!(waiting.plan.is_none() && waiting.waiting_for.contains("host pod-2 local 0"), "{waiting:?}");
    // A call that waits is answered as soon as the last worker is there.
    let mut early = Worker { client: workers[1].client.clone(), header: workers[1].header.clone() };
    let early = tokio::spawn(async move { early.plan(20_000).await.unwrap().generation.unwrap() });
    workers.push(Worker::join(serving.address(), request("pod-2", 0)).await.unwrap());
    assert_eq!(tokio::time::timeout(LONG, early).await.unwrap().unwrap().rank, 1);
    let (mut plans, mut generations) = (Vec::new(), Vec::new());
    for w in &mut workers {
        let reply = w.plan(0).await.unwrap();
        plans.push(reply.plan.unwrap());
        generations.push(reply.generation.unwrap());
    }
    assert_eq!(generations.iter().map(|g| g.rank).collect::<Vec<_>>(), [3, 1, 2, 0]);
    let local = generations.iter().map(|g| g.roster[g.rank as usize].local_rank);
    assert_eq!(local.collect::<Vec<_>>(), [1, 1, 0, 0]);
    for g in &generations {
        assert_eq!((g.number, &g.roster, &g.plan_sha256), (1, &generations[0].roster, &plans[0].sha256));
    }
    for p in &plans {
        assert_eq!(p.sha256, plans[0].sha256);
        assert_eq!(plan::digest(p).as_slice(), p.sha256);
        assert_eq!((p.world_size, p.min_world, p.microbatches), (4, 4, 4));
    }
    for w in workers {
        w.leave().await;
    }
    assert_eq!(serving.over().await, Outcome::Finished { interrupted: false });
}

#[tokio::test]
async fn a_worker_that_dies_ends_the_job_and_is_named_to_the_others() {
    let serving = serve(2).await;
    let (mut a, mut b) = pair(&serving).await;
    a.plan(0).await.unwrap();
    let mut watch = a.client.watch(WatchRequest { header: a.header() }).await.unwrap().into_inner();
    let watched = b.client.watch(WatchRequest { header: b.header() }).await.unwrap();
    b.beat(17).await.unwrap();
    // All of its connections break, as when a process is killed.
    drop((b, watched));
    let abort = a.until_abort().await;
    assert_eq!(abort.kind(), AbortKind::WorkerLost);
    for part in ["rank 1", "host a", "local index 1", "pid 1001", "last step 17", "connection broke"] {
        assert!(abort.message.contains(part), "{part} in: {}", abort.message);
    }
    let pushed = tokio::time::timeout(LONG, watch.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(pushed.abort, Some(abort.clone()));
    assert_eq!(serving.ended().await, Outcome::Failed { abort: abort.clone() });
    assert_eq!(serving.over().await, Outcome::Failed { abort });
}

#[tokio::test]
async fn a_worker_that_falls_silent_with_its_connections_open_is_lost_too() {
    let serving = serve(2).await;
    let (mut a, mut b) = pair(&serving).await;
    let _open = b.client.watch(WatchRequest { header: b.header() }).await.unwrap();
    let abort = a.until_abort().await;
    assert!(abort.message.contains("rank 1") && abort.message.contains("no heartbeat"), "{}", abort.message);
}

#[tokio::test]
async fn a_reported_failure_is_pushed_at_once() {
    let serving = serve(2).await;
    let (mut a, mut b) = pair(&serving).await;
    let mut watch = a.client.watch(WatchRequest { header: a.header() }).await.unwrap().into_inner();
    let failure = |w: &Worker, message: &str, kind: FailureKind| ReportFailureRequest {
        header: w.header(),
        message: message.into(),
        kind: kind.into(),
    };
    let echo = failure(&a, "gloo: connection closed by peer", FailureKind::Communication);
    a.client.report_failure(echo).await.unwrap();
    let cause = failure(&b, "no space left on device", FailureKind::Own);
    b.client.report_failure(cause).await.unwrap();
    let event = tokio::time::timeout(LONG, watch.message()).await.unwrap().unwrap().unwrap();
    let message = event.abort.unwrap().message;
    assert!(message.contains("rank 1") && message.contains("no space left on device"), "{message}");
    let late = a.plan(0).await.unwrap_err();
    assert_eq!((late.code(), kind(&late)), (Code::Aborted, "ended"));
}

#[tokio::test]
async fn stale_and_foreign_headers_are_refused() {
    let serving = serve(2).await;
    let (mut a, _b) = pair(&serving).await;
    a.header.generation = 2;
    let e = a.beat(0).await.unwrap_err();
    assert_eq!((e.code(), kind(&e)), (Code::FailedPrecondition, "stale-generation"));
    assert!(e.message().contains("generation 2 is stale"), "{e}");
    let set = StoreSetRequest { header: a.header(), key: "k".into(), value: vec![] };
    assert_eq!(kind(&a.client.store_set(set).await.unwrap_err()), "stale-generation");
    a.header.generation = 1;
    a.header.member = "somebody".into();
    let e = a.beat(0).await.unwrap_err();
    assert_eq!((e.code(), kind(&e)), (Code::NotFound, "unknown-member"));
    let e = a
        .client
        .heartbeat(HeartbeatRequest { header: None, step: 0, connected: true, ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!((e.code(), kind(&e)), (Code::InvalidArgument, "invalid"));
}

#[tokio::test]
async fn registrations_that_do_not_fit_are_refused() {
    let serving = serve(3).await;
    let _a = Worker::join(serving.address(), request("a", 0)).await.unwrap();
    let refused = async |r: RegisterRequest| Worker::join(serving.address(), r).await.err().unwrap();
    let e = refused(RegisterRequest { nonce: "other".into(), ..request("a", 0) }).await;
    assert_eq!((e.code(), kind(&e)), (Code::AlreadyExists, "duplicate"));
    assert!(e.message().contains("host a local 0 is taken by pid 1000"), "{e}");
    let e = refused(RegisterRequest { generation: 5, ..request("a", 1) }).await;
    assert_eq!(kind(&e), "stale-generation");
    let status = client(serving.address()).await.status(StatusRequest::default()).await.unwrap().into_inner();
    // One line for each of the two places, with the newest reason.
    assert_eq!((status.members.len(), status.refusals.len()), (1, 2));
}

#[tokio::test]
async fn one_that_can_never_be_a_part_of_the_job_ends_the_wait() {
    for (wrong, code, kinds, words) in [
        (
            RegisterRequest { protocol_version: 99, ..request("a", 1) },
            Code::FailedPrecondition,
            "protocol",
            "protocol version 99",
        ),
        (
            RegisterRequest { job: Some(job(43)), ..request("a", 1) },
            Code::InvalidArgument,
            "config-mismatch",
            "seed: 43 against 42",
        ),
    ] {
        let serving = serve(3).await;
        let mut a = Worker::join(serving.address(), request("a", 0)).await.unwrap();
        let e = Worker::join(serving.address(), wrong).await.err().unwrap();
        assert_eq!((e.code(), kind(&e)), (code, kinds));
        assert!(e.message().contains(words), "{e}");
        let told = a.until_abort().await;
        assert_eq!(told.kind(), AbortKind::Configuration);
        assert!(told.message.contains(words) && told.message.contains("host a local 1"), "{}", told.message);
    }
}

#[tokio::test]
async fn the_register_timeout_names_the_missing_workers() {
    let short = CoordinatorConfig { register_timeout: Duration::from_millis(400), ..config(3) };
    let serving = server::start(short).await.unwrap();
    let mut a = Worker::join(serving.address(), request("a", 0)).await.unwrap();
    let e = a.plan(20_000).await.unwrap_err();
    assert_eq!(kind(&e), "ended");
    for part in ["2 of 3 workers missing", "host a local 1", "1 on hosts that have not reported"] {
        assert!(e.message().contains(part), "{part} in: {}", e.message());
    }
    let Outcome::Failed { abort } = serving.ended().await else { panic!() };
    assert_eq!(abort.kind(), AbortKind::RegisterTimeout);
}

#[tokio::test]
async fn a_strategy_that_cannot_be_met_ends_the_job_as_a_configuration_error() {
    let serving = serve(2).await;
    let with = |local_index| {
        let mut r = request("a", local_index);
        let spec = r.job.take().unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&spec.config_json).unwrap();
        config["global-batch-size"] = 100.into();
        r.job = Some(spec::spec(&config, Purpose::Train, spec.model.unwrap(), 50_000));
        r
    };
    let mut a = Worker::join(serving.address(), with(0)).await.unwrap();
    let _b = Worker::join(serving.address(), with(1)).await.unwrap();
    let e = a.plan(1000).await.unwrap_err();
    assert_eq!(kind(&e), "ended-configuration");
    assert!(
        e.message().contains("--global-batch-size 100 is not a whole multiple of --batch-size 32"),
        "{e}"
    );
}

#[tokio::test]
async fn the_store_sets_waits_adds_checks_and_deletes() {
    let serving = serve(2).await;
    let (mut a, mut b) = pair(&serving).await;
    let get = |w: &Worker, wait_ms| StoreGetRequest { header: w.header(), key: "id".into(), wait_ms };
    let nothing = b.client.store_get(get(&b, 10)).await.unwrap().into_inner();
    assert!(!nothing.found);
    let request = get(&b, 20_000);
    let mut other = b.client.clone();
    let waiting = tokio::spawn(async move { other.store_get(request).await.unwrap().into_inner() });
    let set = StoreSetRequest { header: a.header(), key: "id".into(), value: vec![0, 255, 7] };
    a.client.store_set(set).await.unwrap();
    let got = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap();
    assert_eq!((got.found, got.value), (true, vec![0, 255, 7]));
    for (amount, sum) in [(2, 2), (-5, -3)] {
        let add = StoreAddRequest { header: a.header(), key: "n".into(), amount };
        assert_eq!(a.client.store_add(add).await.unwrap().into_inner().value, sum);
    }
    let add = StoreAddRequest { header: a.header(), key: "id".into(), amount: 1 };
    let e = a.client.store_add(add).await.unwrap_err();
    assert_eq!((e.code(), kind(&e)), (Code::OutOfRange, "store"));
    for (keys, all) in [(vec!["id", "n"], true), (vec!["id", "absent"], false), (vec![], true)] {
        let keys = keys.into_iter().map(String::from).collect();
        let check = StoreCheckRequest { header: b.header(), keys };
        assert_eq!(b.client.store_check(check).await.unwrap().into_inner().all, all);
    }
    for existed in [true, false] {
        let delete = StoreDeleteRequest { header: b.header(), key: "id".into() };
        assert_eq!(b.client.store_delete(delete).await.unwrap().into_inner().existed, existed);
    }
    // One who waits hears of the end of the job at once.
    let request = get(&b, 20_000);
    let mut other = b.client.clone();
    let waiting = tokio::spawn(async move { other.store_get(request).await });
    serving.stop("test");
    let e = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(e.message().contains("stopped: test"), "{e}");
}

#[tokio::test]
async fn addresses_that_cannot_be_bound_are_clear_errors() {
    let serving = serve(1).await;
    let taken = CoordinatorConfig { listen: serving.address().to_string(), ..config(1) };
    let e = server::start(taken).await.err().unwrap();
    assert!(matches!(e, ServeError::PortInUse { .. }), "{e}");
    assert!(e.to_string().contains("the port is in use"), "{e}");
    let nonsense = CoordinatorConfig { listen: "nonsense".into(), ..config(1) };
    let e = server::start(nonsense).await.err().unwrap().to_string();
    assert!(e.contains("HOST:PORT"), "{e}");
    let nobody = CoordinatorConfig { world_size: 0, ..config(1) };
    assert!(matches!(server::start(nobody).await, Err(ServeError::Config(_))));
}

#[test]
fn embedded_it_needs_no_runtime_and_frees_its_port() {
    let embedded = octrain_coordinator::serve(config(2)).unwrap();
    let address = embedded.address();
    assert_eq!(embedded.outcome(), None);
    assert_eq!(embedded.wait(Duration::from_millis(10)), None);
    let Outcome::Failed { abort } = embedded.shutdown("test") else { panic!() };
    assert_eq!(abort.kind(), AbortKind::Shutdown);
    std::net::TcpListener::bind(address).expect("the port is free again");
}
