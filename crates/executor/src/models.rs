//! Which provider answers for a model.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use prometheus::Registry;
use protocol::control::Availability;
use providers::{
    LanguageModel, Timeouts,
    openai::{BadConnection, OpenAiChat},
};

use crate::{config::ProviderSettings, oddities::Oddities};

/// How long a provider may take to say which models it has.
const FIND_WITHIN: Duration = Duration::from_secs(3);

/// Providers by the name in front of a model.
pub(crate) struct Models {
    by_name: BTreeMap<String, Arc<dyn LanguageModel>>,
}

impl Models {
    /// Prepares all configured providers; nothing is connected yet.
    ///
    /// # Errors
    /// When an address or a key cannot be used.
    pub(crate) fn new(
        settings: &BTreeMap<String, ProviderSettings>,
        registry: &Registry,
    ) -> Result<Self, BadConnection> {
        let mut by_name: BTreeMap<String, Arc<dyn LanguageModel>> = BTreeMap::new();
        let mut counters = Vec::with_capacity(settings.len());
        for (name, settings) in settings {
            let chat = OpenAiChat::new(&settings.base_url, &settings.api_key, settings.dialect, Timeouts::default())?;
            counters.push((name.clone(), chat.counters()));
            by_name.insert(name.clone(), Arc::new(chat));
        }
        match Oddities::new(counters) {
            Ok(oddities) => service::metrics::register(registry, oddities),
            Err(error) => tracing::error!(%error, "no metrics of the providers"),
        }
        Ok(Self { by_name })
    }

    /// The provider of `provider/model-id`, and the model's id there.
    pub(crate) fn find<'a>(&self, model: &'a str) -> Option<(&Arc<dyn LanguageModel>, &'a str)> {
        let (provider, id) = model.split_once('/')?;
        Some((self.by_name.get(provider)?, id))
    }

    /// Asks the providers which of these models they have.
    pub(crate) async fn availability(&self, models: Vec<String>) -> BTreeMap<String, Availability> {
        let mut found = BTreeMap::new();
        let mut of_provider: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for name in models {
            match self.provider(&name) {
                Some((provider, id)) => {
                    of_provider.entry(provider).or_default().push(id.to_owned());
                    found.insert(name, Availability::Unchecked);
                }
                None => drop(found.insert(name, Availability::NoProvider)),
            }
        }
        let asked = of_provider.into_iter().filter_map(|(name, ids)| Some(ask(name, self.by_name.get(name)?, ids)));
        for (name, availability) in join_all(asked).await.into_iter().flatten() {
            found.insert(name, availability);
        }
        found
    }

    /// The name of a provider that is set up, and the model's id there.
    fn provider<'a>(&self, model: &'a str) -> Option<(&str, &'a str)> {
        let (provider, id) = model.split_once('/')?;
        let (name, _model) = self.by_name.get_key_value(provider)?;
        Some((name, id))
    }
}

/// What one provider says of its models; nothing if it cannot say in time.
async fn ask(name: &str, provider: &Arc<dyn LanguageModel>, ids: Vec<String>) -> Vec<(String, Availability)> {
    let missing = match tokio::time::timeout(FIND_WITHIN, provider.missing(ids.clone())).await {
        Ok(Ok(missing)) => missing,
        Ok(Err(error)) => {
            tracing::warn!(provider = name, %error, "a provider does not say which models it has");
            return Vec::new();
        }
        Err(_elapsed) => {
            tracing::warn!(provider = name, "a provider does not say in time which models it has");
            return Vec::new();
        }
    };
    let availability = |id: &String| if missing.contains(id) { Availability::Missing } else { Availability::Available };
    ids.into_iter().map(|id| (format!("{name}/{id}"), availability(&id))).collect()
}
