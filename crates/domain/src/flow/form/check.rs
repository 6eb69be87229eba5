//! Checks an input against a form: one problem per pointer, every problem at once.

use chrono::NaiveDate;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Choice, Field, FieldKind, InputForm};
use crate::flow::problem::{below, suggestion};

/// One answer that the form does not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldProblem {
    /// Where: an RFC 6901 pointer into the input object.
    pub pointer: String,
    /// The stable name of the rule.
    pub code: &'static str,
    /// What is wrong, in one sentence; never repeats the answer itself.
    pub detail: String,
}

impl FieldProblem {
    fn new(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code, detail: detail.into() }
    }
}

/// The most problems one input reports.
const MAX_PROBLEMS: usize = 200;

impl InputForm {
    /// Checks an input. The result holds the answers in the form's order, defaults filled in; what was not answered is absent.
    ///
    /// An answer that is `null`, or an empty text where the field is optional and no free text, counts as not given.
    ///
    /// # Errors
    /// Every answer that is missing, unknown, of a wrong type or outside its limits.
    pub fn check(&self, input: &Value) -> Result<Value, Vec<FieldProblem>> {
        let Value::Object(given) = input else {
            return Err(vec![FieldProblem::new("", "wrong_type", "the input is an object with one entry per field")]);
        };
        let mut problems: Vec<FieldProblem> = given
            .keys()
            .filter(|name| self.field(name).is_none())
            .take(MAX_PROBLEMS)
            .map(|name| self.unknown(name))
            .collect();
        let mut answers = Map::new();
        for field in &self.fields {
            let answer = given.get(&field.name).filter(|answer| !is_absent(field, answer));
            match (answer.or(field.default.as_ref()), field.required) {
                (Some(answer), _) => match check_answer(field, answer, &below("", &field.name)) {
                    Ok(answer) => drop(answers.insert(field.name.clone(), answer)),
                    Err(problem) => problems.push(problem),
                },
                (None, true) => {
                    problems.push(FieldProblem::new(below("", &field.name), "required", "an answer is required"));
                }
                (None, false) => {}
            }
        }
        if problems.is_empty() { Ok(Value::Object(answers)) } else { Err(problems) }
    }

    fn unknown(&self, name: &str) -> FieldProblem {
        let shown: String = name.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let hint = suggestion(&shown, self.fields.iter().map(|field| field.name.as_str()));
        let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
        FieldProblem::new(below("", &shown), "unknown_field", format!("the form has no such field{hint}"))
    }
}

fn is_absent(field: &Field, answer: &Value) -> bool {
    let free_text = matches!(field.kind, None | Some(FieldKind::Text | FieldKind::Textarea));
    answer.is_null() || (answer == "" && (field.required || !free_text))
}

/// Checks one answer and gives its normal form.
///
/// # Errors
/// The first rule it breaks.
pub(crate) fn check_answer(field: &Field, answer: &Value, pointer: &str) -> Result<Value, FieldProblem> {
    let options = field.options.as_deref().unwrap_or_default();
    match field.kind.unwrap_or(FieldKind::Text) {
        FieldKind::Number => number(field, answer, pointer),
        FieldKind::Checkbox if answer.is_boolean() => Ok(answer.clone()),
        FieldKind::Checkbox => Err(FieldProblem::new(pointer, "wrong_type", "the answer is true or false")),
        FieldKind::Multiselect => several(field, options, answer, pointer),
        FieldKind::Select => {
            one_of(options, text(answer, pointer)?, pointer)?;
            Ok(answer.clone())
        }
        kind => {
            let text = text(answer, pointer)?;
            length(field, text, pointer)?;
            format(kind, text, pointer)?;
            Ok(answer.clone())
        }
    }
}

fn text<'a>(answer: &'a Value, pointer: &str) -> Result<&'a str, FieldProblem> {
    let text = answer.as_str().ok_or_else(|| FieldProblem::new(pointer, "wrong_type", "the answer is a text"))?;
    if text.contains('\0') {
        return Err(FieldProblem::new(pointer, "invalid_character", "the text contains the character U+0000"));
    }
    Ok(text)
}

fn length(field: &Field, text: &str, pointer: &str) -> Result<(), FieldProblem> {
    let (least, most) = (field.least_length(), field.most_length());
    let length = text.chars().count() as u64;
    if field.required && text.trim().is_empty() {
        return Err(FieldProblem::new(pointer, "required", "an answer is required"));
    }
    if least.is_some_and(|least| length < least) {
        let detail = format!("the text has {length} characters; at least {} are wanted", least.unwrap_or(0));
        return Err(FieldProblem::new(pointer, "too_short", detail));
    }
    if length > most {
        let detail = format!("the text has {length} characters; at most {most} are allowed");
        return Err(FieldProblem::new(pointer, "too_long", detail));
    }
    Ok(())
}

fn format(kind: FieldKind, text: &str, pointer: &str) -> Result<(), FieldProblem> {
    let (valid, wanted) = match kind {
        FieldKind::Email => (is_email(text), "an e-mail address, such as name@example.org"),
        FieldKind::Url => (is_url(text), "an http or https address"),
        FieldKind::Date => (is_date(text), "a date of the form YYYY-MM-DD"),
        FieldKind::Text => (!text.contains(['\n', '\r']), "a single line"),
        _ => (true, ""),
    };
    if valid { Ok(()) } else { Err(FieldProblem::new(pointer, "invalid_format", format!("the answer is {wanted}"))) }
}

fn is_email(text: &str) -> bool {
    let plain =
        |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@');
    text.rsplit_once('@').is_some_and(|(name, host)| {
        plain(name)
            && name.len() <= 64
            && plain(host)
            && host.len() <= 255
            && host.split('.').all(|part| !part.is_empty())
    })
}

fn is_url(text: &str) -> bool {
    let lower = text.get(..8.min(text.len())).unwrap_or("").to_ascii_lowercase();
    let rest = if lower.starts_with("https://") {
        text.get(8..)
    } else if lower.starts_with("http://") {
        text.get(7..)
    } else {
        None
    };
    let clean = !text.contains(|c: char| c.is_whitespace() || c.is_control());
    clean && rest.is_some_and(|rest| rest.split(['/', '?', '#']).next().is_some_and(|host| !host.is_empty()))
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

fn number(field: &Field, answer: &Value, pointer: &str) -> Result<Value, FieldProblem> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let problem = |code, detail: String| Err(FieldProblem::new(pointer, code, detail));
    let Some(value) = answer.as_f64() else {
        return problem("wrong_type", "the answer is a number".to_owned());
    };
    if field.integer && (value.fract() != 0.0 || value.abs() > EXACT) {
        return problem("wrong_type", "the answer is a whole number".to_owned());
    }
    if let Some(min) = field.min.filter(|min| value < *min) {
        return problem("too_small", format!("the least value is {min}"));
    }
    if let Some(max) = field.max.filter(|max| value > *max) {
        return problem("too_big", format!("the greatest value is {max}"));
    }
    // 4.0 is 4: prompts and counts never show a fraction of a whole number.
    let whole = answer.is_f64() && value.fract() == 0.0 && value.abs() <= EXACT;
    Ok(if whole {
        serde_json::from_str(&format!("{value:.0}")).unwrap_or_else(|_| answer.clone())
    } else {
        answer.clone()
    })
}

fn several(field: &Field, options: &[Choice], answer: &Value, pointer: &str) -> Result<Value, FieldProblem> {
    let Value::Array(chosen) = answer else {
        return Err(FieldProblem::new(pointer, "wrong_type", "the answer is a list of options"));
    };
    if chosen.len() > options.len() {
        return Err(FieldProblem::new(pointer, "too_many", format!("at most {} options can be chosen", options.len())));
    }
    if field.required && chosen.is_empty() {
        return Err(FieldProblem::new(pointer, "required", "choose at least one option"));
    }
    for (at, choice) in chosen.iter().enumerate() {
        let place = below(pointer, at);
        one_of(options, text(choice, &place)?, &place)?;
        if chosen.iter().take(at).any(|earlier| earlier == choice) {
            return Err(FieldProblem::new(place, "duplicate", "an option can be chosen once"));
        }
    }
    Ok(answer.clone())
}

fn one_of(options: &[Choice], text: &str, pointer: &str) -> Result<(), FieldProblem> {
    if options.iter().any(|option| option.value == text) {
        return Ok(());
    }
    let known: Vec<&str> = options.iter().take(30).map(|option| option.value.as_str()).collect();
    Err(FieldProblem::new(pointer, "not_an_option", format!("choose one of: {}", known.join(", "))))
}
