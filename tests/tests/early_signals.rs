//! Signals that come before training begins: while settings are read, data is looked for, or a coordinator is awaited.

use octrain_tests::binary;
use octrain_tests::run::{DEADLINE, SMALL, said};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn started(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process has a file below this folder open.
fn has_open(pid: u32, folder: &Path) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|e| std::fs::read_link(e.path()).ok()).any(|to| to.starts_with(folder))
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

fn terminate(pid: u32) {
    assert!(Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap().success());
}

/// Waits for the end.
fn end(mut child: Child) -> Output {
    wait_until("end", || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

/// An image folder that takes long to look through: many names of few files.
fn large(folder: &Path) {
    let pool = folder.join("pool");
    std::fs::create_dir_all(&pool).unwrap();
    (0..2000).for_each(|i| std::fs::write(pool.join(format!("{i}.jpg")), b"").unwrap());
    for place in ["train/a", "train/b", "val/a", "val/b"] {
        let class = folder.join(place);
        std::fs::create_dir_all(&class).unwrap();
        (0..300).for_each(|i| symlink(&pool, class.join(format!("{i}"))).unwrap());
    }
}

#[test]
fn a_signal_is_heard_while_the_data_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap();
    large(&folder);
    let data = ["--image-root", folder.to_str().unwrap(), "--output-dir", "nowhere"];
    for how in [
        &["train", "--nproc", "1"][..],
        &["train", "--nproc", "2"],
        &["launch", "--coordinator", "127.0.0.1:1", "--nproc-per-node", "1", "--"],
    ] {
        let child = started(Command::new(binary("octrain")).args([how, SMALL, &data].concat()));
        wait_until("scan", || has_open(child.id(), &folder));
        terminate(child.id());
        let output = end(child);
        assert_eq!(output.status.code(), Some(4), "{how:?}: {}", said(&output));
        assert!(said(&output).contains("SIGTERM: ended before the work began"), "{}", said(&output));
    }
}

#[test]
fn the_first_process_of_a_container_hears_a_signal_from_the_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap();
    large(&folder);
    let container = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(container);
        command
    };
    if !unshare().arg("true").output().is_ok_and(|o| o.status.success()) {
        octrain_tests::skipped("this system does not let a process have process ids of its own (unshare)");
        return;
    }
    let launch = ["launch", "--coordinator", "127.0.0.1:1", "--nproc-per-node", "1", "--"];
    let data = ["--image-root", folder.to_str().unwrap(), "--output-dir", "nowhere"];
    let child = started(unshare().arg(binary("octrain")).args([&launch[..], SMALL, &data].concat()));
    let first = || children(child.id()).first().copied();
    wait_until("scan", || first().is_some_and(|pid| has_open(pid, &folder)));
    terminate(first().unwrap());
    let output = end(child);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
}

#[test]
fn a_signal_is_heard_while_a_coordinator_does_not_answer() {
    // Takes connections and says nothing, as one that is stopped does.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let launch = ["launch", "--coordinator", &address, "--connect-timeout", "86400", "--nproc-per-node", "1"];
    let flags = ["--batch-size", "8", "--output-dir", "nowhere"];
    let child = started(Command::new(binary("octrain")).args([&launch[..], &["--"], SMALL, &flags].concat()));
    let (connection, _) = silent.accept().unwrap();
    let asked = Instant::now();
    terminate(child.id());
    let output = end(child);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    // What is not heard ends when the connection is given up for dead, after 20 s.
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}: {}", asked.elapsed(), said(&output));
    drop(connection);
}

/// An address from which all is passed on to `to`; what comes back is kept while `held`.
fn relay(to: &str, held: &Arc<AtomicBool>) -> String {
    let (listener, to, held) = (TcpListener::bind("127.0.0.1:0").unwrap(), to.to_string(), Arc::clone(held));
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(&to) else { continue };
            pass_on(&near, &far, None);
            pass_on(&far, &near, Some(Arc::clone(&held)));
        }
    });
    address
}

fn pass_on(from: &TcpStream, to: &TcpStream, held: Option<Arc<AtomicBool>>) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            while held.as_ref().is_some_and(|held| held.load(Ordering::SeqCst)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// A coordinator of two workers, where it listens, and its log.
fn coordinator() -> (Child, String, impl Iterator<Item = String> + Send + 'static) {
    let line = ["--listen", "127.0.0.1:0", "--world-size", "2", "--register-timeout", "60"];
    let mut child = started(Command::new(binary("octrain-coordinator")).args(line));
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    (child, line.trim().strip_prefix("listening on ").unwrap().to_string(), log)
}

/// A host of one worker.
fn host(name: &str, address: &str, output: &Path) -> Child {
    let launch = ["launch", "--coordinator", address, "--nproc-per-node", "1", "--"];
    let flags = ["--batch-size", "8", "--max-steps", "1", "--threads", "1", "--output-dir"];
    let args = [&launch[..], SMALL, &flags, &[output.to_str().unwrap()]].concat();
    started(Command::new(binary("octrain")).args(args).env("OCTRAIN_HOST", name))
}

#[test]
fn one_host_that_is_asked_to_stop_before_its_plan_reaches_it_ends_the_job_of_the_others() {
    for (both, code) in [(false, 3), (true, 4)] {
        let (mut coordinator, address, mut log) = coordinator();
        let held = Arc::new(AtomicBool::new(false));
        let dir = tempfile::tempdir().unwrap();
        let mut early = host("early", &relay(&address, &held), dir.path());
        let mut of_early = BufReader::new(early.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(of_early.any(|l| l.contains("waiting for the plan")), "the first host does not wait");
        let of_early = std::thread::spawn(move || of_early.collect::<Vec<_>>().join("\n"));
        held.store(true, Ordering::SeqCst);
        let mut other = host("other", &address, dir.path());
        assert!(log.any(|l| l.contains("registered, 2 of 2")), "the job did not begin");
        let mut of_other = BufReader::new(other.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(of_other.any(|l| l.contains("joined;")), "the other host has no plan");
        if both {
            terminate(other.id());
            // Its worker is to know before the job ends for it.
            let told = |l: String| l.starts_with("[host other local 0]") && l.contains("SIGTERM");
            assert!(of_other.any(told), "the other worker was not told");
        }
        let of_other = std::thread::spawn(move || of_other.collect::<Vec<_>>().join("\n"));
        terminate(early.id());
        let rest = std::thread::spawn(move || log.collect::<Vec<_>>().join("\n"));
        let codes = [other, early].map(|host| end(host).status.code());
        let told = [of_other, of_early].map(|told| told.join().unwrap());
        assert_eq!(codes, [Some(code), Some(4)], "{told:?}");
        assert!(told[0].contains("was asked to stop before its plan had reached it"), "{told:?}");
        wait_until("end of the coordinator", || coordinator.try_wait().unwrap().is_some());
        assert_eq!(coordinator.wait().unwrap().code(), Some(4), "{}", rest.join().unwrap());
    }
}

#[test]
fn one_host_that_is_asked_to_stop_while_it_registers_leaves_no_member_behind() {
    let (mut coordinator, address, mut log) = coordinator();
    let held = Arc::new(AtomicBool::new(true));
    let dir = tempfile::tempdir().unwrap();
    let early = host("early", &relay(&address, &held), dir.path());
    assert!(log.any(|l| l.contains("registered, 1 of 2")), "it does not register");
    terminate(early.id());
    // It waits a moment for the answer.
    std::thread::sleep(Duration::from_millis(500));
    held.store(false, Ordering::SeqCst);
    assert!(log.any(|l| l.contains("left, interrupted before the start")), "it stays a member");
    assert_eq!(end(early).status.code(), Some(4));
    terminate(coordinator.id());
    log.for_each(drop);
    assert_eq!(coordinator.wait().unwrap().code(), Some(4));
}
