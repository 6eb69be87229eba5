//! An ordered set that knows the rank of each element: a treap in an arena. Insert, remove and rank take O(log n).

use domain::ExecutionId;

/// The order of release: those that ran before go first, then by virtual start time, then by age.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rank {
    /// False sorts first: an execution that had started before.
    pub fresh: bool,
    /// Virtual start time.
    pub tag: f64,
    /// UUIDv7: older first.
    pub id: ExecutionId,
}

impl Eq for Rank {}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.fresh.cmp(&other.fresh).then_with(|| self.tag.total_cmp(&other.tag)).then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

type Link = Option<usize>;

#[derive(Debug, Clone)]
struct Node {
    key: Rank,
    weight: u64,
    size: usize,
    left: Link,
    right: Link,
}

/// The set.
#[derive(Debug, Clone)]
pub(crate) struct Ranked {
    nodes: Vec<Node>,
    free: Vec<usize>,
    root: Link,
    random: u64,
}

impl Default for Ranked {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: None, random: 0x9e37_79b9_7f4a_7c15 }
    }
}

impl Ranked {
    /// How many elements there are.
    pub(crate) fn len(&self) -> usize {
        self.size(self.root)
    }

    /// Whether there is none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Adds an element that is not there yet.
    pub(crate) fn insert(&mut self, key: Rank) {
        let node = self.allocate(key);
        let (before, after) = self.split(self.root, &key);
        let left = self.merge(before, Some(node));
        self.root = self.merge(left, after);
    }

    /// Takes an element out; whether it was there.
    pub(crate) fn remove(&mut self, key: &Rank) -> bool {
        let (before, rest) = self.split(self.root, key);
        let (found, after) = self.split_first(rest, key);
        self.root = self.merge(before, after);
        if let Some(found) = found {
            self.free.push(found);
        }
        found.is_some()
    }

    /// The smallest element.
    pub(crate) fn first(&self) -> Option<Rank> {
        let mut at = self.root?;
        while let Some(left) = self.node(at)?.left {
            at = left;
        }
        self.node(at).map(|node| node.key)
    }

    /// How many elements are smaller than `key`.
    pub(crate) fn rank(&self, key: &Rank) -> usize {
        let (mut at, mut before) = (self.root, 0);
        while let Some(node) = at.and_then(|at| self.node(at)) {
            if node.key < *key {
                before += self.size(node.left) + 1;
                at = node.right;
            } else {
                at = node.left;
            }
        }
        before
    }

    fn node(&self, at: usize) -> Option<&Node> {
        self.nodes.get(at)
    }

    fn size(&self, link: Link) -> usize {
        link.and_then(|at| self.node(at)).map_or(0, |node| node.size)
    }

    fn allocate(&mut self, key: Rank) -> usize {
        // xorshift64: the shape of the tree must not depend on the order of arrival; it is no secret.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let node = Node { key, weight: self.random, size: 1, left: None, right: None };
        match self.free.pop() {
            Some(at) => {
                if let Some(slot) = self.nodes.get_mut(at) {
                    *slot = node;
                }
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    fn update(&mut self, at: usize, left: Link, right: Link) {
        let size = self.size(left) + self.size(right) + 1;
        if let Some(node) = self.nodes.get_mut(at) {
            (node.left, node.right, node.size) = (left, right, size);
        }
    }

    /// What is smaller than `key`, and the rest.
    fn split(&mut self, link: Link, key: &Rank) -> (Link, Link) {
        let Some((at, node)) = link.and_then(|at| self.node(at).map(|node| (at, node.clone()))) else {
            return (None, None);
        };
        if node.key < *key {
            let (middle, right) = self.split(node.right, key);
            self.update(at, node.left, middle);
            (Some(at), right)
        } else {
            let (left, middle) = self.split(node.left, key);
            self.update(at, middle, node.right);
            (left, Some(at))
        }
    }

    /// Takes the smallest element of a tree off, if it is `key`.
    fn split_first(&mut self, link: Link, key: &Rank) -> (Link, Link) {
        let Some((at, node)) = link.and_then(|at| self.node(at).map(|node| (at, node.clone()))) else {
            return (None, None);
        };
        if node.left.is_some() {
            let (found, left) = self.split_first(node.left, key);
            self.update(at, left, node.right);
            return (found, Some(at));
        }
        if node.key == *key { (Some(at), node.right) } else { (None, Some(at)) }
    }

    /// Joins two trees of which all of the first is smaller than all of the second.
    fn merge(&mut self, left: Link, right: Link) -> Link {
        let (Some(l), Some(r)) = (left, right) else { return left.or(right) };
        let (Some(first), Some(second)) = (self.node(l).cloned(), self.node(r).cloned()) else { return left.or(right) };
        if first.weight > second.weight {
            let joined = self.merge(first.right, right);
            self.update(l, first.left, joined);
            Some(l)
        } else {
            let joined = self.merge(left, second.left);
            self.update(r, joined, second.right);
            Some(r)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn key(number: u8) -> Rank {
        let id = ExecutionId::from_uuid(uuid::Uuid::from_u128(u128::from(number)));
        Rank { fresh: !number.is_multiple_of(3), tag: f64::from(number / 4), id }
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_set_with_ranks(steps in prop::collection::vec((any::<bool>(), any::<u8>()), 0..300)) {
            let mut ranked = Ranked::default();
            let mut model = BTreeSet::new();
            for (insert, number) in steps {
                let key = key(number);
                if insert && model.insert(key) {
                    ranked.insert(key);
                } else if !insert {
                    prop_assert_eq!(ranked.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(ranked.len(), model.len());
                prop_assert_eq!(ranked.first(), model.first().copied());
                for (rank, key) in model.iter().enumerate() {
                    prop_assert_eq!(ranked.rank(key), rank);
                }
            }
        }
    }
}
