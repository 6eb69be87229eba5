//! What an executor process is told.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use providers::openai::Dialect;
use secrecy::SecretString;
use service::{ConfigError, Environment, ObjectStoreConfig, tokens::SECRET_VARIABLE};

/// The configuration of one executor.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// The internal listener with health and metrics (port 0: a free one); none in the embedded form.
    pub internal_address: Option<SocketAddr>,
    /// The status replicas, without a trailing path.
    pub status_urls: Vec<String>,
    /// Signs internal requests.
    pub service_secret: SecretString,
    /// Executions at once.
    pub slots: u32,
    /// The name operators see.
    pub name: String,
    /// From the beginning of draining to `abort`. In its first half runs may finish; in its second each is given back at
    /// its next unit boundary.
    pub drain_grace: Duration,
    /// Where files go.
    pub object_store: ObjectStoreConfig,
    /// Providers by the name in front of a model: `openai`, `sim`.
    pub providers: BTreeMap<String, ProviderSettings>,
    /// How long one model call may last.
    pub call_timeout: Duration,
    /// How long a run waits, with all its work done, for an object store that takes no files.
    pub store_patience: Duration,
}

/// How a provider is reached.
#[derive(Debug, Clone)]
pub struct ProviderSettings {
    /// Its base URL; without a path, `/v1` is meant.
    pub base_url: String,
    /// Its key; empty for none.
    pub api_key: SecretString,
    /// What it accepts.
    pub dialect: Dialect,
}

impl ExecutorConfig {
    /// Reads `LEKHIKA_*` (`docs/operations.md`).
    ///
    /// # Errors
    /// Names every missing or wrong variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let address = environment.parsed_or("LEKHIKA_INTERNAL_ADDR", SocketAddr::from(([127, 0, 0, 1], 9300)));
        let status_urls = environment.urls("LEKHIKA_STATUS_URLS");
        let service_secret = environment.long_secret(SECRET_VARIABLE);
        let slots = environment.within("LEKHIKA_SLOTS", 64_u32, 1..=100_000);
        let drain_grace = environment.duration_ms("LEKHIKA_DRAIN_GRACE_MS", Duration::from_secs(30));
        let call_timeout = environment.duration_ms("LEKHIKA_CALL_TIMEOUT_MS", Duration::from_secs(1_800));
        let store_patience = environment.duration_ms("LEKHIKA_STORE_PATIENCE_MS", Duration::from_secs(120));
        let object_store = ObjectStoreConfig::from_environment(environment);
        let providers = providers(environment);
        environment.finish()?;
        Ok(Self {
            internal_address: Some(address?),
            status_urls: status_urls?,
            service_secret: service_secret?,
            slots: slots?,
            name: environment.or("LEKHIKA_EXECUTOR_NAME", &environment.or("HOSTNAME", "executor")),
            drain_grace: drain_grace?,
            object_store: object_store?,
            providers: providers?,
            call_timeout: call_timeout?,
            store_patience: store_patience?,
        })
    }
}

/// `openai` when its key or address is set (an address alone: a compatible server without a key), `sim` with the
/// simulator's address.
fn providers(environment: &Environment) -> Result<BTreeMap<String, ProviderSettings>, ConfigError> {
    let mut providers = BTreeMap::new();
    let key = environment.optional_secret("LEKHIKA_OPENAI_API_KEY");
    let (base_url, simulator) = (environment.url("LEKHIKA_OPENAI_BASE_URL"), environment.url("LEKHIKA_SIMULATOR_URL"));
    let base_url = base_url?;
    let base = base_url.clone().unwrap_or_else(|| "https://api.openai.com/v1".to_owned());
    let words = environment.optional("LEKHIKA_OPENAI_DIALECT").unwrap_or_default();
    let dialect = Dialect::of(&base).but(&words).map_err(|word| {
        environment.problem(format!("LEKHIKA_OPENAI_DIALECT: `{word}` is nothing that a server can be told to accept"))
    });
    let dialect = dialect?;
    if key.is_some() || base_url.is_some() {
        let settings = ProviderSettings { base_url: base, api_key: key.unwrap_or_default(), dialect };
        providers.insert("openai".to_owned(), settings);
    }
    if let Some(base_url) = simulator? {
        providers.insert(
            "sim".to_owned(),
            ProviderSettings { dialect: Dialect::of(&base_url), base_url, api_key: SecretString::default() },
        );
    }
    Ok(providers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_values_are_named_together() {
        let error =
            ExecutorConfig::from_environment(&Environment::of([("LEKHIKA_SLOTS", "0")])).unwrap_err().to_string();

        for name in ["LEKHIKA_STATUS_URLS", "LEKHIKA_SERVICE_SECRET", "LEKHIKA_SLOTS", "LEKHIKA_OBJECT_STORE"] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn providers_are_those_whose_variables_are_set() {
        let environment = Environment::of([
            ("LEKHIKA_STATUS_URLS", "http://a:1, http://b:2"),
            ("LEKHIKA_SERVICE_SECRET", "0123456789abcdef0123456789abcdef"),
            ("LEKHIKA_OBJECT_STORE", "file:///files"),
            ("LEKHIKA_OPENAI_API_KEY", "key"),
            ("LEKHIKA_SIMULATOR_URL", "http://sim:3"),
        ]);

        let config = ExecutorConfig::from_environment(&environment).unwrap();

        assert_eq!(config.providers.keys().collect::<Vec<_>>(), ["openai", "sim"]);
        assert_eq!(config.status_urls.len(), 2);
        assert_eq!(config.slots, 64);
    }
}
