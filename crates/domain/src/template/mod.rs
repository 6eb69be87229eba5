//! Templates: Jinja text in a sandbox, parsed once per engine version and rendered often.
//!
//! A [`TemplateSet`] owns everything that was parsed. It knows no files, no other templates, no clock and no randomness;
//! fuel, recursion, template size and output size are bounded; a variable that does not exist is an error.

mod filters;
mod scan;

use std::{collections::BTreeSet, io};

pub(crate) use filters::last_words;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig};

/// The most bytes one template may have.
pub const MAX_TEMPLATE_BYTES: usize = 128 * 1024;
/// The most bytes one template may write.
pub const MAX_OUTPUT_BYTES: usize = 8 * 1024 * 1024;
/// The most steps one rendering may take.
const FUEL: u64 = 2_000_000;
/// How deep macros and blocks may nest.
const RECURSION: usize = 64;

/// A template that can be rendered by the set it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateId(usize);

/// An expression that can be evaluated by the set it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpressionId(usize);

/// A text that is not a template we render.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// The stable name of the rule it breaks.
    pub code: &'static str,
    /// What is wrong, with the line where that is known.
    pub message: String,
    /// The line, from 1, inside the template.
    pub line: Option<usize>,
    /// What would mend it.
    pub hint: Option<String>,
}

/// A rendering that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rendering {what} failed: {message}")]
pub struct RenderError {
    /// Which template, in the author's words.
    pub what: String,
    /// Why, with the line where that is known.
    pub message: String,
}

/// Parsed templates and expressions.
pub struct TemplateSet {
    environment: Environment<'static>,
    names: Vec<String>,
    expressions: Vec<String>,
}

impl std::fmt::Debug for TemplateSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TemplateSet").field("templates", &self.names.len()).finish_non_exhaustive()
    }
}

impl Default for TemplateSet {
    fn default() -> Self {
        Self::new()
    }
}

impl TemplateSet {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        // A tag on a line of its own leaves no blank line in a prompt.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.unwrap_or_default());
        environment.remove_global("debug");
        environment.set_formatter(|output, state, value| {
            // An optional field without an answer is nothing, not the word "none".
            if value.is_none() { Ok(()) } else { minijinja::escape_formatter(output, state, value) }
        });
        filters::register(&mut environment);
        Self { environment, names: Vec::new(), expressions: Vec::new() }
    }

    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateError`] for a syntax error, an unknown filter, test or tag, and a text that is too long.
    pub fn add(&mut self, text: &str) -> Result<TemplateId, TemplateError> {
        check_size(text)?;
        let id = self.names.len();
        self.environment.add_template_owned(id.to_string(), text.to_owned()).map_err(|error| syntax(&error))?;
        scan::check(&self.environment, text)?;
        self.names.push(id.to_string());
        Ok(TemplateId(id))
    }

    /// Parses an expression. Writing it between `{{` and `}}` is allowed.
    ///
    /// # Errors
    /// As [`TemplateSet::add`].
    pub fn add_expression(&mut self, text: &str) -> Result<ExpressionId, TemplateError> {
        check_size(text)?;
        let bare = text.trim();
        let bare = bare.strip_prefix("{{").and_then(|inner| inner.strip_suffix("}}")).unwrap_or(bare).trim();
        self.environment.compile_expression(bare).map_err(|error| syntax(&error))?;
        scan::check(&self.environment, &format!("{{{{ {bare} }}}}"))?;
        self.expressions.push(bare.to_owned());
        Ok(ExpressionId(self.expressions.len() - 1))
    }

    /// The variables a template reads and does not set itself, with their fields: `input.topic`, `item.title`.
    #[must_use]
    pub fn variables(&self, id: TemplateId) -> BTreeSet<String> {
        let found = self.names.get(id.0).and_then(|name| self.environment.get_template(name).ok());
        self.without_globals(found.map(|template| template.undeclared_variables(true)).into_iter().flatten())
    }

    /// The variables an expression reads.
    #[must_use]
    pub fn expression_variables(&self, id: ExpressionId) -> BTreeSet<String> {
        let found = self.expressions.get(id.0).and_then(|text| self.environment.compile_expression(text).ok());
        self.without_globals(found.map(|expression| expression.undeclared_variables(true)).into_iter().flatten())
    }

    fn without_globals(&self, names: impl Iterator<Item = String>) -> BTreeSet<String> {
        names.filter(|name| !self.environment.globals().any(|(global, _)| global == name)).collect()
    }

    /// Renders a template; `what` names it in an error.
    ///
    /// # Errors
    /// [`RenderError`] when a variable does not exist, an operation is impossible or a limit is reached.
    pub fn render(&self, id: TemplateId, context: Value, what: &str) -> Result<String, RenderError> {
        let name = self.names.get(id.0).map_or("", String::as_str);
        let template = self.environment.get_template(name).map_err(|error| failed(&error, what))?;
        let mut text = Bounded { bytes: Vec::new(), overflowed: false };
        let rendered = template.render_captured_to(context, &mut text).map(|_| ());
        if text.overflowed {
            return Err(RenderError {
                what: what.to_owned(),
                message: format!("it writes more than {} MB", MAX_OUTPUT_BYTES / 1_048_576),
            });
        }
        rendered.map_err(|error| failed(&error, what))?;
        // Templates write whole strings: these bytes are always UTF-8.
        Ok(String::from_utf8(text.bytes).unwrap_or_default())
    }

    /// Evaluates an expression; `what` names it in an error.
    ///
    /// # Errors
    /// As [`TemplateSet::render`].
    pub fn evaluate(&self, id: ExpressionId, context: Value, what: &str) -> Result<Value, RenderError> {
        let text = self.expressions.get(id.0).map_or("", String::as_str);
        let expression = self.environment.compile_expression(text).map_err(|error| failed(&error, what))?;
        expression.eval(context).map_err(|error| failed(&error, what))
    }
}

fn check_size(text: &str) -> Result<(), TemplateError> {
    if text.len() <= MAX_TEMPLATE_BYTES {
        return Ok(());
    }
    let message =
        format!("the template has {} KB; at most {} KB are allowed", text.len() / 1024, MAX_TEMPLATE_BYTES / 1024);
    Err(TemplateError { code: "template_too_long", message, line: None, hint: None })
}

fn syntax(error: &minijinja::Error) -> TemplateError {
    let line = error.line();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    let message = line.map_or_else(|| detail.clone(), |line| format!("line {line}: {detail}"));
    TemplateError { code: "template_syntax", message, line, hint: None }
}

fn failed(error: &minijinja::Error, what: &str) -> RenderError {
    let detail = match error.kind() {
        ErrorKind::OutOfFuel => "it takes too many steps".to_owned(),
        kind => error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
    };
    let message = error.line().map_or_else(|| detail.clone(), |line| format!("line {line}: {detail}"));
    RenderError { what: what.to_owned(), message }
}

/// Takes what a template writes, up to the limit.
struct Bounded {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + more.len() > MAX_OUTPUT_BYTES {
            self.overflowed = true;
            return Err(io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
