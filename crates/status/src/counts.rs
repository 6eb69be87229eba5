//! Counts of a whole history, which cost more the longer it is: remembered for twenty times as long as they took, so that
//! whoever asks without end uses a twentieth of a connection.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use domain::{UserEngineId, UserId};
use parking_lot::Mutex;
use protocol::read::{ReadStats, Stats};
use storage::StorageError;
use tokio::sync::Semaphore;

use crate::service::Status;

/// Answers that are remembered.
const REMEMBERED: usize = 10_000;
/// However long it took.
const AT_MOST: Duration = Duration::from_secs(600);
/// Histories that are counted at once.
const AT_ONCE: usize = 2;

type Asker = (UserId, Option<UserEngineId>);

/// The counts of those who asked lately.
pub(crate) struct Counts {
    known: Mutex<HashMap<Asker, (Stats, Instant)>>,
    room: Semaphore,
}

impl Default for Counts {
    fn default() -> Self {
        Self { known: Mutex::default(), room: Semaphore::new(AT_ONCE) }
    }
}

impl Counts {
    fn known(&self, asker: &Asker, now: Instant) -> Option<Stats> {
        self.known.lock().get(asker).filter(|(_, until)| *until > now).map(|(stats, _)| stats.clone())
    }

    fn remember(&self, asker: Asker, stats: &Stats, took: Duration, now: Instant) {
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < REMEMBERED {
            known.insert(asker, (stats.clone(), now + took.saturating_mul(20).min(AT_MOST)));
        }
    }
}

/// The counts of an owner.
pub(crate) async fn stats(status: &Status, query: &ReadStats) -> Result<Stats, StorageError> {
    let asker = (query.user_id, query.user_engine_id);
    if let Some(stats) = status.counts.known(&asker, Instant::now()) {
        return Ok(stats);
    }
    // The semaphore is never closed.
    let _room = status.counts.room.acquire().await;
    if let Some(stats) = status.counts.known(&asker, Instant::now()) {
        return Ok(stats);
    }
    let mut conn = status.connection().await?;
    let began = Instant::now();
    let stats = storage::executions::stats(&mut conn, query).await?;
    status.counts.remember(asker, &stats, began.elapsed(), Instant::now());
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_is_remembered_long_and_never_for_more_than_ten_minutes() {
        let counts = Counts::default();
        let (quick, slow) = ((UserId::generate(), None), (UserId::generate(), None));
        let now = Instant::now();

        counts.remember(quick, &Stats::default(), Duration::from_millis(1), now);
        counts.remember(slow, &Stats::default(), Duration::from_secs(3_600), now);

        let later = now + Duration::from_millis(21);
        assert!(counts.known(&quick, later).is_none() && counts.known(&slow, later).is_some());
        assert!(counts.known(&slow, later + AT_MOST).is_none());
    }
}
