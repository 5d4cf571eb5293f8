//! Messages made of plain values, and what readers of them ask most.

use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_proto::DataType;
use super::proto::tensor_shape_proto::Dimension;
use super::proto::tensor_shape_proto::dimension::Value;
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};

impl AttributeProto {
    /// An integer.
    pub fn int(name: &str, value: i64) -> Self {
        Self { i: Some(value), ..Self::of(name, AttributeType::Int) }
    }

    /// A list of integers.
    pub fn ints(name: &str, values: Vec<i64>) -> Self {
        Self { ints: values, ..Self::of(name, AttributeType::Ints) }
    }

    /// A floating-point number.
    pub fn float(name: &str, value: f32) -> Self {
        Self { f: Some(value), ..Self::of(name, AttributeType::Float) }
    }

    fn of(name: &str, kind: AttributeType) -> Self {
        Self { name: Some(name.into()), r#type: Some(kind.into()), ..Self::default() }
    }
}

impl NodeProto {
    /// A node of the default domain that makes one value.
    pub fn new(
        op_type: &str,
        name: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) -> Self {
        Self {
            input: inputs.iter().map(|&input| input.into()).collect(),
            output: vec![output.into()],
            name: Some(name.into()),
            op_type: Some(op_type.into()),
            attribute,
            ..Self::default()
        }
    }
}

impl OperatorSetIdProto {
    /// A version of the standard's own operators.
    pub fn standard(version: i64) -> Self {
        Self { domain: None, version: Some(version) }
    }
}

impl StringStringEntryProto {
    /// An entry.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: Some(key.into()), value: Some(value.into()) }
    }
}

impl TensorProto {
    /// A tensor of these elements in row-major order, little-endian.
    pub fn new(name: &str, dims: &[usize], element: DataType, raw_data: Vec<u8>) -> Self {
        Self {
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: Some(element.into()),
            name: Some(name.into()),
            raw_data: Some(raw_data),
            ..Self::default()
        }
    }

    /// FP32.
    pub fn floats(name: &str, dims: &[usize], values: &[f32]) -> Self {
        Self::new(name, dims, DataType::Float, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// FP16, as bytes.
    pub fn halves(name: &str, dims: &[usize], values: Vec<u8>) -> Self {
        Self::new(name, dims, DataType::Float16, values)
    }

    /// INT8.
    pub fn bytes(name: &str, dims: &[usize], values: &[i8]) -> Self {
        Self::new(name, dims, DataType::Int8, values.iter().map(|&v| v as u8).collect())
    }

    /// UINT8.
    pub fn unsigned(name: &str, dims: &[usize], values: &[u8]) -> Self {
        Self::new(name, dims, DataType::Uint8, values.to_vec())
    }

    /// INT32.
    pub fn integers(name: &str, dims: &[usize], values: &[i32]) -> Self {
        Self::new(name, dims, DataType::Int32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// INT64, as shapes and axes are.
    pub fn longs(name: &str, dims: &[usize], values: &[i64]) -> Self {
        Self::new(name, dims, DataType::Int64, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }
}

impl ModelProto {
    /// The version of the format of a file that says no other.
    const IR_VERSION: i64 = 8;

    /// A file of this network, whose operators are those of a version of the standard's set.
    pub fn new(graph: GraphProto, opset: i64) -> Self {
        Self {
            ir_version: Some(Self::IR_VERSION),
            opset_import: vec![OperatorSetIdProto::standard(opset)],
            graph: Some(graph),
            ..Self::default()
        }
    }
}

impl ValueInfoProto {
    /// A batch of FP32 values; the batch size is open.
    pub fn batch(name: &str, shape: &[usize]) -> Self {
        let batch = Dimension { value: Some(Value::DimParam("batch".into())), denotation: None };
        Self::floats(name, std::iter::once(batch).chain(shape.iter().map(|&d| fixed(d))).collect())
    }

    /// FP32 values of a fixed shape.
    pub fn fixed(name: &str, shape: &[usize]) -> Self {
        Self::floats(name, shape.iter().map(|&d| fixed(d)).collect())
    }

    fn floats(name: &str, dim: Vec<Dimension>) -> Self {
        let tensor = type_proto::Tensor {
            elem_type: Some(DataType::Float.into()),
            shape: Some(TensorShapeProto { dim }),
        };
        let value = Some(type_proto::Value::TensorType(tensor));
        Self {
            name: Some(name.into()),
            r#type: Some(TypeProto { denotation: None, value }),
            ..Self::default()
        }
    }

    /// Its type, where it is a tensor.
    pub fn tensor(&self) -> Option<&type_proto::Tensor> {
        match self.r#type.as_ref()?.value.as_ref()? {
            type_proto::Value::TensorType(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// [`ValueInfoProto::tensor`], to be changed.
    pub fn tensor_mut(&mut self) -> Option<&mut type_proto::Tensor> {
        match self.r#type.as_mut()?.value.as_mut()? {
            type_proto::Value::TensorType(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// Its sizes, where it is a tensor that says how many it has; none for those that are open.
    pub fn dims(&self) -> Option<Vec<Option<usize>>> {
        let size = |d: &Dimension| match d.value {
            Some(Value::DimValue(n)) => usize::try_from(n).ok().filter(|n| *n > 0),
            _ => None,
        };
        Some(self.tensor()?.shape.as_ref()?.dim.iter().map(size).collect())
    }
}

fn fixed(size: usize) -> Dimension {
    Dimension { value: Some(Value::DimValue(size as i64)), denotation: None }
}
