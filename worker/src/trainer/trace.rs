//! The trace of a run: what every rank keeps of its steps, and how the first writes it for all, or, where the run has failed,
//! its own.

use super::TrainError;
use crate::collective::{Call, Calls, Collective};
use crate::metrics::{Happening, ROW, RankTrace, Trace, TraceFile, chrome};
use crate::optim::{Span, Stage};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tch::{Device, Kind, Tensor};

/// Events of all ranks together, about 100 bytes each in the file.
const EVENTS: usize = 500_000;
/// Events of one rank at most.
const OF_ONE: usize = 50_000;

/// What a rank keeps of its steps, for `--trace-file`.
pub(super) struct Tracing {
    /// Only on the rank that writes.
    file: Option<TraceFile>,
    world: usize,
    trace: Trace,
    calls: Calls,
    /// When it began, in nanoseconds of the system's clock.
    began: i64,
    /// When images were waited for and moved, of the step under way.
    input: Vec<(Happening, Instant, Instant)>,
}

impl Tracing {
    /// From now on, of one of `world` ranks, whose collectives are noted in `calls`. The first rank opens the
    /// file, which stays as it is until there is something to write.
    pub fn begin(path: &Path, calls: Calls, (rank, world): (usize, usize)) -> Result<Self, TrainError> {
        let file = (rank == 0).then(|| TraceFile::open(path)).transpose()?;
        let trace = Trace::new((EVENTS / world.max(1)).min(OF_ONE));
        let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
        Ok(Self { file, world, trace, calls, began, input: Vec::new() })
    }

    /// Where the calls of a collective are noted.
    pub fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// From now on there are so many ranks. Where the one that writes is gone, the trace is, too.
    pub fn regroup(&mut self, world: usize) {
        self.world = world;
    }

    /// Images were waited for, or moved.
    pub fn input(&mut self, what: Happening, begun: Instant) -> Instant {
        let now = Instant::now();
        self.input.push((what, begun, now));
        now
    }

    /// What came before the step is none of it.
    pub fn before_step(&mut self) {
        self.input.clear();
        drop(self.calls.take());
    }

    /// A step is done, from `begun` until now.
    pub fn step(&mut self, step: u64, begun: Instant, spans: &[Span]) {
        let ended = Instant::now();
        let mut events = vec![(Happening::Step, begun, ended, 0)];
        events.extend(self.input.drain(..).map(|(what, begun, ended)| (what, begun, ended, 0)));
        let part = |s: &Span| {
            let what = match s.stage {
                Stage::Forward => Happening::Forward,
                Stage::Backward => Happening::Backward,
                Stage::Reduce => Happening::Reduce,
                Stage::Update => Happening::Update,
            };
            (what, s.begun, s.ended, 0)
        };
        events.extend(spans.iter().map(part));
        let call = |c: Call| (Happening::Collective, c.begun, c.ended, c.bytes);
        events.extend(self.calls.take().into_iter().map(call));
        self.trace.step(step, &events);
    }

    /// Gathers the traces of all ranks and writes them on the first; to be called on all ranks, after a run that went well.
    /// What goes wrong is said and no error; where ranks cannot be gathered, the first writes its own steps.
    pub fn write(&mut self, collective: &dyn Collective, device: Device) {
        match self.gathered(collective, device) {
            Ok(ranks) => self.put(&ranks),
            Err(e) => {
                tracing::warn!("the ranks' traces could not be gathered: {e}");
                self.write_own();
            }
        }
    }

    /// Writes the first rank's own steps, and says that the other ranks' are missing; after a failure, when nobody answers any
    /// more. Where it has none, the file stays as it is.
    pub fn write_own(&mut self) {
        let Some(file) = &self.file else { return };
        let path = file.path().display();
        if self.trace.events().is_empty() {
            tracing::warn!("no step was traced, and {path} is left as it is");
            return;
        }
        if self.world > 1 {
            tracing::warn!(
                "the trace {path} has the steps of rank 0 alone; those of the other ranks are missing"
            );
        }
        let own =
            RankTrace { events: self.trace.events().to_vec(), offset: 0, left_out: self.trace.left_out };
        self.put(&[own]);
    }

    fn put(&mut self, ranks: &[RankTrace]) {
        let Some(file) = &mut self.file else { return };
        match file.write(&chrome(ranks)) {
            Ok(()) => tracing::info!("wrote the trace {}", file.path().display()),
            Err(e) => tracing::error!("the trace is lost: {e}"),
        }
    }

    /// The traces of all ranks, on the first; one rank after another, so that no rank holds more than two at a time but that
    /// one.
    fn gathered(&self, collective: &dyn Collective, device: Device) -> Result<Vec<RankTrace>, TrainError> {
        let rows = self.trace.rows();
        // Halves of the clock's nanoseconds, each of which a number of 53 bits holds.
        let (high, low) = (self.began >> 32, self.began & 0xffff_ffff);
        let mine = [rows.len() as f64, high as f64, low as f64, self.trace.left_out as f64];
        let heads = collective.all_gather(&Tensor::f_from_slice(&mine)?.f_to_device(device)?)?;
        let mut ranks = Vec::new();
        let mut first = None;
        for (rank, head) in heads.iter().enumerate() {
            let head = Vec::<f64>::try_from(&head.f_to_device(Device::Cpu)?)?;
            let began = (head[1] as i64) << 32 | head[2] as i64;
            let first = *first.get_or_insert(began);
            let count = head[0] as i64;
            let sent = match rank == collective.rank() {
                true => Tensor::f_from_slice(&rows)?.f_to_device(device)?,
                false => Tensor::f_zeros([count], (Kind::Double, device))?,
            };
            if count >= ROW as i64 {
                collective.broadcast(&sent, rank)?;
            }
            if collective.rank() == 0 {
                let rows = Vec::<f64>::try_from(&sent.f_to_device(Device::Cpu)?)?;
                let (events, left_out) = (Trace::of_rows(&rows), head[3] as u64);
                ranks.push(RankTrace { events, offset: began - first, left_out });
            }
        }
        Ok(ranks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{Counted, Fault, Faulty, Local, ReduceOp};
    use serde_json::Value;
    use std::sync::Arc;

    #[test]
    fn a_step_and_its_parts_are_nested_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.json");
        let calls = Calls::default();
        let collective = Counted::new(Box::new(Local), Arc::default()).noting(calls.clone());
        let mut tracing = Tracing::begin(&path, calls, (0, 1)).unwrap();
        assert!(path.is_file());
        collective.barrier().unwrap();
        tracing.before_step();
        let begun = Instant::now();
        let data = tracing.input(Happening::Data, begun);
        let tensor = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        collective.all_reduce(&tensor, ReduceOp::Sum).unwrap();
        let ended = Instant::now();
        let spans = [Span { stage: Stage::Reduce, begun: data, ended }];
        tracing.step(1, begun, &spans);
        tracing.write(&collective, Device::Cpu);
        let file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let spans: Vec<_> = file["traceEvents"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| e["ph"] == "X")
            .map(|e| (e["name"].as_str().unwrap(), e["ts"].as_f64().unwrap(), e["dur"].as_f64().unwrap()))
            .collect();
        assert_eq!(spans.iter().map(|s| s.0).collect::<Vec<_>>(), ["step", "data", "reduce", "collective"]);
        let end = spans[0].1 + spans[0].2;
        assert!(spans.iter().all(|s| s.1 >= spans[0].1 && s.1 + s.2 <= end + 1e-6), "{spans:?}");
    }

    /// A file with an older trace, and a trace that begins over it.
    fn over_an_older(folder: &Path) -> (std::path::PathBuf, Tracing) {
        let path = folder.join("trace.json");
        std::fs::write(&path, "older").unwrap();
        let tracing = Tracing::begin(&path, Calls::default(), (0, 2)).unwrap();
        (path, tracing)
    }

    /// The names of a file's spans, and how many ranks it has.
    fn spans_and_ranks(path: &Path) -> (Vec<String>, usize) {
        let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let events = file["traceEvents"].as_array().unwrap();
        let spans = events.iter().filter(|e| e["ph"] == "X").map(|e| e["name"].as_str().unwrap().to_string());
        (spans.collect(), file["otherData"]["steps left out, by rank"].as_array().unwrap().len())
    }

    #[test]
    fn ranks_that_cannot_be_gathered_cost_their_own_steps_alone() {
        let dir = tempfile::tempdir().unwrap();
        for failing in [0, 1] {
            let (path, mut tracing) = over_an_older(dir.path());
            tracing.step(1, Instant::now(), &[]);
            let gone = Faulty::new(Box::new(Local), failing, Fault::Fail);
            tracing.write(&gone, Device::Cpu);
            assert_eq!(spans_and_ranks(&path), (vec!["step".to_string()], 1));
        }
    }

    #[test]
    fn a_run_that_failed_leaves_the_first_rank_s_steps_or_the_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut tracing) = over_an_older(dir.path());
        tracing.write_own();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "older");
        tracing.step(1, Instant::now(), &[]);
        tracing.write_own();
        assert_eq!(spans_and_ranks(&path), (vec!["step".to_string()], 1));
        let mut other = Tracing::begin(&path, Calls::default(), (1, 2)).unwrap();
        other.step(1, Instant::now(), &[]);
        other.step(2, Instant::now(), &[]);
        other.write_own();
        assert_eq!(spans_and_ranks(&path).0.len(), 1, "the first rank alone writes");
    }
}
