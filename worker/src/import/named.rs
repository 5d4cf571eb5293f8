//! Weights that have the names of one of Octrain's networks (torchvision's).

use super::{Findings, ImportError, Network, Wanted, renamed};
use crate::checkpoint::{Mismatch, State, match_weights};
use crate::graph::Graph;
use crate::models::{self, ModelError};
use std::path::Path;

/// Height and width of images where nobody says, as ImageNet's networks have them; for the others a matter of taste.
const SIDE: usize = 224;
/// Classes where the weights do not tell.
const CLASSES: usize = 1000;

/// The network of Octrain's that `weights` are of: the one that is wanted, else the one that they fit.
///
/// # Errors
/// Names everything that does not fit.
pub(super) fn place(weights: State, wanted: &Wanted, path: &Path) -> Result<Network, ImportError> {
    let weights = renamed::of_efficientnet_pytorch(&weights).unwrap_or(weights);
    let tried = |name: &str| {
        let graph = sized(name, wanted, &weights)?;
        let mismatch = match_weights(&graph, &weights);
        Ok::<_, ImportError>((graph, mismatch))
    };
    let path = path.to_path_buf();
    let (mut others, (graph, mismatch)) = match &wanted.network {
        Some(name) => (Vec::new(), tried(name)?),
        None => closest(models::NAMES.into_iter().map(tried))?,
    };
    if mismatch.is_empty() {
        let mut network = Network::new(graph, weights);
        others.retain(|name| *name != network.graph.name);
        if !others.is_empty() {
            let name = &network.graph.name;
            network.notes.push(format!(
                "taken for {name}; its parameters are those of {} as well, which computes otherwise with them",
                others.join(", ")
            ));
        }
        return Ok(network);
    }
    if wanted.network.is_none() && !is_near(&graph, &mismatch) {
        return Err(ImportError::Unlike { path, names: weights.into_keys().collect() });
    }
    let (network, findings) = (graph.name.clone(), Findings::from(mismatch));
    Err(match wanted.network {
        Some(_) => ImportError::Unfit { path, network, findings },
        None => ImportError::NoNetwork { path, network, findings },
    })
}

/// Whether at least half of the names of both, network and weights, are the other's: only then is it of use to say what of it
/// does not fit.
fn is_near(graph: &Graph, mismatch: &Mismatch) -> bool {
    let both = graph.params.len().saturating_sub(mismatch.missing.len());
    2 * both >= graph.params.len().max(both + mismatch.unexpected.len())
}

type Tried = (Graph, Mismatch);

/// The one of which the least does not fit, the first of several, after the names of all that fit. One that cannot be built is
/// taken where there is no other.
fn closest(
    all: impl Iterator<Item = Result<Tried, ImportError>>,
) -> Result<(Vec<String>, Tried), ImportError> {
    let count = |m: &Mismatch| m.missing.len() + m.unexpected.len() + m.shapes.len();
    let order = |one: &Result<Tried, ImportError>| one.as_ref().map_or(usize::MAX, |(_, m)| count(m));
    let all: Vec<_> = all.collect();
    let fits = |(graph, m): &Tried| m.is_empty().then(|| graph.name.clone());
    let fitting = all.iter().filter_map(|one| fits(one.as_ref().ok()?)).collect();
    let closest = all.into_iter().min_by_key(order);
    let closest = closest.unwrap_or_else(|| Err(ModelError::Unknown { name: String::new() }.into()));
    Ok((fitting, closest?))
}

/// A network for as many classes, and images of as many channels, as the weights say.
fn sized(name: &str, wanted: &Wanted, weights: &State) -> Result<Graph, ModelError> {
    let [_, height, width] = wanted.image_shape.unwrap_or([3, SIDE, SIDE]);
    let build = |channels, classes| models::build(name, [channels, height, width], classes);
    let base = build(3, CLASSES)?;
    let classes = size(&base, &build(3, CLASSES + 1)?, weights).unwrap_or(CLASSES);
    let channels = match wanted.image_shape {
        Some([channels, ..]) => channels,
        None => size(&base, &build(4, CLASSES)?, weights).unwrap_or(3),
    };
    build(channels, classes)
}

/// The size that the weights have where two builds of one network differ.
fn size(one: &Graph, other: &Graph, weights: &State) -> Option<usize> {
    one.params.iter().zip(&other.params).find_map(|(a, b)| {
        let axis = a.shape.iter().zip(&b.shape).position(|(a, b)| a != b)?;
        weights.get(&a.name).filter(|t| t.shape.len() == a.shape.len()).map(|t| t.shape[axis])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::HostTensor;

    fn weights(name: &str, image_shape: [usize; 3], classes: usize) -> State {
        let params = models::build(name, image_shape, classes).unwrap().params;
        let zeros = |len| vec![0.0; len];
        params
            .into_iter()
            .map(|p| (p.name.clone(), HostTensor { data: zeros(p.len()), shape: p.shape }))
            .collect()
    }

    fn placed(weights: State, network: Option<&str>) -> Result<Network, ImportError> {
        let wanted = Wanted { network: network.map(str::to_string), image_shape: None };
        place(weights, &wanted, Path::new("w.pth"))
    }

    #[test]
    fn classes_channels_and_the_network_itself_are_those_of_the_weights() {
        for (name, shape, classes) in [
            ("ResNet18", [3, 224, 224], 7),
            ("ResNet50", [4, 224, 224], 1000),
            ("ResNet20", [3, 224, 224], 3),
        ] {
            for named in [None, Some(name)] {
                let graph = placed(weights(name, shape, classes), named).unwrap().graph;
                assert_eq!(graph, models::build(name, shape, classes).unwrap(), "{name}");
            }
        }
        let either = placed(weights("MobileNetV2", [3, 224, 224], 10), None).unwrap();
        assert_eq!(either.graph.name, "MobileNetV2");
        assert!(either.notes[0].contains("those of MobileNetV2-32px as well"), "{:?}", either.notes);
        let wanted = Wanted { network: None, image_shape: Some([3, 32, 32]) };
        let small = place(weights("ResNet20", [3, 32, 32], 10), &wanted, Path::new("w")).unwrap();
        assert_eq!(small.graph.node(small.graph.input()).ty.shape, [3, 32, 32]);
    }

    #[test]
    fn everything_that_does_not_fit_is_listed() {
        let told = placed(weights("ResNet18", [3, 224, 224], 10), Some("ResNet50")).unwrap_err().to_string();
        let missing = match_weights(
            &models::build("ResNet50", [3, 224, 224], 10).unwrap(),
            &weights("ResNet18", [3, 224, 224], 10),
        );
        let (count, first) = (missing.missing.len(), missing.missing[..10].join(", "));
        assert!(
            count > 100 && told.contains(&format!("{count} missing: {first} and {} more", count - 10)),
            "{told}"
        );
        assert!(told.contains("are not those of ResNet50") && told.contains("of another shape: "), "{told}");
        let mut one = weights("ResNet18", [3, 224, 224], 10);
        one.remove("fc.bias");
        one.insert("extra".into(), HostTensor::default());
        let told = placed(one, None).unwrap_err().to_string();
        for part in ["of ResNet18, which is closest", "1 missing: fc.bias", "1 left over: extra"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        let other = ["features.0.weight", "features.0.bias", "classifier.weight"];
        let other = other.map(|name| (name.to_string(), HostTensor::default()));
        let told = placed(State::from(other), None).unwrap_err().to_string();
        assert!(
            told.contains("not those of any") && told.contains("3 tensors: classifier.weight, "),
            "{told}"
        );
        assert!(models::NAMES.iter().all(|name| !told.contains(name)), "{told}");
        let told = placed(weights("ResNet18", [3, 224, 224], 10), Some("VGG")).unwrap_err();
        assert!(matches!(told, ImportError::Model(ModelError::Unknown { .. })), "{told}");
    }
}
