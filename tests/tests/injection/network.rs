//! Three hosts in network namespaces: a coordinator and two launchers, and the link of one of them, which is cut.

use super::stage::Where;
use std::process::Command;

/// Interface of each host.
const LINK: &str = "net0";

/// The namespaces of one job; they go when this is dropped.
pub struct Network {
    name: String,
}

/// What does not arrive any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing, in either direction.
    Both,
    /// What the last host sends.
    From,
    /// What is sent to it.
    To,
}

fn ip(line: &str) -> Result<(), String> {
    let output = Command::new("ip").args(line.split_whitespace()).output().map_err(|e| format!("ip: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Why there can be no namespaces here; none where there can.
pub fn missing() -> Option<String> {
    Network::new(&format!("ocprobe{}", std::process::id()))
        .err()
        .map(|e| format!("links that are cut: they need root and the command `ip` ({e})"))
}

impl Network {
    /// Makes them: the coordinator's has a bridge, to which the launchers' are connected.
    pub fn new(name: &str) -> Result<Self, String> {
        let network = Self { name: name.into() };
        let [hub, hosts @ ..] = network.names();
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link set lo up"))?;
        ip(&format!("-n {hub} link add {LINK} type bridge"))?;
        ip(&format!("-n {hub} addr add {}/24 dev {LINK}", address(0)))?;
        ip(&format!("-n {hub} link set {LINK} up"))?;
        for (i, host) in hosts.iter().enumerate() {
            ip(&format!("netns add {host}"))?;
            ip(&format!("-n {hub} link add port{i} type veth peer name {LINK} netns {host}"))?;
            ip(&format!("-n {hub} link set port{i} master {LINK} up"))?;
            ip(&format!("-n {host} link set lo up"))?;
            ip(&format!("-n {host} addr add {}/24 dev {LINK}", address(i + 1)))?;
            ip(&format!("-n {host} link set {LINK} up"))?;
        }
        Ok(network)
    }

    fn names(&self) -> [String; 3] {
        ["c", "a", "b"].map(|host| format!("{}{host}", self.name))
    }

    /// Where the coordinator and the launchers run.
    pub fn places(&self) -> Vec<Where> {
        let here =
            |(i, name): (usize, String)| Where { namespace: Some(name), host: Some(format!("host-{i}")) };
        self.names().into_iter().enumerate().map(here).collect()
    }

    /// Cuts the link of the last launcher.
    pub fn cut(&self, cut: Cut) -> Result<(), String> {
        let [hub, a, b] = self.names();
        // A neighbour's address that nobody has: what is sent there arrives nowhere, and the sender is told nothing.
        let lost = |from: &str, to: usize| {
            ip(&format!(
                "-n {from} neigh replace {} lladdr 02:00:00:00:00:99 dev {LINK} nud permanent",
                address(to)
            ))
        };
        match cut {
            Cut::Both => ip(&format!("-n {hub} link set port1 down")),
            Cut::From => lost(&b, 0).and_then(|()| lost(&b, 1)),
            Cut::To => lost(&hub, 2).and_then(|()| lost(&a, 2)),
        }
    }

    /// Mends it.
    pub fn mend(&self, cut: Cut) -> Result<(), String> {
        let [hub, a, b] = self.names();
        let found = |from: &str, to: usize| ip(&format!("-n {from} neigh del {} dev {LINK}", address(to)));
        match cut {
            Cut::Both => ip(&format!("-n {hub} link set port1 up")),
            Cut::From => found(&b, 0).and_then(|()| found(&b, 1)),
            Cut::To => found(&hub, 2).and_then(|()| found(&a, 2)),
        }
    }
}

/// The address of the coordinator (0) or of a launcher.
pub fn address(host: usize) -> String {
    format!("10.77.0.{}", host + 1)
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.names() {
            // One that was not made is no error.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}
