//! What a submission may say beside its input: read, bounded, and refused all at once.

use std::collections::BTreeMap;

use domain::{Priority, VersionId};
use protocol::identity::LevelLimits;
use serde_json::{Value, json};
use service::{Problem, ProblemCode};

use crate::{
    body::Fields,
    pointer::{self, Step},
};

/// Marks at most, and their size.
const LABELS: usize = 32;
const LABEL_NAME: usize = 64;
const LABEL_VALUE: usize = 256;
/// An owner's own customer.
const END_USER: usize = 256;
/// The longest deadline: thirty days.
const DEADLINE_AT_MOST: u64 = 30 * 24 * 3_600_000;

/// An input, and what the request calls it.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) name: &'static str,
    pub(crate) value: Value,
}

impl Input {
    /// The input of a body: `input`, or `userInput` as the first documents have it.
    ///
    /// # Errors
    /// 400 when it has both.
    pub(crate) fn take(fields: &mut Fields) -> Result<Option<Self>, Problem> {
        let named = |name, value: Option<Value>| value.map(|value| Self { name, value });
        let new = named("input", fields.take_value("input"));
        let old = named("userInput", fields.take_value("userInput"));
        if new.is_some() && old.is_some() {
            let twice = "give `input` or `userInput`, not both";
            return Err(Problem::new(ProblemCode::InvalidRequest).detail(twice).field(
                "/userInput",
                "duplicate",
                twice,
            ));
        }
        Ok(new.or(old))
    }
}

impl Default for Input {
    fn default() -> Self {
        Self { name: "input", value: json!({}) }
    }
}

/// The body of a submission.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) input: Input,
    pub(crate) priority: Priority,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) end_user: Option<String>,
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) queue_ttl_ms: Option<u64>,
    pub(crate) validate_only: bool,
    pub(crate) version: Option<VersionId>,
}

impl Options {
    /// Reads a body. The level bounds the priority.
    ///
    /// # Errors
    /// 400 for what is not known here, 422 with one entry per wrong option.
    pub(crate) fn read(body: Value, level: &LevelLimits) -> Result<Self, Problem> {
        let mut fields = Fields::of(body);
        let options = Self {
            input: Input::take(&mut fields)?.unwrap_or_default(),
            priority: fields.take("priority", "not_an_option").unwrap_or_default(),
            labels: fields.take("labels", "wrong_type").unwrap_or_default(),
            end_user: fields.take("endUser", "wrong_type"),
            deadline_ms: fields.take("deadlineMs", "wrong_type"),
            queue_ttl_ms: fields.take("queueTtlMs", "wrong_type"),
            validate_only: fields.take("validateOnly", "wrong_type").unwrap_or_default(),
            version: fields.take("version", "invalid"),
        };
        fields.known()?;
        options.check(level, &mut fields);
        fields.end()?;
        Ok(options)
    }

    fn check(&self, level: &LevelLimits, fields: &mut Fields) {
        if self.priority > level.max_priority {
            fields.wrong("/priority", "too_high", "your level does not allow this priority");
        }
        if self.labels.len() > LABELS {
            fields.wrong("/labels", "too_many", format!("at most {LABELS} labels"));
        }
        for (name, value) in self.labels.iter().take(LABELS) {
            let place = || pointer::render(&[Step::Name("labels"), Step::Name(name)]);
            if name.is_empty() || name.len() > LABEL_NAME || value.len() > LABEL_VALUE {
                fields.wrong(place(), "too_long", "names have 1 to 64 bytes, values at most 256");
            } else if name.contains('\0') || value.contains('\0') {
                fields.wrong(place(), "nul", "must not contain the character U+0000");
            }
        }
        if self.end_user.as_ref().is_some_and(|name| name.len() > END_USER || name.contains('\0')) {
            fields.wrong("/endUser", "invalid", format!("at most {END_USER} bytes, without U+0000"));
        }
        for (place, value) in [("/deadlineMs", self.deadline_ms), ("/queueTtlMs", self.queue_ttl_ms)] {
            if value.is_some_and(|ms| ms == 0 || ms > DEADLINE_AT_MOST) {
                fields.wrong(place, "out_of_range", format!("1 to {DEADLINE_AT_MOST}"));
            }
        }
    }
}
