//! `collective/nccl` without a GPU: the product's own code over a stand-in for libnccl that works on host memory and
//! goes wrong as it is told to; ranks are threads.

use octrain::collective::{
    Abort, Cause, Collective, CollectiveError, Counted, MemoryStore, Nccl, NcclLibrary, Place, ReduceOp,
    Whereabouts,
};
use octrain_tests::stand_in::StandIn;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(120);

/// What a rank of a test is given.
struct Rank {
    library: &'static NcclLibrary,
    store: Arc<MemoryStore>,
    rank: usize,
    world: usize,
    timeout: Duration,
    abort: Abort,
}

impl Rank {
    fn connect(&self) -> Result<Nccl, CollectiveError> {
        let place = (self.rank, self.world);
        Nccl::connect(self.library, &*self.store, place, Place::StandIn, self.timeout, &self.abort)
    }
}

/// Runs `f` on every rank, as threads; panics of ranks are the test's.
fn on_ranks<T: Send>(
    stand_in: &StandIn,
    world: usize,
    timeout: Duration,
    f: impl Fn(Rank) -> T + Sync,
) -> Vec<T> {
    let library = NcclLibrary::open(stand_in.library().as_os_str()).expect("the stand-in loads");
    let library: &'static NcclLibrary = Box::leak(Box::new(library));
    let store = Arc::new(MemoryStore::default());
    std::thread::scope(|s| {
        let ranks: Vec<_> = (0..world)
            .map(|rank| {
                let (store, f) = (store.clone(), &f);
                s.spawn(move || f(Rank { library, store, rank, world, timeout, abort: Abort::new() }))
            })
            .collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

fn conforms(c: &dyn Collective) {
    let (rank, world) = (c.rank(), c.world_size());
    for kind in [Kind::Float, Kind::Double, Kind::Int64, Kind::BFloat16, Kind::Half, Kind::Uint8] {
        let base = Tensor::arange(1000, (Kind::Int64, Device::Cpu)).remainder(7).to_kind(kind);
        let of = |rank: i64| (&base + rank).to_kind(kind);
        let mine = || of(rank as i64);
        let t = mine();
        c.all_reduce(&t, ReduceOp::Sum).unwrap();
        let ranks = (world * (world - 1) / 2) as i64;
        assert!(t.equal(&(&base * world as i64 + ranks).to_kind(kind)), "{kind:?} sum");
        let t = mine();
        c.all_reduce(&t, ReduceOp::Max).unwrap();
        assert!(t.equal(&of(world as i64 - 1)), "{kind:?} maximum");
        for root in 0..world {
            let t = mine();
            c.broadcast(&t, root).unwrap();
            assert!(t.equal(&of(root as i64)), "{kind:?} broadcast of {root}");
        }
        let all = c.all_gather(&mine()).unwrap();
        assert_eq!(all.len(), world);
        assert!(all.iter().enumerate().all(|(r, t)| t.equal(&of(r as i64))), "{kind:?} gather");
    }
    let all =
        [3, 100_000, 1, 50_000].map(|len| Tensor::full([len], rank as i64 + 1, (Kind::Float, Device::Cpu)));
    let start = |t: &Tensor| c.start_all_reduce(t, ReduceOp::Sum, Box::new(|| ())).unwrap();
    let under_way: Vec<_> = all.iter().map(start).collect();
    let wires: Vec<_> = under_way.into_iter().map(|call| call.wait().unwrap()).collect();
    assert!(wires.windows(2).all(|w| w[0].ended <= w[1].begun));
    let sum = (world * (world + 1) / 2) as f64;
    assert!(all.iter().all(|t| t.eq(sum).all().int64_value(&[]) == 1));
    c.barrier().unwrap();
}

#[test]
fn every_call_conforms_on_one_two_and_three_ranks_however_often_nccl_says_in_progress() {
    for (world, script) in [(1, ""), (2, "in-progress=3"), (3, "rank=1 in-progress=5")] {
        let stand_in = StandIn::new(script);
        on_ranks(&stand_in, world, LONG, |rank| {
            let c = rank.connect().unwrap();
            let at = Arc::new(Whereabouts::default());
            let c = Counted::new(Box::new(c), at.clone());
            conforms(&c);
            assert_eq!(at.entered(), 6 * (3 + rank.world as u64) + 5);
            c.finish().unwrap();
            let e = c.barrier().unwrap_err().to_string();
            assert!(e.contains("is finished"), "{e}");
        });
        assert!(stand_in.parted_in_good_order(world), "{:?}", stand_in.log());
    }
}

#[test]
fn a_rank_that_has_finished_does_not_cut_off_what_a_slower_one_still_receives() {
    let stand_in = StandIn::new("rank=1 slow-ms=400");
    on_ranks(&stand_in, 2, LONG, |rank| {
        let c = rank.connect().unwrap();
        let t = Tensor::ones([8], (Kind::Float, Device::Cpu));
        c.all_reduce(&t, ReduceOp::Sum).unwrap();
        assert_eq!(t.double_value(&[0]), 2.0);
        c.finish().unwrap();
    });
    assert!(stand_in.parted_in_good_order(2), "{:?}", stand_in.log());

    // The same without the orderly end: the stand-in does see what it is there to see.
    let stand_in = StandIn::new("rank=1 slow-ms=400");
    let got = on_ranks(&stand_in, 2, LONG, |rank| {
        let c = rank.connect().unwrap();
        let t = Tensor::ones([8], (Kind::Float, Device::Cpu));
        c.all_reduce(&t, ReduceOp::Sum)
    });
    assert_eq!(got[0], Ok(()));
    let e = got[1].as_ref().unwrap_err().to_string();
    assert!(e.contains("all_reduce on rank 1") && e.contains("rank 0 aborted before rank 1 received"), "{e}");
    assert!(!stand_in.parted_in_good_order(2));
}

#[test]
fn a_join_that_hangs_ends_on_abort_and_on_the_deadline_and_frees_what_it_began() {
    let stand_in = StandIn::new("hang=init");
    let begun = Instant::now();
    on_ranks(&stand_in, 1, LONG, |rank| {
        let abort = rank.abort.clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            abort.trip();
        });
        let e = rank.connect().err().unwrap();
        assert_eq!(e, CollectiveError::Aborted { call: "connect", rank: 0 });
        other.join().unwrap();
    });
    assert!(begun.elapsed() < LONG / 2);
    assert_eq!(stand_in.log(), ["rank 0 init", "rank 0 abort"]);

    let stand_in = StandIn::new("rank=1 hang=init");
    on_ranks(&stand_in, 2, Duration::from_secs(1), |rank| {
        let e = rank.connect().err().unwrap().to_string();
        let whose = format!("rank {} of 2 on host memory", rank.rank);
        assert!(e.contains(&whose) && e.contains("no answer") && e.contains("within 1 s"), "{e}");
    });
    assert_eq!(stand_in.log().iter().filter(|l| l.ends_with("abort")).count(), 2, "{:?}", stand_in.log());
}

#[test]
fn a_rank_that_is_refused_frees_what_was_begun_and_is_not_held_up_by_it() {
    let stand_in = StandIn::new("init-code=1 hang=free");
    let begun = Instant::now();
    on_ranks(&stand_in, 1, LONG, |rank| {
        let e = rank.connect().err().unwrap();
        assert_eq!(e.cause(), Cause::Own, "{e}");
        for words in ["could not connect", "1 (unhandled cuda error)", "scripted refusal to join"] {
            assert!(e.to_string().contains(words), "{e}");
        }
    });
    assert!(begun.elapsed() < LONG / 2, "it took {:?}", begun.elapsed());
    assert_eq!(stand_in.log(), ["rank 0 init", "rank 0 abort"]);
}

#[test]
fn a_job_that_is_over_before_the_identifier_comes_is_not_waited_for() {
    let stand_in = StandIn::new("");
    on_ranks(&stand_in, 1, LONG, |mut rank| {
        (rank.rank, rank.world) = (1, 2);
        rank.abort.trip();
        let e = rank.connect().err().unwrap();
        assert_eq!(e, CollectiveError::Aborted { call: "connect", rank: 1 });
    });
    assert!(stand_in.log().is_empty(), "nothing was begun: {:?}", stand_in.log());
}

#[test]
fn a_call_that_never_ends_is_ended_by_abort_and_by_the_deadline() {
    let t = || Tensor::zeros([8], (Kind::Float, Device::Cpu));
    let stand_in = StandIn::new("hang=call");
    on_ranks(&stand_in, 1, LONG, |rank| {
        let c = rank.connect().unwrap();
        let abort = rank.abort.clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            abort.trip();
        });
        let e = c.all_reduce(&t(), ReduceOp::Sum).unwrap_err();
        assert_eq!(e, CollectiveError::Aborted { call: "all_reduce", rank: 0 });
        assert!(matches!(c.barrier().unwrap_err(), CollectiveError::Aborted { .. }));
        assert!(matches!(c.finish().unwrap_err(), CollectiveError::Aborted { .. }));
        other.join().unwrap();
    });
    assert_eq!(stand_in.log(), ["rank 0 init", "rank 0 abort"], "freed once, by the thread that used it");

    let stand_in = StandIn::new("hang=call");
    on_ranks(&stand_in, 1, Duration::from_secs(1), |rank| {
        let c = rank.connect().unwrap();
        let e = c.broadcast(&t(), 0).unwrap_err().to_string();
        assert!(e.contains("nccl broadcast on rank 0") && e.contains("within 1 s"), "{e}");
    });
    assert_eq!(stand_in.log(), ["rank 0 init", "rank 0 abort"]);
}

#[test]
fn an_error_names_the_call_the_rank_and_nccl_s_last_words_and_nothing_is_asked_after_it() {
    let stand_in = StandIn::new("rank=1 error-at=2");
    let both = std::sync::Barrier::new(2);
    on_ranks(&stand_in, 2, LONG, |rank| {
        let c = rank.connect().unwrap();
        let t = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        c.all_reduce(&t, ReduceOp::Sum).unwrap();
        c.barrier().unwrap();
        // The rank that fails leaves at once, and would cut the other off from what went well.
        both.wait();
        let e = c.all_gather(&t).unwrap_err().to_string();
        let wanted: &[&str] = match rank.rank {
            1 => &["all_gather on rank 1", "3 (internal error)", "scripted error at collective 2"],
            _ => &["all_gather on rank 0", "6 (remote process exited", "rank 1 aborted"],
        };
        assert!(wanted.iter().all(|w| e.contains(w)), "{wanted:?}: {e}");
        let later = c.barrier().unwrap_err().to_string();
        assert!(later.contains("an earlier call of this group failed"), "{later}");
        assert!(c.finish().is_err(), "what has failed has no orderly end");
    });
    let log = stand_in.log();
    assert!(!log.iter().any(|l| l.contains("finalize") || l.contains("FAULT")), "{log:?}");
    assert_eq!(log.iter().filter(|l| l.ends_with(" abort")).count(), 2, "{log:?}");
}

#[test]
fn a_fault_of_a_rank_s_own_device_is_its_own_and_the_others_know_that_it_is_not_theirs() {
    let cases = [
        ("code=1 text=Cuda_failure_214_'uncorrectable_ECC_error_encountered'", Cause::Own),
        ("code=1", Cause::Own),
        ("code=1 text=Cuda_failure_2_'out_of_memory'", Cause::Memory),
        ("code=1 text=Failed_to_CUDA_calloc_4194304_bytes", Cause::Memory),
        ("code=2 text=Error_while_creating_shared_memory_segment_/dev/shm/nccl-x", Cause::Setup),
        ("code=2 text=Call_to_connect_to_10.0.0.7<40123>_failed_:_Connection_refused", Cause::Peers),
        ("code=3", Cause::Peers),
        ("code=6", Cause::Peers),
    ];
    for (fault, cause) in cases {
        let stand_in = StandIn::new(&format!("rank=1 error-at=1 {fault}"));
        let both = std::sync::Barrier::new(2);
        on_ranks(&stand_in, 2, LONG, |rank| {
            let c = rank.connect().unwrap();
            c.barrier().unwrap();
            both.wait();
            let e = c.barrier().unwrap_err();
            let wanted = if rank.rank == 1 { cause } else { Cause::Peers };
            assert_eq!(e.cause(), wanted, "rank {}: {e}", rank.rank);
            assert_eq!(e.to_string().contains("enlarge /dev/shm"), wanted == Cause::Setup, "{e}");
        });
    }
    // Nobody's, as far as the one knows that waited.
    let stand_in = StandIn::new("rank=1 hang=call");
    let ended = on_ranks(&stand_in, 2, Duration::from_secs(5), |rank| {
        let c = rank.connect().unwrap();
        let e = c.barrier().unwrap_err();
        // Not freed before both have ended: that would be heard.
        (e.cause(), c)
    });
    assert!(ended.iter().all(|(cause, _)| *cause == Cause::Waited));
}

#[test]
fn a_rank_whose_kernel_hangs_says_so_itself_and_has_not_entered_the_call_that_the_others_wait_in() {
    let stand_in = StandIn::new("rank=1 hang=device");
    // Not freed before both have ended: that would be heard.
    let ended = on_ranks(&stand_in, 2, Duration::from_secs(5), |rank| {
        let at = Arc::new(Whereabouts::default());
        let c = Counted::new(Box::new(rank.connect().unwrap()), at.clone());
        let e = c.all_reduce(&Tensor::zeros([8], (Kind::Float, Device::Cpu)), ReduceOp::Sum).unwrap_err();
        let (cause, words, calls) = match rank.rank {
            0 => (Cause::Waited, "no answer from the other ranks within 5 s", 1),
            _ => (Cause::Own, "a kernel hangs", 0),
        };
        assert!(e.to_string().contains(words) && e.to_string().contains("all_reduce"), "{e}");
        assert_eq!((e.cause(), at.entered()), (cause, calls), "rank {}", rank.rank);
        c
    });
    drop(ended);
}

#[test]
fn calls_under_way_end_when_the_group_is_given_up_or_aborted_and_it_is_freed_once() {
    let t = || Tensor::zeros([8], (Kind::Float, Device::Cpu));
    for abandons in [true, false] {
        let stand_in = StandIn::new("hang=call");
        let begun = Instant::now();
        on_ranks(&stand_in, 1, LONG, |rank| {
            let c = rank.connect().unwrap();
            let start = || c.start_all_reduce(&t(), ReduceOp::Sum, Box::new(|| ())).unwrap();
            let under_way = [start(), start()];
            if abandons {
                c.abandon();
            } else {
                rank.abort.trip();
            }
            let [first, second] = under_way.map(|call| call.wait().unwrap_err());
            assert_eq!(first, CollectiveError::Aborted { call: "all_reduce", rank: 0 });
            assert_eq!(second.cause(), Cause::Peers, "{second}");
            assert!(c.start_all_reduce(&t(), ReduceOp::Sum, Box::new(|| ())).is_err());
        });
        assert!(begun.elapsed() < LONG / 2, "it took {:?}", begun.elapsed());
        assert_eq!(stand_in.log(), ["rank 0 init", "rank 0 abort"]);
    }
}

#[test]
fn a_group_whose_call_failed_is_freed_when_the_job_ends_though_nobody_waits_for_the_call() {
    let stand_in = StandIn::new("error-at=0");
    on_ranks(&stand_in, 1, LONG, |rank| {
        let c = rank.connect().unwrap();
        let t = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        let under_way = c.start_all_reduce(&t, ReduceOp::Sum, Box::new(|| ())).unwrap();
        rank.abort.trip();
        let begun = Instant::now();
        while stand_in.log() != ["rank 0 init", "rank 0 abort"] && begun.elapsed() < LONG / 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(stand_in.log(), ["rank 0 init", "rank 0 abort"]);
        drop(under_way);
    });
    // One that is in no call, too, and its end was no orderly one.
    let stand_in = StandIn::new("");
    on_ranks(&stand_in, 1, LONG, |rank| {
        let c = rank.connect().unwrap();
        rank.abort.trip();
        let begun = Instant::now();
        while stand_in.log().len() < 2 && begun.elapsed() < LONG / 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(stand_in.log(), ["rank 0 init", "rank 0 abort"]);
        assert!(matches!(c.finish().unwrap_err(), CollectiveError::Aborted { .. }));
    });
}

#[test]
fn a_call_under_way_is_entered_when_this_rank_s_device_is_done_with_what_came_before() {
    let stand_in = StandIn::new("rank=1 hang=device");
    let ended = on_ranks(&stand_in, 2, Duration::from_secs(3), |rank| {
        let at = Arc::new(Whereabouts::default());
        let c = Counted::new(Box::new(rank.connect().unwrap()), at.clone());
        let t = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        let call = c.start_all_reduce(&t, ReduceOp::Sum, Box::new(|| ())).unwrap();
        let e = call.wait().unwrap_err();
        let (cause, calls) = if rank.rank == 0 { (Cause::Waited, 1) } else { (Cause::Own, 0) };
        assert_eq!((e.cause(), at.entered()), (cause, calls), "{e}");
        assert!(e.to_string().contains("(collective 1, 32 bytes)"), "{e}");
        c
    });
    drop(ended);
}

#[test]
fn a_free_that_hangs_holds_nobody_up_for_long() {
    let stand_in = StandIn::new("error-at=0 hang=free");
    let begun = Instant::now();
    on_ranks(&stand_in, 1, LONG, |rank| {
        let c = rank.connect().unwrap();
        c.barrier().unwrap_err();
        c.abandon();
        assert!(c.barrier().is_err());
    });
    assert!(begun.elapsed() < LONG / 2, "it took {:?}", begun.elapsed());
    assert_eq!(stand_in.log(), ["rank 0 init", "rank 0 abort"], "it is asked once");
}

/// Calls of a program that does not ask how the last one stands.
const IMPATIENT: &str = r#"
#include "SOURCE"
#include <assert.h>
int settle(Comm* comm) {
  int state = InProgress;
  while (state == InProgress) assert(ncclCommGetAsyncError(comm, &state) == Success);
  return state;
}
int main() {
  Id id;
  assert(ncclGetUniqueId(&id) == Success);
  char bytes[80] = {};
  Config* config = reinterpret_cast<Config*>(bytes);
  *config = Config{80, 0xcafebeef, 22809, 0};
  Comm* comm;
  float x[4] = {1, 2, 3, 4};
  auto reduce = [&] { return ncclAllReduce(x, x, 4, Float32, Sum, comm, nullptr); };
  assert(ncclCommInitRankConfig(&comm, 1, id, 0, config) == InProgress);
  assert(reduce() == InvalidArgument);
  assert(strstr(ncclGetLastError(comm), "before the previous operation returned ncclSuccess"));
  assert(settle(comm) == Success);
  assert(reduce() == InProgress);
  assert(reduce() == InvalidArgument && ncclCommFinalize(comm) == InvalidArgument);
  assert(settle(comm) == Success && reduce() == InProgress && settle(comm) == Success);
  assert(ncclCommFinalize(comm) == InProgress && settle(comm) == Success && ncclCommDestroy(comm) == Success);
}
"#;

#[test]
fn the_stand_in_refuses_a_call_while_another_is_in_progress_as_nccl_does() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = octrain_tests::policy::repository().join("tests/fixtures/nccl_stand_in.cpp");
    let (source, program) = (folder.path().join("impatient.cpp"), folder.path().join("impatient"));
    std::fs::write(&source, IMPATIENT.replace("SOURCE", fixture.to_str().unwrap())).unwrap();
    std::fs::write(folder.path().join("impatient.script"), "in-progress=2").unwrap();
    let flags = ["-std=c++17", "-O1", "-pthread", "-rdynamic", "-o"];
    let compiled = Command::new("c++").args(flags).args([&program, &source]).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = std::fs::read_to_string(folder.path().join("impatient.log")).unwrap();
    assert_eq!(log.lines().filter(|l| l.starts_with("FAULT")).count(), 3, "{log}");
}

#[test]
fn a_peer_that_never_finishes_holds_the_orderly_end_no_longer_than_the_deadline() {
    let stand_in = StandIn::new("rank=1 slow-ms=3000");
    on_ranks(&stand_in, 2, Duration::from_secs(1), |rank| {
        let c = rank.connect().unwrap();
        let t = Tensor::ones([8], (Kind::Float, Device::Cpu));
        let done = c.all_reduce(&t, ReduceOp::Sum);
        if rank.rank == 0 {
            done.unwrap();
            let e = c.finish().unwrap_err().to_string();
            assert!(e.contains("finalize on rank 0") && e.contains("within 1 s"), "{e}");
        }
    });
}

#[test]
fn what_cannot_be_sent_is_refused_before_nccl_sees_it() {
    let stand_in = StandIn::new("");
    on_ranks(&stand_in, 1, LONG, |rank| {
        let c = rank.connect().unwrap();
        let strided = Tensor::zeros([4, 4], (Kind::Float, Device::Cpu)).transpose(0, 1);
        let e = c.all_reduce(&strided, ReduceOp::Sum).unwrap_err();
        assert!(matches!(e, CollectiveError::Tensor { .. }), "{e}");
        let e = c.broadcast(&Tensor::zeros([4], (Kind::Bool, Device::Cpu)), 0).unwrap_err();
        assert!(matches!(e, CollectiveError::Tensor { .. }), "{e}");
        c.barrier().unwrap();
    });
}
