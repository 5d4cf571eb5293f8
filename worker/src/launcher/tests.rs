//! Real processes (a shell in place of the worker), and the verdict on their ends.

use super::*;
use signals::{ECHO, Interrupt};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn sh(label: &str, script: &str) -> WorkerCommand {
    WorkerCommand { label: label.into(), args: vec!["-c".into(), script.into()], ..WorkerCommand::default() }
}

fn options(workers: Vec<WorkerCommand>) -> LaunchOptions {
    LaunchOptions {
        program: "/bin/sh".into(),
        workers,
        failure_grace: Duration::from_millis(200),
        stop_grace: Duration::from_millis(300),
        ended: None,
        replace: None,
        restarts: Restarts::new(0),
        survives: Arc::default(),
        whole: false,
    }
}

#[test]
fn a_worker_that_the_job_goes_on_without_ends_nobody_and_is_no_cause() {
    let said: Arc<Mutex<Vec<Ended>>> = Arc::default();
    let told = said.clone();
    let surviving = |goes_on: bool, workers: Vec<WorkerCommand>| {
        let told = told.clone();
        let ended: Told = Arc::new(move |ended: &Ended| {
            told.lock().unwrap().push(*ended);
            Some(Answer { goes_on, step: 7, vacancy: Vacancy::None })
        });
        let survives = Arc::new(AtomicBool::new(goes_on));
        let options = LaunchOptions { ended: Some(ended), survives, ..options(workers) };
        spawn(options).unwrap().wait(&Interrupt::default())
    };
    let workers = || vec![sh("rank 0", "sleep 1"), sh("rank 1", "kill -9 $$"), sh("rank 2", "sleep 1.2")];
    let report = surviving(true, workers());
    assert_eq!((report.code, report.message()), (EXIT_OK, None), "{report:?}");
    let ended = said.lock().unwrap().clone();
    assert_eq!(ended.iter().map(|e| (e.index, e.end)).collect::<Vec<_>>(), [(1, End::Signal(9))]);
    // Where it does not go on, all is as it was.
    let report = surviving(false, workers());
    assert_eq!((report.code, report.root.unwrap().label.as_str()), (EXIT_ERROR, "rank 1"));
    assert_eq!(report.exits.iter().filter(|e| e.end == End::Signal(15)).count(), 2);
    // A host of which nothing is left has not ended well, whatever becomes of the others.
    let report = surviving(true, vec![sh("rank 0", "kill -9 $$")]);
    assert_eq!((report.code, report.root.is_some()), (EXIT_ERROR, true));
    // What was stopped when the job went on without it, and still is when that is done, is not waited for.
    let report = surviving(true, vec![sh("rank 0", "sleep 0.3"), sh("rank 1", "kill -STOP $$")]);
    assert_eq!((report.code, report.exits[1].end), (EXIT_OK, End::Silent), "{report:?}");
}

#[test]
fn a_worker_that_died_is_replaced_as_often_as_may_be_and_nobody_waits_for_one_that_comes_too_late() {
    let run = |first: &str, other: &'static str, restarts: u32| {
        let asked: Arc<Mutex<Vec<usize>>> = Arc::default();
        let replaced = asked.clone();
        let replace: Replace = Arc::new(move |index| {
            replaced.lock().unwrap().push(index);
            Ok(sh("another rank 1", other))
        });
        let ended: Told =
            Arc::new(|_: &Ended| Some(Answer { goes_on: true, step: 5, vacancy: Vacancy::None }));
        let survives = Arc::new(AtomicBool::new(true));
        let (restarts, workers) =
            (Restarts::new(restarts), vec![sh("rank 0", "sleep 1"), sh("rank 1", first)]);
        let (ended, replace) = (Some(ended), Some(replace));
        let options = LaunchOptions { ended, survives, replace, restarts, ..options(workers) };
        let report = spawn(options).unwrap().wait(&Interrupt::default());
        let replaced = asked.lock().unwrap().clone();
        assert_eq!((report.code, report.message()), (EXIT_OK, None), "{report:?}");
        (replaced, report.exits)
    };
    let (replaced, exits) = run("kill -9 $$", "sleep 0.2", 3);
    assert_eq!(replaced, [1]);
    let ends: Vec<End> = exits.iter().map(|e| e.end).collect();
    assert_eq!((ends.len(), ends[0], exits[0].outlived), (3, End::Signal(9), true), "{exits:?}");
    // Again and again, and then no more.
    let (replaced, exits) = run("kill -9 $$", "kill -9 $$", 2);
    assert_eq!((replaced, exits.len()), (vec![1, 1], 4));
    assert!(run("kill -9 $$", "true", 0).0.is_empty());
    // Another one would end the same way.
    assert!(run("exit 2", "true", 3).0.is_empty());
    let (begun, (_, exits)) = (Instant::now(), run("kill -9 $$", "exec sleep 60", 1));
    assert!(begun.elapsed() < Duration::from_secs(10) && exits.len() == 3, "{exits:?}");
    // Not even where it does not listen.
    let (begun, (_, exits)) =
        (Instant::now(), run("kill -9 $$", "trap '' TERM; while :; do sleep 1; done", 1));
    assert!(begun.elapsed() < Duration::from_secs(20), "{exits:?}");
    let late = exits.iter().find(|e| e.label == "another rank 1").unwrap();
    assert_eq!((late.end, late.outlived), (End::Silent, true), "{exits:?}");
    // One that is asked to stop before it has come ends nobody.
    let (replaced, exits) = run("kill -9 $$", "exit 4", 3);
    let ends: Vec<End> = exits.iter().map(|e| e.end).collect();
    assert_eq!((replaced, ends), (vec![1], vec![End::Signal(9), End::Code(4), End::Code(0)]));
}

#[test]
fn a_job_that_was_stopped_through_one_that_replaces_another_has_stopped_as_it_was_asked() {
    let ended: Told = Arc::new(|_: &Ended| Some(Answer { goes_on: true, step: 5, vacancy: Vacancy::None }));
    let replace: Replace = Arc::new(|_| Ok(sh("another rank 1", "sleep 0.2; exit 4")));
    let stopped = |workers: Vec<WorkerCommand>| {
        let options = LaunchOptions {
            ended: Some(ended.clone()),
            replace: Some(replace.clone()),
            restarts: Restarts::new(1),
            survives: Arc::new(AtomicBool::new(true)),
            failure_grace: Duration::from_secs(20),
            ..options(workers)
        };
        spawn(options).unwrap().wait(&Interrupt::default())
    };
    let last = sh("rank 1", "kill -9 $$");
    let report = stopped(vec![sh("rank 0", "sleep 0.6; exit 4"), last.clone()]);
    assert_eq!(report.code, EXIT_PREEMPTED, "{report:?}");
    // So has the launcher of that one alone.
    assert_eq!(stopped(vec![last]).code, EXIT_PREEMPTED);
}

#[test]
fn a_coordinator_that_does_not_answer_neither_delays_nor_changes_an_end() {
    let run = |survives: bool, workers: Vec<WorkerCommand>| {
        let ended: Told = Arc::new(|_: &Ended| {
            std::thread::sleep(Duration::from_millis(1500));
            None
        });
        let survives = Arc::new(AtomicBool::new(survives));
        let begun = Instant::now();
        let report = spawn(LaunchOptions { ended: Some(ended), survives, ..options(workers) })
            .unwrap()
            .wait(&Interrupt::default());
        (report, begun.elapsed())
    };
    // It is gone because the job is done: one that the job went on without does not make that a failure.
    let done = || vec![sh("rank 0", "exit 0"), sh("rank 1", "exit 3")];
    let (report, _) = run(true, done());
    assert_eq!((report.code, report.message()), (EXIT_OK, None), "{report:?}");
    // Where the job ends with any of its workers, or that is not known, all is as without one to ask.
    let (report, took) = run(false, done());
    assert_eq!(report.code, EXIT_ABORTED);
    assert!(took < Duration::from_millis(1300), "{took:?}");
    let (report, took) = run(false, vec![sh("rank 0", "exec sleep 60"), sh("rank 1", "kill -9 $$")]);
    assert_eq!((report.code, report.root.unwrap().label.as_str()), (EXIT_ERROR, "rank 1"));
    assert!(took < Duration::from_millis(1300), "the others are ended when one has: {took:?}");
    // And it is not a failure of all where nobody ended well.
    let (report, _) = run(true, vec![sh("rank 0", "exit 3"), sh("rank 1", "exit 3")]);
    assert_eq!(report.code, EXIT_ABORTED);
}

#[test]
fn that_a_job_goes_on_may_become_known_with_the_first_end() {
    let ended: Told = Arc::new(|_: &Ended| Some(Answer { goes_on: true, step: 0, vacancy: Vacancy::None }));
    let workers = vec![sh("rank 0", "sleep 1"), sh("rank 1", "kill -9 $$")];
    let report =
        spawn(LaunchOptions { ended: Some(ended), ..options(workers) }).unwrap().wait(&Interrupt::default());
    assert_eq!((report.code, report.message()), (EXIT_OK, None), "{report:?}");
}

fn run(workers: Vec<WorkerCommand>) -> Report {
    spawn(options(workers)).unwrap().wait(&Interrupt::default())
}

#[test]
fn all_well() {
    let report = run(vec![sh("rank 0", "exit 0"), sh("rank 1", "true")]);
    assert_eq!((report.code, report.root.is_none(), report.message()), (EXIT_OK, true, None));
}

#[test]
fn the_first_failure_is_the_root_cause_and_its_last_words_are_kept() {
    let report = run(vec![
        sh("rank 0", "sleep 0.4; echo 'all-reduce failed' >&2; exit 1"),
        sh("rank 1", "echo 'loss is NaN' >&2; exit 1"),
        sh("rank 2", "sleep 0.3; exit 3"),
    ]);
    let message = report.message().unwrap();
    assert_eq!(report.code, EXIT_ERROR);
    assert!(message.starts_with("rank 1 (pid ") && message.contains("rank 1: loss is NaN"), "{message}");
    assert!(message.contains("2 other workers"), "{message}");
}

#[test]
fn a_worker_killed_by_a_signal_is_named_with_it() {
    let report = run(vec![sh("rank 0", "kill -9 $$"), sh("rank 1", "exec sleep 60")]);
    assert_eq!(report.root.as_ref().unwrap().end, End::Signal(9));
    assert_eq!(report.code, EXIT_ERROR);
    // The survivor, which did not end by itself, was ended.
    assert_eq!(report.exits.iter().find(|e| e.label == "rank 1").unwrap().end, End::Signal(15));
}

#[test]
fn a_limit_that_the_system_sets_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = sh("rank 0", "ulimit -f 1; exec dd if=/dev/zero of=\"$OUT\" bs=4096 count=8");
    worker.env.push(("OUT".into(), dir.path().join("x").into()));
    let report = run(vec![worker]);
    let message = report.message().unwrap();
    assert!(
        message.contains("signal 25 (SIGXFSZ: a file reached the limit of its size, ulimit -f)"),
        "{message}"
    );
}

#[test]
fn the_first_signal_is_passed_on_and_the_second_kills() {
    let interrupt = Interrupt::default();
    let polite = "trap 'exit 4' TERM INT; while :; do sleep 0.05; done";
    let group = spawn(options(vec![sh("rank 0", polite), sh("rank 1", polite)])).unwrap();
    let raise = interrupt.clone();
    let user = std::thread::spawn(move || {
        // Long enough for the shells to have set their traps.
        std::thread::sleep(Duration::from_millis(500));
        raise.raise(15, Instant::now());
    });
    let report = group.wait(&interrupt);
    user.join().unwrap();
    assert_eq!(report.code, EXIT_PREEMPTED, "{report:?}");

    let interrupt = Interrupt::default();
    let stubborn = "trap '' TERM INT; exec sleep 60";
    let patient =
        LaunchOptions { stop_grace: Duration::from_secs(60), ..options(vec![sh("rank 0", stubborn)]) };
    let group = spawn(patient).unwrap();
    // As above: the shell has set its trap.
    std::thread::sleep(Duration::from_millis(500));
    let now = Instant::now();
    interrupt.raise(2, now);
    interrupt.raise(2, now + ECHO);
    let start = Instant::now();
    let report = group.wait(&interrupt);
    assert_eq!(report.exits[0].end, End::Killed);
    assert_eq!(report.code, EXIT_INTERRUPTED);
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn one_that_has_to_be_killed_after_the_others_have_ended_is_the_cause() {
    let stubborn = "trap '' TERM; while :; do sleep 0.05; done";
    let report = run(vec![sh("rank 0", "sleep 0.3; exit 3"), sh("rank 1", stubborn)]);
    let message = report.message().unwrap();
    assert_eq!((report.root.unwrap().label.as_str(), report.code), ("rank 1", EXIT_ABORTED), "{message}");
    assert!(message.contains("did not end by itself"), "{message}");
}

#[test]
fn workers_know_their_launcher_and_their_environment() {
    let mut worker = sh("rank 0", "test \"$OCTRAIN_LAUNCHER_PID\" = \"$PPID\" && test \"$MINE\" = yes");
    worker.env.push(("MINE".into(), "yes".into()));
    assert_eq!(run(vec![worker]).code, EXIT_OK);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let options = LaunchOptions { program: "/no/such/octrain".into(), ..options(vec![sh("rank 0", "")]) };
    let e = spawn(options).err().unwrap().to_string();
    assert!(e.contains("rank 0") && e.contains("/no/such/octrain"), "{e}");
}

#[test]
fn a_dropped_group_leaves_no_process() {
    let group = spawn(options(vec![sh("rank 0", "exec sleep 60")])).unwrap();
    let pid = group.pids()[0];
    drop(group);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn verdicts() {
    let exit = |index: usize, end, round| WorkerExit {
        index,
        label: format!("rank {index}"),
        pid: 1,
        end,
        outlived: false,
        round,
        last_lines: vec![],
    };
    use End::{Code, Killed, Signal, Silent};
    // (ends with the round they were seen in, root, code)
    type Case<'a> = (&'a [(End, u64)], Option<usize>, u8);
    let cases: [Case; 16] = [
        (&[(Code(0), 1), (Code(0), 2)], None, 0),
        (&[(Code(1), 2), (Code(1), 1)], Some(1), 1),
        (&[(Code(3), 1), (Code(1), 2)], Some(1), 1),
        (&[(Code(1), 1), (Signal(9), 1)], Some(1), 1),
        (&[(Code(1), 1), (Signal(9), 2)], Some(0), 1),
        (&[(Code(1), 1), (Code(2), 1)], Some(1), 2),
        (&[(Code(3), 1), (Code(3), 1)], Some(0), 3),
        (&[(Code(3), 1), (Silent, 2)], Some(1), 3),
        (&[(Code(4), 1), (Code(4), 1)], Some(0), 4),
        (&[(Code(0), 1), (Code(4), 2)], Some(1), 4),
        (&[(Code(4), 1), (Code(3), 2)], Some(1), 3),
        // Before it listened, a worker dies of the signal.
        (&[(Signal(15), 1), (Code(4), 2)], Some(0), 4),
        (&[(Code(4), 1), (Signal(11), 2)], Some(1), 1),
        (&[(Code(4), 1), (Code(1), 2)], Some(1), 1),
        (&[(Code(4), 1), (Killed, 2)], Some(1), 130),
        (&[(Code(130), 1), (Code(1), 2)], Some(1), 1),
    ];
    for (ends, root, code) in cases {
        let exits = ends.iter().enumerate().map(|(i, (e, r))| exit(i, *e, *r)).collect();
        let report = verdict(exits);
        assert_eq!((report.root.map(|r| r.index), report.code), (root, code), "{ends:?}");
    }
}

/// Role this test binary plays when it is started by the test below.
const ROLE: &str = "OCTRAIN_TEST_ROLE";

/// Not a test of its own: the processes of the test below.
#[test]
#[ignore = "started by a_worker_does_not_outlive_its_launcher"]
fn launcher_and_worker() {
    match std::env::var(ROLE).as_deref() {
        Ok("launcher") => {
            let me = std::env::current_exe().unwrap();
            let worker = WorkerCommand {
                label: "rank 0".into(),
                args: ["--exact", "launcher::tests::launcher_and_worker", "--ignored", "--nocapture"]
                    .map(Into::into)
                    .into(),
                env: vec![(ROLE.into(), "worker".into())],
                passthrough: true,
            };
            let group = spawn(LaunchOptions { program: me, ..options(vec![worker]) }).unwrap();
            group.wait(&Interrupt::default());
        }
        Ok("worker") => {
            follow_launcher().unwrap();
            println!("pid {}", std::process::id());
            std::thread::sleep(Duration::from_secs(60));
        }
        _ => {}
    }
}

#[test]
fn a_worker_does_not_outlive_its_launcher() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let mut launcher = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "launcher::tests::launcher_and_worker", "--ignored", "--nocapture"])
        .env(ROLE, "launcher")
        .env_remove("OCTRAIN_LAUNCHER_PID")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(launcher.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pid = lines.find_map(|l| l.split_once("pid ").map(|(_, pid)| pid.to_string())).unwrap();
    let alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie nobody has waited for is dead as well.
        stat.rsplit(") ").next().is_some_and(|s| !s.is_empty() && !s.starts_with('Z'))
    };
    assert!(alive());
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while alive() {
        assert!(Instant::now() < deadline, "worker {pid} outlives its launcher");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_process_no_launcher_started_follows_nobody() {
    assert!(std::env::var_os("OCTRAIN_LAUNCHER_PID").is_some() || follow_launcher().is_ok());
}
