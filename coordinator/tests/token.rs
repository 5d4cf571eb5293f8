//! A job with a token hears nobody who has not got it.

mod process;
mod raw;
mod worker;

use octrain_proto::TOKEN_KEY;
use process::{command, end, start};
use raw::{Member, Raw, messages};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use tonic::{Code, Request};
use worker::kind;

const TOKEN: &str = "5ad7b10c-the-token-of-this-job";

/// A file with a token, readable by this user alone, as temporary files are.
fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_needs_the_token_and_a_stranger_s_changes_nothing() {
    let token = file(&format!("{TOKEN}\n"));
    let (child, address) = start(&["--world-size", "1", "--token-file", token.path().to_str().unwrap()]);
    let mut member = Member::join(address, TOKEN).await;
    let mut stranger = Raw::connect(address).await;
    for (step, (name, message)) in messages().into_iter().enumerate() {
        let longer = format!("{TOKEN}0");
        for (wrong, words) in [
            (None, "this call has none: give the coordinator's --token-file"),
            (Some("another-token-of-another-job"), "is not the job's"),
            (Some(&TOKEN[1..]), "is not the job's"),
            (Some(&longer), "is not the job's"),
        ] {
            let refused = stranger.call(name, message.clone(), wrong).await.unwrap_err();
            assert_eq!(
                (refused.code(), kind(&refused)),
                (Code::Unauthenticated, "token"),
                "{name}: {refused}"
            );
            assert!(refused.message().contains(words), "{name}: {refused}");
        }
        // The token, but not as one.
        for other in [TOKEN.to_string(), format!("Basic {TOKEN}"), format!("bearer{TOKEN}")] {
            let mut request = Request::new(message.clone());
            request.metadata_mut().insert(TOKEN_KEY, other.parse().unwrap());
            let refused = stranger.send(name, request).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{name}: {refused}");
        }
        member.beat(step as u64 + 1).await;
    }
    // With the token, who asks is answered.
    assert!(!stranger.call("Status", Vec::new(), Some(TOKEN)).await.unwrap().is_empty());
    member.leave().await;
    let (status, log) = tokio::task::spawn_blocking(move || end(child)).await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    let lines: Vec<&str> = log.lines().filter(|l| l.contains("refused")).collect();
    assert_eq!(lines.len(), 1, "what strangers do is said, and does not fill the disk: {log}");
    assert!(lines[0].contains("a call from 127.0.0.1"), "{}", lines[0]);
    assert!(!log.contains("5ad7b10c") && !log.contains("another-token"), "a secret in the log: {log}");
}

#[tokio::test]
async fn who_counts_on_a_token_is_told_that_the_job_has_none() {
    let (mut child, address) = start(&["--world-size", "1"]);
    let mut with = Raw::connect(address).await;
    let refused = with.call("Status", Vec::new(), Some(TOKEN)).await.unwrap_err();
    assert_eq!((refused.code(), kind(&refused)), (Code::Unauthenticated, "token"));
    assert!(
        refused.message().contains("the job has none: start the coordinator with --token-file"),
        "{refused}"
    );
    with.call("Status", Vec::new(), None).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What a coordinator with this in its environment says when it cannot start.
fn refused(args: &[&str], token: Option<&str>) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octrain-coordinator"));
    command.args(["--world-size", "1"]).args(args).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some(token) = token {
        command.env("OCTRAIN_TOKEN", token);
    }
    let (status, text) = end(command.spawn().unwrap());
    assert_eq!(status.code(), Some(2), "{args:?}: {text}");
    text
}

#[test]
fn an_address_that_others_reach_needs_a_token_or_a_word() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let text = refused(&["--listen", listen], None);
        assert!(
            text.contains("the job has neither token nor certificates") && text.contains("--insecure"),
            "{text}"
        );
    }
    let token = file(TOKEN);
    let path = token.path().to_str().unwrap();
    for args in [["--insecure", "--world-size", "1"], ["--token-file", path, "--world-size=1"]] {
        let (mut child, _) = process::listening(command(&[&["--listen", "0.0.0.0:0"], &args[..]].concat()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_token_that_is_none_is_a_configuration_error_that_does_not_show_it() {
    let (short, blank) = (file("secr3t"), file("not a token of one word"));
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_string();
    for (given, env, words) in [
        (Some(path(&short)), None, "is shorter than 16 characters"),
        (Some(path(&blank)), None, "has blanks within"),
        (Some("/nowhere/token".to_string()), None, "No such file"),
        (None, Some("secr3t"), "the job's token in OCTRAIN_TOKEN is shorter"),
        (None, Some(""), "the job's token in OCTRAIN_TOKEN is empty"),
    ] {
        let given = given.map(|path| ["--token-file".to_string(), path]);
        let args: Vec<&str> = given.iter().flatten().map(String::as_str).collect();
        let text = refused(&args, env);
        assert!(
            text.contains(words) && !text.contains("secr3t") && !text.contains("not a token of"),
            "{text}"
        );
    }
}

#[test]
fn a_file_that_everybody_may_read_is_told_of() {
    let token = file(TOKEN);
    std::fs::set_permissions(token.path(), PermissionsExt::from_mode(0o644)).unwrap();
    let path = token.path().to_str().unwrap();
    let (child, _) = start(&["--world-size", "1", "--token-file", path, "--register-timeout", "0.1"]);
    let (_, log) = end(child);
    assert!(log.contains(&format!("chmod 600 {path}")), "{log}");
}
