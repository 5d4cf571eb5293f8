//! What is told of a job, event by event.

use super::regroup::{at, attach, exited, surviving};
use super::*;
use crate::chronicle::happening::Recovery;
use crate::chronicle::{Found, Told};
use octrain_proto::PARTED;
use octrain_proto::v1::Arrival;

/// The names of what was told since this was last asked, with their generations.
fn names(w: &mut World) -> Vec<(u64, String)> {
    let name = |what: &Happening| serde_json::to_value(what).unwrap()["event"].as_str().unwrap().to_string();
    std::mem::take(&mut w.told).iter().map(|told| (told.generation, name(&told.what))).collect()
}

fn named(all: &[(u64, &str)]) -> Vec<(u64, String)> {
    all.iter().map(|(generation, name)| (*generation, (*name).to_string())).collect()
}

fn report(header: &Header, generation: u64, step: u64, arrival: Option<Arrival>) -> Event {
    let header = Header { generation, ..header.clone() };
    Event::ReportStep { header, report: StepReport { step, arrival, ..StepReport::default() } }
}

fn recovery(w: &mut World) -> Option<Recovery> {
    std::mem::take(&mut w.told).into_iter().find_map(|told| match told.what {
        Happening::FirstStep(recovery) => Some(recovery),
        _ => None,
    })
}

const ARRIVAL: Option<Arrival> = Some(Arrival { connect_seconds: 0.125, agree_seconds: 0.25 });

/// Three workers that have done ten steps by second 10, and lose the last of them, which was heard at second 10, at second 11.
fn lost() -> (World, Vec<Header>) {
    let (mut w, h) = surviving(3, 1);
    w.now = ms(10_000);
    h.iter().for_each(|header| drop(w.ok(report(header, 1, 10, None))));
    w.told.clear();
    w.now = ms(11_000);
    w.ok(exited(2));
    (w, h)
}

#[test]
fn a_lost_worker_is_told_of_in_order_and_what_it_took_once_all_of_it_is_known() {
    let (mut w, h) = surviving(3, 1);
    let registered = named(&[(1, "worker_registered"); 3]);
    let formed = named(&[(1, "plan_decided"), (1, "generation_formed")]);
    assert_eq!(names(&mut w), [registered, formed].concat());
    w.now = ms(2000);
    w.ok(report(&h[1], 1, 1, None));
    let first = recovery(&mut w).unwrap();
    assert_eq!((first.step, first.total_s, first.abort_s, first.still_s), (1, 2.0, None, None));
    w.ok(report(&h[0], 1, 1, None));
    assert_eq!(names(&mut w), []);

    let (mut w, h) = lost();
    let Happening::WorkerLost { worker, found, detect_s, step, why } = &w.told[0].what else { panic!() };
    assert_eq!((worker.rank, *found, *detect_s, *step), (Some(2), Found::Exited, 1.0, 10));
    contains(why, &["rank 2", "killed by signal 9"]);
    let Happening::GenerationOver { planned: false, ran_s: Some(ran), steps: Some(10), .. } = &w.told[1].what
    else {
        panic!("{:?}", w.told)
    };
    assert_eq!(*ran, 11.0);
    assert_eq!(names(&mut w), named(&[(1, "worker_lost"), (1, "generation_over")]));
    w.now = ms(11_500);
    h[..2].iter().for_each(|header| drop(w.event(attach(header, at(10, 0), Wait::First))));
    let Happening::GenerationFormed { world_size: 2, step: 10, source: Some(0), roster, .. } =
        &w.told[0].what
    else {
        panic!("{:?}", w.told)
    };
    assert_eq!(roster.iter().map(|who| who.rank).collect::<Vec<_>>(), [Some(0), Some(1)]);
    assert_eq!(names(&mut w), named(&[(2, "generation_formed")]));
    w.now = ms(12_500);
    // A heartbeat comes first; what the worker has measured comes with its report.
    let header = Header { generation: 2, ..h[0].clone() };
    w.ok(Event::Heartbeat(
        header,
        Beat { step: 11, collectives: 9, connected: true, leaving: false, ..Beat::default() },
    ));
    assert_eq!(names(&mut w), []);
    w.now = ms(12_600);
    w.ok(report(&h[0], 2, 11, ARRIVAL));
    let want = Recovery {
        step: 11,
        planned: false,
        detect_s: Some(1.0),
        abort_s: Some(0.5),
        reform_s: Some(0.125),
        transfer_s: Some(0.25),
        step_s: Some(0.625),
        total_s: 1.5,
        still_s: Some(2.5),
    };
    assert_eq!(recovery(&mut w), Some(want));
    w.ok(report(&h[1], 2, 11, ARRIVAL));
    assert_eq!(names(&mut w), []);
    for header in &h[..2] {
        let header = Header { generation: 2, ..header.clone() };
        w.ok(Event::Leave { header, interrupted: false, before_plan: false });
    }
    let Some(Happening::JobFinished { interrupted: false, step: 11 }) = w.told.last().map(|told| &told.what)
    else {
        panic!("{:?}", w.told)
    };
    assert_eq!(names(&mut w), named(&[(2, "worker_done"), (2, "worker_done"), (2, "job_finished")]));
}

#[test]
fn what_a_worker_does_not_tell_is_not_awaited_for_ever_nor_believed_whatever_it_is() {
    let (mut w, h) = lost();
    h[..2].iter().for_each(|header| drop(w.event(attach(header, at(10, 0), Wait::First))));
    w.told.clear();
    let nonsense = Arrival { connect_seconds: f64::NAN, agree_seconds: -1.0 };
    w.ok(report(&h[0], 2, 11, Some(nonsense)));
    assert_eq!(recovery(&mut w), None);
    w.now += ms(2000);
    w.ok(report(&h[0], 2, 12, None));
    let told = recovery(&mut w).unwrap();
    assert_eq!((told.step, told.total_s, told.abort_s, told.reform_s), (11, 0.0, Some(0.0), None));
    // A generation that is over before is told of all the same.
    let (mut w, h) = lost();
    h[..2].iter().for_each(|header| drop(w.event(attach(header, at(10, 0), Wait::First))));
    w.ok(report(&h[0], 2, 11, None));
    w.told.clear();
    w.ok(exited(1));
    assert_eq!(names(&mut w)[..3], named(&[(2, "worker_lost"), (2, "first_step"), (2, "generation_over")]));
}

#[test]
fn a_coordinator_that_finds_a_job_ended_tells_the_end_again_and_of_one_that_goes_on_nothing() {
    let (mut w, h) = World::running(1);
    w.told.clear();
    assert_eq!(w.job.ended_before(w.now), []);
    w.ok(report(&h[0], 1, 7, None));
    w.ok(Event::Leave { header: h[0].clone(), interrupted: false, before_plan: false });
    let told = w.job.ended_before(w.now);
    let [Told { what: Happening::JobFinished { interrupted: false, step: 7 }, .. }] = &told[..] else {
        panic!("{told:?}")
    };
}

#[test]
fn what_it_took_to_know_of_a_loss_is_of_that_loss_whoever_was_first_to_say_that_something_broke() {
    let (mut w, h) = surviving(4, 1);
    let detected = |w: &World| {
        let lost = w.told.iter().rev().find_map(|told| match &told.what {
            Happening::WorkerLost { detect_s, .. } => Some(*detect_s),
            _ => None,
        });
        let recovery = w.told.iter().rev().find_map(|told| match &told.what {
            Happening::FirstStep(recovery) => Some(recovery.detect_s),
            _ => None,
        });
        (lost, recovery.unwrap())
    };
    let come = |w: &mut World, to: usize, step: u64| {
        for header in &h[..to] {
            let header = Header { generation: w.job.generation - 1, ..header.clone() };
            w.event(attach(&header, at(step, 0), Wait::First));
        }
    };
    let steps = |w: &mut World, to: usize, step: u64| {
        let generation = w.job.generation;
        for header in &h[..to] {
            w.ok(report(header, generation, step, ARRIVAL));
        }
    };
    steps(&mut w, 4, 1);
    w.now += ms(3000);
    w.ok(exited(3));
    come(&mut w, 3, 1);
    steps(&mut w, 3, 2);
    assert_eq!(detected(&w), (Some(3.0), Some(3.0)));
    w.now += ms(500);
    w.ok(exited(2));
    come(&mut w, 2, 2);
    steps(&mut w, 2, 3);
    assert_eq!(detected(&w), (Some(0.5), Some(0.5)));
    // A survivor says first that something broke.
    w.now += ms(250);
    let header = Header { generation: w.job.generation, ..h[0].clone() };
    w.event(attach(&header, at(3, 0), Wait::First));
    w.now += ms(250);
    w.ok(exited(1));
    steps(&mut w, 1, 4);
    assert_eq!(detected(&w), (Some(0.5), Some(0.5)));
}

#[test]
fn a_worker_that_leaves_ends_a_generation_in_good_order() {
    let (mut w, h) = surviving(3, 1);
    w.ok(report(&h[0], 1, 4, None));
    w.told.clear();
    let leaving = Beat { step: 4, collectives: 1, connected: true, leaving: true, ..Beat::default() };
    for _ in 0..2 {
        w.ok(Event::Heartbeat(h[2].clone(), leaving));
    }
    assert_eq!(names(&mut w), named(&[(1, "worker_draining")]));
    for header in &h {
        let message = format!("all have stopped after step 5, {PARTED}");
        w.event(Event::Attach { header: header.clone(), standing: at(5, 0), message, wait: Wait::First });
    }
    let Happening::GenerationOver { planned: true, steps: Some(5), .. } = &w.told[0].what else {
        panic!("{:?}", w.told)
    };
    let told = named(&[(1, "generation_over"), (2, "worker_drained"), (2, "generation_formed")]);
    assert_eq!(names(&mut w), told);
    w.ok(Event::Resize { workers: 1 });
    assert_eq!(names(&mut w), named(&[(2, "resized")]));
}

#[test]
fn a_job_that_ends_with_any_of_its_workers_names_the_one_that_it_has_lost_and_why_it_failed() {
    let (mut w, h) = World::running(2);
    w.told.clear();
    w.pass(ms(8000), &[&h[0]]);
    let Happening::JobFailed { kind: "worker_lost", culprit: Some(culprit), .. } = &w.told[1].what else {
        panic!("{:?}", w.told)
    };
    assert_eq!(culprit.rank, Some(1));
    let Happening::WorkerLost { found: Found::Silent, detect_s: 5.0, .. } = &w.told[0].what else {
        panic!("{:?}", w.told)
    };
    assert_eq!(names(&mut w), named(&[(1, "worker_lost"), (1, "job_failed")]));
    // One that is gone before the start is forgotten.
    let mut w = World::new(2);
    w.join(request("a", 0));
    w.pass(ms(8000), &[]);
    assert_eq!(names(&mut w), named(&[(1, "worker_registered"), (1, "worker_forgotten")]));
}
