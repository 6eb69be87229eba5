//! A batch in the ledger, and what became of each submission: queued, rejected, or known already.

use std::{collections::HashMap, sync::Arc};

use domain::{ExecutionId, Failure, FailureCode, State, UserId};
use futures::{FutureExt as _, future::BoxFuture};
use protocol::submission::SubmissionOutcome;
use storage::{
    StorageError,
    identity::OwnerLimits,
    intake::{NewExecution, TakenIn},
};

use super::share;
use crate::{leader::Term, reconcile::reconcile, scheduler::Job, service::Status};

/// Writes a batch; one that cannot be written is halved until what is wrong is alone.
pub(super) fn write<'a>(
    status: &'a Arc<Status>,
    term: &'a Arc<Term>,
    batch: &'a [NewExecution<'a>],
    limits: &'a HashMap<UserId, OwnerLimits>,
) -> BoxFuture<'a, Result<Vec<(ExecutionId, SubmissionOutcome)>, StorageError>> {
    async move {
        let mut conn = status.connection().await?;
        let written = storage::intake::take_in(&mut conn, term.number, batch, status.now()).await;
        drop(conn);
        match written {
            Ok(taken) => {
                recall(status, term, batch, &taken).await;
                Ok(enter(status, term, batch, taken, limits))
            }
            // Nothing is wrong with what came.
            Err(error) if error.is_transient() || matches!(error, StorageError::NotLeader(_)) => Err(error),
            Err(error) if batch.len() > 1 => {
                tracing::warn!(error = %service::chain(&error), submissions = batch.len(), "a batch is halved");
                let (first, second) = batch.split_at(batch.len() / 2);
                let mut answers = write(status, term, first, limits).await?;
                answers.extend(write(status, term, second, limits).await?);
                Ok(answers)
            }
            Err(error) => match batch.first() {
                Some(new) => refuse(status, term, new, error).await,
                None => Ok(Vec::new()),
            },
        }
    }
    .boxed()
}

/// Why a row is failed from the start.
pub(super) fn unstorable(detail: &str) -> Failure {
    Failure::new(FailureCode::InvalidRequest, detail)
}

/// Enters what cannot be stored as a failed row without its content, so that whoever was answered on the broker's confirm
/// finds it. If even that is refused, it is not the submission that is wrong: the batch is tried again.
async fn refuse(
    status: &Status,
    term: &Term,
    new: &NewExecution<'_>,
    error: StorageError,
) -> Result<Vec<(ExecutionId, SubmissionOutcome)>, StorageError> {
    tracing::error!(error = %service::chain(&error), execution.id = %new.submission.execution_id, "a submission cannot be stored");
    let stub = new.submission.stub().into_submission(status.now());
    let rejected = Some(unstorable("the submission cannot be stored"));
    let row = NewExecution { submission: &stub, tag: 0.0, traceparent: None, rejected };
    let mut conn = status.connection().await?;
    let taken = storage::intake::take_in(&mut conn, term.number, std::slice::from_ref(&row), status.now()).await?;
    drop(conn);
    recall(status, term, std::slice::from_ref(&row), &taken).await;
    Ok(enter(status, term, &[row], taken, &HashMap::new()))
}

/// What came before but is not known here was committed by a write whose answer was lost: the ledger says where it is.
async fn recall(status: &Status, term: &Term, batch: &[NewExecution<'_>], taken: &[TakenIn]) {
    let ids: Vec<ExecutionId> = {
        let schedule = term.schedule.lock();
        batch
            .iter()
            .zip(taken)
            .filter(|(_, taken)| matches!(taken, TakenIn::Redelivered { state, .. } if !state.is_terminal()))
            .map(|(new, _)| new.submission.execution_id)
            .filter(|id| schedule.place(*id).is_none())
            .collect()
    };
    if let Err(error) = reconcile(status, term, &ids).await {
        tracing::warn!(error = %service::chain(&error), "what came again is looked up later");
        ids.into_iter().for_each(|id| term.doubts.doubt(id));
    }
}

/// Queues what was inserted and says what became of each.
fn enter(
    status: &Status,
    term: &Term,
    batch: &[NewExecution<'_>],
    taken: Vec<TakenIn>,
    limits: &HashMap<UserId, OwnerLimits>,
) -> Vec<(ExecutionId, SubmissionOutcome)> {
    let now = status.now();
    let mut answers = Vec::with_capacity(batch.len());
    for (new, taken) in batch.iter().zip(taken) {
        let submission = new.submission;
        let id = submission.execution_id;
        let outcome = match taken {
            TakenIn::Inserted { state: State::Queued, events } => {
                status.metrics.submissions.inc();
                let job = Job {
                    id,
                    user: submission.user_id,
                    engine: submission.engine_id,
                    tag: new.tag,
                    share: share(submission, limits),
                    limit: limits.get(&submission.user_id).and_then(|limits| limits.max_running),
                    started: false,
                };
                term.schedule.lock().queue(job, None);
                term.due(submission.queue_deadline_at.into_iter().chain(submission.deadline_at).min());
                status.live.show(id, &events);
                let queue = term.schedule.lock().block(id, now);
                SubmissionOutcome::Accepted { queue }
            }
            TakenIn::Inserted { .. } => {
                status.metrics.rejected.inc();
                rejection(new.rejected.as_ref())
            }
            TakenIn::Redelivered { rejected, .. } => {
                status.metrics.redelivered.inc();
                match rejected {
                    Some(failure) => rejection(Some(&failure)),
                    None => SubmissionOutcome::Accepted { queue: term.schedule.lock().block(id, now) },
                }
            }
            TakenIn::Replayed { execution_id, version_id, created_at } => {
                SubmissionOutcome::Replayed { execution_id, version_id, created_at }
            }
            TakenIn::Mismatch => SubmissionOutcome::Mismatch,
            TakenIn::NotResumable { detail } => SubmissionOutcome::NotResumable { detail },
        };
        answers.push((id, outcome));
    }
    answers
}

fn rejection(failure: Option<&Failure>) -> SubmissionOutcome {
    let code = failure.map_or(FailureCode::Internal, |failure| failure.code);
    let detail = failure.map(|failure| failure.detail.clone()).unwrap_or_default();
    SubmissionOutcome::Rejected { code, detail, retry_after_ms: Some(1_000) }
}
