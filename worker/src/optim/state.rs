//! What an update rule keeps from step to step, and how checkpoints hold it: every buffer of every parameter under
//! `<buffer>.<parameter>`, those of learned scales under `<buffer>.quant.<quantizer>.step`, the number of updates, for rules
//! that count them, under `updates`.

use super::rule::UpdateRule;
use crate::checkpoint::{HostTensor, State};
use crate::exec::{ExecError, WeightsLayout};
use std::collections::BTreeSet;
use tch::{Device, Kind, Tensor};

/// Name of the number of updates. It is an FP32 number like all others: exact up to 2^24, and rounded beyond, where no bias
/// is left to be corrected.
const UPDATES: &str = "updates";

/// The buffers of an update rule, zeros before the first update.
#[derive(Debug)]
pub struct RuleState {
    /// The rule's name.
    rule: &'static str,
    names: &'static [&'static str],
    counts: bool,
    /// For every buffer one tensor of all parameters, flat, in the layout's order.
    pub(super) buffers: Vec<Tensor>,
    /// For every buffer one tensor of the learned scales, `[quantizers]`, or empty.
    pub(super) of_scales: Vec<Tensor>,
    /// Updates done.
    pub(super) updates: u64,
}

/// A stored state that is not of this rule and network.
#[derive(Debug)]
pub(super) enum StateError {
    /// It was made by another rule.
    OtherRule {
        /// The rule it is for.
        rule: &'static str,
        /// Buffers of the rule.
        wanted: String,
        /// Buffers that are stored.
        found: String,
    },
    /// A buffer of a parameter is missing, or has another size.
    Lacks {
        /// Its name.
        name: String,
    },
    /// libtorch refused.
    Exec(ExecError),
}

impl From<tch::TchError> for StateError {
    fn from(e: tch::TchError) -> Self {
        StateError::Exec(e.into())
    }
}

fn of_scale(buffer: &str, quantizer: &str) -> String {
    format!("{buffer}.quant.{quantizer}.step")
}

impl RuleState {
    /// Zeros for `trainable` parameters and `learned` scales.
    pub(super) fn new(
        rule: &dyn UpdateRule,
        trainable: i64,
        learned: i64,
        device: Device,
    ) -> Result<Self, tch::TchError> {
        let zeros = |n: i64| {
            let each = rule.buffers().iter().map(|_| Tensor::f_zeros([n], (Kind::Float, device)));
            each.collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            rule: rule.name(),
            names: rule.buffers(),
            counts: rule.counts(),
            buffers: zeros(trainable)?,
            of_scales: zeros(learned)?,
            updates: 0,
        })
    }

    /// All tensors, those of the parameters first.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.buffers.iter().chain(&self.of_scales)
    }

    /// Names of the buffers.
    pub fn names(&self) -> &'static [&'static str] {
        self.names
    }

    /// The buffer of this name, flat, in the order of the trainable parameters.
    pub fn buffer(&self, name: &str) -> Option<&Tensor> {
        self.names.iter().position(|n| *n == name).map(|i| &self.buffers[i])
    }

    /// Updates done, those of the runs before included where the rule counts them.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Everything by the names that checkpoints have for it.
    pub fn to_state(&self, layout: &WeightsLayout) -> Result<State, ExecError> {
        let host = |t: &Tensor| -> Result<Vec<f32>, ExecError> {
            Ok(Vec::<f32>::try_from(&t.f_to_device(Device::Cpu)?)?)
        };
        let mut state = State::new();
        for (name, (buffer, of_scales)) in self.names.iter().zip(self.buffers.iter().zip(&self.of_scales)) {
            let all = host(buffer)?;
            state.extend(layout.trainable.iter().map(|s| {
                let data = all[s.offset as usize..(s.offset + s.len) as usize].to_vec();
                let shape = s.shape.iter().map(|&d| d as usize).collect();
                (format!("{name}.{}", s.name), HostTensor { shape, data })
            }));
            state.extend(layout.quantizers.iter().zip(host(of_scales)?).map(|(quantizer, x)| {
                (of_scale(name, quantizer), HostTensor { shape: vec![1], data: vec![x] })
            }));
        }
        if self.counts {
            let data = vec![self.updates as f32];
            state.insert(UPDATES.into(), HostTensor { shape: vec![1], data });
        }
        Ok(state)
    }

    /// Takes a stored state.
    ///
    /// # Errors
    /// When it is of another rule, or not of this network.
    pub(super) fn load(&mut self, layout: &WeightsLayout, state: &State) -> Result<(), StateError> {
        let found: BTreeSet<&str> = state.keys().filter_map(|key| Some(key.split_once('.')?.0)).collect();
        if found != BTreeSet::from_iter(self.names.iter().copied()) {
            let found = match found.is_empty() {
                true => "nothing".into(),
                false => found.into_iter().collect::<Vec<_>>().join(" and "),
            };
            return Err(StateError::OtherRule { rule: self.rule, wanted: self.names.join(" and "), found });
        }
        let get = |name: String, len: i64| match state.get(&name) {
            Some(t) if t.data.len() as i64 == len => Ok(t),
            _ => Err(StateError::Lacks { name }),
        };
        let _guard = tch::no_grad_guard();
        for (name, (buffer, of_scales)) in self.names.iter().zip(self.buffers.iter().zip(&self.of_scales)) {
            for (slot, mut view) in
                layout.trainable.iter().zip(WeightsLayout::views(buffer, &layout.trainable))
            {
                let stored = get(format!("{name}.{}", slot.name), slot.len)?;
                view.f_copy_(&Tensor::f_from_slice(&stored.data)?.f_view(slot.shape.as_slice())?)?;
            }
            let learned = of_scales.size()[0] as usize;
            for (i, quantizer) in layout.quantizers.iter().enumerate().take(learned) {
                let stored = get(of_scale(name, quantizer), 1)?;
                let _ = of_scales.get(i as i64).f_fill_(f64::from(stored.data[0]))?;
            }
        }
        if self.counts {
            self.updates = get(UPDATES.into(), 1)?.data[0] as u64;
        }
        Ok(())
    }
}
