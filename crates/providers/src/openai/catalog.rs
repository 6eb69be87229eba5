//! Which models a provider has: `GET /v1/models`, and `GET /v1/models/{id}` for names that its list does not spell out (aliases,
//! servers that complete a name).

use serde::Deserialize;
use url::{Position, Url};

use super::{Shared, call};
use crate::{ErrorClass, ProviderError};

/// The ids of all models that the provider lists.
pub(super) async fn list(shared: &Shared) -> Result<Vec<String>, ProviderError> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }

    let body = call::fetch(shared, || shared.get(&shared.models_path)).await?;
    let list: List = serde_json::from_slice(&body)
        .map_err(|error| ProviderError::network("unexpected_answer", error.to_string()))?;
    Ok(list.data.into_iter().map(|model| model.id).collect())
}

/// Which of `ids` the provider does not have. A provider without a list says nothing about single names either.
pub(super) async fn missing(shared: &Shared, mut ids: Vec<String>) -> Result<Vec<String>, ProviderError> {
    let listed = list(shared).await?;
    ids.retain(|id| !listed.contains(id));
    let mut missing = Vec::new();
    for id in ids {
        let path = path_of(shared, &id)
            .ok_or_else(|| ProviderError::new(ErrorClass::InvalidRequest, "bad_model_name", id.clone()))?;
        match call::fetch(shared, || shared.get(&path)).await {
            Ok(_described) => {}
            Err(error) if error.status == Some(404) => missing.push(id),
            Err(error) => return Err(error),
        }
    }
    Ok(missing)
}

/// The path of one model; its slashes stay, as servers with names of several parts expect.
fn path_of(shared: &Shared, id: &str) -> Option<http::Uri> {
    let mut url = Url::parse("http://provider").ok()?;
    url.set_path(shared.models_path.path());
    url.set_query(shared.models_path.query());
    url.path_segments_mut().ok()?.extend(id.split('/'));
    url[Position::BeforePath..].parse().ok()
}
