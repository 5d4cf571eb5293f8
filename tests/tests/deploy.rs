//! The Kubernetes overlays, rendered by `kubectl kustomize` and held strictly against the API's types; what the
//! pieces must agree on among themselves; and the container file.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, PodSpec, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use octrain_tests::manifest::{documents, lost};
use octrain_tests::policy::repository;
use octrain_tests::skipped;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;

const OVERLAYS: [&str; 2] = ["cpu", "gpu"];

/// The overlay's documents, or none where there is no kubectl: said aloud, as a skip must be.
fn rendered(overlay: &str) -> Option<Vec<Value>> {
    let folder = repository().join("deploy/kubernetes/overlays").join(overlay);
    match Command::new("kubectl").arg("kustomize").arg(&folder).output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            skipped(&format!("kubectl is not on the PATH, so overlay `{overlay}` was not rendered"));
            None
        }
        Err(e) => panic!("kubectl: {e}"),
        Ok(output) => {
            assert!(output.status.success(), "{overlay}: {}", String::from_utf8_lossy(&output.stderr));
            Some(documents(&String::from_utf8(output.stdout).unwrap()).unwrap())
        }
    }
}

/// What the API's type for this kind does not understand of a document.
fn misunderstood(document: &Value) -> Vec<String> {
    fn check<T: DeserializeOwned + Serialize>(document: &Value) -> Vec<String> {
        match serde_json::from_value::<T>(document.clone()) {
            Ok(typed) => lost(document, &serde_json::to_value(&typed).expect("API types serialise")),
            Err(e) => vec![e.to_string()],
        }
    }
    let text = |key: &str| document[key].as_str().unwrap_or("none");
    match (text("apiVersion"), text("kind")) {
        ("batch/v1", "Job") => check::<Job>(document),
        ("v1", "Service") => check::<Service>(document),
        ("v1", "ConfigMap") => check::<ConfigMap>(document),
        ("v1", "PersistentVolumeClaim") => check::<PersistentVolumeClaim>(document),
        ("networking.k8s.io/v1", "NetworkPolicy") => check::<NetworkPolicy>(document),
        (version, kind) => vec![format!("no type for {kind} of {version}: add it to this test")],
    }
}

fn named<T: DeserializeOwned>(documents: &[Value], kind: &str, name: &str) -> T {
    let is =
        |d: &&Value| d["kind"] == kind && d["metadata"]["name"].as_str().is_some_and(|n| n.starts_with(name));
    let found = documents.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name}"));
    serde_json::from_value(found.clone()).unwrap()
}

fn pod(job: &Job) -> PodSpec {
    job.spec.as_ref().and_then(|s| s.template.spec.clone()).expect("a pod spec")
}

fn environment(pod: &PodSpec) -> BTreeMap<String, String> {
    let vars = pod.containers[0].env.clone().unwrap_or_default();
    vars.into_iter().filter_map(|v| Some((v.name, v.value?))).collect()
}

#[test]
fn overlays_are_understood_by_the_api() {
    for overlay in OVERLAYS {
        let Some(documents) = rendered(overlay) else { return };
        let kinds: Vec<&str> = documents.iter().filter_map(|d| d["kind"].as_str()).collect();
        assert_eq!(kinds.iter().filter(|k| **k == "Job").count(), 2, "{overlay}: {kinds:?}");
        for document in &documents {
            assert_eq!(misunderstood(document), [""; 0], "{overlay}: {}", document["metadata"]["name"]);
        }
    }
}

#[test]
fn the_number_of_workers_agrees() {
    for overlay in OVERLAYS {
        let Some(documents) = rendered(overlay) else { return };
        let workers: Job = named(&documents, "Job", "octrain-worker");
        let coordinator: Job = named(&documents, "Job", "octrain-coordinator");
        let spec = workers.spec.as_ref().unwrap();
        assert_eq!(spec.completion_mode.as_deref(), Some("Indexed"));
        assert_eq!(spec.completions, spec.parallelism, "{overlay}: all workers must run at once");
        let per_node: i32 = environment(&pod(&workers))["NPROC_PER_NODE"].parse().unwrap();
        let world: i32 = environment(&pod(&coordinator))["OCTRAIN_WORLD_SIZE"].parse().unwrap();
        assert_eq!(world, spec.completions.unwrap() * per_node, "{overlay}");
    }
}

#[test]
fn workers_find_the_coordinator_and_each_other() {
    for overlay in OVERLAYS {
        let Some(documents) = rendered(overlay) else { return };
        let workers = pod(&named::<Job>(&documents, "Job", "octrain-worker"));
        let coordinator: Job = named(&documents, "Job", "octrain-coordinator");
        let headless: Service =
            named(&documents, "Service", workers.subdomain.as_deref().expect("a subdomain"));
        let headless = headless.spec.unwrap();
        assert_eq!(headless.cluster_ip.as_deref(), Some("None"));
        assert_eq!(headless.publish_not_ready_addresses, Some(true));

        let args = workers.containers[0].args.clone().unwrap();
        let address = &args[args.iter().position(|a| a == "--coordinator").unwrap() + 1];
        let (host, port) = address.split_once(':').unwrap();
        let service: Service = named(&documents, "Service", host);
        let service = service.spec.unwrap();
        assert_eq!(service.ports.as_ref().unwrap()[0].port.to_string(), port, "{overlay}");
        assert!(environment(&pod(&coordinator))["OCTRAIN_LISTEN"].ends_with(&format!(":{port}")));
        let labels = coordinator.spec.unwrap().template.metadata.unwrap().labels.unwrap();
        for (key, value) in service.selector.unwrap() {
            assert_eq!(
                labels.get(&key),
                Some(&value),
                "{overlay}: the service does not select the coordinator"
            );
        }
    }
}

#[test]
fn pods_are_confined_and_fail_for_good_on_a_bad_configuration() {
    for overlay in OVERLAYS {
        let Some(documents) = rendered(overlay) else { return };
        for name in ["octrain-coordinator", "octrain-worker"] {
            let job: Job = named(&documents, "Job", name);
            let spec = job.spec.as_ref().unwrap();
            assert_eq!(spec.pod_replacement_policy.as_deref(), Some("Failed"), "{overlay} {name}");
            let rules = &spec.pod_failure_policy.as_ref().expect("a failure policy").rules;
            let fatal = rules.iter().find(|r| r.action == "FailJob").expect("a FailJob rule");
            assert_eq!(fatal.on_exit_codes.as_ref().unwrap().values, [2]);
            let ignored = rules.iter().find(|r| r.action == "Ignore").expect("an Ignore rule");
            assert_eq!(ignored.on_pod_conditions.as_ref().unwrap()[0].type_, "DisruptionTarget");

            let pod = pod(&job);
            assert_eq!(pod.restart_policy.as_deref(), Some("Never"), "a failure policy needs it");
            let user = pod.security_context.as_ref().unwrap();
            assert_eq!((user.run_as_non_root, user.run_as_user), (Some(true), Some(65532)));
            assert_eq!(user.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault");
            let confined = pod.containers[0].security_context.as_ref().unwrap();
            assert_eq!(confined.allow_privilege_escalation, Some(false));
            assert_eq!(confined.read_only_root_filesystem, Some(true));
            assert_eq!(
                confined.capabilities.as_ref().unwrap().drop.as_deref(),
                Some(&["ALL".to_string()][..])
            );
        }
    }
}

#[test]
fn workers_have_shared_memory_and_every_mount_has_its_volume() {
    for overlay in OVERLAYS {
        let Some(documents) = rendered(overlay) else { return };
        let pod = pod(&named::<Job>(&documents, "Job", "octrain-worker"));
        let volumes = pod.volumes.unwrap();
        for mount in pod.containers[0].volume_mounts.as_ref().unwrap() {
            let volume = volumes.iter().find(|v| v.name == mount.name);
            let volume =
                volume.unwrap_or_else(|| panic!("{overlay}: nothing is mounted at {}", mount.mount_path));
            if mount.mount_path == "/dev/shm" {
                assert_eq!(volume.empty_dir.as_ref().unwrap().medium.as_deref(), Some("Memory"));
            }
        }
        let gpus =
            pod.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap().get("nvidia.com/gpu");
        assert_eq!(gpus.map(|q| q.0.as_str()), (overlay == "gpu").then_some("8"));
    }
}

#[test]
fn settings_are_a_run_configuration() {
    for folder in ["base", "overlays/cpu", "overlays/gpu"] {
        let path = repository().join("deploy/kubernetes").join(folder).join("train.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let config: octrain::config::RunConfig =
            toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(config.output_dir.to_str(), Some("/output"), "{folder}: the one writable volume");
    }
}

#[test]
fn a_field_the_api_does_not_have_is_found() {
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"},
        "spec": {
            "completionMode": "Indexed", "parallelsim": 2,
            "template": {"spec": {"containers": [{"name": "c", "imagee": "i", "env": [], "resources": {
                "limits": {"cpu": 2}}}]}},
        },
    });
    let found = misunderstood(&job).join("\n");
    assert!(
        found.contains("spec.parallelsim") && found.contains("spec.template.spec.containers[0].imagee"),
        "{found}"
    );
    assert_eq!(found.lines().count(), 2, "{found}");
    let wrong_type = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": "many"}});
    assert_eq!(misunderstood(&wrong_type).len(), 1);
    assert!(!misunderstood(&json!({"apiVersion": "v9", "kind": "Jub"})).is_empty());
}

/// Each instruction of a container file with its continuation lines joined, comments left out.
fn instructions(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|l| !l.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    joined
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|l| !l.is_empty())
        .collect()
}

#[test]
fn the_image_is_staged_pinned_and_without_root() {
    let text = std::fs::read_to_string(repository().join("deploy/Containerfile")).unwrap();
    let instructions = instructions(&text);
    let of = |word: &str| -> Vec<&str> {
        instructions.iter().filter_map(|i| i.strip_prefix(word)).map(str::trim).collect()
    };
    assert_eq!(of("FROM ").len(), 2, "a stage that builds and a stage that runs");
    for image in of("FROM ").iter().chain(&of("ARG BASE=")) {
        let tag = image.split_whitespace().next().unwrap();
        assert!(
            tag == "${BASE}" || tag.split_once(':').is_some_and(|(_, t)| t != "latest"),
            "{tag} is not pinned"
        );
    }
    assert_eq!(of("USER "), ["65532:65532"], "the user that the manifests run as");
    for sources in of("COPY ").iter().filter(|c| !c.starts_with("--from")) {
        let (from, _) = sources.rsplit_once(' ').unwrap();
        assert!(repository().join(from).exists(), "COPY {from}: not in the repository");
    }
}
