//! Settings that are a fixed number of values.

/// Parses `A,B,C`.
pub fn parse_list<T: std::str::FromStr, const N: usize>(text: &str) -> Result<[T; N], String> {
    let parts: Vec<T> = text.split(',').filter_map(|p| p.trim().parse().ok()).collect();
    let count = text.split(',').count();
    match <[T; N]>::try_from(parts) {
        Ok(list) if count == N => Ok(list),
        _ => Err(format!("{N} numbers separated by commas are wanted, without blanks")),
    }
}
