//! `octrain bench`: the lines it writes, what it refuses, and what `bench compare` makes of two reports.

use octrain_tests::images;
use octrain_tests::run::{Running, octrain, refuse, said};
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
    let alone = at("alone.json");
    let one = [&SMALL[..], &STEPS, &["--threads", "2", "--qat", "--amp", "bf16"]].concat();
    for _ in 0..2 {
        let told =
            last_line(&[&one[..], &["--report-file", text(&a), "--trace-file", text(&alone)]].concat());
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
    is_a_trace_of(&alone, 1, 4);
    assert_eq!(lines(&a).len(), 2, "runs that alternate gather in a file");
    let two = [&SMALL[..], &STEPS, &["--threads", "2", "--nproc", "2", "--report-file", text(&b)]].concat();
    let trace = at("trace.json");
    let told = last_line(&[&two[..], &["--trace-file", text(&trace)]].concat());
    is_a_trace_of(&trace, 2, 4);
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
    assert_eq!(left.len(), 4, "nothing but the reports and the traces is written: {left:?}");
}

#[test]
fn it_times_steps_whatever_a_file_of_settings_says_and_says_if_they_were_fewer() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, folder) = (dir.path().join("run.toml"), dir.path().join("run"));
    let training = ["--run-scope", "train_eval", "--benchmark", "false", "--epochs", "2", "--max-steps", "3"];
    let lines: Vec<String> = [&SMALL[2..12], &training, &["--output-dir", text(&folder)]]
        .concat()
        .chunks(2)
        .map(|pair| match pair[1].parse::<f64>().is_ok() || pair[1] == "false" {
            true => format!("{} = {}", &pair[0][2..], pair[1]),
            false => format!("{} = {:?}", &pair[0][2..], pair[1]),
        })
        .collect();
    std::fs::write(&settings, lines.join("\n").replace("\"3,32,32\"", "[3, 32, 32]")).unwrap();
    let of_file = ["bench", "train", "--config", text(&settings), "--device", "cpu"];
    let output = octrain(&[&of_file[..], &STEPS].concat());
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("only 2 of 3 steps were timed"), "{}", said(&output));
    let out = String::from_utf8(output.stdout).unwrap();
    let told: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let of =
        [&told["settings"]["benchmark-steps"], &told["train.timed_steps"], &told["settings"]["benchmark"]];
    assert_eq!(of, [&json!(2), &json!(2), &json!(true)], "{told}");
    assert!(!folder.exists(), "nothing is saved");
    for other in [["--benchmark", "false"], ["--run-scope", "eval_only"]] {
        let refused = refuse(2, &[&SMALL[..], &other].concat());
        assert!(refused.contains("leave out --benchmark and --run-scope"), "{refused}");
    }
    let none = refuse(2, &[&of_file[..], &["--benchmark-warmup-steps", "3"]].concat());
    assert!(none.contains("no step was timed"), "{none}");
    let most = refuse(2, &[&SMALL[..], &["--benchmark-warmup-steps", "18446744073709551615"]].concat());
    assert!(most.contains("there may be 100000000 at most"), "{most}");
}

#[test]
fn sums_end_when_they_are_asked_to() {
    let long = [
        "bench",
        "allreduce",
        "--bytes",
        "4",
        "--device",
        "cpu",
        "--threads",
        "2",
        "--benchmark-steps",
        "100000000",
    ];
    let mut run = Running::start(&long);
    run.wait_for("gen=1 joined");
    run.signal("TERM", run.id());
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
}

/// A file that Perfetto reads, of so many ranks and steps, whose spans are nested on every track.
fn is_a_trace_of(file: &Path, ranks: usize, steps: u64) {
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(trace["otherData"]["steps left out, by rank"], json!(vec![0; ranks]));
    let events = trace["traceEvents"].as_array().unwrap();
    // Begin, end and name.
    type Span<'a> = (f64, f64, &'a str);
    let mut tracks: BTreeMap<(u64, u64), Vec<Span>> = BTreeMap::new();
    for event in events.iter().filter(|e| e["ph"] == "X") {
        let track = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        let (begun, name) = (number(event, "ts"), event["name"].as_str().unwrap());
        tracks.entry(track).or_default().push((begun, begun + number(event, "dur"), name));
        assert!((1..=steps).contains(&event["args"]["step"].as_u64().unwrap()), "{event}");
    }
    for spans in tracks.values_mut() {
        // The longer first, where two begin together.
        spans.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut open: Vec<f64> = Vec::new();
        for (begun, ended, name) in spans {
            // To a thousandth of a microsecond, the last place that is written.
            open.retain(|end| *begun < end - 1e-3);
            assert!(
                open.iter().all(|end| *ended <= end + 2e-3),
                "{name} at {begun} reaches beyond its parent"
            );
            open.push(*ended);
        }
    }
    for rank in 0..ranks as u64 {
        let count =
            |track: u64, name: &str| tracks[&(rank, track)].iter().filter(|s| s.2 == name).count() as u64;
        let once = ["step", "data", "forward", "reduce", "update"].map(|name| count(0, name));
        assert_eq!(once, [steps; 5]);
        assert!(count(0, "backward") >= steps);
        match ranks {
            1 => assert!(!tracks.contains_key(&(rank, 1)), "one rank calls nobody"),
            _ => assert!(count(1, "collective") >= steps),
        }
        assert_eq!(count(0, "upload"), 0, "there is no device");
    }
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
