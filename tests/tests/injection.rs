//! Real jobs to each of which one fault is done, at a moment that a seed decides, and what must hold all the same.
//! `scripts/chaos.sh` runs many of them and prints a table; in the suite a few are run, of fixed seeds.

#[path = "injection/draw.rs"]
mod draw;
#[path = "injection/faults.rs"]
mod faults;
#[path = "injection/judge.rs"]
mod judge;
#[path = "injection/network.rs"]
mod network;
#[path = "injection/stage.rs"]
mod stage;
#[path = "injection/surroundings.rs"]
mod surroundings;
#[path = "injection/table.rs"]
mod table;
#[path = "injection/writer.rs"]
mod writer;

use draw::Draw;
use faults::{Phase, Seen, Wholes};
use judge::Whole;
use octrain_tests::skipped;
use stage::{LONG, Setup};
use table::Shown;

/// What is done, how often among the others, and in which phases.
struct Kind {
    name: &'static str,
    weight: usize,
    phases: &'static [Phase],
    run: fn(Phase, &mut Draw, &Wholes) -> Seen,
}

/// Steps three times: most of a job's time is spent there, and figures are taken of them.
const OFTEN: &[Phase] = &[
    Phase::Register,
    Phase::Connect,
    Phase::Calibrate,
    Phase::Step,
    Phase::Step,
    Phase::Step,
    Phase::Save,
    Phase::Evaluate,
    Phase::Leave,
];

/// A worker or a launcher that dies before all have registered is not replaced by itself: docs/reliability.md, limits.
const BEGUN: &[Phase] = OFTEN.split_at(1).1;

const KINDS: &[Kind] = &[
    Kind { name: "worker-kill", weight: 5, phases: BEGUN, run: faults::worker_kill },
    Kind { name: "worker-stop", weight: 3, phases: OFTEN, run: faults::worker_stop },
    Kind { name: "coordinator-kill", weight: 3, phases: OFTEN, run: faults::coordinator_kill },
    Kind { name: "coordinator-stop", weight: 1, phases: &faults::ALL, run: faults::coordinator_stop },
    Kind { name: "launcher-kill", weight: 1, phases: BEGUN, run: faults::launcher_kill },
    Kind { name: "launcher-stop", weight: 1, phases: &faults::ALL, run: faults::launcher_stop },
    Kind {
        name: "same-workers",
        weight: 1,
        phases: &[Phase::Step],
        run: |_, d, w| faults::same_workers(d, w),
    },
    Kind {
        name: "disk-full",
        weight: 1,
        phases: &[Phase::Step],
        run: |_, d, w| surroundings::disk_full(d, w),
    },
    Kind { name: "link", weight: 2, phases: &[Phase::Step], run: |_, d, w| surroundings::link(d, w) },
];

/// Why a kind cannot be run here.
fn missing(kind: &Kind) -> Option<String> {
    match kind.name {
        "disk-full" => surroundings::no_disk(),
        "link" => network::missing(),
        _ => None,
    }
}

/// One run of what the seed decides.
fn one(kind: &Kind, seed: u64, wholes: &Wholes) -> Shown {
    let mut draw = Draw::new(seed);
    let phase = draw.one_of(kind.phases);
    let Seen { figures, outcome } = (kind.run)(phase, &mut draw, wholes);
    let shown = Shown {
        kind: kind.name,
        phase: format!("{phase:?}").to_lowercase(),
        seed,
        figures,
        wrong: outcome.err(),
    };
    shown.tell();
    shown
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`, not a number")))
}

/// Which kind a seed is of.
fn kind_of(seed: u64, kinds: &[&'static Kind]) -> &'static Kind {
    let turns: Vec<&'static Kind> = kinds.iter().flat_map(|k| std::iter::repeat_n(*k, k.weight)).collect();
    turns[(seed.wrapping_mul(7) % turns.len() as u64) as usize]
}

#[test]
fn whatever_is_done_to_a_process_no_step_is_lost_and_the_job_ends_as_it_should() {
    let only = std::env::var("OCTRAIN_CHAOS_ONLY").ok();
    let kinds: Vec<&Kind> =
        KINDS.iter().filter(|k| only.as_deref().is_none_or(|only| only == k.name)).collect();
    let (kinds, left_out): (Vec<&Kind>, Vec<&Kind>) = kinds.into_iter().partition(|k| missing(k).is_none());
    left_out.into_iter().filter_map(missing).for_each(|why| skipped(&why));
    if kinds.is_empty() {
        return;
    }
    let (runs, first) =
        (number("OCTRAIN_CHAOS_RUNS").unwrap_or(3), number("OCTRAIN_CHAOS_SEED").unwrap_or(0));
    let wholes = Wholes::default();
    let mut all = Vec::new();
    for seed in first..first + runs {
        all.push(one(kind_of(seed, &kinds), seed, &wholes));
    }
    assert_eq!(table::table(&all), 0, "{}", wrong(&all));
}

/// What did not hold, and all that was said in those runs.
fn wrong(all: &[Shown]) -> String {
    let wrong = all
        .iter()
        .filter_map(|s| s.wrong.as_ref().map(|w| format!("{} {} seed {}: {w}", s.kind, s.phase, s.seed)));
    wrong.collect::<Vec<_>>().join("\n\n")
}

/// Nothing is done to these jobs: what it costs that they could lose a worker. Run in turns, as the machine has other work.
#[test]
fn a_step_costs_no_more_where_the_job_could_go_on_without_a_worker() {
    const KIND: &str = "overhead";
    let Some(pairs) = number("OCTRAIN_CHAOS_PAIRS") else { return };
    if std::env::var("OCTRAIN_CHAOS_ONLY").is_ok_and(|only| only != KIND) {
        return;
    }
    let step = |min_world| {
        let whole = Whole::of(Setup { min_world, steps: LONG, ..Setup::usual() });
        whole.unwrap_or_else(|e| panic!("{e}")).median
    };
    let mut all = Vec::new();
    for pair in 0..pairs {
        let (none, minimum) = (step(Setup::usual().nproc), step(Setup::usual().min_world));
        let figures =
            vec![("step without a minimum", none), ("step with one", minimum), ("ratio", minimum / none)];
        let shown = Shown { kind: KIND, phase: "whole job".into(), seed: pair, figures, wrong: None };
        shown.tell();
        all.push(shown);
    }
    table::table(&all);
}

#[test]
fn a_checkpoint_can_be_loaded_wherever_its_writer_is_killed() {
    const KIND: &str = "checkpoint-kill";
    if std::env::var("OCTRAIN_CHAOS_ONLY").is_ok_and(|only| only != KIND) {
        return;
    }
    if let Some(why) = writer::missing() {
        return skipped(&why);
    }
    let (runs, first) =
        (number("OCTRAIN_CHAOS_KILLS").unwrap_or(6), number("OCTRAIN_CHAOS_SEED").unwrap_or(0));
    let begun = writer::Begun::new();
    let mut all = Vec::new();
    for seed in first..first + runs {
        let (phase, Seen { figures, outcome }) = writer::kill(&mut Draw::new(seed), &begun);
        let shown = Shown { kind: KIND, phase, seed, figures, wrong: outcome.err() };
        shown.tell();
        all.push(shown);
    }
    assert_eq!(table::table(&all), 0, "{}", wrong(&all));
    // A call that another thread makes, or of which a run needs one less, is not met.
    let killed: f64 = all.iter().flat_map(|s| &s.figures).map(|(_, n)| n).sum();
    assert!(killed * 2.0 > runs as f64, "only {killed} of {runs} were killed");
}
