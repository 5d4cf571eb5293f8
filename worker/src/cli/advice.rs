//! Which flag helps. The library's errors say what is wrong, where, and what to do in terms of its own; the command line
//! adds the flag that does it. Every error of the library that a command can end with passes here once.

use crate::analyze::AnalyzeError;
use crate::checkpoint::{CheckpointError, WEIGHTS};
use crate::config::ModelSettings;
use crate::data::{DataError, Split};
use crate::exec::ExecError;
use crate::export::ExportError;
use crate::graph::GraphError;
use crate::import::{Findings, ImportError};
use crate::models::ModelError;
use crate::optim::OptimError;
use crate::trainer::TrainError;
use std::any::Any;
use std::error::Error;

/// What an error can be looked at as.
trait Known {
    fn as_known<E: Error + 'static>(&self) -> Option<&E>;
}

impl Known for dyn Any {
    fn as_known<E: Error + 'static>(&self) -> Option<&E> {
        self.downcast_ref()
    }
}

impl Known for dyn Error {
    fn as_known<E: Error + 'static>(&self) -> Option<&E> {
        self.downcast_ref()
    }
}

/// The flag that helps against an error of the library, as a clause or sentences to be added to its text.
fn of<K: Known + ?Sized>(e: &K) -> Option<String> {
    let tried: [&dyn Fn() -> Option<Option<String>>; 10] = [
        &|| e.as_known().map(train),
        &|| e.as_known().map(data),
        &|| e.as_known().map(optim),
        &|| e.as_known().map(checkpoint),
        &|| e.as_known().map(exec),
        &|| e.as_known().map(export),
        &|| e.as_known().map(graph),
        &|| e.as_known().map(model),
        &|| e.as_known().map(analyze),
        &|| e.as_known().map(import),
    ];
    tried.iter().find_map(|of| of()).flatten()
}

fn joined(text: String, advice: Option<String>) -> String {
    match advice {
        Some(more) if more.starts_with(char::is_uppercase) => format!("{text}. {more}"),
        Some(more) => format!("{text}; {more}"),
        None => text,
    }
}

/// An error's text with the flag that helps, where it is one of the library's.
pub fn told<E: std::fmt::Display + 'static>(e: &E) -> String {
    joined(e.to_string(), of(e as &dyn Any))
}

/// The same of an error with its causes.
pub fn with_causes(e: &anyhow::Error) -> String {
    joined(format!("{e:#}"), e.chain().find_map(of))
}

fn say(text: impl Into<String>) -> Option<String> {
    Some(text.into())
}

fn train(e: &TrainError) -> Option<String> {
    use TrainError as E;
    match e {
        E::Model(e) => model(e),
        E::Data(e) => data(e),
        E::Optim(e) | E::FirstNonFinite { source: e, .. } => optim(e),
        E::Exec(e) => exec(e),
        E::Checkpoint(e) => checkpoint(e),
        E::Import(e) => import(e),
        E::Collective(_)
        | E::Begin(_)
        | E::Session(_)
        | E::Report(_)
        | E::Trace(_)
        | E::OutOfMemory { .. }
        | E::WrongSum(_)
        | E::Config(_)
        | E::FolderChanged { .. }
        | E::Stopped(_)
        | E::NotWanted
        | E::NothingToEvaluate
        | E::Aborted(_)
        | E::Regrouped(_) => None,
    }
}

fn data(e: &DataError) -> Option<String> {
    use DataError as E;
    match e {
        E::Empty { of_class: true, .. } => say("--allow-missing-classes takes the others without it"),
        E::Missing { .. } | E::Unlisted { .. } | E::Empty { .. } | E::Name { .. } => {
            say("--image-root says where the images are")
        }
        E::NoSplit { split: Split::Train, .. } => say(
            "--image-root says where the images are; where its folders are the classes themselves, say --val-fraction 0.1",
        ),
        E::NoSplit { split: Split::Val, .. } => say(
            "to hold out a part of one folder of classes, say --val-fraction 0.1, to train without evaluating, --run-scope train_only",
        ),
        E::OneSided { .. } => say("--allow-missing-classes allows it"),
        E::Classes { found, wanted, .. } => {
            say(format!("--num-of-class is {wanted}: leave the flag out, or say --num-of-class {found}"))
        }
        E::HeldOut { .. } => say("--val-fraction 0 holds nothing out"),
        E::TooFew { fits, .. } => say(format!("--batch-size {fits} fits")),
        E::Corrupt { .. } | E::Unread { .. } => say("--max-corrupt-images tolerates more"),
        // What is to be done about classes is said by whoever wants them.
        E::OtherClasses { .. }
        | E::OneClass { .. }
        | E::Settings(_)
        | E::Digits { .. }
        | E::Memory { .. }
        | E::Loader(_)
        | E::Panicked(_)
        | E::Torch(_) => None,
    }
}

fn optim(e: &OptimError) -> Option<String> {
    use OptimError as E;
    /// The first layer with numbers that are not finite.
    const DEBUG: &str = "`octrain debug` with the same flags names the first layer that makes NaN or infinity; the last checkpoint is untouched";
    match e {
        E::Qat(e) => say(format!("--qat-{} says so", e.field())),
        E::Graph(e) => graph(e),
        E::Exec(e) => exec(e),
        E::Loss { .. } => say(format!("lower --lr or lengthen --warmup-epochs; {DEBUG}")),
        E::Gradients { .. } | E::Statistics => say(format!("lower --lr; {DEBUG}")),
        E::ScaleFloor { .. } => say("train with --amp bf16, or lower --lr"),
        E::NoTeacher => say("--qat-distill takes it from --from-pretrained-params, or from --qat-teacher"),
        E::TeacherLacks { .. } | E::TeacherTask { .. } | E::TeacherPasses(_) => {
            say("--qat-teacher says which")
        }
        E::Int8Forward { .. } => say("leave out --qat-int8-forward"),
        E::NoCalibration { .. } => say("--qat-calibration-images says how many"),
        E::Data(e) => data(e),
        E::Collective(_)
        | E::StatisticsDue { .. }
        | E::LocalMicrobatches { .. }
        | E::ObserverWithoutQat
        | E::TeacherWithoutDistillation
        | E::Positions(_)
        | E::NoImages { .. }
        | E::Range { .. }
        | E::MixedMomentum
        | E::Diverged { .. } => None,
    }
}

fn exec(e: &ExecError) -> Option<String> {
    use ExecError as E;
    match e {
        E::NoRange(_) => say("train with --qat from it"),
        E::OneValue { .. } => say("--batch-size is the images of a microbatch, --image-shape their size"),
        E::NonFinite(_) => say("lower --lr; `octrain debug` finds the first such layer"),
        E::Codes { .. } => say("leave out --qat-int8-forward"),
        E::Node { .. }
        | E::Torch(_)
        | E::NoExecution { .. }
        | E::Native { .. }
        | E::Lacks { .. }
        | E::State { .. } => None,
    }
}

fn export(e: &ExportError) -> Option<String> {
    use ExportError as E;
    match e {
        E::Graph(e) => graph(e),
        E::NoRange(_) => say("`octrain train --qat` or `octrain quantize` make one from it"),
        E::Opset(_) => say("--opset says which"),
        E::FloatType(_) => say("the flags are --float-type, --profile and --opset"),
        E::Missing(_) | E::NotFinite { .. } | E::Unsupported { .. } => None,
    }
}

fn graph(e: &GraphError) -> Option<String> {
    use GraphError as E;
    match e {
        E::SkipMatchesNothing { pattern, .. } | E::SkipsUnquantized { pattern, .. } => {
            say(format!("--qat-skip is '{pattern}'; `octrain graph` shows all names"))
        }
        E::NoPlacementRule { node, .. } => say(format!("--qat-skip {node}")),
        E::Node { .. } | E::Malformed { .. } => None,
    }
}

fn model(e: &ModelError) -> Option<String> {
    use ModelError as E;
    match e {
        E::Unknown { .. } => say("--model-arch-name says which"),
        E::Channels(_) | E::Shape { .. } => say("--image-shape says how large they are"),
    }
}

fn checkpoint(e: &CheckpointError) -> Option<String> {
    use CheckpointError as E;
    const ANOTHER: &str = "Or give another --output-dir";
    const REMOVES: &str = "which removes those once the first new checkpoint is complete";
    match e {
        E::NoSpace { .. } => say("`octrain train --resume` goes on"),
        E::Damaged { .. } => say(
            "an earlier checkpoint of its run is taken with --last-epoch-of-checkpoint N, or by its own folder",
        ),
        E::InUse { .. } => say(
            "--output-dir names another. If these are the tasks of one job, started by srun or mpirun, they do not know of each other: start them with `octrain launch` and one `octrain-coordinator`, or `octrain train --nproc N` once",
        ),
        E::Occupied { path, .. } => {
            let path = path.display();
            say(format!(
                "To go on with what is there: `octrain train --resume {path}` (or --last-epoch-of-checkpoint auto, with the same settings). To start anew there: --overwrite, {REMOVES}. {ANOTHER}"
            ))
        }
        E::Behind { path, start, .. } => {
            let path = path.display();
            say(format!(
                "To go on from the furthest: `octrain train --resume {path}`. To go on from {start} all the same: `octrain train --resume {path}/{start} --overwrite`, {REMOVES}. {ANOTHER}"
            ))
        }
        E::Unwritable { .. } | E::NoRoom { .. } => say("--output-dir names another"),
        // It was given for its weights.
        E::Foreign { wanted, .. } if *wanted == WEIGHTS => None,
        E::Foreign { .. } | E::NoSettings { .. } | E::Contradiction { .. } => {
            say("weights alone are taken with --from-pretrained-params")
        }
        E::Mismatch { network, own, .. } => {
            let own = own.as_ref().filter(|own| !own.eq_ignore_ascii_case(network));
            say(format!(
                "--model-arch-name says which network is trained (not given: {}{}), --allow-mismatch takes what fits and initialises the rest",
                ModelSettings::default().model_arch_name,
                own.map_or_else(String::new, |own| format!("; that of this checkpoint: {own}"))
            ))
        }
        // What of it can be done is in its hint.
        E::Other { .. }
        | E::Broken { .. }
        | E::NotFinite { .. }
        | E::NotFound { .. }
        | E::Graph { .. }
        | E::Unfit { .. }
        | E::Io { .. }
        | E::GivenUp { .. }
        | E::Setting { .. }
        | E::NotShared { .. }
        | E::Format { .. } => None,
    }
}

fn import(e: &ImportError) -> Option<String> {
    use ImportError as E;
    match e {
        E::Model(e) => model(e),
        // What is advised of checkpoints is not of a file of somebody else's.
        E::Checkpoint(CheckpointError::Foreign { .. }) => None,
        E::Checkpoint(e) => checkpoint(e),
        E::Unfit { findings, .. } | E::NoNetwork { findings, .. } => {
            say(format!("--model-arch-name says which network it is{}", all_of(findings)))
        }
        E::Untaken { findings, .. } if findings.0.iter().any(|f| f.contains("shape of an image")) => {
            say("--image-shape C,H,W says the shape of an image")
        }
        E::Untaken { findings, .. } | E::Incomplete { findings, .. } if findings.is_shortened() => {
            say(all_of(findings).trim_start_matches(", "))
        }
        E::Channels { found, .. } => {
            say(format!("--image-shape {found},224,224 says so, with their height and width"))
        }
        E::Unread { .. }
        | E::Unknown { .. }
        | E::Unlike { .. }
        | E::Untaken { .. }
        | E::Incomplete { .. } => None,
    }
}

/// How to be told all of what is shortened.
fn all_of(findings: &Findings) -> &'static str {
    if findings.is_shortened() { ", and OCTRAIN_LOG=debug names all that is meant" } else { "" }
}

fn analyze(e: &AnalyzeError) -> Option<String> {
    use AnalyzeError as E;
    match e {
        E::Exec(e) => exec(e),
        E::Graph(e) => graph(e),
        E::Data(e) => data(e),
        E::Torch(_) | E::Native(_) | E::NonFinite { .. } | E::NoImages { .. } | E::NothingQuantized => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn missing() -> DataError {
        DataError::Missing { path: "/data".into(), why: "no such folder".into() }
    }

    #[test]
    fn an_error_of_the_library_is_told_with_its_flag_however_deep_it_is() {
        let flag = "; --image-root says where the images are";
        assert!(told(&missing()).ends_with(flag), "{}", told(&missing()));
        let trained = TrainError::from(missing());
        assert_eq!(told(&trained), told(&missing()));
        let deep = anyhow::Error::from(trained).context("cannot train");
        let text = with_causes(&deep);
        assert!(text.starts_with("cannot train: `/data` is not there") && text.ends_with(flag), "{text}");
        assert_eq!(told(&"said by the command line itself"), "said by the command line itself");
    }

    #[test]
    fn every_flag_that_is_advised_is_one() {
        let command = super::super::Cli::command();
        let known: Vec<&str> = command
            .get_subcommands()
            .flat_map(clap::Command::get_arguments)
            .filter_map(clap::Arg::get_long)
            .collect();
        let code = include_str!("advice.rs").split("#[cfg(test)]").next().unwrap_or_default();
        let name = |text: &str| {
            let end = text
                .find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-')
                .unwrap_or(text.len());
            text[..end].to_string()
        };
        let advised: Vec<String> = code.split("--").skip(1).map(name).filter(|n| !n.is_empty()).collect();
        assert!(advised.len() > 20, "{advised:?}");
        for flag in advised {
            // `--qat-{field}`.
            let known = known.iter().any(|k| *k == flag || flag.ends_with('-') && k.starts_with(&flag));
            assert!(known, "there is no --{flag}");
        }
    }

    #[test]
    fn sentences_follow_a_full_stop_and_clauses_a_semicolon() {
        let occupied = CheckpointError::Occupied { path: "out".into(), why: "it holds 3".into() };
        let text = told(&occupied);
        assert!(text.contains("take another folder. To go on with what is there"), "{text}");
        for part in ["octrain train --resume out`", "--overwrite", "--output-dir"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let behind = CheckpointError::Behind { path: "out".into(), start: "1".into(), names: "2".into() };
        assert!(told(&behind).contains("out/1 --overwrite`"));
        let weights =
            |wanted| CheckpointError::Foreign { path: "x".into(), wanted, why: "it is text".into() };
        assert!(told(&weights("a checkpoint")).ends_with("taken with --from-pretrained-params"));
        assert!(!told(&weights(WEIGHTS)).contains("--from"), "{}", told(&weights(WEIGHTS)));
        let floor = OptimError::ScaleFloor { scale: 1.0 };
        assert!(told(&TrainError::from(floor)).contains("learning rate; train with --amp bf16"));
    }
}
