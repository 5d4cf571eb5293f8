//! Other names for the parameters of Octrain's networks.

use crate::checkpoint::State;

/// Blocks of each of EfficientNet-B0's stages, by which `efficientnet_pytorch` does not count.
const STAGES: [usize; 7] = [1, 2, 2, 3, 3, 4, 1];

/// The weights with timm's names of `tf_efficientnet_lite0`, where they have those that the package `efficientnet_pytorch` and
/// its descendants give to the same network (`_conv_stem.weight`, `_blocks.0._depthwise_conv.weight`); else `None`.
pub(super) fn of_efficientnet_pytorch(weights: &State) -> Option<State> {
    weights.contains_key("_conv_stem.weight").then(|| {
        let named = weights.iter().map(|(name, t)| (timm(name).unwrap_or_else(|| name.clone()), t.clone()));
        named.collect()
    })
}

/// timm's name of a parameter; none of what it does not have.
fn timm(name: &str) -> Option<String> {
    let (layer, number) = name.rsplit_once('.')?;
    let layer = match layer {
        "_conv_stem" => "conv_stem".into(),
        "_bn0" => "bn1".into(),
        "_conv_head" => "conv_head".into(),
        "_bn1" => "bn2".into(),
        "_fc" => "classifier".into(),
        _ => {
            let (block, part) = layer.strip_prefix("_blocks.")?.split_once('.')?;
            let (stage, i) = place(block.parse().ok()?)?;
            // The blocks of the first stage do not expand.
            let part = match (stage > 0, part) {
                (true, "_expand_conv") => "conv_pw",
                (true, "_bn0") => "bn1",
                (true, "_bn1") => "bn2",
                (true, "_project_conv") => "conv_pwl",
                (true, "_bn2") => "bn3",
                (false, "_bn1") => "bn1",
                (false, "_project_conv") => "conv_pw",
                (false, "_bn2") => "bn2",
                (_, "_depthwise_conv") => "conv_dw",
                _ => return None,
            };
            format!("blocks.{stage}.{i}.{part}")
        }
    };
    Some(format!("{layer}.{number}"))
}

/// Stage of a block, and its place there.
fn place(mut block: usize) -> Option<(usize, usize)> {
    for (stage, blocks) in STAGES.into_iter().enumerate() {
        if block < blocks {
            return Some((stage, block));
        }
        block -= blocks;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::HostTensor;

    #[test]
    fn blocks_are_counted_by_stage() {
        let named = |name: &str| timm(name).unwrap_or_default();
        for (theirs, ours) in [
            ("_conv_stem.weight", "conv_stem.weight"),
            ("_bn0.running_mean", "bn1.running_mean"),
            ("_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight"),
            ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
            ("_blocks.0._bn2.bias", "blocks.0.0.bn2.bias"),
            ("_blocks.1._expand_conv.weight", "blocks.1.0.conv_pw.weight"),
            ("_blocks.2._bn0.weight", "blocks.1.1.bn1.weight"),
            ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
            ("_blocks.15._bn2.running_var", "blocks.6.0.bn3.running_var"),
            ("_bn1.weight", "bn2.weight"),
            ("_fc.bias", "classifier.bias"),
        ] {
            assert_eq!(named(theirs), ours);
        }
        for none in ["_blocks.16._bn1.weight", "_blocks.0._se_reduce.weight", "fc.weight", "weight"] {
            assert_eq!(timm(none), None, "{none}");
        }
        let one = |name: &str| State::from([(name.into(), HostTensor::default())]);
        assert_eq!(of_efficientnet_pytorch(&one("conv_stem.weight")), None);
        assert_eq!(of_efficientnet_pytorch(&one("_conv_stem.weight")), Some(one("conv_stem.weight")));
    }
}
