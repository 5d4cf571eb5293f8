//! Going on: from where is decided once, and whoever is told how can do it.

use octrain_tests::run::{Running, SMALL, newest, refuse, said, succeed, tensors};
use octrain_tests::{binary, images};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// `octrain train` of a few steps into a folder.
fn train<'a>(output: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let flags = ["--epochs", "1", "--batch-size", "16", "--lr", "0.01", "--run-scope", "train_only"];
    [&["train"], SMALL, &flags, &["--output-dir", text(output)], more].concat()
}

fn manifest(checkpoint: &Path) -> Value {
    serde_json::from_slice(&fs::read(checkpoint.join("manifest.json")).expect("a manifest")).expect("JSON")
}

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(fs::copy(&from, &to).unwrap()),
        }
    }
}

/// A coordinator of two workers, its log, and where it listens.
fn coordinator() -> (Child, BufReader<ChildStderr>, String) {
    let mut child = Command::new(binary("octrain-coordinator"))
        .args(["--listen", "127.0.0.1:0", "--world-size", "2", "--register-timeout", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    (child, log, line.trim().strip_prefix("listening on ").unwrap().to_string())
}

/// A host of one worker that goes on where it was, or starts anew.
fn host(name: &str, address: &str, output: &Path, steps: &str) -> Child {
    let line = ["launch", "--coordinator", address, "--nproc-per-node", "1", "--"];
    let auto = ["--max-steps", steps, "--threads", "1", "--last-epoch-of-checkpoint", "auto"];
    Command::new(binary("octrain"))
        .args([&line[..], &train(output, &auto)[1..]].concat())
        .env("OCTRAIN_HOST", name)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Two hosts of one job; between their registrations, `change` happens. The coordinator ends as they do, with `code`.
fn job(output: &Path, steps: &str, code: i32, change: impl FnOnce()) -> [Output; 2] {
    let (mut coordinator, mut log, address) = coordinator();
    let first = host("a", &address, output, steps);
    let mut line = String::new();
    while !line.contains("registered, 1 of 2") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the coordinator ended");
    }
    change();
    let second = host("b", &address, output, steps);
    // Nobody may have to wait for a reader.
    let rest = std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(drop));
    let outputs = [first, second].map(|h| h.wait_with_output().unwrap());
    assert_eq!(coordinator.wait().unwrap().code(), Some(code));
    rest.join().unwrap();
    for told in &outputs {
        assert_eq!(told.status.code(), Some(code), "{}", said(told));
    }
    outputs
}

#[test]
fn a_checkpoint_that_appears_or_goes_while_hosts_register_is_no_mismatch() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = |name: &str, more: &[&str]| -> PathBuf {
        let folder = dir.path().join(name);
        succeed(&train(&folder, &[&["--max-steps", "2", "--nproc", "2"], more].concat()));
        folder
    };
    // The global batch of the plan: whoever sees the checkpoint goes on from it.
    let (same, output) = (earlier("same", &[]), dir.path().join("appears"));
    job(&output, "4", 0, || copy(&same, &output));
    assert_eq!(manifest(&newest(&output))["position"]["global-step"], 4);
    // Another one: the plan was made for what is no more. Started again, it is made for what is there.
    let (other, output) = (earlier("other", &["--global-batch-size", "64"]), dir.path().join("larger"));
    for told in &job(&output, "4", 3, || copy(&other, &output)) {
        assert!(said(told).contains("start it again"), "{}", said(told));
    }
    job(&output, "4", 0, || ());
    let last = manifest(&newest(&output));
    assert_eq!((&last["position"]["global-step"], &last["global-batch"]), (&4.into(), &64.into()));
    // And one that is taken away.
    for told in job(&output, "6", 3, || fs::remove_dir_all(newest(&output)).unwrap()) {
        assert!(said(&told).contains("the checkpoint is gone"), "{}", said(&told));
    }
}

/// The last line that goes on with a run, as a shell runs it with the binary under test.
fn pasted(told: &str) -> (String, Output) {
    let line = told.lines().rev().find(|l| l.trim_start().starts_with("octrain train --resume")).expect(told);
    let command = line.trim().replacen("octrain", text(&binary("octrain")), 1);
    (line.trim().into(), Command::new("sh").args(["-c", &command]).output().unwrap())
}

/// Cuts a file of a checkpoint short.
fn damage(checkpoint: &Path, file: &str) {
    let path = checkpoint.join(file);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
}

#[test]
fn whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_by_the_command_that_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let little = ["--image-root", "synthetic", "--synthetic-images", "32", "--epochs", "3"];
    for (nproc, file) in [("1", "model.safetensors"), ("2", "optimizer.safetensors"), ("1", "manifest.json")]
    {
        let output = dir.path().join(format!("a run of {nproc}, {file}"));
        let line = train(&output, &[&little[..], &["--nproc", nproc, "--batch-size", "8"]].concat());
        succeed(&line);
        let whole = manifest(&output.join("3"));
        damage(&output.join("3"), file);
        for again in [
            vec!["train", "--resume", text(&output), "--epochs", "4"],
            [&line[..], &["--epochs", "4", "--last-epoch-of-checkpoint", "auto"]].concat(),
        ] {
            let told = refuse(1, &again);
            assert!(told.contains("is damaged") && told.contains(file), "{told}");
            assert!(told.trim_end().ends_with(&format!("--resume '{}/2'", text(&output))), "{told}");
            assert!(output.join("3").exists(), "nothing is done before it is asked for");
        }
        let (line, ended) = pasted(&refuse(1, &["train", "--resume", text(&output), "--epochs", "4"]));
        let told = said(&ended);
        assert_eq!(ended.status.code(), Some(0), "{line}: {told}");
        assert!(told.contains("set aside 3 as 3.damaged"), "{told}");
        assert!(output.join("3.damaged").join(file).exists());
        let again = manifest(&output.join("3"));
        assert_eq!((&again["run"], &again["position"]), (&whole["run"], &whole["position"]));
        // It is the run's again.
        succeed(&["train", "--resume", text(&output), "--epochs", "4"]);
        assert!(output.join("4").exists());
    }
}

#[test]
fn who_goes_back_on_purpose_is_told_the_flag_and_it_works() {
    let dir = tempfile::tempdir().unwrap();
    let little = ["--image-root", "synthetic", "--synthetic-images", "32", "--epochs", "3"];
    succeed(&train(dir.path(), &little));
    let back = ["train", "--resume", text(dir.path()), "--last-epoch-of-checkpoint", "1", "--lr", "0.02"];
    let told = refuse(2, &back);
    let command = format!("octrain train --resume {}/1 --overwrite", text(dir.path()));
    assert!(told.contains("starts from 1") && told.contains(&command), "{told}");
    succeed(&[&back[..], &["--overwrite"]].concat());
    assert_eq!(manifest(&newest(dir.path()))["config"]["lr"], 0.02);
    // A damaged one is in nobody's way.
    damage(&dir.path().join("3"), "model.safetensors");
    succeed(&["train", "--resume", text(dir.path()), "--last-epoch-of-checkpoint", "2"]);
    assert!(dir.path().join("3.damaged").exists());
}

#[test]
fn a_file_names_the_checkpoint_of_every_command_as_flags_do() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (run, file) = (at("run"), at("run.toml"));
    succeed(&train(&run, &["--image-root", "synthetic", "--synthetic-images", "32", "--epochs", "2"]));
    // Whoever takes the furthest fails.
    damage(&run.join("2"), "manifest.json");
    let lines = format!("from-checkpoint = {:?}\nlast-epoch-of-checkpoint = \"1\"\n", text(&run));
    fs::write(&file, lines).unwrap();
    let out = ["quantized", "further", "resumed"].map(at);
    let out: Vec<&str> = out.iter().map(|path| text(path)).collect();
    let place = format!("checkpoint {}", run.join("1").display());
    let told = succeed(&["eval", "--config", text(&file)]);
    assert!(told.contains(&place), "{told}");
    let quantize = ["quantize", "--config", text(&file), "--output-dir", out[0]];
    let told = succeed(&[&quantize[..], &["--qat-calibration-images", "16"]].concat());
    assert!(told.contains(&place), "{told}");
    succeed(&["graph", "--config", text(&file)]);
    let told = succeed(&["train", "--config", text(&file), "--output-dir", out[1]]);
    assert!(told.contains(&format!("resumed from {}", run.join("1").display())), "{told}");
    // Of the flags and the file the flags win, each for itself.
    let told = refuse(1, &["eval", "--config", text(&file), "--last-epoch-of-checkpoint", "auto"]);
    assert!(told.contains("is damaged"), "{told}");
    copy(&run, Path::new(out[2]));
    let resume = ["train", "--config", text(&file), "--resume", out[2], "--overwrite", "--lr", "0.02"];
    let told = succeed(&resume);
    assert!(told.contains(&format!("resumed from {}", Path::new(out[2]).join("1").display())), "{told}");
    fs::write(&file, "last-epoch-of-checkpoint = \"newest\"\n").unwrap();
    let told = refuse(2, &["plan", "--config", text(&file)]);
    assert!(told.contains("line 1, `last-epoch-of-checkpoint`") && told.contains("`auto`, `best`"), "{told}");
}

#[test]
fn a_signal_during_the_last_new_statistics_leaves_them_to_who_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = [
        "--image-root",
        "synthetic",
        "--synthetic-images",
        "3000",
        "--max-steps",
        "2",
        "--qat",
        "--qat-calibration-images",
        "16",
        "--qat-freeze-bn",
        "1",
        "--qat-bn-images",
        "3000",
        "--nproc",
        "2",
        "--batch-size",
        "8",
    ];
    let (stopped, whole) = (dir.path().join("stopped"), dir.path().join("whole"));
    let mut run = Running::start(&train(&stopped, &recipe));
    // The last line before 3,000 images are looked at.
    run.wait_for("(median step)");
    run.signal("TERM", run.id());
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(!told.contains("estimated BatchNorm's statistics anew"), "{told}");
    assert_eq!(manifest(&newest(&stopped))["concluded"], false);
    let resume = ["train", "--resume", text(&stopped), "--show-config", "false"];
    let told = succeed(&resume);
    assert!(told.contains("estimated BatchNorm's statistics anew"), "{told}");
    assert_eq!(manifest(&newest(&stopped))["concluded"], true);
    // As if nobody had stopped it, and not twice.
    succeed(&train(&whole, &recipe));
    let [stopped, whole] = [&stopped, &whole].map(|run| tensors(&newest(run).join("model.safetensors")));
    assert!(stopped.len() > 50 && stopped == whole);
    let told = succeed(&resume);
    assert!(!told.contains("anew on") && told.contains("nothing left to do"), "{told}");
}

#[test]
fn a_run_whose_data_was_moved_goes_on_and_one_on_other_data_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (output, data) = (dir.path().join("run"), images::tree(&dir.path().join("data"), 3, 12, 36));
    let line = |data, steps| {
        let more = ["--image-root", data, "--num-of-class", "3", "--batch-size", "8", "--max-steps", steps];
        let auto = ["--last-epoch-of-checkpoint", "auto"];
        [&train(&output, &[])[..], &more, &auto].concat()
    };
    succeed(&line(text(&data), "1"));
    let moved = dir.path().join("moved");
    fs::rename(&data, &moved).unwrap();
    let told = succeed(&line(text(&moved), "2"));
    assert!(
        told.contains("at epoch 0, step 1") && told.contains("now \"") && told.contains("moved"),
        "{told}"
    );
    let other = images::tree(&dir.path().join("other"), 3, 24, 36);
    let told = refuse(2, &line(text(&other), "3"));
    assert!(told.contains("other settings (image-root"), "{told}");
}

/// Holds the folder's lock as a run of `host`, at that start of its kernel, would.
fn hold(folder: &Path, host: &str, boot: &str) -> fs::File {
    fs::create_dir_all(folder).unwrap();
    let holder = format!(r#"{{"host":"{host}","boot":"{boot}","pid":1,"since-unix":1}}"#);
    fs::write(folder.join(".lock"), holder).unwrap();
    let held = fs::File::open(folder.join(".lock")).unwrap();
    held.lock().unwrap();
    held
}

#[test]
fn a_folder_of_another_run_is_a_reason_to_try_again_for_the_hosts_and_for_the_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let held = hold(dir.path(), "a", fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim());
    let told = job(dir.path(), "4", 3, || ());
    assert!(told.iter().all(|t| said(t).contains("is in use by another run")), "{}", said(&told[0]));
    drop(held);
    job(dir.path(), "2", 0, || ());
}

#[test]
fn one_host_that_is_asked_to_stop_while_rank_0_waits_for_its_folder_stops_all() {
    let dir = tempfile::tempdir().unwrap();
    let held = hold(dir.path(), "elsewhere", "another");
    let (mut coordinator, log, address) = coordinator();
    let rest = std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(drop));
    let mut first = host("a", &address, dir.path(), "4");
    let mut second = host("b", &address, dir.path(), "4");
    let mut told = BufReader::new(first.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(told.any(|line| line.contains("to be let go")), "rank 0 does not wait");
    let told = std::thread::spawn(move || told.collect::<Vec<_>>().join("\n"));
    let mut of_second = BufReader::new(second.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(of_second.any(|line| line.contains("joined;")), "the other host has no plan");
    let of_second = std::thread::spawn(move || of_second.collect::<Vec<_>>().join("\n"));
    assert!(Command::new("kill").args(["-TERM", &second.id().to_string()]).status().unwrap().success());
    assert_eq!(second.wait().unwrap().code(), Some(4), "{}", of_second.join().unwrap());
    assert_eq!(first.wait().unwrap().code(), Some(4), "{}", told.join().unwrap());
    assert_eq!(coordinator.wait().unwrap().code(), Some(4));
    rest.join().unwrap();
    drop(held);
}

#[test]
fn what_an_update_rule_keeps_is_stored_by_name_and_is_not_taken_for_another_rules() {
    let dir = tempfile::tempdir().unwrap();
    let (sgd, adamw, other) = (dir.path().join("sgd"), dir.path().join("adamw"), dir.path().join("other"));
    succeed(&train(&sgd, &["--max-steps", "2"]));
    succeed(&train(&adamw, &["--max-steps", "2", "--optimizer", "adamw"]));
    let of = |run: &Path| tensors(&newest(run).join("optimizer.safetensors"));
    let names = |run: &Path| -> BTreeSet<String> {
        of(run).into_keys().map(|name| name.split('.').next().unwrap().to_string()).collect()
    };
    assert_eq!(names(&sgd), BTreeSet::from(["momentum".to_string()]));
    assert_eq!(names(&adamw), BTreeSet::from(["first_moment", "second_moment", "updates"].map(String::from)));
    let go_on = |from: &'static str, run: &Path, rule: &str| {
        let place = ["--output-dir", text(&other), "--max-steps", "4"];
        [&["train", from, text(run), "--optimizer", rule], &place[..]]
            .concat()
            .into_iter()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    for (run, rule, kept) in [(&sgd, "adamw", "momentum"), (&adamw, "sgd", "first_moment and second_moment")]
    {
        let line = go_on("--from-checkpoint", run, rule);
        let told = refuse(2, &line.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(told.contains(kept) && told.contains("--optimizer"), "{told}");
    }
    // Evaluating needs no rule, and weights alone are anybody's.
    succeed(&["eval", "--from-checkpoint", text(&adamw), "--optimizer", "sgd"]);
    succeed(&train(&other, &["--from-pretrained-params", text(&newest(&adamw)), "--max-steps", "1"]));
}
