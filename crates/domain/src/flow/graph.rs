//! The graph of a flow: who waits for whom, in which order, and who is whose ancestor.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// Nodes by index (their place in the document) with their neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    parents: Vec<Vec<usize>>,
    children: Vec<Vec<usize>>,
}

impl Graph {
    /// The graph of `nodes` nodes; edges that name no node and repeated edges are left out.
    pub fn new(nodes: usize, edges: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut parents = vec![BTreeSet::new(); nodes];
        let mut children = vec![BTreeSet::new(); nodes];
        for (from, to) in edges {
            if let (Some(below), true) = (children.get_mut(from), to < nodes) {
                below.insert(to);
                if let Some(above) = parents.get_mut(to) {
                    above.insert(from);
                }
            }
        }
        let listed = |sets: Vec<BTreeSet<usize>>| sets.into_iter().map(|set| set.into_iter().collect()).collect();
        Self { parents: listed(parents), children: listed(children) }
    }

    /// How many nodes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.parents.len()
    }

    /// Whether there is no node.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    /// The nodes that `node` waits for.
    #[must_use]
    pub fn parents(&self, node: usize) -> &[usize] {
        self.parents.get(node).map_or(&[], Vec::as_slice)
    }

    /// The nodes that wait for `node`.
    #[must_use]
    pub fn children(&self, node: usize) -> &[usize] {
        self.children.get(node).map_or(&[], Vec::as_slice)
    }

    /// An order in which nobody comes before a parent; ties by place in the document. Shorter than the graph if there is a cycle.
    #[must_use]
    pub fn order(&self) -> Vec<usize> {
        let mut missing: Vec<usize> = self.parents.iter().map(Vec::len).collect();
        let mut ready: BinaryHeap<Reverse<usize>> =
            missing.iter().enumerate().filter(|(_, count)| **count == 0).map(|(node, _)| Reverse(node)).collect();
        let mut order = Vec::with_capacity(self.len());
        while let Some(Reverse(node)) = ready.pop() {
            order.push(node);
            for &child in self.children(node) {
                if let Some(count) = missing.get_mut(child) {
                    *count -= 1;
                    if *count == 0 {
                        ready.push(Reverse(child));
                    }
                }
            }
        }
        order
    }

    /// The nodes of one cycle, in its direction; none if there is no cycle.
    #[must_use]
    pub fn cycle(&self) -> Option<Vec<usize>> {
        let sorted: BTreeSet<usize> = self.order().into_iter().collect();
        // Every node outside the order has a parent outside the order: walking upwards must come back.
        let mut node = (0..self.len()).find(|node| !sorted.contains(node))?;
        let mut path: Vec<usize> = Vec::new();
        let mut seen = BTreeSet::new();
        while seen.insert(node) {
            path.push(node);
            node = *self.parents(node).iter().find(|parent| !sorted.contains(parent))?;
        }
        let start = path.iter().position(|earlier| *earlier == node)?;
        let mut cycle = path.split_off(start);
        cycle.reverse();
        Some(cycle)
    }

    /// The nodes that can be reached from `start` along (`down`) or against the edges, `start` included.
    #[must_use]
    pub fn reached(&self, start: usize, down: bool) -> Vec<bool> {
        let mut reached = vec![false; self.len()];
        let mut open = vec![start];
        while let Some(node) = open.pop() {
            match reached.get_mut(node) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            open.extend(if down { self.children(node) } else { self.parents(node) });
        }
        reached
    }

    /// Who comes before whom, for all nodes.
    #[must_use]
    pub fn ancestors(&self) -> Ancestors {
        let words = self.len().div_ceil(64);
        let mut sets = vec![vec![0_u64; words]; self.len()];
        for node in self.order() {
            let mut set = vec![0_u64; words];
            for &parent in self.parents(node) {
                for (mine, theirs) in set.iter_mut().zip(sets.get(parent).into_iter().flatten()) {
                    *mine |= theirs;
                }
                if let Some(word) = set.get_mut(parent / 64) {
                    *word |= 1 << (parent % 64);
                }
            }
            if let Some(place) = sets.get_mut(node) {
                *place = set;
            }
        }
        Ancestors(sets)
    }
}

/// Who comes before whom: one bit per pair.
#[derive(Debug)]
pub struct Ancestors(Vec<Vec<u64>>);

impl Ancestors {
    /// Whether `earlier` has always settled when `node` starts.
    #[must_use]
    pub fn contains(&self, node: usize, earlier: usize) -> bool {
        self.0.get(node).and_then(|set| set.get(earlier / 64)).is_some_and(|word| word >> (earlier % 64) & 1 == 1)
    }
}
