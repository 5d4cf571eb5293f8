//! What a benchmark tells of its timed steps.

use super::{Run, TrainError};
use crate::collective::ReduceOp;
use crate::metrics::{StepMetrics, median};
use serde_json::{Map, Value, json};
use tch::Tensor;

/// Medians of steps, by the names that reports have for them: images per second over all ranks, and milliseconds of this
/// rank. `other` is what a step has besides its parts.
fn medians(steps: &[StepMetrics]) -> Map<String, Value> {
    let of = |f: fn(&StepMetrics) -> f64| median(&steps.iter().map(f).collect::<Vec<_>>());
    let other =
        |m: &StepMetrics| m.step_time - m.data_time - m.compute_time() - m.reduce_time - m.update_time;
    let step = of(|m| m.step_time);
    let images = steps.last().map_or(0.0, |m| m.images as f64);
    let numbers = [
        ("train.ips", if step > 0.0 { images / step } else { 0.0 }),
        ("train.step_ms", 1e3 * step),
        ("train.data_ms", 1e3 * of(|m| m.data_time)),
        ("train.forward_ms", 1e3 * of(|m| m.forward_time)),
        ("train.backward_ms", 1e3 * of(|m| m.backward_time)),
        ("train.exposed_reduce_ms", 1e3 * of(|m| m.reduce_time)),
        ("train.update_ms", 1e3 * of(|m| m.update_time)),
        ("train.other_ms", 1e3 * of(other)),
    ];
    let mut all: Map<String, Value> = numbers.into_iter().map(|(k, v)| (k.to_string(), json!(v))).collect();
    all.insert("train.timed_steps".into(), json!(steps.len()));
    all
}

/// The most memory a process has had resident, in MiB, from the text of its `/proc/PID/status`; none where that does not say.
fn peak_mib(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

impl Run<'_> {
    /// The medians, and the peak of memory of the worker that had most; to be called on all ranks.
    pub(super) fn measured(&self) -> Result<Map<String, Value>, TrainError> {
        let mine = peak_mib(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
        let most = Tensor::f_from_slice(&[mine.unwrap_or(0.0)])?.f_to_device(self.program.device())?;
        self.program.collective().all_reduce(&most, ReduceOp::Max)?;
        let mut all = medians(&self.timed);
        // Where no system says it, there is no number to tell.
        let most = Some(most.f_double_value(&[0])?).filter(|mib| *mib > 0.0);
        all.extend(most.map(|mib| ("train.peak_rss_mb".into(), json!(mib))));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(seconds: f64) -> StepMetrics {
        StepMetrics {
            epoch: 0,
            step: 1,
            global_step: 1,
            loss: 0.0,
            top1: 0.0,
            lr: 0.0,
            grad_norm: 0.0,
            loss_scale: 1.0,
            skipped: false,
            images: 32,
            data_time: 0.125 * seconds,
            forward_time: 0.25 * seconds,
            backward_time: 0.375 * seconds,
            reduce_time: 0.0625 * seconds,
            update_time: 0.0625 * seconds,
            step_time: seconds,
        }
    }

    #[test]
    fn the_parts_of_a_step_and_what_is_besides_are_medians_in_milliseconds() {
        let all = medians(&[step(9.0), step(1.0), step(2.0)]);
        let of = |key: &str| all[&format!("train.{key}")].as_f64().unwrap();
        assert_eq!((of("ips"), of("step_ms"), of("timed_steps")), (16.0, 2000.0, 3.0));
        let parts = ["data_ms", "forward_ms", "backward_ms", "exposed_reduce_ms", "update_ms", "other_ms"];
        assert_eq!(parts.map(of), [250.0, 500.0, 750.0, 125.0, 125.0, 250.0]);
        assert_eq!(medians(&[])["train.ips"], 0.0);
    }

    #[test]
    fn a_system_says_the_peak_of_a_process() {
        assert_eq!(peak_mib("Name:\tx\nVmPeak:\t9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 5 kB\n"), Some(2.0));
        assert_eq!(peak_mib("Name:\tx\n"), None);
        assert!(peak_mib(&std::fs::read_to_string("/proc/self/status").unwrap()).unwrap() > 1.0);
    }
}
