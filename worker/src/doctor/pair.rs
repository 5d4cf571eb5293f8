//! Two NCCL ranks as two processes of this binary: on two GPUs where there are two, else on one, where NCCL lets ranks
//! share it. NCCL's calls of one process are not independent of each other, so threads would not do.

use super::group::{PATIENCE, said};
use super::{Check, check};
use crate::collective::{Abort, FolderStore, Nccl, Place, load_nccl};
use crate::native;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The first NCCL that lets ranks share a GPU.
const SHARING: i32 = 23_000;

/// How much longer than a call a process may take.
const START: Duration = Duration::from_secs(30);

/// Which of two ranks a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank {
    /// 0 or 1.
    pub rank: usize,
    /// The folder in which they meet.
    pub meeting: PathBuf,
    /// The GPU; none: the host's memory, where a stand-in works.
    pub gpu: Option<usize>,
}

/// Where the ranks compute, given how many GPUs there are and which NCCL: one place each, and what it is called.
fn places(gpus: usize, version: i32, stand_in: bool) -> Result<([Option<usize>; 2], &'static str), String> {
    match gpus {
        _ if stand_in => Ok(([None, None], "the host's memory, by a stand-in")),
        0 => Err("there is no GPU".into()),
        1 if version < SHARING => Err(format!(
            "there is one GPU, which NCCL {version} does not let ranks share; {SHARING} does (name it in OCTRAIN_NCCL)"
        )),
        1 => Ok(([Some(0), Some(0)], "one GPU")),
        _ => Ok(([Some(0), Some(1)], "two GPUs")),
    }
}

/// One of the two: every call, then the orderly end.
pub fn rank(of: &Rank) -> Check {
    let name = if of.rank == 0 { "rank 0" } else { "rank 1" };
    let run = || {
        let place = of.gpu.map_or(Place::StandIn, Place::Cuda);
        if of.gpu.is_some() {
            native::load_cuda().map_err(|e| e.to_string())?;
        }
        let (library, store) = (load_nccl().map_err(said)?, FolderStore::new(&of.meeting));
        let group = Nccl::connect(library, &store, (of.rank, 2), place, PATIENCE, &Abort::new());
        super::group::calls(group.map_err(said)?, place)
    };
    check(name, run())
}

fn start(of: &Rank, shared: bool) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["doctor", "--rank", &of.rank.to_string(), "--meeting"]).arg(&of.meeting);
    if let Some(gpu) = of.gpu {
        command.args(["--on-gpu", &gpu.to_string()]);
    }
    if shared {
        // Few channels: ranks that share the processors must all fit, or they wait for each other for ever.
        command.envs([("NCCL_MULTI_RANK_GPU_ENABLE", "1"), ("NCCL_MAX_CTAS", "4")]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// Waits for a rank until `until`, ends it then, and tells what went wrong.
fn ended(mut child: Child, rank: usize, until: Instant) -> Result<(), String> {
    let told = |e: std::io::Error| format!("rank {rank}: {e}");
    let mut late = false;
    while child.try_wait().map_err(told)?.is_none() {
        if Instant::now() > until {
            late = true;
            child.kill().map_err(told)?;
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().map_err(told)?;
    match (late, output.status.success()) {
        (false, true) => Ok(()),
        (late, _) => {
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
            let how = if late {
                "was ended, since it hung".into()
            } else {
                format!("ended with {}", output.status)
            };
            Err(format!("rank {rank} {how}: {}", last.trim_start_matches("FAILED").trim()))
        }
    }
}

fn both(gpus: usize) -> Result<String, String> {
    let library = load_nccl().map_err(said)?;
    let (places, on) = places(gpus, library.version(), library.is_stand_in())?;
    let meeting = tempfile::tempdir().map_err(|e| format!("a folder to meet in: {e}"))?;
    let shared = places[0].is_some() && places[0] == places[1];
    let rank = |rank: usize| Rank { rank, meeting: Path::to_path_buf(meeting.path()), gpu: places[rank] };
    let children = [0, 1].map(|r| start(&rank(r), shared));
    let until = Instant::now() + PATIENCE + START;
    let mut wrong = Vec::new();
    for (r, child) in children.into_iter().enumerate() {
        let done =
            child.map_err(|e| format!("rank {r} does not start: {e}")).and_then(|c| ended(c, r, until));
        wrong.extend(done.err());
    }
    match wrong.is_empty() {
        true => Ok(format!("on {on}, as two processes")),
        false => Err(format!("on {on}: {}", wrong.join("; "))),
    }
}

/// Two ranks as processes, on this many GPUs.
pub fn two_ranks(gpus: usize) -> Check {
    check("NCCL with two ranks", both(gpus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_gpus_are_used_where_there_are_two_and_one_is_shared_where_nccl_can() {
        assert_eq!(places(2, 22_809, false).unwrap(), ([Some(0), Some(1)], "two GPUs"));
        assert_eq!(places(8, 23_004, false).unwrap().0, [Some(0), Some(1)]);
        assert_eq!(places(1, 23_004, false).unwrap(), ([Some(0), Some(0)], "one GPU"));
        let e = places(1, 22_809, false).unwrap_err();
        assert!(e.contains("22809") && e.contains("OCTRAIN_NCCL"), "{e}");
        assert!(places(0, 23_004, false).is_err());
        assert_eq!(places(0, 22_809, true).unwrap().0, [None, None]);
    }
}
