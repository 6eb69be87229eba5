//! Configuration from environment variables: typed, read once, with every problem named at once.

use parking_lot::Mutex;
use secrecy::SecretString;
use std::{collections::BTreeMap, fmt::Display, net::SocketAddr, str::FromStr, time::Duration};

/// The environment of the process, or a map that stands for it. An empty value counts as not set.
///
/// Each getter returns its own error and remembers it, so that [`finish`](Self::finish) can name all of them:
/// ```ignore
/// fn config(environment: &Environment) -> Result<Config, ConfigError> {
///     let url = environment.required("LEKHIKA_STATUS_URL");
///     let port = environment.parsed_or("LEKHIKA_PUBLIC_PORT", 8080);
///     environment.finish()?;
///     Ok(Config { url: url?, port: port? })
/// }
/// ```
#[derive(Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    problems: Mutex<Vec<String>>,
}

/// What is wrong with the configuration; one line per variable, never with the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.join("; "))]
pub struct ConfigError {
    /// Like `missing LEKHIKA_X` or ``LEKHIKA_Y: `abc` is not a number``.
    pub problems: Vec<String>,
}

impl Environment {
    /// Reads the environment of this process. The only place that does.
    #[must_use]
    pub fn from_process() -> Self {
        let unicode = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self { variables: unicode.collect(), problems: Mutex::default() }
    }

    /// An environment of these variables only: for tests and for the embedded form.
    pub fn of<K: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        let variables = variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Self { variables, problems: Mutex::default() }
    }

    /// The names of all variables, with or without a value.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// The value of a variable, if it is set.
    #[must_use]
    pub fn optional(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|v| v.trim()).filter(|v| !v.is_empty()).map(str::to_owned)
    }

    /// The value of a variable that must be set.
    ///
    /// # Errors
    /// When it is missing.
    pub fn required(&self, name: &str) -> Result<String, ConfigError> {
        self.optional(name).ok_or_else(|| self.problem(format!("missing {name}")))
    }

    /// The value, or a default.
    #[must_use]
    pub fn or(&self, name: &str, default: &str) -> String {
        self.optional(name).unwrap_or_else(|| default.to_owned())
    }

    /// A value of another type, if it is set: numbers, addresses, URLs, `true` and `false`.
    ///
    /// # Errors
    /// When it is set and cannot be read.
    pub fn optional_parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.optional(name) else { return Ok(None) };
        let parsed = value.parse();
        parsed.map(Some).map_err(|e| self.problem(format!("{name}: `{value}` is not {} ({e})", what::<T>())))
    }

    /// A value of another type, or a default.
    ///
    /// # Errors
    /// When it is set and cannot be read.
    pub fn parsed_or<T: FromStr<Err: Display>>(&self, name: &str, default: T) -> Result<T, ConfigError> {
        Ok(self.optional_parsed(name)?.unwrap_or(default))
    }

    /// A value of another type that must be set.
    ///
    /// # Errors
    /// When it is missing or cannot be read.
    pub fn required_parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, ConfigError> {
        self.optional_parsed(name)?.ok_or_else(|| self.problem(format!("missing {name}")))
    }

    /// A duration in whole milliseconds, or a default.
    ///
    /// # Errors
    /// When it is set and is not a number.
    pub fn duration_ms(&self, name: &str, default: Duration) -> Result<Duration, ConfigError> {
        Ok(self.optional_parsed(name)?.map_or(default, Duration::from_millis))
    }

    /// A list separated by commas; empty when not set.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        let value = self.optional(name).unwrap_or_default();
        value.split(',').map(str::trim).filter(|v| !v.is_empty()).map(str::to_owned).collect()
    }

    /// A secret that must be set; its value is in no error and no `Debug`.
    ///
    /// # Errors
    /// When it is missing.
    pub fn secret(&self, name: &str) -> Result<SecretString, ConfigError> {
        self.required(name).map(SecretString::from)
    }

    /// A secret, if it is set.
    #[must_use]
    pub fn optional_secret(&self, name: &str) -> Option<SecretString> {
        self.optional(name).map(SecretString::from)
    }

    /// Records a problem that a getter cannot see, such as a secret that is too short. Name the variable in it.
    pub fn problem(&self, problem: impl Into<String>) -> ConfigError {
        let problem = problem.into();
        self.problems.lock().push(problem.clone());
        ConfigError { problems: vec![problem] }
    }

    /// All problems so far as one error.
    ///
    /// # Errors
    /// When any getter failed since the last call.
    pub fn finish(&self) -> Result<(), ConfigError> {
        let problems = std::mem::take(&mut *self.problems.lock());
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }
}

/// What a value should have been, in the words of whoever sets variables.
fn what<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    match name {
        "bool" => "true or false",
        "f32" | "f64" => "a number",
        _ if name == std::any::type_name::<SocketAddr>() => "an address with a port",
        _ if name.starts_with(['u', 'i']) && name.len() <= 5 => "a number",
        _ => "valid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_named_at_once() {
        let environment = Environment::of([("LEKHIKA_PORT", "abc"), ("LEKHIKA_EMPTY", " ")]);

        assert!(environment.required("LEKHIKA_DATABASE_URL").is_err());
        assert!(environment.optional_parsed::<u16>("LEKHIKA_PORT").is_err());
        assert!(environment.secret("LEKHIKA_EMPTY").is_err());
        let error = environment.finish().unwrap_err();

        assert_eq!(
            error.to_string(),
            "missing LEKHIKA_DATABASE_URL; LEKHIKA_PORT: `abc` is not a number (invalid digit found in string); \
             missing LEKHIKA_EMPTY"
        );
    }

    #[test]
    fn what_is_not_set_takes_its_default() {
        let environment = Environment::of([("LEKHIKA_GRACE_MS", "250"), ("LEKHIKA_URLS", "a, b,,")]);

        assert_eq!(environment.duration_ms("LEKHIKA_GRACE_MS", Duration::ZERO).unwrap(), Duration::from_millis(250));
        assert_eq!(environment.parsed_or("LEKHIKA_SLOTS", 8).unwrap(), 8);
        assert_eq!(environment.list("LEKHIKA_URLS"), ["a", "b"]);
        assert!(environment.finish().is_ok());
    }
}
