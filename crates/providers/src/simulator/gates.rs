//! Gates: where calls wait until a test opens them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Nobody needs more; what is above shares one gate.
const MAX_GATES: usize = 1000;

/// One gate.
#[derive(Debug)]
pub(super) struct Gate {
    open: watch::Sender<bool>,
    waiting: AtomicUsize,
}

impl Gate {
    fn new() -> Self {
        Self { open: watch::Sender::new(false), waiting: AtomicUsize::new(0) }
    }

    pub(super) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    pub(super) fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Returns once the gate is open.
    pub(super) async fn pass(&self) {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }

        let mut open = self.open.subscribe();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        // The sender is ours and lives as long as we do.
        let _ = open.wait_for(|open| *open).await;
    }
}

/// All gates, made when first named.
#[derive(Debug, Default)]
pub(super) struct Gates {
    by_name: Mutex<HashMap<String, Arc<Gate>>>,
}

impl Gates {
    pub(super) fn named(&self, name: &str) -> Arc<Gate> {
        let mut gates = self.by_name.lock();
        let name = if gates.len() < MAX_GATES || gates.contains_key(name) { name } else { "" };
        Arc::clone(gates.entry(name.to_owned()).or_insert_with(|| Arc::new(Gate::new())))
    }
}
