//! The `octrain-coordinator` binary: output, signals, exit codes.

mod process;
use process::*;

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
    signal("TERM", &child);
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
