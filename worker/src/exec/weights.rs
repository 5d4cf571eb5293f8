//! All numbers of a network in three flat FP32 tensors: trainable parameters, BatchNorm's running statistics,
//! quantizers' ranges. Parameters are views, so updates and communication work on whole ranges.

use super::ExecError;
use crate::checkpoint::{HostTensor, State, range_key};
use crate::graph::{DecayGroup, Graph, Initializer, ParamKind};
use crate::quant::scheme::{MIN_SCALE, Scheme};
use tch::{Device, Kind, Tensor};

/// Where a parameter lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// Name of the parameter.
    pub name: String,
    /// Shape.
    pub shape: Vec<i64>,
    /// What it is.
    pub kind: ParamKind,
    /// What it is drawn from before training, where it is a weight.
    pub initializer: Initializer,
    /// First element in the flat tensor it belongs to.
    pub offset: i64,
    /// Number of elements.
    pub len: i64,
}

/// The order of parameters in the flat tensors; a pure function of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsLayout {
    /// Trainable parameters: by group of decay, each group from the last layer to the first (the order in which
    /// gradients arrive).
    pub trainable: Vec<Slot>,
    /// Elements of each group, in the order in which they lie, without gaps.
    pub groups: Vec<(DecayGroup, i64)>,
    /// Elements of all trainable parameters.
    pub trainable_len: i64,
    /// Running statistics: mean and variance of each BatchNorm in graph order.
    pub buffers: Vec<Slot>,
    /// Elements of all running statistics.
    pub buffers_len: i64,
    /// Names of the quantizers, in graph order.
    pub quantizers: Vec<String>,
    /// Their schemes.
    pub schemes: Vec<Scheme>,
}

fn slots<'a>(params: impl Iterator<Item = &'a crate::graph::Param>, start: i64) -> (Vec<Slot>, i64) {
    let mut offset = start;
    let slots = params
        .map(|p| {
            let len = p.len() as i64;
            offset += len;
            let shape = p.shape.iter().map(|&d| d as i64).collect();
            Slot {
                name: p.name.clone(),
                shape,
                kind: p.kind,
                initializer: p.initializer,
                offset: offset - len,
                len,
            }
        })
        .collect();
    (slots, offset)
}

impl WeightsLayout {
    /// The layout of a graph.
    pub fn new(graph: &Graph) -> Self {
        let (mut trainable, mut groups, mut trainable_len) = (Vec::new(), Vec::new(), 0);
        for group in DecayGroup::ALL {
            let of_group = graph.params.iter().rev().filter(|p| p.kind.decay_group() == Some(group));
            let (slots, end) = slots(of_group, trainable_len);
            trainable.extend(slots);
            groups.push((group, end - trainable_len));
            trainable_len = end;
        }
        let (buffers, buffers_len) = slots(graph.params.iter().filter(|p| !p.kind.trainable()), 0);
        let (quantizers, schemes) = graph.quantizers().map(|(_, q)| (q.name.clone(), q.scheme)).unzip();
        Self { trainable, groups, trainable_len, buffers, buffers_len, quantizers, schemes }
    }

    /// Views of a flat tensor, one a slot.
    pub fn views(flat: &Tensor, slots: &[Slot]) -> Vec<Tensor> {
        slots.iter().map(|s| flat.narrow(0, s.offset, s.len).view(s.shape.as_slice())).collect()
    }

    /// Position of the quantizer of this name.
    pub fn quantizer_index(&self, name: &str) -> Option<usize> {
        self.quantizers.iter().position(|n| n == name)
    }

    /// Position among the trainable parameters.
    pub fn trainable_index(&self, name: &str) -> Option<usize> {
        self.trainable.iter().position(|s| s.name == name)
    }
}

/// A network's numbers.
pub struct Weights {
    /// Where everything lies.
    pub layout: WeightsLayout,
    /// Trainable parameters, `[trainable_len]`, FP32 masters.
    pub flat: Tensor,
    /// Running statistics, `[buffers_len]`.
    pub buffers: Tensor,
    /// Ranges (absolute maxima) of the quantizers, `[quantizers]`; negative: not known yet.
    pub ranges: Tensor,
    /// Largest codes of the quantizers, `[quantizers]`, FP32.
    pub qmax: Tensor,
}

impl Weights {
    /// Zeros, with running variances of 1 and unknown ranges.
    pub fn zeros(graph: &Graph, device: Device) -> Result<Self, ExecError> {
        let layout = WeightsLayout::new(graph);
        let f32s = (Kind::Float, device);
        let flat = Tensor::f_zeros([layout.trainable_len], f32s)?;
        let buffers = Tensor::f_zeros([layout.buffers_len], f32s)?;
        let ranges = Tensor::f_full([layout.quantizers.len() as i64], -1.0, f32s)?;
        let qmax: Vec<f32> = layout.schemes.iter().map(|scheme| scheme.qmax() as f32).collect();
        let qmax = Tensor::f_from_slice(&qmax)?.f_to_device(device)?;
        let weights = Self { layout, flat, buffers, ranges, qmax };
        weights.reset_statistics()?;
        Ok(weights)
    }

    /// Running means of 0 and variances of 1.
    pub(super) fn reset_statistics(&self) -> Result<(), ExecError> {
        for s in &self.layout.buffers {
            let value = f64::from(u8::from(s.kind == ParamKind::RunningVar));
            let _ = self.buffers.narrow(0, s.offset, s.len).f_fill_(value)?;
        }
        Ok(())
    }

    /// A checkpoint's numbers on `device`; ranges it does not have stay unknown. The first parameter or statistic that it
    /// does not have in the shape of `graph` is the error.
    pub fn of_state(graph: &Graph, state: &State, device: Device) -> Result<Self, ExecError> {
        let _guard = tch::no_grad_guard();
        let mut weights = Self::zeros(graph, device)?;
        match weights.load(state)?.into_iter().next() {
            Some(name) => Err(ExecError::Lacks { name }),
            None => Ok(weights),
        }
    }

    /// The same numbers once more, not copied.
    pub(super) fn shared(&self) -> Self {
        let [flat, buffers, ranges, qmax] =
            [&self.flat, &self.buffers, &self.ranges, &self.qmax].map(Tensor::shallow_clone);
        Self { layout: self.layout.clone(), flat, buffers, ranges, qmax }
    }

    /// Moves these numbers towards `others` of the same layout: `kept` is the part of these that stays, and 0 copies. A range
    /// that is not known here is copied.
    pub fn follow(&mut self, others: &Self, kept: f64) -> Result<(), tch::TchError> {
        let _guard = tch::no_grad_guard();
        let unknown = self.ranges.f_lt(0.0)?;
        let pairs = [
            (&mut self.flat, &others.flat),
            (&mut self.buffers, &others.buffers),
            (&mut self.ranges, &others.ranges),
        ];
        for (mine, theirs) in pairs {
            match kept == 0.0 {
                true => mine.f_copy_(theirs)?,
                // Not a sum of two products: what both have alike stays as it is.
                false => drop(mine.f_lerp_(theirs, 1.0 - kept)?),
            }
        }
        let ranges = others.ranges.f_where_self(&unknown, &self.ranges)?;
        self.ranges.f_copy_(&ranges)
    }

    /// FP32 scales of the quantizers, `[quantizers]`: `max(range / qmax, MIN_SCALE)`.
    pub fn scales(&self) -> Result<Tensor, tch::TchError> {
        self.ranges.f_div(&self.qmax)?.f_clamp_min(f64::from(MIN_SCALE))
    }

    /// Device of the numbers.
    pub fn device(&self) -> Device {
        self.flat.device()
    }

    /// Views of the trainable parameters, in the layout's order.
    pub fn trainable(&self) -> Vec<Tensor> {
        WeightsLayout::views(&self.flat, &self.layout.trainable)
    }

    /// The view of one parameter or running statistic.
    pub fn get(&self, name: &str) -> Option<Tensor> {
        let find = |slots: &[Slot], flat: &Tensor| {
            slots
                .iter()
                .find(|s| s.name == name)
                .map(|s| flat.narrow(0, s.offset, s.len).view(s.shape.as_slice()))
        };
        find(&self.layout.trainable, &self.flat).or_else(|| find(&self.layout.buffers, &self.buffers))
    }

    /// Ranges by quantizer on the host; `None` for those not known.
    pub fn ranges_host(&self) -> Result<Vec<Option<f32>>, ExecError> {
        let host = Vec::<f32>::try_from(&self.ranges.f_to_device(Device::Cpu)?)?;
        Ok(host.into_iter().map(|r| (r >= 0.0).then_some(r)).collect())
    }

    /// Everything as named host tensors; unknown ranges are left out.
    pub fn to_state(&self) -> Result<State, ExecError> {
        let mut state = State::new();
        for (slots, flat) in [(&self.layout.trainable, &self.flat), (&self.layout.buffers, &self.buffers)] {
            let host = Vec::<f32>::try_from(&flat.f_to_device(Device::Cpu)?)?;
            for s in slots {
                let data = host[s.offset as usize..(s.offset + s.len) as usize].to_vec();
                let shape = s.shape.iter().map(|&d| d as usize).collect();
                state.insert(s.name.clone(), HostTensor { shape, data });
            }
        }
        for (name, range) in self.layout.quantizers.iter().zip(self.ranges_host()?) {
            if let Some(range) = range {
                state.insert(range_key(name), HostTensor { shape: vec![1], data: vec![range] });
            }
        }
        Ok(state)
    }

    /// Takes every parameter, statistic and range that `state` has by name and shape; returns the names of those
    /// it does not have. Ranges may be missing (they are then calibrated).
    pub fn load(&mut self, state: &State) -> Result<Vec<String>, ExecError> {
        let mut missing = Vec::new();
        for (slots, flat) in [(&self.layout.trainable, &self.flat), (&self.layout.buffers, &self.buffers)] {
            for s in slots {
                match state.get(&s.name) {
                    Some(t) if t.shape.iter().map(|&d| d as i64).eq(s.shape.iter().copied()) => {
                        flat.narrow(0, s.offset, s.len).f_copy_(&Tensor::f_from_slice(&t.data)?)?;
                    }
                    Some(_) | None => missing.push(s.name.clone()),
                }
            }
        }
        for (i, name) in self.layout.quantizers.iter().enumerate() {
            if let Some(t) = state.get(&range_key(name)) {
                let [range] = t.data[..] else {
                    return Err(ExecError::State { name: range_key(name), what: "is not one number".into() });
                };
                let _ = self.ranges.get(i as i64).f_fill_(f64::from(range))?;
            }
        }
        Ok(missing)
    }
}

/// FP32 scale per output channel of a weight `[out, ...]`: `max(absmax / qmax, MIN_SCALE)`.
pub fn weight_scales(weight: &Tensor, scheme: Scheme) -> Result<Tensor, tch::TchError> {
    let absmax = weight.f_flatten(1, -1)?.f_abs()?.f_amax([1], false)?;
    // By a tensor: libtorch multiplies by the reciprocal of a scalar on GPUs, which is another number at times.
    absmax.f_div(&absmax.f_full_like(scheme.qmax() as f64)?)?.f_clamp_min(f64::from(MIN_SCALE))
}
