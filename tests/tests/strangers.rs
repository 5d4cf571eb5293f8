//! Strangers beside real jobs: on the calls of a coordinator, on its port by TLS and without, and on the ports that gradients go by.

#[path = "../../coordinator/tests/raw/mod.rs"]
mod raw;
#[path = "../../coordinator/tests/worker/mod.rs"]
mod worker;

use octrain::session::{self, Credentials, JobToken, Tls};
use octrain_coordinator::certificates::{Made, make};
use octrain_coordinator::tls::TlsFiles;
use octrain_tests::binary;
use octrain_tests::run::{Running, SMALL, refuse, said};
use raw::{Raw, messages};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio_rustls::TlsAcceptor;
use tonic::Code;

const TOKEN: &str = "5ad7b10c-the-token-of-this-job";
const YEARS: Duration = Duration::from_secs(800 * 86_400);

/// A coordinator of two workers, its address and its log.
struct Coordinator {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Coordinator {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let log = folder.join("coordinator.log");
        let mut child = Command::new(binary("octrain-coordinator"))
            .args(["--listen", "127.0.0.1:0", "--world-size", "2"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}"));
        Self { child, address: address.parse().unwrap(), log }
    }

    /// Its end, which is expected to be a good one, and what it said.
    fn end(mut self) -> String {
        let until = Instant::now() + Duration::from_secs(30);
        let log = || std::fs::read_to_string(&self.log).unwrap();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it does not end: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(0), "{}", log());
        log()
    }
}

/// Two workers of a job of so many steps.
fn launch(address: SocketAddr, credentials: &[&str], steps: &str, output: &Path) -> Running {
    let address = address.to_string();
    let line = ["launch", "--coordinator", &address, "--nproc-per-node", "2"];
    let flags = ["--batch-size", "8", "--epochs", "50", "--max-steps", steps, "--print-interval", "1"];
    let output = ["--run-scope", "train_only", "--threads", "1", "--output-dir", output.to_str().unwrap()];
    Running::start(&[&line, credentials, &["--"], SMALL, &flags, &output].concat())
}

/// Ports at which these processes listen.
fn ports(pids: &[u32]) -> Vec<u16> {
    let mut sockets = Vec::new();
    for fd in
        pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok()).flatten().flatten()
    {
        let to = std::fs::read_link(fd.path()).unwrap_or_default();
        let inode = to.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']'));
        sockets.extend(inode.map(str::to_string));
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|t| std::fs::read_to_string(t).unwrap_or_default());
    let lines = tables.iter().flat_map(|t| t.lines().skip(1));
    let listening = lines.filter_map(|line| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let listens = cells[3] == "0A" && sockets.iter().any(|inode| inode == cells[9]);
        listens.then(|| u16::from_str_radix(cells[1].rsplit(':').next().unwrap(), 16).unwrap())
    });
    listening.collect()
}

/// Connects to every port of these processes again and again, says something without sense, and keeps some of the connections
/// open. Ends with how many there were.
fn knock(launcher: u32, over: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let (mut kept, mut count, mut seed) = (Vec::new(), 0, 0x9e37_79b9_7f4a_7c15_u64);
        while !over.load(Ordering::SeqCst) {
            let children =
                std::fs::read_dir(format!("/proc/{launcher}/task")).into_iter().flatten().flatten();
            let children =
                children.map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default());
            let pids: Vec<u32> = children
                .flat_map(|c| c.split_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<_>>())
                .collect();
            for port in ports(&pids) {
                let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let bytes: Vec<u8> = (0..1 + seed as usize % 64)
                    .map(|_| {
                        seed ^= seed << 13;
                        seed ^= seed >> 7;
                        seed ^= seed << 17;
                        (seed >> 8) as u8
                    })
                    .collect();
                let _ = socket.write_all(&bytes);
                count += 1;
                if count % 4 == 0 {
                    kept.push(socket);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        count
    })
}

fn asked(address: SocketAddr, credentials: &Credentials) -> String {
    match session::status(&address.to_string(), credentials, false) {
        Ok(status) => format!("{:?}", status.phase()),
        Err(e) => {
            assert!(e.is_configuration(), "trying again helps nobody: {e}");
            e.to_string()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_with_a_token_goes_through_while_strangers_call_and_knock() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let credentials = ["--token-file", token.to_str().unwrap()];
    let coordinator = Coordinator::start(dir.path(), &credentials);
    let address = coordinator.address;
    // A worker without the token, or with another, ends at once, and the job still waits for its own.
    let begun = Instant::now();
    for (with, words) in [
        (vec![], "this call has none: give the coordinator's --token-file here too"),
        (vec!["--token-file", "/nowhere/token"], "cannot be read from `/nowhere/token`"),
    ] {
        let (code, told) = launch(address, &with, "1", &dir.path().join("none")).end();
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(words), "{words} in {told}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "nobody tries again: {:?}", begun.elapsed());

    let output = dir.path().join("out");
    let mut run = launch(address, &credentials, "60", &output);
    let over = Arc::new(AtomicBool::new(false));
    let knocking = knock(run.id(), Arc::clone(&over));
    run.wait_for("step 2/");
    let mut stranger = Raw::connect(address).await;
    for (name, message) in messages() {
        for wrong in [None, Some("another-token-of-another-job")] {
            let refused = stranger.call(name, message.clone(), wrong).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{name}: {refused}");
        }
    }
    let status = |token: &str| {
        Command::new(binary("octrain"))
            .args(["status", &address.to_string()])
            .env("OCTRAIN_TOKEN", token)
            .output()
    };
    let (right, wrong) = (status(TOKEN).unwrap(), status("another-token-of-another-job").unwrap());
    assert_eq!((right.status.code(), wrong.status.code()), (Some(0), Some(2)), "{}", said(&wrong));
    assert!(said(&right).contains("running, generation 1, 2 of 2 workers here"), "{}", said(&right));
    let (code, told) = tokio::task::spawn_blocking(move || run.end()).await.unwrap();
    over.store(true, Ordering::SeqCst);
    let knocks = knocking.join().unwrap();
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("step 60/"), "{told}");
    assert!(knocks > 20, "data ports were found: {knocks}");
    println!("{knocks} connections of strangers to data ports");
    let log = coordinator.end();
    assert!(log.contains("a call from 127.0.0.1: the job has a token"), "{log}");
    let texts = [told, log, said(&right), said(&wrong)].concat();
    assert!(!texts.contains(TOKEN), "the token is shown");
    let found =
        Command::new("grep").args(["-r", "--files-with-matches", TOKEN]).arg(&output).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "the token lies beside the checkpoints");
}

fn flags(files: &TlsFiles) -> [&str; 6] {
    let TlsFiles { ca, cert, key } = files;
    let [ca, cert, key] = [ca, cert, key].map(|path| path.to_str().unwrap());
    ["--tls-ca", ca, "--tls-cert", cert, "--tls-key", key]
}

/// What a client with these files, which was not stopped by its own clock, is told at an address.
fn met(address: SocketAddr, files: &TlsFiles, at: SystemTime, token: Option<&str>) -> String {
    let tls = Tls::read_at(files.clone(), at).unwrap_or_else(|e| panic!("{files:?}: {e}"));
    let token = token.map(|token| JobToken::new(token, "this test").unwrap());
    asked(address, &Credentials { token, tls: Some(tls) })
}

/// A server with these files, which was not stopped by its own clock; it only shows its certificate.
async fn shows(listen: &str, files: &TlsFiles, at: SystemTime) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(files.server_at(at).unwrap());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = acceptor.accept(tcp).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_with_certificates_goes_through_and_whoever_shows_none_of_them_is_told_why() {
    let begun = std::time::Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let of = |name: &str, at: SystemTime| make(&dir.path().join(name), &[], at).unwrap();
    let (job, other) = (of("job", now), of("other", now));
    let (old, early) = (of("old", now - YEARS), of("early", now + YEARS));
    // Certificates of different years are of different authorities: whoever is to look at their dates alone trusts all of these.
    let all = dir.path().join("all.pem");
    let text: String =
        [&job, &old, &early].iter().map(|made| std::fs::read_to_string(&made.worker.ca).unwrap()).collect();
    std::fs::write(&all, text).unwrap();
    let wide = |files: &TlsFiles| TlsFiles { ca: all.clone(), ..files.clone() };
    let token = dir.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let (mine, theirs) = (wide(&job.coordinator), job.worker.clone());
    let given = ["--token-file", token.to_str().unwrap()];
    let coordinator = Coordinator::start(dir.path(), &[&given[..], &flags(&mine)].concat());
    let address = coordinator.address;

    let none = dir.path().join("none");
    for (with, words) in [
        (vec![], "it speaks TLS, and this side has no certificate: give --tls-ca, --tls-cert and --tls-key"),
        (flags(&other.worker).to_vec(), "its certificate is of another job's authority"),
    ] {
        let (code, told) = launch(address, &[&given[..], &with].concat(), "1", &none).end();
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(words), "{words} in {told}");
    }
    let mut run = launch(address, &[&given[..], &flags(&theirs)].concat(), "50", &dir.path().join("out"));
    run.wait_for("step 2/");

    let plain = Coordinator::start(&own_folder(dir.path()), &[]);
    let elsewhere = shows("127.0.0.2:0", &mine, now).await;
    let (was, will) = (now - YEARS, now + YEARS);
    let (expired, unripe) = (
        shows("127.0.0.1:0", &wide(&old.coordinator), was).await,
        shows("127.0.0.1:0", &wide(&early.coordinator), will).await,
    );
    let bundle = dir.path().join("both.pem");
    let both = [&job, &other].map(|made| std::fs::read_to_string(&made.worker.ca).unwrap()).concat();
    std::fs::write(&bundle, both).unwrap();
    let foreign = TlsFiles { ca: bundle, ..other.worker.clone() };
    let asking = tokio::task::spawn_blocking(move || {
        let wide = |made: &Made| TlsFiles { ca: all.clone(), ..made.worker.clone() };
        [
            (met(address, &theirs, now, Some(TOKEN)), "Running"),
            (met(address, &theirs, now, None), "the job has a token, and this call has none"),
            (met(address, &theirs, now, Some("another-token-of-another-job")), "is not the job's"),
            (met(address, &other.worker, now, Some(TOKEN)), "its certificate is of another job's authority"),
            (
                met(address, &foreign, now, Some(TOKEN)),
                "it does not know the authority of this side's --tls-cert",
            ),
            (
                met(address, &wide(&old), was, Some(TOKEN)),
                "by its clock, this side's --tls-cert has expired or is not valid yet",
            ),
            (
                met(address, &wide(&early), will, Some(TOKEN)),
                "by its clock, this side's --tls-cert has expired or is not valid yet",
            ),
            (
                asked(address, &Credentials { token: JobToken::new(TOKEN, "").ok(), tls: None }),
                "it speaks TLS, and this side",
            ),
            (met(plain.address, &theirs, now, None), "it answers without TLS: start it with --tls-ca"),
            (met(elsewhere, &theirs, now, None), "its certificate is for localhost"),
            (
                met(expired, &wide(&job), now, None),
                "its certificate has expired 435 days ago by this machine's clock",
            ),
            (met(unripe, &wide(&job), now, None), "its certificate is valid only in 79"),
        ]
        .into_iter()
        .for_each(|(told, want)| {
            assert!(told.contains(want), "{want} in: {told}");
            assert_eq!(told.lines().count(), 1, "one message: {told}");
        });
        let mut child = plain.child;
        child.kill().unwrap();
        child.wait().unwrap();
        // What the command line makes of it.
        let address = address.to_string();
        let line = [&["status", &address][..], &flags(&theirs)].concat();
        assert!(refuse(2, &line).contains("the job has a token"));
        let told = refuse(2, &[&["status", &address][..], &flags(&old.worker)].concat());
        assert!(told.contains("has expired 435 days ago") && told.lines().count() == 1, "{told}");
        // Bytes that are neither TLS nor HTTP, and one that says nothing.
        let mut socket = TcpStream::connect(&address).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.first(), Some(&21), "an alert of TLS: {answer:?}");
        TcpStream::connect(&address).unwrap()
    });
    let silent = asking.await.unwrap();
    let (code, told) = tokio::task::spawn_blocking(move || run.end()).await.unwrap();
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("step 50/"), "{told}");
    drop(silent);
    let log = coordinator.end();
    assert!(
        log.contains("by TLS, for whoever has a certificate of the job's authority, and its token"),
        "{log}"
    );
    let lines: Vec<&str> =
        log.lines().filter(|l| l.contains("refused: a connection from 127.0.0.1")).collect();
    let most = 1 + begun.elapsed().as_secs() / 60;
    assert!((1..=most).contains(&(lines.len() as u64)), "a line a minute: {log}");
}

/// A folder for the log of another coordinator.
fn own_folder(parent: &Path) -> PathBuf {
    let folder = parent.join("plain");
    std::fs::create_dir(&folder).unwrap();
    folder
}
