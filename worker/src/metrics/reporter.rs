//! Rank 0 speaks for the run: a progress bar on a terminal, plain lines elsewhere, JSON lines in the report file.

use super::screen::Screen;
use super::{ClassMetrics, ReportError, ReportFile, median, say, worst_classes};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::Path;

/// One optimizer step, over all ranks but for the times, which are this rank's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepMetrics {
    /// Epoch, from 0.
    pub epoch: u32,
    /// Steps done in the epoch.
    pub step: u64,
    /// Steps done in all.
    pub global_step: u64,
    /// Mean loss over the global batch.
    pub loss: f64,
    /// Percent of the global batch predicted right.
    pub top1: f64,
    /// Learning rate.
    pub lr: f64,
    /// Euclidean norm of the gradient.
    pub grad_norm: f64,
    /// Loss scale.
    pub loss_scale: f64,
    /// The update was skipped (gradients overflowed FP16).
    pub skipped: bool,
    /// Images of the step, over all ranks.
    pub images: u64,
    /// Seconds waiting for data.
    pub data_time: f64,
    /// Seconds in forward and loss.
    pub forward_time: f64,
    /// Seconds in backward.
    pub backward_time: f64,
    /// Seconds in reduction that nothing else hides, waiting for other ranks included.
    pub reduce_time: f64,
    /// Seconds in what follows the reduction: norm, update rule, statistics.
    pub update_time: f64,
    /// Seconds in all.
    pub step_time: f64,
}

impl StepMetrics {
    /// Seconds in forward and backward.
    pub fn compute_time(&self) -> f64 {
        self.forward_time + self.backward_time
    }
}

/// An evaluation over all ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalMetrics {
    /// Percent.
    pub top1: f64,
    /// Percent.
    pub top5: f64,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Images counted.
    pub images: u64,
    /// Corrupt images left out.
    pub corrupt: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// A generation of workers that took the place of another one, on this rank's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Regrouped {
    /// Its number.
    pub generation: u64,
    /// Workers in it.
    pub world: u32,
    /// Why the one before is over.
    pub why: String,
    /// Those that came for it to the running job, as people are told.
    pub joined: Vec<String>,
    /// Steps done in all.
    pub step: u64,
    /// Tensors were sent, as ranks stood at different steps.
    pub sent: bool,
    /// From leaving the old one until all had come, until all were connected, and until all had the same state.
    pub seconds: [f64; 3],
}

/// Tells what happens; silent on ranks other than 0.
pub struct Reporter {
    speaks: bool,
    file: Option<ReportFile>,
    bar: Option<ProgressBar>,
    terminal: bool,
    print_interval: u64,
    steps_per_epoch: u64,
    epoch: Vec<StepMetrics>,
}

impl Reporter {
    /// For one rank; `report` is written by rank 0 only, `resume` appends to it.
    pub fn new(
        rank: u32,
        report: Option<&Path>,
        resume: bool,
        print_interval: u64,
    ) -> Result<Self, ReportError> {
        let speaks = rank == 0;
        let file = report.filter(|_| speaks).map(|p| ReportFile::open(p, resume)).transpose()?;
        let terminal = speaks && std::io::stderr().is_terminal();
        Ok(Self { speaks, file, bar: None, terminal, print_interval, steps_per_epoch: 0, epoch: Vec::new() })
    }

    /// For a rank that tells nothing.
    pub fn silent(print_interval: u64) -> Self {
        Self {
            speaks: false,
            file: None,
            bar: None,
            terminal: false,
            print_interval,
            steps_per_epoch: 0,
            epoch: Vec::new(),
        }
    }

    fn line(&mut self, text: &str) {
        if !self.speaks {
            return;
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| say!("{text}")),
            None => say!("{text}"),
        }
    }

    /// Training is worth more than its report: what cannot be written is said once, and goes on without it.
    fn json(&mut self, value: &Value) {
        if let Some(file) = &mut self.file
            && let Err(e) = file.write(value)
        {
            tracing::error!("{e}; the run goes on without it");
            self.file = None;
        }
    }

    /// Whether this rank speaks.
    pub fn speaks(&self) -> bool {
        self.speaks
    }

    /// Training goes on in another generation.
    pub fn regrouped(&mut self, r: &Regrouped) {
        let [formed, connected, shared] = r.seconds;
        let state = if r.sent { ", state taken from the one that was furthest" } else { "" };
        let joined = match r.joined.is_empty() {
            true => String::new(),
            false => format!("; {} joined", r.joined.join(", ")),
        };
        self.line(&format!(
            "generation {}: {} workers go on after step {} (formed in {formed:.2} s, connected in {connected:.2} s, agreed in {shared:.2} s{state}){joined}; {}",
            r.generation, r.world, r.step, r.why
        ));
        self.json(&json!({
            "kind": "regroup", "generation": r.generation, "world_size": r.world, "global_step": r.step,
            "why": r.why, "joined": r.joined, "sent": r.sent, "form_s": formed, "connect_s": connected, "agree_s": shared,
        }));
    }

    /// A line for people.
    pub fn say(&mut self, text: &str) {
        self.line(text);
    }

    /// An epoch begins (or goes on) at step `done`.
    pub fn epoch_start(&mut self, epoch: u32, steps: u64, done: u64) {
        // In another generation it goes on with what was done of it; a step that is done again counts once.
        self.epoch.retain(|m| m.epoch == epoch && m.step <= done);
        self.steps_per_epoch = steps;
        if self.terminal {
            let bar = ProgressBar::with_draw_target(
                Some(steps),
                ProgressDrawTarget::term_like_with_hz(Box::new(Screen::default()), 5),
            );
            let style = ProgressStyle::with_template("{prefix} [{bar:32}] {pos}/{len} {msg} eta {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(format!("epoch {epoch}"));
            bar.set_position(done);
            self.bar = Some(bar);
        }
    }

    /// A step is done.
    pub fn step(&mut self, m: &StepMetrics) {
        if !self.speaks {
            return;
        }
        self.epoch.push(*m);
        let ips = m.images as f64 / m.step_time;
        let skipped = if m.skipped { ", skipped: gradients overflowed" } else { "" };
        if let Some(bar) = &self.bar {
            bar.set_position(m.step);
            bar.set_message(format!(
                "loss {:.4} top1 {:.2} lr {:.2e} {ips:.0} images/s{skipped}",
                m.loss, m.top1, m.lr
            ));
        }
        let last = m.step == self.steps_per_epoch;
        if !last && !m.step.is_multiple_of(self.print_interval) && !m.skipped {
            return;
        }
        if self.bar.is_none() {
            say!(
                "epoch {} step {}/{} train.loss {:.4} train.top1 {:.2} train.lr {:.3e} train.ips {ips:.1} data {:.3} s compute {:.3} s reduce {:.3} s{skipped}",
                m.epoch,
                m.step,
                self.steps_per_epoch,
                m.loss,
                m.top1,
                m.lr,
                m.data_time,
                m.compute_time(),
                m.reduce_time
            );
        }
        self.json(&json!({
            "kind": "step", "epoch": m.epoch, "step": m.step, "global_step": m.global_step,
            "train.loss": m.loss, "train.top1": m.top1, "train.lr": m.lr, "train.ips": ips,
            "train.data_time": m.data_time, "train.compute_time": m.compute_time(),
            "train.forward_time": m.forward_time, "train.backward_time": m.backward_time,
            "train.reduce_time": m.reduce_time, "train.update_time": m.update_time,
            "train.batch_time": m.step_time,
            "train.grad_norm": m.grad_norm, "train.loss_scale": m.loss_scale, "train.skipped": m.skipped,
        }));
    }

    /// An epoch is done: averages over the steps this process has run of it.
    pub fn epoch_end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let Some(last) = self.epoch.last().copied() else { return };
        let mean =
            |f: fn(&StepMetrics) -> f64| self.epoch.iter().map(f).sum::<f64>() / self.epoch.len() as f64;
        let times: Vec<f64> = self.epoch.iter().map(|m| m.step_time).collect();
        let (loss, top1, ips) = (mean(|m| m.loss), mean(|m| m.top1), last.images as f64 / median(&times));
        let line = json!({
            "kind": "epoch", "epoch": last.epoch, "global_step": last.global_step,
            "train.loss": loss, "train.top1": top1, "train.ips": ips,
            "train.data_time": mean(|m| m.data_time), "train.compute_time": mean(StepMetrics::compute_time),
            "train.forward_time": mean(|m| m.forward_time), "train.backward_time": mean(|m| m.backward_time),
            "train.reduce_time": mean(|m| m.reduce_time), "train.update_time": mean(|m| m.update_time),
            "train.batch_time": mean(|m| m.step_time),
        });
        self.line(&format!(
            "epoch {} train.loss {loss:.4} train.top1 {top1:.2} train.ips {ips:.1} (median step)",
            last.epoch
        ));
        self.json(&line);
    }

    /// An evaluation after `epoch` epochs.
    pub fn eval(&mut self, epoch: u32, m: &EvalMetrics) {
        let ips = m.images as f64 / m.seconds;
        let corrupt =
            if m.corrupt > 0 { format!(", {} corrupt images left out", m.corrupt) } else { String::new() };
        self.line(&format!(
            "epoch {epoch} val.top1 {:.2} val.top5 {:.2} val.loss {:.4} ({} images, {ips:.0} images/s{corrupt})",
            m.top1, m.top5, m.loss, m.images
        ));
        self.json(&json!({
            "kind": "eval", "epoch": epoch, "val.top1": m.top1, "val.top5": m.top5, "val.loss": m.loss,
            "val.images": m.images, "val.corrupt": m.corrupt, "val.ips": ips,
        }));
    }

    /// Accuracy of each class after `epoch` epochs: in the report file, and the worst as a table where that is wanted.
    pub fn classes(&mut self, epoch: u32, classes: &[ClassMetrics], as_table: bool) {
        let listed: Vec<Value> = classes.iter().map(ClassMetrics::json).collect();
        self.json(&json!({"kind": "classes", "epoch": epoch, "val.classes": listed}));
        if as_table {
            self.line(worst_classes(classes).trim_end());
        }
    }

    /// An evaluation of the weights that are trained, after `epoch` epochs, where the network's are their average.
    pub fn eval_unaveraged(&mut self, epoch: u32, m: &EvalMetrics) {
        self.line(&format!(
            "epoch {epoch} unaveraged: top1 {:.2} top5 {:.2} loss {:.4} ({} images)",
            m.top1, m.top5, m.loss, m.images
        ));
        self.json(&json!({
            "kind": "unaveraged", "epoch": epoch, "unaveraged.top1": m.top1, "unaveraged.top5": m.top5,
            "unaveraged.loss": m.loss, "unaveraged.images": m.images, "unaveraged.corrupt": m.corrupt,
        }));
    }

    /// An evaluation of a network that is to be quantized without training, before that.
    pub fn eval_before_quantization(&mut self, m: &EvalMetrics) {
        self.line(&format!(
            "before quantization: top1 {:.2} top5 {:.2} loss {:.4} ({} images)",
            m.top1, m.top5, m.loss, m.images
        ));
        self.json(&json!({
            "kind": "float", "float.top1": m.top1, "float.top5": m.top5, "float.loss": m.loss,
            "float.images": m.images, "float.corrupt": m.corrupt,
        }));
    }

    /// A checkpoint is in place.
    pub fn saved(&mut self, path: &Path) {
        self.line(&format!("saved {}", path.display()));
        self.json(&json!({"kind": "checkpoint", "path": path}));
    }

    /// How the run ended.
    pub fn summary(&mut self, values: Value) {
        self.json(&values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_that_goes_on_in_another_generation_is_told_of_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        let mut reporter = Reporter::new(0, Some(&path), false, 1).unwrap();
        let step = |reporter: &mut Reporter, epoch, step, loss| {
            reporter.step(&StepMetrics {
                epoch,
                step,
                global_step: 2 * u64::from(epoch) + step,
                loss,
                top1: 0.0,
                lr: 0.1,
                grad_norm: 1.0,
                loss_scale: 1.0,
                skipped: false,
                images: 4,
                data_time: 0.0,
                forward_time: 0.0,
                backward_time: 0.0,
                reduce_time: 0.0,
                update_time: 0.0,
                step_time: 1.0,
            });
        };
        reporter.epoch_start(0, 2, 0);
        step(&mut reporter, 0, 1, 3.0);
        step(&mut reporter, 0, 2, 9.0);
        // The second is done again.
        reporter.epoch_start(0, 2, 1);
        step(&mut reporter, 0, 2, 1.0);
        reporter.epoch_end();
        reporter.epoch_start(1, 2, 0);
        step(&mut reporter, 1, 1, 5.0);
        reporter.epoch_end();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let epochs: Vec<_> =
            lines.filter(|l| l["kind"] == "epoch").map(|l| l["train.loss"].clone()).collect();
        assert_eq!(epochs, [json!(2.0), json!(5.0)]);
    }
}
