//! `octrain bench`: the lines it writes, what it refuses, and what `bench compare` makes of two reports.

use octrain_tests::images;
use octrain_tests::run::{octrain, refuse, said};
use serde_json::{Value, json};
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A network that takes a moment.
const SMALL: [&str; 14] = [
    "bench",
    "train",
    "--model-arch-name",
    "ResNet20",
    "--image-shape",
    "3,32,32",
    "--num-of-class",
    "10",
    "--batch-size",
    "4",
    "--device",
    "cpu",
    "--show-config",
    "false",
];

/// Runs a benchmark; its last line.
fn last_line(args: &[&str]) -> Value {
    let output = octrain(args);
    assert!(output.status.success(), "octrain {}\n{}", args.join(" "), said(&output));
    let out = String::from_utf8(output.stdout).unwrap();
    let last = out.lines().last().unwrap_or_else(|| panic!("it said nothing"));
    serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last}"))
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"))
}

const STEPS: [&str; 4] = ["--benchmark-steps", "3", "--benchmark-warmup-steps", "1"];

/// The parts of a step.
const PARTS: [&str; 5] =
    ["train.data_ms", "train.forward_ms", "train.backward_ms", "train.exposed_reduce_ms", "train.update_ms"];

#[test]
fn steps_are_timed_on_one_worker_and_on_two_and_their_reports_compared() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (a, b) = (at("a.jsonl"), at("b.jsonl"));
    let one = [&SMALL[..], &STEPS, &["--threads", "2", "--qat", "--amp", "bf16"]].concat();
    for _ in 0..2 {
        let told = last_line(&[&one[..], &["--report-file", text(&a)]].concat());
        assert_eq!([&told["kind"], &told["train.timed_steps"]], [&json!("bench.train"), &json!(3)], "{told}");
        assert_eq!([&told["settings"]["qat"], &told["settings"]["threads"]], [&json!(true), &json!(2)]);
        let step = number(&told, "train.step_ms");
        assert!((number(&told, "train.ips") * step / 4000.0 - 1.0).abs() < 1e-6, "{told}");
        assert!(PARTS.iter().all(|part| (0.0..=step * 1.5).contains(&number(&told, part))), "{told}");
        assert!(
            number(&told, "train.peak_rss_mb") > 10.0 && number(&told, "train.backward_ms") > 0.0,
            "{told}"
        );
        assert_eq!(lines(&a).last(), Some(&told), "the report's last line is that of the screen");
    }
    assert_eq!(lines(&a).len(), 2, "runs that alternate gather in a file");
    let two = [&SMALL[..], &STEPS, &["--threads", "2", "--nproc", "2", "--report-file", text(&b)]].concat();
    let told = last_line(&two);
    assert!(
        (number(&told, "train.ips") * number(&told, "train.step_ms") / 8000.0 - 1.0).abs() < 1e-6,
        "{told}"
    );
    assert_eq!(lines(&b), [told]);

    let same = last_line(&["bench", "compare", text(&a), text(&a)]);
    assert_eq!(number(&same["train.ips"], "ratio"), 1.0);
    assert_eq!(same["train.ips"]["a_runs"], 2);
    let refused = refuse(2, &["bench", "compare", text(&a), text(&b)]);
    assert!(refused.contains("nproc 1, now 2") && refused.contains("--force"), "{refused}");
    let forced = last_line(&["bench", "compare", "--force", text(&a), text(&b)]);
    assert!(number(&forced["train.step_ms"], "ratio") > 0.0, "{forced}");
    assert!(forced["differences"].as_array().unwrap().iter().any(|d| d == "nproc 1, now 2"), "{forced}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing but the reports is written: {left:?}");
}

#[test]
fn what_cannot_be_measured_or_compared_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("steps.jsonl"), "{\"kind\": \"step\", \"train.ips\": 3}\n").unwrap();
    std::fs::write(at("torn.jsonl"), "{\"kind\": \"bench.tr").unwrap();
    let none = at("none.jsonl");
    let small = |more: &[&'static str]| [&SMALL[..], more].concat();
    let cases: [(Vec<&str>, &str); 10] = [
        (small(&["--nproc", "2", "--threads", "3"]), "--threads 3"),
        (small(&["--benchmark-steps", "0"]), "--benchmark-steps is 0"),
        (small(&["--max-steps", "1", "--benchmark-warmup-steps", "5"]), "no step was timed"),
        (vec!["bench", "allreduce", "--nproc", "1"], "at least 2"),
        (vec!["bench", "allreduce", "--bytes", "6"], "multiple of 4"),
        (vec!["bench", "compare", text(&none), text(&none)], "none.jsonl"),
        (vec!["bench", "compare", "STEPS", "STEPS"], "no measurement"),
        (vec!["bench", "compare", "TORN", "TORN"], "line 1 is no JSON"),
        (vec!["bench", "infer", "--model", text(&none)], "none.jsonl"),
        (vec!["bench", "input", text(&none)], "none.jsonl"),
    ];
    let (steps, torn) = (at("steps.jsonl"), at("torn.jsonl"));
    for (args, want) in cases {
        let file = |word| match word {
            "STEPS" => text(&steps),
            "TORN" => text(&torn),
            other => other,
        };
        let args: Vec<&str> = args.into_iter().map(file).collect();
        let output = octrain(&args);
        let told = said(&output);
        assert!(!output.status.success() && told.contains(want), "{args:?}\n{told}");
    }
}

#[test]
fn sums_over_workers_are_timed_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("sums.jsonl");
    let args = ["bench", "allreduce", "--nproc", "2", "--bytes", "4,64K", "--device", "cpu"];
    let rest = ["--benchmark-steps", "3", "--benchmark-warmup-steps", "1", "--report-file", text(&report)];
    let told = last_line(&[&args[..], &rest].concat());
    assert_eq!(told["kind"], "bench.allreduce");
    for bytes in [4, 64 << 10] {
        let ms = number(&told, &format!("allreduce.{bytes}.ms"));
        let bandwidth = number(&told, &format!("allreduce.{bytes}.bus_gb_per_s"));
        assert!(ms > 0.0 && (bandwidth * ms * 1e6 / f64::from(bytes) - 1.0).abs() < 1e-6, "{told}");
    }
    assert_eq!(lines(&report), [told]);
}

#[test]
fn the_loader_is_timed_alone_over_as_many_epochs_as_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let data = images::tree(&dir.path().join("data"), 2, 5, 40);
    let args = ["bench", "input", text(&data), "--crop-size", "24", "--batch-size", "4", "--threads", "1"];
    let told = last_line(&[&args[..], &["--benchmark-steps", "9", "--benchmark-warmup-steps", "2"]].concat());
    assert_eq!([&told["kind"], &told["settings"]["threads"]], [&json!("bench.input"), &json!(1)]);
    let product = number(&told, "input.ips") * number(&told, "input.batch_ms");
    assert!((product / 4000.0 - 1.0).abs() < 1e-6, "{told}");
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let empty = dir.path().join("empty");
    assert!(refuse(2, &["bench", "input", text(&empty)]).contains("no JPEG or PNG file"));
}
