//! What must hold of every job, whatever was done to it.

use super::stage::{Line, Setup, Stage};
use octrain::checkpoint::{self, RunIdentity};
use octrain_tests::run::{newest, report};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Two losses of the same images: as far apart as another order of floating-point sums takes them within a job's few steps.
const ROUNDING: f64 = 1e-2;

/// A job to which nothing was done: what others are held against, and how long its phases take.
pub struct Whole {
    losses: BTreeMap<u64, f64>,
    files: BTreeMap<String, Vec<u8>>,
    /// From the plan to the first step; a step; from the last step to the last checkpoint.
    pub begins: Duration,
    pub calibrates: Duration,
    pub step: Duration,
    pub concludes: Duration,
    /// Seconds of a step, at the median.
    pub median: f64,
}

/// The bytes of what training goes on with.
fn files(output: &Path) -> BTreeMap<String, Vec<u8>> {
    let folder = newest(output);
    let tensors = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path());
    tensors
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .map(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, std::fs::read(&p).unwrap_or_default())
        })
        .collect()
}

/// The loss of each step, as it was told last.
fn losses(file: &Path) -> BTreeMap<u64, f64> {
    let of = |l: &Value| Some((l["global_step"].as_u64()?, l["train.loss"].as_f64()?));
    report(file, "step").iter().filter_map(of).collect()
}

fn median(file: &Path) -> f64 {
    let times = report(file, "step");
    let mut times: Vec<f64> = times.iter().filter_map(|l| l["train.batch_time"].as_f64()).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Lines of steps.
pub fn step_lines(stage: &Stage) -> Vec<&Line> {
    stage.seen.iter().filter(|l| l.text.contains(" train.loss ")).collect()
}

impl Whole {
    /// Whether it would be noticed if a step's images had been left out, or taken twice: the losses that follow are then those of
    /// the step behind, or before.
    pub fn tells_images_apart(&self) -> bool {
        let first = self.losses.keys().next().copied().unwrap_or_default();
        let moved = |step: &u64| {
            let left_out = self.losses.range(step + 1..).map(|(_, loss)| *loss);
            let kept = self.losses.range(..step).map(|(_, loss)| *loss);
            let losses: Vec<f64> = kept.chain(left_out).chain(self.losses.values().last().copied()).collect();
            (first..).zip(losses).collect::<BTreeMap<u64, f64>>()
        };
        // But for the last one, which nothing follows.
        let steps = || self.losses.keys().rev().skip(1);
        self.losses.len() > 2 && steps().all(|step| same_images(&moved(step), &self.losses).is_err())
    }

    pub fn of(setup: Setup) -> Result<Self, String> {
        let mut stage = Stage::start(setup)?;
        let planned = stage.wait("all here")?.at;
        let calibrated = if setup.qat { stage.wait("calibrated ")?.at } else { planned };
        let codes = stage.end()?;
        if codes.iter().any(|code| *code != 0) {
            return Err(format!("an undisturbed job ends with {codes:?}:\n{}", stage.told()));
        }
        steps(&stage)?;
        let lines: Vec<Instant> = step_lines(&stage).iter().map(|l| l.at).collect();
        let (first, last) = (*lines.first().ok_or("no steps")?, *lines.last().ok_or("no steps")?);
        let saved =
            stage.seen.iter().rev().find(|l| l.text.contains("saved ")).ok_or("nothing was saved")?.at;
        Ok(Self {
            losses: losses(&stage.report()),
            files: files(&stage.output),
            begins: first - planned,
            calibrates: calibrated - planned,
            step: (last - first) / (lines.len().max(2) - 1) as u32,
            concludes: saved.saturating_duration_since(last),
            median: median(&stage.report()),
        })
    }
}

/// Every step was done once and in order. One may stand there twice where a lost rank 0 had told of it and the others had yet
/// to do it: then a new generation has begun between the two.
pub fn steps(stage: &Stage) -> Result<(), String> {
    let text = std::fs::read_to_string(stage.report()).map_err(|e| format!("the report: {e}"))?;
    let (mut last, mut anew) = (0, false);
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).map_err(|e| format!("the report: {e}: {line}"))?;
        match line["kind"].as_str() {
            Some("regroup") => anew = true,
            Some("step") => {
                let step = line["global_step"].as_u64().ok_or("a step without its number")?;
                if step != last + 1 && !(anew && step == last) {
                    return Err(format!("step {step} follows step {last}"));
                }
                (last, anew) = (step, false);
            }
            _ => {}
        }
    }
    match last == stage.setup.steps {
        true => Ok(()),
        false => Err(format!("the last of {} steps is {last}", stage.setup.steps)),
    }
}

/// Every step took the images that it takes in an undisturbed job: other images have another loss.
pub fn samples(stage: &Stage, whole: &Whole) -> Result<(), String> {
    same_images(&losses(&stage.report()), &whole.losses)
}

fn same_images(ours: &BTreeMap<u64, f64>, whole: &BTreeMap<u64, f64>) -> Result<(), String> {
    if ours.len() != whole.len() {
        return Err(format!("{} steps in the place of {}", ours.len(), whole.len()));
    }
    for (step, a) in whole {
        let b = ours.get(step).ok_or_else(|| format!("step {step} is not reported"))?;
        if (a - b).abs() > ROUNDING * a {
            return Err(format!("step {step}: a loss of {b}, and of {a} undisturbed: it saw other images"));
        }
    }
    Ok(())
}

/// What was trained is that of an undisturbed job, bit for bit.
pub fn equal(stage: &Stage, whole: &Whole) -> Result<(), String> {
    let ours = files(&stage.output);
    let names: Vec<&String> = ours.keys().collect();
    if names.len() < 2 || !ours.keys().eq(whole.files.keys()) {
        return Err(format!("the last checkpoint has {names:?}"));
    }
    match ours.iter().find(|(name, bytes)| whole.files.get(*name) != Some(bytes)) {
        Some((name, _)) => Err(format!("{name} is not that of an undisturbed job")),
        None => Ok(()),
    }
}

/// A checkpoint can be loaded, the furthest one is whole, and all of them are this folder's run's. Returns its step.
pub fn loadable(output: &Path) -> Result<u64, String> {
    let found = checkpoint::furthest(output).map_err(|e| e.to_string())?;
    if let Some((path, why)) = found.damaged.first() {
        return Err(format!("{} is damaged: {why}", path.display()));
    }
    let path = found.whole.ok_or("there is no checkpoint")?;
    let snapshot = checkpoint::load(&path).map_err(|e| e.to_string())?;
    let text = std::fs::read(output.join("run.json")).map_err(|e| format!("run.json: {e}"))?;
    let run: RunIdentity = serde_json::from_slice(&text).map_err(|e| format!("run.json: {e}"))?;
    match snapshot.manifest.run {
        Some(its) if its.id == run.id => Ok(snapshot.manifest.position.global_step),
        other => Err(format!("{} is of run {other:?}, and the folder of {}", path.display(), run.id)),
    }
}

/// The last step is in a checkpoint.
pub fn saved(stage: &Stage) -> Result<(), String> {
    let step = loadable(&stage.output)?;
    match step == stage.setup.steps {
        true => Ok(()),
        false => Err(format!("the last checkpoint is of step {step}")),
    }
}

/// Whoever is said to be lost is one of those to whom something was done. That a collective of somebody's failed is no blame.
pub fn culprit(stage: &Stage, victims: &[u32]) -> Result<(), String> {
    for line in stage.seen.iter().filter(|l| l.text.contains(") is lost: ")) {
        let before = line.text.split(") is lost: ").next().unwrap_or_default();
        let pid = before.rsplit("pid ").next().and_then(|p| p.split(',').next()?.parse().ok());
        if pid.is_none_or(|pid: u32| !victims.contains(&pid)) {
            return Err(format!("{pid:?} is named, not one of {victims:?}: {}", line.text));
        }
    }
    Ok(())
}

/// One of those to whom something was done is named for it.
pub fn blamed(stage: &Stage, victims: &[u32]) -> Result<(), String> {
    let named = |pid: &u32| {
        stage.seen.iter().any(|l| l.text.contains(&format!("pid {pid}, ")) && l.text.contains(") is lost: "))
    };
    match victims.iter().any(named) {
        true => Ok(()),
        false => Err(format!("none of {victims:?} is named")),
    }
}

/// Nobody is left.
pub fn gone(stage: &Stage) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(10);
    while !stage.alive().is_empty() {
        if Instant::now() > until {
            return Err(format!("workers outlived their job: {:?}", stage.alive()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// These exit codes.
pub fn ended(codes: &[i32], wanted: &[i32]) -> Result<(), String> {
    match codes == wanted {
        true => Ok(()),
        false => Err(format!("exit codes {codes:?}, not {wanted:?}")),
    }
}
