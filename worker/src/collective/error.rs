//! What can go wrong among ranks, and whose failure it is.

use super::StoreError;
use crate::native::says_no_memory;

/// Whose failure it is that a group cannot be formed, or that a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nobody's that is known here: this rank did its part and waited until the deadline for the others.
    Waited,
    /// Another rank's, or the network's between them: mostly the echo of another worker's end.
    Peers,
    /// This worker's own: its device, its driver, or Octrain.
    Own,
    /// This worker's device, or its host, has no memory left.
    Memory,
    /// That of how the machines are set up: trying again does not help.
    Setup,
}

/// What went wrong, and whose failure it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub cause: Cause,
    pub why: String,
}

impl Trouble {
    pub fn new(cause: Cause, why: impl ToString) -> Self {
        Self { cause, why: why.to_string() }
    }

    /// Of this worker's own memory or device, by the words of what failed.
    pub fn own(why: impl ToString) -> Self {
        let why = why.to_string();
        let cause = if says_no_memory(&why) { Cause::Memory } else { Cause::Own };
        Self { cause, why }
    }
}

/// One call of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Which {
    pub call: &'static str,
    /// Its number among the group's, from 1; 0 of what is no collective.
    pub number: u32,
    /// Bytes of this rank's tensor.
    pub bytes: usize,
}

impl Which {
    /// Its error.
    pub fn failed(self, backend: &'static str, rank: usize, trouble: impl Into<Trouble>) -> CollectiveError {
        let Self { call, number, bytes } = self;
        let Trouble { cause, why } = trouble.into();
        CollectiveError::Failed { backend, call, rank, number, bytes, cause, why }
    }
}

impl From<StoreError> for Trouble {
    fn from(e: StoreError) -> Self {
        let cause = match e {
            StoreError::Timeout { .. } => Cause::Waited,
            StoreError::Ended(_) | StoreError::Failed(_) => Cause::Peers,
        };
        Self::new(cause, e)
    }
}

impl From<tch::TchError> for Trouble {
    fn from(e: tch::TchError) -> Self {
        Self::own(e)
    }
}

/// An error of a collective.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// The group could not be formed.
    #[error("{backend}: the ranks could not connect: {why}{}", reach(.backend, *.cause))]
    Connect {
        /// `gloo` or `nccl`.
        backend: &'static str,
        /// Whose failure it is.
        cause: Cause,
        /// The library's words.
        why: String,
    },
    /// A call failed.
    #[error("{backend} {call} on rank {rank}{}: {why}", told(*.number, *.bytes))]
    Failed {
        /// `gloo` or `nccl`.
        backend: &'static str,
        /// What was called.
        call: &'static str,
        /// This rank.
        rank: usize,
        /// Number of the collective among those of the group, from 1, and so the same on every rank; 0 where it is none.
        number: u32,
        /// Bytes of this rank's tensor.
        bytes: usize,
        /// Whose failure it is.
        cause: Cause,
        /// The library's words.
        why: String,
    },
    /// Ended by a [`super::Abort`] that tripped, in connect or in a call.
    #[error("{call} on rank {rank} was aborted because the job was ended")]
    Aborted {
        /// What was called.
        call: &'static str,
        /// This rank.
        rank: usize,
    },
    /// The library is not there.
    #[error(
        "NCCL cannot be loaded ({0}); run scripts/setup.sh --cuda, or name a libnccl.so.2 in OCTRAIN_NCCL"
    )]
    NoNccl(String),
    /// A tensor that cannot be sent.
    #[error("{call}: a tensor of type {kind} with strides {strides:?} cannot be sent")]
    Tensor {
        /// What was called.
        call: &'static str,
        /// Its element type.
        kind: String,
        /// Its strides.
        strides: Vec<i64>,
    },
}

/// Which collective it was: ranks of which one has left out a call, or made another, tell different ones.
fn told(number: u32, bytes: usize) -> String {
    match number {
        0 => String::new(),
        _ => format!(" (collective {number}, {bytes} bytes)"),
    }
}

/// What to look at when ranks do not reach each other.
fn reach(backend: &str, cause: Cause) -> &'static str {
    match (cause, backend) {
        (Cause::Own | Cause::Memory | Cause::Setup, _) => "",
        (_, "nccl") => {
            "; check that every host can reach the others through the interface that NCCL uses (NCCL_SOCKET_IFNAME names it; where that is not set, it is the one of OCTRAIN_ADDRESS, or else the one towards the coordinator)"
        }
        _ => "; check that every host can reach the others' addresses (OCTRAIN_ADDRESS names this host's)",
    }
}

impl CollectiveError {
    /// Whose failure it is.
    pub fn cause(&self) -> Cause {
        match self {
            CollectiveError::Connect { cause, .. } | CollectiveError::Failed { cause, .. } => *cause,
            CollectiveError::Aborted { .. } => Cause::Peers,
            // Nothing that another rank could have caused.
            CollectiveError::NoNccl(_) | CollectiveError::Tensor { .. } => Cause::Setup,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advised_has_an_effect_on_the_backend_that_did_not_connect() {
        let told = |backend, cause| CollectiveError::Connect { backend, cause, why: "x".into() }.to_string();
        assert!(told("gloo", Cause::Peers).contains("OCTRAIN_ADDRESS"));
        assert!(!told("gloo", Cause::Waited).contains("NCCL"));
        assert!(told("nccl", Cause::Waited).contains("NCCL_SOCKET_IFNAME"));
        for cause in [Cause::Own, Cause::Memory, Cause::Setup] {
            assert!(told("nccl", cause).ends_with(": x"), "no address is at fault");
        }
    }
}
