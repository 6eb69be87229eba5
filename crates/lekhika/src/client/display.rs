//! Progress on a terminal: a bar per node and the text as it is written; plain lines where there is no terminal.

use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// What a person sees of an execution.
pub struct Display {
    screen: Screen,
    nodes: BTreeMap<String, Node>,
    text: Transcript,
}

enum Screen {
    Terminal(MultiProgress),
    Plain,
}

struct Node {
    bar: Option<ProgressBar>,
    units: u64,
    done: u64,
}

/// The text of the one unit that is shown; units written in parallel only move their bar.
#[derive(Default)]
struct Transcript {
    shown: Option<(String, i64)>,
    pending: String,
}

/// Columns where there is no terminal.
const PLAIN_WIDTH: usize = 80;

impl Transcript {
    /// Takes the next line that can be shown: a whole one, or as many words as fit once more than that has come. A
    /// paragraph is one line of Markdown: nobody should wait for its end.
    fn next_line(&mut self, width: usize) -> Option<String> {
        let whole = self.pending.find('\n');
        let available = self.pending.get(..whole.unwrap_or(self.pending.len()))?;
        if let Some((beyond, _)) = available.char_indices().nth(width) {
            // A space right behind the last column still ends a line that fits.
            let fitting = available.get(..beyond)?;
            let at_space = available.get(beyond..)?.starts_with(' ').then_some(beyond);
            let end = at_space
                .or_else(|| fitting.rfind(' ').filter(|at| !fitting.get(..*at).unwrap_or("").trim().is_empty()));
            let line: String = self.pending.drain(..end.unwrap_or(beyond)).collect();
            if end.is_some() {
                self.pending.remove(0);
            }
            return Some(line);
        }
        let line: String = self.pending.drain(..=whole?).collect();
        Some(line.trim_end_matches('\n').to_owned())
    }
}

impl Display {
    /// Bars when standard output is a terminal, lines otherwise.
    #[must_use]
    pub fn detect() -> Self {
        let screen = if std::io::stdout().is_terminal() {
            Screen::Terminal(MultiProgress::with_draw_target(ProgressDrawTarget::stdout()))
        } else {
            Screen::Plain
        };
        Self { screen, nodes: BTreeMap::new(), text: Transcript::default() }
    }

    /// Shows one event. Unknown names are ignored: the log may say more than this release knows.
    pub fn event(&mut self, name: &str, data: &Value) {
        let text = |field: &str| data.get(field).and_then(Value::as_str).unwrap_or_default();
        let number = |field: &str| data.get(field).and_then(Value::as_i64).unwrap_or_default();
        match name {
            "execution.queueUpdated" => self.queued(data),
            "execution.started" if number("attempt") > 1 => self.line("another executor took it over"),
            "execution.started" => self.line("started"),
            "node.started" => self.node_started(text("node"), number("units")),
            "node.progress" => self.node_progress(text("node"), number("done"), number("units")),
            "node.retrying" => self.line(&format!("{}: trying again ({})", text("node"), text("code"))),
            "node.completed" => self.node_completed(text("node")),
            "node.failed" => self.line(&format!("{}: failed ({})", text("node"), text("code"))),
            "output.delta" => self.delta((text("node"), number("unit")), number("offset"), text("text")),
            "output.reset" => self.reset(text("node"), number("unit")),
            "execution.waiting" => self.line(&format!("waiting: {}", text("reason"))),
            "execution.cancelling" => self.line("stopping"),
            name if domain::event::is_terminal_name(name) => self.finish(),
            _ => {}
        }
    }

    /// Prints a line above the bars.
    pub fn line(&self, line: &str) {
        match &self.screen {
            // A terminal that went away is no reason to stop following.
            Screen::Terminal(bars) => drop(bars.println(line)),
            Screen::Plain => super::say(line),
        }
    }

    fn queued(&self, data: &Value) {
        let position = data.pointer("/queue/position").or_else(|| data.get("position")).and_then(Value::as_u64);
        if let Some(position) = position {
            self.line(&format!("queued, position {position}"));
        }
    }

    fn node_started(&mut self, node: &str, units: i64) {
        let units = u64::try_from(units).unwrap_or(1).max(1);
        let bar = match &self.screen {
            Screen::Terminal(bars) => {
                let bar = bars.add(ProgressBar::new(units).with_style(style()).with_prefix(node.to_owned()));
                bar.enable_steady_tick(Duration::from_millis(120));
                Some(bar)
            }
            Screen::Plain => None,
        };
        if bar.is_none() {
            super::say(&format!("{node}: started"));
        }
        if let Some(old) = self.nodes.insert(node.to_owned(), Node { bar, units, done: 0 }).and_then(|old| old.bar) {
            old.finish_and_clear();
        }
    }

    fn node_progress(&mut self, node: &str, done: i64, units: i64) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        state.done = u64::try_from(done).unwrap_or_default();
        state.units = u64::try_from(units).unwrap_or(1).max(1);
        match &state.bar {
            Some(bar) => {
                bar.set_length(state.units);
                bar.set_position(state.done);
            }
            None if state.units > 1 => super::say(&format!("{node}: {done} of {units}")),
            None => {}
        }
    }

    fn node_completed(&mut self, node: &str) {
        if self.text.shown.as_ref().is_some_and(|(shown, _)| shown == node) {
            self.flush_text();
        }
        match self.nodes.get(node) {
            Some(Node { bar: Some(bar), .. }) => bar.finish(),
            _ => self.line(&format!("{node}: done")),
        }
    }

    /// Shows text of a node whose units come one after the other; of units written in parallel only the first, because
    /// nobody can read two texts at once, or one from its middle.
    fn delta(&mut self, (node, unit): (&str, i64), offset: i64, text: &str) {
        let following = self.text.shown.as_ref().is_some_and(|(shown, at)| shown == node && *at == unit);
        if !following {
            let in_order = self.nodes.get(node).is_none_or(|state| i64::try_from(state.done) == Ok(unit));
            let busy = self.text.shown.as_ref().is_some_and(|(shown, _)| shown != node);
            // Structured answers are for the next node, not for a reader.
            if offset > 0
                || !in_order
                || busy
                || text.trim_start().starts_with(['{', '['])
                || text.trim_start().starts_with("```")
            {
                return;
            }
            self.flush_text();
            self.text.shown = Some((node.to_owned(), unit));
        }
        self.text.pending.push_str(text);
        let width = self.width();
        while let Some(line) = self.text.next_line(width) {
            self.line(&line);
        }
    }

    /// Asked again for each piece of text: a window may be resized.
    fn width(&self) -> usize {
        let columns = match &self.screen {
            Screen::Terminal(_) => console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns)),
            Screen::Plain => None,
        };
        columns.filter(|columns| *columns >= 20).unwrap_or(PLAIN_WIDTH)
    }

    fn reset(&mut self, node: &str, unit: i64) {
        if self.text.shown.as_ref().is_some_and(|(shown, at)| shown == node && *at == unit) {
            self.text = Transcript::default();
            self.line(&format!("{node}: this text is written anew"));
        }
    }

    fn flush_text(&mut self) {
        let Transcript { shown, pending } = std::mem::take(&mut self.text);
        if shown.is_some() {
            self.line(&pending);
        }
    }

    fn finish(&mut self) {
        self.flush_text();
        for bar in self.nodes.values().filter_map(|node| node.bar.as_ref()) {
            if !bar.is_finished() {
                bar.abandon();
            }
        }
    }
}

fn style() -> ProgressStyle {
    let template = "{prefix:>16} {bar:28} {pos}/{len} {elapsed:>5}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(deltas: &[&str], width: usize) -> (Vec<String>, String) {
        let mut text = Transcript::default();
        let mut lines = Vec::new();
        for delta in deltas {
            text.pending.push_str(delta);
            lines.extend(std::iter::from_fn(|| text.next_line(width)));
        }
        (lines, text.pending)
    }

    #[test]
    fn a_paragraph_is_shown_as_it_comes_and_breaks_between_words() {
        let (shown, pending) = lines(&["The moss ", "of old walls is so", "ft.\nIt grows", " slowly"], 10);

        assert_eq!(shown, ["The moss", "of old", "walls is", "soft.", "It grows"]);
        assert_eq!(pending, "slowly");
    }

    #[test]
    fn of_units_written_in_parallel_none_is_shown_from_its_middle() {
        let mut display = Display { screen: Screen::Plain, nodes: BTreeMap::new(), text: Transcript::default() };
        let delta =
            |unit: i64, offset: i64| serde_json::json!({"node": "n", "unit": unit, "offset": offset, "text": "word "});
        let shown = |display: &Display| display.text.shown.as_ref().map(|(_, unit)| *unit);
        display.event("node.started", &serde_json::json!({"node": "n", "units": 2}));

        display.event("output.delta", &delta(0, 0));
        display.event("output.delta", &delta(1, 0));
        display.event("node.progress", &serde_json::json!({"node": "n", "done": 1, "units": 2}));
        display.event("output.delta", &delta(1, 5));
        assert_eq!(shown(&display), Some(0));
        display.event("output.delta", &delta(1, 0));
        assert_eq!(shown(&display), Some(1), "one that begins when its turn has come is");
    }

    #[test]
    fn what_exactly_fits_waits_for_its_end() {
        let (shown, pending) = lines(&["0123456789", "\n", "\n", "abc"], 10);

        assert_eq!(shown, ["0123456789", ""]);
        assert_eq!(pending, "abc");
    }

    #[test]
    fn a_script_without_spaces_breaks_at_the_width() {
        let (shown, pending) = lines(&["\u{82d4}\u{306f}\u{53e4}\u{3044}\u{58c1}"], 2);

        assert_eq!(shown, ["\u{82d4}\u{306f}", "\u{53e4}\u{3044}"]);
        assert_eq!(pending, "\u{58c1}");
    }
}
