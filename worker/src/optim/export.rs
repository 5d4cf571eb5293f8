//! A program's network as a file for a runtime.

use super::source::Source;
use super::{OptimError, Program};
use crate::checkpoint::{self, CheckpointError};
use crate::export::{self, About, ExportError, Exported, FloatType, Options, Profile, Task, TaskError};
use crate::strategy::Purpose;
use prost::Message;
use std::path::Path;

/// Why a program's network was not written.
#[derive(Debug, thiserror::Error)]
pub enum ProgramExportError {
    /// The program has no ranges.
    #[error(
        "the program was made without Strategy::qat, so it has no activation ranges: export Profile::Fp32, or train with qat"
    )]
    NotQuantized,
    /// The task is that of another network.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The network cannot be written for this runtime.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Its weights cannot be read.
    #[error(transparent)]
    Program(#[from] OptimError),
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] CheckpointError),
}

/// ONNX operator set of files that a program writes.
const OPSET: i64 = 13;

impl Program {
    /// The network as `profile` deploys it: the passes that the strategy asks for when it is exported, with the weights
    /// and ranges of [`Program::network`] as they are now. The file says what it was trained by and, where `task` is given, what its outputs are and how
    /// images are prepared for it.
    pub fn deployed(&self, profile: Profile, task: Option<&Task>) -> Result<Exported, ProgramExportError> {
        let Source { graph: network, strategy: trained, .. } = &self.source;
        let strategy = trained.deployed(profile.target()).ok_or(ProgramExportError::NotQuantized)?;
        task.map(|task| task.check(network)).transpose()?;
        let graph = self.source.graph_for(&strategy, Purpose::Export).map_err(OptimError::from)?;
        let state = self.network().to_state().map_err(OptimError::from)?;
        let options = Options { profile, opset: OPSET, float_type: FloatType::Fp32 };
        let position = self.position();
        let about = About { strategy: trained, position, task, checkpoint: None, settings: None };
        Ok(export::emit(&graph, &state, options, export::metadata(&graph, &state, about))?)
    }

    /// Writes [`Self::deployed`] to a file that does not say what the outputs are: whole, or not at all.
    pub fn export(&self, profile: Profile, path: impl AsRef<Path>) -> Result<(), ProgramExportError> {
        self.write(profile, path.as_ref(), None)
    }

    /// Writes [`Self::deployed`] to a file that says names of the classes and the preprocessing, as those of `octrain export` do:
    /// `octrain infer` and `octrain predict` take it without being told either. Whole, or not at all.
    ///
    /// # Errors
    /// When the task is not that of the network, besides those of [`Self::export`].
    pub fn export_for(
        &self,
        profile: Profile,
        path: impl AsRef<Path>,
        task: &Task,
    ) -> Result<(), ProgramExportError> {
        self.write(profile, path.as_ref(), Some(task))
    }

    fn write(&self, profile: Profile, path: &Path, task: Option<&Task>) -> Result<(), ProgramExportError> {
        let model = self.deployed(profile, task)?.model;
        Ok(checkpoint::write_atomic(path, &model.encode_to_vec())?)
    }
}
