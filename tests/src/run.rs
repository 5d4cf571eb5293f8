//! Runs of the binary on small data, and what they leave behind.

use crate::binary;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Flags of a small network on the embedded digits, on the CPU.
pub const SMALL: &[&str] = &[
    "--image-root",
    "digits",
    "--model-arch-name",
    "ResNet20",
    "--num-of-class",
    "10",
    "--image-shape",
    "3,32,32",
    "--crop-size",
    "32",
    "--resize-short",
    "32",
    "--device",
    "cpu",
    "--warmup-epochs",
    "0",
    "--label-smoothing",
    "0",
    "--show-config",
    "false",
];

/// What a finished process said.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `octrain` with these words.
pub fn octrain(args: &[&str]) -> Output {
    Command::new(binary("octrain")).args(args).output().expect("the binary starts")
}

/// Runs `octrain` and expects success; returns what it said.
///
/// # Panics
/// When it fails, with what it said.
pub fn succeed(args: &[&str]) -> String {
    let output = octrain(args);
    assert!(
        output.status.success(),
        "octrain {} ended with {}\n{}",
        args.join(" "),
        output.status,
        said(&output)
    );
    said(&output)
}

/// Runs `octrain` and expects this exit code; returns what it said.
///
/// # Panics
/// When it ends otherwise.
pub fn refuse(code: i32, args: &[&str]) -> String {
    let output = octrain(args);
    assert_eq!(output.status.code(), Some(code), "octrain {}\n{}", args.join(" "), said(&output));
    said(&output)
}

/// The furthest checkpoint below a folder: that of the most epochs, then steps.
///
/// # Panics
/// When there is none.
pub fn newest(folder: &Path) -> PathBuf {
    let place = |path: &Path| -> Option<(u32, u32)> {
        let name = path.file_name()?.to_str()?;
        let (epoch, step) = name.split_once('-').unwrap_or((name, "0"));
        Some((epoch.parse().ok()?, step.parse().ok()?))
    };
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let found = entries.flatten().map(|e| e.path()).filter(|p| place(p).is_some()).max_by_key(|p| place(p));
    found.unwrap_or_else(|| panic!("no checkpoint in {}", folder.display()))
}

/// Bits of every FP32 tensor of a safetensors file, by name.
pub fn tensors(path: &Path) -> BTreeMap<String, Vec<u32>> {
    let read = tch::Tensor::read_safetensors(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let bits = |t: &tch::Tensor| {
        let flat = t.to_kind(tch::Kind::Float).contiguous().view([-1]);
        Vec::<f32>::try_from(&flat).expect("FP32").into_iter().map(f32::to_bits).collect()
    };
    read.iter().map(|(name, t)| (name.clone(), bits(t))).collect()
}

/// The lines of a report file of one kind.
pub fn report(path: &Path, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a line of JSON"));
    lines.filter(|v| v["kind"] == kind).collect()
}

/// What a coordinator has told of its job (`--event-file`), in order.
pub fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let all: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("a line of JSON")).collect();
    for event in &all {
        let time = event["time"].as_str().expect("a time");
        assert!(time.len() == 27 && time.ends_with('Z') && &time[10..11] == "T", "{event}");
        let keys = ["job", "run", "term", "generation", "event"];
        assert!(keys.iter().all(|key| !event[*key].is_null()), "{event}");
    }
    all
}

/// Those of these names: name, generation.
pub fn named(events: &[Value], names: &[&str]) -> Vec<(String, u64)> {
    let of = |e: &Value| (e["event"].as_str().unwrap().to_string(), e["generation"].as_u64().unwrap());
    events.iter().map(of).filter(|(name, _)| names.contains(&name.as_str())).collect()
}

/// A run in the background whose output is read line by line.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

/// Longest wait for anything a run is expected to do.
pub const DEADLINE: Duration = Duration::from_secs(120);

impl Running {
    /// Starts `octrain`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    /// Starts `octrain` with these variables in its environment.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary("octrain"))
            .args(args)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (send, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for stream in streams {
            let send = send.clone();
            std::thread::spawn(move || {
                BufReader::new(stream).lines().map_while(Result::ok).all(|line| send.send(line).is_ok())
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a line that contains `text` and returns it.
    ///
    /// # Panics
    /// When it does not come within [`DEADLINE`].
    pub fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + DEADLINE;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
        panic!("no line with `{text}` in:\n{}", self.seen.join("\n"));
    }

    /// Sends a signal (by its name without SIG) to a process; to the launcher itself with its own id.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, name: &str, pid: u32) {
        let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
        assert!(sent.expect("kill runs").success(), "cannot signal {pid}");
    }

    /// Id of the launcher's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ids of the workers it has started.
    ///
    /// # Panics
    /// When the system does not tell.
    pub fn workers(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("it runs").flatten() {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(text.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
        }
        assert!(!pids.is_empty(), "{} has no workers", self.id());
        pids
    }

    /// Waits for the end; returns the exit code and all that was said.
    ///
    /// # Panics
    /// When it has not ended within [`DEADLINE`].
    pub fn end(mut self) -> (Option<i32>, String) {
        let until = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if Instant::now() > until {
                let _ = self.child.kill();
                panic!("it still runs:\n{}", self.seen.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(5)) {
            self.seen.push(line);
        }
        (status.code(), self.seen.join("\n"))
    }
}

/// Whether a process of this id is there and not a zombie.
pub fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}
