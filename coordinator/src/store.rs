//! The key-value store the collectives meet in. One per generation: a new generation starts with an empty one.

use std::collections::BTreeMap;

/// Longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// Largest value, in bytes.
pub const MAX_VALUE: usize = 2 << 20;
/// Bytes that an entry counts for besides its key and value, so that a great many tiny ones are bounded as well.
pub const ENTRY: usize = 64;
/// Bytes of entries in all.
pub const MAX_TOTAL: usize = 64 << 20;

/// Why the store refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreRefusal {
    /// Key too long.
    #[error("store key `{key}...` has {len} bytes; at most {MAX_KEY} are allowed")]
    Key {
        /// Its beginning.
        key: String,
        /// Its length.
        len: usize,
    },
    /// Value too large.
    #[error("store value of key `{key}` has {len} bytes; at most {MAX_VALUE} are allowed")]
    Value {
        /// The key.
        key: String,
        /// Length of the value.
        len: usize,
    },
    /// Store full.
    #[error("the store is full ({MAX_TOTAL} bytes); key `{key}` does not fit: delete keys no longer needed")]
    Full {
        /// The key.
        key: String,
    },
    /// Counter is no number.
    #[error("store key `{key}` does not hold a decimal counter, so nothing can be added to it")]
    NotACounter {
        /// The key.
        key: String,
    },
    /// Counter overflow.
    #[error("counter `{key}` overflows")]
    Overflow {
        /// The key.
        key: String,
    },
}

fn size(key: &str, value: &[u8]) -> usize {
    ENTRY + key.len() + value.len()
}

/// Keys and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Store {
    entries: BTreeMap<String, Vec<u8>>,
    bytes: usize,
}

impl Store {
    /// Sets a key, replacing what it held.
    pub fn set(&mut self, key: &str, value: Vec<u8>) -> Result<(), StoreRefusal> {
        if key.len() > MAX_KEY {
            return Err(StoreRefusal::Key { key: key.chars().take(40).collect(), len: key.len() });
        }
        if value.len() > MAX_VALUE {
            return Err(StoreRefusal::Value { key: key.into(), len: value.len() });
        }
        let before = self.entries.get(key).map_or(0, |old| size(key, old));
        let bytes = self.bytes - before + size(key, &value);
        if bytes > MAX_TOTAL {
            return Err(StoreRefusal::Full { key: key.into() });
        }
        self.bytes = bytes;
        self.entries.insert(key.into(), value);
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.entries.get(key).map(Vec::as_slice)
    }

    /// Adds to a counter kept as decimal text (absent: 0) and returns the sum.
    pub fn add(&mut self, key: &str, amount: i64) -> Result<i64, StoreRefusal> {
        let old: i64 = match self.get(key) {
            None => 0,
            Some(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|t| t.parse().ok())
                .ok_or_else(|| StoreRefusal::NotACounter { key: key.into() })?,
        };
        let sum = old.checked_add(amount).ok_or_else(|| StoreRefusal::Overflow { key: key.into() })?;
        self.set(key, sum.to_string().into_bytes())?;
        Ok(sum)
    }

    /// Whether all keys exist.
    pub fn check<S: AsRef<str>>(&self, keys: &[S]) -> bool {
        keys.iter().all(|k| self.entries.contains_key(k.as_ref()))
    }

    /// Removes a key; whether it was there.
    pub fn delete(&mut self, key: &str) -> bool {
        match self.entries.remove(key) {
            Some(old) => {
                self.bytes -= size(key, &old);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_get_add_check_delete() {
        let mut s = Store::default();
        assert_eq!(s.get("k"), None);
        s.set("k", b"v".to_vec()).unwrap();
        s.set("k", b"w".to_vec()).unwrap();
        assert_eq!(s.get("k"), Some(&b"w"[..]));
        assert_eq!(s.add("n", 2), Ok(2));
        assert_eq!(s.add("n", -5), Ok(-3));
        assert_eq!(s.get("n"), Some(&b"-3"[..]));
        assert_eq!(s.add("k", 1), Err(StoreRefusal::NotACounter { key: "k".into() }));
        assert!(s.check(&["k", "n"]) && !s.check(&["k", "absent"]));
        assert!(s.delete("k") && !s.delete("k"));
        s.set("max", i64::MAX.to_string().into_bytes()).unwrap();
        assert_eq!(s.add("max", 1), Err(StoreRefusal::Overflow { key: "max".into() }));
    }

    #[test]
    fn limits_hold_and_deleting_frees() {
        let mut s = Store::default();
        assert!(matches!(s.set(&"k".repeat(MAX_KEY + 1), vec![]), Err(StoreRefusal::Key { .. })));
        assert!(matches!(s.set("k", vec![0; MAX_VALUE + 1]), Err(StoreRefusal::Value { .. })));
        let mut n = 0;
        while s.set(&format!("key{n}"), vec![0; MAX_VALUE]).is_ok() {
            n += 1;
        }
        assert_eq!(n, MAX_TOTAL / MAX_VALUE - 1);
        assert!(s.delete("key0"));
        s.set("again", vec![0; MAX_VALUE]).unwrap();
        let mut tiny = Store::default();
        let fitting = (0..).take_while(|n| tiny.set(&format!("{n:016}"), vec![]).is_ok()).count();
        assert_eq!(fitting, MAX_TOTAL / (ENTRY + 16));
    }
}
