//! What NCCL is told about the network: it looks for an interface by itself, and takes one that the others cannot reach
//! where a host has several. Said through the environment of worker processes, before NCCL is loaded.

use super::machine::address_towards;
use crate::native::interfaces;
use std::net::{IpAddr, ToSocketAddrs};

/// Interface of NCCL's connections.
pub const INTERFACE: &str = "NCCL_SOCKET_IFNAME";
/// Overrides what Octrain asks of NCCL: calls that return at once, without which none can be aborted.
pub const BLOCKING: &str = "NCCL_COMM_BLOCKING";

/// Variables for workers, and what is to be said of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NcclEnvironment {
    /// Names and values.
    pub set: Vec<(&'static str, String)>,
    /// What the user should know.
    pub said: Vec<String>,
}

/// Decides from what is `given` in the environment, this host's address as others reach it (as it was said, and what it
/// resolves to, or why it is not known), and the interfaces of this host.
fn decide(
    given: impl Fn(&str) -> Option<String>,
    address: Result<(String, Vec<IpAddr>), String>,
    interfaces: &[(String, IpAddr)],
) -> NcclEnvironment {
    let given = |name: &str| given(name).filter(|value| !value.is_empty());
    // Set even where nothing is said otherwise: NCCL reads files of its own too (/etc/nccl.conf).
    let mut out = NcclEnvironment { set: vec![(BLOCKING, "0".into())], said: Vec::new() };
    if let Some(value) = given(BLOCKING).filter(|v| v != "0") {
        out.said.push(format!(
            "{BLOCKING}={value} is set to 0 for the workers: a NCCL that blocks cannot be aborted"
        ));
    }
    if given(INTERFACE).is_some() {
        return out;
    }
    let own_choice = format!("NCCL chooses an interface itself; {INTERFACE} names one");
    let (address, found) = match address {
        Ok(known) => known,
        Err(why) => {
            out.said.push(format!("this host's address is not known yet ({why}): {own_choice}"));
            return out;
        }
    };
    // A job of one host, or the host of the coordinator: others reach it in another way.
    if found.iter().all(IpAddr::is_loopback) {
        return out;
    }
    match interfaces.iter().find(|(_, ip)| found.contains(ip)) {
        // `=`: this one, not all whose names begin so.
        Some((name, _)) => out.set.push((INTERFACE, format!("={name}"))),
        None => out.said.push(format!("no interface of this host has the address {address}: {own_choice}")),
    }
    out
}

/// What workers of this host are told that look for the coordinator at `coordinator` (`HOST:PORT`).
pub fn nccl_environment(coordinator: &str) -> NcclEnvironment {
    let resolved = address_towards(coordinator).and_then(|address| {
        let found = (address.as_str(), 0).to_socket_addrs()?.map(|a| a.ip()).collect();
        Ok((address, found))
    });
    let interfaces = interfaces().unwrap_or_else(|e| {
        tracing::warn!("the interfaces of this host cannot be listed: {e}");
        Vec::new()
    });
    decide(|name| std::env::var(name).ok(), resolved.map_err(|e| e.to_string()), &interfaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(text: &str) -> Result<(String, Vec<IpAddr>), String> {
        Ok((text.into(), vec![ip(text)]))
    }

    #[test]
    fn the_interface_is_that_of_the_address_unless_the_user_names_one() {
        let here = [
            ("lo".to_string(), ip("127.0.0.1")),
            ("docker0".into(), ip("172.17.0.1")),
            ("eth1".into(), ip("10.0.0.7")),
            ("eth1".into(), ip("fe80::1")),
            ("eth10".into(), ip("10.0.9.7")),
        ];
        let nothing = |_: &str| None;
        let blocking = (BLOCKING, "0".to_string());
        for (address, name) in [("10.0.0.7", "=eth1"), ("10.0.9.7", "=eth10"), ("fe80::1", "=eth1")] {
            let got = decide(nothing, at(address), &here);
            assert_eq!(got.set, [blocking.clone(), (INTERFACE, name.into())], "{address}");
            assert!(got.said.is_empty());
        }
        // One host, or that of the coordinator.
        assert_eq!(decide(nothing, at("127.0.0.1"), &here).set, std::slice::from_ref(&blocking));
        // A name with several addresses, of which this host has one.
        let several = Ok(("node-1".into(), vec![ip("192.0.2.1"), ip("172.17.0.1")]));
        assert_eq!(decide(nothing, several, &here).set[1].1, "=docker0");
        // The user's word counts.
        let named = |name: &str| (name == INTERFACE).then(|| "ib0".to_string());
        assert_eq!(decide(named, at("10.0.0.7"), &here).set, std::slice::from_ref(&blocking));
        // What cannot be found is said.
        for (address, words) in [(at("192.0.2.1"), "192.0.2.1"), (Err("no such name".into()), "no such name")]
        {
            let got = decide(nothing, address, &here);
            assert_eq!(got.set, std::slice::from_ref(&blocking));
            assert!(got.said[0].contains(words) && got.said[0].contains(INTERFACE), "{:?}", got.said);
        }
    }

    #[test]
    fn a_nccl_that_blocks_is_not_let_through_and_that_is_said() {
        for (value, said) in [(None, 0), (Some("0"), 0), (Some(""), 0), (Some("1"), 1)] {
            let given = |name: &str| value.filter(|_| name == BLOCKING).map(str::to_string);
            let got = decide(given, at("127.0.0.1"), &[]);
            assert_eq!(got.set, [(BLOCKING, "0".to_string())], "{value:?}");
            assert_eq!(got.said.len(), said, "{:?}", got.said);
            assert!(got.said.iter().all(|s| s.contains("NCCL_COMM_BLOCKING=1") && s.contains("aborted")));
        }
    }
}
