//! How libtorch runs operators from outside.

use super::super::ExecError;
use super::Forward;
use crate::graph::{Custom, CustomOperator, KindTaken};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// The operator as one that runs; `None` if it is of another type.
type Runs = fn(&Custom) -> Option<&dyn Forward>;

static KNOWN: RwLock<BTreeMap<&'static str, Runs>> = RwLock::new(BTreeMap::new());

/// Makes an operator of one's own known to this process by its kind, which must be what its facts call it: graphs with it
/// can then be read ([`crate::graph::register`]) and run. To be called before such a network is built. Doing so again
/// changes nothing; another type of the same kind is an error.
pub fn register<T: CustomOperator + Forward + DeserializeOwned>(kind: &'static str) -> Result<(), KindTaken> {
    crate::graph::register::<T>(kind)?;
    let runs: Runs = |custom| custom.get::<T>().map(|operator| operator as &dyn Forward);
    KNOWN.write().unwrap_or_else(PoisonError::into_inner).insert(kind, runs);
    Ok(())
}

/// How libtorch runs a custom operator.
pub(super) fn of<'a>(node: &str, custom: &'a Custom) -> Result<&'a dyn Forward, ExecError> {
    let kind = custom.facts().kind();
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    let found = known.get(kind).and_then(|runs| runs(custom));
    found.ok_or_else(|| ExecError::NoExecution { node: node.into(), kind })
}
