//! Bounds on what calls carry, over real connections: what is too much is refused with words that arrive, and the
//! coordinator goes on.

mod worker;

use octrain_coordinator::CoordinatorConfig;
use octrain_coordinator::server::{self, Serving};
use octrain_core::strategy::Purpose;
use octrain_proto::v1::*;
use std::time::{Duration, Instant};
use tonic::{Code, Status};
use worker::{LONG, Worker, client, kind, request};

async fn serve(world_size: u32) -> Serving {
    let config =
        CoordinatorConfig { register_timeout: LONG, ..CoordinatorConfig::new("127.0.0.1:0", world_size) };
    server::start(config.with_heartbeat_timeout(Duration::from_secs(10))).await.unwrap()
}

async fn pair(serving: &Serving) -> (Worker, Worker) {
    let a = Worker::join(serving.address(), request("a", 0)).await.unwrap();
    (a, Worker::join(serving.address(), request("a", 1)).await.unwrap())
}

fn on_one_line(text: &str) {
    assert!(!text.chars().any(char::is_control) && text.len() <= 3072, "{} bytes: {text}", text.len());
}

fn refused(status: &Status, want: &str, words: &str) {
    assert_eq!(kind(status), want, "{status}");
    on_one_line(status.message());
    assert!(status.message().contains(words), "{words} in: {status}");
}

#[tokio::test]
async fn names_and_numbers_of_a_registration_are_bounded() {
    let serving = serve(2).await;
    let facts = |change: fn(&mut WorkerFacts)| {
        let mut r = request("a", 0);
        change(r.worker.as_mut().unwrap());
        r
    };
    let device = || CudaDevice { name: "GPU".into(), ..CudaDevice::default() };
    for (r, words) in [
        (facts(|w| w.host = "x".repeat(1 << 20)), "host's name has 1048576 bytes"),
        (facts(|w| w.host = "a\n2026 INFO rank 0 left\u{1b}[2J".into()), "control characters: a\\n2026 INFO"),
        (facts(|w| w.local_index = u32::MAX), "local index is 4294967295"),
        (facts(|w| w.local_world = u32::MAX), "number of workers of its host is 4294967295"),
        (
            {
                let mut r = request("a", 0);
                let c = r.worker.as_mut().unwrap().capabilities.as_mut().unwrap();
                c.cuda_devices = (0..10_000).map(|_| device()).collect();
                r
            },
            "10000 CUDA devices in one request",
        ),
        (RegisterRequest { nonce: "n".repeat(300), ..request("a", 0) }, "nonce has 300 bytes"),
        (RegisterRequest { job_id: "j\r".into(), ..request("a", 0) }, "control characters: j"),
        (
            {
                let mut r = request("a", 0);
                r.job.as_mut().unwrap().config_json = " ".repeat(1 << 20);
                r
            },
            "configuration has 1048576 bytes",
        ),
    ] {
        let e = Worker::join(serving.address(), r).await.err().unwrap();
        refused(&e, "invalid", words);
    }
    let (_a, _b) = pair(&serving).await;
}

#[tokio::test]
async fn a_long_difference_of_configurations_is_told_in_a_trailer_that_arrives() {
    let serving = serve(2).await;
    let with = |value: &str, local_index| {
        let mut r = request("a", local_index);
        let old = r.job.take().unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&old.config_json).unwrap();
        for i in 0..200 {
            config[format!("key-{i:03}")] = value.into();
        }
        let spec = octrain_coordinator::spec::spec(&config, Purpose::Train, old.model.unwrap(), 50_000);
        RegisterRequest { job: Some(spec), ..r }
    };
    let first = Worker::join(serving.address(), with(&"ä".repeat(100), 0)).await;
    // Unknown keys may be refused as such; either way the words arrive.
    let e = match first {
        Err(e) => e,
        Ok(_) => Worker::join(serving.address(), with(&"ö".repeat(100), 1)).await.err().unwrap(),
    };
    on_one_line(e.message());
    assert!(["config-mismatch", "invalid"].contains(&kind(&e)), "{e}");
}

#[tokio::test]
async fn a_long_failure_reaches_everybody_on_one_line() {
    for message in
        ["first line\nsecond \u{1b}[31m".to_string() + &"x".repeat(1 << 20), "ä✓\u{85}".repeat(50_000)]
    {
        let serving = serve(2).await;
        let (mut a, mut b) = pair(&serving).await;
        let mut watch = a.client.watch(WatchRequest { header: a.header() }).await.unwrap().into_inner();
        let failure = ReportFailureRequest { header: b.header(), message, kind: FailureKind::Own.into() };
        b.client.report_failure(failure).await.unwrap();
        let pushed =
            tokio::time::timeout(LONG, watch.message()).await.unwrap().unwrap().unwrap().abort.unwrap();
        on_one_line(&pushed.message);
        assert!(pushed.message.contains("rank 1") && pushed.message.contains(" bytes in all)"));
        // By trailer as well.
        refused(&a.plan(0).await.unwrap_err(), "ended", "rank 1");
    }
}

#[tokio::test]
async fn headers_keys_and_values_are_bounded() {
    let serving = serve(2).await;
    let (mut a, mut b) = pair(&serving).await;
    let header = Header { member: "m\n".repeat(5000), ..a.header.clone() };
    let e = a
        .client
        .heartbeat(HeartbeatRequest { header: Some(header), step: 0, connected: true, ..Default::default() })
        .await
        .unwrap_err();
    refused(&e, "invalid", "identity has 10000 bytes");
    let set = |key: &str, bytes: usize| StoreSetRequest {
        header: b.header(),
        key: key.into(),
        value: vec![0; bytes],
    };
    refused(&a.client.store_set(set("a\nb", 1)).await.unwrap_err(), "invalid", "control characters: a\\nb");
    refused(&a.client.store_set(set(&"k".repeat(5000), 1)).await.unwrap_err(), "store", "has 5000 bytes");
    // More than any message may have: refused before it is read.
    let e = a.client.store_set(set("k", 8 << 20)).await.unwrap_err();
    assert!([Code::OutOfRange, Code::ResourceExhausted].contains(&e.code()), "{e:?}");
    let keys = (0..20_000).map(|i| i.to_string()).collect();
    let e = a.client.store_check(StoreCheckRequest { header: a.header(), keys }).await.unwrap_err();
    refused(&e, "invalid", "20000 keys in one request");
    assert_eq!(b.beat(1).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_are_bounded_in_time_and_number() {
    let serving = serve(2).await;
    let (mut a, _b) = pair(&serving).await;
    let get = StoreGetRequest { header: a.header(), key: "never".into(), wait_ms: u64::MAX };
    let mut asking = Vec::new();
    for _ in 0..4 {
        let connection = client(serving.address()).await;
        for _ in 0..50 {
            let (mut connection, get) = (connection.clone(), get.clone());
            asking.push(tokio::spawn(async move { connection.store_get(get).await }));
        }
    }
    // 64 and four for each worker may wait.
    let mut busy = 0;
    let until = Instant::now() + LONG;
    while busy < 200 - 72 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
        busy = asking.iter().filter(|a| a.is_finished()).count();
    }
    assert_eq!(busy, 200 - 72);
    assert_eq!(a.beat(1).await.unwrap(), None);
    serving.stop("test");
    let mut kinds = std::collections::BTreeMap::new();
    for one in asking {
        let e = tokio::time::timeout(LONG, one).await.unwrap().unwrap().unwrap_err();
        *kinds.entry(kind(&e).to_string()).or_insert(0) += 1;
    }
    assert_eq!(kinds, [("busy".to_string(), 128), ("ended".to_string(), 72)].into());
}

#[tokio::test]
async fn absurd_numbers_are_only_numbers() {
    let serving = serve(2).await;
    let (mut a, mut b) = pair(&serving).await;
    assert_eq!(a.beat(u64::MAX).await.unwrap(), None);
    let report = StepReport { step: u64::MAX, epoch: u32::MAX, loss: f64::NAN, ..StepReport::default() };
    a.client.report_step(ReportStepRequest { header: a.header(), report: Some(report) }).await.unwrap();
    let add = |amount| StoreAddRequest { header: b.header(), key: "n".into(), amount };
    a.client.store_add(add(i64::MAX)).await.unwrap();
    refused(&a.client.store_add(add(1)).await.unwrap_err(), "store", "overflows");
    assert_eq!(b.beat(0).await.unwrap(), None);
    let status = client(serving.address()).await.status(StatusRequest::default()).await.unwrap().into_inner();
    assert_eq!(status.phase(), JobPhase::Running);
}
