//! Q/DQ pairs: scales, codes and zero points of activations and weights, as each profile wants them.

use super::fold::FoldedWeights;
use super::profile::ZeroPoint;
use super::writer::{Quantized, Value, Writer};
use super::{ExportError, FloatType, Profile};
use crate::checkpoint::range_key;
use crate::graph::{Layer, Node, Quantizer};
use crate::quant::scheme::{Scheme, Sign};
use octrain_formats::onnx::proto::{AttributeProto, TensorProto};

/// Largest unsigned code of a reduced range, where a file's own type reaches further.
const MAX_CODE: u8 = Scheme::activation(Sign::Unsigned).reduced().qmax() as u8;

/// Scales below which OpenVINO does not compile a layer with a pair behind it whose codes end with their type (seen at 1e-10,
/// not at 1e-9): those of activations that are next to nothing, or nothing. A cut before the pair keeps the two apart.
const SILENT: f32 = 1.0e-6;

impl Writer<'_> {
    /// Scales of a Q/DQ pair, in FP16 where runtime and scales allow; returns whether they are.
    fn scales(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Result<bool, ExportError> {
        let half = self.options.float_type.half_scales(self.profile, values);
        match half {
            true => self.floats(name, dims, values)?,
            false => self.tensors.push(TensorProto::floats(name, dims, values)),
        }
        Ok(half)
    }

    /// DequantizeLinear to `back`, whose type is that of the scales.
    fn dequantize(&mut self, name: &str, inputs: [&str; 3], back: &str, axis: Option<i64>, half: bool) {
        if !half {
            self.full.insert(back.into());
        }
        let axis = axis.map(|axis| AttributeProto::int("axis", axis)).into_iter().collect();
        self.op("DequantizeLinear", name, &inputs, back, axis);
    }

    /// The value of an operator that is made of its input's codes.
    pub(super) fn handed_on(&mut self, node: &Node) -> Value {
        match self.values[node.inputs[0].0].quantized.clone() {
            Some(q) if self.profile.integer_neighbours() => {
                let tensor = self.pair(&node.name, &self.value_name(node), &q);
                Value { tensor, quantized: Some(q) }
            }
            quantized => Value { tensor: self.value_name(node), quantized },
        }
    }

    /// QuantizeLinear and DequantizeLinear behind `tensor`; returns the dequantized tensor.
    fn pair(&mut self, name: &str, tensor: &str, q: &Quantized) -> String {
        let [mut codes, back] = ["codes", "dequantized"].map(|part| self.free(&format!("{name}.{part}")));
        let mut x = self.cast(tensor, if q.half { FloatType::Fp16 } else { FloatType::Fp32 });
        if let Some(largest) = &q.largest_tensor {
            let cut = self.free(&format!("{name}.cut"));
            self.full.insert(cut.clone());
            self.op("Clip", &cut, &[&x, "", largest], &cut, vec![]);
            x = cut;
        }
        self.op(
            "QuantizeLinear",
            &format!("{name}.q"),
            &[&x, &q.scale_tensor, &q.zero_point_tensor],
            &codes,
            vec![],
        );
        if let Some(largest) = q.clip {
            let clipped = self.free(&format!("{name}.clipped"));
            let (end, new) = match largest {
                MAX_CODE => self.shared("max_code"),
                largest => self.shared(&format!("max_code/{largest}")),
            };
            self.op("Clip", &format!("{name}.clip"), &[&codes, "", &end], &clipped, vec![]);
            codes = clipped;
            if new {
                self.tensors.push(TensorProto::unsigned(&end, &[], &[largest]));
            }
        }
        self.dequantize(
            &format!("{name}.dq"),
            [&codes, &q.scale_tensor, &q.zero_point_tensor],
            &back,
            None,
            q.half,
        );
        back
    }

    pub(super) fn quantize(&mut self, node: &Node, q: &Quantizer) -> Result<Value, ExportError> {
        let no_range = || ExportError::NoRange(q.name.clone());
        let absmax =
            *self.state.get(&range_key(&q.name)).and_then(|t| t.data.first()).ok_or_else(no_range)?;
        let scale = q
            .scheme
            .scale(absmax)
            .ok_or_else(|| ExportError::NotFinite { name: range_key(&q.name), value: absmax })?;
        let [scale_tensor, zero_point_tensor] =
            ["scale", "zero_point"].map(|part| self.free(&format!("{}.{part}", q.name)));
        let half = self.scales(&scale_tensor, &[], &[scale])?;
        self.tensors.push(match self.profile.zero_point(q.scheme.sign) {
            ZeroPoint::Unsigned(zero) => TensorProto::unsigned(&zero_point_tensor, &[], &[zero]),
            ZeroPoint::Signed => TensorProto::bytes(&zero_point_tensor, &[], &[0]),
        });
        // Rounding keeps the order of numbers: the code of the smaller of two is the smaller of their codes.
        let largest = self.cut_off_before(node).map_or(q.scheme.qmax(), |max| q.scheme.code(max, scale));
        // The type of the codes may reach further than they do in training.
        let further =
            self.profile.zero_point(q.scheme.sign) == ZeroPoint::Unsigned(0) && largest < i64::from(u8::MAX);
        let on_codes = self.profile.integer_neighbours();
        let clip = (further && on_codes).then_some(largest as u8);
        let silent = self.profile == Profile::Openvino && largest == i64::from(u8::MAX) && scale < SILENT;
        let largest_tensor =
            ((further && !on_codes) || silent).then(|| self.free(&format!("{}.largest", q.name)));
        if let Some(name) = &largest_tensor {
            // Of a silent one, what rounds to the last code and is not where the type ends: a cut there is taken away.
            let end = if silent { largest as f32 - 0.25 } else { largest as f32 };
            self.tensors.push(TensorProto::floats(name, &[], &[scale * end]));
        }
        let quantized = Quantized { scale, half, clip, largest_tensor, scale_tensor, zero_point_tensor };
        let x = self.values[node.inputs[0].0].tensor.clone();
        let tensor = self.pair(&q.name, &x, &quantized);
        Ok(Value { tensor, quantized: Some(quantized) })
    }

    /// Weight and bias of a layer, whose channels are dimension `axis` of `shape`; returns the names of the tensors to read.
    pub(super) fn weights(
        &mut self,
        node: &Node,
        layer: &Layer,
        shape: &[usize],
        folded: FoldedWeights,
        axis: usize,
    ) -> Result<[String; 2], ExportError> {
        let (channels, weight) = (shape[axis], layer.weight.as_str());
        let bias = self.free(&format!("{}.folded_bias", node.name));
        if !layer.quantized() || self.profile == Profile::Fp32 {
            if self.profile != Profile::Fp32 {
                self.fp32_nodes.push((
                    node.name.clone(),
                    "its weight was left in floating point: `qat.skip` names it, or a pass".into(),
                ));
            }
            self.floats(weight, shape, &folded.float)?;
            self.floats(&bias, &[channels], &folded.bias)?;
            return Ok([weight.into(), bias]);
        }
        let mut bias_tensor = bias.clone();
        match folded.integer_bias.is_empty() {
            false => {
                let codes: Vec<i32> = folded.integer_bias.iter().map(|b| b.code).collect();
                let units: Vec<f32> = folded.integer_bias.iter().map(|b| b.unit).collect();
                let [name, scale, zero, back] = ["codes", "scale", "zero_point", "dequantized"]
                    .map(|part| self.free(&format!("{bias}.{part}")));
                self.tensors.push(TensorProto::integers(&name, &[channels], &codes));
                self.tensors.push(TensorProto::floats(&scale, &[channels], &units));
                self.tensors.push(TensorProto::integers(&zero, &[channels], &vec![0; channels]));
                bias_tensor = back;
                self.dequantize(&format!("{bias}.dq"), [&name, &scale, &zero], &bias_tensor, Some(0), false);
            }
            true => self.floats(&bias, &[channels], &folded.bias)?,
        }
        let [codes, scale, zero, back] = &["codes", "scale", "zero_point", "dequantized"]
            .map(|part| self.free(&format!("{weight}.{part}")));
        let dq = &format!("{weight}.dq");
        self.tensors.push(TensorProto::bytes(codes, shape, &folded.codes));
        let half = self.scales(scale, &[channels], &folded.scales)?;
        self.tensors.push(TensorProto::bytes(zero, &[channels], &vec![0; channels]));
        self.dequantize(dq, [codes, scale, zero], back, Some(axis as i64), half);
        Ok([self.cast(back, self.options.float_type), bias_tensor])
    }
}
