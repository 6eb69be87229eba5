//! Which models the platform can call. Only executors have the providers' credentials, so all of them are asked.

use std::{collections::BTreeMap, time::Duration};

use broker::{Inbox, ReplyTo};
use domain::ExecutorId;
use protocol::{
    Envelope,
    control::{Availability, Control, ModelsFound, TOPIC},
};
use tokio::sync::watch;

use crate::service::Status;

/// How long an answer may take: longer than an executor waits for its provider.
const WITHIN: Duration = Duration::from_secs(4);
/// A question may be lost; asking twice is harmless.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Answers that may wait to be read.
const ANSWERS: usize = 1_024;

/// Asks `executors`, those that live; what none of them could say in time is unchecked.
pub(crate) async fn find(
    status: &Status,
    models: Vec<String>,
    executors: Vec<ExecutorId>,
) -> BTreeMap<String, Availability> {
    let mut found: BTreeMap<String, Availability> =
        models.iter().map(|model| (model.clone(), Availability::Unchecked)).collect();
    if executors.is_empty() || models.is_empty() {
        return found;
    }
    let mut inbox = status.broker.inbox(ANSWERS);
    let asking = ask(status, models, inbox.address());
    tokio::select! {
        () = asking => {}
        () = gather(&mut inbox, executors, &mut found) => {}
        () = tokio::time::sleep(WITHIN) => {}
    }
    found
}

/// Asks again and again.
async fn ask(status: &Status, models: Vec<String>, mut address: watch::Receiver<Option<ReplyTo>>) {
    loop {
        let Ok(reply_to) = address.wait_for(Option::is_some).await.map(|address| address.clone()) else { return };
        let reply_to = reply_to.map(|address| address.as_str().to_owned()).unwrap_or_default();
        let question = Control::FindModels { models: models.clone(), reply_to };
        match Envelope::new(question, crate::trace::current()).to_bytes() {
            Ok(bytes) => status.broker.announce(TOPIC, bytes.into()),
            Err(error) => tracing::error!(%error, "a question cannot be written"),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Collects answers until everybody has answered or every model is found.
async fn gather(inbox: &mut Inbox, mut waiting: Vec<ExecutorId>, found: &mut BTreeMap<String, Availability>) {
    while !waiting.is_empty() && found.values().any(|availability| *availability != Availability::Available) {
        let Some(bytes) = inbox.next().await else { return };
        let Ok(answer) = Envelope::<ModelsFound>::from_bytes(&bytes) else { continue };
        let ModelsFound { executor_id, models } = answer.body;
        waiting.retain(|executor| *executor != executor_id);
        for (model, availability) in models {
            if let Some(known) = found.get_mut(&model) {
                *known = availability.max(*known);
            }
        }
    }
}
