//! What a compose file may say, as types: an unknown key, a wrong type or a wrong duration is an error wherever it stands.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::Value;

/// The whole file. Extension fields (`x-..`) are taken out before.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "reading it is the test")]
pub struct Compose {
    pub name: String,
    pub services: BTreeMap<String, Service>,
    pub networks: BTreeMap<String, Network>,
    pub volumes: BTreeMap<String, Nothing>,
}

/// What we use of a service. A key that is not here is a typing mistake until it is added.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "reading it is the test")]
pub struct Service {
    pub image: String,
    pub build: Option<Build>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    #[serde(default)]
    pub environment: BTreeMap<String, Scalar>,
    pub healthcheck: HealthCheck,
    #[serde(default)]
    pub depends_on: BTreeMap<String, Dependency>,
    #[serde(default)]
    pub networks: Vec<String>,
    pub network_mode: Option<NetworkMode>,
    #[serde(default)]
    pub volumes: Vec<Mount>,
    #[serde(default)]
    pub ports: Vec<Port>,
    pub restart: Restart,
    pub stop_grace_period: Option<Span>,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub tmpfs: Vec<Folder>,
    #[serde(default)]
    pub cap_drop: Vec<String>,
    #[serde(default)]
    pub security_opt: Vec<String>,
    pub hostname: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    pub context: String,
    pub dockerfile: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    pub disable: bool,
    pub test: Vec<String>,
    pub interval: Option<Span>,
    pub timeout: Option<Span>,
    pub start_period: Option<Span>,
    pub retries: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    pub condition: Condition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    ServiceHealthy,
    ServiceCompletedSuccessfully,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    No,
    UnlessStopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    None,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    #[serde(default)]
    pub internal: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// The value of a variable.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    Text(String),
    Number(i64),
}

impl Scalar {
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
        }
    }
}

/// A duration as compose writes it: `45s`, `1m30s`, `500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a duration");
        let (mut rest, mut total) = (text.as_str(), Duration::ZERO);
        while !rest.is_empty() {
            let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
            let unit = rest[digits..].find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len() - digits);
            let number: u64 = rest[..digits].parse().map_err(|_other| wrong())?;
            total += match &rest[digits..digits + unit] {
                "us" => Duration::from_micros(number),
                "ms" => Duration::from_millis(number),
                "s" => Duration::from_secs(number),
                "m" => Duration::from_secs(60 * number),
                "h" => Duration::from_secs(3_600 * number),
                _ => return Err(wrong()),
            };
            rest = &rest[digits + unit..];
        }
        if total.is_zero() { Err(wrong()) } else { Ok(Self(total)) }
    }
}

/// `address:port on the host:port in the container`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
#[expect(dead_code, reason = "reading it is the test")]
pub struct Port {
    pub host: std::net::SocketAddr,
    pub container: u16,
}

impl TryFrom<String> for Port {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not address:port:port");
        let (host, container) = text.rsplit_once(':').ok_or_else(wrong)?;
        Ok(Self {
            host: host.parse().map_err(|_other| wrong())?,
            container: container.parse().map_err(|_other| wrong())?,
        })
    }
}

/// `volume:/folder`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
#[expect(dead_code, reason = "reading it is the test")]
pub struct Mount {
    pub volume: String,
    pub folder: Folder,
}

impl TryFrom<String> for Mount {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (volume, folder) = text.split_once(':').ok_or_else(|| format!("`{text}` is not volume:/folder"))?;
        Ok(Self { volume: volume.to_owned(), folder: folder.to_owned().try_into()? })
    }
}

/// An absolute path in the container.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
#[expect(dead_code, reason = "reading it is the test")]
pub struct Folder(String);

impl TryFrom<String> for Folder {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.starts_with('/') { Ok(Self(text)) } else { Err(format!("`{text}` is not an absolute path")) }
    }
}

/// Reads a file as `docker compose` would with an empty environment: anchors merged, defaults in place of variables.
pub fn read(text: &str) -> Result<Compose, String> {
    let mut file: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    file.as_object_mut().ok_or("it is no object")?.retain(|key, _| !key.starts_with("x-"));
    substitute(&mut file)?;
    serde_json::from_value(file).map_err(|error| error.to_string())
}

fn substitute(value: &mut Value) -> Result<(), String> {
    match value {
        Value::String(text) => *text = with_defaults(text)?,
        Value::Array(items) => items.iter_mut().try_for_each(substitute)?,
        Value::Object(fields) => fields.values_mut().try_for_each(substitute)?,
        _ => {}
    }
    Ok(())
}

/// A variable without a default would be empty: it has to say what it is when it is not set.
fn with_defaults(text: &str) -> Result<String, String> {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, after) = after.split_once('}').ok_or_else(|| format!("`{text}` has an open brace"))?;
        let (_, default) = inside.split_once(":-").ok_or_else(|| format!("`${{{inside}}}` has no default"))?;
        done += before;
        done += default;
        rest = after;
    }
    Ok(done + rest)
}

#[test]
fn mistakes_are_found_wherever_they_stand() {
    let file = |line: &str| {
        format!(
            "name: x\nnetworks: {{}}\nvolumes: {{}}\nservices:\n  a:\n    image: a:1\n    restart: 'no'\n    {line}\n"
        )
    };
    assert!(read(&file("healthcheck: { test: [CMD, x], interval: 1m30s, retries: 3 }")).is_ok());
    for (line, told) in [
        ("healthcheck: { test: [CMD, x], intervall: 5s }", "intervall"),
        ("healthcheck: { test: [CMD, x], interval: 5 s }", "not a duration"),
        ("healthcheck: { test: [CMD, x], retries: many }", "many"),
        ("healthcheck: { test: CMD }", "CMD"),
        ("healthcheck: {}\n    memory: 1g", "memory"),
        ("healthcheck: {}\n    depends_on: { b: { condition: service_ready } }", "service_ready"),
        ("healthcheck: {}\n    ports: ['8080:8080']", "8080"),
        ("healthcheck: {}\n    volumes: ['data']", "data"),
        ("healthcheck: {}\n    read_only: sometimes", "sometimes"),
        ("healthcheck: {}\n    hostname: ${NAME}", "NAME"),
    ] {
        let error = read(&file(line)).expect_err(line);
        assert!(error.contains(told), "{line}: {error}");
    }
}
