//! What strangers on the network can do to a coordinator process: nothing that its workers notice.

mod process;
mod worker;

use octrain_proto::v1::*;
use process::{end, listening, start, start_after};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use worker::{LONG, Worker, client, request};

/// The only worker of its job.
fn alone() -> RegisterRequest {
    let mut r = request("a", 0);
    r.worker.as_mut().unwrap().local_world = 1;
    r
}

async fn ends_well(child: Child) -> String {
    let (status, text) = tokio::task::spawn_blocking(move || end(child)).await.unwrap();
    assert_eq!(status.code(), Some(0), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_up_nobody() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let stderr = writer.try_clone().unwrap();
    // Fills the pipe and keeps it full.
    std::thread::spawn(move || while writer.write_all(&[b'x'; 4096]).is_ok() {});
    tokio::time::sleep(Duration::from_millis(500)).await;
    let child = Command::new(env!("CARGO_BIN_EXE_octrain-coordinator"))
        .args(["--listen", "127.0.0.1:0", "--world-size", "1"])
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let (child, address) = tokio::time::timeout(LONG, tokio::task::spawn_blocking(move || listening(child)))
        .await
        .expect("it starts")
        .unwrap();
    let work = async {
        let mut w = Worker::join(address, alone()).await.unwrap();
        assert!(w.plan(1000).await.unwrap().plan.is_some());
        for step in 0..20 {
            assert_eq!(w.beat(step).await.unwrap(), None);
        }
        w.leave().await;
    };
    tokio::time::timeout(LONG, work).await.expect("a full pipe holds up the driver");
    let (status, _) = tokio::task::spawn_blocking(move || end(child)).await.unwrap();
    assert_eq!(status.code(), Some(0));
    drop(reader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_out_of_file_descriptors_is_said_and_survived() {
    let (mut child, address) = start_after("ulimit -n 24", &["--world-size", "1"]);
    let strangers: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let stderr = child.stderr.take().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let said = lines.any(|line| line.contains("no file descriptors are left"));
        (said, lines.count())
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(strangers);
    let w = tokio::time::timeout(LONG, Worker::join(address, alone())).await.expect("it accepts again");
    w.unwrap().leave().await;
    ends_well(child).await;
    let (said, more) = reading.await.unwrap();
    assert!(said && more < 20, "said: {said}, and {more} lines");
}

#[tokio::test]
async fn the_soft_limit_of_open_files_is_raised() {
    let (child, address) = start_after("ulimit -Sn 64", &["--world-size", "1"]);
    let text = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let line = text.lines().find(|l| l.starts_with("Max open files")).unwrap();
    let [soft, hard] = [3, 4].map(|i| line.split_whitespace().nth(i).unwrap());
    assert_eq!(soft, hard, "{line}");
    Worker::join(address, alone()).await.unwrap().leave().await;
    ends_well(child).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refused_calls_and_junk_is_counted_and_survived() {
    let (child, address) = start(&["--world-size", "1"]);
    let mut w = Worker::join(address, alone()).await.unwrap();
    for junk in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\0\0\0\xff\xff\xff",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff",
    ] {
        TcpStream::connect(address).unwrap().write_all(junk).unwrap();
    }
    let mut stranger = client(address).await;
    for _ in 0..500 {
        let wrong = RegisterRequest { protocol_version: 99, ..request("b\nINFO all is well", 0) };
        stranger.register(wrong).await.unwrap_err();
    }
    assert_eq!(w.beat(1).await.unwrap(), None);
    w.leave().await;
    let log = ends_well(child).await;
    assert!(log.lines().count() < 60, "{} lines: {log}", log.lines().count());
    assert!(log.contains("b\\nINFO all is well") && !log.contains("\nINFO"), "{log}");
}
