//! Going on with a run: where its settings come from, and the command that continues it.

use super::args::RunFlags;
use super::{Exit, checkpoint_base};
use crate::checkpoint::{CheckpointError, Furthest, Which, free_name, furthest, root_of};
use crate::config::{CheckpointChoice, Given, RunConfig, differences, with_former_defaults};
use crate::launcher::{EXIT_CONFIGURATION, EXIT_ERROR, EXIT_OK};
use anyhow::Result;
use clap::ArgMatches;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// Longest look at the checkpoints of a run that ended: a watchdog, or whoever sent a signal, waits for its end.
const PATIENCE: Duration = Duration::from_secs(5);

/// `--resume`.
#[derive(Debug, Clone, clap::Args)]
pub struct ResumeFlag {
    /// Go on with the run in this folder, with everything as it was; flags given besides win (`--epochs`, `--nproc`). One
    /// of its checkpoints goes on from there; with --overwrite, though others are further.
    #[arg(long, value_name = "FOLDER", help_heading = "Checkpoints", conflicts_with_all = ["from_checkpoint", "from_pretrained_params"])]
    pub resume: Option<PathBuf>,
}

/// The configuration `run` of a checkpoint for going on with it in `output`, from `from`.
fn for_training(run: &RunConfig, output: PathBuf, from: PathBuf) -> RunConfig {
    run.clone().with(|c| {
        c.run.output_dir = output;
        c.checkpoints.from_checkpoint = Some(from);
        c.checkpoints.last_epoch_of_checkpoint = None;
        // Its weights have become the run's own, but a teacher stays a teacher.
        let taught_by = c.checkpoints.from_pretrained_params.take().filter(|_| c.quantization.qat_distill);
        c.quantization.qat_teacher = c.quantization.qat_teacher.take().or(taught_by);
        // A report is added to; a trace would take the place of the one before.
        c.run.trace_file = None;
        c.run.benchmark = false;
        c.run.checks = false;
        c.checkpoints.overwrite = false;
    })
}

/// What file and flags go over.
pub struct Base<'a> {
    /// The defaults, for a run that starts anew.
    pub new: &'a dyn Fn() -> RunConfig,
    /// What is made of a checkpoint's settings, for a run that goes on from it.
    pub of_checkpoint: &'a dyn Fn(RunConfig) -> RunConfig,
}

/// Resolves the configuration of a run that trains: defaults, or, where it goes on from a checkpoint, that checkpoint's
/// settings; then the file, then the flags.
///
/// `again` is for the last line where its checkpoint is damaged.
pub fn resolve(
    flags: &RunFlags,
    resume: &ResumeFlag,
    matches: &ArgMatches,
    again: &Again,
) -> Result<RunConfig, Exit> {
    let bases = Base { new: &RunConfig::default, of_checkpoint: &|config| config };
    resolve_over(flags, resume, matches, again, &bases)
}

/// The same over other defaults.
pub fn resolve_over(
    flags: &RunFlags,
    resume: &ResumeFlag,
    matches: &ArgMatches,
    again: &Again,
    bases: &Base,
) -> Result<RunConfig, Exit> {
    let given = flags.checkpoint(matches)?;
    let Some(path) = resume.resume.clone().or(given.folder) else {
        let (config, given) = flags.resolve(&(bases.new)(), matches)?;
        return Ok(as_started(config, &given));
    };
    let (folder, manifest) = checkpoint_base::read(&path, given.which.into()).map_err(|e| {
        let damaged = matches!(e, CheckpointError::Damaged { .. });
        let Exit { code, mut message } = Exit::checkpoint(e);
        if let Some(next) = damaged.then(|| last_line(&root_of(&path), again)).flatten() {
            message.push_str(&format!("\n{next}"));
        }
        Exit { code, message }
    })?;
    // A folder of checkpoints stays one, so that a number of epochs or a later start finds its place in it.
    let run = match &manifest.config {
        // Who takes weights and momentum to the first epoch goes on with no settings, and what was imported has none.
        None if manifest.unread.is_none() && given.which == Some(CheckpointChoice::StartOver) => {
            checkpoint_base::settings_of(&manifest)
        }
        _ => manifest.settings(&folder).map_err(Exit::checkpoint)?.clone(),
    };
    let base = (bases.of_checkpoint)(for_training(&run, root_of(&folder), path.clone()));
    let (mut config, _) = flags.resolve(&base, matches)?;
    if let Some(dir) = &resume.resume {
        config.run.output_dir = root_of(dir);
        config.checkpoints.from_checkpoint = Some(path);
    }
    Ok(config)
}

/// The settings of a run that may have been started before, by `--last-epoch-of-checkpoint auto`, and by an earlier release.
/// Whether it was, and whether it is the same training, is for rank 0 to decide.
fn as_started(config: RunConfig, given: &Given) -> RunConfig {
    if config.checkpoints.last_epoch_of_checkpoint != Some(CheckpointChoice::Auto) {
        return config;
    }
    let Ok((folder, manifest)) = checkpoint_base::read(&config.run.output_dir, Which::Auto) else {
        return config;
    };
    let Some(stored) = &manifest.config else { return config };
    let started = with_former_defaults(stored, &config, given);
    let kept = differences(&config, &started);
    if !kept.is_empty() {
        tracing::info!(
            "{} was started with what were defaults of an earlier release, or was told so, and goes on with it: {}",
            folder.display(),
            kept.join("; ")
        );
    }
    started
}

/// How this command goes on with a run.
#[derive(Debug, Clone)]
pub struct Again {
    /// The command, to which `--resume` is added.
    pub command: String,
    /// What must be there for it, as `, with ...`; empty where nothing must.
    pub needs: &'static str,
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The command that goes on, where there is something to go on from; a line of its own. Beyond a damaged checkpoint it
/// names the one before, which sets the damaged one aside.
fn continuation(output: &Path, again: &Again) -> Option<String> {
    let Again { command, needs } = again;
    let Furthest { whole, damaged } = furthest(output).ok()?;
    let told: Vec<String> =
        damaged.iter().map(|(path, why)| format!("{} is damaged ({why})", path.display())).collect();
    let from = |path: &Path| format!("  {command} --resume {}", quoted(&path.to_string_lossy()));
    match (whole, told.is_empty()) {
        (Some(path), true) => {
            Some(format!("the furthest checkpoint is {}; to go on{needs}:\n{}", path.display(), from(output)))
        }
        (Some(path), false) => Some(format!(
            "{}; to go on from {}{needs}, and keep the damaged under another name:\n{}",
            told.join("; "),
            path.display(),
            from(&path)
        )),
        (None, true) => None,
        (None, false) => {
            let aside: Vec<String> = damaged.iter().map(|(path, _)| aside(path)).collect();
            Some(format!(
                "{}; no checkpoint before is whole; to keep the damaged under another name, and then start anew:\n  {}",
                told.join("; "),
                aside.join(" && ")
            ))
        }
    }
}

/// The command that takes a damaged checkpoint out of the way.
fn aside(path: &Path) -> String {
    let kept = path.with_file_name(free_name(path));
    format!("mv {} {}", quoted(&path.to_string_lossy()), quoted(&kept.to_string_lossy()))
}

/// What `look` finds, where that takes no longer than `patience`. The thread it looks on may be left behind: a file system
/// that hangs interrupts nobody.
fn within<T: Send + 'static>(
    patience: Duration,
    look: impl FnOnce() -> Option<T> + Send + 'static,
) -> Option<T> {
    let (tell, told) = mpsc::channel();
    std::thread::Builder::new().name("continuation".into()).spawn(move || drop(tell.send(look()))).ok()?;
    told.recv_timeout(patience).ok().flatten()
}

/// The last line of a run that ended, where it can be had soon: it reads whole checkpoints.
fn last_line(output: &Path, again: &Again) -> Option<String> {
    let (output, again) = (output.to_path_buf(), again.clone());
    within(PATIENCE, move || continuation(&output, &again))
}

/// Makes the command that continues the last line of a run that ended before it was done, for whatever reason but a
/// configuration that would end it again.
pub fn with_continuation(ended: Result<u8>, config: &RunConfig, again: &Again) -> Result<u8> {
    let code = match &ended {
        Ok(code) => *code,
        Err(e) => e.downcast_ref::<Exit>().map_or(EXIT_ERROR, |x| x.code),
    };
    if matches!(code, EXIT_OK | EXIT_CONFIGURATION) {
        return ended;
    }
    let Some(line) = last_line(&config.run.output_dir, again) else { return ended };
    match ended {
        Ok(code) => Err(Exit { code, message: line }.into()),
        Err(e) => {
            let text = format!("{e:#}");
            let message = if text.is_empty() { line } else { format!("{text}\n{line}") };
            Err(Exit { code, message }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("runs/a-1"), "runs/a-1");
        assert_eq!(quoted("my runs"), "'my runs'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_run_that_goes_on_adds_to_its_report_and_leaves_its_trace_alone() {
        let run = RunConfig::default().with(|c| {
            c.run.report_file = Some("report.jsonl".into());
            c.run.trace_file = Some("trace.json".into());
        });
        let told = for_training(&run, "run".into(), "run/1".into());
        assert_eq!((told.run.report_file, told.run.trace_file), (run.run.report_file, None));
    }

    #[test]
    fn a_run_that_is_done_or_cannot_be_run_has_no_continuation() {
        let dir = tempfile::tempdir().unwrap();
        let config = RunConfig::default().with(|c| c.run.output_dir = dir.path().into());
        let again = Again { command: "octrain train".into(), needs: "" };
        assert_eq!(with_continuation(Ok(4), &config, &again).unwrap(), 4, "nothing to go on from");
        std::fs::create_dir(dir.path().join("1")).unwrap();
        // Of a later version, which cannot be judged.
        std::fs::write(dir.path().join("1/manifest.json"), r#"{"format": 99}"#).unwrap();
        assert_eq!(with_continuation(Ok(0), &config, &again).unwrap(), 0);
        let told = with_continuation(Ok(4), &config, &again).unwrap_err();
        assert_eq!(told.downcast_ref::<Exit>().unwrap().code, 4);
        let line = format!("  octrain train --resume {}", dir.path().display());
        assert_eq!(told.to_string().lines().last(), Some(&line[..]));
        let failed = Exit { code: 1, message: "it broke".into() };
        let told = with_continuation(Err(failed.into()), &config, &again).unwrap_err().to_string();
        assert!(told.starts_with("it broke\n") && told.ends_with(&line), "{told}");
    }

    #[test]
    fn where_no_checkpoint_is_whole_the_command_that_is_told_sets_them_aside() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("my run");
        for name in ["1", "2", "2.damaged"] {
            std::fs::create_dir_all(output.join(name)).unwrap();
            std::fs::write(output.join(name).join("manifest.json"), r#"{"form"#).unwrap();
        }
        let again = Again { command: "octrain train".into(), needs: "" };
        let told = continuation(&output, &again).unwrap();
        assert!(!told.contains("--overwrite") && told.contains("no checkpoint before is whole"), "{told}");
        let command = told.lines().last().unwrap();
        let done = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
        assert!(done.success(), "{command}");
        assert!(
            ["1.damaged", "2.damaged", "2.damaged-2"].iter().all(|n| output.join(n).is_dir()),
            "{command}"
        );
        assert_eq!(continuation(&output, &again), None, "nothing is in the way any more");
    }

    #[test]
    fn a_look_that_hangs_is_left_alone() {
        assert_eq!(within(Duration::from_secs(600), || Some(7)), Some(7));
        let (end, hangs) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(10), move || hangs.recv().err()), None);
        drop(end);
    }
}
