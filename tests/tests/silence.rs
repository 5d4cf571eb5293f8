//! Workers that fall silent or hang, as processes: who ends, how soon, and who is named.

use octrain_tests::binary;
use octrain_tests::run::{Running, SMALL, alive, newest, said, succeed};
use octrain_tests::wire::silenced;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Bound on what takes a second on a machine that has nothing else to do.
const SOON: Duration = Duration::from_secs(20);

const FLAGS: &[&str] = &[
    "--batch-size",
    "8",
    "--epochs",
    "50",
    "--lr",
    "0.01",
    "--print-interval",
    "1",
    "--run-scope",
    "train_only",
];

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A long run of two workers.
fn start(output: &Path, more: &[&str]) -> Running {
    Running::start(
        &[&["train", "--nproc", "2"], SMALL, FLAGS, &["--output-dir", text(output)], more].concat(),
    )
}

/// How long it takes until a process is gone.
fn gone_after(pid: u32) -> Duration {
    let begun = Instant::now();
    while alive(pid) {
        assert!(begun.elapsed() < Duration::from_secs(90), "{pid} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}

fn fifo(path: &Path) {
    std::fs::create_dir_all(path.parent().expect("in a folder")).expect("the folder is made");
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo runs").success());
}

#[test]
fn survivors_of_a_silent_worker_save_and_end_at_the_coordinators_word_and_the_silent_one_is_named() {
    // Rank 0 still holds the output folder while it is stopped.
    for (silent, survivor) in [(1, 0), (0, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let mut run = start(dir.path(), &[]);
        run.wait_for("step 2/");
        let workers = run.workers();
        run.signal("STOP", workers[silent]);
        run.wait_for("the job was ended: ");
        let took = gone_after(workers[survivor]);
        assert!(took < SOON, "the survivor was there for {took:?} after the coordinator's word");
        let survived = Instant::now();
        let (code, told) = run.end();
        // A stopped process hears nothing: it is not given the time of one that still works.
        assert!(survived.elapsed() < SOON, "the launcher took {:?}", survived.elapsed());
        assert_eq!(code, Some(3), "{told}");
        assert!(!told.contains("watchdog"), "{told}");
        let named = format!("octrain: rank {silent} (pid {}) did not end by itself", workers[silent]);
        let verdict = &told[told.find(&named).unwrap_or_else(|| panic!("{named} in {told}"))..];
        // The coordinator's word, as the survivor passed it on.
        let by = format!("rank {survivor}: ");
        let word = verdict.lines().find(|l| l.contains(&by)).unwrap_or_default();
        for part in [&format!("the job was ended: rank {silent}")[..], "no heartbeat"] {
            assert!(word.contains(part), "{part} in the launcher's words: {told}");
        }
        assert!(!alive(workers[silent]));
        assert!(told.contains("though the job was ended") && newest(dir.path()).is_dir(), "{told}");
    }
}

#[test]
fn a_survivor_whose_peer_falls_silent_while_they_connect_ends_at_the_coordinators_word() {
    let dir = tempfile::tempdir().unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut coordinator = Command::new(binary("octrain-coordinator"))
        .args(["--world-size", "2", "--listen", &address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the coordinator starts");
    // The second worker publishes where it is reached, and is never heard of again.
    let wire = silenced(&address, b"0/1").to_string();
    let launch = |host: &str, towards: &str| {
        let mut command = Command::new(binary("octrain"));
        command.env("OCTRAIN_HOST", host).args([
            "launch",
            "--coordinator",
            towards,
            "--nproc-per-node",
            "1",
            "--",
        ]);
        command.args(SMALL).args(FLAGS).args(["--output-dir", text(dir.path())]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let mut silent = launch("b", &wire);
    let survivor = launch("a", &address);
    let begun = Instant::now();
    let output = survivor.wait_with_output().expect("it ends");
    let told = said(&output);
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}: {told}", begun.elapsed());
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("host b") && told.contains("no heartbeat"), "{told}");
    assert!(!told.contains("step 1/") && !told.contains("watchdog"), "{told}");
    for child in [&mut silent, &mut coordinator] {
        let _ = child.kill();
        child.wait().expect("it ends");
    }
}

/// A run in which rank 0 hangs in its save of step 40 (the file it writes to is a FIFO that nobody reads) and rank 1
/// has been killed.
fn hung_in_a_save(output: &Path) -> (Running, Vec<u32>) {
    let mut run = start(output, &["--save-interval-steps", "20"]);
    run.wait_for("saved ");
    let workers = run.workers();
    fifo(&output.join(format!(".0-40.{}/model.safetensors", workers[0])));
    run.wait_for("step 40/");
    run.signal("KILL", workers[1]);
    run.wait_for("the job was ended: ");
    (run, workers)
}

#[test]
fn a_worker_that_hangs_in_a_save_is_ended_by_its_watchdog_after_its_grace() {
    let dir = tempfile::tempdir().unwrap();
    let (mut run, workers) = hung_in_a_save(dir.path());
    let told = run.wait_for("its watchdog");
    assert!(told.contains("[rank 0]") && told.contains("saving a checkpoint"), "{told}");
    assert!(gone_after(workers[0]) < SOON);
    let (code, told) = run.end();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&format!("octrain: rank 1 (pid {}) was killed by signal 9", workers[1])), "{told}");
    assert_eq!(newest(dir.path()), dir.path().join("0-20"), "the last checkpoint is the one before");
}

#[test]
fn a_worker_that_waited_in_vain_is_not_blamed_but_the_one_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--output-dir", text(dir.path()), "--save-interval-steps", "20"];
    let mut run = Running::start_with(
        &[&["train", "--nproc", "2"], SMALL, FLAGS, &flags].concat(),
        &[("OCTRAIN_COLLECTIVE_TIMEOUT", "20")],
    );
    run.wait_for("saved ");
    let workers = run.workers();
    // Rank 0 hangs in the save of step 40, its heartbeats go on; rank 1 waits for it in step 41.
    fifo(&dir.path().join(format!(".0-40.{}/model.safetensors", workers[0])));
    run.wait_for("step 40/");
    let told = run.wait_for("the job was ended: ");
    for part in ["rank 1 (", "waited in vain: gloo ", "had not reached that call: rank 0 (", "last step 40"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(!told.contains("rank 1 is lost"), "{told}");
    let (code, told) = run.end();
    assert_eq!(code, Some(3), "a retry may help: {told}");
    assert!(!told.contains("no other worker has failed"), "{told}");
}

#[test]
fn a_survivor_that_is_killed_while_saving_leaves_the_last_checkpoint_loadable() {
    let dir = tempfile::tempdir().unwrap();
    let (run, workers) = hung_in_a_save(dir.path());
    run.signal("KILL", workers[0]);
    let (code, told) = run.end();
    assert_eq!(code, Some(1), "{told}");
    let kept = newest(dir.path());
    assert_eq!(kept, dir.path().join("0-20"));
    let output = tempfile::tempdir().unwrap();
    let flags = ["--nproc", "2", "--max-steps", "21", "--from-checkpoint", text(&kept)];
    let told = succeed(&[&["train"], SMALL, FLAGS, &flags, &["--output-dir", text(output.path())]].concat());
    assert!(told.contains("resumed from"), "{told}");
}

#[test]
fn a_writer_that_dies_in_its_save_leaves_that_step_to_the_survivor() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = start(dir.path(), &["--save-interval-steps", "20"]);
    run.wait_for("saved ");
    let workers = run.workers();
    fifo(&dir.path().join(format!(".0-40.{}/model.safetensors", workers[0])));
    run.wait_for("step 40/");
    run.signal("KILL", workers[0]);
    let (_, told) = run.end();
    assert_eq!(newest(dir.path()), dir.path().join("0-40"), "{told}");
}
