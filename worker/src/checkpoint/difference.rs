//! Whether a checkpoint's numbers mean in one place what they mean in another: what a network is made of there and here.
//! A pure function, asked by whoever goes on from a checkpoint or takes its weights.

use super::{Manifest, Snapshot};
use crate::graph::{Graph, Initializer, Node};
use crate::passes::Pass;
use crate::strategy::Strategy;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// What a network that trains is made of.
#[derive(Debug, Clone)]
pub struct Made<'a> {
    /// As built, before any pass.
    pub graph: &'a Graph,
    /// Names of the passes that ran over it for training, in order.
    pub passes: Vec<String>,
    /// What they followed from.
    pub strategy: &'a Strategy,
}

/// How far two networks have to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Same {
    /// In everything: the same training goes on.
    Everything,
    /// In what the numbers mean: graph, passes of a program's own, whether there is quantization, and for which target. What
    /// else a strategy says (precision, layout, numbers of the recipe) may be changed on the way.
    Meaning,
    /// In the operators and wiring of the nodes that both have by name, whatever the sizes of their values: weights of one
    /// are a start for the other, quantized or not. Parameters of other shapes are [`super::Mismatch`]'s.
    Nodes,
}

/// The first thing in which two networks differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part} is {theirs} in the checkpoint, and {ours} here")]
pub struct Difference {
    /// What differs.
    pub part: Part,
    /// How the checkpoint has it.
    pub theirs: String,
    /// How it is here.
    pub ours: String,
}

/// What of a network can differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A node or parameter of the graph.
    Graph,
    /// The list of passes.
    Passes,
    /// Whether there is quantization.
    Quantization,
    /// The target of quantization.
    Target,
    /// Another entry of the strategy, by its key, e.g. `qat.weight-bits`.
    Strategy(String),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Graph => f.write_str("the network's graph"),
            Part::Passes => f.write_str("the list of passes"),
            Part::Quantization => f.write_str("quantization (`qat`)"),
            Part::Target => f.write_str("`qat.target`"),
            Part::Strategy(key) => write!(f, "`{key}` of the strategy"),
        }
    }
}

impl Snapshot {
    /// What its network is made of.
    pub fn made(&self) -> Made<'_> {
        self.manifest.made(&self.graph)
    }
}

impl Manifest {
    /// What the network of this checkpoint is made of; `graph` is its own.
    pub fn made<'a>(&'a self, graph: &'a Graph) -> Made<'a> {
        Made { graph, passes: self.passes.clone(), strategy: &self.strategy }
    }

    /// The passes it was trained with that are not Octrain's: what only the program that wrote it can run again.
    pub fn own_passes(&self) -> Vec<&str> {
        own(&self.passes)
    }
}

fn own(passes: &[String]) -> Vec<&str> {
    passes.iter().map(String::as_str).filter(|name| Pass::ALL.iter().all(|p| p.name() != *name)).collect()
}

/// The first difference of a checkpoint's network, `theirs`, from `ours` in what has to be the same; none where it all is.
pub fn difference(theirs: &Made, ours: &Made, same: Same) -> Option<Difference> {
    match same {
        Same::Nodes => nodes(theirs.graph, ours.graph),
        Same::Meaning => graph(theirs.graph, ours.graph)
            .or_else(|| passes(&own(&theirs.passes), &own(&ours.passes)))
            .or_else(|| quantization(theirs.strategy, ours.strategy)),
        Same::Everything => difference(theirs, ours, Same::Meaning)
            .or_else(|| strategy(theirs.strategy, ours.strategy))
            .or_else(|| passes(&theirs.passes, &ours.passes)),
    }
}

fn part(part: Part, theirs: String, ours: String) -> Option<Difference> {
    (theirs != ours).then_some(Difference { part, theirs, ours })
}

fn passes<T: AsRef<str>>(theirs: &[T], ours: &[T]) -> Option<Difference> {
    let text = |names: &[T]| match names.is_empty() {
        true => "without passes of a program's own".into(),
        false => names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "),
    };
    part(Part::Passes, text(theirs), text(ours))
}

fn quantization(theirs: &Strategy, ours: &Strategy) -> Option<Difference> {
    let on = |s: &Strategy| if s.qat.is_some() { "on" } else { "off" }.to_string();
    part(Part::Quantization, on(theirs), on(ours)).or_else(|| {
        let target = |s: &Strategy| s.qat.as_ref().map_or_else(String::new, |qat| qat.target.to_string());
        part(Part::Target, target(theirs), target(ours))
    })
}

fn strategy(theirs: &Strategy, ours: &Strategy) -> Option<Difference> {
    let (key, theirs, ours) = entries("", &value(theirs), &value(ours)).into_iter().next()?;
    Some(Difference { part: Part::Strategy(key), theirs: theirs.to_string(), ours: ours.to_string() })
}

fn value(strategy: &Strategy) -> Value {
    serde_json::to_value(strategy).unwrap_or_else(|e| unreachable!("it is plain data: {e}"))
}

/// The settings of the recipe of quantization, by their keys in it, that a file (by its `octrain.strategy`, `theirs`) and a
/// checkpoint both have, and have otherwise: key, the file's, the checkpoint's. Whether there is a recipe has the key `qat`,
/// and is a truth value.
pub fn recipe(theirs: &Value, ours: &Strategy) -> Vec<(String, Value, Value)> {
    let (theirs, ours) = (theirs.get("qat").cloned().unwrap_or_default(), value(ours)["qat"].take());
    if theirs.is_object() != ours.is_object() {
        return vec![("qat".into(), theirs.is_object().into(), ours.is_object().into())];
    }
    let (Value::Object(theirs), Value::Object(ours)) = (theirs, ours) else { return vec![] };
    let both = theirs.into_iter().filter_map(|(key, theirs)| Some((ours.get(&key)?.clone(), key, theirs)));
    let differing = both.filter(|(ours, _, theirs)| !entries("", theirs, ours).is_empty());
    differing.map(|(ours, key, theirs)| (key, theirs, ours)).collect()
}

/// The entries, by their paths, in which two values differ, as each has it. Numbers may have lost a last bit in a file.
fn entries(at: &str, theirs: &Value, ours: &Value) -> Vec<(String, Value, Value)> {
    if let (Value::Object(theirs), Value::Object(ours)) = (theirs, ours) {
        let path = |key: &str| if at.is_empty() { key.to_string() } else { format!("{at}.{key}") };
        let keys = theirs.keys().chain(ours.keys().filter(|key| !theirs.contains_key(*key)));
        let of = |all: &serde_json::Map<String, Value>, key: &str| all.get(key).cloned().unwrap_or_default();
        return keys.flat_map(|key| entries(&path(key), &of(theirs, key), &of(ours, key))).collect();
    }
    let near = match (theirs.as_f64(), ours.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 2.0 * f64::EPSILON * a.abs(),
        _ => theirs == ours,
    };
    if near { vec![] } else { vec![(at.to_string(), theirs.clone(), ours.clone())] }
}

fn shown(node: &Node) -> String {
    format!("node `{}` {:?} of {:?}", node.name, node.op, node.inputs)
}

/// The first node or parameter in which two graphs differ. What weights were drawn from is no difference between trained ones.
fn graph(theirs: &Graph, ours: &Graph) -> Option<Difference> {
    let drawn_alike = |g: &Graph| {
        let mut g = g.clone();
        g.params.iter_mut().for_each(|p| p.initializer = Initializer::default());
        g
    };
    let (theirs, ours) = (&drawn_alike(theirs), &drawn_alike(ours));
    if theirs == ours {
        return None;
    }
    let differ = |theirs, ours| Some(Difference { part: Part::Graph, theirs, ours });
    let node = |graph: &Graph, i: usize| graph.nodes.get(i).map_or_else(|| "no further node".into(), shown);
    let nodes = theirs.nodes.len().max(ours.nodes.len());
    if let Some(i) = (0..nodes).find(|&i| theirs.nodes.get(i) != ours.nodes.get(i)) {
        let typed = |graph: &Graph| match graph.nodes.get(i) {
            Some(n) => format!("{} with {}", node(graph, i), n.ty),
            None => node(graph, i),
        };
        return match node(theirs, i) == node(ours, i) {
            true => differ(typed(theirs), typed(ours)),
            false => differ(node(theirs, i), node(ours, i)),
        };
    }
    let param = |graph: &Graph, i: usize| {
        let param = graph.params.get(i);
        param.map_or_else(
            || "no further parameter".into(),
            |p| format!("`{}` {:?} ({:?})", p.name, p.shape, p.kind),
        )
    };
    let params = theirs.params.len().max(ours.params.len());
    if let Some(i) = (0..params).find(|&i| theirs.params.get(i) != ours.params.get(i)) {
        return differ(param(theirs, i), param(ours, i));
    }
    let rest = |g: &Graph| format!("{} with its output at node {} in {}", g.name, g.output.0, g.layout);
    differ(rest(theirs), rest(ours))
}

/// The first node of `ours` that `theirs` has by name with another operator, or reading other nodes.
fn nodes(theirs: &Graph, ours: &Graph) -> Option<Difference> {
    let inputs = |graph: &Graph, node: &Node| -> Vec<String> {
        node.inputs.iter().map(|&i| graph.node(i).name.clone()).collect()
    };
    let by_name: BTreeMap<&str, &Node> = theirs.nodes.iter().map(|n| (n.name.as_str(), n)).collect();
    ours.nodes.iter().find_map(|our| {
        let their = by_name.get(our.name.as_str())?;
        let (their_inputs, our_inputs) = (inputs(theirs, their), inputs(ours, our));
        if their.op == our.op && their_inputs == our_inputs {
            return None;
        }
        let text =
            |n: &Node, inputs: &[String]| format!("node `{}` {:?} of {}", n.name, n.op, inputs.join(", "));
        let (theirs, ours) = (text(their, &their_inputs), text(our, &our_inputs));
        Some(Difference { part: Part::Graph, theirs, ours })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{NetworkFacts, NodeId, Op};
    use crate::models;
    use crate::passes::Passes;
    use crate::strategy::{Amp, Purpose, Qat, Target};

    fn network(classes: usize) -> Graph {
        models::build("ResNet20", [3, 32, 32], classes).unwrap()
    }

    /// A network whose first ReLU is another function.
    fn other_function() -> Graph {
        let mut graph = network(10);
        let at = graph.nodes.iter().position(|n| n.op == Op::Relu).unwrap();
        graph.nodes[at].op = Op::Flatten;
        graph
    }

    fn made<'a>(graph: &'a Graph, strategy: &'a Strategy, own: &[&str]) -> Made<'a> {
        let mut passes = Passes::default().names(strategy, &NetworkFacts::of(graph), Purpose::Train);
        passes.extend(own.iter().map(|s| s.to_string()));
        Made { graph, passes, strategy }
    }

    fn part_of(theirs: &Made, ours: &Made, same: Same) -> Option<Part> {
        difference(theirs, ours, same).map(|d| d.part)
    }

    #[test]
    fn what_goes_on_is_the_same_in_all_and_what_is_changed_on_the_way_is_named() {
        let graph = network(10);
        let qat = Qat { target: Target::Onnxruntime, ..Qat::default() };
        let strategy = |qat: Qat| Strategy { qat: Some(qat), ..Strategy::default() };
        let ours = strategy(qat.clone());
        let of = |theirs: &Strategy, own: &[&str], same| {
            part_of(&made(&graph, theirs, own), &made(&graph, &ours, &[]), same)
        };
        let key = |key: &str| Some(Part::Strategy(key.into()));
        let bits = strategy(Qat { weight_bits: 7, ..qat.clone() });
        let amp = Strategy { amp: Amp::Bf16, ..ours.clone() };
        let target = strategy(Qat { target: Target::Tensorrt, ..qat.clone() });
        for (theirs, own, exact, meaning) in [
            (&ours, &[][..], None, None),
            (&bits, &[], key("qat.weight-bits"), None),
            (&amp, &[], key("amp"), None),
            (&target, &[], Some(Part::Target), Some(Part::Target)),
            (&ours.without_qat(), &[], Some(Part::Quantization), Some(Part::Quantization)),
            (&ours, &["linearise"], Some(Part::Passes), Some(Part::Passes)),
        ] {
            assert_eq!(of(theirs, own, Same::Everything), exact, "{theirs:?}");
            assert_eq!(of(theirs, own, Same::Meaning), meaning, "{theirs:?}");
            assert_eq!(of(theirs, own, Same::Nodes), None, "{theirs:?}");
        }
        let told = difference(&made(&graph, &bits, &[]), &made(&graph, &ours, &[]), Same::Everything);
        let told = told.unwrap().to_string();
        assert_eq!(told, "`qat.weight-bits` of the strategy is 7 in the checkpoint, and 8 here");
        // Checkpoints of before do not say what weights were drawn from.
        let mut drawn = network(10);
        drawn.params.iter_mut().for_each(|p| p.initializer = Initializer::UniformOutputs);
        let drawn = part_of(&made(&drawn, &ours, &[]), &made(&graph, &ours, &[]), Same::Everything);
        assert_eq!(drawn, None);
        // As a file would have rounded it.
        let near = strategy(Qat { percentile: 99.99f64.next_up(), ..qat });
        assert_eq!(of(&near, &[], Same::Everything), None);
    }

    #[test]
    fn weights_of_the_same_names_in_another_function_are_told_and_another_classifier_is_not() {
        let strategy = Strategy::default();
        let (ours, other) = (network(10), other_function());
        let of = |theirs: &Graph, same| {
            difference(&made(theirs, &strategy, &[]), &made(&ours, &strategy, &[]), same)
        };
        for same in [Same::Everything, Same::Meaning, Same::Nodes] {
            let d = of(&other, same).unwrap();
            assert!(d.part == Part::Graph && d.theirs.contains("Flatten"), "{d}");
            assert_eq!(of(&ours.clone(), same), None);
        }
        assert_eq!(of(&network(2), Same::Nodes), None);
        assert_eq!(of(&network(2), Same::Meaning).unwrap().part, Part::Graph);
        let larger = models::build("ResNet20", [3, 64, 64], 10).unwrap();
        assert_eq!(of(&larger, Same::Nodes), None);
        let sizes = of(&larger, Same::Meaning).unwrap();
        assert!(sizes.theirs.contains("64") && sizes.ours.contains("32"), "{sizes}");
        // The same operators, wired otherwise.
        let mut wired = network(10);
        let add = wired.nodes.iter().position(|n| n.op == Op::Add).unwrap();
        wired.nodes[add].inputs.reverse();
        assert!(of(&wired, Same::Nodes).is_some() && wired.output != NodeId(0));
    }
}
