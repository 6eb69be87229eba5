//! The internal HTTP API. Leader-only paths answer 421 elsewhere, with the leader's address.

mod admin;
mod executions;
mod executors;
mod identity;

use std::sync::Arc;

use actix_web::{HttpResponse, ResponseError, web};
use service::{Problem, ProblemCode, internal_client::LEADER_HEADER};
use storage::StorageError;

use crate::{group::GroupError, leader::Term, service::Status};

/// All paths below `/internal/v1`.
pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .configure(executors::configure)
        .configure(executions::configure)
        .configure(identity::configure)
        .configure(admin::configure);
}

/// Why an internal request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    /// Another replica leads.
    #[error("this replica does not lead")]
    NotLeader(Option<String>),
    /// Something named in the request contradicts what is stored.
    #[error("{0}")]
    Conflict(String),
    /// It can never be stored, or looked up, as it is: whoever sent it must not send it again.
    #[error("the request cannot be stored")]
    Refused,
    /// The database is away: later.
    #[error("the database cannot be reached")]
    Unavailable,
    /// A fault of ours.
    #[error("a fault of ours")]
    Internal,
}

impl ResponseError for RouteError {
    fn status_code(&self) -> actix_web::http::StatusCode {
        self.problem().status_code()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = self.problem().error_response();
        if let Self::NotLeader(Some(url)) = self
            && let Ok(value) = url.parse()
        {
            response.headers_mut().insert(actix_web::http::header::HeaderName::from_static(LEADER_HEADER), value);
        }
        response
    }
}

impl RouteError {
    fn problem(&self) -> Problem {
        match self {
            Self::NotLeader(_) => Problem::new(ProblemCode::NotLeader),
            Self::Conflict(detail) => Problem::new(ProblemCode::Conflict).detail(detail.clone()),
            Self::Refused => {
                Problem::new(ProblemCode::InvalidInput).detail("a value of the request cannot be stored or looked up")
            }
            Self::Unavailable => Problem::new(ProblemCode::Unavailable),
            Self::Internal => Problem::new(ProblemCode::Internal),
        }
    }
}

impl From<StorageError> for RouteError {
    fn from(error: StorageError) -> Self {
        Self::from(&error)
    }
}

impl From<GroupError> for RouteError {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::Storage(error) => Self::from(&*error),
            GroupError::Over => Self::NotLeader(None),
        }
    }
}

impl From<&StorageError> for RouteError {
    fn from(error: &StorageError) -> Self {
        match error {
            StorageError::NotLeader(_) => Self::NotLeader(None),
            StorageError::Conflict(detail) => Self::Conflict(detail.clone()),
            StorageError::Poison(_) => {
                tracing::warn!(error = %service::chain(error), "an internal request cannot be stored");
                Self::Refused
            }
            StorageError::Unavailable(_) | StorageError::Contended(_) => {
                tracing::warn!(error = %service::chain(error), "an internal request waits for the database");
                Self::Unavailable
            }
            _ => {
                tracing::error!(error = %service::chain(error), "an internal request failed");
                Self::Internal
            }
        }
    }
}

impl RouteError {
    /// Of a report: its executor repeats it until it is told that the report itself is wrong.
    fn of_report(error: GroupError) -> Self {
        match &error {
            GroupError::Storage(cause) if cause.is_about_the_data() => {
                tracing::error!(error = %service::chain(&**cause), "a report cannot be stored");
                Self::Refused
            }
            _ => error.into(),
        }
    }
}

/// The term, on the replica that leads.
async fn leading(status: &Status) -> Result<Arc<Term>, RouteError> {
    match status.term.load_full() {
        Some(term) => Ok(term),
        None => Err(RouteError::NotLeader(leader_url(status).await)),
    }
}

/// Where the leader is, unless it is this process, which is about to lead or has just stopped.
async fn leader_url(status: &Status) -> Option<String> {
    let mut conn = status.connection().await.ok()?;
    let leader = storage::leader::current(&mut conn).await.ok()?;
    (leader.holder.is_some() && leader.holder != Some(status.id)).then_some(leader.url)
}
