//! What can go wrong among ranks.

/// An error of a collective.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// The group could not be formed.
    #[error(
        "{backend}: the ranks could not connect: {why}; check that every host can reach the others' addresses (OCTRAIN_ADDRESS names this host's)"
    )]
    Connect {
        /// `gloo` or `nccl`.
        backend: &'static str,
        /// The library's words.
        why: String,
    },
    /// A call failed, mostly because another rank is gone.
    #[error("{backend} {call} on rank {rank}: {why}")]
    Failed {
        /// `gloo` or `nccl`.
        backend: &'static str,
        /// What was called.
        call: &'static str,
        /// This rank.
        rank: usize,
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
