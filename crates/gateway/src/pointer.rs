//! Places in a JSON document as RFC 6901 pointers: few and short, whatever a client sent.

use serde_json::Value;

/// Problems that are shown at most.
pub(crate) const SHOWN: usize = 100;
/// Bytes of a pointer at most; a longer one is cut.
const LENGTH: usize = 1_000;

/// One step into a document.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

/// The pointer of a place. What no text may hold is shown as U+FFFD.
pub(crate) fn render(steps: &[Step<'_>]) -> String {
    let mut pointer = String::new();
    for step in steps {
        pointer.push('/');
        match step {
            Step::Index(index) => pointer.push_str(&index.to_string()),
            Step::Name(name) => {
                for letter in name.chars() {
                    if pointer.len() > LENGTH {
                        break;
                    }
                    match letter {
                        '~' => pointer.push_str("~0"),
                        '/' => pointer.push_str("~1"),
                        '\0' => pointer.push('\u{fffd}'),
                        letter => pointer.push(letter),
                    }
                }
            }
        }
        if pointer.len() > LENGTH {
            pointer.push('…');
            break;
        }
    }
    pointer
}

/// The first places below `root` of texts and names that contain `what`. A place is written only when it is one.
pub(crate) fn find(value: &Value, what: char, root: &[Step<'_>]) -> Vec<String> {
    let mut search = Search { what, steps: root.to_vec(), found: Vec::new() };
    search.visit(value);
    search.found
}

struct Search<'a> {
    what: char,
    steps: Vec<Step<'a>>,
    found: Vec<String>,
}

impl<'a> Search<'a> {
    /// As deep as the parser let it become.
    fn visit(&mut self, value: &'a Value) {
        match value {
            Value::String(text) if text.contains(self.what) => self.note(),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.below(Step::Index(index), |search| search.visit(item));
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let named = name.contains(self.what);
                    self.below(Step::Name(name), |search| if named { search.note() } else { search.visit(value) });
                }
            }
            _ => {}
        }
    }

    fn below(&mut self, step: Step<'a>, look: impl FnOnce(&mut Self)) {
        if self.found.len() < SHOWN {
            self.steps.push(step);
            look(self);
            self.steps.pop();
        }
    }

    fn note(&mut self) {
        self.found.push(render(&self.steps).replace(self.what, "\u{fffd}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::{Duration, Instant};

    #[test]
    fn a_place_is_written_with_escapes_and_cut_when_it_is_long() {
        assert_eq!(render(&[Step::Name("a.b"), Step::Name("c/d~e"), Step::Index(7)]), "/a.b/c~1d~0e/7");
        let long = render(&[Step::Name(&"é".repeat(5_000)), Step::Name("never")]);
        assert!(long.len() < 1_024 && long.ends_with('…'));
    }

    #[test]
    fn places_that_match_are_found_and_only_a_hundred_are_shown() {
        let value = json!({"a": ["x", "y\0"], "b\0": "z", "c": vec!["\0"; 500]});

        let found = find(&value, '\0', &[Step::Name("input")]);

        assert_eq!(found.len(), SHOWN);
        assert_eq!(found[..2], ["/input/a/1", "/input/b\u{fffd}"]);
    }

    #[test]
    fn a_long_name_over_many_items_costs_no_more_than_reading_them() {
        let value = json!({ "n".repeat(5 << 20): vec![0; 2 << 20] });
        let started = Instant::now();

        assert!(find(&value, '\0', &[]).is_empty());

        // Writing the place of each item would take minutes.
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}
