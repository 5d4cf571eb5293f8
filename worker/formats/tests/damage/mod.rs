//! Files that are damaged at random, in a way that can be made again.

/// A generator of its own, so that what fails can be made again: xorshift.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as usize
}

/// So many damaged forms of a file as `OCTRAIN_FUZZ_ROUNDS` says, 2000 where it does not, each with its number: bytes and
/// bits changed, taken out and put in, at one to eight places.
pub fn damaged(whole: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let rounds = std::env::var("OCTRAIN_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    (0..rounds).map(move |round| {
        let mut bytes = whole.to_vec();
        for _ in 0..1 + random(&mut seed) % 8 {
            let at = random(&mut seed) % bytes.len();
            match random(&mut seed) % 4 {
                0 => bytes[at] = random(&mut seed) as u8,
                1 => bytes[at] ^= 1 << (random(&mut seed) % 8),
                2 => drop(bytes.drain(at..(at + random(&mut seed) % 16).min(bytes.len()))),
                _ => bytes.insert(at, random(&mut seed) as u8),
            }
        }
        (round, bytes)
    })
}
