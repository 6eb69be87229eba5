//! What the parser lets pass but rendering would refuse: unknown filters and tests, and tags that reach for other templates.

use minijinja::{Environment, ErrorKind, Value};

use super::TemplateError;
use crate::flow::similar;

/// Filters that people may mean by a wrong name.
const WELL_KNOWN: [&str; 22] = [
    "words",
    "excerpt",
    "last_words",
    "word_count",
    "title_case",
    "tojson",
    "upper",
    "lower",
    "title",
    "capitalize",
    "trim",
    "join",
    "length",
    "default",
    "first",
    "last",
    "replace",
    "round",
    "list",
    "indent",
    "sort",
    "map",
];

/// Checks every expression and tag of a template that parses.
///
/// # Errors
/// The first unknown filter, unknown test or forbidden tag.
pub(super) fn check(environment: &Environment<'static>, text: &str) -> Result<(), TemplateError> {
    for code in Codes::new(text) {
        let tokens = tokens(code.text);
        if code.is_tag {
            check_tag(tokens.first().copied().unwrap_or(""), code.line)?;
        }
        let filter_tag = code.is_tag && tokens.first() == Some(&"filter");
        if let Some(name) = tokens.get(1).filter(|_| filter_tag) {
            check_filter(environment, name, code.line)?;
        }
        for pair in tokens.windows(3) {
            match pair {
                ["|", name, _] => check_filter(environment, name, code.line)?,
                ["is", "not", name] => check_test(environment, name, code.line)?,
                ["is", name, _] if *name != "not" => check_test(environment, name, code.line)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn check_tag(tag: &str, line: usize) -> Result<(), TemplateError> {
    if !matches!(tag, "include" | "import" | "from" | "extends" | "block") {
        return Ok(());
    }
    Err(TemplateError {
        code: "template_tag",
        message: format!("line {line}: `{tag}` is not available: a template stands alone"),
        line: Some(line),
        hint: None,
    })
}

fn check_filter(environment: &Environment<'static>, name: &str, line: usize) -> Result<(), TemplateError> {
    let tried = environment.empty_state().apply_filter(name, &[Value::from("")]);
    match tried {
        Err(error) if error.kind() == ErrorKind::UnknownFilter => Err(TemplateError {
            code: "unknown_filter",
            message: format!("line {line}: there is no filter `{name}`"),
            line: Some(line),
            hint: similar(name, WELL_KNOWN).map(|meant| format!("did you mean `{meant}`?")),
        }),
        _ => Ok(()),
    }
}

fn check_test(environment: &Environment<'static>, name: &str, line: usize) -> Result<(), TemplateError> {
    let tried = environment.empty_state().perform_test(name, &[Value::from("")]);
    match tried {
        Err(error) if error.kind() == ErrorKind::UnknownTest => Err(TemplateError {
            code: "unknown_test",
            message: format!("line {line}: there is no test `{name}`"),
            line: Some(line),
            hint: None,
        }),
        _ => Ok(()),
    }
}

/// One `{{ .. }}` or `{% .. %}`.
struct Code<'a> {
    text: &'a str,
    is_tag: bool,
    line: usize,
}

/// Walks over the code parts of a template; comments and `raw` sections are skipped.
struct Codes<'a> {
    rest: &'a str,
    line: usize,
    raw: bool,
}

impl<'a> Codes<'a> {
    const fn new(text: &'a str) -> Self {
        Self { rest: text, line: 1, raw: false }
    }

    fn advance(&mut self, bytes: usize) -> &'a str {
        let (done, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.line += done.matches('\n').count();
        self.rest = rest;
        done
    }
}

impl<'a> Iterator for Codes<'a> {
    type Item = Code<'a>;

    fn next(&mut self) -> Option<Code<'a>> {
        loop {
            let start = self.rest.find('{')?;
            self.advance(start);
            let (close, is_tag) = match self.rest.as_bytes().get(1) {
                Some(b'{') => ("}}", false),
                Some(b'%') => ("%}", true),
                Some(b'#') => {
                    let end = self.rest.find("#}").map_or(self.rest.len(), |at| at + 2);
                    self.advance(end);
                    continue;
                }
                _ => {
                    self.advance(1);
                    continue;
                }
            };
            let line = self.line;
            self.advance(2);
            let length = end_of_code(self.rest, close);
            let text = self.advance(length).trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
            self.advance(2);
            match (self.raw, is_tag, text) {
                (true, true, "endraw") => self.raw = false,
                (false, true, "raw") => self.raw = true,
                (false, ..) => return Some(Code { text, is_tag, line }),
                _ => {}
            }
        }
    }
}

/// Where the closing mark is, outside of quotes.
fn end_of_code(text: &str, close: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if matches!(character, '"' | '\'') => quote = Some(character),
            None if text.get(at..).is_some_and(|rest| rest.starts_with(close)) => return at,
            None => {}
        }
    }
    text.len()
}

/// The words and marks of an expression, without what stands in quotes; two empty ones at the end.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => closing_quote(rest.get(1..).unwrap_or(""), first) + 2,
            c if c.is_alphanumeric() || c == '_' => {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            }
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        rest = after;
        if !first.is_whitespace() && !matches!(first, '"' | '\'') {
            tokens.push(token);
        }
    }
    tokens.extend(["", ""]);
    tokens
}

fn closing_quote(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at,
            _ => {}
        }
    }
    text.len()
}
