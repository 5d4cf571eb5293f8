//! A program as a checkpoint, and a program that goes on where a checkpoint stands.

use super::loss_scale::LossScale;
use super::source::Source;
use super::state::StateError;
use super::{OptimError, Program};
use crate::checkpoint::{
    Difference, LossScaleState, Made, Manifest, Mismatch, Position, QatState, Same, Snapshot, difference,
    match_weights,
};
use crate::data::Preprocessing;

/// Why a program does not go on from a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is of another network, or of one that was trained otherwise.
    #[error(
        "the checkpoint is not of this program: {0}; make the program of the checkpoint's own graph, strategy and passes"
    )]
    Differs(#[from] Difference),
    /// Its numbers are not those of the program's network.
    #[error("the checkpoint does not match the network: {0}")]
    Mismatch(Mismatch),
    /// Its optimizer's state was made by another update rule.
    #[error(
        "the checkpoint holds what another update rule keeps: {found}, and {rule} keeps {wanted}; go on with the rule it was made by, or take the weights alone"
    )]
    OtherRule {
        /// The program's rule.
        rule: &'static str,
        /// Buffers of the rule.
        wanted: String,
        /// Buffers that are stored.
        found: String,
    },
    /// The numbers cannot be taken.
    #[error(transparent)]
    Program(#[from] OptimError),
}

impl From<tch::TchError> for RestoreError {
    fn from(e: tch::TchError) -> Self {
        RestoreError::Program(e.into())
    }
}

impl From<StateError> for RestoreError {
    fn from(e: StateError) -> Self {
        match e {
            StateError::OtherRule { rule, wanted, found } => RestoreError::OtherRule { rule, wanted, found },
            StateError::Lacks { name } => {
                RestoreError::Mismatch(Mismatch { missing: vec![name], ..Mismatch::default() })
            }
            StateError::Exec(e) => RestoreError::Program(e.into()),
        }
    }
}

impl Program {
    /// The program as it stands, to be saved by [`crate::checkpoint::save`]: the network before any pass, its strategy,
    /// weights (their average, where one is kept, with those that it is of beside it),
    /// ranges and what the update rule keeps, and where it stands, in steps of an epoch that has not ended. `class_names` are in the
    /// order of the logits; `preprocessing` says how an image becomes the network's input. What else a manifest holds (an
    /// evaluation, where the training started from, settings) is its owner's to fill in.
    ///
    /// ```no_run
    /// # fn example(program: &octrain::optim::Program) -> Result<(), Box<dyn std::error::Error>> {
    /// use octrain::{checkpoint, data::Preprocessing};
    /// let preprocessing = Preprocessing {
    ///     crop_size: 32,
    ///     resize_short: 32,
    ///     normalize_scale: 1.0 / 255.0,
    ///     normalize_mean: [0.5; 3],
    ///     normalize_std: [0.25; 3],
    /// };
    /// let snapshot = program.snapshot(vec!["cat".into(), "dog".into()], preprocessing)?;
    /// let folder = checkpoint::save("runs/own".as_ref(), &snapshot)?;
    /// println!("octrain export --from-checkpoint {} --profile openvino --output x.onnx", folder.display());
    /// # Ok(()) }
    /// ```
    pub fn snapshot(
        &self,
        class_names: Vec<String>,
        preprocessing: Preprocessing,
    ) -> Result<Snapshot, OptimError> {
        let Source { graph: network, strategy, .. } = &self.source;
        let (scale, good_steps) = match self.updater.loss_scale {
            LossScale::Dynamic { scale, good } => (scale, good),
            other => (other.factor(), 0),
        };
        let calibrated = self.weights.ranges_host()?.iter().flatten().count();
        let qat = strategy.qat.as_ref().map(|qat| QatState {
            target: qat.target,
            calibrated,
            observers_frozen: !self.phase(self.global_step).observe,
        });
        let manifest = Manifest {
            passes: self.source.pass_names(),
            position: self.position(),
            world_size: self.collective().world_size(),
            loss_scale: LossScaleState { scale, good_steps },
            qat,
            ..Manifest::new(network, class_names, preprocessing, strategy.clone())
        };
        let unaveraged = self.average().map(|_| self.weights.to_state()).transpose()?;
        let (model, optimizer) = (self.network().to_state()?, self.optimizer_state()?);
        Ok(Snapshot { manifest, graph: network.clone(), model, unaveraged, optimizer })
    }

    /// Where it stands: steps of an epoch that has not ended.
    pub(super) fn position(&self) -> Position {
        Position { epoch: 0, step_in_epoch: self.global_step, global_step: self.global_step }
    }

    /// What its network is made of, to be compared with a checkpoint's.
    pub fn made(&self) -> Made<'_> {
        let Source { graph, strategy, .. } = &self.source;
        Made { graph, passes: self.source.pass_names(), strategy }
    }

    /// Takes everything a checkpoint has of this program: weights, their average, ranges, what the update rule keeps, a dynamic loss
    /// scale, and the number of steps done. An average that the checkpoint does not have begins with the next update.
    ///
    /// # Errors
    /// When the checkpoint's graph, passes or strategy are not the program's; nothing was taken then. On other errors the
    /// numbers are not to be used.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        self.restore_as(snapshot, Same::Everything)
    }

    /// [`Self::restore`] for a training that is changed on its way: `same` says in what the checkpoint has to agree with the
    /// program.
    pub fn restore_as(&mut self, snapshot: &Snapshot, same: Same) -> Result<(), RestoreError> {
        if let Some(difference) = difference(&snapshot.made(), &self.made(), same) {
            return Err(difference.into());
        }
        // Where the network's numbers are an average, training goes on with those that it is of.
        let trained = snapshot.unaveraged.as_ref().unwrap_or(&snapshot.model);
        let mismatch = match_weights(self.executor.graph(), trained);
        if !mismatch.is_empty() {
            return Err(RestoreError::Mismatch(mismatch));
        }
        self.weights.load(trained).map_err(OptimError::from)?;
        if let Some(average) = &mut self.updater.average {
            let stored = snapshot.unaveraged.is_some().then_some(&snapshot.model);
            average.restore(stored).map_err(OptimError::from)?;
        }
        self.load_optimizer_state(&snapshot.optimizer)?;
        if let LossScale::Dynamic { .. } = self.updater.loss_scale {
            let LossScaleState { scale, good_steps } = snapshot.manifest.loss_scale;
            self.updater.loss_scale = LossScale::Dynamic { scale, good: good_steps };
        }
        self.global_step = snapshot.manifest.position.global_step;
        // Statistics that were estimated anew were those of the weights that went.
        self.quantization.estimated = None;
        Ok(())
    }
}
