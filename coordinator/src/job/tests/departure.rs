//! Who leaves, and when.

use super::*;

#[test]
fn one_who_leaves_before_the_start_makes_room() {
    let mut w = World::new(2);
    let header = w.join(request("a", 0));
    w.ok(Event::Leave { header, interrupted: true, before_plan: false });
    assert!(w.job.members.is_empty() && w.ended.is_empty());
    // Nobody's configuration binds the next one.
    w.join(RegisterRequest { job: Some(spec_of(json!({"seed": 1}))), ..request("a", 0) });
}

#[test]
fn one_who_leaves_before_its_plan_reached_it_ends_the_job_of_those_who_have_theirs() {
    for (interrupted, kind) in [(true, AbortKind::Shutdown), (false, AbortKind::WorkerLost)] {
        let (mut w, h) = World::running(3);
        w.ok(Event::Leave { header: h[1].clone(), interrupted, before_plan: true });
        let [Outcome::Failed { abort }] = &w.ended[..] else { panic!("{:?}", w.ended) };
        assert_eq!((abort.kind(), abort.culprit), (kind, Some(1)));
        assert!(abort.message.contains("before its plan had reached it"), "{}", abort.message);
        // It has gone; the coordinator stays until the others know.
        assert!(!w.job.drained(w.now, &w.config));
        for other in [&h[0], &h[2]] {
            let told = w.refused(Event::GetPlan { header: other.clone(), wait: Wait::Again });
            assert!(matches!(told, Refusal::Ended(_)), "{told:?}");
        }
    }
}

#[test]
fn those_who_have_left_are_not_missed() {
    let (mut w, h) = World::running(2);
    w.ok(Event::Leave { header: h[0].clone(), interrupted: false, before_plan: false });
    w.pass(ms(20_000), &[&h[1]]);
    assert!(w.ended.is_empty());
    w.ok(Event::Leave { header: h[1].clone(), interrupted: false, before_plan: false });
    assert_eq!(w.ended, [Outcome::Finished { interrupted: false }]);
    assert_eq!(w.refuse(request("a", 0)).kind(), "finished");
}
