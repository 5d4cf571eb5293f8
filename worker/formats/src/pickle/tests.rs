//! Pickles byte by byte, as Python's `pickle.dumps` writes them.

use super::*;

fn root(bytes: &[u8]) -> Pickle {
    let (pickle, taken) = read(bytes).unwrap();
    assert_eq!(taken, bytes.len());
    pickle
}

fn refused(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

#[test]
fn values_of_every_kind_are_read() {
    for (bytes, want) in [
        (&b"N."[..], Node::None),
        (b"\x80\x02\x88.", Node::Bool(true)),
        (b"I00\n.", Node::Bool(false)),
        (b"I-12\n.", Node::Int(-12)),
        (b"L5L\n.", Node::Int(5)),
        (b"J\xfe\xff\xff\xff.", Node::Int(-2)),
        (b"M\x01\x02.", Node::Int(513)),
        (b"\x8a\x00.", Node::Int(0)),
        (b"\x8a\x02\x00\xff.", Node::Int(-256)),
        (b"\x8a\x09\x01\x02\x03\x04\x05\x06\x07\x08\x09.", Node::Long(vec![1, 2, 3, 4, 5, 6, 7, 8, 9])),
        (b"F1.5\n.", Node::Float(1.5)),
        (b"G?\xf8\x00\x00\x00\x00\x00\x00.", Node::Float(1.5)),
        (b"S'ab'\n.", Node::Text("ab".into())),
        (b"Vab\n.", Node::Text("ab".into())),
        (b"U\x01\xff.", Node::Bytes(vec![255])),
        (b"X\x02\x00\x00\x00ab.", Node::Text("ab".into())),
        (b"\x8c\x02ab.", Node::Text("ab".into())),
        (b"C\x02\x00\xff.", Node::Bytes(vec![0, 255])),
        (b"\x8e\x01\x00\x00\x00\x00\x00\x00\x00\x07.", Node::Bytes(vec![7])),
    ] {
        let pickle = root(bytes);
        assert_eq!(*pickle.node(pickle.root()), want);
    }
}

#[test]
fn collections_are_filled_behind_their_marks_and_through_the_memo() {
    // {"a": (1, 2), "b": [3, "a"]}, the second "a" recalled.
    let p = root(b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01K\x02\x86X\x01\x00\x00\x00b](K\x03h\x01eu.");
    let a = p.get(p.root(), "a").unwrap();
    assert_eq!(p.sizes(a), Some(vec![1, 2]));
    let b = p.items(p.get(p.root(), "b").unwrap()).unwrap();
    assert_eq!((p.size(b[0]), p.text(b[1])), (Some(3), Some("a")));
    // Kept and recalled in every way there is: on a line, in four bytes, in the next free place.
    let p = root(b"(K\x01p7\nK\x02r\x09\x00\x00\x00K\x03\x94g7\nj\x09\x00\x00\x00h\x02t.");
    assert_eq!(p.sizes(p.root()), Some(vec![1, 2, 3, 1, 2, 3]));
    // A list that holds itself.
    let p = root(b"]q\x00h\x00a.");
    assert_eq!(p.items(p.root()), Some(&[p.root()][..]));
    // The last of two equal keys counts.
    let p = root(b"}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u.");
    assert_eq!(p.get(p.root(), "a").and_then(|id| p.size(id)), Some(2));
}

#[test]
fn a_call_is_described_and_never_made() {
    let p = root(b"cos\nsystem\nX\x04\x00\x00\x00true\x85R.");
    let ((module, name), args) = p.call(p.root()).unwrap();
    assert_eq!((module, name, p.text(args[0])), ("os", "system", Some("true")));
    assert_eq!(p.kind(p.root()), "an object of os.system");
    // What is no dict has no entries, whatever it is given.
    let p = root(b"cos\nsystem\n)R(X\x01\x00\x00\x00aK\x01u.");
    assert_eq!(p.entries(p.root()), None);
    let p = root(b"ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00aK\x01u.");
    assert_eq!(p.get(p.root(), "a").and_then(|id| p.size(id)), Some(1));
}

#[test]
fn states_and_storages_belong_to_their_objects() {
    let p = root(b"\x8c\x01m\x8c\x01n\x93)\x81K\x07b.");
    let Node::Object { state: Some(state), .. } = p.node(p.root()) else { panic!() };
    assert_eq!(p.size(*state), Some(7));
    let p = root(b"X\x01\x00\x00\x00kQ.");
    let Node::Persistent(id) = p.node(p.root()) else { panic!() };
    assert_eq!(p.text(*id), Some("k"));
}

#[test]
fn what_is_no_pickle_is_refused_and_says_why() {
    for (bytes, part) in [
        (&b""[..], "cut short"),
        (b"K", "cut short"),
        (b"X\xff\xff\xff\xffab.", "cut short"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.", "cut short"),
        (b".", "not there"),
        (b"K\x01(.", "not there"),
        (b"e.", "mark"),
        (b"K\x01K\x02a.", "no list"),
        (b"K\x01K\x02K\x03s.", "no dict"),
        (b"}(K\x01u.", "no value"),
        (b"h\x05.", "not kept"),
        (b"K\x01K\x02\x93.", "no string"),
        (b"K\x01K\x02b.", "no object"),
        (b"\x82\x01.", "0x82"),
        (b"Ix\n.", "invalid digit"),
    ] {
        assert!(refused(bytes).contains(part), "{bytes:?}: {}", refused(bytes));
    }
    let long = [&b"\x8b\xff\xff\x00\x00"[..], &[1; 0xffff], b"."].concat();
    assert!(refused(&long).contains("too long"));
    let many = [&b"("[..], &vec![b'N'; (1 << 22) + 1], b"t."].concat();
    assert!(refused(&many).contains("more than 4194304 values"));
}
