//! Configuration from environment variables: typed, read once, with every problem named at once.

use parking_lot::Mutex;
use secrecy::SecretString;
use std::{
    collections::BTreeMap,
    fmt::Display,
    net::SocketAddr,
    ops::{Bound, RangeBounds},
    str::FromStr,
    time::Duration,
};
use url::Url;

/// The shortest secret accepted where one signs or hashes, in bytes: the length of the HMAC.
pub const SECRET_MIN: usize = 32;

/// The environment of the process, or a map that stands for it. An empty value counts as not set.
///
/// Each getter returns its own error and remembers it, so that [`finish`](Self::finish) can name all of them:
/// ```ignore
/// fn config(environment: &Environment) -> Result<Config, ConfigError> {
///     let urls = environment.urls("LEKHIKA_STATUS_URLS");
///     let slots = environment.parsed_or("LEKHIKA_SLOTS", 8);
///     environment.finish()?;
///     Ok(Config { urls: urls?, slots: slots? })
/// }
/// ```
/// A process that reads several configurations reads all of them before it looks at the first result, and then takes the
/// one list of [`finish`](Self::finish).
#[derive(Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    problems: Mutex<Vec<String>>,
}

/// What is wrong with the configuration; one line per variable, never with the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.join("; "))]
pub struct ConfigError {
    /// Like `missing LEKHIKA_STATUS_URLS` or ``LEKHIKA_SLOTS: `abc` is not a number``.
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

    /// A number within bounds, or a default.
    ///
    /// # Errors
    /// When it is set and is no such number.
    pub fn within<T>(&self, name: &str, default: T, bounds: impl RangeBounds<T>) -> Result<T, ConfigError>
    where
        T: FromStr<Err: Display> + PartialOrd + Display + Copy,
    {
        let value = self.parsed_or(name, default)?;
        if bounds.contains(&value) {
            return Ok(value);
        }
        let bound = |bound: Bound<&T>| match bound {
            Bound::Included(n) | Bound::Excluded(n) => n.to_string(),
            Bound::Unbounded => "any".to_owned(),
        };
        let (from, to) = (bound(bounds.start_bound()), bound(bounds.end_bound()));
        Err(self.problem(format!("{name}: {value} is not between {from} and {to}")))
    }

    /// The base URL of an HTTP server, without the slash at its end, if it is set.
    ///
    /// # Errors
    /// When it is set and is not such a URL.
    pub fn url(&self, name: &str) -> Result<Option<String>, ConfigError> {
        self.optional(name).map(|value| self.base_url(name, &value)).transpose()
    }

    /// Base URLs of HTTP servers, separated by commas; at least one.
    ///
    /// # Errors
    /// When it is missing or one of them is not such a URL.
    pub fn urls(&self, name: &str) -> Result<Vec<String>, ConfigError> {
        let values = self.list(name);
        if values.is_empty() {
            return Err(self.problem(format!("missing {name}")));
        }
        values.iter().map(|value| self.base_url(name, value)).collect()
    }

    fn base_url(&self, name: &str, value: &str) -> Result<String, ConfigError> {
        let is_base = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        };
        match Url::parse(value) {
            Ok(url) if is_base(&url) => Ok(value.trim_end_matches('/').to_owned()),
            // Not the value: a URL may carry a password where none belongs.
            _ => Err(self.problem(format!("{name}: it has to be a base URL such as http://host:port"))),
        }
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

    /// A secret that must be set and have at least [`SECRET_MIN`] bytes: what signs or hashes must not be guessed.
    ///
    /// # Errors
    /// When it is missing or too short.
    pub fn long_secret(&self, name: &str) -> Result<SecretString, ConfigError> {
        self.optional_long_secret(name)?.ok_or_else(|| self.problem(format!("missing {name}")))
    }

    /// As [`long_secret`](Self::long_secret), if it is set.
    ///
    /// # Errors
    /// When it is set and too short.
    pub fn optional_long_secret(&self, name: &str) -> Result<Option<SecretString>, ConfigError> {
        match self.optional(name) {
            Some(value) if value.len() < SECRET_MIN => {
                let bytes = value.len();
                Err(self.problem(format!("{name} has {bytes} bytes, it needs at least {SECRET_MIN}")))
            }
            value => Ok(value.map(SecretString::from)),
        }
    }

    /// A URL with a password in it, of one of these schemes.
    ///
    /// # Errors
    /// When it is missing or is not such a URL; the value is in no error.
    pub fn secret_url(&self, name: &str, schemes: &[&str]) -> Result<SecretString, ConfigError> {
        let value = self.required(name)?;
        match Url::parse(&value) {
            Ok(url) if schemes.contains(&url.scheme()) && url.has_host() => Ok(value.into()),
            _ => {
                Err(self.problem(format!("{name}: it has to be a URL that begins with {}://", schemes.join(":// or "))))
            }
        }
    }

    /// A secret, if it is set.
    #[must_use]
    pub fn optional_secret(&self, name: &str) -> Option<SecretString> {
        self.optional(name).map(SecretString::from)
    }

    /// Records a problem that a getter cannot see, such as a secret that is too short. Name the variable in it.
    pub fn problem(&self, problem: impl Into<String>) -> ConfigError {
        let problem = problem.into();
        let mut problems = self.problems.lock();
        // Two parts of a process may read the same variable.
        if !problems.contains(&problem) {
            problems.push(problem.clone());
        }
        ConfigError { problems: vec![problem] }
    }

    /// All problems so far as one error.
    ///
    /// # Errors
    /// When any getter failed.
    pub fn finish(&self) -> Result<(), ConfigError> {
        let problems = self.problems.lock().clone();
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
        let environment = Environment::of([("PORT", "abc"), ("EMPTY", " ")]);

        assert!(environment.required("DATABASE_URL").is_err());
        assert!(environment.optional_parsed::<u16>("PORT").is_err());
        assert!(environment.secret("EMPTY").is_err());
        let error = environment.finish().unwrap_err();

        assert_eq!(
            error.to_string(),
            "missing DATABASE_URL; PORT: `abc` is not a number (invalid digit found in string); \
             missing EMPTY"
        );
    }

    #[test]
    fn what_is_not_set_takes_its_default() {
        let environment = Environment::of([("GRACE_MS", "250"), ("URLS", "a, b,,")]);

        assert_eq!(environment.duration_ms("GRACE_MS", Duration::ZERO).unwrap(), Duration::from_millis(250));
        assert_eq!(environment.parsed_or("SLOTS", 8).unwrap(), 8);
        assert_eq!(environment.list("URLS"), ["a", "b"]);
        assert!(environment.finish().is_ok());
    }

    #[test]
    fn a_base_url_has_no_slash_at_its_end_and_no_secret_in_it() {
        let environment = Environment::of([
            ("GOOD", "http://status:9000/, https://host/path/"),
            ("HOST", "status:9000"),
            ("SECRET", "http://user:hunter2@host"),
            ("QUERY", "http://host/?a=b"),
        ]);

        assert_eq!(environment.urls("GOOD").unwrap(), ["http://status:9000", "https://host/path"]);
        assert_eq!(environment.url("ABSENT").unwrap(), None);
        for name in ["HOST", "SECRET", "QUERY"] {
            assert!(environment.url(name).is_err(), "{name}");
        }
        let error = environment.finish().unwrap_err().to_string();
        assert!(error.contains("HOST: ") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_secret_url_is_of_its_scheme_and_stays_secret() {
        let environment =
            Environment::of([("DB", "postgres://app@%2Ftmp%2Fdir/db"), ("OTHER", "mysql://u:hunter2@h/d")]);

        assert!(environment.secret_url("DB", &["postgres", "postgresql"]).is_ok());
        let error = environment.secret_url("OTHER", &["postgres", "postgresql"]).unwrap_err().to_string();

        assert_eq!(error, "OTHER: it has to be a URL that begins with postgres:// or postgresql://");
    }

    #[test]
    fn a_short_secret_and_a_number_out_of_bounds_are_named_once() {
        let environment = Environment::of([("PEPPER", "short"), ("CONNECTIONS", "0")]);

        assert!(environment.long_secret("PEPPER").is_err());
        assert!(environment.optional_long_secret("PEPPER").is_err());
        assert!(environment.within("CONNECTIONS", 16, 1..=1_000).is_err());

        assert_eq!(
            environment.finish().unwrap_err().to_string(),
            "PEPPER has 5 bytes, it needs at least 32; CONNECTIONS: 0 is not between 1 and 1000"
        );
    }
}
