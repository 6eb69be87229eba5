//! Which provider answers for a model.

use std::{collections::BTreeMap, sync::Arc};

use providers::{
    LanguageModel, Timeouts,
    openai::{BadConnection, Dialect, OpenAiChat},
};

use crate::config::ProviderSettings;

/// Providers by the name in front of a model.
pub(crate) struct Models {
    by_name: BTreeMap<String, Arc<dyn LanguageModel>>,
}

impl Models {
    /// Prepares all configured providers; nothing is connected yet.
    ///
    /// # Errors
    /// When an address or a key cannot be used.
    pub(crate) fn new(settings: &BTreeMap<String, ProviderSettings>) -> Result<Self, BadConnection> {
        let mut by_name: BTreeMap<String, Arc<dyn LanguageModel>> = BTreeMap::new();
        for (name, settings) in settings {
            let dialect = Dialect::of(&settings.base_url);
            let chat = OpenAiChat::new(&settings.base_url, &settings.api_key, dialect, Timeouts::default())?;
            by_name.insert(name.clone(), Arc::new(chat));
        }
        Ok(Self { by_name })
    }

    /// The provider of `provider/model-id`, and the model's id there.
    pub(crate) fn find<'a>(&self, model: &'a str) -> Option<(&Arc<dyn LanguageModel>, &'a str)> {
        let (provider, id) = model.split_once('/')?;
        Some((self.by_name.get(provider)?, id))
    }
}
