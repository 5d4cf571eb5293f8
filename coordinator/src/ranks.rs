//! Ranks: by host in natural order, then by local index. The same workers always get the same ranks, whatever
//! the order they came in, and when some go, the others keep their order.

use octrain_proto::v1::Placement;
use std::cmp::Ordering;

/// Where a worker is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Name of the host.
    pub host: String,
    /// Index among the workers of the host.
    pub local_index: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "host {} local {}", self.host, self.local_index)
    }
}

/// Compares as people do: runs of digits by their number, so that `pod-2` comes before `pod-10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    loop {
        match (x.chars().next(), y.chars().next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(c), Some(d)) if c.is_ascii_digit() && d.is_ascii_digit() => {
                let (number_x, rest_x) = split_digits(x);
                let (number_y, rest_y) = split_digits(y);
                let (short_x, short_y) = (number_x.trim_start_matches('0'), number_y.trim_start_matches('0'));
                let order = short_x.len().cmp(&short_y.len()).then_with(|| short_x.cmp(short_y));
                if order != Ordering::Equal {
                    return order;
                }
                (x, y) = (rest_x, rest_y);
            }
            (Some(c), Some(d)) if c == d => {
                x = &x[c.len_utf8()..];
                y = &y[d.len_utf8()..];
            }
            (Some(c), Some(d)) => return c.cmp(&d),
        }
    }
}

fn split_digits(s: &str) -> (&str, &str) {
    s.split_at(s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len()))
}

/// Gives every worker its rank; the result is in the order of ranks. Places must be distinct.
pub fn assign(places: &[Place]) -> Vec<Placement> {
    let mut sorted: Vec<&Place> = places.iter().collect();
    sorted.sort_by(|a, b| natural(&a.host, &b.host).then(a.local_index.cmp(&b.local_index)));
    let mut roster: Vec<Placement> = Vec::with_capacity(sorted.len());
    for (rank, place) in sorted.into_iter().enumerate() {
        let local_rank = match roster.last() {
            Some(before) if before.host == place.host => before.local_rank + 1,
            _ => 0,
        };
        roster.push(Placement {
            rank: rank as u32,
            host: place.host.clone(),
            local_index: place.local_index,
            local_rank,
            ..Placement::default()
        });
    }
    roster
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        let (host, local) = text.split_once(':').unwrap();
        Place { host: host.into(), local_index: local.parse().unwrap() }
    }

    fn order(places: &[&str]) -> Vec<String> {
        let places: Vec<Place> = places.iter().map(|p| place(p)).collect();
        assign(&places).into_iter().map(|p| format!("{}:{}", p.host, p.local_index)).collect()
    }

    #[test]
    fn natural_order() {
        for (less, more) in [
            ("pod-2", "pod-10"),
            ("pod-9", "pod-10"),
            ("a", "b"),
            ("a", "a1"),
            ("a1b2", "a1b10"),
            ("node01", "node2"),
            ("node01", "node1"),
            ("x9", "x18446744073709551616000"),
            ("ä1", "ä2"),
            ("", "0"),
        ] {
            assert_eq!(natural(less, more), Ordering::Less, "{less} < {more}");
            assert_eq!(natural(more, less), Ordering::Greater, "{more} > {less}");
            assert_eq!(natural(less, less), Ordering::Equal);
        }
    }

    #[test]
    fn ranks_do_not_depend_on_the_order_of_arrival() {
        let want = ["pod-2:0", "pod-2:1", "pod-10:0", "pod-10:1"];
        for arrival in [
            ["pod-10:1", "pod-2:0", "pod-10:0", "pod-2:1"],
            ["pod-2:0", "pod-2:1", "pod-10:0", "pod-10:1"],
            ["pod-10:1", "pod-10:0", "pod-2:1", "pod-2:0"],
        ] {
            assert_eq!(order(&arrival), want);
        }
    }

    #[test]
    fn survivors_keep_their_order_and_local_ranks_close_up() {
        assert_eq!(order(&["pod-10:1", "pod-2:3", "pod-2:1"]), ["pod-2:1", "pod-2:3", "pod-10:1"]);
        let roster = assign(&[place("a:1"), place("a:3"), place("b:7")]);
        let local: Vec<u32> = roster.iter().map(|p| p.local_rank).collect();
        assert_eq!(local, [0, 1, 0]);
        assert_eq!(roster.iter().map(|p| p.rank).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
