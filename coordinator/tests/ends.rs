//! How the coordinator's process ends, seen by its scheduler: the exit code tells what became of the job.

mod process;
mod worker;

use octrain_proto::v1::*;
use process::{end, signal, start};
use std::net::SocketAddr;
use std::process::Child;
use worker::{Worker, request};

/// A job of two under way.
async fn running(args: &[&str]) -> (Child, SocketAddr, Worker, Worker) {
    let (child, address) = start(&[&["--world-size", "2"], args].concat());
    let a = Worker::join(address, request("a", 0)).await.unwrap();
    let b = Worker::join(address, request("a", 1)).await.unwrap();
    (child, address, a, b)
}

async fn code(child: Child) -> (Option<i32>, String) {
    let (status, text) = tokio::task::spawn_blocking(move || end(child)).await.unwrap();
    (status.code(), text)
}

async fn leave(mut w: Worker, interrupted: bool) {
    w.client.leave(LeaveRequest { header: w.header(), interrupted, before_plan: false }).await.unwrap();
}

async fn fail(w: &mut Worker, kind: FailureKind) {
    let report = ReportFailureRequest { header: w.header(), message: "x".into(), kind: kind.into() };
    w.client.report_failure(report).await.unwrap();
}

#[tokio::test]
async fn finished_is_done_and_interrupted_is_preempted() {
    for (interrupted, want) in [(false, 0), (true, 4)] {
        let (child, _, a, b) = running(&[]).await;
        leave(a, interrupted).await;
        leave(b, false).await;
        let (code, text) = code(child).await;
        assert_eq!(code, Some(want), "{text}");
    }
}

#[tokio::test]
async fn a_failed_worker_or_training_is_a_failure_and_a_refused_plan_a_configuration() {
    let kinds = [(FailureKind::Own, 1), (FailureKind::Configuration, 2), (FailureKind::NotFinite, 1)];
    for (kind, want) in kinds {
        let (child, _, mut a, mut b) = running(&[]).await;
        fail(&mut a, kind).await;
        b.until_abort().await;
        let (code, text) = code(child).await;
        assert_eq!(code, Some(want), "{text}");
    }
}

#[tokio::test]
async fn a_lost_worker_is_a_reason_to_try_again() {
    let (child, _, mut a, _silent) = running(&["--heartbeat-timeout", "1"]).await;
    let abort = a.until_abort().await;
    assert_eq!((abort.kind(), abort.culprit), (AbortKind::WorkerLost, Some(1)));
    let (code, text) = code(child).await;
    assert_eq!(code, Some(3), "{text}");
}

#[tokio::test]
async fn a_coordinator_that_is_told_to_stop_tells_the_workers() {
    let (child, _, mut a, mut b) = running(&[]).await;
    let mut watch = a.client.watch(WatchRequest { header: a.header() }).await.unwrap().into_inner();
    signal("TERM", &child);
    let told = watch.message().await.unwrap().unwrap().abort.unwrap();
    assert_eq!(told.kind(), AbortKind::Shutdown);
    assert!(told.message.contains("SIGTERM"), "{}", told.message);
    assert_eq!(b.until_abort().await, told);
    assert_eq!(a.until_abort().await, told);
    let (code, text) = code(child).await;
    assert_eq!(code, Some(4), "{text}");
}
