//! How urgent an execution is. Priority scales the owner's weight; it never lets anyone starve.

use serde::{Deserialize, Serialize};

/// The four priorities of the API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i16)]
pub enum Priority {
    /// Whenever there is room.
    Low = 0,
    /// The default.
    #[default]
    Normal = 1,
    /// Before normal work.
    High = 2,
    /// Before everything that did not wait long already.
    Urgent = 3,
}

impl Priority {
    /// All, lowest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Urgent];

    /// The factor on the owner's weight in the fair queue.
    #[must_use]
    pub const fn weight(self) -> f64 {
        match self {
            Self::Low => 0.25,
            Self::Normal => 1.0,
            Self::High => 4.0,
            Self::Urgent => 16.0,
        }
    }

    /// The stored number.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The priority of a stored number.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.code() == code)
    }
}
