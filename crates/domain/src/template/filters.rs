//! The filters that prompts need besides those of Jinja.

use minijinja::{Environment, Error, ErrorKind, Value};

/// Adds our filters.
pub(super) fn register(environment: &mut Environment<'static>) {
    environment.add_filter("words", words);
    environment.add_filter("excerpt", excerpt);
    environment.add_filter("last_words", |text: &str, count: usize| last_words(text, count).to_owned());
    environment.add_filter("word_count", word_count);
    environment.add_filter("title_case", title_case);
    environment.add_filter("tojson", to_json);
}

/// The number of words, as separated by white space.
#[must_use]
fn word_count(text: &str) -> usize {
    text.split_whitespace().count()
}

/// The first `count` words, with the white space between them.
fn words(text: &str, count: usize) -> String {
    first_words(text, count).to_owned()
}

/// The first `count` words, with an ellipsis if more follow.
fn excerpt(text: &str, count: usize) -> String {
    let start = first_words(text, count);
    if start.len() == text.trim().len() { start.to_owned() } else { format!("{start}…") }
}

fn first_words(text: &str, count: usize) -> &str {
    let text = text.trim();
    let mut inside = false;
    let mut seen = 0;
    for (at, character) in text.char_indices() {
        if character.is_whitespace() {
            if inside && seen == count {
                return text.get(..at).unwrap_or(text);
            }
            inside = false;
        } else if !inside {
            inside = true;
            seen += 1;
            if seen > count {
                return "";
            }
        }
    }
    text
}

/// The last `count` words, with the white space between them.
pub(crate) fn last_words(text: &str, count: usize) -> &str {
    let text = text.trim();
    let mut inside = false;
    let mut seen = 0;
    for (at, character) in text.char_indices().rev() {
        if character.is_whitespace() {
            if inside && seen == count {
                return text.get(at..).unwrap_or(text).trim_start();
            }
            inside = false;
        } else if !inside {
            inside = true;
            seen += 1;
            if seen > count {
                return "";
            }
        }
    }
    text
}

/// Each word with a capital first letter; the rest of it is left alone.
fn title_case(text: &str) -> String {
    let mut after_space = true;
    let mut cased = String::with_capacity(text.len());
    for character in text.chars() {
        if after_space {
            cased.extend(character.to_uppercase());
        } else {
            cased.push(character);
        }
        after_space = character.is_whitespace();
    }
    cased
}

/// Readable JSON, without the escapes that only HTML needs.
fn to_json(value: &Value) -> Result<String, Error> {
    serde_json::to_string_pretty(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, "not a JSON value").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_at_word_boundaries() {
        assert_eq!(words(" one  two three ", 2), "one  two");
        assert_eq!(words("one two", 5), "one two");
        assert_eq!(words("one two", 0), "");
        assert_eq!(excerpt("one two three", 2), "one two…");
        assert_eq!(excerpt("one two", 2), "one two");
        assert_eq!(last_words("one two\nthree ", 2), "two\nthree");
        assert_eq!(last_words("one", 3), "one");
        assert_eq!(last_words("one two", 0), "");
        assert_eq!(word_count("  a b\nc "), 3);
        assert_eq!(title_case("the long USA trip"), "The Long USA Trip");
    }
}
