//! The dependency tree that cargo resolved: licences, sources, and who may depend on what.

use super::Violation;
use serde_json::Value;
use spdx::{Expression, ParseMode};
use std::collections::{BTreeMap, BTreeSet};

/// One package of the tree.
#[derive(Debug, Clone)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SPDX expression, as the package gives it.
    pub licence: Option<String>,
    /// Where it came from; none for a member of this workspace.
    pub source: Option<String>,
    /// Ids of what it depends on to run or to build (not to be tested).
    needs: Vec<String>,
}

/// The resolved tree, by package id.
#[derive(Debug, Default)]
pub struct Tree {
    packages: BTreeMap<String, Package>,
}

/// Licences that may be in the tree, as `deny.toml` lists them.
#[derive(Debug, Clone)]
pub struct Licences {
    /// SPDX identifiers.
    pub allow: Vec<String>,
}

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

impl Tree {
    /// Reads the output of `cargo metadata --format-version 1`.
    ///
    /// # Errors
    /// What is missing, when it is not that.
    pub fn parse(metadata: &str) -> Result<Self, String> {
        let root: Value = serde_json::from_str(metadata).map_err(|e| format!("cargo metadata: {e}"))?;
        let list = |value: &Value, key: &str| -> Result<Vec<Value>, String> {
            value[key].as_array().cloned().ok_or_else(|| format!("cargo metadata has no list `{key}`"))
        };
        let text = |value: &Value, key: &str| value[key].as_str().map(str::to_string);
        let must =
            |value: &Value, key: &str| text(value, key).ok_or_else(|| format!("a package without `{key}`"));
        let mut needs = BTreeMap::new();
        for node in list(&root["resolve"], "nodes")? {
            let mut ids = Vec::new();
            for dep in list(&node, "deps")? {
                if list(&dep, "dep_kinds")?.iter().any(|kind| kind["kind"] != "dev") {
                    ids.push(must(&dep, "pkg")?);
                }
            }
            needs.insert(must(&node, "id")?, ids);
        }
        let mut packages = BTreeMap::new();
        for package in list(&root, "packages")? {
            let id = must(&package, "id")?;
            let needs = needs.remove(&id).unwrap_or_default();
            let (name, version) = (must(&package, "name")?, must(&package, "version")?);
            let (licence, source) = (text(&package, "license"), text(&package, "source"));
            packages.insert(id, Package { name, version, licence, source, needs });
        }
        Ok(Self { packages })
    }

    /// Every package whose licence is not allowed, or that does not come from crates.io or this workspace.
    pub fn check(&self, licences: &Licences) -> Vec<Violation> {
        let mut found = Vec::new();
        for package in self.packages.values() {
            let place = format!("{} {}", package.name, package.version);
            if let Some(source) = package.source.as_ref().filter(|s| *s != CRATES_IO) {
                let what = format!("comes from {source}; only crates.io and this workspace may be sources");
                found.push(Violation { place: place.clone(), line: 0, what });
            }
            if let Err(what) = licences.accept(package.licence.as_deref()) {
                found.push(Violation { place, line: 0, what });
            }
        }
        found
    }

    /// The chain by which the package named `from` comes to depend on one of `on`, or none.
    ///
    /// # Errors
    /// When there is no package `from`.
    pub fn chain(&self, from: &str, on: &[&str]) -> Result<Option<String>, String> {
        let start = self.packages.iter().find(|(_, p)| p.name == from).map(|(id, _)| id.clone());
        let start = start.ok_or_else(|| format!("there is no package `{from}` in the tree"))?;
        let (mut pending, mut seen) = (vec![vec![start]], BTreeSet::new());
        while let Some(chain) = pending.pop() {
            let last = chain.last().expect("never empty");
            let Some(package) = self.packages.get(last).filter(|_| seen.insert(last.clone())) else {
                continue;
            };
            if on.contains(&package.name.as_str()) {
                let names: Vec<&str> = chain.iter().map(|id| self.packages[id].name.as_str()).collect();
                return Ok(Some(names.join(" -> ")));
            }
            pending.extend(package.needs.iter().map(|next| [chain.clone(), vec![next.clone()]].concat()));
        }
        Ok(None)
    }

    /// How many packages there are.
    pub fn len(&self) -> usize {
        self.packages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }
}

impl Licences {
    /// Reads `licenses.allow` of a cargo-deny configuration.
    ///
    /// # Errors
    /// When there is no such list.
    pub fn parse(deny: &str) -> Result<Self, String> {
        let table: toml::Table = deny.parse().map_err(|e| format!("deny.toml: {e}"))?;
        let allow = table.get("licenses").and_then(|l| l.get("allow")).and_then(|a| a.as_array());
        let allow = allow.ok_or("deny.toml has no list licenses.allow")?;
        Ok(Self { allow: allow.iter().filter_map(|a| a.as_str().map(str::to_string)).collect() })
    }

    fn accept(&self, licence: Option<&str>) -> Result<(), String> {
        let text = licence.ok_or("has no licence expression")?;
        let expression =
            Expression::parse_mode(text, ParseMode::LAX).map_err(|e| format!("licence `{text}`: {e}"))?;
        let allowed = |req: &spdx::LicenseReq| self.allow.iter().any(|a| *a == req.to_string());
        if expression.evaluate(allowed) {
            Ok(())
        } else {
            Err(format!("licence `{text}` is not allowed by deny.toml"))
        }
    }
}
