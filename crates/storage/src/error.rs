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

    /// Whether what was to be written is at fault: the same call never succeeds.
    #[must_use]
    pub const fn is_about_the_data(&self) -> bool {
        matches!(self, Self::Poison(_) | Self::Corrupt(_) | Self::Conflict(_))
    }
}

impl From<DieselError> for StorageError {
    fn from(error: DieselError) -> Self {
        let DieselError::DatabaseError(kind, information) = &error else { return from_client(error) };
        match kind {
            DatabaseErrorKind::SerializationFailure => Self::Contended(error),
            // A read-only server is one that has just become a replica (SQLSTATE 25006).
            DatabaseErrorKind::ClosedConnection
            | DatabaseErrorKind::UnableToSendCommand
            | DatabaseErrorKind::ReadOnlyTransaction => Self::Unavailable(Box::new(error)),
            DatabaseErrorKind::UniqueViolation | DatabaseErrorKind::ForeignKeyViolation => {
                Self::Conflict(information.message().to_owned())
            }
            DatabaseErrorKind::CheckViolation | DatabaseErrorKind::NotNullViolation => Self::Poison(error),
            _ => from_message(error),
        }
    }
}

/// What the server says when it lacks something (SQLSTATE class 53), or an operator or a deadline is in the way (class 57).
const LATER: [&str; 24] = [
    // 53000, 53100, 53200, 53300, 53400
    "No space left on device",
    "could not extend file",
    "could not write to file",
    "disk full",
    "out of memory",
    "out of shared memory",
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "limit exceeded",
    "max_locks_per_transaction",
    "exceeds maximum allowed",
    // 57014, 57P01, 57P02, 57P03, 57P05
    "canceling statement due to",
    "statement timeout",
    "lock timeout",
    "terminating connection",
    "is starting up",
    "is shutting down",
    "recovery mode",
    "not yet accepting connections",
    "not accepting commands",
    // 25006, 08xxx
    "read-only transaction",
    "connection closed",
    "error communicating",
];

/// diesel passes no SQLSTATE on and names neither deadlocks, time-outs nor a server that shuts down: only their text tells them.
fn from_message(error: DieselError) -> StorageError {
    let text = error.to_string();
    let says = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    if says(&["deadlock detected", "could not serialize"]) {
        StorageError::Contended(error)
    } else if says(&["invalid byte sequence", "unsupported Unicode", "out of range", "cannot be converted"]) {
        StorageError::Poison(error)
    } else if says(&LATER) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: DatabaseErrorKind, text: &str) -> StorageError {
        DieselError::DatabaseError(kind, Box::new(text.to_owned())).into()
    }

    #[test]
    fn what_passes_is_unavailable_and_what_is_wrong_is_not() {
        for text in [
            "could not extend file \"base/1/2\": No space left on device",
            "sorry, too many clients already",
            "remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "canceling statement due to statement timeout",
            "terminating connection due to administrator command",
            "the database system is not yet accepting connections",
            "cannot execute INSERT in a read-only transaction",
        ] {
            assert!(matches!(said(DatabaseErrorKind::Unknown, text), StorageError::Unavailable(_)), "{text}");
        }
        let read_only =
            said(DatabaseErrorKind::ReadOnlyTransaction, "cannot execute UPDATE in a read-only transaction");
        assert!(matches!(read_only, StorageError::Unavailable(_)));
        assert!(matches!(said(DatabaseErrorKind::Unknown, "deadlock detected"), StorageError::Contended(_)));
        let missing = said(DatabaseErrorKind::Unknown, "relation \"executions\" does not exist");
        assert!(matches!(missing, StorageError::Database(_)));
    }
}
