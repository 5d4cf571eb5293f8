//! A program's network as a file for a runtime.

use super::{OptimError, Program};
use crate::checkpoint::{self, CheckpointError};
use crate::export::{self, ExportError, Exported, FloatType, Options, Profile};
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
    /// and ranges as they are now. `metadata` goes into the file as it is.
    pub fn deployed(
        &self,
        profile: Profile,
        metadata: Vec<(String, String)>,
    ) -> Result<Exported, ProgramExportError> {
        let deployed = self.source.strategy.deployed(profile.target());
        let strategy = deployed.ok_or(ProgramExportError::NotQuantized)?;
        let graph = self.source.graph_for(&strategy, Purpose::Export);
        let state = self.weights.to_state().map_err(OptimError::from)?;
        let options = Options { profile, opset: OPSET, float_type: FloatType::Fp32 };
        Ok(export::emit(&graph.map_err(OptimError::from)?, &state, options, metadata)?)
    }

    /// Writes [`Self::deployed`] to a file: whole, or not at all.
    pub fn export(&self, profile: Profile, path: impl AsRef<Path>) -> Result<(), ProgramExportError> {
        let model = self.deployed(profile, Vec::new())?.model;
        Ok(checkpoint::write_atomic(path.as_ref(), &model.encode_to_vec())?)
    }
}
