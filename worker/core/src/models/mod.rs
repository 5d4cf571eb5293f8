//! Pure graph constructors, by name. No ranks, no libtorch.

mod blocks;
mod efficientnet;
mod mobilenet;
mod regnet;
mod resnet;
mod vit;

use crate::graph::{Graph, GraphError};

/// Why a network cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No such network.
    #[error("unknown model `{name}`; there are {}", NAMES.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The input does not fit the network.
    #[error("model `{name}` cannot take images of shape {shape:?}: {source}")]
    Shape {
        /// The network.
        name: String,
        /// `[C, H, W]`.
        shape: [usize; 3],
        /// The node that does not fit.
        source: GraphError,
    },
    /// Not 3 or 4 channels.
    #[error("an image has {0} channels; 3, or 4 with an empty fourth, are supported")]
    Channels(usize),
}

/// Names of all networks: the bottleneck and basic ResNets in their v1.5 form (stride in the 3x3 convolution), MobileNets,
/// EfficientNets, RegNets and vision transformers; and the small ones for 32x32 images (ResNets with 1x1 convolution
/// shortcuts, so that every edge can be quantized; MobileNetV2 with an eighth of the stride; a transformer of 4x4 patches).
pub const NAMES: [&str; 19] = [
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "MobileNetV2",
    "MobileNetV3-Small",
    "MobileNetV3-Large",
    "EfficientNet-B0",
    "EfficientNet-Lite0",
    "RegNetX-400MF",
    "RegNetY-400MF",
    "ViT-Ti",
    "ViT-S",
    "ResNet20",
    "ResNet32",
    "ResNet56",
    "MobileNetV2-32px",
    "ViT-32px",
];

/// Builds network `name` (letter case is ignored) for images `[C, H, W]` and a number of classes.
pub fn build(name: &str, image_shape: [usize; 3], classes: usize) -> Result<Graph, ModelError> {
    let known = NAMES.iter().find(|n| n.eq_ignore_ascii_case(name));
    let name = *known.ok_or_else(|| ModelError::Unknown { name: name.into() })?;
    if !matches!(image_shape[0], 3 | 4) {
        return Err(ModelError::Channels(image_shape[0]));
    }
    let built = match name {
        "ResNet18" => resnet::imagenet(name, resnet::Block::Basic, [2, 2, 2, 2], image_shape, classes),
        "ResNet34" => resnet::imagenet(name, resnet::Block::Basic, [3, 4, 6, 3], image_shape, classes),
        "ResNet50" => resnet::imagenet(name, resnet::Block::Bottleneck, [3, 4, 6, 3], image_shape, classes),
        "ResNet101" => resnet::imagenet(name, resnet::Block::Bottleneck, [3, 4, 23, 3], image_shape, classes),
        "ResNet152" => resnet::imagenet(name, resnet::Block::Bottleneck, [3, 8, 36, 3], image_shape, classes),
        "ResNet20" => resnet::small(name, 3, image_shape, classes),
        "ResNet32" => resnet::small(name, 5, image_shape, classes),
        "ResNet56" => resnet::small(name, 9, image_shape, classes),
        "MobileNetV2" => mobilenet::v2(name, mobilenet::Strides::IMAGENET, image_shape, classes),
        "MobileNetV2-32px" => mobilenet::v2(name, mobilenet::Strides::SMALL, image_shape, classes),
        "MobileNetV3-Small" => mobilenet::v3(name, mobilenet::SMALL, image_shape, classes),
        "MobileNetV3-Large" => mobilenet::v3(name, mobilenet::LARGE, image_shape, classes),
        "EfficientNet-B0" => efficientnet::b0(name, image_shape, classes),
        "EfficientNet-Lite0" => efficientnet::lite0(name, image_shape, classes),
        "RegNetX-400MF" => regnet::regnet(name, &regnet::X_400MF, image_shape, classes),
        "RegNetY-400MF" => regnet::regnet(name, &regnet::Y_400MF, image_shape, classes),
        "ViT-Ti" => vit::vit(name, &vit::TINY, image_shape, classes),
        "ViT-S" => vit::vit(name, &vit::SMALL, image_shape, classes),
        _ => vit::vit(name, &vit::CIFAR, image_shape, classes),
    };
    built.map_err(|source| ModelError::Shape { name: name.into(), shape: image_shape, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{NodeId, Op, ParamKind};

    #[test]
    fn parameter_counts_are_the_published_ones() {
        // torchvision's documentation gives these for 3 channels and 1000 classes.
        for (name, count) in [
            ("resnet18", 11_689_512),
            ("resnet34", 21_797_672),
            ("resnet50", 25_557_032),
            ("resnet101", 44_549_160),
            ("resnet152", 60_192_808),
        ] {
            assert_eq!(build(name, [3, 224, 224], 1000).unwrap().parameter_count(), count, "{name}");
        }
        for (name, count) in [
            ("MobileNetV2", 3_504_872),
            ("MobileNetV3-Small", 2_542_856),
            ("MobileNetV3-Large", 5_483_032),
            ("EfficientNet-B0", 5_288_548),
            ("RegNetX-400MF", 5_495_976),
            ("RegNetY-400MF", 4_344_144),
        ] {
            assert_eq!(build(name, [3, 224, 224], 1000).unwrap().parameter_count(), count, "{name}");
        }
        // timm's.
        for (name, count) in [("EfficientNet-Lite0", 4_652_008), ("ViT-Ti", 5_717_416), ("ViT-S", 22_050_664)]
        {
            assert_eq!(build(name, [3, 224, 224], 1000).unwrap().parameter_count(), count, "{name}");
        }
        // 4 input channels: 64 more 7x7 filters.
        assert_eq!(build("ResNet50", [4, 224, 224], 1000).unwrap().parameter_count(), 25_557_032 + 64 * 49);
        // 0.27 M, 0.46 M, 0.85 M in the paper (arXiv 1512.03385), plus the 1x1 shortcuts with their BatchNorm.
        for (name, paper) in [("ResNet20", 269_722), ("ResNet32", 464_154), ("ResNet56", 853_018)] {
            let shortcuts = 16 * 32 + 64 + 32 * 64 + 128;
            assert_eq!(build(name, [3, 32, 32], 10).unwrap().parameter_count(), paper + shortcuts, "{name}");
        }
    }

    #[test]
    fn the_page_of_networks_has_all_with_their_parameters() {
        let page = include_str!("../../../../docs/networks.md");
        let rows: Vec<Vec<&str>> = page
            .lines()
            .filter(|l| l.starts_with("| `") && l.matches('|').count() == 6)
            .map(|l| l.split('|').map(str::trim).collect())
            .collect();
        let named: Vec<&str> = rows.iter().map(|row| row[1].trim_matches('`')).collect();
        assert_eq!(named, NAMES);
        for row in rows {
            let number = |cell: &str| cell.replace(',', "").parse::<usize>().unwrap();
            let (side, classes) = (number(row[2]), number(row[3]));
            let graph = build(row[1].trim_matches('`'), [3, side, side], classes).unwrap();
            assert_eq!(number(row[4]), graph.parameter_count(), "{}", row[1]);
        }
    }

    /// Where gammas of residual branches start at 0, every block is the identity and no image is lost.
    #[test]
    fn a_residual_gamma_ends_one_side_of_a_sum_and_not_the_other() {
        for name in NAMES {
            let graph = build(name, [3, 224, 224], 10).unwrap();
            let ends = |mut id: NodeId| loop {
                match &graph.node(id).op {
                    Op::BatchNorm(norm) => {
                        return graph.param(&norm.gamma).unwrap().kind == ParamKind::ResidualGamma;
                    }
                    op if op.facts().hands_on() => id = graph.node(id).inputs[0],
                    _ => return false,
                }
            };
            let sums = graph.nodes.iter().filter(|n| matches!(n.op, Op::Add));
            let sums: Vec<[bool; 2]> = sums.map(|n| [ends(n.inputs[0]), ends(n.inputs[1])]).collect();
            let residual = graph.params.iter().filter(|p| p.kind == ParamKind::ResidualGamma).count();
            assert_eq!(sums.iter().filter(|s| **s == [true, false]).count(), residual, "{name}");
            assert!(name.starts_with("ViT") || residual > 0 && residual == sums.len(), "{name}: {sums:?}");
        }
    }

    #[test]
    fn what_cannot_be_built_says_why() {
        let e = build("VGG16", [3, 224, 224], 10).unwrap_err().to_string();
        assert!(e.contains("VGG16") && e.contains("ResNet50"), "{e}");
        assert!(build("ResNet20", [1, 32, 32], 10).unwrap_err().to_string().contains("1 channels"));
    }
}
