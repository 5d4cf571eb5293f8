//! One self-contained HTML page: text, tables, bar charts and histograms as plain data in, a string out. No scripts,
//! no outside fonts, styles or pictures; readable in light and dark. What has no number is shown as text.

mod axis;
mod bars;
mod histogram;
mod table;
mod text;

pub use bars::{Bar, Bars, Threshold};
pub use histogram::{Histogram, Marker};
pub use table::Table;
pub use text::{escape, number};

/// A piece of a page.
#[derive(Debug, Clone, PartialEq)]
enum Part {
    Heading(String),
    Paragraph(String),
    Table(Table),
    Bars(Bars),
    /// Small pictures side by side.
    Histograms(Vec<Histogram>),
}

/// A page under construction.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    title: String,
    parts: Vec<Part>,
}

/// Colours by what they are for, in light and in dark.
const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fff;--ink:#1c2024;--dim:#5f6b76;--line:#d5dbe1;--bar:#3b7dd8;--bad:#d6453d;--mark:#c2600a;--stripe:#f4f6f8}\
@media(prefers-color-scheme:dark){:root{--back:#14181c;--ink:#e4e8ec;--dim:#97a3ae;--line:#343c44;--bar:#6aa5f2;--bad:#f0716a;--mark:#f0a050;--stripe:#1b2126}}\
body{background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid var(--line)}p{max-width:50rem}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .7rem;text-align:left;white-space:nowrap}th{color:var(--dim);border-bottom:2px solid var(--line)}\
tr:nth-child(even) td{background:var(--stripe)}.n{text-align:right}\
figure{margin:1rem 0}figcaption{font-weight:600;font-size:.9rem}figcaption small{font-weight:400;color:var(--dim);display:block}\
.many{display:grid;grid-template-columns:repeat(auto-fill,minmax(18.5rem,1fr));gap:1rem}.many figure{margin:0}\
svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:var(--ink)}\
svg .dim{fill:var(--dim)}svg .e{text-anchor:end}svg .m{text-anchor:middle}svg .bar{fill:var(--bar)}svg .bad{fill:var(--bad)}\
svg .axis{stroke:var(--line)}svg .mark{stroke:var(--mark);stroke-width:1.5;stroke-dasharray:4 3}svg text.marked{fill:var(--mark)}";

impl Page {
    /// An empty page.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), parts: Vec::new() }
    }

    fn push(&mut self, part: Part) -> &mut Self {
        self.parts.push(part);
        self
    }

    /// Begins a section.
    pub fn heading(&mut self, text: impl Into<String>) -> &mut Self {
        self.push(Part::Heading(text.into()))
    }

    /// Adds running text.
    pub fn paragraph(&mut self, text: impl Into<String>) -> &mut Self {
        self.push(Part::Paragraph(text.into()))
    }

    /// Adds a table.
    pub fn table(&mut self, table: Table) -> &mut Self {
        self.push(Part::Table(table))
    }

    /// Adds a horizontal bar chart.
    pub fn bars(&mut self, bars: Bars) -> &mut Self {
        self.push(Part::Bars(bars))
    }

    /// Adds histograms side by side.
    pub fn histograms(&mut self, all: Vec<Histogram>) -> &mut Self {
        self.push(Part::Histograms(all))
    }

    /// The whole page.
    pub fn render(&self) -> String {
        let title = escape(&self.title);
        let mut out = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        );
        for part in &self.parts {
            out.push_str(&match part {
                Part::Heading(t) => format!("<h2>{}</h2>", escape(t)),
                Part::Paragraph(t) => format!("<p>{}</p>", escape(t)),
                Part::Table(t) => t.render(),
                Part::Bars(b) => b.render(),
                Part::Histograms(all) => {
                    let all: String = all.iter().map(Histogram::render).collect();
                    format!("<div class=\"many\">\n{all}</div>")
                }
            });
            out.push('\n');
        }
        out.push_str("</body>\n</html>\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_its_parts_in_order_and_refers_to_nothing_outside() {
        let mut page = Page::new("Layers of <ResNet20>");
        page.heading("One & two").paragraph("a < b");
        page.table(Table::new(["name", "x"], [["n", "1"]]));
        page.bars(Bars::new("SQNR", "dB", [Bar::new("conv1", 12.0)]));
        page.histograms(vec![Histogram::new("relu", 0.0, 1.0, vec![1, 2])]);
        let html = page.render();
        let order =
            ["<h1>Layers of &lt;ResNet20&gt;", "<h2>One &amp; two", "<p>a &lt; b", "<table>", "SQNR", "relu"];
        let places: Vec<usize> =
            order.iter().map(|o| html.find(o).unwrap_or_else(|| panic!("{o}"))).collect();
        assert!(places.is_sorted(), "{places:?}");
        for outside in ["<script", "http://", "https://", "src=", "href=", "url(", "@import"] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.contains("prefers-color-scheme:dark"));
        assert!(html.ends_with("</html>\n"));
    }

    #[test]
    fn an_empty_page_is_a_page() {
        let html = Page::new("t").render();
        assert!(html.contains("<h1>t</h1>\n</body>"));
    }
}
