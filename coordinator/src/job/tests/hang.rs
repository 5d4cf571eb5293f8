//! Who is said to hang, and when: workers that beat, and where they say that they are.

use super::regroup::{at as standing, attach, exited, surviving};
use super::*;
use octrain_proto::v1::{Activity, Notice, NoticeKind, Operation, Whereabouts};

/// A worker's place: its step, collectives it has entered, whether it waits in the last one, and what it does.
#[derive(Clone, Copy)]
struct At(u64, u64, bool, Activity);

fn beats(w: &mut World, h: &[Header], places: &[At]) -> Vec<String> {
    let mut told = Vec::new();
    for (header, At(step, collectives, waits, activity)) in h.iter().zip(places) {
        let generation = w.job.generation;
        let operation = Operation::AllReduce.into();
        let at = Whereabouts {
            activity: (*activity).into(),
            operation,
            bytes: 64,
            waits: *waits,
            ..Default::default()
        };
        let beat = Beat { step: *step, collectives: *collectives, connected: true, at, ..Beat::default() };
        let header = Header { generation, ..header.clone() };
        match w.ok(Event::Heartbeat(header, beat)) {
            Reply::Heartbeat(heard) => told.push(heard.hang.map_or_else(String::new, |t| t.to_string())),
            other => panic!("{other:?}"),
        }
    }
    told
}

/// Lets so many seconds pass in which the workers are where they are. What the coordinator says, and when.
fn stay(w: &mut World, h: &[Header], places: &[At], seconds: u64) -> Vec<(Now, String)> {
    let (begun, mut said) = (w.now, Vec::new());
    while w.now < begun + Duration::from_secs(seconds) {
        beats(w, h, places);
        for _ in 0..10 {
            w.now += ms(100);
            let step = step(w.now, w.job.clone(), &w.config, Event::Tick);
            w.job = step.job;
            said.extend(step.reason.map(|reason| (w.now - begun, reason)));
        }
    }
    said
}

/// Three steps are done, a second each.
fn three_steps(w: &mut World, h: &[Header]) {
    for step in 1..=3 {
        let done = vec![At(step, 2 + 4 * step, false, Activity::Step); h.len()];
        assert_eq!(stay(w, h, &done, 1), []);
    }
}

fn notices(w: &World) -> Vec<Notice> {
    w.job.notices(w.now)
}

use Activity::{Data, Evaluating, Preparing, Saving, Step as InStep};

#[test]
fn one_that_does_not_come_is_named_within_ten_seconds_with_what_it_does_and_who_waits_and_once() {
    let (mut w, h) = World::running(3);
    three_steps(&mut w, &h);
    let hung = [At(3, 15, true, InStep), At(3, 14, false, Data), At(3, 15, true, InStep)];
    let said = stay(&mut w, &h, &hung, 30);
    let [(when, text)] = &said[..] else { panic!("{said:?}") };
    assert!(*when > ms(5900) && *when < ms(7000), "{when:?}");
    for part in [
        "no progress for 6.",
        "all_reduce 15 (64 bytes) is not entered by rank 1 (host a, local index 1, ",
        "last step 3), which waits for the images of its next step",
        "in it wait ranks 0 and 2",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(beats(&mut w, &h, &hung), vec![text.clone(); 3], "the workers are told as long as it goes on");
    let told = notices(&w).remove(0);
    assert_eq!((told.kind(), told.generation, told.operation()), (NoticeKind::Hang, 1, Operation::AllReduce));
    assert_eq!((told.ranks, told.waiting, told.number, told.bytes), (vec![1], vec![0, 2], 15, 64));
    assert_eq!((told.lasted_ms, told.ago_ms), (None, 30_000));

    let on = [At(4, 18, false, InStep); 3];
    let said = stay(&mut w, &h, &on, 2);
    let [(_, text)] = &said[..] else { panic!("{said:?}") };
    assert_eq!(text, "the hang in all_reduce 15 (64 bytes) is over after 30.0 s");
    assert_eq!(notices(&w)[0].lasted_ms, Some(30_000));
    assert_eq!(beats(&mut w, &h, &on), ["", "", ""]);
    assert!(matches!(w.job.phase, Phase::Running { .. }) && w.ended.is_empty(), "nobody is punished");
    // What was a hang does not make the next one come later.
    let hung = [At(4, 19, true, InStep), At(4, 18, false, InStep), At(4, 18, false, InStep)];
    let said = stay(&mut w, &h, &hung, 8);
    let [(when, text)] = &said[..] else { panic!("{said:?}") };
    assert!(*when < ms(7000) && text.contains("; rank 2 (") && text.contains("in it waits rank 0"), "{text}");
}

#[test]
fn steps_that_take_long_are_no_hang_and_neither_is_work_that_nobody_waits_for() {
    let (mut w, h) = World::running(2);
    // The first one, in which kernels are compiled, has a minute, and says nothing of those behind it.
    let waits = |step, n| [At(step, n, true, InStep), At(step, n - 1, false, InStep)];
    assert_eq!(stay(&mut w, &h, &waits(0, 3), 50), []);
    let mut n = 3;
    for step in 1..=4 {
        n += 4;
        assert_eq!(stay(&mut w, &h, &waits(step, n), 5), [], "step {step}");
    }
    // Of 5 s each: 15 s are one that takes long.
    n += 4;
    assert_eq!(stay(&mut w, &h, &waits(5, n), 14), []);
    assert_eq!(stay(&mut w, &h, &[At(6, n + 1, false, InStep); 2], 100), [], "both compute");
}

#[test]
fn what_may_take_long_has_a_minute_and_is_named_as_such() {
    for (activity, words) in [
        (Saving, "saves a checkpoint, which may take long"),
        (Evaluating, "evaluates, which may take long"),
        (Preparing, "prepares, which may take long"),
    ] {
        let (mut w, h) = World::running(2);
        three_steps(&mut w, &h);
        let place = [At(3, 14, false, activity), At(3, 15, true, InStep)];
        assert_eq!(stay(&mut w, &h, &place, 40), []);
        let done = [At(4, 18, false, InStep); 2];
        stay(&mut w, &h, &done, 1);
        // It took 40 s: 120 s is what it may take from now on.
        let again = [At(4, 18, false, activity), At(4, 19, true, InStep)];
        assert_eq!(stay(&mut w, &h, &again, 115), []);
        let said = stay(&mut w, &h, &again, 10);
        assert!(said.len() == 1 && said[0].1.contains(words), "{said:?}");
        assert!(said[0].1.contains("rank 0 (") && said[0].1.contains("in it waits rank 1"), "{said:?}");
        // Nor has it become harder to see that steps hang.
        stay(&mut w, &h, &[At(5, 22, false, InStep); 2], 1);
        assert_eq!(stay(&mut w, &h, &[At(5, 23, true, InStep), At(5, 22, false, InStep)], 8).len(), 1);
        // What was told and came to an end is not told again each time, and five minutes are the most that is waited.
        stay(&mut w, &h, &[At(6, 26, false, InStep); 2], 1);
        let more = [At(6, 26, false, activity), At(6, 27, true, InStep)];
        assert_eq!(stay(&mut w, &h, &more, 295), []);
        assert_eq!(stay(&mut w, &h, &more, 10).len(), 1);
    }
}

#[test]
fn where_all_have_entered_and_none_comes_out_nobody_is_named() {
    let (mut w, h) = World::running(2);
    three_steps(&mut w, &h);
    let said = stay(&mut w, &h, &[At(3, 15, true, InStep); 2], 10);
    let [(_, text)] = &said[..] else { panic!("{said:?}") };
    assert!(text.contains("all workers have entered all_reduce 15 (64 bytes)"), "{text}");
    let told = notices(&w).remove(0);
    assert_eq!((told.ranks, told.waiting), (vec![], vec![0, 1]));
}

#[test]
fn one_that_is_silent_does_not_hang() {
    let (mut w, h) = World::running(3);
    w.config = w.config.clone().with_heartbeat_timeout(Duration::from_secs(60));
    w.config.heartbeat_interval = Duration::from_secs(1);
    three_steps(&mut w, &h);
    let place = [At(3, 15, true, InStep), At(3, 15, true, InStep), At(3, 14, false, InStep)];
    beats(&mut w, &h, &place);
    assert_eq!(stay(&mut w, &h[..2], &place, 20), []);
}

#[test]
fn a_hang_ends_with_its_generation_and_the_next_one_begins_anew() {
    let (mut w, h) = surviving(3, 2);
    three_steps(&mut w, &h);
    let hung = [At(3, 15, true, InStep), At(3, 15, true, InStep), At(3, 14, false, InStep)];
    assert_eq!(stay(&mut w, &h, &hung, 8).len(), 1);
    w.ok(exited(0));
    let said = stay(&mut w, &[], &[], 1);
    assert!(
        said.len() == 1 && said[0].1.contains("is over after 8.") && said[0].1.contains("generation"),
        "{said:?}"
    );
    for header in &h[1..] {
        w.event(attach(header, standing(3, 0), Wait::First));
    }
    assert_eq!(w.job.generation, 2);
    // Its first step has a minute again, whatever was entered in the last one.
    let first = [At(3, 1, true, InStep), At(3, 0, false, InStep)];
    assert_eq!(stay(&mut w, &h[1..], &first, 50), []);
}
