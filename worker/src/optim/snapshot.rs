//! A program as a checkpoint, and a program that goes on where a checkpoint stands.

use super::loss_scale::LossScale;
use super::{OptimError, Program};
use crate::checkpoint::{
    HostTensor, LossScaleState, Manifest, Mismatch, Position, QatState, Snapshot, State, match_weights,
};
use crate::data::Preprocessing;
use crate::exec::WeightsLayout;
use crate::graph::NetworkFacts;
use crate::strategy::Purpose;
use tch::{Device, Tensor};

/// Prefix of momentum tensors.
const MOMENTUM: &str = "momentum.";

/// Name of a learned scale's momentum.
fn scale_momentum(quantizer: &str) -> String {
    format!("{MOMENTUM}quant.{quantizer}.step")
}

/// Why a program does not go on from a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Its numbers are not those of the program's network.
    #[error("the checkpoint does not match the network: {0}")]
    Mismatch(Mismatch),
    /// The numbers cannot be taken.
    #[error(transparent)]
    Program(#[from] OptimError),
}

impl From<tch::TchError> for RestoreError {
    fn from(e: tch::TchError) -> Self {
        RestoreError::Program(e.into())
    }
}

impl Program {
    /// The program as it stands, to be saved by [`crate::checkpoint::save`]: the network before any pass, its strategy,
    /// weights, ranges and momentum, and where it stands, in steps of an epoch that has not ended. `class_names` are in the
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
        let (network, passes) = &self.source;
        let (scale, good_steps) = match self.loss_scale {
            LossScale::Dynamic { scale, good } => (scale, good),
            other => (other.factor(), 0),
        };
        let calibrated = self.weights.ranges_host()?.iter().flatten().count();
        let qat = self.strategy.qat.as_ref().map(|qat| QatState {
            target: qat.target,
            calibrated,
            observers_frozen: !self.phase(self.global_step).observe,
        });
        let manifest = Manifest {
            passes: passes.names(&self.strategy, &NetworkFacts::of(network), Purpose::Train),
            position: Position { epoch: 0, step_in_epoch: self.global_step, global_step: self.global_step },
            world_size: self.collective.world_size(),
            loss_scale: LossScaleState { scale, good_steps },
            qat,
            ..Manifest::new(network, class_names, preprocessing, self.strategy.clone())
        };
        let (model, optimizer) = (self.weights.to_state()?, self.momentum_state()?);
        Ok(Snapshot { manifest, graph: network.clone(), model, optimizer })
    }

    /// The momentum of parameters and learned scales by name.
    fn momentum_state(&self) -> Result<State, OptimError> {
        let layout = &self.weights.layout;
        let host = Vec::<f32>::try_from(&self.momentum().f_to_device(Device::Cpu)?)?;
        let trained = layout.trainable.iter().map(|s| {
            let data = host[s.offset as usize..(s.offset + s.len) as usize].to_vec();
            let shape = s.shape.iter().map(|&d| d as usize).collect();
            (format!("{MOMENTUM}{}", s.name), HostTensor { shape, data })
        });
        let learned = Vec::<f32>::try_from(&self.scale_momentum().f_to_device(Device::Cpu)?)?;
        let learned = layout.quantizers.iter().zip(learned).map(|(name, momentum)| {
            (scale_momentum(name), HostTensor { shape: vec![1], data: vec![momentum] })
        });
        Ok(trained.chain(learned).collect())
    }

    /// Takes everything a checkpoint has of this program: weights, ranges, momentum, a dynamic loss scale, and the number of
    /// steps done. On error the numbers are not to be used.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        let mismatch = match_weights(self.executor.graph(), &snapshot.model);
        if !mismatch.is_empty() {
            return Err(RestoreError::Mismatch(mismatch));
        }
        self.weights.load(&snapshot.model).map_err(OptimError::from)?;
        self.restore_momentum(&snapshot.optimizer)?;
        if let LossScale::Dynamic { .. } = self.loss_scale {
            let LossScaleState { scale, good_steps } = snapshot.manifest.loss_scale;
            self.loss_scale = LossScale::Dynamic { scale, good: good_steps };
        }
        self.global_step = snapshot.manifest.position.global_step;
        Ok(())
    }

    fn restore_momentum(&self, state: &State) -> Result<(), RestoreError> {
        let missing =
            |name: String| RestoreError::Mismatch(Mismatch { missing: vec![name], ..Mismatch::default() });
        let layout = &self.weights.layout;
        for (slot, mut view) in
            layout.trainable.iter().zip(WeightsLayout::views(self.momentum(), &layout.trainable))
        {
            let name = format!("{MOMENTUM}{}", slot.name);
            let Some(t) = state.get(&name).filter(|t| t.data.len() as i64 == slot.len) else {
                return Err(missing(name));
            };
            view.f_copy_(&Tensor::f_from_slice(&t.data)?.f_view(slot.shape.as_slice())?)?;
        }
        let learned = self.scale_momentum();
        for (i, name) in layout.quantizers.iter().enumerate().take(learned.size()[0] as usize) {
            let name = scale_momentum(name);
            let Some(&[momentum]) = state.get(&name).map(|t| t.data.as_slice()) else {
                return Err(missing(name));
            };
            let _ = learned.get(i as i64).f_fill_(f64::from(momentum))?;
        }
        Ok(())
    }
}
