//! The writers of a term: claims and reports of all executors, each kind gathered into one transaction at a time.

use std::sync::Arc;

use protocol::{
    claim::Grant,
    report::{Report, ReportRequest},
};
use storage::{
    StorageError,
    claims::{Asked, Refusal},
    reports::{Filed, Reported},
};

use crate::{
    group::{Gathered, Group, GroupError, Waiting, group},
    leader::Term,
    service::Status,
};

/// Claims per transaction, about.
const CLAIMS: usize = 512;
/// Bytes of reports per transaction, about.
const REPORT_BYTES: usize = 16 << 20;
/// What a report weighs besides its texts.
const REPORT_ITSELF: usize = 512;

/// The outcome of each claim of a request.
pub(crate) type Claimed = Vec<Result<Grant, Refusal>>;

/// Where requests hand in what is to be written.
pub(crate) struct Writers {
    pub(crate) claims: Group<Vec<Asked>, Claimed>,
    pub(crate) reports: Group<ReportRequest, Vec<Reported>>,
}

/// What the writers take from.
pub(crate) struct Inbox {
    claims: Gathered<Vec<Asked>, Claimed>,
    reports: Gathered<ReportRequest, Vec<Reported>>,
}

/// The writers of one term, not running yet.
pub(crate) fn writers() -> (Writers, Inbox) {
    let (claims, gathered_claims) = group();
    let (reports, gathered_reports) = group();
    (Writers { claims, reports }, Inbox { claims: gathered_claims, reports: gathered_reports })
}

/// Writes until the term is over. What waits then is answered by being dropped.
pub(crate) async fn run(status: Arc<Status>, term: Arc<Term>, mut inbox: Inbox) {
    let work = async {
        tokio::join!(claims(&status, &term, &mut inbox.claims), reports(&status, &term, &mut inbox.reports));
    };
    tokio::select! {
        () = term.over.cancelled() => {}
        () = work => {}
    }
}

async fn claims(status: &Status, term: &Term, gathered: &mut Gathered<Vec<Asked>, Claimed>) {
    while let Some(batch) = gathered.next(CLAIMS, Vec::len).await {
        let all: Vec<Asked> = batch.iter().flat_map(|waiting| waiting.work.iter().copied()).collect();
        match write_claims(status, term, &all).await {
            Ok(answers) => {
                status.failpoint.reach("claim.after_commit");
                share(batch, answers, Vec::len);
            }
            Err(error) => refuse(batch, error),
        }
    }
}

async fn write_claims(status: &Status, term: &Term, all: &[Asked]) -> Result<Claimed, StorageError> {
    let mut conn = status.connection().await?;
    storage::claims::claim_batch(&mut conn, term.number, all, status.now()).await
}

async fn reports(status: &Status, term: &Term, gathered: &mut Gathered<ReportRequest, Vec<Reported>>) {
    while let Some(batch) = gathered.next(REPORT_BYTES, weight).await {
        match write_reports(status, term, batch.iter().map(|waiting| &waiting.work)).await {
            Ok(answers) => share(batch, answers, |request| request.reports.len()),
            // One of them cannot be written: the others must not suffer for it.
            Err(error) if error.is_about_the_data() && batch.len() > 1 => {
                for waiting in batch {
                    let written = write_reports(status, term, [&waiting.work]).await;
                    waiting.answer(written.map_err(|error| GroupError::Storage(Arc::new(error))));
                }
            }
            Err(error) => refuse(batch, error),
        }
    }
}

async fn write_reports<'a>(
    status: &Status,
    term: &Term,
    requests: impl IntoIterator<Item = &'a ReportRequest>,
) -> Result<Vec<Reported>, StorageError> {
    let filed: Vec<Filed<'_>> = requests
        .into_iter()
        .flat_map(|request| request.reports.iter().map(|report| Filed { executor: request.executor_id, report }))
        .collect();
    status.failpoint.reach("report.before_commit");
    if filed.iter().any(|filed| filed.report.finish.is_some()) {
        status.failpoint.reach("finish.before_commit");
    }
    let timer = status.metrics.report_seconds.start_timer();
    let mut conn = status.connection().await?;
    let reported = storage::reports::report_batch(&mut conn, term.number, &filed, status.now()).await?;
    drop(conn);
    timer.observe_duration();
    status.metrics.report_batch.observe(f64::from(u32::try_from(reported.len()).unwrap_or(u32::MAX)));
    status.failpoint.reach("report.after_commit");
    if reported.iter().any(|one| one.ended.is_some()) {
        status.failpoint.reach("finish.after_commit");
    }
    Ok(reported)
}

/// How much of a transaction a request is, in bytes.
fn weight(request: &ReportRequest) -> usize {
    let texts = |report: &Report| {
        let events: usize = report.events.iter().map(domain::EventRecord::size).sum();
        let units: usize = report.units.iter().map(|unit| unit.output.get().len()).sum();
        REPORT_ITSELF + events + units
    };
    request.reports.iter().map(texts).sum()
}

/// Gives each request its part of the answers.
fn share<T, A>(batch: Vec<Waiting<T, Vec<A>>>, answers: Vec<A>, parts: impl Fn(&T) -> usize) {
    let mut answers = answers.into_iter();
    for waiting in batch {
        let part = answers.by_ref().take(parts(&waiting.work)).collect();
        waiting.answer(Ok(part));
    }
}

fn refuse<T, R>(batch: Vec<Waiting<T, R>>, error: StorageError) {
    let error = Arc::new(error);
    for waiting in batch {
        waiting.answer(Err(GroupError::Storage(Arc::clone(&error))));
    }
}
