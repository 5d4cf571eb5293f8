//! Every flag of `octrain train`: who decides what it comes to, where that is obeyed, where it is shown. The table is
//! docs/flags.md, written by `OCTRAIN_UPDATE_GOLDEN=1`; a flag that is missing in it, a place that does not read it, and a
//! decision that is not the one said fail here.

use octrain::config::RunConfig;
use octrain::session::{BuildPlan, ModelFacts, WorkerFacts, job_spec, machine};
use octrain::strategy::Purpose;
use octrain_coordinator::{plan, strategy::JobFacts};
use octrain_tests::binary;
use octrain_tests::policy::repository;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::process::Command;

/// Who decides.
enum By {
    /// The coordinator's plan. With the other value the plan is another; its text has the decision under this name.
    Plan { other: &'static str, name: &'static str },
    /// The run's configuration, the same on every rank; the coordinator refuses a worker that has another.
    Run,
    /// The configuration of each host: the specification that all workers must agree on leaves it out.
    Host,
    /// Rank 0, from the configuration and what is in the folders.
    Start,
    /// The command line of this process.
    Command,
}

impl By {
    fn text(&self) -> &'static str {
        match self {
            By::Plan { .. } => "coordinator's plan",
            By::Run => "run's configuration",
            By::Host => "each host",
            By::Start => "rank 0, at the start",
            By::Command => "command line",
        }
    }
}

const fn planned(other: &'static str, name: &'static str) -> By {
    By::Plan { other, name }
}

/// A flag, who decides, the file that obeys and its words there, and the file that shows it with its words there, besides
/// the plan.
type Row = (&'static str, By, (&'static str, &'static str), Option<(&'static str, &'static str)>);

const MOD: &str = "worker/src/trainer/mod.rs";
const SETUP: &str = "worker/src/trainer/setup.rs";
const COURSE: &str = "worker/src/trainer/course.rs";
const GROUP: &str = "worker/src/trainer/group.rs";
const TASK: &str = "worker/src/trainer/task.rs";
const UPDATE: &str = "worker/src/trainer/update.rs";
const BEGIN: &str = "worker/src/trainer/begin.rs";
const RESUME: &str = "worker/src/trainer/resume.rs";
const SOURCE: &str = "worker/src/trainer/source.rs";
const JOB: &str = "worker/src/trainer/job.rs";
const QUANTIZATION: &str = "worker/src/trainer/quantization.rs";
const WANTED: &str = "worker/src/data/wanted.rs";
const AUGMENT: &str = "worker/src/data/augment.rs";
const OBSERVER: &str = "worker/core/src/quant/observer.rs";
const REPORTER: &str = "worker/src/metrics/reporter.rs";

const ROWS: &[Row] = &[
    ("config", By::Command, ("worker/src/cli/args.rs", "self.config.as_deref()"), None),
    ("show-config", By::Command, ("worker/src/cli/args.rs", "if self.show_config"), None),
    ("listen", By::Command, ("worker/src/cli/train.rs", "Own { listen: &args.listen,"), None),
    ("max-restarts", By::Command, ("worker/src/cli/train.rs", "args.restart.restarts()"), None),
    ("event-file", By::Command, ("worker/src/cli/train.rs", "events: args.events.clone()"), None),
    ("resume", By::Command, ("worker/src/cli/resume.rs", "resume.resume.clone()"), None),
    (
        "output-dir",
        By::Start,
        (BEGIN, "RunFolder::take(&config.run.output_dir"),
        Some((SETUP, "{} writes {}")),
    ),
    ("report-file", By::Run, (SETUP, "config.run.report_file.as_deref()"), None),
    ("trace-file", By::Run, (SETUP, "config.run.trace_file.as_ref()"), None),
    ("run-scope", By::Run, (JOB, "config.run.run_scope != RunScope::EvalOnly"), None),
    ("epochs", planned("2", "steps"), (COURSE, "self.progress.position.epoch < config.run.epochs"), None),
    ("save-interval", By::Run, (COURSE, "epoch.is_multiple_of(run.save_interval)"), None),
    ("save-interval-steps", By::Run, (MOD, "self.task.config.run.save_interval_steps"), None),
    ("eval-interval", By::Run, (COURSE, "epoch.is_multiple_of(run.eval_interval)"), None),
    ("print-interval", By::Run, (REPORTER, "is_multiple_of(self.print_interval)"), None),
    (
        "max-steps",
        planned("7", "steps"),
        (MOD, "self.progress.position.global_step >= c.run.max_steps"),
        None,
    ),
    ("benchmark", planned("true", "min-world"), (COURSE, "&& !run.benchmark"), None),
    ("benchmark-steps", By::Run, (MOD, "c.run.benchmark_steps"), None),
    ("benchmark-warmup-steps", By::Run, (SETUP, "self.task.config.run.benchmark_warmup_steps"), None),
    ("seed", planned("7", "determinism"), (SETUP, "plan.determinism.map_or(0, |d| d.seed)"), None),
    ("deterministic", planned("true", "determinism"), (SETUP, "native::deterministic(true)"), None),
    ("checks", By::Run, (MOD, "!self.task.config.run.checks"), None),
    ("model-arch-name", By::Run, (JOB, "models::build(&config.model.model_arch_name"), None),
    ("num-of-class", By::Run, (WANTED, "model.num_of_class.map_or"), Some((JOB, "found(&self)"))),
    ("image-shape", By::Run, (JOB, "config.model.image_shape, classes"), None),
    ("zero-gamma", By::Run, (SETUP, "config.model.zero_gamma"), None),
    ("image-root", By::Run, (WANTED, "root: &data.image_root"), Some((JOB, "found(&self)"))),
    ("val-fraction", By::Run, (WANTED, "val_fraction: data.val_fraction"), Some((JOB, "found(&self)"))),
    ("batch-size", planned("16", "microbatch-size"), (GROUP, "batch: plan.microbatch_size as usize"), None),
    (
        "global-batch-size",
        planned("2048", "global-batch"),
        (GROUP, "microbatches: plan.microbatches as usize"),
        None,
    ),
    ("crop-size", By::Run, (AUGMENT, "crop: data.crop_size"), None),
    ("resize-short", By::Run, (AUGMENT, "resize_short: data.resize_short"), None),
    ("augmentation", By::Run, (AUGMENT, "match data.augmentation"), None),
    ("crop-padding", By::Run, (AUGMENT, "data.crop_padding.unwrap_or"), None),
    ("rand-crop-scale", By::Run, (AUGMENT, "scale: data.rand_crop_scale"), None),
    ("rand-crop-ratio", By::Run, (AUGMENT, "ratio: data.rand_crop_ratio"), None),
    ("normalize-scale", By::Run, (AUGMENT, "factor: data.normalize_scale"), None),
    ("normalize-mean", By::Run, (AUGMENT, "mean: data.normalize_mean"), None),
    ("normalize-std", By::Run, (AUGMENT, "std: data.normalize_std"), None),
    ("data-threads", By::Host, (TASK, "data.data_threads > 0"), None),
    ("max-corrupt-images", By::Run, (TASK, "max_corrupt: data.max_corrupt_images"), None),
    ("allow-missing-classes", By::Run, (WANTED, "allow_missing_classes: data.allow_missing_classes"), None),
    (
        "synthetic-images",
        By::Run,
        (WANTED, "synthetic_images: data.synthetic_images"),
        Some((JOB, "found(&self)")),
    ),
    ("optimizer", By::Run, (UPDATE, "match settings.optimizer"), None),
    ("momentum", By::Run, (UPDATE, "OptimizerSettings { momentum, nesterov, .. } = *settings"), None),
    ("nesterov", By::Run, (UPDATE, "OptimizerSettings { momentum, nesterov, .. } = *settings"), None),
    ("adam-beta1", By::Run, (UPDATE, "beta1: settings.adam_beta1"), None),
    ("adam-beta2", By::Run, (UPDATE, "beta2: settings.adam_beta2"), None),
    ("adam-epsilon", By::Run, (UPDATE, "epsilon: settings.adam_epsilon"), None),
    ("weight-decay", By::Run, (UPDATE, "settings.weight_decay"), None),
    ("bn-weight-decay", By::Run, (UPDATE, "settings.bn_weight_decay"), None),
    ("norm-weight-decay", By::Run, (UPDATE, "settings.norm_weight_decay"), None),
    ("bias-weight-decay", By::Run, (UPDATE, "settings.bias_weight_decay"), None),
    ("transformer-embedding-decay", By::Run, (UPDATE, "settings.transformer_embedding_decay"), None),
    (
        "clip-grad-norm",
        By::Run,
        (SETUP, "clip_norm(config.optimizer.clip_grad_norm)"),
        Some((REPORTER, "train.grad_norm")),
    ),
    ("model-ema", planned("false", "model-ema"), (SETUP, "plan.averaging"), None),
    ("model-ema-decay", planned("0.5", "model-ema"), (SETUP, "decay: a.decay"), None),
    ("model-ema-steps", planned("7", "model-ema"), (SETUP, "every: a.every"), None),
    ("label-smoothing", By::Run, (SETUP, "label_smoothing: config.optimizer.label_smoothing"), None),
    ("lr-scheduler", By::Run, (UPDATE, "kind: settings.lr_scheduler"), Some((REPORTER, "train.lr"))),
    ("lr", By::Run, (UPDATE, "lr: settings.lr"), Some((REPORTER, "train.lr"))),
    ("warmup-epochs", By::Run, (UPDATE, "match settings.warmup_epochs"), Some((REPORTER, "train.lr"))),
    (
        "warmup-start-lr",
        By::Run,
        (UPDATE, "warmup_start_lr: settings.warmup_start_lr"),
        Some((REPORTER, "train.lr")),
    ),
    ("amp", planned("\"bf16\"", "precision"), (SETUP, "amp: plan.amp()"), None),
    ("scale-loss", planned("128.0", "loss-scale"), (SETUP, "scaling.scale"), None),
    ("use-dynamic-loss-scaling", planned("true", "loss-scale"), (SETUP, "match scaling.mode()"), None),
    ("data-layout", planned("\"NCHW\"", "data-layout"), (SETUP, "layout: plan.layout()"), None),
    ("qat", planned("false", "qat"), (SETUP, "plan.qat.as_ref()"), None),
    (
        "target",
        planned("\"tensorrt\"", "quant-target"),
        ("worker/core/src/passes/quantize_activations.rs", "placement::edges(&graph, qat.target"),
        None,
    ),
    (
        "qat-calibration-images",
        planned("64", "calibration-images"),
        ("worker/src/optim/statistics.rs", "qat.calibration_images"),
        None,
    ),
    (
        "qat-freeze-observers",
        planned("0.5", "observers-freeze-step"),
        ("worker/core/src/strategy/qat.rs", "before(self.freeze_observers)"),
        None,
    ),
    (
        "qat-freeze-bn",
        planned("0.5", "bn-freeze-step"),
        ("worker/core/src/strategy/qat.rs", "before(self.freeze_bn)"),
        None,
    ),
    ("qat-observer-momentum", planned("0.5", "observer-momentum"), (OBSERVER, "self.momentum"), None),
    (
        "qat-pass-through",
        planned("true", "clipped-gradients"),
        ("worker/src/optim/program.rs", "q.unclipped_straight_through"),
        None,
    ),
    (
        "qat-skip",
        planned("[\"fc\"]", "quant-target"),
        ("worker/core/src/passes/quantize_weights.rs", "placement::skipped(&graph, &qat.skip)"),
        None,
    ),
    ("qat-observer", planned("\"mse\"", "quant-activations"), (OBSERVER, "Observer::Mse =>"), None),
    ("qat-percentile", planned("99.0", "quant-activations"), (OBSERVER, "percentile(self.percentile)"), None),
    (
        "qat-weight-bits",
        planned("7", "quant-weights"),
        ("worker/core/src/passes/quantize_weights.rs", "Scheme::weight(qat.weight_bits)"),
        None,
    ),
    (
        "qat-reduce-range",
        planned("true", "quant-unsigned-codes"),
        ("worker/core/src/strategy/qat.rs", "self.reduce_range ||"),
        None,
    ),
    (
        "qat-learn-scales",
        planned("true", "quant-activations"),
        ("worker/src/optim/program.rs", "q.learn_scales"),
        None,
    ),
    ("qat-int8-forward", planned("true", "int8-forward"), (SETUP, "plan.int8_forward"), None),
    (
        "qat-bn-images",
        planned("64", "bn-images"),
        ("worker/core/src/strategy/qat.rs", "self.bn_images"),
        None,
    ),
    ("qat-distill", planned("false", "distillation"), (QUANTIZATION, "q.distillation.is_some()"), None),
    ("qat-teacher", By::Run, (QUANTIZATION, "qat.qat_teacher.as_ref()"), None),
    (
        "qat-distill-weight",
        planned("0.75", "distillation"),
        ("worker/src/optim/distill.rs", "d.weight"),
        None,
    ),
    (
        "qat-distill-temperature",
        planned("2.0", "distillation"),
        ("worker/src/optim/distill.rs", "d.temperature"),
        None,
    ),
    (
        "from-checkpoint",
        By::Start,
        (SOURCE, "match (&config.checkpoints.from_checkpoint, choice)"),
        Some((RESUME, "resumed from {}")),
    ),
    (
        "last-epoch-of-checkpoint",
        By::Start,
        (SOURCE, "config.checkpoints.last_epoch_of_checkpoint"),
        Some((RESUME, "resumed from {}")),
    ),
    (
        "from-pretrained-params",
        By::Run,
        (RESUME, "&config.checkpoints.from_pretrained_params"),
        Some((RESUME, "weights from {}")),
    ),
    (
        "allow-mismatch",
        By::Run,
        (RESUME, "config.checkpoints.allow_mismatch"),
        Some((RESUME, "initialised or left out: {m}")),
    ),
    (
        "overwrite",
        By::Start,
        (BEGIN, "f.admit(goes_on, config.checkpoints.overwrite)"),
        Some((SETUP, "it overwrites {}")),
    ),
    ("device", planned("\"cuda\"", "device"), (GROUP, "p.cuda_device"), None),
    ("nproc", By::Host, ("worker/src/cli/local.rs", "config.machine.nproc as u32"), None),
    ("min-world", By::Host, ("worker/src/cli/local.rs", "config.machine.min_world.filter"), None),
    ("test-backend", planned("\"nccl\"", "backend"), (GROUP, "match plan.backend()"), None),
    ("threads", planned("3", "threads"), (SETUP, "tch::set_num_threads(plan.threads"), None),
    ("bucket-mib", planned("3.0", "bucket-bytes"), (GROUP, "plan.bucket_bytes as usize"), None),
    ("reduce-dtype", planned("\"bf16\"", "reduce-dtype"), (GROUP, "plan.reduce_type()"), None),
];

/// A file without its tests and comments, with single blanks.
fn source(file: &str) -> String {
    let text = fs::read_to_string(repository().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|l| !l.trim_start().starts_with("//"));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ")
}

/// Whether a text has these words, however they are broken over lines.
fn has(text: &str, words: &str) -> bool {
    let squeezed = |text: &str| text.replace(' ', "");
    squeezed(text).contains(&squeezed(words))
}

fn table(settings: impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(settings).unwrap() {
        Value::Object(table) => table,
        other => panic!("a table: {other}"),
    }
}

/// The group of every setting.
fn groups() -> BTreeMap<String, &'static str> {
    let c = RunConfig::default();
    let all = [
        ("run", table(c.run)),
        ("model", table(c.model)),
        ("data", table(c.data)),
        ("optimizer", table(c.optimizer)),
        ("precision", table(c.precision)),
        ("quantization", table(c.quantization)),
        ("checkpoints", table(c.checkpoints)),
        ("machine", table(c.machine)),
    ];
    all.into_iter().flat_map(|(group, keys)| keys.into_iter().map(move |(key, _)| (key, group))).collect()
}

/// What the coordinator decides for two workers, of which one is enough, with this configuration, without the configuration's own hash; none where
/// it refuses.
fn decided(config: &Map<String, Value>) -> Option<BuildPlan> {
    let model = ModelFacts { name: "ResNet20".into(), parameters: 272_474, layers: 22, batch_norms: 21 };
    let job = job_spec(&Value::Object(config.clone()), Purpose::Train, model, 50_000);
    let worker = |local_index| WorkerFacts {
        host: "a".into(),
        local_index,
        local_world: 2,
        pid: 1,
        capabilities: Some(machine::capabilities(vec![])),
    };
    let plan =
        plan::build("job", &JobFacts { job, workers: vec![worker(0), worker(1)], min_world: 1 }).ok()?.plan;
    Some(BuildPlan { config_sha256: String::new(), sha256: Vec::new(), ..plan })
}

/// Flags that `octrain train --help` shows.
fn shown() -> BTreeSet<String> {
    let output = Command::new(binary("octrain")).args(["train", "--help"]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let flags = text.lines().filter_map(|l| l.trim_start().strip_prefix("--")).map(|l| {
        let name = l.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap_or_default();
        name.to_string()
    });
    flags.collect()
}

#[test]
fn every_flag_is_listed_and_every_setting_is_a_flag() {
    let listed: BTreeSet<String> = ROWS.iter().map(|row| row.0.into()).collect();
    assert_eq!(listed.len(), ROWS.len(), "a flag is listed twice");
    let settings: BTreeSet<String> = groups().into_keys().collect();
    let own: BTreeSet<String> =
        ROWS.iter().filter(|row| matches!(row.1, By::Command)).map(|row| row.0.into()).collect();
    assert_eq!(listed, settings.union(&own).cloned().collect(), "say who decides each, or remove it");
    let (help, hidden) = (shown(), ["checks", "test-backend"].map(String::from));
    let expected: BTreeSet<String> = listed.into_iter().filter(|flag| !hidden.contains(flag)).collect();
    assert_eq!(help.difference(&expected).collect::<Vec<_>>(), Vec::<&String>::new(), "not listed");
    assert_eq!(expected.difference(&help).collect::<Vec<_>>(), Vec::<&String>::new(), "not in the help");
}

#[test]
fn every_flag_is_obeyed_and_shown_where_it_is_said_to_be() {
    for (flag, _, (file, words), said) in ROWS {
        assert!(has(&source(file), words), "--{flag}: {file} has no `{words}`");
        if let Some((file, words)) = said {
            assert!(has(&source(file), words), "--{flag}: {file} has no `{words}`");
        }
    }
}

#[test]
fn what_hosts_decide_is_left_out_of_what_all_agree_on() {
    let (job, groups) = (source(JOB), groups());
    for (flag, by, ..) in ROWS.iter().filter(|row| !matches!(row.1, By::Command)) {
        // The number of classes is that of the data by then.
        let replaced = has(&job, &format!("c.{}.{} =", groups[*flag], flag.replace('-', "_")));
        let own = matches!(by, By::Host) || *flag == "num-of-class";
        assert_eq!(replaced, own, "--{flag} is decided by: {}", by.text());
    }
}

#[test]
fn the_coordinator_decides_what_it_is_said_to_decide_and_nothing_else() {
    let mut base = table(RunConfig::default());
    base.extend(
        [("qat", true), ("qat-distill", true), ("model-ema", true)]
            .map(|(key, on)| (key.to_string(), on.into())),
    );
    let before = decided(&base).expect("a plan");
    for (flag, by, ..) in ROWS.iter().filter(|row| !matches!(row.1, By::Command)) {
        let mut changed = base.clone();
        let value = match by {
            By::Plan { other, name } => {
                assert!(before.settings.iter().any(|s| s.name == *name), "--{flag}: no `{name}` in the plan");
                serde_json::from_str(other).unwrap()
            }
            _ => Value::from("another"),
        };
        assert_ne!(changed.insert((*flag).into(), value.clone()), Some(value), "--{flag} is that already");
        let same = decided(&changed).as_ref() == Some(&before);
        assert_eq!(same, !matches!(by, By::Plan { .. }), "--{flag} is decided by: {}", by.text());
    }
}

#[test]
fn the_table_of_flags_is_true() {
    let groups = groups();
    let mut text = String::from(
        "# Flags of `octrain train`\n\nWhere each is decided, obeyed and shown. Written by `tests/tests/flags.rs`, which \
         checks every line; `OCTRAIN_UPDATE_GOLDEN=1 scripts/test.sh the_table_of_flags_is_true` writes it anew. Every \
         setting also stands in the configuration that is printed at the start, in each checkpoint's manifest, and, but \
         for `checks` and `test-backend`, in `--help`; what the plan says is printed by `octrain plan`.\n\n\
         | flag | group | decided by | obeyed in | shown |\n| --- | --- | --- | --- | --- |\n",
    );
    for (flag, by, (file, _), said) in ROWS {
        let group = groups.get(*flag).copied().unwrap_or("command");
        let shown = match (by, said) {
            (By::Plan { name, .. }, _) => format!("plan: `{name}`"),
            (_, Some((file, words))) => format!("`{file}`: `{words}`"),
            (_, None) => String::new(),
        };
        writeln!(text, "| `--{flag}` | {group} | {} | `{file}` | {shown} |", by.text()).unwrap();
    }
    let path = repository().join("docs/flags.md");
    if std::env::var_os("OCTRAIN_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "docs/flags.md has drifted: set OCTRAIN_UPDATE_GOLDEN=1 and read the difference");
}
