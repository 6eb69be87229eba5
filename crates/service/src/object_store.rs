//! The object store: a local folder by default, S3 in a cluster.

use crate::{ConfigError, Environment};
use object_store::{ObjectStore, ObjectStoreScheme, local::LocalFileSystem, prefix::PrefixStore};
use secrecy::{ExposeSecret, SecretString};
use std::{path::Path, sync::Arc};
use url::Url;

/// Where files are.
#[derive(Debug, Clone)]
pub struct ObjectStoreConfig {
    /// `file:///folder` (made when missing) or `s3://bucket/prefix`. Variable `LEKHIKA_OBJECT_STORE`.
    pub address: String,
    /// Options of the store, such as the S3 endpoint and its credentials. Variables `LEKHIKA_S3_*`.
    pub options: Vec<(String, SecretString)>,
}

impl ObjectStoreConfig {
    /// A store without options.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), options: Vec::new() }
    }

    /// Reads `LEKHIKA_OBJECT_STORE` and `LEKHIKA_S3_*`.
    ///
    /// # Errors
    /// When one is missing or wrong.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let address = environment.required("LEKHIKA_OBJECT_STORE").and_then(|address| {
            let scheme = Url::parse(&address).ok().and_then(|url| ObjectStoreScheme::parse(&url).ok());
            match scheme {
                Some((ObjectStoreScheme::Local | ObjectStoreScheme::AmazonS3, _)) => Ok(address),
                _ => Err(environment.problem(format!(
                    "LEKHIKA_OBJECT_STORE: `{address}` is neither file:///folder nor s3://bucket/prefix"
                ))),
            }
        });
        let endpoint = environment.url("LEKHIKA_S3_ENDPOINT");
        let allow_http = environment.optional_parsed::<bool>("LEKHIKA_S3_ALLOW_HTTP");
        let given = [
            ("endpoint", endpoint?),
            ("allow_http", allow_http?.map(|allowed| allowed.to_string())),
            ("region", environment.optional("LEKHIKA_S3_REGION")),
            ("access_key_id", environment.optional("LEKHIKA_S3_ACCESS_KEY_ID")),
            ("secret_access_key", environment.optional("LEKHIKA_S3_SECRET_ACCESS_KEY")),
        ];
        let options = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect();
        Ok(Self { address: address?, options })
    }

    /// Opens the store; a local folder is made when it is missing.
    ///
    /// # Errors
    /// When the address or an option is wrong.
    pub fn open(&self) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
        let wrong =
            |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic { store: "config", source };
        let url = Url::parse(&self.address).map_err(|error| wrong(Box::new(error)))?;
        if matches!(ObjectStoreScheme::parse(&url), Ok((ObjectStoreScheme::Local, _))) {
            let path = Path::new(url.path());
            std::fs::create_dir_all(path).map_err(|error| wrong(Box::new(error)))?;
            return Ok(Arc::new(LocalFileSystem::new_with_prefix(path)?));
        }
        let options = self.options.iter().map(|(name, value)| (name.as_str(), value.expose_secret()));
        let (store, prefix) = object_store::parse_url_opts(&url, options)?;
        Ok(Arc::new(PrefixStore::new(store, prefix)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credential_is_shown_to_whoever_prints_the_configuration() {
        let environment = Environment::of([
            ("LEKHIKA_OBJECT_STORE", "s3://bucket/prefix"),
            ("LEKHIKA_S3_ENDPOINT", "http://store:7070"),
            ("LEKHIKA_S3_ALLOW_HTTP", "true"),
            ("LEKHIKA_S3_ACCESS_KEY_ID", "known-id"),
            ("LEKHIKA_S3_SECRET_ACCESS_KEY", "not-for-logs"),
        ]);

        let config = ObjectStoreConfig::from_environment(&environment).unwrap();

        assert!(!format!("{config:?}").contains("not-for-logs"), "{config:?}");
        assert!(config.open().is_ok());
    }

    #[test]
    fn wrong_values_name_their_variables() {
        let environment = Environment::of([
            ("LEKHIKA_OBJECT_STORE", "/a/folder"),
            ("LEKHIKA_S3_ENDPOINT", "store:7070"),
            ("LEKHIKA_S3_ALLOW_HTTP", "yes"),
        ]);

        assert!(ObjectStoreConfig::from_environment(&environment).is_err());

        let problems = environment.finish().unwrap_err().problems;
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
