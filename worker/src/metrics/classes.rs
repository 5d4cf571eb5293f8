//! Accuracy of each class.

use super::table;
use serde_json::{Value, json};

/// One class in an evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassMetrics {
    /// Its name.
    pub name: String,
    /// Its images.
    pub images: u64,
    /// Images that were taken for it.
    pub right: u64,
}

impl ClassMetrics {
    /// Percent of its images that were taken for it; none where it has no image.
    pub fn top1(&self) -> Option<f64> {
        (self.images > 0).then(|| 100.0 * self.right as f64 / self.images as f64)
    }

    /// As an object of the report file.
    pub fn json(&self) -> Value {
        json!({"class": self.name, "images": self.images, "top1": self.top1()})
    }
}

/// Classes listed in the table.
const LISTED: usize = 10;

/// The classes of the lowest accuracy, lowest first, as a table; those without images are left out.
pub fn worst_classes(classes: &[ClassMetrics]) -> String {
    let mut known: Vec<(f64, &ClassMetrics)> = classes.iter().filter_map(|c| Some((c.top1()?, c))).collect();
    // A stable sort: equals stay in the order of their labels.
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rows: Vec<[String; 3]> = known
        .iter()
        .take(LISTED)
        .map(|(top1, c)| [c.name.clone(), c.images.to_string(), format!("{top1:.2}")])
        .collect();
    let head = match known.len() > LISTED {
        true => format!("worst {LISTED} of {} classes", known.len()),
        false => "class".into(),
    };
    table(&[head.as_str(), "images", "top1"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_come_first_and_classes_without_images_are_left_out() {
        let class = |name: &str, images, right| ClassMetrics { name: name.into(), images, right };
        let few = [class("cat", 4, 3), class("none", 0, 0), class("dog", 2, 1)];
        assert_eq!(
            worst_classes(&few),
            "class  images   top1\n-----  ------  -----\ndog         2  50.00\ncat         4  75.00\n"
        );
        assert_eq!(few[1].json()["top1"], Value::Null);
        let many: Vec<_> = (0..30).map(|i| class(&format!("c{i}"), 30, 30 - i)).collect();
        let text = worst_classes(&many);
        assert!(
            text.starts_with("worst 10 of 30 classes") && text.contains("c29") && !text.contains("c19"),
            "{text}"
        );
    }
}
