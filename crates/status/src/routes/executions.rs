//! What gateways ask about executions, and stops.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{ExecutionId, State};
use protocol::{
    Envelope,
    control::{self, Control},
    live::Watch,
    operate::{Stop, Stopped},
    read::{
        EventPage, ExecutionPage, ExecutionView, Found, ListExecutions, ReadEvents, ReadExecution, ReadStats,
        ReadTails, Source, Stats, Subject, Tails,
    },
    submission::{AskReplay, QueueBlock, Replay},
};

use super::{RouteError, leading};
use crate::{counts, leader::Term, service::Status, settle};

/// Gateways' clocks may be ahead by this: an id from later was made by nobody.
const SKEW: TimeDelta = TimeDelta::milliseconds(250);
/// An id older than this is not on its way any more, whatever intake does.
const OLD: TimeDelta = TimeDelta::minutes(10);
/// How long a read waits for intake before it says "not yet".
const CATCH_UP: Duration = Duration::from_millis(700);
/// The longest wait for a receipt.
const WAIT_AT_MOST: u64 = 5_000;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .route("/executions/get", web::post().to(get))
        .route("/executions/list", web::post().to(list))
        .route("/executions/queue", web::post().to(queue))
        .route("/executions/events", web::post().to(events))
        .route("/executions/tails", web::post().to(tails))
        .route("/executions/source", web::post().to(source))
        .route("/executions/stats", web::post().to(stats))
        .route("/executions/replay", web::post().to(replay))
        .route("/executions/stop", web::post().to(stop))
        .route("/watch", web::post().to(watch))
        .route("/watch/add", web::post().to(watch_too));
}

/// What an id without a row means: only the leader knows how far intake is. Whoever asks has the id from an answer that was
/// given after the submission was published (however long that took), so what counts is what was published before the
/// question, not when the id was made.
async fn absent<T>(status: &Status, id: ExecutionId) -> Result<Option<Found<T>>, RouteError> {
    let asked_at = status.now();
    if id.made_at().is_none_or(|at| asked_at - at >= OLD || at - asked_at >= SKEW) {
        return Ok(Some(Found::Missing));
    }
    let term = leading(status).await?;
    let passed = |term: &Term| term.is_caught_up_to(asked_at);
    if passed(&term) {
        return Ok(None);
    }
    let patience = tokio::time::Instant::now() + CATCH_UP;
    while tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if passed(&term) {
            return Ok(None);
        }
    }
    Ok(Some(Found::NotYet))
}

/// Looks for something of an execution; again, when intake had to catch up with its id first.
async fn find<T, F>(status: &Status, id: ExecutionId, look: impl Fn() -> F) -> Result<Found<T>, RouteError>
where
    F: Future<Output = Result<Option<T>, RouteError>>,
{
    if let Some(found) = look().await? {
        return Ok(Found::Found(found));
    }
    match absent(status, id).await? {
        Some(answer) => Ok(answer),
        None => Ok(look().await?.map_or(Found::Missing, Found::Found)),
    }
}

async fn view(status: &Status, subject: &Subject) -> Result<Option<ExecutionView>, RouteError> {
    let mut conn = status.connection().await?;
    Ok(storage::executions::get(&mut conn, subject).await?)
}

async fn get(
    status: web::Data<Status>,
    query: web::Json<ReadExecution>,
) -> Result<web::Json<Found<ExecutionView>>, RouteError> {
    let mut found = find(&status, query.subject.execution_id, || view(&status, &query.subject)).await?;
    if let Found::Found(view) = &mut found
        && view.state == State::Queued
        && !query.without_queue
    {
        // A standby has no queue: the client is sent to the leader, unless nobody leads just now.
        match leading(&status).await {
            Ok(term) => view.queue = block(&term, view.execution_id, status.now()),
            Err(RouteError::NotLeader(Some(url))) => return Err(RouteError::NotLeader(Some(url))),
            Err(_) => {}
        }
    }
    Ok(web::Json(found))
}

fn block(term: &Term, id: ExecutionId, now: DateTime<Utc>) -> Option<QueueBlock> {
    term.schedule.lock().block(id, now)
}

async fn queue(
    status: web::Data<Status>,
    subject: web::Json<Subject>,
) -> Result<web::Json<Found<Option<QueueBlock>>>, RouteError> {
    let term = leading(&status).await?;
    let found = find(&status, subject.execution_id, || owned(&status, &subject)).await?;
    Ok(web::Json(match found {
        Found::Found(()) => Found::Found(block(&term, subject.execution_id, status.now())),
        Found::Missing => Found::Missing,
        Found::NotYet => Found::NotYet,
    }))
}

async fn owned(status: &Status, subject: &Subject) -> Result<Option<()>, RouteError> {
    let mut conn = status.connection().await?;
    Ok(storage::executions::is_owned(&mut conn, subject).await?.then_some(()))
}

async fn list(
    status: web::Data<Status>,
    query: web::Json<ListExecutions>,
) -> Result<web::Json<ExecutionPage>, RouteError> {
    let mut conn = status.connection().await?;
    Ok(web::Json(storage::executions::list(&mut conn, &query).await?))
}

async fn events(
    status: web::Data<Status>,
    query: web::Json<ReadEvents>,
) -> Result<web::Json<Found<EventPage>>, RouteError> {
    let limit = query.limit.clamp(1, 1_000) as usize;
    let found = find(&status, query.subject.execution_id, || async {
        let mut conn = status.connection().await?;
        if !storage::executions::is_owned(&mut conn, &query.subject).await? {
            return Ok(None);
        }
        Ok(Some(storage::events::page(&mut conn, query.subject.execution_id, query.after, limit).await?))
    })
    .await?;
    Ok(web::Json(found))
}

async fn tails(status: web::Data<Status>, query: web::Json<ReadTails>) -> Result<web::Json<Tails>, RouteError> {
    let streams = query.streams.get(..query.streams.len().min(1_000)).unwrap_or_default();
    let mut conn = status.connection().await?;
    Ok(web::Json(Tails { executions: storage::events::tails(&mut conn, streams).await? }))
}

async fn source(
    status: web::Data<Status>,
    subject: web::Json<Subject>,
) -> Result<web::Json<Found<Source>>, RouteError> {
    let found = find(&status, subject.execution_id, || async {
        let mut conn = status.connection().await?;
        Ok(storage::executions::source(&mut conn, &subject).await?)
    })
    .await?;
    Ok(web::Json(found))
}

async fn stats(status: web::Data<Status>, query: web::Json<ReadStats>) -> Result<web::Json<Stats>, RouteError> {
    Ok(web::Json(counts::stats(&status, &query).await?))
}

async fn watch(status: web::Data<Status>, watch: web::Json<Watch>) -> Result<HttpResponse, RouteError> {
    leading(&status).await?;
    status.live.watch(watch.into_inner());
    Ok(HttpResponse::NoContent().finish())
}

async fn watch_too(status: web::Data<Status>, watch: web::Json<Watch>) -> Result<HttpResponse, RouteError> {
    leading(&status).await?;
    status.live.watch_too(watch.into_inner());
    Ok(HttpResponse::NoContent().finish())
}

/// Stops, tells the holder, and waits for the receipt: by a signal, never by looking again and again.
async fn stop(status: web::Data<Status>, request: web::Json<Stop>) -> Result<web::Json<Found<Stopped>>, RouteError> {
    let term = leading(&status).await?;
    let id = request.subject.execution_id;
    let receipt = term.end_of(id);
    let found = find(&status, id, || try_stop(&status, &term, &request)).await?;
    let state = match found {
        Found::Found(state) => state,
        Found::Missing => return Ok(web::Json(Found::Missing)),
        Found::NotYet => return Ok(web::Json(Found::NotYet)),
    };
    let mut terminal = state.is_terminal();
    if !terminal {
        let wait = Duration::from_millis(request.wait_ms.min(WAIT_AT_MOST));
        terminal = matches!(tokio::time::timeout(wait, receipt).await, Ok(Ok(())));
    }
    Ok(web::Json(Found::Found(Stopped { terminal })))
}

async fn try_stop(status: &Status, term: &Term, request: &Stop) -> Result<Option<State>, RouteError> {
    let mut conn = status.connection().await?;
    let outcome = storage::stops::stop(&mut conn, term.number, &request.subject, request.force, status.now()).await?;
    drop(conn);
    let Some(outcome) = outcome else { return Ok(None) };
    let id = request.subject.execution_id;
    if outcome.changed && outcome.state.is_terminal() {
        let change = settle::Moved {
            id,
            epoch: outcome.epoch,
            state: outcome.state,
            eligible_at: None,
            slot_ms: None,
            events: &outcome.appended,
        };
        settle::moved(status, term, &change);
    } else if !outcome.changed || !term.leases.cancelling(id) {
        // A stop before this one did it, and its answer may be lost; or the holder is not known here.
        term.doubts.doubt(id);
    }
    if outcome.executor_id.is_some() {
        tell(status, id, outcome.epoch);
    }
    Ok(Some(outcome.state))
}

/// The order goes out at once; the next renewal repeats it.
fn tell(status: &Status, id: ExecutionId, epoch: i32) {
    match Envelope::new(Control::Stop { executions: vec![(id, epoch)] }, crate::trace::current()).to_bytes() {
        Ok(bytes) => status.broker.announce(control::TOPIC, bytes.into()),
        Err(error) => tracing::error!(%error, "a stop cannot be written"),
    }
}

async fn replay(
    status: web::Data<Status>,
    request: web::Json<AskReplay>,
) -> Result<web::Json<Option<Replay>>, RouteError> {
    let mut conn = status.connection().await?;
    Ok(web::Json(storage::intake::replay(&mut conn, &request).await?))
}
