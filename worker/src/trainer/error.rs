//! What can end a run.

use crate::checkpoint::CheckpointError;
use crate::collective::{Cause, CollectiveError, StoreError};
use crate::data::DataError;
use crate::exec::{ExecError, words};
use crate::import::ImportError;
use crate::metrics::{ReportError, TraceError};
use crate::models::ModelError;
use crate::native::{NativeError, says_no_memory};
use crate::optim::OptimError;
use crate::session::{FailureKind, SessionError};

/// An error of a run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The network.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A step.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// Execution.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Ranks.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// Rank 0's decision did not reach this rank.
    #[error("the ranks cannot agree on where to start: {0}")]
    Begin(#[from] StoreError),
    /// Checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A network of another program's.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The coordinator.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The report file.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The trace file.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// NaN or infinity, traced (`octrain debug`).
    #[error("the first layer with NaN or infinite values is `{node}` ({count} of them): {source}")]
    FirstNonFinite {
        /// The node.
        node: String,
        /// Values that are not finite.
        count: u64,
        /// What it led to.
        source: OptimError,
    },
    /// The device, or this host, has not as much memory as was asked for.
    #[error(
        "out of memory: lower --batch-size, the images of a microbatch, which is {batch}; with --global-batch-size a step keeps its size ({what})"
    )]
    OutOfMemory {
        /// Images of a microbatch.
        batch: usize,
        /// The allocator's words.
        what: String,
    },
    /// A sum over ranks that is not the sum.
    #[error("{0}: the collective, or the memory of a worker, is at fault")]
    WrongSum(String),
    /// A setting that cannot be met.
    #[error("{0}")]
    Config(String),
    /// What the plan was made for is not there any more.
    #[error(
        "what this run goes on from has changed while the job was being planned ({what}): the plan has {planned} images in a step, not {now}; nothing was done, start it again"
    )]
    FolderChanged {
        /// What has changed.
        what: &'static str,
        /// Global batch of the plan.
        planned: u64,
        /// Global batch as the folder is now.
        now: u64,
    },
    /// A signal came where there is no state of this run's own yet.
    #[error(
        "asked to stop during {0}: there is nothing to save yet, and what the run started from is as it was"
    )]
    Stopped(&'static str),
    /// It was about to be let in, and fewer workers are wanted now.
    #[error("the job has as many workers as are wanted, since fewer are; this one did nothing in it yet")]
    NotWanted,
    /// The validation set is empty.
    #[error("the validation set has no readable image; check the folder `val/`")]
    NothingToEvaluate,
    /// Another worker was lost, and the job goes on in another generation.
    #[error("the generation of this worker is over: {0}")]
    Regrouped(String),
    /// The coordinator ended the job because of another worker.
    #[error("the job was ended by the coordinator: {0}")]
    Aborted(String),
}

impl From<tch::TchError> for TrainError {
    fn from(e: tch::TchError) -> Self {
        TrainError::Exec(e.into())
    }
}

/// An allocator's words among an error and its sources: those of libtorch and of the native parts alone, so that no
/// name of a file can be taken for them.
fn no_memory(error: &TrainError) -> Option<String> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = next {
        let native = e.is::<tch::TchError>() || e.is::<NativeError>();
        let words = words(e);
        if native && says_no_memory(&words) {
            return Some(words);
        }
        next = e.source();
    }
    match error {
        TrainError::Data(e @ DataError::Memory { .. }) => Some(e.to_string()),
        e => e.collective().filter(|e| e.cause() == Cause::Memory).map(CollectiveError::to_string),
    }
}

impl TrainError {
    /// The error, or, where memory has run out, one that says what can be done about it. `batch`: images of a
    /// microbatch.
    pub fn with_advice(self, batch: usize) -> Self {
        match no_memory(&self) {
            Some(what) => TrainError::OutOfMemory { batch, what },
            None => self,
        }
    }

    /// The error of a group of ranks, where it is one.
    fn collective(&self) -> Option<&CollectiveError> {
        match self {
            TrainError::Collective(e) | TrainError::Optim(OptimError::Collective(e)) => Some(e),
            _ => None,
        }
    }

    /// Whether it may be the echo of another worker's end.
    pub fn is_peers(&self) -> bool {
        matches!(self.kind(), FailureKind::Communication | FailureKind::Waited)
    }

    /// [`Self::kind`] in a job that `survives` the loss of its workers, or does not. Where it does, whoever fails on what all
    /// work on, one after the other, is not to be given up for it: a disk that is full is so for the next one, too.
    pub fn kind_among(&self, survives: bool) -> FailureKind {
        let shared = match self {
            TrainError::Checkpoint(e) => e.is_storage(),
            TrainError::Report(_) => true,
            _ => false,
        };
        if survives && shared { FailureKind::External } else { self.kind() }
    }

    /// What the coordinator makes of it: whether trying again can help, whether another worker's end may be the cause,
    /// and whether any worker's numbers are worth saving.
    pub fn kind(&self) -> FailureKind {
        match self {
            TrainError::Model(_)
            | TrainError::Config(_)
            | TrainError::OutOfMemory { .. }
            | TrainError::NothingToEvaluate => FailureKind::Configuration,
            // A process that is not of this job is in the way and may soon be gone, or has changed the folder.
            TrainError::Checkpoint(CheckpointError::InUse { .. }) | TrainError::FolderChanged { .. } => {
                FailureKind::External
            }
            TrainError::Data(e) if e.is_configuration() => FailureKind::Configuration,
            // Others have gone on, or are about to.
            TrainError::Checkpoint(CheckpointError::GivenUp { .. }) => FailureKind::Communication,
            TrainError::Checkpoint(e) if e.is_configuration() => FailureKind::Configuration,
            TrainError::Import(e) if e.is_configuration() => FailureKind::Configuration,
            TrainError::Optim(
                OptimError::Graph(_)
                | OptimError::NoImages { .. }
                | OptimError::NoCalibration { .. }
                | OptimError::Int8Forward { .. },
            ) => FailureKind::Configuration,
            TrainError::FirstNonFinite { .. } | TrainError::Exec(ExecError::NonFinite(_)) => {
                FailureKind::NotFinite
            }
            TrainError::Optim(e) if e.is_not_finite() => FailureKind::NotFinite,
            TrainError::Begin(StoreError::Timeout { .. }) => FailureKind::Waited,
            TrainError::Begin(_) | TrainError::Aborted(_) | TrainError::Regrouped(_) => {
                FailureKind::Communication
            }
            e => match e.collective().map(CollectiveError::cause) {
                Some(Cause::Waited) => FailureKind::Waited,
                Some(Cause::Peers) => FailureKind::Communication,
                Some(Cause::Memory | Cause::Setup) => FailureKind::Configuration,
                Some(Cause::Own) | None => FailureKind::Own,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::observer::NonFinite;

    fn torch(words: &str) -> tch::TchError {
        tch::TchError::Torch(words.into())
    }

    #[test]
    fn out_of_memory_is_a_configuration_error_that_names_the_flag_wherever_it_comes_from() {
        let cuda = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 79.10 GiB\nException raised from malloc at CUDACachingAllocator.cpp:1234 (most recent call first):\nframe #0";
        let cpu = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nframe #0: c10";
        let native = |words: &str| ExecError::Native { node: "q".into(), source: NativeError(words.into()) };
        let errors: [TrainError; 8] = [
            torch(cuda).into(),
            ExecError::Node { node: "conv1".into(), source: torch(cuda) }.into(),
            OptimError::from(torch(cpu)).into(),
            DataError::Torch(torch(cpu)).into(),
            DataError::Memory { mib: 3 }.into(),
            native("CUDA, launching: CUDA_ERROR_OUT_OF_MEMORY").into(),
            OptimError::from(ExecError::Torch(torch("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))).into(),
            OptimError::from(native("std::bad_alloc")).into(),
        ];
        for e in errors {
            let before = e.to_string();
            let e = e.with_advice(256);
            assert_eq!(e.kind(), FailureKind::Configuration, "{before}");
            let told = e.to_string();
            assert!(
                told.contains("--batch-size") && told.contains("256") && !told.contains("frame #0"),
                "{told}"
            );
        }
    }

    #[test]
    fn a_failed_collective_is_the_failure_of_whoever_caused_it() {
        let failed = |cause, why: &str| CollectiveError::Failed {
            backend: "nccl",
            call: "all_reduce",
            rank: 1,
            number: 3,
            bytes: 64,
            cause,
            why: why.into(),
        };
        let kinds = [
            (Cause::Waited, FailureKind::Waited),
            (Cause::Peers, FailureKind::Communication),
            (Cause::Own, FailureKind::Own),
            (Cause::Memory, FailureKind::Configuration),
            (Cause::Setup, FailureKind::Configuration),
        ];
        for (cause, kind) in kinds {
            let e = failed(cause, "words");
            assert_eq!(TrainError::Collective(e.clone()).kind(), kind, "{cause:?}");
            assert_eq!(TrainError::from(OptimError::from(e)).kind(), kind, "{cause:?} in a step");
        }
        let begin = StoreError::Timeout { key: "k".into(), waited: std::time::Duration::ZERO };
        assert_eq!(TrainError::Begin(begin).kind(), FailureKind::Waited);
        let full = failed(Cause::Memory, "Cuda failure 2 'out of memory'");
        let e = TrainError::from(OptimError::from(full)).with_advice(64);
        assert!(matches!(e, TrainError::OutOfMemory { batch: 64, .. }), "{e}");
        assert!(e.to_string().contains("--batch-size") && e.to_string().contains("all_reduce on rank 1"));
        let ecc = failed(Cause::Own, "Cuda failure 214 'uncorrectable ECC error encountered'");
        assert!(!TrainError::Collective(ecc).with_advice(64).to_string().contains("--batch-size"));
    }

    #[test]
    fn numbers_that_are_not_finite_are_the_trainings_failure_and_no_workers() {
        let range = || ExecError::from(NonFinite { tensor: "relu".into(), count: 3 });
        let loss = || OptimError::Loss { loss: f64::NAN, step: 3, lr: 1e30 };
        let errors: [TrainError; 7] = [
            loss().into(),
            OptimError::Gradients { loss: 1.0, step: 3 }.into(),
            OptimError::ScaleFloor { scale: 1.0 }.into(),
            OptimError::Statistics.into(),
            OptimError::from(range()).into(),
            range().into(),
            TrainError::FirstNonFinite { node: "conv1".into(), count: 1, source: loss() },
        ];
        for e in errors {
            assert_eq!(e.kind(), FailureKind::NotFinite, "{e}");
        }
        let differ = OptimError::Diverged { what: "weights".into(), ranks: vec![1] };
        assert_eq!(TrainError::from(differ).kind(), FailureKind::Own);
    }

    #[test]
    fn a_full_disk_is_no_workers_fault_where_another_would_write_in_its_place() {
        let path = || std::path::PathBuf::from("/out/3");
        let io = || std::io::Error::from(std::io::ErrorKind::StaleNetworkFileHandle);
        for e in [
            CheckpointError::NoSpace { path: path() },
            CheckpointError::NoRoom { path: path(), free: 1, needed: 2 },
            CheckpointError::Io { what: "write", path: path(), source: io() },
        ] {
            let e = TrainError::Checkpoint(e);
            assert_eq!(
                [true, false].map(|s| e.kind_among(s)),
                [FailureKind::External, FailureKind::Own],
                "{e}"
            );
        }
        let e = TrainError::Checkpoint(CheckpointError::GivenUp { path: path() });
        assert_eq!([true, false].map(|s| e.kind_among(s)), [FailureKind::Communication; 2]);
        let own = TrainError::from(torch("CUDA error: uncorrectable ECC error"));
        assert_eq!(own.kind_among(true), FailureKind::Own);
    }

    #[test]
    fn other_faults_stay_what_they_are() {
        for words in
            ["CUDA error: an illegal memory access was encountered", "CUDA error: uncorrectable ECC error"]
        {
            let e = TrainError::from(torch(words)).with_advice(256);
            assert_eq!(e.kind(), FailureKind::Own);
            assert!(e.to_string().contains(words) && !e.to_string().contains("--batch-size"), "{e}");
        }
        // A file of that name says nothing about memory.
        let missing = DataError::Missing { path: "out of memory".into(), why: "no such file".into() };
        assert!(matches!(TrainError::from(missing).with_advice(1), TrainError::Data(_)));
    }
}
