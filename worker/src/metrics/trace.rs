//! What happened when, in the steps of all ranks, as Chrome's trace format has it, which Perfetto (<https://ui.perfetto.dev>)
//! and chrome://tracing show. A process is a rank; its first track has the step and its parts, its second the collectives among ranks, of which a
//! run of one has none.

use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Instant;

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// A whole step.
    Step,
    /// Waiting for images.
    Data,
    /// Moving them to a device.
    Upload,
    /// Forward and loss.
    Forward,
    /// Backward.
    Backward,
    /// Reduction that nothing else hides.
    Reduce,
    /// Norm, update rule, statistics.
    Update,
    /// A collective: the reduction of one bucket.
    Collective,
}

impl Happening {
    const ALL: [Happening; 8] = [
        Happening::Step,
        Happening::Data,
        Happening::Upload,
        Happening::Forward,
        Happening::Backward,
        Happening::Reduce,
        Happening::Update,
        Happening::Collective,
    ];

    fn name(self) -> &'static str {
        match self {
            Happening::Step => "step",
            Happening::Data => "data",
            Happening::Upload => "upload",
            Happening::Forward => "forward",
            Happening::Backward => "backward",
            Happening::Reduce => "reduce",
            Happening::Update => "update",
            Happening::Collective => "collective",
        }
    }

    /// The track it stands on.
    fn track(self) -> u32 {
        match self {
            Happening::Collective => 1,
            _ => 0,
        }
    }
}

/// One event; times in nanoseconds since the trace began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What it is.
    pub what: Happening,
    /// The step it belongs to, from 1.
    pub step: u64,
    /// Its begin.
    pub begun: u64,
    /// Its end.
    pub ended: u64,
    /// Of a collective the size of the tensor that this rank gave, in bytes; what goes over the wire for it depends on the
    /// collective and the number of ranks.
    pub bytes: u64,
}

/// Numbers of an event in [`Trace::rows`].
pub const ROW: usize = 5;

/// The events of one rank, so many at most: those of the first steps.
#[derive(Debug)]
pub struct Trace {
    origin: Instant,
    most: usize,
    events: Vec<Event>,
    /// Steps whose events found no room.
    pub left_out: u64,
}

impl Trace {
    /// Begins now, with room for `most` events.
    pub fn new(most: usize) -> Self {
        Self { origin: Instant::now(), most, events: Vec::new(), left_out: 0 }
    }

    /// Adds the events of a step, all or none.
    pub fn step(&mut self, step: u64, events: &[(Happening, Instant, Instant, usize)]) {
        if self.left_out > 0 || self.events.len() + events.len() > self.most {
            self.left_out += 1;
            return;
        }
        let since = |at: Instant| at.saturating_duration_since(self.origin).as_nanos() as u64;
        self.events.extend(events.iter().map(|&(what, begun, ended, bytes)| Event {
            what,
            step,
            begun: since(begun),
            ended: since(ended),
            bytes: bytes as u64,
        }));
    }

    /// All events.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// All events as numbers, [`ROW`] each, so that ranks can exchange them; whole numbers up to 2^53 are kept.
    pub fn rows(&self) -> Vec<f64> {
        let row = |e: &Event| {
            [f64::from(e.what as u8), e.step as f64, e.begun as f64, e.ended as f64, e.bytes as f64]
        };
        self.events.iter().flat_map(row).collect()
    }

    /// The events of such numbers.
    pub fn of_rows(rows: &[f64]) -> Vec<Event> {
        let event = |r: &[f64]| {
            let what = *Happening::ALL.get(r[0] as usize)?;
            Some(Event {
                what,
                step: r[1] as u64,
                begun: r[2] as u64,
                ended: r[3] as u64,
                bytes: r[4] as u64,
            })
        };
        rows.chunks_exact(ROW).filter_map(event).collect()
    }
}

/// One rank's part of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankTrace {
    /// Its events.
    pub events: Vec<Event>,
    /// When its trace began, in nanoseconds after the first rank's; clocks of different hosts may differ.
    pub offset: i64,
    /// Steps that were left out.
    pub left_out: u64,
}

/// Nanoseconds as the microseconds that the format has, with three places.
fn micros(nanos: i64) -> String {
    let (sign, n) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    format!("{sign}{}.{:03}", n / 1000, n % 1000)
}

/// The trace of all ranks, as the text of a JSON file.
pub fn chrome(ranks: &[RankTrace]) -> String {
    let mut text = String::from("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    let mut gap = "";
    let mut put = |event: String| {
        text.push_str(gap);
        text.push_str(&event);
        gap = ",\n";
    };
    for (rank, trace) in ranks.iter().enumerate() {
        let named = |what: &str, track: u32, name: &str| {
            json!({"name": what, "ph": "M", "pid": rank, "tid": track, "args": {"name": name}}).to_string()
        };
        put(named("process_name", 0, &format!("rank {rank}")));
        put(named("thread_name", 0, "step"));
        put(named("thread_name", 1, "collectives"));
        for e in &trace.events {
            let mut args = format!("\"step\":{}", e.step);
            if e.what == Happening::Collective {
                let _ = write!(args, ",\"bytes\":{}", e.bytes);
            }
            put(format!(
                "{{\"name\":\"{}\",\"ph\":\"X\",\"pid\":{rank},\"tid\":{},\"ts\":{},\"dur\":{},\"args\":{{{args}}}}}",
                e.what.name(),
                e.what.track(),
                micros(e.begun as i64 + trace.offset),
                micros(e.ended.saturating_sub(e.begun) as i64),
            ));
        }
    }
    let left_out: Vec<u64> = ranks.iter().map(|r| r.left_out).collect();
    let other: Value = json!({"steps left out, by rank": left_out});
    let _ = write!(text, "\n],\"otherData\":{other}}}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn events(at: Instant) -> Vec<(Happening, Instant, Instant, usize)> {
        let ms = |n| at + Duration::from_millis(n);
        vec![
            (Happening::Step, at, ms(9), 0),
            (Happening::Forward, ms(1), ms(4), 0),
            (Happening::Collective, ms(4), ms(6), 1024),
        ]
    }

    #[test]
    fn the_events_of_all_ranks_are_one_file_that_parses() {
        let mut trace = Trace::new(100);
        trace.step(1, &events(trace.origin));
        let events = Trace::of_rows(&trace.rows());
        assert_eq!(events, trace.events);
        let ranks = [0, -1500].map(|offset| RankTrace { events: events.clone(), offset, left_out: 0 });
        let file: Value = serde_json::from_str(&chrome(&ranks)).unwrap();
        let all = file["traceEvents"].as_array().unwrap();
        assert_eq!(all.len(), 2 * 6);
        assert_eq!(all[4]["name"], "forward");
        assert_eq!((&all[4]["ts"], &all[4]["dur"]), (&json!(1000.0), &json!(3000.0)));
        assert_eq!((&all[11]["args"]["bytes"], &all[11]["pid"]), (&json!(1024), &json!(1)));
        assert_eq!(all[9]["ts"], -1.5);
    }

    #[test]
    fn a_step_that_finds_no_room_is_left_out_whole_and_so_are_all_after_it() {
        let mut trace = Trace::new(5);
        let at = trace.origin;
        trace.step(1, &events(at));
        trace.step(2, &events(at));
        trace.step(3, &events(at)[..1]);
        assert_eq!((trace.events.len(), trace.left_out), (3, 2));
        let one = RankTrace { events: vec![], offset: 0, left_out: trace.left_out };
        let file: Value = serde_json::from_str(&chrome(&[one])).unwrap();
        assert_eq!(file["otherData"]["steps left out, by rank"], json!([2]));
    }
}
