//! Every command printed in README.md and docs/ is run as printed, in one folder, in the order of the pages. What is
//! shortened, only parsed, or not run at all stands in one table with its reason, and the reasons are listed by
//! `scripts/test.sh`; a command that is not in it is run.

use octrain_coordinator::exit_code::{
    EXIT_ABORTED, EXIT_CONFIGURATION, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_PREEMPTED,
};
use octrain_tests::policy::repository;
use octrain_tests::{binary, images, skipped, verified_as_far_as_sums_are_exact};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// Pages, in the order in which they are followed: later ones use what earlier ones leave.
const PAGES: [&str; 5] =
    ["README.md", "docs/results.md", "docs/export-and-verify.md", "docs/import.md", "docs/operations.md"];

/// How a command differs from what is printed.
enum How {
    /// Run with these words replaced, each of which must be there.
    With(&'static [(&'static str, &'static str)]),
    /// Run with `--help` behind it, which refuses a flag that does not exist; why no more than that.
    Parsed(&'static str),
    /// Not run; why.
    Not(&'static str),
}
use How::{Not, Parsed, With};

/// A network that takes a moment in place of the default one.
const SMALL: &str = "--device cpu --nproc 1 --image-root digits --model-arch-name ResNet20 --image-shape 3,32,32 \
                     --crop-size 32 --batch-size 16 --max-steps 1 --amp bf16 --output-dir runs/launched";

/// Weights of a run of README.md, in place of a file of somebody's.
const OURS: &str = "runs/fp/2/model.safetensors --image-shape 3,32,32";

/// What is not run exactly as printed: the beginning of the command, and how it is run.
const TABLE: &[(&str, How)] = &[
    // README.md
    ("scripts/quickstart.sh", Not("builds the release; `octrain quickstart` itself is run by end_to_end.rs")),
    ("scripts/test.sh", Not("this is a part of it")),
    ("scripts/setup.sh && cargo build", Not("builds the release; scripts.rs runs the set-up")),
    ("PATH=", Not("the commands here are run with the build under test on the PATH")),
    ("octrain train --nproc 2", With(&[("--epochs 20", "--epochs 2")])),
    ("octrain train --qat", With(&[("--epochs 4", "--epochs 1")])),
    // After so short a training logits lie close together.
    (
        "octrain verify --from-checkpoint runs/qat --model int8.onnx --engine openvino --html",
        With(&[("--html", "--max-disagreement 100 --html")]),
    ),
    ("octrain import resnet50.pth --output-dir runs/imported", With(&[("resnet50.pth", OURS)])),
    ("octrain predict --model int8.onnx photos/", With(&[("photos/", "data/val/a")])),
    ("octrain infer --model resnet50.onnx", With(&[("resnet50.onnx", "int8.onnx"), ("/imagenet", "digits")])),
    ("scripts/launch.sh --image-root", With(&[("--image-root /imagenet --amp fp16", SMALL)])),
    (
        "scripts/launch.sh --coordinator",
        Not("needs several nodes; scripts.rs has what it starts, pods.rs runs that"),
    ),
    ("(umask 077; openssl rand", With(&[])),
    ("openssl rand", With(&[])),
    ("octrain-coordinator --make-certs", With(&[])),
    ("octrain-coordinator", Parsed("waits for 16 workers; pods.rs runs coordinator and launchers")),
    // docs/results.md
    (
        "for seed in",
        With(&[
            ("1 2 3", "1"),
            ("FOLDER", "data"),
            ("--seed $seed", "--seed $seed --epochs 1 --max-steps 1"),
        ]),
    ),
    (
        "for network in",
        With(&[
            ("FOLDER", "data"),
            ("--network $network", "--network $network --epochs 1 --max-steps 1 --batch-size 8"),
        ]),
    ),
    (
        "octrain train --image-root FOLDER",
        With(&[
            ("FOLDER", "data"),
            ("--num-of-class 250", "--num-of-class 10"),
            ("--image-shape 3,224,224", "--image-shape 3,64,64 --crop-size 64 --resize-short 64"),
        ]),
    ),
    (
        "octrain verify --from-checkpoint rn50",
        With(&[
            ("FOLDER", "data"),
            ("--batch-size 10", "--batch-size 2"),
            ("--max-images 20", "--max-images 4"),
        ]),
    ),
    (
        "scripts/training/quantize_efficientnet_lite0.sh",
        Not(
            "fetches weights, and takes minutes on 250 photographs; shellcheck reads it, networks.rs runs its network's like",
        ),
    ),
    (
        "octrain analyze --from-checkpoint runs/efficientnet-lite0",
        With(&[
            ("runs/efficientnet-lite0/state-dict-qat-openvino", "runs/qat"),
            ("runs/efficientnet-lite0/photos", "digits"),
            ("--max-images 125 --batch-size 25", "--max-images 8 --batch-size 8"),
        ]),
    ),
    // docs/testing.md
    (
        "scripts/simulate.sh",
        Not(
            "minutes of simulated jobs; the test that it starts runs ten thousand, shellcheck reads the script",
        ),
    ),
    (
        "scripts/chaos.sh",
        Not("an hour of real jobs; the tests that it starts run a few of them, shellcheck reads the script"),
    ),
    ("cargo install cargo-mutants", Not("a tool from the registry, for the mutants")),
    (
        "scripts/mutants.sh",
        Not("an hour of mutants; scripts/mutants.sh is checked by shellcheck, and says what it needs"),
    ),
    // docs/export-and-verify.md
    (
        "octrain verify --from-checkpoint runs/qat --model int8.onnx --engine openvino --image-root DATA",
        With(&[("DATA", "digits --max-disagreement 100")]),
    ),
    (
        "octrain verify --from-checkpoint runs/cifar10/ResNet20-1",
        With(&[("FOLDER", "data"), ("--layer-images 200", "--layer-images 8 --max-disagreement 100")]),
    ),
    // docs/import.md
    (
        "octrain import resnet50.pth --output-dir runs/imported --classes classes.txt",
        With(&[("resnet50.pth", OURS), ("--classes classes.txt", "--overwrite")]),
    ),
    ("octrain eval --from-checkpoint runs/imported", With(&[("/imagenet", "digits")])),
    (
        "octrain quantize --from-checkpoint runs/imported",
        With(&[("/imagenet", "digits --batch-size 32 --qat-calibration-images 32")]),
    ),
    (
        "octrain train --qat --from-pretrained-params runs/imported",
        With(&[(
            "/imagenet",
            "digits --model-arch-name ResNet20 --image-shape 3,32,32 --crop-size 32 --batch-size 32 --max-steps 1 --device cpu",
        )]),
    ),
    (
        "scripts/training/train_resnet50_AMP_QAT_10E.sh",
        Not("needs a folder of Paddle's; scripts/import-paddle.sh runs it"),
    ),
    // docs/performance.md
    (
        "octrain bench train",
        With(&[
            (
                "--model-arch-name ResNet50 --image-shape 3,224,224",
                "--model-arch-name ResNet20 --image-shape 3,32,32",
            ),
            ("--benchmark-steps 5", "--benchmark-steps 2"),
        ]),
    ),
    (
        "octrain bench train --model-arch-name MobileNetV2",
        With(&[
            ("MobileNetV2 --image-shape 3,224,224", "MobileNetV2-32px --image-shape 3,32,32"),
            ("--batch-size 16", "--batch-size 2"),
        ]),
    ),
    (
        "octrain bench train --model-arch-name ResNet50 --image-shape 3,224,224 --batch-size 256",
        With(&[
            (
                "--model-arch-name ResNet50 --image-shape 3,224,224",
                "--model-arch-name ResNet20 --image-shape 3,32,32",
            ),
            ("--batch-size 256", "--batch-size 2"),
            ("--device cuda", "--device cpu"),
            (
                "--benchmark-steps 30 --benchmark-warmup-steps 8",
                "--benchmark-steps 2 --benchmark-warmup-steps 1",
            ),
        ]),
    ),
    ("ip netns", Not("needs root; what it runs is run without a limited link above")),
    ("octrain bench allreduce", With(&[(",25M", "")])),
    ("octrain bench input", With(&[("FOLDER", "data --benchmark-steps 2")])),
    // docs/operations.md
    ("octrain launch", Parsed("needs several nodes; pods.rs runs coordinator and launchers")),
    ("octrain status", Parsed("needs a job that runs; coordinator.rs asks one")),
    (
        "jq",
        Not(
            "a tool from elsewhere, over a file that only a job of some hosts writes; survive.rs reads such a one",
        ),
    ),
    ("grpcurl", Not("a tool from elsewhere; the coordinator's own tests ask the same (health.rs)")),
    (
        "octrain train --nproc 4 --min-world 2 --event-file",
        Parsed("trains the default network; survive.rs reads the events of such a job"),
    ),
    ("octrain resize", Parsed("needs a job that runs; drain.rs resizes one")),
    ("srun", Not("needs SLURM")),
    ("mpirun", Not("needs MPI")),
    ("docker", Not("needs a registry to build from; deploy.rs checks the container file")),
    ("kubectl apply -k", With(&[("kubectl apply -k", "kubectl kustomize")])),
    ("kubectl delete -k", With(&[("kubectl delete -k", "kubectl kustomize"), ("--ignore-not-found", "")])),
];

/// Commands in the fenced blocks of a page: continuation lines joined, comments left out, runs of blanks made one.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut inside, mut other, mut pending) = (false, false, String::new());
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            // Blocks of another language than the shell's hold no commands.
            inside = !inside && !other && matches!(language, "" | "sh");
            other = !inside && !other && !language.is_empty();
            assert!(pending.is_empty(), "a block ends within a command: {pending}");
            continue;
        }
        if !inside {
            continue;
        }
        let line = if line.starts_with('#') { "" } else { line.split(" # ").next().unwrap_or(line) };
        let (text, more) = match line.trim_end().strip_suffix('\\') {
            Some(text) => (text, true),
            None => (line, false),
        };
        pending.push(' ');
        pending.push_str(text);
        if !more {
            let command = pending.split_whitespace().collect::<Vec<_>>().join(" ");
            pending.clear();
            if !command.is_empty() {
                found.push(command);
            }
        }
    }
    found
}

/// The entry of the table that says most of the command's beginning.
fn entry(command: &str) -> Option<usize> {
    let fits = (0..TABLE.len()).filter(|&at| command.starts_with(TABLE[at].0));
    fits.max_by_key(|&at| TABLE[at].0.len())
}

/// What is run in place of `command`, or why nothing is.
fn shortened(page: &str, command: &str) -> Result<String, String> {
    Ok(match entry(command).map(|at| &TABLE[at].1) {
        None => command.to_string(),
        Some(With(words)) => words.iter().fold(command.to_string(), |text, (from, to)| {
            assert!(text.contains(from), "{page}: `{from}` is no longer in `{command}`: change the table");
            text.replace(from, to)
        }),
        Some(Parsed(why)) => {
            skipped(&format!("{page}: `{command}` was only parsed: {why}"));
            format!("{command} --help")
        }
        Some(Not(why)) => return Err(format!("{page}: `{command}`: {why}")),
    })
}

/// The pages, those of docs/ that are not named last.
fn pages() -> Vec<String> {
    let mut pages: Vec<String> = PAGES.map(str::to_string).into();
    let entries = fs::read_dir(repository().join("docs")).unwrap().flatten();
    let mut others: Vec<String> = entries
        .filter(|e| e.path().extension().is_some_and(|x| x == "md"))
        .map(|e| format!("docs/{}", e.file_name().to_str().unwrap()))
        .filter(|name| !pages.contains(name))
        .collect();
    others.sort();
    pages.extend(others);
    pages
}

fn printed() -> Vec<(String, String)> {
    let text =
        |page: &str| fs::read_to_string(repository().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
    let of =
        |page: String| commands(&text(&page)).into_iter().map(move |c| (page.clone(), c)).collect::<Vec<_>>();
    pages().into_iter().flat_map(of).collect()
}

#[test]
fn every_line_of_the_table_is_of_use() {
    let used: Vec<usize> = printed().iter().filter_map(|(_, command)| entry(command)).collect();
    for (at, (start, _)) in TABLE.iter().enumerate() {
        assert!(used.contains(&at), "`{start}` is in the table and on no page");
    }
}

#[test]
fn commands_run_as_printed() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = dir.path();
    symlink(repository().join("scripts"), scratch.join("scripts")).unwrap();
    // A page may add to the manifests, so these are a copy.
    let copied = Command::new("cp").arg("-r").arg(repository().join("deploy")).arg(scratch).status().unwrap();
    assert!(copied.success());
    images::tree(&scratch.join("data"), 10, 7, 72);
    let mut failed = Vec::new();
    let kubectl = Command::new("kubectl").arg("version").arg("--client").output().is_ok();
    for (page, command) in printed() {
        let told = match shortened(&page, &command) {
            Ok(line) if line.starts_with("kubectl") && !kubectl => {
                skipped(&format!("{page}: `{command}`: kubectl is not on the PATH"));
                continue;
            }
            Ok(line) if line.starts_with("octrain verify") => {
                run(scratch, &[&[&line[..]], verified_as_far_as_sums_are_exact()].concat().join(" "))
            }
            Ok(line) => run(scratch, &line),
            Err(why) => {
                skipped(&why);
                continue;
            }
        };
        if let Err(told) = told {
            failed.push(format!("{page}: `{command}` does not run:\n{told}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// Runs a line in the folder, as a shell of a user would who has built the binaries.
fn run(folder: &Path, line: &str) -> Result<(), String> {
    let octrain = binary("octrain");
    let path = format!("{}:{}", octrain.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("timeout")
        .args(["900", "bash", "-euo", "pipefail", "-c", line])
        .current_dir(folder)
        .env("PATH", path)
        .env("OCTRAIN_BIN", &octrain)
        .output()
        .unwrap();
    let told = octrain_tests::run::said(&output);
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{line}\nended with {}\n{told}", output.status))
    }
}

#[test]
fn the_page_has_the_code_s_exit_codes_and_says_which_to_start_again() {
    let page = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let rows: Vec<(u8, bool)> = page
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let code = cells.get(1)?.parse().ok()?;
            Some((code, !cells.get(3)?.starts_with("no")))
        })
        .collect();
    let wanted = [
        (EXIT_OK, false),
        (EXIT_ERROR, true),
        (EXIT_CONFIGURATION, false),
        (EXIT_ABORTED, true),
        (EXIT_PREEMPTED, true),
        (EXIT_INTERRUPTED, true),
    ];
    assert_eq!(rows, wanted);
    let source = fs::read_to_string(repository().join("coordinator/src/exit_code.rs")).unwrap();
    assert_eq!(
        source.matches("pub const EXIT_").count(),
        wanted.len(),
        "a code is missing here and on the page"
    );
}

#[test]
fn commands_are_found_as_a_reader_finds_them() {
    let page = "text `not this`\n```sh\none --a \\\n  --b 1     # why\n\n# a comment\ntwo && three\n```\n```rust\nlet x = 1;\n```\nfour\n```\nfive\n```\n";
    assert_eq!(commands(page), ["one --a --b 1", "two && three", "five"]);
}
