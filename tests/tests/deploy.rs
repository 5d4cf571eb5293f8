//! The Kubernetes overlays, rendered by `kubectl kustomize` and held strictly against the API's types; what the
//! pieces must agree on among themselves; and the container file.

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, PodSpec, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use octrain_coordinator::exit_code::{
    EXIT_ABORTED, EXIT_CONFIGURATION, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_PREEMPTED,
};
use octrain_tests::manifest::{self, lost, required};
use octrain_tests::policy::repository;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const OVERLAYS: [&str; 2] = ["cpu", "gpu"];

fn kubernetes(folder: &str) -> PathBuf {
    repository().join("deploy/kubernetes").join(folder)
}

fn rendered(overlay: &str) -> Option<Vec<Value>> {
    manifest::rendered(&kubernetes("overlays").join(overlay))
}

/// What the API's type for this kind does not understand of a document.
fn misunderstood(document: &Value) -> Vec<String> {
    fn check<T: DeserializeOwned + Serialize>(document: &Value) -> Vec<String> {
        match serde_json::from_value::<T>(document.clone()) {
            Ok(typed) => {
                let understood = serde_json::to_value(&typed).expect("API types serialise");
                [lost(document, &understood), required(document, &understood)].concat()
            }
            Err(e) => vec![e.to_string()],
        }
    }
    let text = |key: &str| document[key].as_str().unwrap_or("none");
    match (text("apiVersion"), text("kind")) {
        ("batch/v1", "Job") => check::<Job>(document),
        ("v1", "Service") => check::<Service>(document),
        ("v1", "ConfigMap") => check::<ConfigMap>(document),
        ("v1", "Secret") => check::<Secret>(document),
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

/// What follows `flag` among a pod's arguments.
fn argument(pod: &PodSpec, flag: &str) -> String {
    let args = pod.containers[0].args.as_ref().expect("arguments");
    let at = args.iter().position(|a| a == flag).unwrap_or_else(|| panic!("no {flag} in {args:?}"));
    args[at + 1].clone()
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

/// Names of the claims that a pod mounts.
fn claims(pod: &PodSpec) -> Vec<String> {
    let volumes = pod.volumes.iter().flatten();
    volumes.filter_map(|v| Some(v.persistent_volume_claim.as_ref()?.claim_name.clone())).collect()
}

#[test]
fn every_claim_a_pod_mounts_is_among_the_storage_and_outlives_the_run() {
    let Some(storage) = manifest::rendered(&kubernetes("storage")) else { return };
    let mut there = Vec::new();
    for document in &storage {
        assert_eq!(misunderstood(document), [""; 0]);
        let claim: PersistentVolumeClaim = serde_json::from_value(document.clone()).unwrap();
        let spec = claim.spec.unwrap();
        assert_eq!(spec.access_modes.unwrap(), ["ReadWriteMany"], "pods on several nodes mount it");
        assert!(spec.resources.unwrap().requests.unwrap().contains_key("storage"));
        there.push(claim.metadata.name.unwrap());
    }
    for overlay in OVERLAYS {
        let Some(documents) = rendered(overlay) else { return };
        let wanted = claims(&pod(&named::<Job>(&documents, "Job", "octrain-worker")));
        assert!(wanted.contains(&"octrain-output".into()), "{overlay}: {wanted:?}");
        assert!(
            wanted.iter().all(|c| there.contains(c)),
            "{overlay}: {wanted:?}, of which there are {there:?}"
        );
        assert!(documents.iter().all(|d| d["kind"] != "PersistentVolumeClaim"), "deleted with the run");
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

        let address = argument(&workers, "--coordinator");
        let address = address.replace("$(COORDINATOR)", &environment(&workers)["COORDINATOR"]);
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
            let codes = |code: u8| -> &str {
                let of = |r: &&PodFailurePolicyRule| {
                    r.on_exit_codes.as_ref().is_some_and(|c| c.values.contains(&i32::from(code)))
                };
                rules.iter().find(of).map_or("Count", |r| r.action.as_str())
            };
            for (code, action) in [
                (EXIT_ERROR, "Count"),
                (EXIT_CONFIGURATION, "FailJob"),
                (EXIT_ABORTED, "Ignore"),
                (EXIT_PREEMPTED, "Ignore"),
                (EXIT_INTERRUPTED, "Ignore"),
            ] {
                assert_eq!(codes(code), action, "{overlay} {name}: code {code}");
            }
            let disrupted = rules.iter().find_map(|r| r.on_pod_conditions.as_ref()).expect("a condition");
            assert_eq!(
                (disrupted[0].type_.as_str(), disrupted[0].status.as_str()),
                ("DisruptionTarget", "True")
            );
            for rule in rules.iter().filter_map(|r| r.on_exit_codes.as_ref()) {
                let container =
                    job.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0].name.as_str();
                assert_eq!(
                    rule.container_name.as_deref(),
                    Some(container),
                    "a rule for another container never matches"
                );
            }
            assert!(
                spec.ttl_seconds_after_finished.is_some_and(|s| s >= 3600),
                "finished jobs are cleaned up"
            );

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
fn every_pod_is_given_the_run_s_own_token_and_keeps_it_to_itself() {
    for overlay in OVERLAYS {
        let Some(documents) = rendered(overlay) else { return };
        let secret: Secret = named(&documents, "Secret", "octrain-secrets");
        assert_eq!(secret.data.unwrap()["token"].0, manifest::TOKEN.as_bytes());
        let labels = secret.metadata.labels.unwrap();
        assert!(labels.contains_key("app.kubernetes.io/instance"), "it is the run's own: {labels:?}");
        for name in ["octrain-coordinator", "octrain-worker"] {
            let pod = pod(&named::<Job>(&documents, "Job", name));
            let volume = pod.volumes.iter().flatten().find_map(|v| v.secret.as_ref()).expect("a secret");
            assert_eq!(volume.secret_name, secret.metadata.name, "{overlay} {name}");
            assert_eq!(volume.default_mode, Some(0o440), "nobody but the pod's own group reads it");
            assert_eq!(pod.security_context.as_ref().unwrap().fs_group, Some(65532));
            let container = &pod.containers[0];
            let words = [container.command.clone(), container.args.clone()].into_iter().flatten().flatten();
            let line = words.collect::<Vec<_>>().join(" ");
            let mounts = container.volume_mounts.as_ref().unwrap();
            let mount = mounts.iter().find(|m| m.name == "secrets").unwrap();
            assert!(line.contains(&format!("--token-file {}/token", mount.mount_path)), "{line}");
            let text = serde_json::to_string(&pod).unwrap();
            assert!(!text.contains(manifest::TOKEN), "{overlay} {name}: the token is in the open");
        }
        let kept = Command::new("git")
            .args(["check-ignore", "--quiet"])
            .arg(kubernetes("overlays").join(overlay).join("token"))
            .current_dir(repository())
            .status()
            .unwrap();
        assert!(kept.success(), "{overlay}: the token would be committed");
    }
}

#[test]
fn settings_are_a_run_configuration() {
    for folder in ["base", "overlays/cpu", "overlays/gpu"] {
        let path = kubernetes(folder).join("train.toml");
        let text = fs::read_to_string(&path).unwrap();
        let _: octrain::config::RunConfig =
            toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(!text.contains("output-dir"), "{folder}: the folder follows from the run's name");
    }
}

#[test]
fn a_run_resumes_by_itself_and_waits_longer_than_a_queue_of_hours() {
    for overlay in OVERLAYS {
        let Some(documents) = rendered(overlay) else { return };
        let workers = pod(&named::<Job>(&documents, "Job", "octrain-worker"));
        assert_eq!(argument(&workers, "--last-epoch-of-checkpoint"), "auto");
        assert!(argument(&workers, "--output-dir").starts_with("/output/$(OCTRAIN_JOB_ID)"));
        let coordinator = pod(&named::<Job>(&documents, "Job", "octrain-coordinator"));
        let command = coordinator.containers[0].command.clone().unwrap().join(" ");
        let register = command.split("--register-timeout ").nth(1).expect("a time to register");
        let mut waits = vec![register.split_whitespace().next().unwrap().to_string()];
        waits.extend(["--connect-timeout", "--plan-timeout"].map(|flag| argument(&workers, flag)));
        for seconds in waits {
            assert!(seconds.parse::<u64>().unwrap() >= 4 * 3600, "{overlay}: {seconds} s");
        }
    }
}

/// A copy of the manifests in which `overlay` is a run of another name, made as docs/operations.md says.
fn another_run(root: &Path, overlay: &str, name: &str) -> Option<Vec<Value>> {
    let copied = Command::new("cp").arg("-r").arg(kubernetes("")).arg(root.join(name)).status().unwrap();
    assert!(copied.success());
    let folder = root.join(name).join("overlays").join(overlay);
    let file = folder.join("kustomization.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once("\nnameSuffix: ").expect("a line that names the run");
    let (_, after) = rest.split_once('\n').unwrap();
    fs::write(&file, format!("{before}\nnameSuffix: -{name}\n{after}")).unwrap();
    manifest::rendered(&folder)
}

/// Every map of labels by which something of these documents chooses pods, with what it belongs to.
fn selectors(documents: &[Value]) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found = Vec::new();
    for d in documents {
        let name = format!("{} {}", d["kind"].as_str().unwrap(), d["metadata"]["name"].as_str().unwrap());
        let spread =
            &d["spec"]["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"];
        let from = &d["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"];
        let chosen: &[&Value] = match d["kind"].as_str().unwrap() {
            "Service" => &[&d["spec"]["selector"]],
            "NetworkPolicy" => &[&d["spec"]["podSelector"]["matchLabels"], from],
            "Job" if !spread.is_null() => &[spread],
            _ => &[],
        };
        found.extend(chosen.iter().map(|s| (name.clone(), serde_json::from_value((*s).clone()).unwrap())));
    }
    found
}

fn pod_labels(documents: &[Value]) -> Vec<BTreeMap<String, String>> {
    let jobs = documents.iter().filter(|d| d["kind"] == "Job");
    jobs.map(|j| serde_json::from_value(j["spec"]["template"]["metadata"]["labels"].clone()).unwrap())
        .collect()
}

#[test]
fn two_runs_in_one_namespace_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let chooses = |selector: &BTreeMap<String, String>, pod: &BTreeMap<String, String>| {
        selector.iter().all(|(key, value)| pod.get(key) == Some(value))
    };
    for overlay in OVERLAYS {
        let runs = ["a", "b"].map(|name| another_run(dir.path(), overlay, &format!("{overlay}-{name}")));
        let [Some(a), Some(b)] = runs else { return };
        let names = |run: &[Value]| -> BTreeSet<String> {
            run.iter().map(|d| format!("{} {}", d["kind"], d["metadata"]["name"])).collect()
        };
        assert!(names(&a).is_disjoint(&names(&b)), "{overlay}: {:?}", names(&a));
        for (own, other) in [(&a, &b), (&b, &a)] {
            let chosen = selectors(own);
            assert_eq!(
                chosen.len(),
                5,
                "{overlay}: two services, a policy's two sides, the spread: {chosen:?}"
            );
            for (name, selector) in chosen {
                assert!(
                    pod_labels(own).iter().any(|p| chooses(&selector, p)),
                    "{name} chooses none of its own"
                );
                assert!(
                    !pod_labels(other).iter().any(|p| chooses(&selector, p)),
                    "{name} chooses another run's"
                );
            }
            let worker = pod(&named::<Job>(own, "Job", "octrain-worker"));
            let mut addressed = vec![environment(&worker)["COORDINATOR"].clone()];
            addressed.extend(worker.subdomain.clone());
            for service in addressed {
                assert!(
                    names(own).contains(&format!("\"Service\" {service:?}")),
                    "{service} is no service here"
                );
            }
            let id = worker.containers[0].env.iter().flatten().find(|v| v.name == "OCTRAIN_JOB_ID").unwrap();
            let field = id.value_from.as_ref().unwrap().field_ref.as_ref().unwrap();
            assert_eq!(
                field.field_path, "metadata.labels['app.kubernetes.io/instance']",
                "the run's own name"
            );
        }
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
    let unsaid = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"},
        "spec": {
            "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]},
            "template": {"spec": {"containers": [{"name": "c"}]}},
        },
    });
    let found = misunderstood(&unsaid);
    assert_eq!(found, ["spec.podFailurePolicy.rules[0].onPodConditions[0].status: required and not given"]);
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
    let stages: Vec<&str> = of("FROM ").iter().map(|f| f.rsplit(' ').next().unwrap()).collect();
    assert_eq!(stages, ["toolchain", "build-coordinator", "build", "coordinator", "octrain"]);
    for image in of("FROM ").iter().chain(&of("ARG BASE=")).filter(|i| !i.starts_with("toolchain ")) {
        let tag = image.split_whitespace().next().unwrap();
        assert!(
            tag == "${BASE}" || tag.split_once(':').is_some_and(|(_, t)| t != "latest"),
            "{tag} is not pinned"
        );
    }
    let stage = |name: &str| -> String {
        let from = instructions.iter().position(|i| i.ends_with(&format!(" AS {name}"))).unwrap();
        let rest = instructions[from + 1..].iter().take_while(|i| !i.starts_with("FROM "));
        rest.cloned().collect::<Vec<_>>().join("\n")
    };
    assert!(!stage("coordinator").contains("deps"), "the coordinator's image holds no native libraries");
    assert_eq!(of("USER "), ["65532:65532"; 2], "the user that the manifests run as");
    for sources in of("COPY ").iter().filter(|c| !c.starts_with("--from")) {
        let (from, _) = sources.rsplit_once(' ').unwrap();
        for file in from.split(' ') {
            assert!(repository().join(file).exists(), "COPY {file}: not in the repository");
        }
    }
    // The skeleton that dependencies are compiled with must be a workspace to cargo: every member has its part.
    let workspace = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let workspace: toml::Value = toml::from_str(&workspace).unwrap();
    for member in workspace["workspace"]["members"].as_array().unwrap() {
        let manifest = format!("{}/Cargo.toml", member.as_str().unwrap());
        assert!(stage("toolchain").contains(&manifest), "{manifest} is not in the dependency layer");
    }
}
