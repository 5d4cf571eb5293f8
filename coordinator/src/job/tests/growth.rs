//! A job that may have more workers than it begins with.

use super::join::{heard, joining};
use super::regroup::{at, attach};
use super::*;

/// A job that begins with two workers, goes on with one, and may have so many.
fn growing(most: u32) -> (World, Vec<Header>) {
    let mut w = World::new(2);
    w.config = w.config.clone().with_min_world(1).with_max_world(most);
    w.job = Job::new(&w.config, 7);
    let headers = (0..2).map(|i| w.join(request("a", i))).collect();
    (w, headers)
}

#[test]
fn a_job_that_may_grow_lets_in_who_comes_up_to_its_most_and_is_resized_within_it() {
    let (mut w, mut h) = growing(4);
    assert!(matches!(w.job.phase, Phase::Running { .. }), "it begins with what it begins with");
    for local_index in 2..4 {
        let new = w.join(request("a", local_index));
        w.event(joining(&new, Wait::First));
        assert!(heard(&mut w, &h[0], 1).0, "a boundary is wanted for it");
        h.iter().for_each(|header| drop(w.event(attach(header, at(1, 0), Wait::First))));
        h.push(new);
        h.iter_mut().for_each(|header| header.generation = w.job.generation);
        let Phase::Running { formed, .. } = &w.job.phase else { panic!("{:?}", w.job.phase) };
        assert_eq!((formed.roster.len(), &formed.joined), (h.len(), &vec![local_index]));
        h.iter().for_each(|header| assert!(!heard(&mut w, header, u64::from(local_index)).1));
    }
    assert!(matches!(w.refuse(request("a", 4)), Refusal::Full { world: 4, .. }));
    let refused = w.refused(Event::Resize { workers: 5 });
    contains(&refused.to_string(), &["--max-world", "from 1 to 4"]);
    // Fewer are wanted: the one that came last has the highest rank.
    let Reply::Resized(told) = w.ok(Event::Resize { workers: 3 }) else { panic!() };
    contains(&told, &["rank 3", "local index 3"]);
    assert!(matches!(w.refuse(request("b", 0)), Refusal::Full { world: 3, .. }));
    w.ok(Event::Resize { workers: 4 });
}

#[test]
fn a_job_cannot_have_more_workers_than_a_step_has_pieces() {
    // Four for each worker at the start.
    let (w, _) = growing(8);
    assert_eq!(w.job.plan.as_ref().map(|plan| plan.microbatches), Some(8));
    let (w, _) = {
        let mut w = World::new(2);
        w.config = w.config.clone().with_min_world(1).with_max_world(9);
        w.job = Job::new(&w.config, 7);
        w.join(request("a", 0));
        let last = w.event(Event::Register(Box::new(request("a", 1))));
        (w, last)
    };
    assert_eq!(w.abort().kind(), AbortKind::Configuration);
    contains(&w.abort().message, &["--max-world is 9", "8 microbatches", "give at most 8"]);
}
