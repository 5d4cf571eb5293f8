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
    // Not 3: a scheduler that starts it again for ever would never end.
    assert_eq!(status.code(), Some(1));
    assert!(text.contains("2 of 2 workers missing"), "{text}");
}

#[test]
fn a_signal_stops_it_and_a_scheduler_may_start_it_again() {
    for name in ["TERM", "INT", "HUP"] {
        let (child, _) = start(&["--world-size", "2"]);
        signal(name, &child);
        let (status, text) = end(child);
        assert_eq!(status.code(), Some(4), "{text}");
        assert!(text.contains(&format!("stopped: SIG{name}")), "{text}");
    }
}

#[test]
fn nonsense_on_the_command_line_is_a_usage_error() {
    for (args, want) in [
        (vec!["--world-size", "0"], "at least one worker"),
        (vec!["--world-size", "1", "--heartbeat-timeout", "-1"], "--heartbeat-timeout is -1"),
        (vec!["--world-size", "1", "--heartbeat-timeout", "0.01"], "at least 50 ms"),
        (vec!["--world-size", "1", "--register-timeout", "0"], "--register-timeout is 0"),
        (vec!["--world-size", "1", "--heartbeat-timeout", "1e300"], "--heartbeat-timeout is"),
        (vec!["--world-size", "1", "--heartbeat-timeout", "1e18"], "at most a year"),
        (vec!["--world-size", "1", "--heartbeat-timeout", "nan"], "--heartbeat-timeout is NaN"),
        (vec!["--world-size", "1", "--register-timeout", "inf"], "--register-timeout is inf"),
        (vec!["--world-size", "1", "--register-timeout", "1e12"], "at most a year"),
        (
            vec!["--world-size", "2", "--min-world", "1", "--regroup-timeout", "3"],
            "--regroup-timeout is 3s, less than",
        ),
        (vec!["--world-size", "2", "--min-world", "1", "--regroup-timeout", "1e9"], "at most a year"),
        (vec!["--world-size", "2", "--regroup-timeout", "90"], "--min-world"),
        (vec!["--world-size", "4000000000"], "at most 16384 workers"),
        (vec!["--world-size", "1", "--job-id", "a\nb"], "--job-id `a\\nb` has control characters"),
        (vec![], "--world-size"),
        (vec!["--world-size", "1", "--listen", "nowhere"], "HOST:PORT"),
        (
            vec!["--world-size", "1", "--event-file", "/nowhere/e"],
            "cannot append to --event-file `/nowhere/e`: No such",
        ),
        (
            vec!["--world-size", "2", "--max-world", "3"],
            "--max-world is 3, but the job begins with 2 workers",
        ),
    ] {
        let (status, text) = end(command(&args));
        assert_eq!(status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(want), "{want} in: {text}");
    }
}
