//! Jobs that go on without some of their workers, as real processes that are killed and stopped.

use octrain_tests::run::{Running, SMALL, alive, events, named, newest, report, succeed, tensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Four workers on digits, with sixteen microbatches a step whoever is there, at a rate at which rounding does not grow.
const LINE: &[&str] = &[
    "--nproc",
    "4",
    "--batch-size",
    "4",
    "--threads",
    "1",
    "--lr",
    "0.002",
    "--print-interval",
    "1",
    "--max-restarts",
    "0",
];

fn line<'a>(rest: &[&'a str], file: &'a Path, output: &'a Path) -> Vec<&'a str> {
    let paths = ["--report-file", file.to_str().unwrap(), "--output-dir", output.to_str().unwrap()];
    [&["train"], SMALL, LINE, rest, &paths].concat()
}

/// The weights and momentum of the furthest checkpoint, by their bits.
fn state(output: &Path) -> Vec<(String, Vec<u32>)> {
    let files = ["model.safetensors", "optimizer.safetensors"];
    files.iter().flat_map(|file| tensors(&newest(output).join(file))).collect()
}

/// The Euclidean distance of two states, as a part of the length of the first.
fn distance(a: &[(String, Vec<u32>)], b: &[(String, Vec<u32>)]) -> f64 {
    assert_eq!(a.len(), b.len());
    let number = |bits: &u32| f64::from(f32::from_bits(*bits));
    let (mut apart, mut whole) = (0.0, 0.0);
    for ((name, x), (other, y)) in a.iter().zip(b) {
        assert_eq!((name, x.len()), (other, y.len()));
        for (x, y) in x.iter().map(number).zip(y.iter().map(number)) {
            apart += (x - y).powi(2);
            whole += x.powi(2);
        }
    }
    (apart / whole).sqrt()
}

/// Steps that were reported. One that stands there twice is an error, but where a lost rank 0 had told of it and the others
/// had yet to do it: then a new generation has begun between the two.
fn steps(file: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(file).unwrap();
    let (mut all, mut anew): (Vec<u64>, bool) = (Vec::new(), false);
    for line in text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()) {
        match line["kind"].as_str() {
            Some("regroup") => anew = true,
            Some("step") => {
                let step = line["global_step"].as_u64().expect("a step");
                if all.last() != Some(&step) {
                    all.push(step);
                } else {
                    assert!(anew, "step {step} was done twice:\n{text}");
                }
                anew = false;
            }
            _ => {}
        }
    }
    all
}

/// The loss of each step, as it was told last.
fn losses(file: &Path) -> BTreeMap<u64, f64> {
    let of = |l: &Value| (l["global_step"].as_u64().unwrap(), l["train.loss"].as_f64().expect("a loss"));
    report(file, "step").iter().map(of).collect()
}

/// Stops a worker while it writes the checkpoint of one of these steps: begun, and not there. Returns the step.
fn stop_in_a_save(run: &Running, pid: u32, output: &Path, saved: &[u64]) -> u64 {
    let begun = |step: u64| {
        let entries = std::fs::read_dir(output).into_iter().flatten().flatten();
        let name = format!(".0-{step}.");
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).any(|n| n.starts_with(&name))
    };
    for &step in saved {
        let until = Instant::now() + Duration::from_secs(60);
        while !begun(step) && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(100));
        }
        run.signal("STOP", pid);
        std::thread::sleep(Duration::from_millis(50));
        if begun(step) && !output.join(format!("0-{step}")).exists() {
            return step;
        }
        // It was faster.
        run.signal("CONT", pid);
    }
    panic!("none of the saves was met");
}

/// A scheduler starts the job again with what workers it has: it goes on from what was saved.
fn goes_on(output: &Path, global_batch: &str) {
    let saved = newest(output);
    let name = saved.file_name().unwrap().to_str().unwrap().to_string();
    let step: u64 = name
        .strip_prefix("0-")
        .unwrap_or_else(|| panic!("{name} is within the first epoch"))
        .parse()
        .unwrap();
    let (most, file) = ((step + 2).to_string(), output.with_extension("again.jsonl"));
    let rest = ["--nproc", "2", "--global-batch-size", global_batch, "--last-epoch-of-checkpoint", "auto"];
    let rest = [&rest[..], &["--epochs", "50", "--run-scope", "train_only", "--max-steps", &most]].concat();
    succeed(&line(&rest, &file, output));
    assert_eq!(steps(&file).first(), Some(&(step + 1)));
}

fn generations(file: &Path) -> Vec<Value> {
    report(file, "regroup")
}

/// Kills a worker, and waits until the others have gone on; prints what it took.
fn kill(run: &mut Running, phase: &str, pid: u32, generation: u64) {
    let killed = Instant::now();
    run.signal("KILL", pid);
    let told = run.wait_for(&format!("generation {} is over", generation - 1));
    let told_after = killed.elapsed();
    assert!(told.contains("pid "), "{told}");
    run.wait_for(&format!("generation {generation}: "));
    let formed_after = killed.elapsed();
    run.wait_for(" train.loss ");
    let [told, formed, next] = [told_after, formed_after, killed.elapsed()].map(|d| d.as_secs_f64());
    println!(
        "killed in {phase}: told after {told:.2} s, formed anew after {formed:.2} s, next step after {next:.2} s"
    );
    // Generous: a machine may be busy with other tests.
    assert!(next < 30.0, "{phase}: {next} s");
}

/// One that dies is replaced: by rank 0, which speaks and writes, the one that has the most to take over from those who live.
fn replaced(rest: &[&str], file: &Path, output: &Path) -> String {
    let rest = [rest, &["--max-restarts", "1"]].concat();
    let mut run = Running::start(&line(&rest, file, output));
    run.wait_for("step 3/");
    let workers = run.workers();
    let killed = Instant::now();
    kill(&mut run, "step", workers[0], 2);
    run.wait_for("generation 3: 4 workers");
    println!("replaced after {:.2} s", killed.elapsed().as_secs_f64());
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("another one takes its place (restart 1 of 1)"), "{told}");
    assert!(!told.contains("generation 4"), "the boundary cost nobody anything:\n{told}");
    let all = generations(file);
    let worlds: Vec<u64> = all.iter().map(|g| g["world_size"].as_u64().unwrap()).collect();
    assert_eq!(worlds, [3, 4], "{told}");
    let joined: Vec<&str> = all[1]["joined"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(joined.len() == 1 && joined[0].ends_with("local 0 (rank 0)"), "{joined:?}");
    told
}

/// What the coordinator has told of a job of 30 steps that has lost these, one after another.
fn told_of(file: &Path, lost: [u32; 3]) {
    let all = events(file);
    let with = |name: &str| all.iter().filter(|e| e["event"] == name).collect::<Vec<_>>();
    let formed = named(&all, &["generation_formed", "first_step"]);
    let want: Vec<(String, u64)> =
        (1..=4).flat_map(|g| ["generation_formed", "first_step"].map(|name| (name.to_string(), g))).collect();
    assert_eq!(formed, want, "{all:#?}");
    let worlds: Vec<u64> =
        with("generation_formed").iter().map(|e| e["world_size"].as_u64().unwrap()).collect();
    assert_eq!(worlds, [4, 3, 2, 1]);
    for (n, (pid, gone)) in lost.iter().zip(with("worker_lost")).enumerate() {
        assert_eq!(
            (&gone["worker"]["pid"], gone["worker"]["host"].is_string()),
            (&(*pid).into(), true),
            "{gone}"
        );
        assert!(gone["found"] == "exited" || gone["found"] == "disconnected", "{gone}");
        assert!(gone["why"].as_str().unwrap().contains(&format!("pid {pid}")), "{gone}");
        let over = with("generation_over")[n];
        assert_eq!(
            (&over["generation"], &over["planned"]),
            (&(n as u64 + 1).into(), &false.into()),
            "{over}"
        );
    }
    assert_eq!((with("worker_lost").len(), with("generation_over").len()), (3, 3));
    // What a change took is what its parts took, where a worker has told of them.
    let whole = |e: &&&Value| e["transfer_s"].is_number();
    let changes = with("first_step");
    assert!(changes.iter().any(|e| whole(&e)), "{changes:#?}");
    for change in changes.iter().filter(whole) {
        let of = |key: &str| change[key].as_f64().unwrap_or_else(|| panic!("{key} in {change}"));
        let parts: f64 = ["abort_s", "reform_s", "transfer_s", "step_s"].map(of).iter().sum();
        assert!((parts - of("total_s")).abs() < 1e-3 && of("still_s") >= of("abort_s"), "{change}");
    }
    let report = all.last().unwrap();
    assert_eq!((&report["event"], &report["outcome"]), (&"report".into(), &"finished".into()), "{report}");
    let counts = ["step", "generation_count", "lost_count", "joined_count"].map(|key| report[key].as_u64());
    assert_eq!(counts, [30, 4, 3, 0].map(Some), "{report}");
    let still: f64 = changes.iter().filter_map(|e| e["still_s"].as_f64()).sum();
    assert!((report["still_s"].as_f64().unwrap() - still).abs() < 1e-3, "{report}");
}

#[test]
fn three_of_four_workers_may_die_at_any_phase_and_the_curve_is_that_of_all_four() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let rest = ["--min-world", "1", "--epochs", "2", "--max-steps", "30", "--save-interval-steps", "9"];
    succeed(&line(&rest, &at("whole.jsonl"), &at("whole")));
    // The same steps on one worker: as far from those as another order of floating-point sums takes them.
    let alone = [&rest[2..], &["--nproc", "1", "--global-batch-size", "64"]].concat();
    succeed(&line(&alone, &at("alone.jsonl"), &at("alone")));

    let (file, output, told_to) = (at("parts.jsonl"), at("parts"), at("events.jsonl"));
    let parts = [&rest[..], &["--event-file", told_to.to_str().unwrap()]].concat();
    let mut run = Running::start(&line(&parts, &file, &output));
    run.wait_for("step 3/");
    let workers = run.workers();
    // While rank 1 stands still, all others wait in the reduction: one of them is killed there.
    run.signal("STOP", workers[1]);
    std::thread::sleep(Duration::from_millis(700));
    let cont = workers[1].to_string();
    let resumed = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        std::process::Command::new("kill").args(["-CONT", &cont]).status().unwrap();
    });
    kill(&mut run, "reduce", workers[3], 2);
    resumed.join().unwrap();
    // Rank 0, which writes, before it is done with it.
    let step = stop_in_a_save(&run, workers[0], &output, &[9, 18]);
    kill(&mut run, "save", workers[0], 3);
    assert!(output.join(format!("0-{step}")).is_dir(), "it was saved by another");
    // In forward or backward, most likely: that is where the time goes.
    kill(&mut run, "step", workers[2], 4);
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("the job goes on without it"), "{told}");
    assert!(workers.iter().all(|&pid| !alive(pid)), "a worker outlived its job");
    told_of(&told_to, [workers[3], workers[0], workers[2]]);
    assert!(told.contains("step 30, 4 generations; 3 workers lost") && told.contains(", re-form "), "{told}");

    assert_eq!(
        steps(&file),
        (1..=30).collect::<Vec<_>>(),
        "no step is lost, and none is done twice:\n{told}"
    );
    let worlds: Vec<u64> = generations(&file).iter().map(|g| g["world_size"].as_u64().unwrap()).collect();
    assert_eq!(worlds, [3, 2, 1]);

    // And one that is replaced.
    let (other, other_output) = (at("replaced.jsonl"), at("replaced"));
    let told = replaced(&rest, &other, &other_output);
    assert_eq!(steps(&other), (1..=30).collect::<Vec<_>>(), "{told}");

    let weights =
        |output: &Path| tensors(&newest(output).join("model.safetensors")).into_iter().collect::<Vec<_>>();
    let whole = weights(&at("whole"));
    let order = distance(&whole, &weights(&at("alone")));
    let whole_losses = losses(&at("whole.jsonl"));
    for (what, file, output) in [("three died", &file, &output), ("one was replaced", &other, &other_output)]
    {
        let apart = distance(&whole, &weights(output));
        println!(
            "{what}: weights differ by {apart:.1e} of their length, and by {order:.1e} where one worker did it all"
        );
        assert!(apart > 0.0 && apart < 3.0 * order, "{what}: {apart} and {order}");
        let parts = losses(file);
        assert_eq!(whole_losses.len(), parts.len());
        for (step, a) in &whole_losses {
            let b = parts[step];
            assert!((a - b).abs() < 1e-2 * a, "step {step}: {a} on four workers, {b} where {what}");
        }
        let evaluations = [&at("whole.jsonl"), file].map(|f| report(f, "eval").len());
        assert_eq!(evaluations[0], evaluations[1], "what follows the last step was done as well");
    }
}

#[test]
fn a_worker_that_dies_in_an_evaluation_costs_neither_it_nor_the_checkpoint_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let (file, output) = (dir.path().join("r.jsonl"), dir.path().join("out"));
    let rest = ["--min-world", "2", "--epochs", "2", "--global-batch-size", "240"];
    let mut run = Running::start(&line(&rest, &file, &output));
    run.wait_for("joined");
    let workers = run.workers();
    let last = run.wait_for("epoch 0 step 5/5");
    assert!(last.contains("step 5/5"), "{last}");
    run.signal("KILL", workers[0]);
    run.wait_for("generation 2: ");
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(steps(&file), (1..=10).collect::<Vec<_>>(), "{told}");
    let evaluated: Vec<u64> = report(&file, "eval").iter().map(|l| l["epoch"].as_u64().unwrap()).collect();
    assert!(evaluated.contains(&1) && evaluated.contains(&2), "{evaluated:?}\n{told}");
    assert!(
        output.join("1").join("manifest.json").is_file() && output.join("2").join("manifest.json").is_file()
    );
}

#[test]
fn a_generation_of_the_same_workers_goes_on_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let qat = ["--qat", "--qat-calibration-images", "32", "--model-ema", "--model-ema-steps", "2"];
    let rest = ["--min-world", "1", "--epochs", "1", "--max-steps", "10", "--run-scope", "train_only"];
    let rest = [&rest[..], &qat].concat();
    succeed(&line(&rest, &at("whole.jsonl"), &at("whole")));
    let (file, output) = (at("parts.jsonl"), at("parts"));
    // The others give up waiting for one that stands still before it is taken for dead.
    let patience = [("OCTRAIN_COLLECTIVE_TIMEOUT", "2")];
    let mut run = Running::start_with(&line(&rest, &file, &output), &patience);
    run.wait_for("step 4/");
    let workers = run.workers();
    run.signal("STOP", workers[2]);
    run.wait_for("generation 1 is over");
    run.signal("CONT", workers[2]);
    run.wait_for("generation 2: 4 workers");
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(steps(&file), (1..=10).collect::<Vec<_>>(), "{told}");
    assert!(state(&at("whole")) == state(&output), "the states differ:\n{told}");
}

#[test]
fn with_fewer_workers_than_it_needs_the_job_ends_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (file, output) = (dir.path().join("r.jsonl"), dir.path().join("out"));
    let rest = ["--min-world", "3", "--epochs", "50", "--run-scope", "train_only"];
    let mut run = Running::start(&line(&rest, &file, &output));
    run.wait_for("step 2/");
    let workers = run.workers();
    kill(&mut run, "step", workers[1], 2);
    run.signal("KILL", workers[2]);
    let (code, told) = run.end();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("though the job was ended"), "{told}");
    goes_on(&output, "64");
}

#[test]
fn where_two_die_at_once_and_too_few_are_left_another_one_saves() {
    let dir = tempfile::tempdir().unwrap();
    let (file, output) = (dir.path().join("r.jsonl"), dir.path().join("out"));
    let rest = ["--min-world", "3", "--epochs", "50", "--run-scope", "train_only"];
    let mut run = Running::start(&line(&rest, &file, &output));
    run.wait_for("step 3/");
    let workers = run.workers();
    // The first two of the roster that the others have joined last.
    let both = [workers[0].to_string(), workers[1].to_string()];
    assert!(std::process::Command::new("kill").arg("-KILL").args(&both).status().unwrap().success());
    let (code, told) = run.end();
    assert_eq!(code, Some(1), "{told}");
    assert_eq!(told.matches("though the job was ended").count(), 1, "{told}");
    goes_on(&output, "64");
}

#[test]
fn a_writer_that_was_stopped_in_a_save_changes_nothing_of_what_the_others_have_saved_since() {
    let dir = tempfile::tempdir().unwrap();
    let (file, output) = (dir.path().join("r.jsonl"), dir.path().join("out"));
    let rest = ["--nproc", "2", "--min-world", "1", "--global-batch-size", "32", "--run-scope", "train_only"];
    let rest = [&rest[..], &["--epochs", "1", "--max-steps", "14", "--save-interval-steps", "3"]].concat();
    let mut run = Running::start(&line(&rest, &file, &output));
    run.wait_for("step 1/");
    let workers = run.workers();
    let step = stop_in_a_save(&run, workers[0], &output, &[3, 6, 9]);
    // The others give it up, form another generation, and finish.
    let last = output.join("0-14").join("manifest.json");
    let until = Instant::now() + Duration::from_secs(90);
    while !last.is_file() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    run.signal("CONT", workers[0]);
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
    assert!(last.is_file(), "{told}");
    assert!(!output.join(format!("0-{step}")).exists(), "{told}");
    assert_eq!(steps(&file), (1..=14).collect::<Vec<_>>(), "{told}");
}

#[test]
fn a_minimum_that_cannot_be_is_refused() {
    for (minimum, nproc) in [("5", "4"), ("0", "4"), ("2", "1")] {
        let told = octrain_tests::run::refuse(
            2,
            &[&["train"], SMALL, &["--nproc", nproc, "--min-world", minimum]].concat(),
        );
        assert!(told.contains(&format!("--min-world is {minimum}, but --nproc is {nproc}")), "{told}");
    }
}
