//! Plain-text tables.

use std::fmt::Write;

/// Rows under headers. A column of numbers (and `-` for none) is aligned right, any other left.
pub fn table<const N: usize>(headers: &[&str; N], rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|i| {
        rows.iter().map(|r| r[i].chars().count()).chain([headers[i].chars().count()]).max().unwrap_or(0)
    });
    let numbers: [bool; N] =
        std::array::from_fn(|i| rows.iter().all(|r| r[i] == "-" || r[i].parse::<f64>().is_ok()));
    let mut out = String::new();
    let mut line = |cells: [&str; N]| {
        let mut text = String::new();
        for (i, cell) in cells.iter().enumerate() {
            let gap = if i == 0 { "" } else { "  " };
            let w = widths[i];
            let _ =
                if numbers[i] { write!(text, "{gap}{cell:>w$}") } else { write!(text, "{gap}{cell:<w$}") };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(*headers);
    let rules = widths.map(|w| "-".repeat(w));
    line(std::array::from_fn(|i| rules[i].as_str()));
    for row in rows {
        line(std::array::from_fn(|i| row[i].as_str()));
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows = [["a".to_string(), "12.50".into()], ["long name".into(), "-".into()]];
        let text = super::table(&["x", "top-1"], &rows);
        assert_eq!(text, "x          top-1\n---------  -----\na          12.50\nlong name      -\n");
    }
}
