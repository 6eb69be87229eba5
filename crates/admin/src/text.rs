//! Texts that operators send.

use service::{Problem, ProblemCode};

/// Refuses a text that cannot be stored or is no text for people: at most `most` bytes, no control characters.
pub(crate) fn check(pointer: &str, text: &str, most: usize) -> Result<(), Problem> {
    if text.len() > most || text.chars().any(char::is_control) {
        let detail = format!("at most {most} bytes, without control characters");
        return Err(invalid(pointer, "invalid", detail));
    }
    Ok(())
}

/// A name: a text with something in it.
pub(crate) fn name(pointer: &str, text: &str) -> Result<(), Problem> {
    if text.trim().is_empty() {
        return Err(invalid(pointer, "required", "is empty"));
    }
    check(pointer, text, 200)
}

/// A field with a value that is not possible.
pub(crate) fn invalid(pointer: &str, code: &str, detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::InvalidInput).field(pointer, code, detail)
}
