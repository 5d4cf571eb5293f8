//! Vision transformers (Dosovitskiy et al., arXiv 2010.11929; Touvron et al., arXiv 2012.12877), with timm's names.

use crate::graph::{
    Builder, ClassToken, Graph, GraphError, MatMul, NodeId, Op, Padding, ParamKind, Parameter, Reshape,
    Scale, Slice, Square, Transpose,
};

/// Size of a transformer.
pub(super) struct Size {
    /// Side of a patch in pixels.
    patch: usize,
    width: usize,
    heads: usize,
    depth: usize,
}

/// ViT-Ti/16, which is DeiT-Ti.
pub(super) const TINY: Size = Size { patch: 16, width: 192, heads: 3, depth: 12 };
/// ViT-S/16, which is DeiT-S.
pub(super) const SMALL: Size = Size { patch: 16, width: 384, heads: 6, depth: 12 };
/// For images of 32 pixels: 64 patches of 4.
pub(super) const CIFAR: Size = Size { patch: 4, width: 128, heads: 4, depth: 6 };

/// Width of the hidden layer of a block, in widths of the block.
const MLP_RATIO: usize = 4;
const EPS: f64 = 1e-6;

pub(super) fn vit(name: &str, size: &Size, shape: [usize; 3], classes: usize) -> Result<Graph, GraphError> {
    let (mut b, x) = Builder::new(name, shape);
    let (width, patch, [_, height, wide]) = (size.width, size.patch, shape);
    if height % patch != 0 || wide % patch != 0 {
        let what =
            format!("patches of {patch} pixels do not divide it; give sides that are multiples of {patch}");
        return Err(GraphError::Node { node: "input".into(), op: "Input", what });
    }
    let patches = Square { padding: Padding::all(0), ..Square::new(width, size.patch, size.patch).biased() };
    let x = b.convolution("patch_embed.proj", x, patches)?;
    let tokens = b.shape(x)[1..].iter().product();
    let x = b.push("patch_embed.flatten", Op::Reshape(Reshape { shape: vec![width, tokens] }), &[x])?;
    let x = b.push("patch_embed.transpose", Op::Transpose(Transpose { perm: vec![1, 0] }), &[x])?;
    let token = b.param("cls_token", &[1, 1, width], ParamKind::Embedding);
    let x = b.push("cls", Op::ClassToken(ClassToken { token }), &[x])?;
    let positions = b.param("pos_embed", &[1, tokens + 1, width], ParamKind::Embedding);
    let positions = b.push("positions", Op::Parameter(Parameter::new(positions)), &[])?;
    let mut x = b.push("embedded", Op::Add, &[x, positions])?;
    for i in 0..size.depth {
        x = block(&mut b, &format!("blocks.{i}"), x, size.heads)?;
    }
    let x = b.layer_norm("norm", x, EPS)?;
    let x = b.push("class", Op::Slice(Slice { axis: 0, start: 0, len: 1 }), &[x])?;
    let x = b.push("flatten", Op::Flatten, &[x])?;
    let x = b.linear("head", x, classes)?;
    b.finish(x)
}

fn block(b: &mut Builder, name: &str, x: NodeId, heads: usize) -> Result<NodeId, GraphError> {
    let part = |p: &str| format!("{name}.{p}");
    let y = b.layer_norm(&part("norm1"), x, EPS)?;
    let y = attention(b, &part("attn"), y, heads)?;
    let x = b.push(&part("add1"), Op::Add, &[x, y])?;
    let y = b.layer_norm(&part("norm2"), x, EPS)?;
    let width = b.features(x);
    let y = b.linear(&part("mlp.fc1"), y, MLP_RATIO * width)?;
    let y = b.push(&part("mlp.act"), Op::Gelu, &[y])?;
    let y = b.linear(&part("mlp.fc2"), y, width)?;
    b.push(&part("add2"), Op::Add, &[x, y])
}

/// Attention of every token to all (Vaswani et al., arXiv 1706.03762): `[T, D] -> [T, D]`.
fn attention(b: &mut Builder, name: &str, x: NodeId, heads: usize) -> Result<NodeId, GraphError> {
    let part = |p: &str| format!("{name}.{p}");
    let (tokens, width) = (b.channels(x), b.features(x));
    let each = width / heads;
    let all = b.linear(&part("qkv"), x, 3 * width)?;
    // `[T, 3 D] -> [heads, T, D / heads]` of queries, keys and values.
    let mut of_heads = |i: usize, p: &str| -> Result<NodeId, GraphError> {
        let y = b.push(&part(p), Op::Slice(Slice { axis: 1, start: i * width, len: width }), &[all])?;
        let y = b.push(
            &part(&format!("{p}.heads")),
            Op::Reshape(Reshape { shape: vec![tokens, heads, each] }),
            &[y],
        )?;
        b.push(&part(&format!("{p}.transpose")), Op::Transpose(Transpose { perm: vec![1, 0, 2] }), &[y])
    };
    let (q, k, v) = (of_heads(0, "q")?, of_heads(1, "k")?, of_heads(2, "v")?);
    let factor = 1.0 / (each as f32).sqrt();
    let q = b.push(&part("q.scale"), Op::Scale(Scale { factor }), &[q])?;
    let scores = b.push(&part("scores"), Op::MatMul(MatMul { transpose_b: true }), &[q, k])?;
    let scores = b.push(&part("softmax"), Op::Softmax, &[scores])?;
    let y = b.push(&part("mix"), Op::MatMul(MatMul { transpose_b: false }), &[scores, v])?;
    let y = b.push(&part("mix.transpose"), Op::Transpose(Transpose { perm: vec![1, 0, 2] }), &[y])?;
    let y = b.push(&part("mix.join"), Op::Reshape(Reshape { shape: vec![tokens, width] }), &[y])?;
    b.linear(&part("proj"), y, width)
}
