//! The commands of the rendered pods, run as processes of this machine: what Kubernetes would start.
//!
//! Stated substitutions: the pods' mounts are folders of this machine, host names are given by `OCTRAIN_HOST`, the
//! coordinator's service is the port that it was given here, and training is shortened.

use octrain_coordinator::exit_code::EXIT_OK;
use octrain_tests::policy::repository;
use octrain_tests::{binary, manifest};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(300);

/// A container of a rendered pod.
struct Container {
    pod: String,
    command: Vec<String>,
    env: BTreeMap<String, String>,
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|w| w.as_str().expect("a word").to_string()).collect()
}

/// What stands for `$(NAME)`, as Kubernetes puts it into commands and arguments.
fn expanded(text: &str, env: &BTreeMap<String, String>) -> String {
    env.iter().fold(text.to_string(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}

/// The container of each pod of a Job, with its command as the kubelet would put it together.
fn containers(job: &Value) -> Vec<Container> {
    let pods = job["spec"]["completions"].as_u64().unwrap_or(1);
    let template = &job["spec"]["template"];
    let container = &template["spec"]["containers"][0];
    (0..pods)
        .map(|index| {
            let mut env = BTreeMap::new();
            for variable in container["env"].as_array().into_iter().flatten() {
                let path = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
                let label = path.and_then(|p| p.strip_prefix("metadata.labels['")?.strip_suffix("']"));
                let value = label.map_or(&variable["value"], |l| &template["metadata"]["labels"][l]);
                let name = variable["name"].as_str().expect("a name").to_string();
                env.insert(name, value.as_str().expect("a value").to_string());
            }
            let mut command = words(&container["command"]);
            if command.is_empty() {
                // The entry point of the image.
                command.push("octrain".into());
            }
            command.extend(words(&container["args"]));
            let command = command.iter().map(|word| expanded(word, &env)).collect();
            let pod = format!("{}-{index}", job["metadata"]["name"].as_str().expect("a name"));
            Container { pod, command, env }
        })
        .collect()
}

/// A run of the overlay's pods in a folder.
struct Cluster {
    folder: PathBuf,
    coordinator: Container,
    workers: Vec<Container>,
}

impl Cluster {
    /// The overlay's pods, or none without kubectl; the run is shortened to `epochs`.
    fn new(overlay: &str, folder: &Path, epochs: u32) -> Option<Self> {
        let documents = manifest::rendered(&repository().join("deploy/kubernetes/overlays").join(overlay))?;
        let of = |kind: &str, start: &str| {
            let is = |d: &&Value| {
                d["kind"] == kind && d["metadata"]["name"].as_str().is_some_and(|n| n.starts_with(start))
            };
            documents.iter().find(is).unwrap_or_else(|| panic!("no {kind} {start}")).clone()
        };
        for mount in ["settings", "output"] {
            fs::create_dir_all(folder.join(mount)).unwrap();
        }
        let settings = of("ConfigMap", "octrain-train");
        let text = settings["data"]["train.toml"].as_str().expect("train.toml");
        let shortened: String = text
            .lines()
            .map(|l| if l.starts_with("epochs") { format!("epochs = {epochs}\n") } else { format!("{l}\n") })
            .collect();
        assert_ne!(text, shortened, "the run was to be shortened");
        fs::write(folder.join("settings/train.toml"), shortened).unwrap();
        fs::write(folder.join("token"), manifest::TOKEN).unwrap();
        fs::set_permissions(folder.join("token"), fs::Permissions::from_mode(0o440)).unwrap();
        let coordinator = containers(&of("Job", "octrain-coordinator")).remove(0);
        let workers = containers(&of("Job", "octrain-worker"));
        Some(Self { folder: folder.into(), coordinator, workers })
    }

    /// Starts a container with nothing of this process's environment but what the image would have.
    fn start(&self, container: &Container, port: Option<&str>, attempt: u32) -> Pod {
        let mapped = |text: &str| {
            let text = text.replace("/etc/octrain", self.folder.join("settings").to_str().unwrap());
            let text = text.replace("/run/octrain", self.folder.to_str().unwrap());
            let text = match text.strip_prefix("/output/") {
                Some(rest) => self.folder.join("output").join(rest).display().to_string(),
                None => text,
            };
            match (text.strip_suffix(":29400"), port) {
                (Some("0.0.0.0"), _) => "127.0.0.1:0".to_string(),
                (Some(_), Some(port)) => format!("127.0.0.1:{port}"),
                _ => text,
            }
        };
        let log = self.folder.join(format!("{}-{attempt}.log", container.pod));
        let (output, errors) =
            (File::create(&log).unwrap(), File::options().append(true).open(&log).unwrap());
        let binaries = binary("octrain").parent().unwrap().to_path_buf();
        let program = &container.command[0];
        let program = if program.starts_with('/') { program.into() } else { binary(program) };
        let child = Command::new(program)
            .args(container.command[1..].iter().map(|word| mapped(word)))
            .current_dir(self.folder.join("output"))
            .env_clear()
            .envs(container.env.iter().map(|(name, value)| (name, mapped(value))))
            .env("PATH", format!("{}:/usr/bin:/bin", binaries.display()))
            .env("OCTRAIN_DEPS", repository().join(".deps"))
            .env("OCTRAIN_HOST", &container.pod)
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", container.command.join(" ")));
        Pod { child, log }
    }
}

struct Pod {
    child: Child,
    log: PathBuf,
}

impl Pod {
    fn told(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(line) = self.told().lines().find(|l| l.contains(text)) {
                return line.to_string();
            }
            assert!(Instant::now() < until, "no `{text}` within {DEADLINE:?} in:\n{}", self.told());
            assert!(
                self.child.try_wait().unwrap().is_none() || self.told().contains(text),
                "it ended without `{text}`:\n{}",
                self.told()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn end(&mut self) -> i32 {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or_else(|| panic!("ended by a signal:\n{}", self.told()));
            }
            assert!(Instant::now() < until, "it still runs:\n{}", self.told());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn port_of(coordinator: &mut Pod) -> String {
    let line = coordinator.wait_for("listening on");
    line.rsplit(':').next().expect("a port").trim().to_string()
}

#[test]
fn the_cpu_overlay_s_pods_train_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let Some(cluster) = Cluster::new("cpu", dir.path(), 1) else { return };
    let mut coordinator = cluster.start(&cluster.coordinator, None, 0);
    let port = port_of(&mut coordinator);
    let mut workers: Vec<Pod> = cluster.workers.iter().map(|w| cluster.start(w, Some(&port), 0)).collect();
    assert_eq!(workers.len(), 2);
    for worker in &mut workers {
        assert_eq!(worker.end(), i32::from(EXIT_OK), "{}", worker.told());
    }
    assert_eq!(coordinator.end(), i32::from(EXIT_OK), "{}", coordinator.told());
    let run = dir.path().join("output").join(&cluster.workers[0].env["OCTRAIN_JOB_ID"]);
    assert!(octrain_tests::run::newest(&run).join("manifest.json").exists());
    assert!(run.join("train.jsonl").exists(), "the report lies beside the checkpoints");
}
