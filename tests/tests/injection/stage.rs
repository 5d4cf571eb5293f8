//! A job of real processes: a coordinator with a journal, launchers and their workers; every line they say, with its moment.

use octrain_tests::binary;
use octrain_tests::run::SMALL;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Longest wait for anything that a job is expected to do.
const PATIENCE: Duration = Duration::from_secs(120);
/// Optimizer steps of a job.
pub const STEPS: u64 = 9;
/// Those of a job that has to last.
pub const LONG: u64 = 20;
/// Steps from one checkpoint to the next.
pub const SAVES: u64 = 3;

/// Before what the coordinator says.
pub const COORDINATOR: &str = "coordinator|";

/// What a process has said, and when it was heard.
#[derive(Debug, Clone)]
pub struct Line {
    pub at: Instant,
    pub text: String,
}

/// How a job is set up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setup {
    /// Launchers, and workers of each.
    pub launchers: u32,
    pub nproc: u32,
    /// As the job's size: it ends with any of its workers.
    pub min_world: u32,
    pub restarts: u32,
    /// Seconds.
    pub heartbeat_timeout: f64,
    /// Seconds that a collective waits; 0: as it does by itself.
    pub patience: u32,
    pub qat: bool,
    pub steps: u64,
}

/// Silence after which a worker is lost: short where that is measured, long enough for a machine that runs other tests besides.
fn heartbeat_timeout() -> f64 {
    let text = std::env::var("OCTRAIN_CHAOS_HEARTBEAT").unwrap_or_else(|_| "5".into());
    text.parse().unwrap_or_else(|_| panic!("OCTRAIN_CHAOS_HEARTBEAT is `{text}`, not seconds"))
}

impl Setup {
    /// Four workers of one launcher; the job goes on with any two of them.
    pub fn usual() -> Self {
        Self {
            launchers: 1,
            nproc: 4,
            min_world: 2,
            restarts: 0,
            heartbeat_timeout: heartbeat_timeout(),
            patience: 0,
            qat: false,
            steps: STEPS,
        }
    }
}

/// Where a process runs: `ip netns exec NAME`, and what its host is called.
#[derive(Debug, Clone, Default)]
pub struct Where {
    pub namespace: Option<String>,
    pub host: Option<String>,
}

impl Where {
    fn command(&self, program: &str) -> Command {
        match &self.namespace {
            None => Command::new(binary(program)),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(binary(program));
                command
            }
        }
    }
}

/// A launcher that was started.
pub struct Launcher {
    child: Child,
    pub workers: Vec<u32>,
}

/// One job. Whatever is left of it is killed when this is dropped.
pub struct Stage {
    pub setup: Setup,
    pub dir: tempfile::TempDir,
    pub output: PathBuf,
    pub journal: PathBuf,
    pub address: String,
    here: Vec<Where>,
    coordinator: Option<Child>,
    launchers: Vec<Launcher>,
    send: Sender<Line>,
    lines: Receiver<Line>,
    pub seen: Vec<Line>,
    /// Lines that were waited for already.
    passed: usize,
    /// From what is saved, if anything is.
    goes_on: bool,
}

/// Sends a signal, by its name without SIG.
pub fn signal(name: &str, pids: &[u32]) -> Result<(), String> {
    let pids = pids.iter().map(u32::to_string);
    let sent = Command::new("kill").arg(format!("-{name}")).args(pids).output().map_err(|e| e.to_string())?;
    match sent.status.success() {
        true => Ok(()),
        false => Err(format!("kill -{name}: {}", String::from_utf8_lossy(&sent.stderr))),
    }
}

impl Stage {
    /// A folder and an address, and nothing that runs yet.
    pub fn new(setup: Setup) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let (send, lines) = channel();
        Self {
            setup,
            output: dir.path().join("out"),
            journal: dir.path().join("journal"),
            address: address.to_string(),
            here: Vec::new(),
            dir,
            coordinator: None,
            launchers: Vec::new(),
            send,
            lines,
            seen: Vec::new(),
            passed: 0,
            goes_on: false,
        }
    }

    /// The same with its coordinator and its launchers, in this order, elsewhere.
    pub fn placed(mut self, address: String, here: Vec<Where>) -> Self {
        (self.address, self.here) = (address, here);
        self
    }

    fn place(&self, i: usize) -> Where {
        self.here.get(i).cloned().unwrap_or_default()
    }

    pub fn report(&self) -> PathBuf {
        self.dir.path().join("report.jsonl")
    }

    fn listen(&self, child: &mut Child, who: String) {
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
            child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
        ];
        for stream in streams.into_iter().flatten() {
            let (send, who) = (self.send.clone(), who.clone());
            std::thread::spawn(move || {
                BufReader::new(stream)
                    .lines()
                    .map_while(Result::ok)
                    .all(|text| send.send(Line { at: Instant::now(), text: format!("{who} {text}") }).is_ok())
            });
        }
    }

    /// Starts the coordinator, as often as it takes; returns once it listens.
    pub fn coordinate(&mut self) -> Result<Instant, String> {
        let Setup { launchers, nproc, min_world, heartbeat_timeout, .. } = self.setup;
        let world = (launchers * nproc).to_string();
        let mut command = self.place(0).command("octrain-coordinator");
        command.args(["--listen", &self.address, "--world-size", &world, "--insecure"]);
        command.args(["--min-world", &min_world.to_string()]);
        command.args(["--heartbeat-timeout", &heartbeat_timeout.to_string(), "--regroup-timeout", "20"]);
        command.args(["--coordinator-timeout", "45"]);
        command.arg("--journal-file").arg(&self.journal);
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|e| format!("the coordinator does not start: {e}"))?;
        self.listen(&mut child, COORDINATOR.into());
        self.coordinator = Some(child);
        Ok(self.wait("listening on ")?.at)
    }

    /// Starts the job once more, with what it has saved; the report begins anew, and the journal.
    pub fn again(&mut self) -> Result<(), String> {
        for path in [self.report(), self.journal.clone()] {
            std::fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        (self.coordinator, self.goes_on) = (None, true);
        self.launchers.clear();
        self.passed = self.seen.len();
        self.coordinate()?;
        self.launch()
    }

    /// The first step that its report has.
    pub fn first_step(&self) -> Result<u64, String> {
        let steps = octrain_tests::run::report(&self.report(), "step");
        steps.first().and_then(|l| l["global_step"].as_u64()).ok_or_else(|| "no step was reported".into())
    }

    /// Starts all launchers; returns once all of their workers are there.
    pub fn launch(&mut self) -> Result<(), String> {
        let Setup { launchers, nproc, restarts, patience, qat, steps, .. } = self.setup;
        for i in 0..launchers as usize {
            let place = self.place(i + 1);
            let mut command = place.command("octrain");
            command.args(["launch", "--coordinator", &self.address, "--nproc-per-node", &nproc.to_string()]);
            command.args(["--max-restarts", &restarts.to_string()]);
            command.arg("--").args(SMALL).args(["--batch-size", "4", "--global-batch-size", "64"]);
            command.args(["--threads", "1", "--lr", "0.002", "--print-interval", "1", "--epochs", "2"]);
            command.args(["--max-steps", &steps.to_string(), "--save-interval-steps", &SAVES.to_string()]);
            if qat {
                command.args(["--qat", "--qat-calibration-images", "64", "--model-ema"]);
            }
            if self.goes_on {
                command.args(["--last-epoch-of-checkpoint", "auto"]);
            }
            command.arg("--report-file").arg(self.report()).arg("--output-dir").arg(&self.output);
            command.env("OCTRAIN_HOST", place.host.unwrap_or_else(|| format!("host-{i}")));
            if patience > 0 {
                command.env("OCTRAIN_COLLECTIVE_TIMEOUT", patience.to_string());
            }
            let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let mut child = spawned.map_err(|e| format!("a launcher does not start: {e}"))?;
            self.listen(&mut child, format!("launcher {i}|"));
            self.launchers.push(Launcher { child, workers: Vec::new() });
        }
        let until = Instant::now() + PATIENCE;
        for launcher in &mut self.launchers {
            while launcher.workers.len() < nproc as usize {
                if Instant::now() > until {
                    return Err("the workers do not start".into());
                }
                std::thread::sleep(Duration::from_millis(2));
                launcher.workers = children(launcher.child.id());
            }
        }
        Ok(())
    }

    /// A job that is on its way.
    pub fn start(setup: Setup) -> Result<Self, String> {
        let mut stage = Self::new(setup);
        stage.coordinate()?;
        stage.launch()?;
        Ok(stage)
    }

    pub fn coordinator(&self) -> u32 {
        self.coordinator.as_ref().map_or(0, Child::id)
    }

    pub fn launcher(&self, i: usize) -> u32 {
        self.launchers[i].child.id()
    }

    /// Process ids, in the order of the ranks at the start.
    pub fn workers(&self) -> Vec<u32> {
        self.launchers.iter().flat_map(|l| l.workers.iter().copied()).collect()
    }

    /// Takes in what was said.
    fn hear(&mut self, within: Duration) -> bool {
        match self.lines.recv_timeout(within) {
            Ok(line) => self.seen.push(line),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        }
        while let Ok(line) = self.lines.try_recv() {
            self.seen.push(line);
        }
        true
    }

    /// The next line that contains `text`, behind those that were waited for before.
    pub fn wait(&mut self, text: &str) -> Result<Line, String> {
        self.wait_within(text, PATIENCE)
    }

    pub fn wait_within(&mut self, text: &str, within: Duration) -> Result<Line, String> {
        let until = Instant::now() + within;
        loop {
            if let Some(i) = self.seen[self.passed..].iter().position(|l| l.text.contains(text)) {
                self.passed += i + 1;
                return Ok(self.seen[self.passed - 1].clone());
            }
            self.passed = self.seen.len();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("no line with `{text}` within {} s", within.as_secs()));
            }
            self.hear(left);
        }
    }

    /// The first line with this text that was heard at `since` or later, now or within the usual time.
    pub fn first_since(&mut self, since: Instant, text: &str) -> Result<Line, String> {
        let until = Instant::now() + PATIENCE;
        let mut from = 0;
        loop {
            let found = self.seen[from..].iter().find(|l| l.at >= since && l.text.contains(text));
            if let Some(line) = found {
                return Ok(line.clone());
            }
            from = self.seen.len();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("no line with `{text}`"));
            }
            self.hear(left);
        }
    }

    /// Kills the coordinator, as when its host is gone.
    pub fn kill_coordinator(&mut self) -> Result<Instant, String> {
        let mut child = self.coordinator.take().ok_or("there is no coordinator")?;
        let at = Instant::now();
        child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
        Ok(at)
    }

    /// Waits for the end of all: exit codes of launchers, then of the coordinator; -1 where a signal has ended one.
    pub fn end(&mut self) -> Result<Vec<i32>, String> {
        let until = Instant::now() + PATIENCE;
        let codes = loop {
            self.hear(Duration::from_millis(10));
            let children = self.launchers.iter_mut().map(|l| &mut l.child).chain(&mut self.coordinator);
            let ended: Result<Vec<_>, _> = children.map(Child::try_wait).collect();
            let ended = ended.map_err(|e| e.to_string())?;
            if ended.iter().all(Option::is_some) {
                break ended.into_iter().flatten().map(|s| s.code().unwrap_or(-1)).collect();
            }
            if Instant::now() > until {
                return Err(format!("the job does not end: {ended:?}"));
            }
        };
        // What was said last is on its way.
        while self.hear(Duration::from_millis(100)) {}
        Ok(codes)
    }

    /// All that was said.
    pub fn told(&self) -> String {
        let begun = self.seen.first().map(|l| l.at);
        let line = |l: &Line| {
            let at = begun.map_or(0.0, |b| l.at.saturating_duration_since(b).as_secs_f64());
            format!("{at:8.3} {}", l.text)
        };
        self.seen.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Workers that run, and are of this job.
    pub fn alive(&self) -> Vec<u32> {
        let mark = self.dir.path().to_string_lossy().into_owned();
        let ours = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            octrain_tests::run::alive(*pid) && String::from_utf8_lossy(&line).contains(&mark)
        };
        self.workers().into_iter().filter(ours).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let mut left = Vec::new();
        for launcher in &mut self.launchers {
            left.extend(children(launcher.child.id()));
            // One that has ended is no error.
            let _ = launcher.child.kill();
            let _ = launcher.child.wait();
        }
        if let Some(mut coordinator) = self.coordinator.take() {
            let _ = coordinator.kill();
            let _ = coordinator.wait();
        }
        let mark = self.dir.path().to_string_lossy().into_owned();
        left.extend(self.alive());
        left.retain(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&mark)
        });
        if !left.is_empty() {
            let _ = signal("KILL", &left);
        }
    }
}

/// Ids of a process's children.
fn children(pid: u32) -> Vec<u32> {
    let mut pids: Vec<u32> = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        pids.extend(text.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
    }
    pids
}
