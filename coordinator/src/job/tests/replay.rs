//! A coordinator that is started anew: the job that follows from its journal, wherever it was.

use super::*;
use crate::job::replay::{ReplayError, Replayed, replay, run};
use crate::journal::Record;

/// A job and what its journal holds.
struct Kept {
    world: World,
    records: Vec<Record>,
}

impl Kept {
    fn new(world_size: u32, min_world: u32) -> Self {
        let mut world = World::new(world_size);
        world.config = world.config.clone().with_min_world(min_world);
        world.job = Job::new(&world.config, 7);
        let records = vec![Record::Run(run(&world.config, 9)), Record::Term(1)];
        Self { world, records }
    }

    fn event(&mut self, event: Event) -> Answer {
        let w = &mut self.world;
        let step = step(w.now, w.job.clone(), &w.config, event);
        w.job = step.job;
        self.records.extend(step.records);
        step.answer
    }

    fn join(&mut self, local_index: u32) -> Header {
        match self.event(Event::Register(Box::new(request("a", local_index)))) {
            Answer::Reply(Reply::Registered(r)) => {
                Header { job_id: r.job_id, generation: r.generation, member: r.member }
            }
            other => panic!("{other:?}"),
        }
    }

    fn running(world_size: u32, min_world: u32) -> (Self, Vec<Header>) {
        let mut kept = Self::new(world_size, min_world);
        let headers = (0..world_size).map(|i| kept.join(i)).collect();
        (kept, headers)
    }

    fn beat(&mut self, header: &Header, step: u64) -> Heard {
        let beat = Event::Heartbeat(
            header.clone(),
            Beat { step, collectives: 0, connected: true, leaving: false, ..Beat::default() },
        );
        match self.event(beat) {
            Answer::Reply(Reply::Heartbeat(heard)) => *heard,
            other => panic!("{other:?}"),
        }
    }

    fn attach(&mut self, header: &Header, step: u64) -> Answer {
        let standing = Some(Standing { step, stage: 0 });
        let message = "it broke".into();
        self.event(Event::Attach { header: header.clone(), standing, message, wait: Wait::First })
    }

    fn store(&mut self, header: &Header) -> Answer {
        self.event(Event::StoreSet { header: header.clone(), key: "k".into(), value: b"v".to_vec() })
    }

    /// Another coordinator begins.
    fn again(&mut self) {
        let Replayed { job, run, term } = replay(&self.world.config, 8, &self.records).unwrap();
        assert_eq!(run, 9);
        self.records.push(Record::Term(term + 1));
        self.world.job = job;
        self.world.now = Now::ZERO;
    }

    fn pass(&mut self, by: Duration) {
        let until = self.world.now + by;
        while self.world.now < until {
            self.world.now += ms(500);
            self.event(Event::Tick);
        }
    }
}

#[test]
fn a_job_that_runs_goes_on_in_its_generation_and_ends_well() {
    let (mut kept, headers) = Kept::running(2, 2);
    headers.iter().for_each(|h| drop(kept.beat(h, 5)));
    kept.again();
    assert!(matches!(kept.world.job.phase, Phase::Running { .. }));
    // Nobody is lost for what a coordinator that was not there did not hear.
    kept.pass(Duration::from_secs(20));
    for h in &headers {
        assert_eq!(kept.beat(h, 7), Heard::default());
    }
    assert_eq!(
        kept.world.job.members.values().map(|m| (m.rank, m.step)).collect::<Vec<_>>(),
        [(Some(0), 7), (Some(1), 7)]
    );
    let leave = |h: &Header| Event::Leave { header: h.clone(), interrupted: false, before_plan: false };
    kept.event(leave(&headers[0]));
    // One that was done is not missed.
    kept.again();
    kept.event(leave(&headers[1]));
    assert_eq!(kept.world.job.outcome(), Some(Outcome::Finished { interrupted: false }));
    kept.again();
    assert_eq!(kept.world.job.outcome(), Some(Outcome::Finished { interrupted: false }));
    kept.records.push(Record::Closed(true));
    let over = replay(&kept.world.config, 8, &kept.records).unwrap_err();
    assert!(matches!(&over, ReplayError::Ended(how) if how.contains("done")), "{over}");
}

#[test]
fn one_that_is_not_heard_again_is_lost_in_time() {
    let (mut kept, headers) = Kept::running(3, 2);
    kept.again();
    for _ in 0..60 {
        kept.pass(ms(500));
        headers[..2].iter().for_each(|h| drop(kept.beat(h, 1)));
    }
    let h = &headers[0];
    assert!(kept.beat(h, 1).regroup.is_some());
    kept.attach(h, 4);
    let Answer::Reply(Reply::Attached(Some(formed), _)) = kept.attach(&headers[1], 4) else { panic!() };
    assert_eq!((formed.number, formed.roster.len(), formed.source), (2, 2, Some(0)));
}

#[test]
fn those_who_gather_need_not_register_again() {
    let mut kept = Kept::new(3, 3);
    let first = kept.join(0);
    let second = kept.join(1);
    // It was forgotten, and another one has its place.
    kept.event(Event::Leave { header: second, interrupted: false, before_plan: true });
    kept.again();
    assert_eq!(kept.world.job.phase, Phase::Gathering);
    // Its answer was lost: the same process asks again.
    assert_eq!(kept.join(0).member, first.member);
    let second = kept.join(1);
    assert_ne!(second.member, first.member);
    kept.join(2);
    assert!(matches!(kept.world.job.phase, Phase::Running { .. }));
    let hash = kept.world.job.plan.as_ref().unwrap().sha256.clone();
    kept.again();
    assert_eq!(kept.world.job.plan.as_ref().unwrap().sha256, hash, "the plan is that of the run");
    assert!(matches!(kept.event(Event::GetPlan { header: first, wait: Wait::First }), Answer::Reply(_)));
}

#[test]
fn a_generation_that_is_being_formed_is_formed_anew() {
    // Some had connected: what they need of the others is lost.
    let (mut kept, headers) = Kept::running(2, 1);
    assert!(matches!(kept.store(&headers[0]), Answer::Reply(Reply::Done)));
    kept.again();
    assert!(matches!(kept.store(&headers[1]), Answer::Refuse(Refusal::Stale { .. })));
    assert_eq!(kept.world.job.generation, 2);
    headers.iter().for_each(|h| drop(kept.attach(h, 0)));
    assert!(matches!(&kept.world.job.phase, Phase::Running { formed, .. } if formed.number == 2));
    // In a store of its own.
    kept.again();
    let second = |h: &Header| Header { generation: 2, ..h.clone() };
    assert!(matches!(kept.store(&second(&headers[1])), Answer::Reply(Reply::Done)));
    // A stranger, or one of an earlier generation, ends nothing.
    kept.again();
    assert!(matches!(kept.store(&headers[0]), Answer::Refuse(Refusal::Stale { ours: 2, .. })));
    let stranger = Header { member: "7-1".into(), ..second(&headers[0]) };
    assert!(matches!(kept.store(&stranger), Answer::Refuse(Refusal::Unknown { .. })));
    // All had connected: nobody asks.
    headers.iter().for_each(|h| drop(kept.beat(&second(h), 3)));
    assert_eq!(kept.world.job.generation, 2);
    assert!(kept.world.job.is_connected());
}

#[test]
fn a_job_that_has_one_generation_ends_where_that_cannot_be_connected_any_more() {
    let (mut kept, headers) = Kept::running(2, 2);
    kept.store(&headers[0]);
    kept.again();
    assert!(matches!(kept.store(&headers[1]), Answer::Refuse(Refusal::Ended(_))));
    let Some(Outcome::Failed { abort }) = kept.world.job.outcome() else { panic!() };
    assert_eq!(abort.kind(), AbortKind::External);
    contains(&abort.message, &["started anew", "start the job again"]);
    // Whoever did not hear of it hears of it from the next one.
    kept.again();
    assert_eq!(kept.beat(&headers[0], 0).abort, Some(abort));
}

#[test]
fn one_that_was_given_up_stays_so_and_the_others_form_without_it() {
    let (mut kept, headers) = Kept::running(3, 1);
    headers.iter().for_each(|h| drop(kept.beat(h, 5)));
    let exited = ExitedRequest {
        job_id: "octrain".into(),
        host: "a".into(),
        local_index: 2,
        pid: 1,
        status: "was killed".into(),
        token: "of a/2".into(),
        ..ExitedRequest::default()
    };
    // Before the others were told, and with them on their way.
    kept.event(Event::Exited(Box::new(exited)));
    kept.again();
    assert!(matches!(kept.world.job.phase, Phase::Reforming { .. }));
    assert_eq!(kept.world.job.generation, 2);
    kept.attach(&headers[0], 5);
    kept.again();
    let dropped = kept.beat(&headers[2], 5).abort.unwrap();
    assert_eq!(dropped.kind(), AbortKind::Dropped);
    assert!(kept.beat(&headers[0], 5).regroup.is_some() && kept.beat(&headers[1], 5).regroup.is_some());
    kept.attach(&headers[1], 6);
    assert!(matches!(kept.attach(&headers[0], 5), Answer::Reply(Reply::Attached(Some(_), _))));
    // One comes in its place: known before it is let in, and untried after.
    let other = RegisterRequest { nonce: "another".into(), token: "its own".into(), ..request("a", 2) };
    let Answer::Reply(Reply::Registered(r)) = kept.event(Event::Register(Box::new(other))) else { panic!() };
    kept.again();
    let joins = Header { job_id: r.job_id, generation: r.generation, member: r.member };
    assert!(kept.world.job.members[&joins.member].joins);
    let ready =
        Event::Attach { header: joins.clone(), standing: None, message: String::new(), wait: Wait::First };
    assert!(matches!(kept.event(ready), Answer::Park));
    let second = |h: &Header| Header { generation: 2, ..h.clone() };
    assert!(kept.beat(&second(&headers[0]), 8).boundary_wanted);
    headers[..2].iter().for_each(|h| drop(kept.attach(&second(h), 8)));
    kept.again();
    let member = &kept.world.job.members[&joins.member];
    assert_eq!((member.joins, member.untried, member.tries, member.generation), (false, true, 1, 3));
    kept.beat(&Header { generation: 3, ..joins.clone() }, 9);
    assert!(!kept.world.job.members[&joins.member].untried);
    // That it has the state is known to the next one as well, whether or not it is heard, and in the generations after.
    kept.again();
    assert!(!kept.world.job.members[&joins.member].untried);
    let third = |h: &Header| Header { generation: 3, ..h.clone() };
    [third(&headers[0]), third(&headers[1]), third(&joins)].iter().for_each(|h| drop(kept.attach(h, 9)));
    kept.again();
    let member = &kept.world.job.members[&joins.member];
    assert_eq!((member.untried, member.tries, member.generation), (false, 1, 4));
    kept.event(Event::Shutdown { why: "SIGTERM".into() });
    let mut alone = kept.records.clone();
    alone.retain(|r| !matches!(r, Record::Tried(_)));
    assert_eq!(alone.len() + 1, kept.records.len(), "kept once");
}

#[test]
fn another_jobs_journal_or_one_begun_otherwise_is_refused_with_what_differs() {
    let (kept, _) = Kept::running(2, 2);
    let config = kept.world.config.clone();
    for (other, flag) in [
        (
            CoordinatorConfig { job_id: "other".into(), ..config.clone() },
            "--job-id was octrain, and is other",
        ),
        (CoordinatorConfig { generation: 2, ..config.clone() }, "--generation was 1, and is 2"),
        (CoordinatorConfig { world_size: 3, ..config.clone() }, "--world-size was 2, and is 3"),
        (config.clone().with_min_world(1), "--min-world was 2, and is 1"),
        (
            config.clone().with_heartbeat_timeout(Duration::from_secs(9)),
            "--heartbeat-timeout was 5, and is 9",
        ),
    ] {
        let e = replay(&other, 8, &kept.records).unwrap_err();
        assert!(e.to_string().contains(flag), "{flag} in: {e}");
    }
    // Another address, and other times, are the coordinator's own.
    let own = CoordinatorConfig {
        listen: "10.0.0.1:1".into(),
        register_timeout: Duration::from_secs(9),
        ..config.clone()
    };
    assert!(replay(&own, 8, &kept.records).is_ok());
}

#[test]
fn records_that_no_coordinator_has_written_in_this_order_are_an_error_and_no_panic() {
    let (mut kept, headers) = Kept::running(3, 1);
    kept.beat(&headers[0], 2);
    headers.iter().for_each(|h| drop(kept.attach(h, 2)));
    kept.event(Event::Leave { header: headers[1].clone(), interrupted: true, before_plan: false });
    kept.event(Event::Shutdown { why: "SIGTERM".into() });
    let (config, all) = (&kept.world.config, &kept.records);
    assert!(all.len() > 8, "{}", all.len());
    let replayed = |records: &[Record]| replay(config, 8, records);
    for end in 2..=all.len() {
        assert!(replayed(&all[..end]).is_ok(), "it may end anywhere");
    }
    assert!(replayed(&[]).is_err() && replayed(&all[1..]).is_err() && replayed(&all[..1]).is_err());
    for i in 0..all.len() {
        let mut without = all.clone();
        without.remove(i);
        let _ = replayed(&without);
        for j in 0..all.len() {
            let mut swapped = all.clone();
            swapped.swap(i, j);
            let _ = replayed(&swapped);
        }
    }
    let Some(generation) = all.iter().position(|r| matches!(r, Record::Generation(_))) else { panic!() };
    let mut without = all.clone();
    without.remove(generation - 1);
    assert!(matches!(replayed(&without), Err(ReplayError::Senseless { .. })), "without its plan");
}

#[test]
fn a_failed_collective_is_known_to_the_next_one_which_awaits_its_root_cause() {
    let (mut kept, headers) = Kept::running(3, 3);
    headers.iter().for_each(|h| drop(kept.beat(h, 5)));
    let report =
        |h: &Header, kind| Event::ReportFailure { header: h.clone(), message: "it broke".into(), kind };
    kept.event(report(&headers[1], FailureKind::Communication));
    kept.event(report(&headers[1], FailureKind::Communication));
    kept.event(report(&headers[0], FailureKind::Waited));
    let told = kept.records.iter().filter(|r| matches!(r, Record::Suspected(_))).count();
    assert_eq!(told, 2, "what changes nothing is not kept");
    kept.again();
    let Phase::Running { suspicion: Some(s), .. } = &kept.world.job.phase else { panic!() };
    assert_eq!((&s.member, s.waited, s.until), (&headers[0].member, true, Duration::from_secs(30)));
    assert!(kept.world.job.members[&headers[1].member].failed);
    // The others need not come; the one that is to blame is not heard.
    kept.pass(Duration::from_secs(31));
    let Some(Outcome::Failed { abort }) = kept.world.job.outcome() else { panic!() };
    assert_eq!((abort.kind(), abort.culprit), (AbortKind::WorkerLost, Some(2)), "{}", abort.message);
    contains(&abort.message, &["no heartbeat", "rank 0", "waited in vain: it broke"]);
}

#[test]
fn all_that_have_yet_to_be_heard_can_hear_of_an_end() {
    let (mut kept, headers) = Kept::running(2, 2);
    headers.iter().for_each(|h| drop(kept.beat(h, 5)));
    kept.event(Event::Shutdown { why: "SIGTERM".into() });
    kept.again();
    let drained = |kept: &Kept| kept.world.job.drained(kept.world.now, &kept.world.config);
    // Longer than the ordinary linger.
    kept.pass(Duration::from_secs(29));
    assert!(kept.beat(&headers[0], 5).abort.is_some() && !drained(&kept));
    let mut late = Kept { world: kept.world.clone(), records: kept.records.clone() };
    assert!(late.beat(&headers[1], 5).abort.is_some() && drained(&late), "all know");
    kept.pass(Duration::from_secs(1));
    assert!(drained(&kept), "one that is gone as well is not waited for any longer");
    // So where it ends only now.
    let (mut kept, headers) = Kept::running(2, 2);
    kept.again();
    let (header, kind) = (headers[0].clone(), FailureKind::Own);
    kept.event(Event::ReportFailure { header, message: "a defect".into(), kind });
    kept.pass(Duration::from_secs(29));
    assert!(kept.world.job.outcome().is_some() && !drained(&kept));
    kept.pass(Duration::from_secs(1));
    assert!(drained(&kept));
}

#[test]
fn without_a_minimum_who_died_meanwhile_is_blamed_and_nobody_who_fell_over_it() {
    let echo = |h: &Header| Event::ReportFailure {
        header: h.clone(),
        message: "all-reduce: peer closed".into(),
        kind: FailureKind::Communication,
    };
    let blamed = |kept: &Kept| {
        let abort = kept.world.abort();
        assert_eq!((abort.kind(), abort.culprit), (AbortKind::WorkerLost, Some(0)), "{}", abort.message);
        abort.message
    };
    // Its launcher has seen it.
    let (mut kept, headers) = Kept::running(3, 3);
    kept.again();
    kept.event(echo(&headers[1]));
    kept.event(super::regroup::exited(0));
    contains(&blamed(&kept), &["its launcher saw", "peer closed"]);
    // Nobody has, as its host is gone: it is missed once its time to be heard is over, and not before.
    let (mut kept, headers) = Kept::running(3, 3);
    kept.again();
    kept.event(echo(&headers[1]));
    kept.event(echo(&headers[2]));
    kept.pass(Duration::from_secs(29));
    assert_eq!(kept.world.job.outcome(), None);
    kept.pass(Duration::from_secs(2));
    contains(&blamed(&kept), &["no heartbeat", "peer closed"]);
    // From then on a launcher's word is no part of it, as where no coordinator had died.
    let (mut kept, headers) = Kept::running(3, 3);
    kept.again();
    for _ in 0..62 {
        kept.pass(ms(500));
        headers.iter().for_each(|h| drop(kept.beat(h, 1)));
    }
    assert!(matches!(kept.event(super::regroup::exited(0)), Answer::Reply(Reply::GoesOn(false))));
    assert_eq!(kept.world.job.outcome(), None);
}

#[test]
fn who_has_left_and_how_many_are_wanted_are_kept_and_who_leaves_says_so_again() {
    let (mut kept, h) = Kept::running(4, 2);
    let leaving = |header: &Header| {
        Event::Heartbeat(header.clone(), Beat { step: 4, leaving: true, ..Beat::default() })
    };
    kept.event(leaving(&h[0]));
    kept.event(Event::Resize { workers: 2 });
    kept.again();
    // The one that was asked has yet to say so again; until then the highest ranks are those who leave.
    kept.event(leaving(&h[0]));
    for header in &h {
        kept.attach(header, 5);
    }
    assert_eq!(kept.attach(&h[0], 5), Answer::Reply(Reply::Drained));
    kept.again();
    let job = &kept.world.job;
    assert_eq!(job.members.values().filter(|m| m.lives()).count(), 2);
    assert_eq!((job.generation, job.wanted), (2, Some(2)));
    assert_eq!(kept.attach(&h[3], 5), Answer::Reply(Reply::Drained));
    assert!(matches!(kept.attach(&h[1], 5), Answer::Reply(Reply::Attached(Some(_), _))));
    // Whoever was asked to stop is not wanted again, and whoever made room is once there is some.
    kept.event(Event::Resize { workers: 4 });
    let told = |kept: &mut Kept, index| kept.event(super::regroup::exited(index));
    assert_eq!(told(&mut kept, 0), Answer::Reply(Reply::GoesOn(true)));
    assert_eq!(told(&mut kept, 3), Answer::Reply(Reply::Vacant { recalled: true }));
}
