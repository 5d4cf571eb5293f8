//! The bytes of a journal, pure: records to bytes and back.
//!
//! ```text
//! MAGIC                                             16 bytes
//! each append:  length of the payload               4 bytes, little endian
//!               checksum of number and length       4 bytes
//!               payload (protobuf), some records
//!               checksum of number and payload      8 bytes
//! ```
//! Numbers count the appends from 0; checksums are the first bytes of SHA-256. What happened at once is one append, and is there as
//! a whole or not at all. Each is synced before the next one, so one that was cut short is the last: it ends before its length says,
//! or is nothing but the zeros that a file system leaves where it had yet to write. Whatever else does not agree with its
//! checksum was damaged later, and what stood there is not guessed at.

use super::record::{Entry, Item, Record};
use prost::Message;
use sha2::{Digest, Sha256};

/// How a journal begins.
pub const MAGIC: &[u8; 16] = b"octrain journal\n";
const HEAD: usize = 8;
const TAIL: usize = 8;

/// What a journal's bytes say.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// All records of whole appends.
    pub records: Vec<Record>,
    /// Whole appends.
    pub appends: u64,
    /// Bytes up to the end of the last of them; what follows was never finished.
    pub whole: usize,
}

/// Bytes that nobody has written as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Of something else.
    #[error("it does not begin as one")]
    NotAJournal,
    /// One that was whole once.
    #[error("its entry {number}, at byte {offset}, is damaged")]
    Entry {
        /// Counted from 0.
        number: u64,
        /// Where it begins.
        offset: usize,
    },
}

fn checksum<const N: usize>(number: u64, bytes: &[u8]) -> [u8; N] {
    let hash = Sha256::new().chain_update(number.to_le_bytes()).chain_update(bytes).finalize();
    std::array::from_fn(|i| hash[i])
}

/// The bytes of an append that follows `number` others.
pub fn encode(number: u64, records: &[Record]) -> Vec<u8> {
    let items = records.iter().map(|record| Item { record: Some(record.clone()) });
    let payload = Entry { items: items.collect() }.encode_to_vec();
    let length = (payload.len() as u32).to_le_bytes();
    let (head, tail) = (checksum::<4>(number, &length), checksum::<TAIL>(number, &payload));
    [&length[..], &head, &payload, &tail].concat()
}

/// What the bytes of a journal say.
pub fn decode(bytes: &[u8]) -> Result<Content, Damage> {
    let mut content = Content { records: Vec::new(), appends: 0, whole: 0 };
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        // Its first write was cut short.
        let begun = MAGIC.starts_with(bytes) || bytes.iter().all(|b| *b == 0);
        return if begun { Ok(content) } else { Err(Damage::NotAJournal) };
    };
    content.whole = MAGIC.len();
    loop {
        let number = content.appends;
        let damaged = Damage::Entry { number, offset: content.whole };
        let Some((head, after)) = rest.split_at_checked(HEAD) else { return Ok(content) };
        if rest.iter().all(|b| *b == 0) {
            return Ok(content);
        }
        let (length, check) = head.split_at(4);
        if check != checksum::<4>(number, length) {
            return Err(damaged);
        }
        let length = length.iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte));
        let Some((payload, after)) = after.split_at_checked(length) else { return Ok(content) };
        let Some((tail, after)) = after.split_at_checked(TAIL) else { return Ok(content) };
        if tail != checksum::<TAIL>(number, payload) {
            // The last one, of which the end was never written.
            let unwritten = after.is_empty() && tail.iter().all(|b| *b == 0);
            return if unwritten { Ok(content) } else { Err(damaged) };
        }
        let entry = Entry::decode(payload).map_err(|_| damaged.clone())?;
        for item in entry.items {
            content.records.push(item.record.ok_or_else(|| damaged.clone())?);
        }
        content.appends += 1;
        content.whole += HEAD + length + TAIL;
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Gone, Left, Run};
    use super::*;

    fn records() -> Vec<Record> {
        let run = Run { uid: 7, job_id: "octrain".into(), generation: 1, world_size: 2, ..Run::default() };
        let gone = Gone { member: "m".into(), dropped: None };
        vec![
            Record::Run(run),
            Record::Term(1),
            Record::Gone(gone),
            Record::Left(Left { member: "n".into(), interrupted: true }),
        ]
    }

    /// All of them, one append each but for the first two.
    fn appends() -> Vec<Vec<Record>> {
        let all = records();
        vec![all[..2].to_vec(), vec![all[2].clone()], vec![all[3].clone()]]
    }

    fn bytes(appends: &[Vec<Record>]) -> Vec<u8> {
        let encoded = appends.iter().zip(0..).flat_map(|(records, number)| encode(number, records));
        MAGIC.iter().copied().chain(encoded).collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let whole = bytes(&appends());
        assert_eq!(decode(&whole), Ok(Content { records: records(), appends: 3, whole: whole.len() }));
        assert_eq!(decode(b""), Ok(Content { records: vec![], appends: 0, whole: 0 }));
    }

    #[test]
    fn cut_short_at_any_byte_it_says_what_was_whole() {
        let all = appends();
        let ends: Vec<usize> = (0..=all.len()).map(|n| bytes(&all[..n]).len()).collect();
        let whole = bytes(&all);
        for cut in 0..=whole.len() {
            // As it is, and where the file had grown before it was written.
            for zeros in [0, 1, 7, 4096] {
                let torn = [&whole[..cut], &vec![0; zeros]].concat();
                let number = ends.iter().filter(|end| **end <= cut).count();
                let (records, whole) = match number {
                    0 => (Vec::new(), 0),
                    n => (all[..n - 1].concat(), ends[n - 1]),
                };
                match decode(&torn) {
                    Ok(content) => assert_eq!((content.records, content.whole), (records, whole), "{cut}"),
                    // Half of an entry, and zeros that end where it does not: not what an append leaves behind.
                    Err(damage) => assert!(zeros > 0 && !ends.contains(&cut), "{cut} {zeros} {damage}"),
                }
            }
        }
    }

    #[test]
    fn a_byte_that_changed_anywhere_is_an_error_and_never_another_journal() {
        let whole = bytes(&appends());
        for position in 0..whole.len() {
            for flip in [1, 0x80, 0xff, whole[position]] {
                let mut other = whole.clone();
                other[position] ^= flip;
                if other != whole {
                    let read = decode(&other);
                    assert!(read.is_err(), "byte {position} ^ {flip:#x}: {read:?}");
                }
            }
        }
    }

    #[test]
    fn entries_in_another_order_or_twice_or_of_something_else_are_refused() {
        let all = appends();
        let first = bytes(&all[..1]);
        let damaged = Err(Damage::Entry { number: 1, offset: first.len() });
        assert_eq!(decode(&[first.clone(), encode(2, &all[1])].concat()), damaged);
        assert_eq!(decode(&[first.clone(), encode(0, &all[1])].concat()), damaged);
        assert_eq!(decode(b"{\"kind\": \"step\"}\n"), Err(Damage::NotAJournal));
    }
}
