//! Stops and their receipts.

use domain::{ExecutionId, State, UserEngineId, UserId};
use protocol::{
    read::Subject,
    report::{Report, Standing},
};

use crate::{
    attempt::unit,
    ledger::{Ledger, now},
};

#[tokio::test]
async fn a_queued_one_is_cancelled_at_once() {
    let ledger = Ledger::start().await;
    let execution = ledger.queued().await;

    let first = ledger.stop(execution, false).await;
    let again = ledger.stop(execution, false).await;

    assert_eq!((first.state, first.changed), (State::Cancelled, true));
    assert_eq!((again.state, again.changed, again.appended.len()), (State::Cancelled, false, 0));
    let receipt = ledger.view(execution).await.stop.unwrap();
    assert_eq!(receipt.closed_by.as_deref(), Some("status"));
    assert_eq!(receipt.upstream_closed_at, receipt.finished_at);
    assert!(ledger.claim(domain::ExecutorId::generate(), execution).await.is_none());
    ledger.audit(execution).await;
}

#[tokio::test]
async fn a_held_one_is_cancelled_by_its_executor_with_a_receipt_and_its_partial_text() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    ledger.report(attempt.executor, attempt.started()).await;

    let asked = ledger.stop(attempt.execution, false).await;
    let heard = ledger.report(attempt.executor, attempt.nothing()).await;
    let mut last = attempt.cancelled();
    last.events = vec![attempt.event(domain::EventBody::Cancelling)];
    last.units = vec![unit("chapters", "half", false)];
    let done = ledger.report(attempt.executor, last).await;

    assert_eq!((asked.state, asked.executor_id), (State::Cancelling, Some(attempt.executor)));
    assert_eq!(heard.verdict.standing, Standing::Cancelling);
    assert_eq!(done.ended.unwrap().state, State::Cancelled);
    let view = ledger.view(attempt.execution).await;
    let receipt = view.stop.unwrap();
    assert_eq!((receipt.closed_by.as_deref(), receipt.tokens_at_stop), (Some("executor"), Some(7)));
    assert!(receipt.executor_ack_at.is_some() && receipt.upstream_closed_at.is_some() && receipt.finished_at.is_some());
    assert!(view.result.unwrap().get().contains("half"));
    let names = ledger.names(attempt.execution).await;
    assert_eq!(names, ["execution.queued", "execution.started", "execution.cancelling", "execution.cancelled"]);
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn whatever_else_the_executor_says_while_cancelling_is_cancelled_but_a_completion_counts() {
    let ledger = Ledger::start().await;
    for (kind, expected) in [
        ("failed", State::Cancelled),
        ("given back", State::Cancelled),
        ("parked", State::Cancelled),
        ("completed", State::Completed),
    ] {
        let attempt = ledger.held().await;
        ledger.stop(attempt.execution, false).await;
        let report: Report = match kind {
            "failed" => attempt.failed(),
            "given back" => attempt.given_back(),
            "parked" => attempt.parked(),
            _ => attempt.completed(),
        };

        ledger.report(attempt.executor, report).await;

        let view = ledger.view(attempt.execution).await;
        assert_eq!(view.state, expected, "{kind}");
        let closed_by = (expected == State::Cancelled).then_some("executor");
        assert_eq!(view.stop.unwrap().closed_by.as_deref(), closed_by);
        assert!(view.failure.is_none());
        ledger.audit(attempt.execution).await;
    }
}

#[tokio::test]
async fn force_fences_at_once_and_keeps_what_was_shown() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    ledger.report(attempt.executor, attempt.writing("chapters", "abcdefgh")).await;
    ledger.stop(attempt.execution, false).await;

    let forced = ledger.stop(attempt.execution, true).await;
    let late = ledger.report(attempt.executor, attempt.completed()).await;

    assert_eq!((forced.state, forced.changed), (State::Cancelled, true));
    assert_eq!(late.verdict.standing, Standing::Lost);
    let view = ledger.view(attempt.execution).await;
    let receipt = view.stop.unwrap();
    assert_eq!((receipt.closed_by.as_deref(), receipt.upstream_closed_at), (Some("fence"), None));
    assert_eq!((receipt.tokens_at_stop, view.output_tokens), (Some(2), 2));
    assert!(view.result.unwrap().get().contains("abcdefgh"));
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn what_was_given_back_in_mid_sentence_and_then_stopped_keeps_the_text() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    ledger.report(attempt.executor, attempt.writing("chapters", "abcdefgh")).await;
    ledger.report(attempt.executor, attempt.given_back()).await;

    ledger.stop(attempt.execution, false).await;

    let view = ledger.view(attempt.execution).await;
    assert!(view.result.unwrap().get().contains("abcdefgh"));
    assert_eq!(view.output_tokens, 0, "who gives back reports its calls itself");
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn a_foreign_or_unknown_execution_is_not_there() {
    let ledger = Ledger::start().await;
    let execution = ledger.queued().await;
    let subjects = [
        Subject { user_id: Some(UserId::generate()), user_engine_id: None, execution_id: execution },
        Subject { user_engine_id: Some(UserEngineId::generate()), ..ledger.subject(execution) },
        ledger.subject(ExecutionId::generate()),
    ];
    let mut conn = ledger.conn().await;

    for subject in subjects {
        assert!(storage::stops::stop(&mut conn, ledger.term, &subject, true, now()).await.unwrap().is_none());
        assert!(storage::executions::get(&mut conn, &subject).await.unwrap().is_none());
        assert!(storage::executions::source(&mut conn, &subject).await.unwrap().is_none());
        assert!(!storage::executions::is_owned(&mut conn, &subject).await.unwrap());
    }
    assert_eq!(ledger.state(execution).await, State::Queued);
}

#[tokio::test]
async fn stops_race_completions_to_one_terminal_event_each() {
    let ledger = Ledger::start().await;
    let mut attempts = Vec::new();
    for _ in 0..40 {
        attempts.push(ledger.held().await);
    }

    let races = attempts.iter().map(|attempt| {
        let ledger = &ledger;
        async move {
            let force = attempt.executor.uuid().as_bytes()[15].is_multiple_of(2);
            tokio::join!(ledger.stop(attempt.execution, force), ledger.report(attempt.executor, attempt.completed()))
        }
    });
    let outcomes = futures::future::join_all(races).await;

    for (attempt, (_, reported)) in attempts.iter().zip(outcomes) {
        let state = ledger.state(attempt.execution).await;
        let won = reported.verdict.standing == Standing::Over;
        assert_eq!(state, if won { State::Completed } else { State::Cancelled });
        ledger.audit(attempt.execution).await;
    }
}

#[tokio::test]
async fn one_that_never_started_has_no_attempt_when_it_is_stopped() {
    let ledger = Ledger::start().await;
    let execution = ledger.queued().await;

    ledger.stop(execution, false).await;

    let log = ledger.log(execution).await;
    assert_eq!(ledger.view(execution).await.attempt, 0);
    assert!(log.iter().all(|record| record.data(execution).contains(r#""attempt":0,"#)));
    ledger.audit(execution).await;
}
