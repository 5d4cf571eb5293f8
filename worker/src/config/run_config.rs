//! The resolved configuration of one run: every setting by the name of its flag.

#[cfg(feature = "cli")]
use super::list::parse_list;
use super::{Augmentation, LrScheduler, RunScope};
use octrain_core::strategy::{
    Amp, DeviceChoice, Layout, Observer, Strategy, StrategySettings, Target, TestBackend,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Classes of a network where no data tells how many: those of ImageNet.
pub const UNTOLD_CLASSES: usize = 1000;

/// Everything that decides a run. One flat table; a TOML file has the same keys, flags win over the file.
///
/// Units: sizes in pixels, times in epochs or steps as named, `weight-decay` as an L2 factor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RunConfig {
    // ---- run
    /// Where checkpoints go: `OUTPUT_DIR/<epoch>/`.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value = "output", visible_alias = "checkpoint-dir")
    )]
    pub output_dir: PathBuf,
    /// JSON lines of metrics; none when absent.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Run"))]
    pub report_file: Option<PathBuf>,
    /// What is done.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Run", value_enum, default_value_t))]
    pub run_scope: RunScope,
    /// Epochs in all.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 90, allow_negative_numbers = true)
    )]
    pub epochs: u32,
    /// Checkpoint every so many epochs.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 1, allow_negative_numbers = true)
    )]
    pub save_interval: u32,
    /// Checkpoint also every so many steps (0: only at epochs).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 0, allow_negative_numbers = true)
    )]
    pub save_interval_steps: u64,
    /// Evaluate every so many epochs.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 1, allow_negative_numbers = true)
    )]
    pub eval_interval: u32,
    /// Log every so many steps.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 10, allow_negative_numbers = true)
    )]
    pub print_interval: u64,
    /// Stop after so many optimizer steps in all (0: no limit).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 0, allow_negative_numbers = true)
    )]
    pub max_steps: u64,
    /// Time steps only: no evaluation, no checkpoint.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Run", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub benchmark: bool,
    /// Steps timed by `benchmark`.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 100, allow_negative_numbers = true)
    )]
    pub benchmark_steps: u64,
    /// Steps before timing starts.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 100, allow_negative_numbers = true)
    )]
    pub benchmark_warmup_steps: u64,
    /// Seed of initialisation, order and augmentation.
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            help_heading = "Run",
            default_value_t = 42,
            visible_alias = "dali-random-seed",
            allow_negative_numbers = true
        )
    )]
    pub seed: u64,
    /// Use deterministic kernels only; an operation that has none is an error.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Run", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub deterministic: bool,
    /// Run every check while training: equal ranks after each step, the first layer with NaN or infinity (set by
    /// `octrain debug`).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Run", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set, hide = true))]
    pub checks: bool,

    // ---- model
    /// Name of the network, e.g. `ResNet50`.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Model", default_value = "ResNet50"))]
    pub model_arch_name: String,
    /// Number of classes (none: that of the data; 1000 where no data tells it). One that the data does not have is an
    /// error.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Model", allow_negative_numbers = true))]
    pub num_of_class: Option<usize>,
    /// Channels, height, width of an input image; a fourth channel is empty, for hardware that wants it.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Model", value_parser = parse_list::<usize, 3>, default_value = "3,224,224", value_name = "LIST"))]
    pub image_shape: [usize; 3],
    /// Start the last BatchNorm of every residual branch at gamma = 0.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Model", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub zero_gamma: bool,

    // ---- data
    /// `digits`, `synthetic`, or a folder with `train/<class>/` and `val/<class>/`.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", default_value = "digits"))]
    pub image_root: String,
    /// Part of the images of every class that is for validation, where `image-root` is one folder of classes (or holds
    /// `train/` and no `val/`); by a hash of each file's name, so that it stays when images are added (0: `val/` is).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Data", default_value_t = 0.0, allow_hyphen_values = true)
    )]
    pub val_fraction: f64,
    /// Images per microbatch.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Data", default_value_t = 256, allow_negative_numbers = true)
    )]
    pub batch_size: usize,
    /// Images per optimizer step over all workers (none: `batch-size` times the number of workers).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", allow_negative_numbers = true))]
    pub global_batch_size: Option<usize>,
    /// Side of the training and evaluation crop.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Data", default_value_t = 224, allow_negative_numbers = true)
    )]
    pub crop_size: usize,
    /// Short side before the centre crop in evaluation.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Data", default_value_t = 256, allow_negative_numbers = true)
    )]
    pub resize_short: usize,
    /// Training augmentation.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_enum, default_value_t))]
    pub augmentation: Augmentation,
    /// Border of `pad-crop` in pixels (none: 4; 2 for `pad-crop-no-flip`). Short trainings want less.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", allow_negative_numbers = true))]
    pub crop_padding: Option<usize>,
    /// Smallest and largest area of the random-resized-crop.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_parser = parse_list::<f32, 2>, default_value = "0.08,1", value_name = "LIST", allow_hyphen_values = true))]
    pub rand_crop_scale: [f32; 2],
    /// Smallest and largest aspect ratio of the random-resized-crop.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_parser = parse_list::<f32, 2>, default_value = "0.75,1.3333333333333333", value_name = "LIST", allow_hyphen_values = true))]
    pub rand_crop_ratio: [f32; 2],
    /// Factor on pixels before mean and deviation.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", default_value_t = 1.0 / 255.0, allow_hyphen_values = true))]
    pub normalize_scale: f32,
    /// Mean per channel, after scaling.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_parser = parse_list::<f32, 3>, default_value = "0.485,0.456,0.406", value_name = "LIST", allow_hyphen_values = true))]
    pub normalize_mean: [f32; 3],
    /// Standard deviation per channel, after scaling.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_parser = parse_list::<f32, 3>, default_value = "0.229,0.224,0.225", value_name = "LIST", allow_hyphen_values = true))]
    pub normalize_std: [f32; 3],
    /// Decode threads per worker (0: chosen from the cores).
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            help_heading = "Data",
            default_value_t = 0,
            visible_alias = "dali-num-threads",
            allow_negative_numbers = true
        )
    )]
    pub data_threads: usize,
    /// Corrupt images tolerated (none: 0.1 % of the set, at least 1).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", allow_negative_numbers = true))]
    pub max_corrupt_images: Option<usize>,
    /// Allow classes that have images in one of `train/` and `val/` only.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub allow_missing_classes: bool,
    /// Images of the `synthetic` source.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Data", default_value_t = 1024, allow_negative_numbers = true)
    )]
    pub synthetic_images: usize,

    // ---- optimizer
    /// Momentum of SGD.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 0.875, allow_hyphen_values = true)
    )]
    pub momentum: f64,
    /// Nesterov's form.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Optimizer", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub nesterov: bool,
    /// L2 factor.
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            help_heading = "Optimizer",
            default_value_t = 3.0517578125e-05,
            allow_hyphen_values = true
        )
    )]
    pub weight_decay: f64,
    /// Decay BatchNorm's parameters and biases too.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Optimizer", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub bn_weight_decay: bool,
    /// Label smoothing.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 0.1, allow_hyphen_values = true)
    )]
    pub label_smoothing: f64,
    /// Schedule.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", value_enum, default_value_t, ignore_case = true)
    )]
    pub lr_scheduler: LrScheduler,
    /// Peak learning rate.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 0.256, allow_hyphen_values = true)
    )]
    pub lr: f64,
    /// Linear warm-up, in epochs, fractions allowed (none: 5, but at most a tenth of the run).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Optimizer", allow_hyphen_values = true))]
    pub warmup_epochs: Option<f64>,
    /// Learning rate at the start of warm-up.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 0.0, allow_hyphen_values = true)
    )]
    pub warmup_start_lr: f64,

    // ---- precision
    /// Mixed precision.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Precision", value_enum, default_value_t, num_args = 0..=1, default_missing_value = "fp16"))]
    pub amp: Amp,
    /// Loss scale (start of the dynamic one).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Precision", default_value_t = 1.0, allow_hyphen_values = true)
    )]
    pub scale_loss: f64,
    /// Adjust the loss scale.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Precision", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub use_dynamic_loss_scaling: bool,
    /// Memory order.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Precision", value_enum, default_value_t, ignore_case = true)
    )]
    pub data_layout: Layout,

    // ---- quantization
    /// Quantization-aware training.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub qat: bool,
    /// Runtime whose placement rules are trained.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_enum, default_value_t))]
    pub target: Target,
    /// Images for calibration before the first QAT step.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Quantization", default_value_t = 512, allow_negative_numbers = true)
    )]
    pub qat_calibration_images: usize,
    /// Part of the steps after which observers freeze (1: never).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Quantization", default_value_t = 0.8, allow_hyphen_values = true)
    )]
    pub qat_freeze_observers: f64,
    /// Part of the steps after which BatchNorm statistics freeze (1: never).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Quantization", default_value_t = 0.9, allow_hyphen_values = true)
    )]
    pub qat_freeze_bn: f64,
    /// Moving-average momentum of activation ranges: `range = m * range + (1 - m) * new`.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Quantization", default_value_t = 0.9, allow_hyphen_values = true)
    )]
    pub qat_observer_momentum: f64,
    /// Let gradients through where values were clipped.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub qat_pass_through: bool,
    /// Nodes left in floating point (names, `*` as wildcard).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Quantization", value_delimiter = ',', value_name = "PATTERNS")
    )]
    pub qat_skip: Vec<String>,
    /// How activation ranges are found and kept.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_enum, default_value_t))]
    pub qat_observer: Observer,
    /// Percent of the absolute values within the range, for `--qat-observer percentile`.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Quantization", default_value_t = 99.99, allow_hyphen_values = true)
    )]
    pub qat_percentile: f64,
    /// Bits of weight codes: 8, or 7 for CPUs without VNNI, whose 16-bit sums saturate otherwise.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Quantization", default_value_t = 8, allow_negative_numbers = true)
    )]
    pub qat_weight_bits: u32,
    /// Learn activation ranges by gradient (LSQ), from where calibration puts them; observers then rest.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub qat_learn_scales: bool,
    /// Training images from which BatchNorm's statistics are estimated anew, under quantization, when they freeze
    /// (0: they stay as trained).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Quantization", default_value_t = 0, allow_negative_numbers = true)
    )]
    pub qat_bn_images: usize,
    /// Train towards the logits of the floating-point network it starts from, besides the labels.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub qat_distill: bool,
    /// The floating-point network to learn from (none: `from-pretrained-params`).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization"))]
    pub qat_teacher: Option<PathBuf>,
    /// Part of the loss that follows the teacher, from 0 to 1.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Quantization", default_value_t = 0.5, allow_hyphen_values = true)
    )]
    pub qat_distill_weight: f64,
    /// Temperature of teacher and student.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Quantization", default_value_t = 4.0, allow_hyphen_values = true)
    )]
    pub qat_distill_temperature: f64,

    // ---- checkpoints
    /// Checkpoint folder to resume from (weights, optimizer, position).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Checkpoints"))]
    pub from_checkpoint: Option<PathBuf>,
    /// Which checkpoint of `from-checkpoint` or `output-dir`: `auto` (the furthest; where `output-dir` holds none yet, the
    /// run starts anew), `best` (that of the highest top-1), a number of epochs, or `none` (its weights and momentum, from the first epoch).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Checkpoints"))]
    pub last_epoch_of_checkpoint: Option<String>,
    /// Checkpoint folder or weights file to start from (weights only).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Checkpoints"))]
    pub from_pretrained_params: Option<PathBuf>,
    /// Parameters allowed to be missing, left over or of another shape when loading pretrained weights.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Checkpoints", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub allow_mismatch: bool,

    /// Start anew in an output folder that holds checkpoints of another run: they are removed once the first new one is
    /// complete.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Checkpoints", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub overwrite: bool,

    // ---- machine
    /// Device.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Machine", value_enum, default_value_t))]
    pub device: DeviceChoice,
    /// Workers on this host.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Machine", default_value_t = 1, allow_negative_numbers = true)
    )]
    pub nproc: usize,
    /// Collectives for tests.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Machine", value_enum, default_value_t, hide = true)
    )]
    pub test_backend: TestBackend,
    /// Compute threads per worker (0: cores / workers).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Machine", default_value_t = 0, allow_negative_numbers = true)
    )]
    pub threads: usize,
    /// Gradient bucket size in MiB.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Machine", default_value_t = 25.0, allow_hyphen_values = true)
    )]
    pub bucket_mib: f64,
}

impl RunConfig {
    /// What is trained: the strategy that these settings make.
    pub fn strategy(&self) -> Strategy {
        let settings: StrategySettings = serde_json::to_value(self)
            .and_then(serde_json::from_value)
            .expect("the settings of a strategy are all among a run's");
        Strategy::from(&settings)
    }
}
