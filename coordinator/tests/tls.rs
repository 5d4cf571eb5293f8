//! The `octrain-coordinator` binary and certificates: making them, and what it says of files that cannot be used.

mod process;

use octrain_coordinator::certificates::{Made, make};
use octrain_coordinator::tls::TlsFiles;
use process::{end, start};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

const YEARS: Duration = Duration::from_secs(800 * 86_400);

fn coordinator(args: &[String]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octrain-coordinator"));
    let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let out = child.stdout.take().unwrap();
    let (status, text) = end(child);
    (status.code(), std::io::read_to_string(out).unwrap(), text)
}

fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(|word| (*word).to_string()).collect()
}

fn flags(files: &TlsFiles) -> Vec<String> {
    let shown = |path: &Path| path.to_str().unwrap().to_string();
    let TlsFiles { ca, cert, key } = files;
    [
        words(&["--world-size", "1", "--tls-ca"]),
        vec![shown(ca), "--tls-cert".into(), shown(cert), "--tls-key".into(), shown(key)],
    ]
    .concat()
}

#[test]
fn certificates_are_made_once_and_their_keys_are_nobody_else_s() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("certs");
    let line = words(&["--make-certs", folder.to_str().unwrap(), "--name", "node-0", "--name", "10.0.0.7"]);
    let (code, out, text) = coordinator(&line);
    assert_eq!(code, Some(0), "{text}");
    for part in ["octrain-coordinator --tls-ca", "coordinator.pem", "octrain launch --tls-ca", "worker.key"] {
        assert!(out.contains(part), "{part} in {out}");
    }
    let mode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!((mode("coordinator.key"), mode("worker.key")), (0o600, 0o600));
    let mut there: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    there.sort();
    assert_eq!(there, ["ca.pem", "coordinator.key", "coordinator.pem", "worker.key", "worker.pem"]);
    // What is there stays.
    let before = std::fs::read(folder.join("ca.pem")).unwrap();
    let (code, _, text) = coordinator(&line);
    assert_eq!(code, Some(2));
    assert!(text.contains("nothing is ever overwritten"), "{text}");
    assert_eq!(std::fs::read(folder.join("ca.pem")).unwrap(), before);

    let other = dir.path().join("other");
    let (code, _, text) = coordinator(&words(&["--make-certs", other.to_str().unwrap(), "--name", "a b"]));
    assert_eq!(code, Some(2));
    assert!(text.contains("--name `a b` is no name of a host") && !other.exists(), "{text}");
    let (code, _, text) = coordinator(&words(&["--name", "node-0", "--world-size", "1"]));
    assert!(code == Some(2) && text.contains("--make-certs"), "{text}");
}

#[test]
fn certificates_that_cannot_be_used_are_said_before_anything_listens() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str, at: SystemTime| make(&dir.path().join(name), &[], at).unwrap();
    let now = SystemTime::now();
    let (good, other) = (of("good", now), of("other", now));
    let (old, early) = (of("old", now - YEARS), of("early", now + YEARS));
    let nonsense = dir.path().join("nonsense");
    std::fs::write(&nonsense, "-----BEGIN NOTHING-----\n").unwrap();
    std::fs::set_permissions(&nonsense, PermissionsExt::from_mode(0o600)).unwrap();
    let mine = |change: fn(&mut TlsFiles, &Made, &Path), from: &Made, path: &Path| {
        let mut files = good.coordinator.clone();
        change(&mut files, from, path);
        files
    };
    let nowhere = Path::new("/nowhere/x.pem");
    for (files, want) in [
        (
            mine(|f, _, p| f.ca = p.into(), &good, nowhere),
            "--tls-ca `/nowhere/x.pem` cannot be read: No such file",
        ),
        (mine(|f, _, p| f.cert = p.into(), &good, nowhere), "--tls-cert `/nowhere/x.pem` cannot be read"),
        (mine(|f, _, p| f.key = p.into(), &good, nowhere), "--tls-key `/nowhere/x.pem` cannot be read"),
        (mine(|f, _, p| f.cert = p.into(), &good, &nonsense), "holds no certificate in PEM"),
        (mine(|f, _, p| f.key = p.into(), &good, &nonsense), "holds no private key in PEM"),
        (
            mine(|f, from, _| f.key = from.coordinator.key.clone(), &other, nowhere),
            "is not the key of --tls-cert",
        ),
        (mine(|f, from, _| f.ca = from.coordinator.ca.clone(), &other, nowhere), "is not of --tls-ca"),
        (good.worker.clone(), "is none of a coordinator: give the file coordinator.pem"),
        (old.coordinator.clone(), "has expired 435 days ago by this machine's clock"),
        (early.coordinator.clone(), "is valid only in 79"),
    ] {
        let (code, _, text) = coordinator(&flags(&files));
        assert_eq!(code, Some(2), "{files:?}: {text}");
        assert!(text.contains(want), "{want} in: {text}");
        assert_eq!(text.lines().count(), 1, "one message: {text}");
    }
    let alone = words(&["--world-size", "1", "--tls-ca", nowhere.to_str().unwrap()]);
    let (code, _, text) = coordinator(&alone);
    assert!(code == Some(2) && text.contains("--tls-cert"), "{text}");
    // A key that everybody may read is used, and told of.
    std::fs::set_permissions(&good.coordinator.key, PermissionsExt::from_mode(0o644)).unwrap();
    let line = [flags(&good.coordinator), words(&["--register-timeout", "0.1"])].concat();
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let (child, _) = start(&line);
    let (_, log) = end(child);
    assert!(log.contains("by TLS") && log.contains("chmod 600"), "{log}");
}

#[test]
fn with_certificates_an_address_that_others_reach_needs_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let made = make(&dir.path().join("certs"), &[], SystemTime::now()).unwrap();
    let line = [flags(&made.coordinator), words(&["--listen", "0.0.0.0:0"])].concat();
    let child = process::command(&line.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut child, _) = process::listening(child);
    child.kill().unwrap();
    child.wait().unwrap();
}
