//! What the runs have shown, for people and as lines of JSON.

use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;

/// One run.
#[derive(Debug, Clone)]
pub struct Shown {
    pub kind: &'static str,
    pub phase: String,
    pub seed: u64,
    /// Seconds, by what took them; numbers, by what was counted.
    pub figures: Vec<(&'static str, f64)>,
    /// What did not hold.
    pub wrong: Option<String>,
}

/// A figure with its bar: the part of the runs that it is of, and what it may be at most.
const BARS: &[(&str, &str, f64)] = &[
    ("worker-kill", "told", 0.5),
    ("worker-kill", "next step", 2.0),
    ("worker-stop", "detected", 1.5),
    ("worker-stop", "next step", 4.0),
    ("link", "detected", 1.5),
    ("link", "next step", 4.0),
    ("coordinator-kill", "all heard again", 2.0),
];

fn at(sorted: &[f64], part: f64) -> f64 {
    let i = (sorted.len() as f64 * part).ceil() as usize;
    sorted[i.clamp(1, sorted.len()) - 1]
}

/// The load of the machine over the last minute.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN)
}

/// Appends a line to the file that `OCTRAIN_CHAOS_REPORT` names, if it does.
pub fn keep(value: &serde_json::Value) {
    let Some(path) = std::env::var_os("OCTRAIN_CHAOS_REPORT") else { return };
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(&path);
    let written = opened.and_then(|mut f| writeln!(f, "{value}"));
    written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

impl Shown {
    /// Says it, and keeps it.
    pub fn tell(&self) {
        let figures: Vec<String> = self.figures.iter().map(|(what, n)| format!("{what} {n:.3}")).collect();
        let outcome = self.wrong.as_deref().map_or("ok", |w| w.lines().next().unwrap_or("wrong"));
        println!(
            "{:<17} {:<22} seed {:<6} {outcome}; {}",
            self.kind,
            self.phase,
            self.seed,
            figures.join(", ")
        );
        let figures: BTreeMap<&str, f64> = self.figures.iter().copied().collect();
        keep(&json!({
            "kind": self.kind, "phase": self.phase, "seed": self.seed, "figures": figures, "load": load(),
            "wrong": self.wrong.as_deref().and_then(|w| w.lines().next()),
        }));
    }
}

/// Prints the table; the number of runs in which something did not hold.
pub fn table(all: &[Shown]) -> usize {
    let mut groups: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let mut runs: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for shown in all {
        let of = runs.entry(shown.kind).or_default();
        of.0 += 1;
        of.1 += usize::from(shown.wrong.is_some());
        for (what, n) in &shown.figures {
            groups.entry((shown.kind, what)).or_default().push(*n);
        }
    }
    println!(
        "\n| fault | figure | n | median | p99 | max | bar |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    for ((kind, what), numbers) in &mut groups {
        numbers.sort_by(f64::total_cmp);
        let [median, p99, max] = [0.5, 0.99, 1.0].map(|part| at(numbers, part));
        let bar = BARS.iter().find(|(k, w, _)| k == kind && w == what).map(|(_, _, most)| *most);
        let told = match bar {
            None => String::new(),
            Some(most) if p99 <= most => format!("<= {most}: kept"),
            Some(most) => format!("<= {most}: missed"),
        };
        println!("| {kind} | {what} | {} | {median:.3} | {p99:.3} | {max:.3} | {told} |", numbers.len());
        keep(&json!({
            "kind": "figure", "of": kind, "what": what, "n": numbers.len(), "median": median, "p99": p99,
            "max": max, "bar": bar,
        }));
    }
    println!("\n| fault | runs | something did not hold in |\n| --- | --- | --- |");
    for (kind, (n, wrong)) in &runs {
        println!("| {kind} | {n} | {wrong} |");
        keep(&json!({"kind": "runs", "of": kind, "n": n, "wrong": wrong}));
    }
    println!("\nload of the machine: {:.1}", load());
    runs.values().map(|(_, wrong)| wrong).sum()
}
