//! Command lines of several stages in a row, each run by this binary as a user would type it.

use super::Exit;
use crate::checkpoint;
use crate::launcher::signals::{self, Interrupt, Stage};
use crate::launcher::{EXIT_ERROR, EXIT_INTERRUPTED, EXIT_PREEMPTED};
use crate::metrics::{finish, say};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// The stages of one experiment: its folder, its data, and the training flags all stages share.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Where checkpoints, models and reports go.
    pub output: PathBuf,
    /// `digits`, or a folder with `train/<class>/` and `val/<class>/`.
    pub data: String,
    /// Part of it that is held out for validation; 0 where it has a `val/`.
    pub val_fraction: f64,
    /// Flags of `octrain train`.
    pub train: Vec<OsString>,
}

/// A command line of plain words.
pub fn words<const N: usize>(list: [&str; N]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

impl Recipe {
    /// A path within the experiment's folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.output.join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.at(name).to_string_lossy().into_owned()
    }

    /// Trains into the folder `stage`, with metrics in `<stage>.jsonl`.
    pub fn train(&self, stage: &str, extra: &[&str]) -> Vec<OsString> {
        let mut line = words(["train", "--image-root", &self.data]);
        line.extend(self.train.iter().cloned());
        line.extend(words([
            "--output-dir",
            &self.text(stage),
            "--report-file",
            &self.text(&format!("{stage}.jsonl")),
        ]));
        line.extend(extra.iter().map(OsString::from));
        line
    }

    /// Exports the furthest checkpoint of a stage.
    pub fn export(&self, stage: &str, profile: &str, file: &str) -> Vec<OsString> {
        words([
            "export",
            "--from-checkpoint",
            &self.text(stage),
            "--profile",
            profile,
            "--output",
            &self.text(file),
        ])
    }

    /// Runs a model on the data, or, for `benchmark` steps, on synthetic input.
    pub fn infer(&self, file: &str, engine: &str, report: &str, benchmark: Option<u64>) -> Vec<OsString> {
        let mut line = words([
            "infer",
            "--model",
            &self.text(file),
            "--engine",
            engine,
            "--batch-size",
            "32",
            "--report-file",
            &self.text(report),
        ]);
        match benchmark {
            Some(steps) => line.extend(words([
                "--benchmark",
                "--benchmark-steps",
                &steps.to_string(),
                "--benchmark-warmup-steps",
                "10",
            ])),
            None => {
                let part = self.val_fraction.to_string();
                line.extend(words(["--image-root", &self.data, "--val-fraction", &part]));
            }
        }
        line
    }

    /// Top-1 in percent of a model in an engine, on the data.
    pub fn deployed_top1(&self, file: &str, engine: &str) -> Result<f64> {
        let report = format!("{file}.{engine}.jsonl");
        run(&self.infer(file, engine, &report, None))?;
        last(&self.at(&report), "infer.top1")
    }

    /// Makes the folder, moving an earlier one aside; one that a run works in is left alone.
    pub fn begin(&self) -> Result<()> {
        if self.output.exists() {
            let stages = std::fs::read_dir(&self.output)
                .with_context(|| format!("cannot list {}", self.output.display()))?;
            for stage in stages.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.is_dir()) {
                if let Some(holder) = checkpoint::holder(&stage)? {
                    let message = format!(
                        "{} is in use ({holder}): wait for that run to end, or give another --output",
                        stage.display()
                    );
                    return Err(Exit::configuration(message).into());
                }
            }
            let old = self.aside();
            std::fs::rename(&self.output, &old)
                .with_context(|| format!("cannot move {} to {}", self.output.display(), old.display()))?;
            say!("moved the previous run to {}", old.display());
        }
        std::fs::create_dir_all(&self.output)
            .with_context(|| format!("cannot make {}", self.output.display()))
    }

    /// Where an earlier experiment goes: `<folder>.previous`, or, where there is one already, `.previous-2` and so on.
    fn aside(&self) -> PathBuf {
        let name = |n: usize| {
            let suffix = if n == 1 { ".previous".into() } else { format!(".previous-{n}") };
            let mut path = self.output.clone().into_os_string();
            path.push(suffix);
            PathBuf::from(path)
        };
        (1..).map(name).find(|p| !p.exists()).unwrap_or_else(|| name(0))
    }
}

/// Between looks at a stage.
const LOOK: Duration = Duration::from_millis(50);

/// Runs this binary with `line`; its output goes where ours goes. A signal is passed on, and ends all stages once this
/// one has ended.
pub fn run(line: &[OsString]) -> Result<()> {
    let interrupt = signals::enter(Stage::Supervising).context("cannot listen for signals")?;
    let shown: Vec<_> = line.iter().map(|w| w.to_string_lossy()).collect();
    say!("\n$ octrain {}", shown.join(" "));
    // What is said comes before what the stage says.
    finish();
    let status = if interrupt.requested() {
        None
    } else {
        let binary = std::env::current_exe().context("cannot find this program's own file")?;
        let child = Command::new(binary).args(line).spawn().context("cannot start octrain")?;
        Some(attend(child, &interrupt).context("cannot wait for octrain")?)
    };
    let code = status.and_then(|s| s.code());
    if interrupt.requested() {
        let code = if code == Some(i32::from(EXIT_INTERRUPTED)) { EXIT_INTERRUPTED } else { EXIT_PREEMPTED };
        let message = format!("asked to stop in `octrain {}`; the stages behind it were not run", shown[0]);
        return Err(Exit { code, message }.into());
    }
    match (status, code) {
        (_, Some(0)) => Ok(()),
        (Some(status), code) => {
            let code = code.and_then(|c| u8::try_from(c).ok()).unwrap_or(EXIT_ERROR);
            let message = format!("`octrain {}` ended with {status}; its message is above", shown[0]);
            Err(Exit { code, message }.into())
        }
        (None, _) => bail!("`octrain {}` was not run", shown[0]),
    }
}

/// Waits for a stage; the first signal is passed on to it, and so is a second one.
fn attend(mut child: Child, interrupt: &Interrupt) -> io::Result<ExitStatus> {
    let mut passed = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let wanted = usize::from(interrupt.requested()) + usize::from(interrupt.at_once());
        if passed < wanted {
            passed = wanted;
            let signal = interrupt.signal().and_then(Signal::from_named_raw).unwrap_or(Signal::TERM);
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // It may have ended in between, which is what the signal wants.
                let _ = kill_process(pid, signal);
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// Last value of `key` in a file of JSON lines.
pub fn last(path: &Path, key: &str) -> Result<f64> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .rev()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok()?.get(key)?.as_f64())
        .next()
        .with_context(|| format!("{} holds no `{key}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_experiments_are_moved_aside_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = Recipe {
            output: dir.path().join("quick"),
            data: "digits".into(),
            val_fraction: 0.0,
            train: vec![],
        };
        for n in 0..3 {
            recipe.begin().unwrap();
            std::fs::write(recipe.at("n"), n.to_string()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name).join("n")).unwrap();
        assert_eq!(["quick.previous", "quick.previous-2", "quick"].map(read), ["0", "1", "2"]);
    }
}
