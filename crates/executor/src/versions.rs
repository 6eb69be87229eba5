//! Engine versions, fetched once and kept compiled: they never change.

use std::{collections::HashMap, sync::Arc, time::Duration};

use domain::{VersionId, flow::CompiledFlow};
use parking_lot::Mutex;
use protocol::read::{Found, ReadVersion, VERSION_PATH, VersionView};
use service::{InternalClient, InternalError};
use tokio::sync::OnceCell;

/// How many versions are kept.
const KEPT: usize = 256;
/// How long one fetch may take.
const FETCH_WITHIN: Duration = Duration::from_secs(5);

type Slot = Arc<OnceCell<Result<Arc<CompiledFlow>, Unusable>>>;

/// A version that no executor can run: asking again does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use an engine version: {0}")]
pub(crate) struct Unusable(pub(crate) String);

/// The compiled versions of this process.
#[derive(Default)]
pub(crate) struct Versions {
    slots: Mutex<HashMap<VersionId, Slot>>,
}

impl Versions {
    /// The compiled flow. Many runs may ask for the same one at once: it is fetched once.
    ///
    /// # Errors
    /// [`InternalError`]: ask again later. The inner error is final.
    pub(crate) async fn get(
        &self,
        status: &InternalClient,
        version_id: VersionId,
    ) -> Result<Result<Arc<CompiledFlow>, Unusable>, InternalError> {
        let slot = self.slot(version_id);
        slot.get_or_try_init(|| fetch(status, version_id)).await.cloned()
    }

    fn slot(&self, version_id: VersionId) -> Slot {
        let mut slots = self.slots.lock();
        if slots.len() >= KEPT && !slots.contains_key(&version_id) {
            // Any: who needs it again fetches it again.
            if let Some(victim) = slots.keys().next().copied() {
                slots.remove(&victim);
            }
        }
        Arc::clone(slots.entry(version_id).or_default())
    }
}

async fn fetch(
    status: &InternalClient,
    version_id: VersionId,
) -> Result<Result<Arc<CompiledFlow>, Unusable>, InternalError> {
    let found: Found<VersionView> = status.post_json(VERSION_PATH, &ReadVersion { version_id }, FETCH_WITHIN).await?;
    let Found::Found(view) = found else {
        return Ok(Err(Unusable("the ledger does not have it".to_owned())));
    };
    Ok(compile(view.flow.get()).map(Arc::new))
}

fn compile(flow: &str) -> Result<CompiledFlow, Unusable> {
    let document = serde_json::from_str(flow).map_err(|error| Unusable(error.to_string()))?;
    CompiledFlow::from_document(&document).map_err(|problems| {
        let lines: Vec<String> = problems.iter().take(5).map(ToString::to_string).collect();
        Unusable(lines.join("; "))
    })
}
