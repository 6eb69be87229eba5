//! Units: the smallest pieces that are checkpointed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names one unit of an execution: a node, or one iteration of a `chapters` or `for_each` node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnitKey {
    /// The node's id in the flow.
    pub node: String,
    /// 0 for a node with one unit; the iteration, from 0, for a loop.
    pub unit: i32,
}

impl UnitKey {
    /// The only unit of `node`.
    #[must_use]
    pub fn node(node: impl Into<String>) -> Self {
        Self { node: node.into(), unit: 0 }
    }

    /// Iteration `unit`, from 0, of the loop `node`.
    #[must_use]
    pub fn item(node: impl Into<String>, unit: i32) -> Self {
        Self { node: node.into(), unit }
    }
}

impl fmt::Display for UnitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.unit)
    }
}
