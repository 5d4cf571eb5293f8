//! The `octrain-coordinator` binary as a process. Each test binary uses a part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Starts it with these arguments.
pub fn command(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_octrain-coordinator"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Starts it on a port of the system's choice and reads which.
pub fn start(args: &[&str]) -> (Child, SocketAddr) {
    listening(command(&[&["--listen", "127.0.0.1:0"], args].concat()))
}

/// Starts it below a shell that runs `first`, e.g. `ulimit -n 64`.
pub fn start_after(first: &str, args: &[&str]) -> (Child, SocketAddr) {
    let child = Command::new("sh")
        .args(["-c", &format!("{first}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_octrain-coordinator")])
        .args([&["--listen", "127.0.0.1:0"], args].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    listening(child)
}

/// Reads where it listens.
pub fn listening(mut child: Child) -> (Child, SocketAddr) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}"));
    (child, address.parse().unwrap())
}

/// Waits, with a deadline, and returns what it wrote to standard error.
pub fn end(mut child: Child) -> (ExitStatus, String) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the coordinator does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut text = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut text).unwrap();
    }
    (status, text)
}

/// Sends a signal, by its name without SIG.
pub fn signal(name: &str, child: &Child) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}
