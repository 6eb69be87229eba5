//! What a caller can do about a failed statement.

use diesel::result::{DatabaseErrorKind, Error as DieselError};

/// Why a statement did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The database cannot be reached or did not answer in time: try again later.
    #[error("reach the database")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another status process leads: this one must not write.
    #[error("write as the leader of term {0}")]
    NotLeader(i64),
    /// Something of that name or id is already there, or something named is not there.
    #[error("write a row that conflicts: {0}")]
    Conflict(String),
    /// A stored value that this release does not understand.
    #[error("read a stored value: {0}")]
    Corrupt(String),
    /// A batch that cannot be written as it is: halve it until the poisonous row is alone.
    #[error("write a batch")]
    Poison(#[source] DieselError),
    /// Two transactions in each other's way: repeated by the storage crate itself before a caller sees it.
    #[error("write beside another transaction")]
    Contended(#[source] DieselError),
    /// Anything else the database says.
    #[error("run a statement")]
    Database(#[source] DieselError),
}

impl StorageError {
    /// Whether the same call may succeed later without a change of its arguments.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Contended(_))
    }
}

impl From<DieselError> for StorageError {
    fn from(error: DieselError) -> Self {
        let DieselError::DatabaseError(kind, information) = &error else { return from_client(error) };
        match kind {
            DatabaseErrorKind::SerializationFailure => Self::Contended(error),
            DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand => {
                Self::Unavailable(Box::new(error))
            }
            DatabaseErrorKind::UniqueViolation | DatabaseErrorKind::ForeignKeyViolation => {
                Self::Conflict(information.message().to_owned())
            }
            DatabaseErrorKind::CheckViolation | DatabaseErrorKind::NotNullViolation => Self::Poison(error),
            _ => from_message(error),
        }
    }
}

/// What Postgres says of values it cannot take (its classes 22 and 54).
const POISONOUS: &[&str] = &[
    "invalid byte sequence",
    "unsupported Unicode",
    "out of range",
    "cannot be converted",
    "invalid input syntax",
    "value too long",
    "string too long",
    "malformed",
    "index row size",
    "index row requires",
];

/// diesel names neither deadlocks, time-outs nor a server that shuts down: only their text tells them.
fn from_message(error: DieselError) -> StorageError {
    let text = error.to_string();
    let says = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    if says(&["deadlock detected", "could not serialize"]) {
        StorageError::Contended(error)
    } else if says(POISONOUS) {
        StorageError::Poison(error)
    } else if says(&[
        "terminating connection",
        "connection closed",
        "statement timeout",
        "lock timeout",
        "is starting up",
        "is shutting down",
        "recovery mode",
        "error communicating",
        "too many clients",
    ]) {
        StorageError::Unavailable(Box::new(error))
    } else {
        StorageError::Database(error)
    }
}

fn from_client(error: DieselError) -> StorageError {
    match error {
        DieselError::BrokenTransactionManager | DieselError::AlreadyInTransaction => {
            StorageError::Unavailable(Box::new(error))
        }
        DieselError::SerializationError(_) => StorageError::Poison(error),
        other => StorageError::Database(other),
    }
}
