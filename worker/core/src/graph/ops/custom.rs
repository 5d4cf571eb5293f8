//! Operators from outside: any type with facts can stand in a graph.
//!
//! A graph that is written names such an operator by its kind and holds its attributes as JSON. To read it again the kind
//! must be known to the process: [`register`].

use super::{Layer, Operator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// An operator that Octrain does not have. Every type with facts that can be copied, compared and written is one.
pub trait CustomOperator: Operator + Any + Send + Sync {
    /// Its fields as JSON; what has no JSON is an error.
    fn attributes(&self) -> Result<Value, serde_json::Error>;

    /// Whether `other` is the same operator with the same attributes.
    fn same(&self, other: &(dyn CustomOperator + 'static)) -> bool;

    /// A copy.
    fn copy(&self) -> Box<dyn CustomOperator>;
}

impl<T: Operator + Clone + PartialEq + Serialize + Send + Sync + 'static> CustomOperator for T {
    fn attributes(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(self)
    }

    fn same(&self, other: &(dyn CustomOperator + 'static)) -> bool {
        (other as &dyn Any).downcast_ref::<T>().is_some_and(|other| self == other)
    }

    fn copy(&self) -> Box<dyn CustomOperator> {
        Box::new(self.clone())
    }
}

/// A custom operator as it stands in a graph.
#[derive(Debug)]
pub struct Custom(Box<dyn CustomOperator>);

impl Custom {
    /// This operator.
    pub fn new(operator: impl CustomOperator) -> Self {
        Self(Box::new(operator))
    }

    /// Its facts.
    pub fn facts(&self) -> &dyn Operator {
        &*self.0
    }

    /// Weight and bias, to be changed by passes.
    pub(super) fn layer_mut(&mut self) -> Option<&mut Layer> {
        self.0.layer_mut()
    }

    /// It as what it is; `None` if it is of another type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        (&*self.0 as &dyn Any).downcast_ref()
    }
}

impl Clone for Custom {
    fn clone(&self) -> Self {
        Self(self.0.copy())
    }
}

impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        self.0.same(&*other.0)
    }
}

/// A custom operator in a file.
#[derive(Serialize, Deserialize)]
struct Written {
    kind: String,
    attributes: Value,
}

impl Serialize for Custom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = self.0.kind().to_string();
        let attributes = self.0.attributes().map_err(serde::ser::Error::custom)?;
        Written { kind, attributes }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Custom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Written { kind, attributes } = Written::deserialize(deserializer)?;
        let fail = |what: String| serde::de::Error::custom(format!("operator `{kind}` {what}"));
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
        let Some((_, read)) = known.get(kind.as_str()) else {
            return Err(fail(format!(
                "is none that this program knows; register its type before the graph is read: \
                 graph::register::<TYPE>(\"{kind}\"), or exec::ops::register to run it too"
            )));
        };
        let operator = read(attributes).map_err(|e| fail(format!("cannot be read: {e}")))?;
        match operator.kind() == kind {
            true => Ok(Self(operator)),
            false => Err(fail(format!("is registered as a type that calls itself `{}`", operator.kind()))),
        }
    }
}

type Read = fn(Value) -> Result<Box<dyn CustomOperator>, serde_json::Error>;

/// The custom operators that this process can read, by kind.
static KNOWN: RwLock<BTreeMap<&'static str, (TypeId, Read)>> = RwLock::new(BTreeMap::new());

/// Two types want to be the operator of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another type is registered as operator `{0}`; give this one a kind of its own")]
pub struct KindTaken(pub &'static str);

/// Makes an operator known to this process by its kind, which must be what [`Operator::kind`] answers, so that graphs with
/// it can be read. Doing so again changes nothing; another type of the same kind is an error.
pub fn register<T: CustomOperator + DeserializeOwned>(kind: &'static str) -> Result<(), KindTaken> {
    let read: Read = |attributes| Ok(Box::new(serde_json::from_value::<T>(attributes)?));
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    let (registered, _) = known.entry(kind).or_insert((TypeId::of::<T>(), read));
    if *registered == TypeId::of::<T>() { Ok(()) } else { Err(KindTaken(kind)) }
}
