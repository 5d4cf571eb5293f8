//! A process that is killed at a call with which it writes a checkpoint, however many of them it takes.

use super::draw::Draw;
use super::faults::Seen;
use super::judge;
use octrain::checkpoint;
use octrain_tests::binary;
use octrain_tests::run::SMALL;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What writes, makes it last, and makes it appear; and what removes what it supersedes.
const CALLS: [&str; 6] = ["write", "fsync", "rename", "renameat2", "unlinkat", "mkdir"];
/// A run's steps, and those after which it is gone on with. A checkpoint follows each step, and one more in the last one's place.
const STEPS: u64 = 5;
const BEFORE: u64 = 3;

/// Why nobody can be killed at a call here; none where one can.
pub fn missing() -> Option<String> {
    let tried =
        Command::new("strace").args(["-f", "-qq", "-e", "trace=write", "-o", "/dev/null", "true"]).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_string()),
        Err(e) => Some(e.to_string()),
    }
    .map(|why| format!("checkpoints whose writer is killed: they need strace ({why})"))
}

/// A run that is some steps on its way.
pub struct Begun {
    dir: tempfile::TempDir,
    /// How many of each call a whole run makes that goes on from there, as its busiest thread does.
    calls: Vec<(&'static str, usize)>,
}

fn train(strace: &[&str], output: &Path, steps: u64, goes_on: bool) -> Output {
    let octrain = binary("octrain");
    // One that hangs ends with 124, or 137, and is not taken for killed.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "180"]);
    if !strace.is_empty() {
        // Not with --seccomp-bpf, which injects nothing into threads.
        command.args(["strace", "-f", "-qq"]).args(strace);
    }
    command.arg(octrain);
    command.arg("train").args(SMALL).args([
        "--nproc",
        "1",
        "--batch-size",
        "4",
        "--threads",
        "1",
        "--epochs",
        "2",
    ]);
    command.args([
        "--save-interval-steps",
        "1",
        "--max-steps",
        &steps.to_string(),
        "--print-interval",
        "100",
    ]);
    if goes_on {
        command.args(["--last-epoch-of-checkpoint", "auto"]);
    }
    command.arg("--output-dir").arg(output).stdin(Stdio::null());
    command.output().unwrap_or_else(|e| panic!("{e}"))
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|s| s.success()), "{} cannot be copied", from.display());
}

impl Begun {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = train(&[], &dir.path().join("begun"), BEFORE, false);
        assert!(first.status.success(), "{}", octrain_tests::run::said(&first));
        let (whole, log) = (dir.path().join("whole"), dir.path().join("calls"));
        copy(&dir.path().join("begun"), &whole);
        let trace = format!("trace={}", CALLS.join(","));
        let second = train(&["-e", &trace, "-o", log.to_str().unwrap_or_default()], &whole, STEPS, true);
        assert!(second.status.success(), "{}", octrain_tests::run::said(&second));
        let text = std::fs::read_to_string(&log).expect("what strace has seen");
        let busiest = |call: &str| {
            let mut counts: std::collections::BTreeMap<&str, usize> = Default::default();
            let made = text.lines().filter_map(|l| {
                let (pid, rest) = l.split_once(' ')?;
                rest.trim_start().strip_prefix(call)?.starts_with('(').then_some(pid)
            });
            made.for_each(|pid| *counts.entry(pid).or_default() += 1);
            counts.into_values().max().unwrap_or(0)
        };
        let calls = CALLS.map(|call| (call, busiest(call)));
        Self { calls: calls.into_iter().filter(|(_, n)| *n > 0).collect(), dir }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("begun")
    }
}

/// One that is killed: the folder has a checkpoint that can be loaded, of the run that was there and no step less, and one time
/// in ten the run goes on from there to its end.
pub fn kill(draw: &mut Draw, begun: &Begun) -> (String, Seen) {
    // Each call is as likely as any other of all that are made.
    let all: Vec<(&str, usize)> =
        begun.calls.iter().flat_map(|(call, n)| (1..=*n).map(move |i| (*call, i))).collect();
    let (call, which) = draw.one_of(&all);
    let output = begun.dir.path().join(format!("killed-{}", draw.below(usize::MAX)));
    copy(&begun.folder(), &output);
    let inject = format!("inject={call}:signal=KILL:when={which}");
    let ended =
        train(&["-e", &format!("trace={call}"), "-e", &inject, "-o", "/dev/null"], &output, STEPS, true);
    // The launcher of one that was killed tells so.
    let told = octrain_tests::run::said(&ended);
    let killed = ended.status.signal() == Some(9) || told.contains("was killed by signal 9");
    let ended_well = killed || ended.status.success();
    let outcome =
        if ended_well { Ok(()) } else { Err(format!("it was not killed, and ended with {}", ended.status)) };
    let mut outcome = outcome.and_then(|()| found(&output, begun, killed));
    if outcome.is_ok() && draw.below(10) == 0 {
        let again = train(&[], &output, STEPS, true);
        outcome = match again.status.success() {
            true => judge::loadable(&output).and_then(|step| match step == STEPS {
                true => Ok(()),
                false => Err(format!("it ended at step {step}")),
            }),
            false => Err("it does not go on".into()),
        };
        outcome = outcome.map_err(|e| format!("{e}\n{}", octrain_tests::run::said(&again)));
    }
    let outcome = outcome.map_err(|e| format!("{call} {which}: {e}\n{}", octrain_tests::run::said(&ended)));
    // What is left tells more than what was said.
    if outcome.is_ok() {
        let _ = std::fs::remove_dir_all(&output);
    }
    (format!("{call} {which}"), Seen { figures: vec![("killed", f64::from(u8::from(killed)))], outcome })
}

fn found(output: &Path, begun: &Begun, killed: bool) -> Result<(), String> {
    let step = judge::loadable(output)?;
    let least = if killed { BEFORE } else { STEPS };
    if step < least {
        return Err(format!("the furthest checkpoint is of step {step}, and one of step {least} was there"));
    }
    let run = |folder: &Path| {
        let path = checkpoint::find(folder, checkpoint::Which::Auto).map_err(|e| e.to_string())?;
        let manifest = checkpoint::load_manifest(&path).map_err(|e| e.to_string())?;
        Ok::<_, String>(manifest.run.map(|run| run.id))
    };
    match run(output)? == run(&begun.folder())? {
        true => Ok(()),
        false => Err("it is of another run".into()),
    }
}
