//! A pass of one's own: every ReLU behind a residual sum is left out before quantizers are placed, so that these sums
//! are quantized with signed codes.
//!
//! `cargo run --example own_pass`

use octrain::graph::{Graph, GraphError, NodeId, Op};
use octrain::models;
use octrain::passes::{self, GraphPass, Pass, Passes};
use octrain::quant::scheme::Sign;
use octrain::strategy::{Purpose, Qat, Strategy};

struct LinearSums;

impl GraphPass for LinearSums {
    fn name(&self) -> &str {
        "linear-sums"
    }

    fn what(&self) -> &str {
        "leaves out the ReLU behind every residual sum"
    }

    fn apply(&self, mut graph: Graph, _: &Strategy) -> Result<Graph, GraphError> {
        for id in (0..graph.nodes.len()).map(NodeId) {
            let node = graph.node(id);
            if node.op == Op::Relu && graph.node(node.inputs[0]).op == Op::Add {
                let sum = node.inputs[0];
                graph.reroute(id, sum);
            }
        }
        Ok(graph)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let strategy = Strategy { qat: Some(Qat::default()), ..Strategy::default() };
    let network = models::build("ResNet20", [3, 32, 32], 10)?;
    let signed =
        |graph: &Graph| graph.quantizers().filter(|(_, q)| q.active && q.scheme.sign == Sign::Signed).count();

    let usual = passes::run(network.clone(), &strategy, Purpose::Train)?;
    // What `drop-dead` finds unread it removes, so the pass stands before it.
    let own = Passes::default().before(Pass::DropDead, LinearSums);
    let linear = own.run(network, &strategy, Purpose::Train, |pass, graph| {
        println!("{}: {} nodes ({})", pass.name(), graph.nodes.len(), pass.what());
    })?;
    println!("signed quantizers: {} as usual, {} with linear sums", signed(&usual), signed(&linear));
    assert!(signed(&linear) > signed(&usual));
    assert!(!linear.nodes.iter().any(|n| n.op == Op::Relu && linear.node(n.inputs[0]).op == Op::Add));
    Ok(())
}
