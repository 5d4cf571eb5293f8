//! One fault in one job: where it strikes, what is done, and what must follow.

use super::draw::Draw;
use super::judge::{self, Whole, step_lines};
use super::stage::{COORDINATOR, LONG, Line, SAVES, Setup, Stage, signal};
use std::cell::OnceCell;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where a fault strikes, by what the job says and leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Processes start, and have not all registered.
    Register,
    /// All have the plan, and connect to each other.
    Connect,
    /// Ranges are found on training images.
    Calibrate,
    /// Forward, backward, reduction, update: whichever it is at that moment.
    Step,
    /// A checkpoint is begun and not there.
    Save,
    /// Behind the last step, before the last checkpoint.
    Evaluate,
    /// The last checkpoint is there.
    Leave,
}
use Phase::{Calibrate, Connect, Evaluate, Leave, Register, Save, Step};

pub const ALL: [Phase; 7] = [Register, Connect, Calibrate, Step, Save, Evaluate, Leave];

/// What a run has shown of itself.
pub struct Seen {
    pub figures: Vec<(&'static str, f64)>,
    pub outcome: Result<(), String>,
}

/// Jobs to which nothing was done, each run when it is asked for first.
#[derive(Default)]
pub struct Wholes {
    plain: OnceCell<Whole>,
    qat: OnceCell<Whole>,
    long: OnceCell<Whole>,
}

impl Wholes {
    /// Without quantization, or with it.
    pub fn of(&self, qat: bool) -> &Whole {
        let cell = if qat { &self.qat } else { &self.plain };
        cell.get_or_init(|| whole(Setup { qat, ..Setup::usual() }))
    }

    /// Of more steps, without quantization.
    pub fn long(&self) -> &Whole {
        self.long.get_or_init(|| whole(Setup { steps: LONG, ..Setup::usual() }))
    }
}

fn whole(setup: Setup) -> Whole {
    let whole = Whole::of(setup).unwrap_or_else(|e| panic!("{e}"));
    assert!(whole.tells_images_apart(), "a step that was left out would go unnoticed");
    whole
}

/// Whether a checkpoint of this step is begun, and not there.
fn begun(output: &Path, step: u64) -> bool {
    let entries = std::fs::read_dir(output).into_iter().flatten().flatten();
    let name = format!(".0-{step}.");
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).any(|n| n.starts_with(&name))
}

/// Waits until the job is in this phase, and then for a moment that the seed decides.
pub fn reach(stage: &mut Stage, phase: Phase, draw: &mut Draw, whole: &Whole) -> Result<(), String> {
    let part = |draw: &mut Draw, of: Duration| draw.seconds(0.0, of.as_secs_f64());
    match phase {
        Register => {
            // Processes of this size need about so long until they register.
            let until = draw.seconds(0.0, 0.5);
            std::thread::sleep(until);
        }
        Connect => {
            stage.wait("all here")?;
            std::thread::sleep(part(draw, (whole.begins - whole.calibrates).min(Duration::from_millis(300))));
        }
        Calibrate => {
            stage.wait("all here")?;
            let most = whole.calibrates.max(Duration::from_millis(100));
            std::thread::sleep(most / 4 + part(draw, most * 3 / 4));
        }
        Step => {
            let step = 2 + draw.below(stage.setup.steps as usize - 4);
            stage.wait(&format!("step {step}/"))?;
            std::thread::sleep(part(draw, whole.step));
        }
        Save => {
            let step = SAVES * (1 + draw.below((stage.setup.steps / SAVES) as usize) as u64);
            stage.wait(&format!("step {}/", step - 1))?;
            let until = Instant::now() + Duration::from_secs(60);
            while !begun(&stage.output, step) {
                if Instant::now() > until {
                    return Err(format!("no checkpoint of step {step} is begun"));
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(draw.seconds(0.0, 0.02));
        }
        Evaluate => {
            stage.wait(&format!("step {}/", stage.setup.steps))?;
            std::thread::sleep(part(draw, whole.concludes));
        }
        Leave => {
            stage.wait(" val.top1 ")?;
            stage.wait("saved ")?;
            std::thread::sleep(draw.seconds(0.0, 0.1));
        }
    }
    Ok(())
}

/// What the one that speaks says of a generation that is not the first.
const GOES_ON: &str = "workers go on after step";

/// When the last of the workers was told that the generation is over which ended at `from` or later; none where none did.
fn told_all(stage: &Stage, from: Instant) -> Option<Instant> {
    let of_workers =
        |l: &&Line| l.at >= from && l.text.contains(" is over: ") && !l.text.contains(COORDINATOR);
    let first = stage.seen.iter().find(of_workers)?;
    // Whoever is cut off hears of it later.
    let goes_on = stage.seen.iter().find(|l| l.at > first.at && l.text.contains(GOES_ON)).map(|l| l.at);
    let generation = |l: &Line| {
        l.text.split(" is over: ").next().and_then(|t| t.split("generation ").nth(1).map(String::from))
    };
    let same = stage.seen.iter().filter(of_workers).filter(|l| generation(l) == generation(first));
    let same = same.filter(|l| goes_on.is_none_or(|at| l.at <= at));
    same.map(|l| l.at).max()
}

/// What generations took: until the others were told, and until the next step was done, from a moment on.
pub fn recovery(stage: &Stage, from: Instant, told: &'static str) -> Vec<(&'static str, f64)> {
    let after = |text: &str, since: Instant| {
        let found = stage.seen.iter().find(|l| l.at >= since && l.text.contains(text));
        found.map(|l| l.at)
    };
    let Some(over) = told_all(stage, from) else { return Vec::new() };
    let mut figures = vec![(told, (over - from).as_secs_f64())];
    // Told by the one that speaks, in the new generation; where none had begun, nobody goes on.
    let formed = after(GOES_ON, over);
    figures.extend(formed.map(|formed| ("formed anew", (formed - from).as_secs_f64())));
    let next = after(" train.loss ", formed.unwrap_or(over));
    figures.extend(next.map(|next| ("next step", (next - from).as_secs_f64())));
    figures
}

/// What holds of a job that has done all its steps.
pub fn whole_job(stage: &Stage, whole: &Whole, victims: &[u32]) -> Result<(), String> {
    judge::steps(stage)?;
    judge::samples(stage, whole)?;
    judge::saved(stage)?;
    judge::culprit(stage, victims)?;
    judge::gone(stage)
}

/// Runs one; what it said stands behind what is wrong.
fn run(setup: Setup, body: impl FnOnce(&mut Stage, &mut Seen) -> Result<(), String>) -> Seen {
    run_in(Stage::start(setup), body)
}

/// The same of a job that was started otherwise.
pub fn run_in(
    started: Result<Stage, String>,
    body: impl FnOnce(&mut Stage, &mut Seen) -> Result<(), String>,
) -> Seen {
    let mut seen = Seen { figures: Vec::new(), outcome: Ok(()) };
    let mut stage = match started {
        Ok(stage) => stage,
        Err(e) => return Seen { outcome: Err(e), ..seen },
    };
    let outcome = body(&mut stage, &mut seen);
    seen.outcome = outcome.map_err(|e| format!("{e}\n{}", stage.told()));
    seen
}

/// A worker is killed.
pub fn worker_kill(phase: Phase, draw: &mut Draw, wholes: &Wholes) -> Seen {
    let qat = phase == Calibrate || draw.below(4) == 0;
    let whole = wholes.of(qat);
    let restarts = draw.below(2) as u32;
    run(Setup { qat, restarts, ..Setup::usual() }, |stage, seen| {
        let victim = draw.below(4);
        reach(stage, phase, draw, whole)?;
        let victim = stage.workers()[victim];
        let at = Instant::now();
        // At the end, it may be done already.
        let met = signal("KILL", &[victim]).is_ok();
        let codes = stage.end()?;
        if met {
            seen.figures = recovery(stage, at, "told");
        }
        judge::ended(&codes, &[0, 0])?;
        whole_job(stage, whole, &[victim])?;
        // The last phases it may have passed by then.
        match met && !matches!(phase, Evaluate | Leave) {
            true => judge::blamed(stage, &[victim]),
            false => Ok(()),
        }
    })
}

/// A worker stands still, for good or for a while.
pub fn worker_stop(phase: Phase, draw: &mut Draw, wholes: &Wholes) -> Seen {
    let qat = phase == Calibrate;
    let whole = wholes.of(qat);
    run(Setup { qat, ..Setup::usual() }, |stage, seen| {
        let (victim, for_good) = (draw.below(4), phase != Register && draw.below(3) < 2);
        reach(stage, phase, draw, whole)?;
        let victim = stage.workers()[victim];
        let at = Instant::now();
        let met = signal("STOP", &[victim]).is_ok();
        if met && !for_good {
            std::thread::sleep(draw.seconds(0.2, 4.0));
            signal("CONT", &[victim])?;
        }
        let codes = stage.end()?;
        if met && phase != Register {
            seen.figures = recovery(stage, at, "detected");
        }
        judge::ended(&codes, &[0, 0])?;
        whole_job(stage, whole, &[victim])?;
        let same = !stage.seen.iter().any(|l| l.text.contains(" is over: "));
        if same { judge::equal(stage, whole) } else { Ok(()) }
    })
}

/// The others give up waiting for a worker that stands still before it is taken for dead: the same go on, bit for bit.
pub fn same_workers(draw: &mut Draw, wholes: &Wholes) -> Seen {
    let qat = draw.below(2) == 0;
    let whole = wholes.of(qat);
    let setup = Setup { qat, heartbeat_timeout: 20.0, patience: 2, ..Setup::usual() };
    run(setup, |stage, _| {
        reach(stage, Step, draw, whole)?;
        let victim = stage.workers()[draw.below(4)];
        let at = Instant::now();
        signal("STOP", &[victim])?;
        let over = stage.first_since(at, " is over: ");
        signal("CONT", &[victim])?;
        over?;
        let codes = stage.end()?;
        judge::ended(&codes, &[0, 0])?;
        // Whoever notices first is named, as nobody is lost.
        whole_job(stage, whole, &stage.workers())?;
        judge::equal(stage, whole)
    })
}

/// The coordinator is killed, and another one started in its place.
pub fn coordinator_kill(phase: Phase, draw: &mut Draw, wholes: &Wholes) -> Seen {
    let qat = phase == Calibrate;
    let whole = wholes.of(qat);
    run(Setup { qat, ..Setup::usual() }, |stage, seen| {
        reach(stage, phase, draw, whole)?;
        let at = stage.kill_coordinator()?;
        let away = draw.seconds(0.1, 2.0);
        std::thread::sleep(away);
        if let Err(e) = stage.coordinate() {
            // All had left, and everybody knew.
            let over = stage.seen.iter().any(|l| l.text.contains("has ended: all its workers were done"));
            if phase != Leave || !over {
                return Err(e);
            }
        }
        let back = stage.seen.iter().rev().find(|l| l.text.contains("listening on ")).map_or(at, |l| l.at);
        let codes = stage.end()?;
        if phase == Step {
            seen.figures = absence(stage, at, back);
        }
        match codes.as_slice() {
            [0, 2] if phase == Leave => {}
            codes => judge::ended(codes, &[0, 0])?,
        }
        whole_job(stage, whole, &[])?;
        if phase == Step && stage.seen.iter().any(|l| l.text.contains(" is over: ")) {
            return Err("a generation ended that needed no coordinator".into());
        }
        judge::equal(stage, whole)
    })
}

/// Steps while the coordinator was away and the others, and until all workers are heard again. A checkpoint waits for the
/// coordinator's word, and what stands behind it does: a step that follows one is no step alone.
fn absence(stage: &Stage, at: Instant, back: Instant) -> Vec<(&'static str, f64)> {
    let moments: Vec<Instant> = step_lines(stage).iter().map(|l| l.at).collect();
    let saves = (moments.len() as u64 / SAVES) as usize;
    let behind_saves: Vec<usize> = (1..=saves).map(|i| i * SAVES as usize).collect();
    let mut longest = [0.0_f64; 3];
    for (i, pair) in moments.windows(2).enumerate() {
        let (took, away) = ((pair[1] - pair[0]).as_secs_f64(), pair[1] >= at && pair[0] <= back);
        let which = match away {
            true if behind_saves.contains(&(i + 1)) => 1,
            true => 0,
            false => 2,
        };
        longest[which] = longest[which].max(took);
    }
    let names = ["longest step while away", "longest step behind a save while away", "longest other step"];
    let again = stage.seen.iter().filter(|l| l.at >= back && l.text.contains("answers again after"));
    let mut figures: Vec<_> = names.into_iter().zip(longest).filter(|(_, t)| *t > 0.0).collect();
    figures
        .extend(again.map(|l| (l.at - back).as_secs_f64()).reduce(f64::max).map(|t| ("all heard again", t)));
    figures
}

/// The coordinator stands still for a while: nobody is lost for it.
pub fn coordinator_stop(phase: Phase, draw: &mut Draw, wholes: &Wholes) -> Seen {
    let qat = phase == Calibrate;
    let whole = wholes.of(qat);
    run(Setup { qat, ..Setup::usual() }, |stage, _| {
        reach(stage, phase, draw, whole)?;
        let pid = stage.coordinator();
        if signal("STOP", &[pid]).is_ok() {
            std::thread::sleep(draw.seconds(0.2, 4.0));
            signal("CONT", &[pid])?;
        }
        let codes = stage.end()?;
        judge::ended(&codes, &[0, 0])?;
        whole_job(stage, whole, &[])?;
        judge::equal(stage, whole)
    })
}

/// One of two launchers is killed, and its workers with it.
pub fn launcher_kill(phase: Phase, draw: &mut Draw, wholes: &Wholes) -> Seen {
    let qat = phase == Calibrate;
    let whole = wholes.of(qat);
    run(Setup { qat, launchers: 2, nproc: 2, ..Setup::usual() }, |stage, seen| {
        let which = draw.below(2);
        reach(stage, phase, draw, whole)?;
        let victims = [stage.workers()[2 * which], stage.workers()[2 * which + 1]];
        let at = Instant::now();
        let met = signal("KILL", &[stage.launcher(which)]).is_ok();
        let codes = stage.end()?;
        if met {
            seen.figures = recovery(stage, at, "told");
        }
        let mut wanted = [0, 0, 0];
        if codes.get(which) == Some(&-1) {
            wanted[which] = -1;
        }
        judge::ended(&codes, &wanted)?;
        whole_job(stage, whole, &victims)
    })
}

/// A launcher stands still for a while: its workers go on.
pub fn launcher_stop(phase: Phase, draw: &mut Draw, wholes: &Wholes) -> Seen {
    let qat = phase == Calibrate;
    let whole = wholes.of(qat);
    run(Setup { qat, launchers: 2, nproc: 2, ..Setup::usual() }, |stage, _| {
        let which = draw.below(2);
        reach(stage, phase, draw, whole)?;
        let pid = stage.launcher(which);
        if signal("STOP", &[pid]).is_ok() {
            std::thread::sleep(draw.seconds(0.2, 4.0));
            signal("CONT", &[pid])?;
        }
        let codes = stage.end()?;
        judge::ended(&codes, &[0, 0, 0])?;
        whole_job(stage, whole, &[])?;
        judge::equal(stage, whole)
    })
}
