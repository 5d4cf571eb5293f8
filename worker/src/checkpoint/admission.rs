//! Whether a run may write into a folder that holds checkpoints: a pure function of what is there and what is wanted.

use super::RunIdentity;
use super::store::Progress;

/// A complete checkpoint of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Name of its folder.
    pub name: String,
    /// How far it is.
    pub progress: Progress,
    /// The run that wrote it; none where the format did not say, or the manifest cannot be read.
    pub run: Option<RunIdentity>,
    /// What is the matter with its files; none where nothing is, or where it was not looked for.
    pub damage: Option<String>,
}

/// What a run may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is a run of its own.
    New {
        /// Names of checkpoints to remove once the first new one is complete.
        superseded: Vec<String>,
    },
    /// It goes on with the run that wrote the checkpoint.
    Continue {
        /// That run; none where the format did not say.
        run: Option<RunIdentity>,
        /// As above.
        superseded: Vec<String>,
        /// Damaged ones beyond its start, by name and with what is the matter: to be renamed, so that nobody takes them
        /// for the furthest. They are no reason to refuse, since nobody can go on from them.
        damaged: Vec<(String, String)>,
    },
}

/// Why it may not write there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Checkpoints of another run are there.
    Occupied { run: Option<RunIdentity>, names: Vec<String> },
    /// It starts from a checkpoint that others of the same folder are beyond.
    Behind { start: String, names: Vec<String> },
}

/// Names, not too many of them.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let more = names.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", names[..names.len() - more].join(", "))
}

/// Decides. `start` is the checkpoint of this very folder the run goes on from, if it does; `found` is in order of
/// progress. With `overwrite`, what is in the way is superseded instead of being a reason to refuse.
pub(super) fn decide(found: &[Found], start: Option<&str>, overwrite: bool) -> Result<Admission, Refusal> {
    let names = |all: &[Found]| -> Vec<String> { all.iter().map(|f| f.name.clone()).collect() };
    if let Some(at) = start.and_then(|name| found.iter().position(|f| f.name == name)) {
        let beyond = &found[at + 1..];
        let whole = beyond.iter().filter(|f| f.damage.is_none());
        let superseded: Vec<String> = whole.map(|f| f.name.clone()).collect();
        let damaged = beyond.iter().filter_map(|f| Some((f.name.clone(), f.damage.clone()?))).collect();
        return match superseded.is_empty() || overwrite {
            true => Ok(Admission::Continue { run: found[at].run.clone(), superseded, damaged }),
            false => Err(Refusal::Behind { start: found[at].name.clone(), names: superseded }),
        };
    }
    let superseded = names(found);
    match found.last() {
        Some(last) if !overwrite => Err(Refusal::Occupied { run: last.run.clone(), names: superseded }),
        _ => Ok(Admission::New { superseded }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> Vec<Found> {
        let run = RunIdentity { id: "abc".into(), started_unix: 0, host: "h".into() };
        let entry = |n: &&str| Found {
            name: (*n).into(),
            progress: super::super::store::parse_name(n).unwrap(),
            run: Some(run.clone()),
            damage: None,
        };
        names.iter().map(entry).collect()
    }

    fn new(superseded: &[&str]) -> Admission {
        Admission::New { superseded: superseded.iter().map(|s| s.to_string()).collect() }
    }

    #[test]
    fn an_empty_folder_is_free_and_a_used_one_is_not() {
        assert_eq!(decide(&[], None, false), Ok(new(&[])));
        assert_eq!(decide(&[], None, true), Ok(new(&[])));
        let used = found(&["1", "2"]);
        let names = vec!["1".into(), "2".into()];
        assert_eq!(decide(&used, None, false), Err(Refusal::Occupied { run: used[1].run.clone(), names }));
        assert_eq!(decide(&used, None, true), Ok(new(&["1", "2"])));
    }

    #[test]
    fn a_run_goes_on_from_its_furthest_checkpoint_and_not_from_behind_it() {
        let used = found(&["1", "2", "2-5"]);
        let run = used[0].run.clone();
        let furthest = Admission::Continue { run: run.clone(), superseded: vec![], damaged: vec![] };
        assert_eq!(decide(&used, Some("2-5"), false), Ok(furthest));
        let names = vec!["2".to_string(), "2-5".into()];
        let refused = Refusal::Behind { start: "1".into(), names: names.clone() };
        assert_eq!(decide(&used, Some("1"), false), Err(refused));
        let behind = Admission::Continue { run, superseded: names, damaged: vec![] };
        assert_eq!(decide(&used, Some("1"), true), Ok(behind));
    }

    #[test]
    fn damaged_ones_are_in_nobodys_way_and_never_superseded() {
        let mut used = found(&["1", "2", "3"]);
        let run = used[0].run.clone();
        used[2].damage = Some("cut short".into());
        let damaged = vec![("3".to_string(), "cut short".to_string())];
        let from_2 = Admission::Continue { run: run.clone(), superseded: vec![], damaged: damaged.clone() };
        assert_eq!(decide(&used, Some("2"), false), Ok(from_2));
        // A whole one in between still is in the way.
        let refused = Refusal::Behind { start: "1".into(), names: vec!["2".into()] };
        assert_eq!(decide(&used, Some("1"), false), Err(refused));
        let from_1 = Admission::Continue { run, superseded: vec!["2".into()], damaged };
        assert_eq!(decide(&used, Some("1"), true), Ok(from_1));
    }

    #[test]
    fn many_names_are_cut_short() {
        let names: Vec<String> = (1..=90).map(|i| i.to_string()).collect();
        assert_eq!(listed(&names), "1, 2, 3, 4, 5, 6 and 84 more");
    }
}
