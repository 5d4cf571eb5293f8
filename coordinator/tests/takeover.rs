//! A coordinator that keeps a journal, over real connections: who goes on, and who has to go.

use octrain_coordinator::config::CoordinatorConfig;
use octrain_coordinator::job::{Outcome, Retirement};
use octrain_coordinator::server::{self, Serving};
use octrain_coordinator::term::Term;
use octrain_proto::v1::*;
use octrain_proto::{REFUSAL_KEY, TERM_KEY};
use std::path::Path;
use std::time::Duration;
use tonic::{Request, Status};

mod worker;
use worker::*;

fn config(journal: &Path) -> CoordinatorConfig {
    CoordinatorConfig { journal_file: Some(journal.into()), ..CoordinatorConfig::new("127.0.0.1:0", 2) }
}

async fn serve(journal: &Path) -> Serving {
    server::start(config(journal)).await.unwrap()
}

/// A heartbeat of one that has heard of a coordinator of `term`; the term that the answer says.
async fn beat(worker: &mut Worker, term: Option<Term>) -> Result<Term, Status> {
    let beat = HeartbeatRequest { header: worker.header(), step: 3, connected: true, ..Default::default() };
    let mut request = Request::new(beat);
    if let Some(term) = term {
        request.metadata_mut().insert(TERM_KEY, term.to_string().parse().unwrap());
    }
    let answer = worker.client.heartbeat(request).await?;
    Ok(answer.metadata().get(TERM_KEY).unwrap().to_str().unwrap().parse().unwrap())
}

async fn over(serving: &Serving) -> Outcome {
    tokio::time::timeout(LONG, serving.over()).await.unwrap()
}

#[tokio::test]
async fn one_that_was_replaced_goes_and_leaves_the_job_to_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let old = serve(&journal).await;
    let mut a = Worker::join(old.address(), request("a", 0)).await.unwrap();
    let mut b = Worker::join(old.address(), request("a", 1)).await.unwrap();
    let first = beat(&mut a, None).await.unwrap();
    assert_eq!(first.number, 1);
    assert!(!a.header.member.contains(&first.to_string()[..16]), "nobody learns others' names from it");
    let asked = a.client.status(StatusRequest::default()).await.unwrap();
    assert!(asked.metadata().get(TERM_KEY).is_none(), "a stranger does not learn it");
    // What is heard of another run says nothing of this one, nor does what nobody can read.
    for heard in [first, Term { number: 0, ..first }, Term { run: !first.run, number: 9 }] {
        assert_eq!(beat(&mut a, Some(heard)).await.unwrap(), first, "{heard}");
    }
    let mut watch = b.client.watch(WatchRequest { header: b.header() }).await.unwrap().into_inner();
    let e = beat(&mut a, Some(Term { number: 3, ..first })).await.unwrap_err();
    assert_eq!(e.code(), tonic::Code::Unavailable);
    assert_eq!(e.metadata().get(REFUSAL_KEY).unwrap(), "retired");
    let outcome = over(&old).await;
    let Outcome::Retired { why: Retirement::Superseded(why) } = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("term 3; this one is of term 1"), "{why}");
    // Nobody was told that the job has ended.
    assert!(matches!(watch.message().await, Ok(None) | Err(_)));
    let new = serve(&journal).await;
    for worker in [&mut a, &mut b] {
        worker.client = client(new.address()).await;
        assert_eq!(beat(worker, Some(first)).await.unwrap(), Term { number: 2, ..first });
        assert!(worker.plan(0).await.unwrap().plan.is_some());
    }
    a.leave().await;
    b.leave().await;
    assert_eq!(over(&new).await, Outcome::Finished { interrupted: false });
    let e = server::start(config(&journal)).await.err().unwrap();
    assert!(e.to_string().contains("is of a job that has ended"), "{e}");
    assert_eq!(e.exit_code(), 2);
}

/// What a stranger says that calls itself a member, of a term of its choice.
async fn strange_beat(serving: &Serving, said: Option<&str>) -> Status {
    let header = Header { job_id: "octrain".into(), generation: 1, member: "0-1".into() };
    let beat = HeartbeatRequest { header: Some(header), step: 3, connected: true, ..Default::default() };
    let mut request = Request::new(beat);
    if let Some(said) = said {
        request.metadata_mut().insert(TERM_KEY, said.parse().unwrap());
    }
    client(serving.address()).await.heartbeat(request).await.unwrap_err()
}

#[tokio::test]
async fn who_was_not_admitted_learns_no_term_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let serving = serve(&dir.path().join("journal")).await;
    let mut a = Worker::join(serving.address(), request("a", 0)).await.unwrap();
    let refused = RegisterRequest { job_id: "another".into(), ..request("b", 0) };
    let e = client(serving.address()).await.register(refused).await.unwrap_err();
    assert_eq!(e.metadata().get(REFUSAL_KEY).unwrap(), "job");
    assert!(e.metadata().get(TERM_KEY).is_none(), "{e:?}");
    for said in [None, Some("0000000000000000.9"), Some("ffffffffffffffff.18446744073709551615")] {
        let e = strange_beat(&serving, said).await;
        assert_eq!(e.metadata().get(REFUSAL_KEY).unwrap(), "unknown-member");
        assert!(e.metadata().get(TERM_KEY).is_none(), "{said:?}: {e:?}");
    }
    // One that was admitted is told with a refusal as well: it is to know an earlier coordinator's.
    let first = beat(&mut a, None).await.unwrap();
    a.header.generation = 7;
    let e = beat(&mut a, Some(first)).await.unwrap_err();
    assert_eq!(
        e.metadata().get(TERM_KEY).map(|v| v.to_str().unwrap()),
        Some(first.to_string().as_str()),
        "{e:?}"
    );
}

#[tokio::test]
async fn without_a_journal_terms_are_neither_told_nor_obeyed() {
    let serving = server::start(CoordinatorConfig::new("127.0.0.1:0", 2)).await.unwrap();
    let mut client = client(serving.address()).await;
    let registered = client.register(request("a", 0)).await.unwrap();
    assert!(registered.metadata().get(TERM_KEY).is_none());
    let RegisterReply { job_id, generation, member, .. } = registered.into_inner();
    let header = Some(Header { job_id, generation, member });
    let mut request =
        Request::new(HeartbeatRequest { header, step: 0, connected: false, ..Default::default() });
    request.metadata_mut().insert(TERM_KEY, "0000000000000000.9".parse().unwrap());
    assert!(client.heartbeat(request).await.unwrap().metadata().get(TERM_KEY).is_none());
}

#[tokio::test]
async fn one_whose_journal_another_has_written_to_tells_nobody_anything_more() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let serving = serve(&journal).await;
    let mut a = Worker::join(serving.address(), request("a", 0)).await.unwrap();
    let whole = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, [&whole[..], b"of another"].concat()).unwrap();
    // Heartbeats change nothing that is kept.
    beat(&mut a, None).await.unwrap();
    let e = Worker::join(serving.address(), request("a", 1)).await.err().unwrap();
    assert_eq!(e.metadata().get(REFUSAL_KEY).unwrap(), "retired", "{e}");
    let outcome = over(&serving).await;
    assert!(matches!(&outcome, Outcome::Retired { why: Retirement::Superseded(_) }), "{outcome:?}");
    assert_eq!(octrain_coordinator::exit_code::of(&outcome), 3);
    assert!(std::fs::read(&journal).unwrap().ends_with(b"of another"), "nothing was written to it");
}

#[tokio::test]
async fn the_end_of_a_job_is_told_by_the_next_one_where_not_all_have_heard_it() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, copy) = (dir.path().join("journal"), dir.path().join("copy"));
    let serving = serve(&journal).await;
    let mut a = Worker::join(serving.address(), request("a", 0)).await.unwrap();
    let mut b = Worker::join(serving.address(), request("a", 1)).await.unwrap();
    serving.stop("test");
    serving.ended().await;
    // As it was when it had decided, and nobody had heard: a coordinator that died there.
    std::fs::copy(&journal, &copy).unwrap();
    let events = dir.path().join("events.jsonl");
    let next = CoordinatorConfig { event_file: Some(events.clone()), ..config(&copy) };
    let next = server::start(next).await.unwrap();
    for worker in [&mut a, &mut b] {
        worker.client = client(next.address()).await;
        let abort = worker.beat(1).await.unwrap().unwrap();
        assert_eq!(abort.kind(), AbortKind::Shutdown);
    }
    assert!(matches!(over(&next).await, Outcome::Failed { .. }));
    assert!(matches!(over(&serving).await, Outcome::Failed { .. }));
    next.ended().await;
    let told = std::fs::read_to_string(&events).unwrap();
    let event = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["event"].as_str().unwrap().to_string(), line["term"].as_u64().unwrap())
    };
    let want = ["coordinator_started", "job_failed", "report"].map(|name| (name.to_string(), 2));
    assert_eq!(told.lines().map(event).collect::<Vec<_>>(), want);
}

#[tokio::test]
async fn an_event_file_that_cannot_be_opened_ends_no_job_that_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, copy) = (dir.path().join("journal"), dir.path().join("copy"));
    let events = Some(dir.path().join("none").join("events.jsonl"));
    let of = |journal: &Path| CoordinatorConfig { event_file: events.clone(), ..config(journal) };
    let refused = server::start(of(&journal)).await.map(drop).unwrap_err();
    assert_eq!(refused.exit_code(), 2, "{refused}");
    let serving = serve(&journal).await;
    let mut a = Worker::join(serving.address(), request("a", 0)).await.unwrap();
    let _b = Worker::join(serving.address(), request("a", 1)).await.unwrap();
    std::fs::copy(&journal, &copy).unwrap();
    let next = server::start(of(&copy)).await.unwrap();
    a.client = client(next.address()).await;
    assert_eq!(beat(&mut a, None).await.unwrap().number, 2);
}

#[tokio::test]
async fn a_thousand_workers_register_and_are_found_again_within_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let many = CoordinatorConfig { world_size: 1024, min_world: 1024, max_world: 1024, ..config(&journal) };
    let serving = server::start(many.clone()).await.unwrap();
    let mut client = client(serving.address()).await;
    let begun = std::time::Instant::now();
    for i in 0..1023 {
        client.register(request("a", i)).await.unwrap();
    }
    let registered = begun.elapsed();
    let bytes = std::fs::metadata(&journal).unwrap().len();
    let copy = dir.path().join("copy");
    std::fs::copy(&journal, &copy).unwrap();
    let begun = std::time::Instant::now();
    let next = server::start(CoordinatorConfig { journal_file: Some(copy), ..many }).await.unwrap();
    let started = begun.elapsed();
    println!("1,023 workers: registered in {registered:.2?}, {bytes} bytes, found again in {started:.2?}");
    let mut asking = worker::client(next.address()).await;
    let status = asking.status(StatusRequest::default()).await.unwrap().into_inner();
    assert_eq!((status.members.len(), status.term), (1023, 2));
    assert!(started < Duration::from_secs(20), "{started:?}");
}
