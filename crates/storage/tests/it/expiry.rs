//! Deadlines and wake-ups.

use chrono::Duration;
use domain::{FailureCode, State};
use protocol::{report::Standing, submission::Submission};

use crate::ledger::{Ledger, now};

async fn expire(ledger: &Ledger) -> Vec<storage::expiry::Moved> {
    storage::expiry::expire_due(&mut *ledger.conn().await, ledger.term, 100, now()).await.unwrap()
}

#[tokio::test]
async fn what_never_started_expires_and_what_had_started_fails() {
    let ledger = Ledger::start().await;
    let past = Some(now() - Duration::seconds(1));
    let batch = [
        Submission { queue_deadline_at: past, ..ledger.submission() },
        Submission { deadline_at: past, ..ledger.submission() },
        Submission { deadline_at: past, ..ledger.submission() },
        Submission { deadline_at: past, ..ledger.submission() },
        Submission { queue_deadline_at: past, ..ledger.submission() },
        ledger.submission(),
    ];
    ledger.take_in(&batch).await.unwrap();
    let mut held = ledger.attempt(batch[2].execution_id).await;
    ledger.report(held.executor, held.writing("chapters", "abcdefgh")).await;
    let back = ledger.attempt(batch[3].execution_id).await;
    ledger.report(back.executor, back.given_back()).await;
    let started = ledger.attempt(batch[4].execution_id).await;
    let mut conn = ledger.conn().await;
    assert!(storage::expiry::next_deadline(&mut conn, now()).await.unwrap().is_some());

    let moved = expire(&ledger).await;

    assert_eq!(moved.len(), 4);
    for (at, state) in [State::Expired, State::Expired, State::Failed, State::Failed, State::Processing, State::Queued]
        .into_iter()
        .enumerate()
    {
        assert_eq!(ledger.state(batch[at].execution_id).await, state, "{at}");
        ledger.audit(batch[at].execution_id).await;
    }
    let view = ledger.view(batch[2].execution_id).await;
    assert_eq!(view.failure.unwrap().code, FailureCode::DeadlineExceeded);
    assert!(view.result.unwrap().get().contains("abcdefgh"));
    let fenced = moved.iter().find(|moved| moved.execution_id == held.execution).unwrap();
    assert_eq!((fenced.fenced, fenced.epoch), (Some(held.executor), held.epoch));
    assert_eq!(ledger.report(held.executor, held.completed()).await.verdict.standing, Standing::Lost);
    assert_eq!(ledger.report(started.executor, started.completed()).await.verdict.standing, Standing::Over);
    assert!(expire(&ledger).await.is_empty());
    assert_eq!(storage::expiry::next_deadline(&mut conn, now()).await.unwrap(), None);
}

#[tokio::test]
async fn a_parked_one_wakes_at_its_time_and_not_before() {
    let ledger = Ledger::start().await;
    let attempt = ledger.held().await;
    let parked = ledger.report(attempt.executor, attempt.parked()).await;
    assert_eq!(parked.ended.unwrap().state, State::Waiting);
    let mut conn = ledger.conn().await;
    let ids = [attempt.execution];

    let early = storage::expiry::wake(&mut conn, ledger.term, &ids, now()).await.unwrap();
    let view = ledger.view(attempt.execution).await;
    let later = now() + Duration::minutes(2);
    let woken = storage::expiry::wake(&mut conn, ledger.term, &ids, later).await.unwrap();
    let again = storage::expiry::wake(&mut conn, ledger.term, &ids, later).await.unwrap();

    assert!(early.is_empty() && again.is_empty());
    assert!(view.wake_at.is_some() && view.waiting_reason.is_some());
    assert_eq!(woken[0].state, State::Queued);
    assert_eq!(ledger.attempt(attempt.execution).await.epoch, 4);
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn a_waiting_one_is_stopped_at_once() {
    let ledger = Ledger::start().await;
    let attempt = ledger.held().await;
    ledger.report(attempt.executor, attempt.parked()).await;

    let stopped = ledger.stop(attempt.execution, false).await;

    assert_eq!(stopped.state, State::Cancelled);
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn the_next_deadline_is_the_first_that_still_counts() {
    let ledger = Ledger::start().await;
    let at = now();
    let after = |seconds| Some(at + Duration::seconds(seconds));
    let batch = [
        Submission { queue_deadline_at: after(5), deadline_at: after(100), ..ledger.submission() },
        Submission { queue_deadline_at: after(40), ..ledger.submission() },
        Submission { deadline_at: after(60), ..ledger.submission() },
    ];
    ledger.take_in(&batch).await.unwrap();
    ledger.attempt(batch[0].execution_id).await;
    let mut conn = ledger.conn().await;
    let mut next = async |from: i64| {
        let next = storage::expiry::next_deadline(&mut conn, at + Duration::seconds(from)).await.unwrap();
        // Postgres keeps microseconds.
        next.map(|next| (next - at + Duration::milliseconds(1)).num_seconds())
    };

    // It has started: its first deadline is a look for nothing, but not a reason to look again and again.
    assert_eq!(next(0).await, Some(5));
    assert_eq!(next(6).await, Some(40));

    let moved =
        storage::expiry::expire_due(&mut *ledger.conn().await, ledger.term, 100, at + Duration::seconds(61)).await;
    assert_eq!(moved.unwrap().len(), 2);
    assert_eq!(next(61).await, Some(100));
}

#[tokio::test]
async fn many_that_run_out_of_time_together_each_keep_their_error() {
    let ledger = Ledger::start().await;
    let late = Some(now() + Duration::seconds(60));
    let batch: Vec<Submission> = (0..30).map(|_| Submission { deadline_at: late, ..ledger.submission() }).collect();
    ledger.take_in(&batch).await.unwrap();
    for submission in &batch {
        ledger.attempt(submission.execution_id).await;
    }

    let moved =
        storage::expiry::expire_due(&mut *ledger.conn().await, ledger.term, 100, now() + Duration::seconds(61)).await;

    assert_eq!(moved.unwrap().len(), batch.len());
    for submission in &batch {
        let failure = ledger.view(submission.execution_id).await.failure.unwrap();
        assert_eq!(failure.code, FailureCode::DeadlineExceeded);
    }
}
