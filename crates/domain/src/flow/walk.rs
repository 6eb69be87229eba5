//! The walk over a flow's graph: which node may start now. A pure state machine; the executor drives it.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use super::graph::Graph;

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has its output.
    Completed,
    /// It has none, and what depends on it cannot run.
    Failed,
    /// No branch reached it.
    Skipped,
}

/// Where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    Ready,
    Running,
    Settled(Outcome),
}

/// Which nodes may start, which run, and what is left.
///
/// Nodes are their indices in the document. A node is ready when all its parents are settled and at least one of them
/// completed; if all were skipped it is skipped too; below a failed node nothing starts. All work together is O(nodes + edges).
#[derive(Debug, Clone)]
pub struct Walk {
    graph: Arc<Graph>,
    places: Vec<Place>,
    /// Per node: how many parents are not settled yet.
    missing: Vec<usize>,
    /// Ready nodes; the first in the document first, so that equal histories give equal walks.
    ready: BinaryHeap<Reverse<usize>>,
    running: usize,
    settled: usize,
    failed: bool,
}

impl Walk {
    /// A walk that begins after the nodes in `finished` have completed (in an earlier attempt).
    pub fn new(graph: Arc<Graph>, finished: impl IntoIterator<Item = usize>) -> Self {
        let nodes = graph.len();
        let missing = (0..nodes).map(|node| graph.parents(node).len()).collect();
        let mut walk = Self {
            graph,
            places: vec![Place::Waiting; nodes],
            missing,
            ready: BinaryHeap::new(),
            running: 0,
            settled: 0,
            failed: false,
        };
        let finished: Vec<usize> = finished.into_iter().filter(|node| *node < nodes).collect();
        for &node in &finished {
            walk.put(node, Place::Settled(Outcome::Completed));
        }
        let mut counted = vec![false; nodes];
        for node in finished {
            if let Some(seen) = counted.get_mut(node).filter(|seen| !**seen) {
                *seen = true;
                walk.release_children(node);
            }
        }
        for node in 0..nodes {
            walk.consider(node);
        }
        walk
    }

    /// Takes the next node to start, if one is ready. The caller runs it and then says [`Walk::settle`].
    pub fn start(&mut self) -> Option<usize> {
        let Reverse(node) = self.ready.pop()?;
        self.put(node, Place::Running);
        self.running += 1;
        Some(node)
    }

    /// Takes every node that is ready now, in document order.
    pub fn ready(&mut self) -> Vec<usize> {
        std::iter::from_fn(|| self.start()).collect()
    }

    /// A started node ended. Returns the nodes that are skipped because of it, in the order they were settled.
    /// Settling a node that does not run changes nothing.
    pub fn settle(&mut self, node: usize, outcome: Outcome) -> Vec<usize> {
        if self.places.get(node) != Some(&Place::Running) {
            return Vec::new();
        }
        self.running -= 1;
        self.failed |= outcome == Outcome::Failed;
        let mut skipped = Vec::new();
        let mut settled = vec![(node, outcome)];
        while let Some((node, outcome)) = settled.pop() {
            self.put(node, Place::Settled(outcome));
            self.release_children(node);
            let graph = Arc::clone(&self.graph);
            for &child in graph.children(node) {
                if self.consider(child) {
                    skipped.push(child);
                    settled.push((child, Outcome::Skipped));
                }
            }
        }
        skipped
    }

    /// Whether nothing runs and nothing can start any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.running == 0 && self.ready.is_empty()
    }

    /// Whether a node failed.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failed
    }

    /// How many nodes run now.
    #[must_use]
    pub const fn running(&self) -> usize {
        self.running
    }

    /// How many nodes are settled.
    #[must_use]
    pub const fn settled(&self) -> usize {
        self.settled
    }

    fn put(&mut self, node: usize, place: Place) {
        if let Some(at) = self.places.get_mut(node) {
            let before = std::mem::replace(at, place);
            let is_settled = |place| matches!(place, Place::Settled(_));
            self.settled += usize::from(is_settled(place) && !is_settled(before));
        }
    }

    fn release_children(&mut self, node: usize) {
        for &child in self.graph.children(node) {
            if let Some(count) = self.missing.get_mut(child) {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// Makes a node ready if its time has come; true if it has to be skipped instead.
    fn consider(&mut self, node: usize) -> bool {
        if self.places.get(node) != Some(&Place::Waiting) || self.missing.get(node) != Some(&0) {
            return false;
        }
        let parents = self.graph.parents(node);
        let any = |wanted| parents.iter().any(|parent| self.places.get(*parent) == Some(&Place::Settled(wanted)));
        if any(Outcome::Failed) {
            return false;
        }
        if parents.is_empty() || any(Outcome::Completed) {
            self.put(node, Place::Ready);
            self.ready.push(Reverse(node));
            return false;
        }
        true
    }
}
