//! Microbatches and steps.

use super::{JobSettings, StrategyError, setting};
use octrain_core::strategy::Purpose;
use octrain_proto::v1::Setting;

/// Microbatches of each worker at the start of a job that may lose some: those that are left share them out again, and the
/// fewer pieces there are, the longer the one with most of them takes.
const SPARE: u64 = 4;

/// How many workers a job begins with, and how few it goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crew {
    /// At the start.
    pub world: u64,
    /// At least.
    pub min_world: u64,
}

impl Crew {
    /// Those of a job that was told to go on with `min_world`. What a benchmark measures is so on all of its workers, so it ends
    /// with any of them.
    pub(super) fn of(s: &JobSettings, world: u64, min_world: u32) -> Self {
        let min_world = if s.benchmark { world } else { u64::from(min_world) };
        Self { world, min_world }
    }

    /// Microbatches of a step where nobody says how many: they stay what they are at the start, whoever is lost.
    pub fn microbatches(self) -> u64 {
        match self.min_world < self.world {
            true => self.world.saturating_mul(SPARE),
            false => self.world,
        }
    }
}

/// Whether the job outlives its workers, which it was told to do with `told` of them.
pub(super) fn going_on(crew: Crew, told: u32) -> Setting {
    let reason = match (crew.min_world < crew.world, u64::from(told) < crew.world) {
        (true, _) => "--min-world: with fewer workers the job ends".to_string(),
        (false, false) => "the job ends with any of its workers (no --min-world)".into(),
        (false, true) => {
            format!("a benchmark ends with any of its workers, whatever --min-world ({told}) says")
        }
    };
    setting("min-world", crew.min_world, reason)
}

/// What was decided on batches.
pub(super) struct Batch {
    pub microbatches: u64,
    pub microbatch_size: u64,
    /// 0: unknown.
    pub total_steps: u64,
    pub settings: Vec<Setting>,
}

/// Divides the global batch. Evaluation and export need no division: they take one microbatch per worker. A run that goes
/// on keeps its global batch, which is `kept` (0: there is none), on any number of workers, unless it is told otherwise.
pub(super) fn decide(
    s: &JobSettings,
    purpose: Purpose,
    crew: Crew,
    train_images: u64,
    kept: u64,
) -> Result<Batch, StrategyError> {
    let world = crew.world;
    let batch = s.batch_size;
    if batch == 0 {
        return Err(StrategyError::EmptyBatch);
    }
    if purpose != Purpose::Train {
        let settings = vec![
            setting("microbatch-size", batch, "--batch-size"),
            setting("images", "every one once", "image i belongs to rank i % world size"),
        ];
        return Ok(Batch { microbatches: world, microbatch_size: batch, total_steps: 0, settings });
    }
    let (global, reason) = match (s.global_batch_size, kept) {
        (Some(g), _) => (g, format!("--global-batch-size {g} / --batch-size {batch}")),
        (None, 0) if crew.microbatches() == world => {
            (batch.saturating_mul(world), "one per worker (no --global-batch-size)".to_string())
        }
        (None, 0) => (
            batch.saturating_mul(crew.microbatches()),
            format!(
                "{SPARE} per worker at the start, to be shared out anew when one is lost (no --global-batch-size)"
            ),
        ),
        (None, kept) => (kept, format!("the {kept} images of a step so far / --batch-size {batch}")),
    };
    let microbatches = global / batch;
    if s.global_batch_size.is_none() && kept > 0 && (global % batch != 0 || microbatches < world) {
        return Err(StrategyError::Kept { global, batch, world });
    }
    if global % batch != 0 {
        return Err(StrategyError::Divide { global, batch, world });
    }
    if microbatches < world {
        return Err(StrategyError::TooFewMicrobatches { global, batch, microbatches, world });
    }
    let (low, high) = (microbatches / world, microbatches.div_ceil(world));
    let (value, share_reason) = match low == high {
        true => (low.to_string(), "microbatches shared out evenly".to_string()),
        false => (
            format!("{low} or {high}"),
            format!(
                "{microbatches} microbatches do not divide by {world} workers; those with {low} wait for the others"
            ),
        ),
    };
    let (total_steps, steps_value, steps_reason) = steps(s, global, crew, train_images)?;
    Ok(Batch {
        microbatches,
        microbatch_size: batch,
        total_steps,
        settings: vec![
            setting("microbatches", microbatches, reason),
            setting("microbatch-size", batch, "--batch-size"),
            setting("global-batch", global, "microbatches x microbatch-size"),
            setting("microbatches-per-rank", value, share_reason),
            setting("steps", steps_value, steps_reason),
        ],
    })
}

/// What to say instead of a global batch that is more than the training images.
fn fitting(s: &JobSettings, crew: Crew, images: u64) -> String {
    let (batch, world) = (s.batch_size, crew.world);
    let pieces = crew.microbatches();
    match s.global_batch_size {
        _ if images < world => {
            format!("that is less than one each for {world} workers; use at most {images}")
        }
        Some(_) if batch * world <= images => {
            format!("--global-batch-size {} fits", images / batch * batch)
        }
        Some(_) => {
            let batch = images / world;
            format!("--batch-size {batch} with --global-batch-size {} fits", batch * world)
        }
        None if pieces > images => format!("--global-batch-size {} with --batch-size 1 fits", world),
        None if world == 1 => format!("--batch-size {images} fits, and a smaller one trains better"),
        None => format!("--batch-size {} fits, for {world} workers", images / pieces),
    }
}

fn steps(
    s: &JobSettings,
    global: u64,
    crew: Crew,
    images: u64,
) -> Result<(u64, String, String), StrategyError> {
    if images == 0 {
        return Ok((0, "unknown".into(), "training images are not counted yet".into()));
    }
    // Post-training quantization takes no step: however few images there are, it looks at those.
    if s.epochs == 0 {
        return Ok((0, "0".into(), "no epoch is run".into()));
    }
    let per_epoch = images / global;
    if per_epoch == 0 {
        return Err(StrategyError::NoStep { global, images, fits: fitting(s, crew, images) });
    }
    let all = per_epoch * s.epochs;
    let of_epochs = format!(
        "{} epochs of {per_epoch} steps; {} of {images} images drop out of every epoch",
        s.epochs,
        images % global
    );
    Ok(match s.max_steps {
        0 => (all, all.to_string(), of_epochs),
        max if max >= all => (all, all.to_string(), of_epochs),
        max => (max, max.to_string(), format!("--max-steps, before the {all} steps of {} epochs", s.epochs)),
    })
}
