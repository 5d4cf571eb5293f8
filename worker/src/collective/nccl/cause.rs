//! Whose failure it is when NCCL refuses: by its answer, and by its last words where the answer says too little.

use crate::collective::Cause;
use crate::native::says_no_memory;
use std::ffi::c_int;

/// Words of faults in how the machines are set up, and what is to be done about each.
const SETUP: [(&str, &str); 4] = [
    (
        "shared memory segment",
        "; enlarge /dev/shm (for Docker its option shm-size; in Kubernetes an emptyDir of medium Memory)",
    ),
    (
        "Duplicate GPU detected",
        "; give every worker a GPU of its own (CUDA_VISIBLE_DEVICES; NCCL 2.30 can let ranks share one)",
    ),
    ("Mismatched NCCL version", "; use the same CUDA set (scripts/setup.sh --cuda) on every host"),
    (
        "driver version is insufficient",
        "; install a newer NVIDIA driver (`octrain doctor` names both versions), or use CPUs",
    ),
];

/// What can be done about last words of NCCL's, to be added to them; empty where nothing is known.
pub(super) fn advice(last: &str) -> &'static str {
    SETUP.iter().find(|(words, _)| last.contains(words)).map_or("", |(_, advice)| advice)
}

/// Whose failure an answer (`ncclResult_t`) is that is neither success nor progress, given NCCL's last words.
pub(super) fn of_answer(code: c_int, last: &str) -> Cause {
    if !advice(last).is_empty() {
        return Cause::Setup;
    }
    match code {
        // ncclUnhandledCudaError, ncclSystemError: this worker's allocators are among what they stand for.
        1 | 2 if says_no_memory(last) => Cause::Memory,
        // The device of this worker, or its driver: an ECC error, an illegal address, a GPU that fell off the bus.
        1 => Cause::Own,
        // ncclSystemError (a call of the system, mostly of a socket's), ncclInternalError, ncclRemoteError: a peer that
        // is gone shows as any of them. Where no other worker turns out to be the cause, this one is named.
        2 | 3 | 6 => Cause::Peers,
        // ncclInvalidArgument, ncclInvalidUsage, ncclInProgress where an answer was due, and ncclSuccess, which is none:
        // calls that Octrain should not have made.
        0 | 4 | 5 | 7 => Cause::Own,
        // One of a newer NCCL's.
        _ => Cause::Peers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::error::Trouble;

    #[test]
    fn every_answer_of_nccl_has_one_to_blame() {
        let wanted = [
            (0, Cause::Own),
            (1, Cause::Own),
            (2, Cause::Peers),
            (3, Cause::Peers),
            (4, Cause::Own),
            (5, Cause::Own),
            (6, Cause::Peers),
            (7, Cause::Own),
            (8, Cause::Peers),
            (-1, Cause::Peers),
        ];
        for (code, cause) in wanted {
            assert_eq!(of_answer(code, ""), cause, "ncclResult_t {code}");
        }
    }

    #[test]
    fn words_decide_where_an_answer_says_too_little() {
        let cases = [
            (1, "Cuda failure 2 'out of memory'", Cause::Memory),
            (1, "Failed to CUDA calloc 4194304 bytes", Cause::Memory),
            (1, "Failed to CUDA malloc 33554432 bytes", Cause::Memory),
            (1, "Failed to CUDA host alloc 4096 bytes", Cause::Memory),
            (2, "Failed to malloc 1024 bytes", Cause::Memory),
            (1, "Cuda failure 214 'uncorrectable ECC error encountered'", Cause::Own),
            (1, "Cuda failure 700 'an illegal memory access was encountered'", Cause::Own),
            (1, "Cuda failure 719 'unspecified launch failure'", Cause::Own),
            (
                1,
                "Cuda failure 35 'CUDA driver version is insufficient for CUDA runtime version'",
                Cause::Setup,
            ),
            (2, "Call to connect to 10.0.0.7<40123> failed : Connection refused", Cause::Peers),
            (
                2,
                "Error while creating shared memory segment /dev/shm/nccl-VPyhzw (size 21823872), error: No space left on device (28)",
                Cause::Setup,
            ),
            (5, "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 98000", Cause::Setup),
            (5, "Mismatched NCCL version detected : rank 0 version 22809 rank 1 version 23004", Cause::Setup),
            (6, "socketPollConnect: remote process exited or there was a network error", Cause::Peers),
            // What another rank says of its memory is not this one's.
            (6, "rank 1 aborted: out of memory", Cause::Peers),
        ];
        for (code, last, cause) in cases {
            assert_eq!(of_answer(code, last), cause, "{code} {last}");
            assert_eq!(cause == Cause::Setup, !advice(last).is_empty(), "{last}");
        }
    }

    #[test]
    fn what_the_driver_says_of_a_stream_is_this_workers() {
        for (words, cause) in [
            ("CUDA device 0 says CUDA_ERROR_ECC_UNCORRECTABLE", Cause::Own),
            ("CUDA device 0 says CUDA_ERROR_ILLEGAL_ADDRESS", Cause::Own),
            ("CUDA device 0 says CUDA_ERROR_OUT_OF_MEMORY", Cause::Memory),
        ] {
            assert_eq!(Trouble::own(words).cause, cause, "{words}");
        }
    }
}
