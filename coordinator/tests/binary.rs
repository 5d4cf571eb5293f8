//! The `octrain-coordinator` binary: output, signals, exit codes.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

fn command(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_octrain-coordinator"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Starts it on a port of the system's choice and reads which.
fn start(args: &[&str]) -> (Child, SocketAddr) {
    let mut child = command(&[&["--listen", "127.0.0.1:0"], args].concat());
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}"));
    (child, address.parse().unwrap())
}

/// Waits, with a deadline, and returns what it wrote to standard error.
fn end(mut child: Child) -> (ExitStatus, String) {
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
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (status, text)
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let (mut first, address) = start(&["--world-size", "1"]);
    let (status, text) = end(command(&["--listen", &address.to_string(), "--world-size", "1"]));
    assert_eq!(status.code(), Some(2));
    assert!(text.contains("the port is in use"), "{text}");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn missing_workers_end_it_after_the_register_timeout() {
    let (child, _) = start(&["--world-size", "2", "--register-timeout", "0.3"]);
    let (status, text) = end(child);
    assert_eq!(status.code(), Some(1));
    assert!(text.contains("2 of 2 workers missing"), "{text}");
}

#[test]
fn a_signal_stops_it() {
    let (child, _) = start(&["--world-size", "2"]);
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let (status, text) = end(child);
    assert_eq!(status.code(), Some(130));
    assert!(text.contains("stopped: SIGTERM"), "{text}");
}

#[test]
fn nonsense_on_the_command_line_is_a_usage_error() {
    for (args, want) in [
        (vec!["--world-size", "0"], "at least one worker"),
        (vec!["--world-size", "1", "--heartbeat-timeout", "-1"], "--heartbeat-timeout is -1"),
        (vec!["--world-size", "1", "--heartbeat-timeout", "0.01"], "at least 50 ms"),
        (vec!["--world-size", "1", "--register-timeout", "0"], "--register-timeout is 0"),
        (vec![], "--world-size"),
        (vec!["--world-size", "1", "--listen", "nowhere"], "HOST:PORT"),
    ] {
        let (status, text) = end(command(&args));
        assert_eq!(status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(want), "{want} in: {text}");
    }
}
