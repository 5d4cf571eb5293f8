//! Logs: text on standard error, every line with the worker's rank and the job's generation once they are known.

use crate::metrics;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Environment variable with the filter, e.g. `debug` or `octrain=trace`.
pub const FILTER: &str = "OCTRAIN_LOG";

static IDENTITY: Mutex<Option<(u32, u64)>> = Mutex::new(None);

fn identity() -> MutexGuard<'static, Option<(u32, u64)>> {
    // A plain value: a thread that panicked left it whole.
    IDENTITY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who this process is, from now on in every line; in another generation it may have another rank.
pub fn identify(rank: u32, generation: u64) {
    *identity() = Some((rank, generation));
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Bad filter.
    #[error("{FILTER} is `{text}`, not a log filter ({why}); try `info` or `octrain=debug`")]
    Filter {
        /// What it was.
        text: String,
        /// Why not.
        why: String,
    },
    /// Done already.
    #[error("logging is set up already")]
    Twice,
}

/// Sets logging up for this process. `default` is the filter when [`FILTER`] is not set, e.g. `info`.
pub fn init(default: &str) -> Result<(), LoggingError> {
    let text = std::env::var(FILTER).unwrap_or_else(|_| default.into());
    let filter = EnvFilter::try_new(&text).map_err(|e| LoggingError::Filter { text, why: e.to_string() })?;
    let subscriber = subscriber(filter, metrics::err);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Twice)
}

fn subscriber<W>(filter: EnvFilter, to: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        // It would print to standard error what cannot be written to standard error, and panic.
        .log_internal_errors(false)
        .with_writer(to)
        .event_format(Line { identity: || *identity() })
        .finish()
}

/// `TIME LEVEL rank=R gen=G message fields`.
struct Line {
    identity: fn() -> Option<(u32, u64)>,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        SystemTime.format_time(&mut to)?;
        write!(to, " {:>5} ", event.metadata().level())?;
        if let Some((rank, generation)) = (self.identity)() {
            write!(to, "rank={rank} gen={generation} ")?;
        }
        ctx.format_fields(to.by_ref(), event)?;
        writeln!(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_carry_rank_and_generation_once_known() {
        for (identity, want) in [
            ((|| None) as fn() -> Option<(u32, u64)>, "INFO saved epoch=3\n"),
            (|| Some((2, 5)), "INFO rank=2 gen=5 saved epoch=3\n"),
        ] {
            let sink = Sink::default();
            let to = sink.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || to.clone())
                .event_format(Line { identity })
                .finish();
            tracing::subscriber::with_default(subscriber, || tracing::info!(epoch = 3, "saved"));
            let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
            assert!(text.ends_with(want), "{text}");
        }
    }
}
