//! The input form: its fields as people write them.

mod check;
mod schema;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

pub use check::FieldProblem;
pub(crate) use check::check_answer;

/// How many fields a form may have.
pub const MAX_FIELDS: usize = 200;
/// How many options a field may have.
pub const MAX_OPTIONS: usize = 1_000;
/// The most characters of a one-line field that says no `maxLength`.
pub const DEFAULT_LINE_LENGTH: u64 = 2_000;
/// The most characters of a `textarea` that says no `maxLength`.
pub const DEFAULT_TEXT_LENGTH: u64 = 1_000_000;

/// The questions an execution's input answers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct InputForm {
    /// The fields, in the order they are shown.
    pub fields: Vec<Field>,
}

impl InputForm {
    /// The field of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// One question.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Field {
    /// The key in the input object; templates read it as `input.<name>`.
    pub name: String,
    /// What kind of answer it takes.
    #[serde(rename = "type")]
    pub kind: Option<FieldKind>,
    /// The question people read; the name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// A sentence of help below the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// What an empty box shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<String>,
    /// Whether an answer must be given (a default counts as one).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The answer when none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// `select` and `multiselect`: the answers to choose from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<Choice>>,
    /// `number`: the least value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// `number`: the greatest value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// `number`: whether only whole numbers are taken.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub integer: bool,
    /// Texts: the least number of characters (Unicode scalar values).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u64>,
    /// Texts: the most characters (Unicode scalar values).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
}

/// What kind of answer a field takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldKind {
    /// One line.
    Text,
    /// Several lines.
    Textarea,
    /// A number.
    Number,
    /// One of `options`.
    Select,
    /// Some of `options`, each at most once.
    Multiselect,
    /// True or false.
    Checkbox,
    /// An e-mail address.
    Email,
    /// An http or https address.
    Url,
    /// A calendar date, `YYYY-MM-DD`.
    Date,
}

impl FieldKind {
    /// Whether the answer is a text that was typed.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Textarea | Self::Email | Self::Url)
    }

    /// Whether the answer is chosen from options.
    #[must_use]
    pub const fn has_options(self) -> bool {
        matches!(self, Self::Select | Self::Multiselect)
    }
}

/// One answer to choose; `small` is short for `{value: small}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// What the input holds.
    pub value: String,
    /// What people read; the value when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Full {
            value: String,
            label: Option<String>,
        }
        match Value::deserialize(deserializer)? {
            Value::String(value) => Ok(Self { value, label: None }),
            Value::Number(number) => Ok(Self { value: number.to_string(), label: None }),
            full @ Value::Object(_) => {
                let Full { value, label } = serde_json::from_value(full).map_err(D::Error::custom)?;
                Ok(Self { value, label })
            }
            _ => Err(D::Error::custom("an option is a text, or an object with `value` and `label`")),
        }
    }
}
