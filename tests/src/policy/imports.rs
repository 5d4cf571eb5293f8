//! Which room may use what: external crates kept out of pure rooms, and rooms kept apart.

use super::{PathUse, Source, Violation, paths};
use std::collections::{BTreeMap, BTreeSet};

/// How modules are counted into rooms.
#[derive(Debug, Default, Clone, Copy)]
pub struct Rooms {
    /// Modules below a room that count as rooms of their own, e.g. `quant::scheme`.
    pub apart: &'static [&'static str],
}

impl Rooms {
    /// The room of a module path: `graph::node` is in `graph`; the crate's root is in none.
    fn of(&self, module: &[String]) -> Option<String> {
        let whole = module.join("::");
        let apart = self.apart.iter().find(|a| whole == **a || whole.starts_with(&format!("{a}::")));
        apart.map(|a| a.to_string()).or_else(|| module.first().cloned())
    }

    /// The room of this crate that a path leads into.
    fn entered(&self, path: &PathUse) -> Option<String> {
        let (first, rest) = path.segments.split_first()?;
        if matches!(first.as_str(), "crate" | "octrain") { self.of(rest) } else { None }
    }

    /// A cycle among the rooms of `sources` as a readable chain (`a -> b -> a`), or none. Uses in tests and by
    /// the crate's root do not count.
    ///
    /// # Errors
    /// When a file is not Rust.
    pub fn cycle(&self, sources: &[Source]) -> Result<Option<String>, String> {
        let rooms: BTreeSet<String> = sources.iter().filter_map(|s| self.of(&s.module())).collect();
        let mut edges = Edges::new();
        for source in sources {
            let Some(room) = self.of(&source.module()) else { continue };
            for path in paths(source)?.iter().filter(|p| !p.in_test) {
                if let Some(other) = self.entered(path).filter(|o| *o != room && rooms.contains(o)) {
                    let place = format!("{}:{}", source.path, path.line);
                    edges.entry(room.clone()).or_default().entry(other).or_insert(place);
                }
            }
        }
        let mut done = BTreeSet::new();
        Ok(rooms.iter().find_map(|room| visit(room, &edges, &mut Vec::new(), &mut done)))
    }
}

/// Rules on imports. Rooms are named as in `worker/src/<room>/`.
#[derive(Debug, Default, Clone)]
pub struct ImportRules {
    /// What counts as a room.
    pub rooms: Rooms,
    /// Rooms (`*` for all), and the external crates they must not mention.
    pub without: Vec<(&'static str, &'static [&'static str])>,
    /// A room, and the only rooms that may use it.
    pub only_used_by: Vec<(&'static str, &'static [&'static str])>,
    /// `(room, other)`: `room` must not use `other`.
    pub never: Vec<(&'static str, &'static str)>,
}

impl ImportRules {
    /// Everything in `sources` that breaks a rule. Test modules are free to use any room of the crate, but not
    /// the external crates a pure room does without.
    ///
    /// # Errors
    /// When a file is not Rust.
    pub fn check(&self, sources: &[Source]) -> Result<Vec<Violation>, String> {
        let mut found = Vec::new();
        for source in sources {
            let room = self.rooms.of(&source.module()).unwrap_or_default();
            for path in paths(source)? {
                if let Some(what) = self.broken_by(&room, &path) {
                    found.push(Violation { place: source.path.clone(), line: path.line, what });
                }
            }
        }
        Ok(found)
    }

    fn broken_by(&self, room: &str, path: &PathUse) -> Option<String> {
        let name = path.segments.join("::");
        let first = path.segments.first()?.as_str();
        if let Some((_, crates)) = self.without.iter().find(|(r, _)| matches!(*r, "*") || *r == room)
            && crates.contains(&first)
        {
            return Some(format!("`{name}`: the room `{room}` does without {}", crates.join(", ")));
        }
        let other = self.rooms.entered(path)?;
        let other = other.as_str();
        if path.in_test || other == room {
            return None;
        }
        if self.never.iter().any(|(a, b)| *a == room && *b == other) {
            return Some(format!("`{name}`: `{room}` must not use `{other}`"));
        }
        let (_, allowed) = self.only_used_by.iter().find(|(r, _)| *r == other)?;
        (!allowed.contains(&room)).then(|| match allowed {
            [] => format!("`{name}`: no room uses `{other}`"),
            _ => format!("`{name}`: only {} may use `{other}`", allowed.join(", ")),
        })
    }
}

type Edges = BTreeMap<String, BTreeMap<String, String>>;

fn visit(room: &str, edges: &Edges, chain: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<String> {
    if let Some(start) = chain.iter().position(|r| r == room) {
        let ring: Vec<&str> = chain[start..].iter().map(String::as_str).chain([room]).collect();
        let places: Vec<&str> = ring.windows(2).map(|w| edges[w[0]][w[1]].as_str()).collect();
        return Some(format!("{} ({})", ring.join(" -> "), places.join(", ")));
    }
    if done.contains(room) {
        return None;
    }
    chain.push(room.to_string());
    for next in edges.get(room).into_iter().flat_map(BTreeMap::keys) {
        if let Some(found) = visit(next, edges, chain, done) {
            return Some(found);
        }
    }
    chain.pop();
    done.insert(room.to_string());
    None
}
