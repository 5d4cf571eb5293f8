//! Tables.

use super::escape;
use std::fmt::Write;

/// A table; a column of numbers (and `-` for none) is aligned right, any other left.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

fn numeric(cell: &str) -> bool {
    cell == "-" || cell.trim_end_matches(['%', ' ']).parse::<f64>().is_ok()
}

impl Table {
    /// Rows under headers. A row that is shorter than the headers ends with empty cells; a longer one is cut.
    pub fn new<H, R, C>(headers: H, rows: R) -> Self
    where
        H: IntoIterator<Item: Into<String>>,
        R: IntoIterator<Item = C>,
        C: IntoIterator<Item: Into<String>>,
    {
        let headers: Vec<String> = headers.into_iter().map(Into::into).collect();
        let fit = |row: C| {
            let mut row: Vec<String> = row.into_iter().map(Into::into).collect();
            row.resize(headers.len(), String::new());
            row
        };
        let rows = rows.into_iter().map(fit).collect();
        Self { headers, rows }
    }

    pub(super) fn render(&self) -> String {
        let class: Vec<&str> = (0..self.headers.len())
            .map(|i| {
                let all = !self.rows.is_empty() && self.rows.iter().all(|r| numeric(&r[i]));
                if all { " class=\"n\"" } else { "" }
            })
            .collect();
        let line = |out: &mut String, tag: &str, cells: &[String]| {
            out.push_str("<tr>");
            for (cell, class) in cells.iter().zip(&class) {
                let _ = write!(out, "<{tag}{class}>{}</{tag}>", escape(cell));
            }
            out.push_str("</tr>\n");
        };
        let mut out = String::from("<div class=\"scroll\"><table>\n<thead>");
        line(&mut out, "th", &self.headers);
        out.push_str("</thead>\n<tbody>\n");
        self.rows.iter().for_each(|r| line(&mut out, "td", r));
        out.push_str("</tbody></table></div>");
        if self.rows.is_empty() {
            out.push_str("\n<p>No rows.</p>");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_numbers_are_aligned_right_and_text_is_escaped() {
        let table = Table::new(["layer <1>", "top-1", "share"], [["a&b", "1.5", "3 %"], ["c", "-", "NaN"]]);
        let html = table.render();
        assert!(
            html.contains("<th>layer &lt;1&gt;</th><th class=\"n\">top-1</th><th class=\"n\">share</th>"),
            "{html}"
        );
        assert!(html.contains("<td>a&amp;b</td><td class=\"n\">1.5</td>"), "{html}");
        assert!(html.contains("<td class=\"n\">NaN</td>"), "{html}");
    }

    #[test]
    fn rows_are_as_wide_as_the_headers_and_no_rows_are_said() {
        let html = Table::new(["a", "b"], [vec!["1"], vec!["1", "2", "3"]]).render();
        assert_eq!(html.matches("<td").count(), 4, "{html}");
        assert!(!html.contains('3'));
        let empty = Table::new(["a"], Vec::<Vec<String>>::new()).render();
        assert!(empty.contains("No rows.") && empty.contains("<th>a</th>"), "{empty}");
    }
}
