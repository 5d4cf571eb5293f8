//! `octrain status`: what a job is doing, as its coordinator tells it.

use super::Exit;
use super::credentials::CredentialFlags;
use crate::launcher::{EXIT_ABORTED, EXIT_CONFIGURATION, EXIT_ERROR, EXIT_OK};
use crate::metrics::{print, print_while_read, table};
use crate::session::{
    self, Activity, JobPhase, MemberStatus, Notice, NoticeKind, PastGeneration, SessionError, StatusReply,
    StepReport,
};
use anyhow::Result;
use octrain_proto::PROTOCOL_VERSION;
use octrain_proto::v1::Operation;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Arguments of `octrain status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// `HOST:PORT` of the coordinator.
    #[arg(value_name = "HOST:PORT", env = "OCTRAIN_COORDINATOR")]
    pub coordinator: String,
    /// Ask again and again, until the job has ended.
    #[arg(long)]
    pub watch: bool,
    /// Seconds between two questions of --watch.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 2.0,
        requires = "watch",
        allow_negative_numbers = true
    )]
    pub interval: f64,
    /// A line of JSON in place of text.
    #[arg(long)]
    pub json: bool,
    /// What shows the coordinator that this process may ask.
    #[command(flatten)]
    pub credentials: CredentialFlags,
}

/// Longest pause of --watch, in seconds.
const LONGEST: f64 = 86_400.0;
/// For how long a coordinator that has answered once may not.
const MISSED: Duration = Duration::from_secs(15);

/// Runs the command.
pub fn main(args: &StatusArgs) -> Result<u8> {
    let known = args.interval > 0.0 && args.interval <= LONGEST;
    let pause = Duration::try_from_secs_f64(args.interval).ok().filter(|_| known).ok_or_else(|| Exit {
        code: EXIT_CONFIGURATION,
        message: format!(
            "--interval {} is no time to wait; give seconds, above 0 and at most {LONGEST}",
            args.interval
        ),
    })?;
    let credentials = args.credentials.read()?;
    let mut answered: Option<Instant> = None;
    loop {
        match session::status(&args.coordinator, &credentials, args.watch) {
            Ok(status) => {
                answered = Some(Instant::now());
                same_version(&args.coordinator, &status)?;
                let told = match args.json {
                    true => format!("{}\n", as_json(&status)),
                    false if args.watch => format!("{}\n", text(&status)),
                    false => text(&status),
                };
                let read = print_while_read(told)?;
                match status.phase() {
                    JobPhase::Failed => return Ok(EXIT_ABORTED),
                    JobPhase::Finished => return Ok(EXIT_OK),
                    _ if !args.watch || !read => return Ok(EXIT_OK),
                    _ => {}
                }
            }
            Err(SessionError::Unreachable { .. } | SessionError::Lost { .. })
                if answered.is_some_and(|at| at.elapsed() < MISSED) => {}
            Err(e) => return ended(e, answered.map(|at| at.elapsed())),
        }
        std::thread::sleep(pause);
    }
}

/// An answer of another version cannot be read.
pub(super) fn same_version(coordinator: &str, status: &StatusReply) -> Result<(), Exit> {
    match status.protocol_version {
        PROTOCOL_VERSION => Ok(()),
        theirs => Err(Exit {
            code: EXIT_CONFIGURATION,
            message: format!(
                "the coordinator at {coordinator} is of another version of Octrain (protocol {theirs}, and this one \
                 has {PROTOCOL_VERSION}); ask it with the octrain of its version"
            ),
        }),
    }
}

/// What it means that there is no answer, so long after the last one, if there was any.
fn ended(e: SessionError, ago: Option<Duration>) -> Result<u8> {
    let (code, message) = match e {
        SessionError::Refused { kind, .. } if kind == "finished" => {
            print("the job is finished\n")?;
            return Ok(EXIT_OK);
        }
        SessionError::Ended { message, .. } => (EXIT_ABORTED, format!("the job has failed: {message}")),
        SessionError::Address { address } => {
            (EXIT_CONFIGURATION, format!("`{address}` is not HOST:PORT, e.g. node-0:29400"))
        }
        SessionError::Unreachable { address, last: why, .. } | SessionError::Lost { address, why, .. } => {
            let what = match ago {
                Some(ago) => format!(
                    "it answered {:.0} s ago: the job has ended meanwhile, or its coordinator is lost",
                    ago.as_secs_f64()
                ),
                None => {
                    "a job that has ended has none; otherwise check the address, and that no firewall is \
                         between"
                        .into()
                }
            };
            (EXIT_ERROR, format!("no coordinator answers at {address} ({why}); {what}"))
        }
        e if e.is_configuration() => (EXIT_CONFIGURATION, super::advice::told(&e)),
        e => (EXIT_ERROR, super::advice::told(&e)),
    };
    Err(Exit { code, message }.into())
}

/// A phase, in the words of the documentation.
fn phase(status: &StatusReply) -> &'static str {
    match status.phase() {
        JobPhase::Gathering => "gathering",
        JobPhase::Forming => "forming",
        JobPhase::Running => "running",
        JobPhase::Reforming => "reforming",
        JobPhase::Finished => "finished",
        JobPhase::Failed => "failed",
    }
}

/// What becomes of a worker.
fn state(member: &MemberStatus) -> &'static str {
    match member {
        MemberStatus { gone: true, .. } => "gone",
        MemberStatus { drained: true, .. } => "drained",
        MemberStatus { left: true, .. } => "left",
        MemberStatus { joins: true, .. } => "joining",
        MemberStatus { drains: true, .. } => "draining",
        _ => "here",
    }
}

/// The same for people, who are told of a slow one there.
fn is(member: &MemberStatus) -> &'static str {
    match state(member) {
        "here" if member.slow => "slow",
        other => other,
    }
}

/// What a worker does, as it said last, and in which operation of its generation it is or was.
fn doing(member: &MemberStatus) -> String {
    let Some(at) = member.at else { return "-".into() };
    let does = match at.activity() {
        _ if at.waits => "waits",
        Activity::Preparing => "prepares",
        Activity::Connecting => "connects",
        Activity::Data => "data",
        Activity::Step => "step",
        Activity::Evaluating => "evaluates",
        Activity::Saving => "saves",
    };
    match (member.collectives, operation(at.operation())) {
        (0, _) => does.into(),
        (n, operation) if at.waits => format!("{does} in {operation} {n}"),
        (n, operation) => format!("{does} after {operation} {n}"),
    }
}

/// An operation, in the protocol's word for it.
fn operation(operation: Operation) -> String {
    operation.as_str_name().trim_start_matches("OPERATION_").to_ascii_lowercase()
}

/// Whether a notice's subject goes on, or how long it has lasted.
fn lasted(notice: &Notice) -> String {
    notice.lasted_ms.map_or_else(|| "goes on".into(), |ms| format!("over after {} s", seconds(ms)))
}

fn kind(notice: &Notice) -> &'static str {
    match notice.kind() {
        NoticeKind::Hang => "hang",
        NoticeKind::Slow => "slow",
    }
}

/// The newest report of a step, of those who are there: of several, the lowest rank's.
fn newest(status: &StatusReply) -> Option<&StepReport> {
    let there = status.members.iter().filter(|m| !m.gone && !m.drained).filter_map(|m| m.report.as_ref());
    there.reduce(|first, other| if other.step > first.step { other } else { first })
}

fn seconds(ms: u64) -> String {
    format!("{:.2}", ms as f64 / 1e3)
}

/// A status for people.
fn text(status: &StatusReply) -> String {
    let here = status.members.iter().filter(|m| matches!(state(m), "here" | "draining")).count();
    let least = match status.min_workers < status.expected_workers {
        true => format!(", {} are enough", status.min_workers),
        false => String::new(),
    };
    // One that may grow says how far.
    let all = status.expected_workers.max(status.wanted_workers);
    let wanted = match status.wanted_workers == all {
        true => String::new(),
        false => format!(", {} are wanted", status.wanted_workers),
    };
    let term = match status.term {
        0 | 1 => String::new(),
        n => format!(", coordinator number {n} of the run"),
    };
    let mut out = format!(
        "job {}: {}, generation {}, {here} of {} workers here{wanted}{least}{term}\n",
        status.job_id,
        phase(status),
        status.generation,
        all
    );
    if !status.message.is_empty() {
        out += &format!("{}\n", status.message);
    }
    if let Some(report) = newest(status) {
        out += &format!(
            "step {} (epoch {}): loss {:.4}, {:.1} images/s\n",
            report.step, report.epoch, report.loss, report.images_per_second
        );
    }
    if !status.members.is_empty() {
        let headers = [
            "rank",
            "host",
            "local index",
            "pid",
            "step",
            "data, ms",
            "compute, ms",
            "reduction, ms",
            "own, ms",
            "silent for, s",
            "does",
            "is",
        ];
        let rows: Vec<[String; 12]> = status
            .members
            .iter()
            .map(|m| {
                // What a rank was is another one's now.
                let rank = m
                    .rank
                    .filter(|_| !m.gone && !m.drained)
                    .map_or_else(|| "-".into(), |rank| rank.to_string());
                let part = |seconds: fn(&StepReport) -> f64| {
                    m.report.as_ref().map_or_else(|| "-".into(), |r| format!("{:.0}", 1e3 * seconds(r)))
                };
                let (place, pid, step) = (m.local_index.to_string(), m.pid.to_string(), m.step.to_string());
                let [data, compute, reduction] =
                    [part(|r| r.data_seconds), part(|r| r.compute_seconds), part(|r| r.reduce_seconds)];
                let own = match m.own_seconds > 0.0 {
                    true => format!("{:.0}", 1e3 * m.own_seconds),
                    false => "-".into(),
                };
                let (host, silent, is) = (m.host.clone(), seconds(m.silent_ms), is(m).to_string());
                let does = if m.gone || m.left || m.drained { "-".into() } else { doing(m) };
                [rank, host, place, pid, step, data, compute, reduction, own, silent, does, is]
            })
            .collect();
        out += &table(&headers, &rows);
    }
    if !status.generations.is_empty() {
        let after = |ms: Option<u64>| ms.map_or_else(|| "-".into(), seconds);
        let rows: Vec<[String; 7]> = status
            .generations
            .iter()
            .map(|p| {
                let why = if p.why.is_empty() { "the start" } else { &p.why };
                let number = p.generation.to_string();
                let (workers, ago) = (p.workers.to_string(), seconds(p.ago_ms));
                let [formed, connected, stepped] = [p.formed_ms, p.connected_ms, p.stepped_ms].map(after);
                [number, workers, ago, formed, connected, stepped, why.into()]
            })
            .collect();
        let headers =
            ["generation", "workers", "began, s ago", "formed, s", "connected, s", "next step, s", "because"];
        out += &table(&headers, &rows);
    }
    for notice in &status.notices {
        let ago = seconds(notice.ago_ms);
        out += &format!("{}, {ago} s ago, {}: {}\n", kind(notice), lasted(notice), notice.message);
    }
    for refusal in &status.refusals {
        out += &format!("refused: {refusal}\n");
    }
    out
}

fn report_json(r: &StepReport) -> Value {
    json!({
        "step": r.step, "epoch": r.epoch, "loss": r.loss, "images_per_second": r.images_per_second,
        "data_seconds": r.data_seconds, "compute_seconds": r.compute_seconds, "reduce_seconds": r.reduce_seconds,
    })
}

/// A status for programs: the same by the protocol's names, but for the plan; what is derived is `report`, the newest of the
/// members', and `state`.
fn as_json(status: &StatusReply) -> Value {
    let member = |m: &MemberStatus| {
        let at = m.at.unwrap_or_default();
        json!({
            "rank": m.rank, "host": m.host, "local_index": m.local_index, "pid": m.pid, "step": m.step,
            "silent_ms": m.silent_ms, "state": state(m), "report": m.report.as_ref().map(report_json),
            "activity": at.activity().as_str_name().trim_start_matches("ACTIVITY_").to_ascii_lowercase(),
            "operation": operation(at.operation()), "collectives": m.collectives,
            "bytes": at.bytes, "waits": at.waits, "own_seconds": m.own_seconds, "slow": m.slow,
        })
    };
    let notice = |n: &Notice| {
        json!({
            "kind": kind(n), "generation": n.generation, "ago_ms": n.ago_ms, "lasted_ms": n.lasted_ms,
            "message": n.message, "ranks": n.ranks, "waiting": n.waiting,
            "operation": operation(n.operation()), "number": n.number, "bytes": n.bytes,
        })
    };
    let generation = |p: &PastGeneration| {
        json!({
            "generation": p.generation, "workers": p.workers, "why": p.why, "ago_ms": p.ago_ms,
            "formed_ms": p.formed_ms, "connected_ms": p.connected_ms, "stepped_ms": p.stepped_ms,
        })
    };
    json!({
        "job_id": status.job_id, "phase": phase(status), "generation": status.generation,
        "expected_workers": status.expected_workers, "min_workers": status.min_workers,
        "wanted_workers": status.wanted_workers,
        "message": status.message, "report": newest(status).map(report_json),
        "protocol_version": status.protocol_version, "term": status.term,
        "members": status.members.iter().map(member).collect::<Vec<_>>(),
        "generations": status.generations.iter().map(generation).collect::<Vec<_>>(),
        "notices": status.notices.iter().map(notice).collect::<Vec<_>>(),
        "refusals": status.refusals,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use octrain_proto::v1::Whereabouts;

    fn status() -> StatusReply {
        let report = StepReport { step: 12, loss: 2.5, images_per_second: 100.0, ..Default::default() };
        let member = MemberStatus { host: "a".into(), pid: 7, rank: Some(0), step: 12, ..Default::default() };
        let lost = MemberStatus { rank: Some(1), silent_ms: 5500, gone: true, ..member.clone() };
        let past = PastGeneration {
            generation: 2,
            workers: 1,
            why: "rank 1 is lost".into(),
            ago_ms: 2500,
            formed_ms: Some(430),
            connected_ms: None,
            stepped_ms: None,
        };
        StatusReply {
            job_id: "j".into(),
            generation: 2,
            phase: JobPhase::Forming.into(),
            expected_workers: 2,
            wanted_workers: 1,
            min_workers: 1,
            term: 3,
            members: vec![MemberStatus { report: Some(report), ..member }, lost],
            generations: vec![past],
            notices: vec![Notice {
                kind: NoticeKind::Hang.into(),
                message: "no progress for 6.0 s".into(),
                ago_ms: 9000,
                lasted_ms: Some(7500),
                ranks: vec![1],
                operation: Operation::AllReduce.into(),
                number: 45,
                ..Default::default()
            }],
            refusals: vec!["b:0: another plan".into()],
            ..Default::default()
        }
    }

    #[test]
    fn people_are_told_who_is_there_and_what_became_of_the_generations() {
        let told = text(&status());
        for part in [
            "job j: forming, generation 2, 1 of 2 workers here, 1 are wanted, 1 are enough, coordinator number 3 of the run",
            "step 12 (epoch 0): loss 2.5000, 100.0 images/s",
            "gone",
            "5.50",
            "rank 1 is lost",
            "0.43",
            "hang, 9.00 s ago, over after 7.50 s: no progress for 6.0 s",
            "refused: b:0: another plan",
        ] {
            assert!(told.contains(part), "{part} is not in\n{told}");
        }
    }

    #[test]
    fn one_that_leaves_is_here_until_it_has_left() {
        let with = |f: fn(&mut MemberStatus)| {
            let mut member = status().members[0].clone();
            f(&mut member);
            state(&member)
        };
        assert_eq!(with(|m| m.drains = true), "draining");
        assert_eq!(with(|m| (m.drains, m.drained) = (true, true)), "drained");
        let mut draining = status();
        draining.members[0].drains = true;
        assert!(text(&draining).contains("1 of 2 workers here"), "{}", text(&draining));
        let grows = StatusReply { wanted_workers: 4, ..status() };
        assert!(text(&grows).contains("1 of 4 workers here, 1 are enough"), "{}", text(&grows));
    }

    #[test]
    fn a_worker_says_what_it_does_and_in_which_operation_it_waits() {
        let at = |activity: Activity, waits| MemberStatus {
            at: Some(Whereabouts {
                activity: activity.into(),
                operation: Operation::AllReduce.into(),
                waits,
                ..Default::default()
            }),
            collectives: 45,
            ..Default::default()
        };
        assert_eq!(doing(&at(Activity::Step, true)), "waits in all_reduce 45");
        assert_eq!(doing(&at(Activity::Data, false)), "data after all_reduce 45");
        assert_eq!(doing(&MemberStatus { collectives: 0, ..at(Activity::Preparing, false) }), "prepares");
        assert_eq!(doing(&MemberStatus::default()), "-");
        let slow = MemberStatus { slow: true, ..Default::default() };
        assert_eq!((state(&slow), is(&slow)), ("here", "slow"));
    }

    #[test]
    fn whoever_asked_a_job_that_is_over_is_told_how_it_ended() {
        let code = |e: SessionError, ago| match ended(e, ago) {
            Ok(code) => code,
            Err(e) => e.downcast_ref::<Exit>().unwrap().code,
        };
        let refused = |kind: &str| SessionError::Refused {
            address: "a:1".into(),
            kind: kind.into(),
            message: "no".into(),
        };
        assert_eq!(code(refused("finished"), None), 0);
        assert_eq!(code(refused("busy"), None), 1);
        assert_eq!(code(SessionError::Ended { message: "rank 1".into(), configuration: true }, None), 3);
        let lost = || SessionError::Lost { address: "a:1".into(), call: "status", why: "reset".into() };
        assert_eq!(code(lost(), None), 1);
        let told = ended(lost(), Some(Duration::from_secs(20))).unwrap_err().to_string();
        assert!(told.contains("it answered 20 s ago"), "{told}");
    }

    #[test]
    fn programs_are_told_the_same() {
        let told = as_json(&status());
        assert_eq!((&told["phase"], &told["members"][1]["state"]), (&json!("forming"), &json!("gone")));
        assert_eq!(told["report"]["step"], 12);
        assert_eq!(told["generations"][0]["formed_ms"], 430);
        assert!(told["generations"][0]["stepped_ms"].is_null());
        let hang = &told["notices"][0];
        assert_eq!((&hang["kind"], &hang["operation"]), (&json!("hang"), &json!("all_reduce")));
        assert_eq!((&hang["ranks"], &hang["lasted_ms"]), (&json!([1]), &json!(7500)));
    }
}
