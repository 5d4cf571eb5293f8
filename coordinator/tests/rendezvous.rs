//! The rendezvous of many workers: each registers, waits for the plan and the generation, reads the generation's key from the
//! store and says that it is connected, through the state machine alone and through a coordinator process over real connections. `OCTRAIN_RENDEZVOUS`
//! has the sizes, e.g. `1024,10000`; `scripts/chaos.sh --only rendezvous` runs those of the bars, with the release profile.

use octrain_coordinator::CoordinatorConfig;
use octrain_coordinator::job::{self, Answer, Beat, Event, Job, Reply, Wait, Wakes};
use octrain_proto::v1::*;
use process::{end, start};
use prost::Message;
use raw::Raw;
use std::net::SocketAddr;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tonic::Code;
use worker::request;

mod process;
mod raw;
mod worker;

/// Workers of a host.
const LOCAL: u32 = 8;
/// The key that each worker reads.
const KEY: &str = "1/group-key";
/// Connections that are opened at a time: no more than a listener's backlog holds.
const OPENING: usize = 512;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest that one worker is waited for.
const HANGS: Duration = Duration::from_secs(300);

/// What a test in the suite takes.
const SIZES: &str = "64,256";

fn sizes() -> Vec<u32> {
    let text = std::env::var("OCTRAIN_RENDEZVOUS").unwrap_or_else(|_| SIZES.into());
    text.split(',').map(|n| n.parse().unwrap_or_else(|_| panic!("OCTRAIN_RENDEZVOUS is `{text}`"))).collect()
}

/// The registration of the `i`-th worker; they come in no order.
fn registration(i: u32, world: u32) -> RegisterRequest {
    let i = (u64::from(i) * 7919 % u64::from(world)) as u32;
    let mut request = request(&format!("node-{}", i / LOCAL), i % LOCAL);
    request.worker.as_mut().unwrap().local_world = LOCAL;
    // Enough for a step of all of them.
    request.job.as_mut().unwrap().train_images = 50_000_000;
    request
}

/// MiB of a process, by the name that `/proc/PID/status` has for them; none of one that has ended.
fn memory(pid: u32, what: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(what))?;
    let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024.0)
}

/// A process that ends with its test.
struct Held(Option<Child>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|child| drop(child.kill()));
    }
}

/// The state machine, which is handed events one after the other.
struct Machine {
    job: Option<Job>,
    config: CoordinatorConfig,
    begun: Instant,
}

impl Machine {
    fn step(&mut self, event: Event) -> (Answer, Wakes) {
        let step = job::step(self.begun.elapsed(), self.job.take().unwrap(), &self.config, event);
        self.job = Some(step.job);
        (step.answer, step.wakes)
    }

    fn reply(&mut self, event: Event) -> Reply {
        match self.step(event).0 {
            Answer::Reply(reply) => reply,
            other => panic!("{other:?}"),
        }
    }
}

/// Seconds from a moment, which becomes now.
fn lap(since: &mut Instant) -> f64 {
    let took = since.elapsed().as_secs_f64();
    *since = Instant::now();
    took
}

#[test]
fn the_state_machine_brings_many_workers_together() {
    for world in sizes() {
        let before = memory(std::process::id(), "VmRSS").unwrap();
        let config = CoordinatorConfig::new("127.0.0.1:0", world);
        let mut machine = Machine { job: Some(Job::new(&config, 1)), config, begun: Instant::now() };
        // Made by the workers.
        let registrations: Vec<Box<RegisterRequest>> =
            (0..world).map(|i| Box::new(registration(i, world))).collect();
        let (begun, mut since) = (Instant::now(), Instant::now());
        let mut headers = Vec::new();
        for registration in registrations {
            let Reply::Registered(r) = machine.reply(Event::Register(registration)) else {
                panic!("no registration")
            };
            let header = Header { job_id: r.job_id, generation: r.generation, member: r.member };
            // All but the last one wait.
            let (answer, _) = machine.step(Event::GetPlan { header: header.clone(), wait: Wait::First });
            headers.push(header);
            assert_eq!(answer == Answer::Park, headers.len() < world as usize);
        }
        let registered = lap(&mut since);
        let mut sent = 0;
        for header in &headers {
            let Reply::Plan(plan) =
                machine.reply(Event::GetPlan { header: header.clone(), wait: Wait::Again })
            else {
                panic!("no plan")
            };
            sent += plan.encoded_len();
            assert_eq!(plan.generation.unwrap().roster.len(), world as usize);
        }
        let planned = lap(&mut since);
        let set = Event::StoreSet { header: headers[0].clone(), key: KEY.into(), value: vec![7; 32] };
        machine.reply(set);
        for header in &headers {
            let get = Event::StoreGet { header: header.clone(), key: KEY.into(), wait: Wait::First };
            assert_eq!(machine.reply(get), Reply::Found(Some(vec![7; 32])));
        }
        let read = lap(&mut since);
        for header in headers {
            let beat = Event::Heartbeat(header, Beat { collectives: 1, connected: true, ..Beat::default() });
            machine.reply(beat);
        }
        let connected = lap(&mut since);
        let grown = memory(std::process::id(), "VmRSS").unwrap() - before;
        println!(
            "rendezvous of {world}, state machine: {:.2} s (registered {registered:.2} s, plans {planned:.2} s of {:.0} MB, store {read:.2} s, connected {connected:.2} s); it holds {grown:.0} MiB",
            begun.elapsed().as_secs_f64(),
            sent as f64 / 1e6
        );
    }
}

/// One worker up to its generation's key, as a session does, but for its watch: a connection, the plan, the key, a heartbeat.
async fn worker(address: SocketAddr, i: u32, world: u32, opening: Arc<Semaphore>) -> Duration {
    let registration = registration(i, world).encode_to_vec();
    // A connection that the coordinator's system has no room for is reset; sessions try again.
    let (mut raw, registered) = loop {
        let permit = opening.acquire().await.unwrap();
        if let Ok(mut raw) = Raw::try_connect(address).await {
            match raw.call("Register", registration.clone(), None).await {
                Ok(reply) => break (raw, reply),
                Err(e) if e.code() == Code::ResourceExhausted => {}
                Err(e) => assert!(std::error::Error::source(&e).is_some(), "{e}"),
            }
        }
        drop(permit);
        tokio::time::sleep(PAUSE).await;
    };
    let r = RegisterReply::decode(registered.as_slice()).unwrap();
    let header = || Some(Header { job_id: r.job_id.clone(), generation: 1, member: r.member.clone() });
    // A sign of life as often as heartbeats are.
    let ask = GetPlanRequest { header: header(), wait_ms: 1000 };
    let plan = loop {
        // On a real host each worker reads its own; here one process would read all of them.
        match raw.call("GetPlan", ask.encode_to_vec(), None).await {
            Ok(reply) if reply.len() > 1000 => break reply,
            Ok(_) => {}
            // It has more to do than it takes in; sessions ask again.
            Err(e) if e.code() == Code::ResourceExhausted => tokio::time::sleep(PAUSE).await,
            Err(e) => panic!("{e}"),
        }
    };
    let at = Instant::now();
    if i == 0 {
        let mine = GetPlanReply::decode(plan.as_slice()).unwrap().generation.unwrap();
        assert_eq!(mine.roster.len(), world as usize);
        let set = StoreSetRequest { header: header(), key: KEY.into(), value: vec![7; 32] };
        let _: StoreSetReply = raw.untold("StoreSet", &set).await;
    }
    drop(plan);
    let get = StoreGetRequest { header: header(), key: KEY.into(), wait_ms: 30_000 };
    let found: StoreGetReply = raw.untold("StoreGet", &get).await;
    assert!(found.found && found.value == [7; 32]);
    let beat = HeartbeatRequest {
        header: header(),
        step: 0,
        collectives: 1,
        connected: true,
        leaving: false,
        ..Default::default()
    };
    let _: HeartbeatReply = raw.untold("Heartbeat", &beat).await;
    let took = at.elapsed();
    let leave = LeaveRequest { header: header(), interrupted: false, before_plan: false };
    let _: LeaveReply = raw.untold("Leave", &leave).await;
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_brings_many_workers_together_over_real_connections() {
    for world in sizes() {
        let (mut child, address) = start(&["--world-size", &world.to_string()]);
        let mut log = child.stderr.take().unwrap();
        let told = std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()).unwrap());
        let (pid, idle) = (child.id(), memory(child.id(), "VmHWM").unwrap());
        let mut child = Held(Some(child));
        let opening = Arc::new(Semaphore::new(OPENING));
        let begun = Instant::now();
        let workers: Vec<_> =
            (0..world).map(|i| tokio::spawn(worker(address, i, world, opening.clone()))).collect();
        let mut slowest = Duration::ZERO;
        // Read as often as one has done: with the last one the coordinator ends.
        let mut most = idle;
        for worker in workers {
            let took = tokio::time::timeout(HANGS, worker).await.expect("no worker waits for ever");
            slowest = slowest.max(took.expect("every worker has its generation"));
            most = memory(pid, "VmHWM").unwrap_or(most);
        }
        let took = begun.elapsed().as_secs_f64();
        let grown = most - idle;
        let child = child.0.take().unwrap();
        let (status, _) = tokio::task::spawn_blocking(move || end(child)).await.unwrap();
        assert_eq!(status.code(), Some(0));
        let bytes = told.join().unwrap();
        println!(
            "rendezvous of {world}, real connections: {took:.2} s until all had their generation and its key, and had left (the slowest {:.2} s after its plan); the coordinator's memory grew by {grown:.0} MiB at most, its log has {bytes} bytes",
            slowest.as_secs_f64()
        );
    }
}
