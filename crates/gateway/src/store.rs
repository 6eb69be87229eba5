//! The object store: a local folder by default, S3 in a cluster.

use std::{path::Path, sync::Arc};

use object_store::{ObjectStore, ObjectStoreScheme, local::LocalFileSystem, prefix::PrefixStore};
use service::Environment;
use url::Url;

/// The options of an S3 store from the environment.
pub(crate) fn options(environment: &Environment) -> Vec<(String, String)> {
    let names = [
        ("LEKHIKA_S3_ENDPOINT", "endpoint"),
        ("LEKHIKA_S3_REGION", "region"),
        ("LEKHIKA_S3_ACCESS_KEY_ID", "access_key_id"),
        ("LEKHIKA_S3_SECRET_ACCESS_KEY", "secret_access_key"),
        ("LEKHIKA_S3_ALLOW_HTTP", "allow_http"),
    ];
    names
        .into_iter()
        .filter_map(|(variable, option)| environment.optional(variable).map(|value| (option.to_owned(), value)))
        .collect()
}

/// Opens `file:///folder` (made when missing) or `s3://bucket/prefix`.
///
/// # Errors
/// When the address or an option is wrong.
pub(crate) fn open(address: &str, options: &[(String, String)]) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    let wrong =
        |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic { store: "config", source };
    let url = Url::parse(address).map_err(|error| wrong(Box::new(error)))?;
    if matches!(ObjectStoreScheme::parse(&url), Ok((ObjectStoreScheme::Local, _))) {
        let path = Path::new(url.path());
        std::fs::create_dir_all(path).map_err(|error| wrong(Box::new(error)))?;
        return Ok(Arc::new(LocalFileSystem::new_with_prefix(path)?));
    }
    let (store, prefix) = object_store::parse_url_opts(&url, options.iter().map(|(k, v)| (k.as_str(), v.as_str())))?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}
