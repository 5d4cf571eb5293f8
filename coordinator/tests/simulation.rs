//! Simulation: the coordinator's state machine and worker processes on one virtual clock, over a network that loses, repeats and
//! delays calls, with processes that are killed, stopped, cut off and asked to stop, and a coordinator that stands still. What must
//! hold is checked after every event (`simulation/check.rs`). A seed decides a run; `OCTRAIN_SIMULATION_SEEDS` says how many are
//! run, `OCTRAIN_SIMULATION_SEED` shows one of them, event by event.

#[path = "simulation/check.rs"]
mod check;
#[path = "simulation/conduct.rs"]
mod conduct;
#[path = "worker/mod.rs"]
mod facts;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/group.rs"]
mod group;
#[path = "simulation/hang.rs"]
mod hang;
#[path = "simulation/host.rs"]
mod host;
#[path = "simulation/mutant.rs"]
mod mutant;
#[path = "simulation/process.rs"]
mod process;
#[path = "simulation/rng.rs"]
mod rng;
#[path = "simulation/sizes.rs"]
mod sizes;
#[path = "simulation/training.rs"]
mod training;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/worker.rs"]
mod worker;
#[path = "simulation/world.rs"]
mod world;

use mutant::Mutant;
use rng::Rng;
use std::collections::BTreeMap;
use world::{Setting, World};

/// Seeds of a short run.
const SEEDS: u64 = 10_000;

/// What a seed makes of the settings.
fn setting(seed: u64) -> Setting {
    let mut rng = Rng::new(seed);
    let world = rng.between(2, 6) as u32;
    Setting {
        world,
        min_world: rng.between(1, u64::from(world) - 1) as u32,
        steps: rng.between(5, 60),
        faults: rng.between(0, 8),
        restarts: rng.between(0, 3) as u32,
        bad_network: [0, 2, 10][rng.between(0, 2) as usize],
        more: [0, 0, 0, 0, 1, 2][rng.between(0, 5) as usize],
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`, not a number")))
}

/// Fewer faults and workers that still fail in the same run's way, one after the other.
fn smaller(seed: u64, setting: Setting) -> Setting {
    let mut least = setting;
    loop {
        let smaller = [
            Setting { faults: least.faults.saturating_sub(1), ..least },
            Setting { bad_network: 0, ..least },
            Setting { more: least.more.saturating_sub(1), ..least },
            Setting { restarts: least.restarts.saturating_sub(1), ..least },
            Setting { steps: (least.steps / 2).max(2), ..least },
        ];
        let next = smaller.into_iter().find(|s| *s != least && World::new(seed, *s, None).run().is_err());
        match next {
            Some(next) => least = next,
            None => return least,
        }
    }
}

#[test]
fn whatever_goes_wrong_no_step_is_lost_and_the_job_ends_as_it_should() {
    if let Some(seed) = number("OCTRAIN_SIMULATION_SEED") {
        let mut world = World::new(seed, setting(seed), None);
        let found = world.run();
        println!("{:?}\n{}\n{found:?}", setting(seed), world.told.join("\n"));
        return found.unwrap();
    }
    let seeds = number("OCTRAIN_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..seeds {
        let mut world = World::new(seed, setting(seed), None);
        if let Err(wrong) = world.run() {
            let least = smaller(seed, setting(seed));
            let mut again = World::new(seed, least, None);
            let told = again.run();
            panic!(
                "seed {seed}: {wrong}\n\nas small as it was found, {least:?}: {told:?}\n{}",
                again.told.join("\n")
            );
        }
        let end = world.cause().map_or_else(|| format!("{:?}", world.outcome()), |kind| format!("{kind:?}"));
        *ends.entry(end).or_default() += 1;
    }
    println!("{seeds} seeds: {ends:?}");
    // Most go on whatever happens, and some cannot.
    let finished: u64 =
        ends.iter().filter(|(end, _)| end.contains("interrupted: false")).map(|(_, n)| n).sum();
    assert!(finished * 2 > seeds, "{ends:?}");
    assert!(ends.len() > 2, "{ends:?}");
}

#[test]
fn every_fault_of_the_coordinator_s_decisions_is_found() {
    for mutant in Mutant::ALL {
        let found = (0..4000).find_map(|seed| World::new(seed, setting(seed), Some(mutant)).run().err());
        let found = found.unwrap_or_else(|| panic!("no run shows {mutant:?}"));
        println!("{mutant:?}: {}", found.lines().next().unwrap_or_default());
    }
}
