//! What is wrong with a flow, told so that a person can mend it.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong with a flow document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlowProblem {
    /// Where: an RFC 6901 pointer into the document; empty for the document itself.
    pub pointer: String,
    /// The stable name of the rule.
    pub code: &'static str,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What would mend it, if that can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl fmt::Display for FlowProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.pointer.is_empty() { "/" } else { &self.pointer };
        write!(f, "{place}: {} [{}]", self.message, self.code)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<FlowProblem>);

impl Problems {
    /// More than anybody reads; keeps a hostile document from making a hostile answer.
    const MOST: usize = 500;

    pub(crate) fn add(&mut self, pointer: impl Into<String>, code: &'static str, message: impl Into<String>) {
        self.push(pointer.into(), code, message.into(), None);
    }

    pub(crate) fn add_with_hint(
        &mut self,
        pointer: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.push(pointer.into(), code, message.into(), hint.into());
    }

    /// Reports a missing value, unless it is missing only because it was reported as unreadable before.
    pub(crate) fn add_missing(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        let pointer = pointer.into();
        if !self.has(&pointer) {
            self.push(pointer, "missing", message.into(), None);
        }
    }

    pub(crate) fn has(&self, pointer: &str) -> bool {
        self.0.iter().any(|problem| problem.pointer == pointer)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, pointer: String, code: &'static str, message: String, hint: Option<String>) {
        if self.0.len() < Self::MOST {
            self.0.push(FlowProblem { pointer, code, message, hint });
        }
    }

    /// All problems, in the order of the rules that found them.
    pub(crate) fn into_vec(self) -> Vec<FlowProblem> {
        self.0
    }
}

/// The problems as lines for a terminal.
#[must_use]
pub fn explain(problems: &[FlowProblem], file_name: &str) -> String {
    use fmt::Write as _;
    let mut text = String::new();
    for problem in problems {
        let place = if problem.pointer.is_empty() { "/" } else { &problem.pointer };
        let _ = writeln!(text, "error[{}]: {}\n  --> {file_name}#{place}", problem.code, problem.message);
        if let Some(hint) = &problem.hint {
            let _ = writeln!(text, "  help: {hint}");
        }
        text.push('\n');
    }
    let _ = match problems.len() {
        0 => writeln!(text, "{file_name}: no problems"),
        1 => writeln!(text, "{file_name}: 1 problem"),
        count => writeln!(text, "{file_name}: {count} problems"),
    };
    text
}

/// A pointer one step further down.
pub(crate) fn below(pointer: &str, step: impl fmt::Display) -> String {
    let step = step.to_string().replace('~', "~0").replace('/', "~1");
    format!("{pointer}/{step}")
}

/// The known word that was probably meant by `word`.
pub(crate) fn similar<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Two exchanged letters are a distance of two.
    let length = word.chars().count();
    let most = if length <= 3 { 1 } else { (length / 3).max(2) };
    let distances = known.into_iter().map(|candidate| (distance(word, candidate), candidate));
    distances.filter(|(distance, _)| *distance <= most).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// "did you mean ..." for `word`, else the list of what is known if it is short.
pub(crate) fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    if let Some(meant) = similar(word, known.iter().copied()) {
        return Some(format!("did you mean `{meant}`?"));
    }
    (!known.is_empty() && known.len() <= 24).then(|| format!("known: {}", known.join(", ")))
}

/// The edit distance of two short words (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    if left.len() > 64 || right.len() > 64 {
        return usize::MAX;
    }
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.to_lowercase().chars().enumerate() {
        let mut next = vec![i + 1];
        for ((b, above), before) in right.iter().zip(row.iter().skip(1)).zip(row.iter()) {
            let beside = next.last().copied().unwrap_or(i + 1);
            next.push((above + 1).min(beside + 1).min(before + usize::from(a != *b)));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
