//! What a run tells: log lines or progress bars for people, JSON lines for programs, tables at the end.

mod classes;
mod output;
mod report;
mod reporter;
mod screen;
mod table;
mod trace;
mod trace_file;

pub use classes::{ClassMetrics, worst_classes};
pub(crate) use output::say;
pub use output::{
    Lines, Reader, err, finish, finish_within, last_word, line, out, print, print_while_read, start,
};
pub use report::{ReportError, ReportFile};
pub use reporter::{EvalMetrics, Regrouped, Reporter, StepMetrics};
pub use table::table;
pub use trace::{Event, Happening, ROW, RankTrace, Trace, chrome};
pub use trace_file::{TraceError, TraceFile};

/// Median of figures; 0 for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
