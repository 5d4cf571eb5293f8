//! Going on with a run: where its settings come from, and the command that continues it.

use super::args::RunFlags;
use super::{Exit, checkpoint_base};
use crate::checkpoint::{Manifest, Which, find, root_of};
use crate::config::{RunConfig, given_checkpoint};
use crate::launcher::{EXIT_CONFIGURATION, EXIT_ERROR, EXIT_OK};
use anyhow::Result;
use clap::ArgMatches;
use std::path::{Path, PathBuf};

/// `--resume`.
#[derive(Debug, Clone, clap::Args)]
pub struct ResumeFlag {
    /// Go on with the run in this folder, with everything as it was; flags given besides win (`--epochs`, `--nproc`).
    #[arg(long, value_name = "FOLDER", help_heading = "Checkpoints", conflicts_with_all = ["from_checkpoint", "from_pretrained_params", "overwrite"])]
    pub resume: Option<PathBuf>,
}

/// A checkpoint's configuration for going on with it in `output`, from `from`.
fn for_training(manifest: &Manifest, output: PathBuf, from: PathBuf) -> RunConfig {
    RunConfig {
        output_dir: output,
        from_checkpoint: Some(from),
        last_epoch_of_checkpoint: None,
        // Its weights have become the run's own, but a teacher stays a teacher.
        from_pretrained_params: None,
        qat_teacher: manifest.config.qat_teacher.clone().or_else(|| {
            manifest.config.from_pretrained_params.clone().filter(|_| manifest.config.qat_distill)
        }),
        benchmark: false,
        checks: false,
        overwrite: false,
        ..manifest.config.clone()
    }
}

/// Resolves the configuration of a run that trains: defaults, or, where it goes on from a checkpoint, that checkpoint's
/// settings; then the file, then the flags.
pub fn resolve(flags: &RunFlags, resume: &ResumeFlag, matches: &ArgMatches) -> Result<RunConfig, Exit> {
    let run = &flags.run;
    let given = given_checkpoint(flags.config.as_deref(), run, matches).map_err(Exit::configuration)?;
    let Some(path) = resume.resume.clone().or(given) else {
        return Ok(flags.resolve(&RunConfig::default(), matches)?.0);
    };
    let (folder, manifest) = checkpoint_base::find(&path, run.last_epoch_of_checkpoint.as_deref())?;
    // A folder of checkpoints stays one, so that a number of epochs or a later start finds its place in it.
    let base = for_training(&manifest, root_of(&folder), path.clone());
    let (mut config, _) = flags.resolve(&base, matches)?;
    if let Some(dir) = &resume.resume {
        config.output_dir = root_of(dir);
        config.from_checkpoint = Some(path);
    }
    Ok(config)
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The command that goes on, where there is something to go on from; a line of its own.
fn continuation(output: &Path, command: &str) -> Option<String> {
    let folder = find(output, Which::Auto).ok()?;
    Some(format!(
        "the furthest checkpoint is {}; to go on:\n  {command} --resume {}",
        folder.display(),
        quoted(&output.to_string_lossy())
    ))
}

/// Makes the command that continues the last line of a run that ended before it was done, for whatever reason but a
/// configuration that would end it again.
pub fn with_continuation(ended: Result<u8>, config: &RunConfig, command: &str) -> Result<u8> {
    let code = match &ended {
        Ok(code) => *code,
        Err(e) => e.downcast_ref::<Exit>().map_or(EXIT_ERROR, |x| x.code),
    };
    if matches!(code, EXIT_OK | EXIT_CONFIGURATION) {
        return ended;
    }
    let Some(line) = continuation(&config.output_dir, command) else { return ended };
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
    fn a_run_that_is_done_or_cannot_be_run_has_no_continuation() {
        let dir = tempfile::tempdir().unwrap();
        let config = RunConfig { output_dir: dir.path().into(), ..RunConfig::default() };
        assert_eq!(with_continuation(Ok(4), &config, "octrain train").unwrap(), 4, "nothing to go on from");
        std::fs::create_dir(dir.path().join("1")).unwrap();
        std::fs::write(dir.path().join("1/manifest.json"), "{}").unwrap();
        assert_eq!(with_continuation(Ok(0), &config, "octrain train").unwrap(), 0);
        let told = with_continuation(Ok(4), &config, "octrain train").unwrap_err();
        assert_eq!(told.downcast_ref::<Exit>().unwrap().code, 4);
        let line = format!("  octrain train --resume {}", dir.path().display());
        assert_eq!(told.to_string().lines().last(), Some(&line[..]));
        let failed = Exit { code: 1, message: "it broke".into() };
        let told = with_continuation(Err(failed.into()), &config, "octrain train").unwrap_err().to_string();
        assert!(told.starts_with("it broke\n") && told.ends_with(&line), "{told}");
    }
}
