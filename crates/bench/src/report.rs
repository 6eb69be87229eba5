//! The figures: a table for people, JSON for comparisons.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    facts: BTreeMap<&'static str, String>,
    lines: Vec<Line>,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Or more.
    AtLeast(f64),
    /// Or less.
    AtMost(f64),
}

/// One figure.
#[derive(Debug)]
pub(crate) struct Line {
    key: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    goal: Option<Goal>,
    against: Option<&'static str>,
    note: Option<String>,
}

impl Line {
    /// A figure under a stable key. `unit` is `/s`, `ms`, `MiB`, `x`, ..
    pub(crate) fn new(key: &'static str, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { key, name: name.into(), value, unit, goal: None, against: None, note: None }
    }

    /// With what it should be.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// With its ratio to another figure of the same run.
    pub(crate) fn against(mut self, key: &'static str) -> Self {
        self.against = Some(key);
        self
    }

    /// With a remark below the table.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// With a remark, if there is one.
    pub(crate) fn maybe_note(mut self, note: Option<String>) -> Self {
        self.note = note.or(self.note);
        self
    }

    fn met(&self) -> Option<bool> {
        self.goal.map(|goal| match goal {
            Goal::AtLeast(least) => self.value >= least,
            Goal::AtMost(most) => self.value <= most,
        })
    }
}

impl Report {
    /// Says something about the run itself.
    pub(crate) fn fact(&mut self, name: &'static str, value: impl Into<String>) {
        self.facts.insert(name, value.into());
    }

    /// Adds a figure, and shows it at once: the table comes minutes later.
    pub(crate) fn add(&mut self, line: Line) {
        eprintln!("  {}: {} {}", line.name, number(line.value), line.unit);
        self.lines.push(line);
    }

    /// The table in Markdown, ready for `docs/benchmarks.md`.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.facts {
            let _ = writeln!(text, "- {name}: {value}");
        }
        let header = ["figure", "measured", "target", "", "of the raw limit"].map(str::to_owned);
        let mut rows = vec![header];
        let mut notes = Vec::new();
        for line in &self.lines {
            let mut name = line.name.clone();
            if let Some(note) = &line.note {
                notes.push(note);
                let _ = write!(name, " [{}]", notes.len());
            }
            rows.push([
                name,
                format!("{} {}", number(line.value), line.unit),
                line.goal.map(goal).unwrap_or_default(),
                line.met().map_or("", |met| if met { "met" } else { "MISSED" }).to_owned(),
                self.ratio(line).map(|(ratio, of)| format!("{ratio:.2} x {of}")).unwrap_or_default(),
            ]);
        }
        text.push('\n');
        align(&rows, &mut text);
        for (place, note) in notes.iter().enumerate() {
            let _ = write!(text, "\n[{}] {note}", place + 1);
        }
        text
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        let lines: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                json!({
                    "key": line.key, "name": line.name, "value": line.value, "unit": line.unit,
                    "target": line.goal.map(goal), "met": line.met(),
                    "ratio": self.ratio(line).map(|(ratio, _)| ratio), "against": line.against, "note": line.note,
                })
            })
            .collect();
        json!({ "facts": self.facts, "figures": lines })
    }

    fn ratio(&self, line: &Line) -> Option<(f64, &str)> {
        let other = self.lines.iter().find(|other| Some(other.key) == line.against)?;
        (other.value > 0.0).then(|| (line.value / other.value, other.name.as_str()))
    }
}

fn goal(goal: Goal) -> String {
    match goal {
        Goal::AtLeast(least) => format!(">= {}", number(least)),
        Goal::AtMost(most) => format!("<= {}", number(most)),
    }
}

/// Three significant digits for small values, whole numbers with separators for large ones.
pub(crate) fn number(value: f64) -> String {
    if value.abs() >= 1_000.0 {
        let digits = format!("{value:.0}");
        let mut text = String::new();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place) % 3 == 0 {
                text.push(',');
            }
            text.push(digit);
        }
        return text;
    }
    let decimals = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}

fn align(rows: &[[String; 5]], text: &mut String) {
    let mut widths = [0; 5];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for (place, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if place == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width + 2)).collect();
            let _ = writeln!(text, "|{}|", rules.join("|"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_was_met_what_was_missed_and_the_ratio_to_the_raw_limit() {
        let mut report = Report::default();
        report.fact("cores", "2");
        report.add(Line::new("commits", "commits", 4_000.0, "/s"));
        report.add(Line::new("accepted", "accepted", 6_000.4, "/s").goal(Goal::AtLeast(5_000.0)).against("commits"));
        report.add(Line::new("latency", "latency", 25.44, "ms").goal(Goal::AtMost(12.0)).note("why"));

        assert_lines(
            &report.table(),
            &[
                "- cores: 2",
                "",
                "| figure      | measured | target   |        | of the raw limit |",
                "|-------------|----------|----------|--------|------------------|",
                "| commits     | 4,000 /s |          |        |                  |",
                "| accepted    | 6,000 /s | >= 5,000 | met    | 1.50 x commits   |",
                "| latency [1] | 25.4 ms  | <= 12.0  | MISSED |                  |",
                "",
                "[1] why",
            ],
        );
    }

    #[test]
    fn numbers_are_short_and_exact_enough() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(0.517), "0.52");
        assert_eq!(number(250.4), "250");
    }

    fn assert_lines(text: &str, lines: &[&str]) {
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    }
}
