//! What this executor holds, by id: how a stop finds its run, and what a renewal lists.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use domain::ExecutionId;
use parking_lot::Mutex;
use protocol::claim::Held;
use tokio::sync::Notify;

use crate::{
    halt::{Halt, Reason},
    outbox::Line,
};

/// All runs of this executor, from before their claim is sent until their finish is stored.
#[derive(Default)]
pub(crate) struct Runs {
    holds: Mutex<HashMap<ExecutionId, Hold>>,
    changed: Notify,
}

struct Hold {
    halt: Arc<Halt>,
    /// `None` while the claim is under way.
    line: Option<Arc<Line>>,
    /// A stop that overtook the answer to the claim: for this epoch.
    early_stop: Option<(i32, DateTime<Utc>)>,
}

impl Runs {
    /// Notes a wish before its claim is sent, so that a stop which comes right after the grant finds it. `None` when it is
    /// here already.
    pub(crate) fn wish(&self, id: ExecutionId) -> Option<Arc<Halt>> {
        match self.holds.lock().entry(id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                let halt = Arc::new(Halt::default());
                place.insert(Hold { halt: Arc::clone(&halt), line: None, early_stop: None });
                Some(halt)
            }
        }
    }

    /// The wish was granted.
    pub(crate) fn granted(&self, line: Arc<Line>) {
        if let Some(hold) = self.holds.lock().get_mut(&line.execution_id()) {
            if let Some((epoch, at)) = hold.early_stop
                && epoch == line.epoch()
            {
                hold.halt.order(Reason::Stopped(at));
            }
            hold.line = Some(line);
        }
    }

    /// It is over, or the wish was refused.
    pub(crate) fn forget(&self, id: ExecutionId) {
        self.holds.lock().remove(&id);
        self.changed.notify_waiters();
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.holds.lock().len()
    }

    /// Returns when nothing is held.
    pub(crate) async fn none(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.len() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// What a renewal lists.
    pub(crate) fn held(&self) -> Vec<Held> {
        let holds = self.holds.lock();
        let lines = holds.values().filter_map(|hold| hold.line.as_ref());
        lines.map(|line| Held { execution_id: line.execution_id(), epoch: line.epoch() }).collect()
    }

    /// Its owner wants it stopped. An order for another attempt is ignored.
    pub(crate) fn stop(&self, id: ExecutionId, epoch: i32, now: DateTime<Utc>) {
        if let Some(hold) = self.holds.lock().get_mut(&id) {
            match &hold.line {
                Some(line) if line.epoch() == epoch => hold.halt.order(Reason::Stopped(now)),
                Some(_) => {}
                None => hold.early_stop = Some((epoch, now)),
            }
        }
    }

    /// Somebody else holds it, or it is over.
    pub(crate) fn lose(&self, held: Held) {
        let line = {
            let holds = self.holds.lock();
            let Some(hold) = holds.get(&held.execution_id) else { return };
            let Some(line) = hold.line.as_ref().filter(|line| line.epoch() == held.epoch) else { return };
            hold.halt.order(Reason::Lost);
            Arc::clone(line)
        };
        line.lose();
    }

    /// This process ends: everything is given back at once.
    pub(crate) fn give_back_all(&self) {
        for hold in self.holds.lock().values() {
            hold.halt.order(Reason::GiveBack);
        }
    }
}
