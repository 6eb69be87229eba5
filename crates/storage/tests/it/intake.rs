//! Submissions become rows, once.

use domain::{ExecutionId, Failure, FailureCode, State};
use protocol::submission::{Idempotency, Parent, Submission};
use storage::{StorageError, intake::TakenIn};

use crate::ledger::{Ledger, fresh, now};

fn with_key(ledger: &Ledger, key: &str, body: &str) -> Submission {
    let idempotency = Idempotency { route: "execute/eng".into(), key: key.into(), body_hash: body.into() };
    Submission { idempotency: Some(idempotency), ..ledger.submission() }
}

fn resuming(ledger: &Ledger, parent: ExecutionId) -> Submission {
    Submission { parent: Some(Parent { execution_id: parent, inherit: true, parallel: false }), ..ledger.submission() }
}

#[tokio::test]
async fn a_batch_of_a_hundred_is_taken_in_its_order() {
    let ledger = Ledger::start().await;
    let batch: Vec<Submission> = (0..100).map(|_| ledger.submission()).collect();

    let taken = ledger.take_in(&batch).await.unwrap();

    assert_eq!(taken.len(), 100);
    for (submission, taken) in batch.iter().zip(&taken) {
        let TakenIn::Inserted { state: State::Queued, events } = taken else { panic!("{taken:?}") };
        assert_eq!((events.len(), events[0].name.as_str()), (1, "execution.queued"), "{}", submission.execution_id);
    }
    ledger.audit(batch[99].execution_id).await;
}

#[tokio::test]
async fn a_redelivered_batch_changes_nothing() {
    let ledger = Ledger::start().await;
    let batch = vec![ledger.submission(), with_key(&ledger, "k", "b")];
    ledger.take_in(&batch).await.unwrap();
    let mut attempt = ledger.attempt(batch[0].execution_id).await;
    ledger.report(attempt.executor, attempt.started()).await;

    let again = ledger.take_in(&batch).await.unwrap();

    assert!(matches!(&again[0], TakenIn::Redelivered { state: State::Processing }), "{again:?}");
    assert!(matches!(&again[1], TakenIn::Redelivered { state: State::Queued }), "{again:?}");
    assert_eq!(ledger.names(batch[0].execution_id).await, ["execution.queued", "execution.started"]);
}

#[tokio::test]
async fn the_same_submission_twice_in_one_batch_is_one_execution() {
    let ledger = Ledger::start().await;
    let submission = ledger.submission();

    let taken = ledger.take_in(&[submission.clone(), submission.clone()]).await.unwrap();

    assert!(matches!(&taken[0], TakenIn::Inserted { .. }), "{taken:?}");
    assert!(matches!(&taken[1], TakenIn::Redelivered { state: State::Queued }), "{taken:?}");
    ledger.audit(submission.execution_id).await;
}

#[tokio::test]
async fn the_same_key_and_body_is_the_same_execution_in_one_batch_and_in_the_next() {
    let ledger = Ledger::start().await;
    let batch = [with_key(&ledger, "k", "b"), with_key(&ledger, "k", "b"), with_key(&ledger, "k", "other")];
    let first = batch[0].execution_id;

    let taken = ledger.take_in(&batch).await.unwrap();
    let later = ledger.take_in(&[with_key(&ledger, "k", "b"), with_key(&ledger, "k", "other")]).await.unwrap();

    assert!(matches!(&taken[0], TakenIn::Inserted { .. }), "{taken:?}");
    assert!(matches!(&taken[1], TakenIn::Replayed { execution_id, .. } if *execution_id == first), "{taken:?}");
    assert!(matches!(&taken[2], TakenIn::Mismatch), "{taken:?}");
    assert!(matches!(&later[0], TakenIn::Replayed { execution_id, version_id, .. }
        if *execution_id == first && *version_id == ledger.version));
    assert!(matches!(&later[1], TakenIn::Mismatch), "{later:?}");
}

#[tokio::test]
async fn the_same_key_of_another_owner_or_route_is_another_execution() {
    let ledger = Ledger::start().await;
    let mut foreign = with_key(&ledger, "k", "b");
    foreign.user_id = domain::UserId::generate();
    let mut other = with_key(&ledger, "k", "b");
    other.idempotency.as_mut().unwrap().route = "restart/exec".into();

    let taken = ledger.take_in(&[with_key(&ledger, "k", "b"), foreign, other]).await.unwrap();

    assert!(taken.iter().all(|taken| matches!(taken, TakenIn::Inserted { .. })), "{taken:?}");
}

#[tokio::test]
async fn two_batches_with_the_same_key_at_once_make_one_execution() {
    let ledger = Ledger::start().await;
    let batch = |from: usize| -> Vec<Submission> {
        // In opposite orders, so that the two transactions get in each other's way.
        let keys: Vec<usize> = if from == 0 { (0..40).collect() } else { (0..40).rev().collect() };
        keys.into_iter().map(|key| with_key(&ledger, &format!("k{key}"), "b")).collect()
    };
    let (one, two) = (batch(0), batch(1));

    let (first, second) = tokio::join!(ledger.take_in(&one), ledger.take_in(&two));

    let inserted =
        first.unwrap().into_iter().chain(second.unwrap()).filter(|taken| matches!(taken, TakenIn::Inserted { .. }));
    assert_eq!(inserted.count(), 40);
}

#[tokio::test]
async fn a_rejected_submission_is_in_the_ledger_as_failed() {
    let ledger = Ledger::start().await;
    let submission = ledger.submission();
    let failure = Failure::new(FailureCode::QueueFull, "too many");
    let mut new = fresh(&submission);
    new.rejected = Some(failure.clone());

    let taken = storage::intake::take_in(&mut *ledger.conn().await, ledger.term, &[new], now()).await.unwrap();

    assert!(matches!(&taken[..], [TakenIn::Inserted { state: State::Failed, .. }]), "{taken:?}");
    assert_eq!(ledger.view(submission.execution_id).await.failure, Some(failure));
    assert_eq!(ledger.names(submission.execution_id).await, ["execution.failed"]);
    ledger.audit(submission.execution_id).await;
}

#[tokio::test]
async fn one_bad_row_is_told_from_its_neighbours_by_halving() {
    let ledger = Ledger::start().await;
    let mut bad = ledger.submission();
    bad.labels.insert("k".into(), "a\u{0}b".into());
    let good = ledger.submission();

    let both = ledger.take_in(&[good.clone(), bad.clone()]).await;
    let alone = ledger.take_in(&[bad]).await;
    let rest = ledger.take_in(&[good]).await.unwrap();

    assert!(matches!(both, Err(StorageError::Poison(_))), "{both:?}");
    assert!(matches!(alone, Err(StorageError::Poison(_))), "{alone:?}");
    assert!(matches!(&rest[..], [TakenIn::Inserted { .. }]), "nothing was half-written: {rest:?}");
}

#[tokio::test]
async fn a_resume_inherits_the_finished_units_and_nothing_else() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    ledger.report(attempt.executor, attempt.unit("outline", "one")).await;
    let mut partial = attempt.nothing();
    partial.units = vec![crate::attempt::unit("chapters", "half", false)];
    ledger.report(attempt.executor, partial).await;
    ledger.report(attempt.executor, attempt.failed()).await;
    let child = resuming(&ledger, attempt.execution);

    let taken = ledger.take_in(std::slice::from_ref(&child)).await.unwrap();

    assert!(matches!(&taken[..], [TakenIn::Inserted { .. }]), "{taken:?}");
    let grant = ledger.attempt(child.execution_id).await.grant;
    assert_eq!(grant.finished, [domain::UnitKey::node("outline")]);
    assert_eq!(grant.open, []);
    let source =
        storage::executions::source(&mut *ledger.conn().await, &ledger.subject(attempt.execution)).await.unwrap();
    let source = source.unwrap();
    assert_eq!((source.completed_units, source.tokens_saved), (1, 8));
    assert_eq!(source.unfinished_resume, Some(child.execution_id));
    ledger.audit(child.execution_id).await;
}

#[tokio::test]
async fn only_an_ended_execution_of_the_owner_without_a_result_can_be_resumed() {
    let ledger = Ledger::start().await;
    let done = ledger.held().await;
    ledger.report(done.executor, done.completed()).await;
    let running = ledger.held().await;
    let failed = ledger.held().await;
    ledger.report(failed.executor, failed.failed()).await;
    let mut foreign = resuming(&ledger, failed.execution);
    foreign.user_id = domain::UserId::generate();
    let batch = [
        resuming(&ledger, done.execution),
        resuming(&ledger, running.execution),
        resuming(&ledger, ExecutionId::generate()),
        foreign,
        resuming(&ledger, failed.execution),
    ];

    let taken = ledger.take_in(&batch).await.unwrap();

    assert!(taken[..4].iter().all(|taken| matches!(taken, TakenIn::NotResumable { .. })), "{taken:?}");
    assert!(matches!(&taken[4], TakenIn::Inserted { .. }), "{taken:?}");
}

#[tokio::test]
async fn a_second_resume_waits_for_the_first_and_a_repeated_one_keeps_its_answer() {
    let ledger = Ledger::start().await;
    let parent = ledger.queued().await;
    ledger.stop(parent, false).await;
    let keyed = |key: &str| {
        let idempotency = Idempotency { route: "resume/x".into(), key: key.into(), body_hash: "b".into() };
        Submission { idempotency: Some(idempotency), ..resuming(&ledger, parent) }
    };
    let first = keyed("one");
    let taken = ledger.take_in(&[first.clone(), resuming(&ledger, parent)]).await.unwrap();
    assert!(matches!(&taken[0], TakenIn::Inserted { .. }), "{taken:?}");
    assert!(matches!(&taken[1], TakenIn::NotResumable { .. }), "{taken:?}");

    let mut beside = resuming(&ledger, parent);
    beside.parent = Some(Parent { execution_id: parent, inherit: true, parallel: true });
    let taken = ledger.take_in(&[first.clone(), keyed("one"), keyed("two"), beside]).await.unwrap();

    assert!(matches!(&taken[0], TakenIn::Redelivered { .. }), "{taken:?}");
    assert!(matches!(&taken[1], TakenIn::Replayed { execution_id, .. } if *execution_id == first.execution_id));
    let TakenIn::NotResumable { detail } = &taken[2] else { panic!("{taken:?}") };
    assert!(detail.contains(&first.execution_id.to_string()), "{detail}");
    assert!(matches!(&taken[3], TakenIn::Inserted { .. }), "{taken:?}");
    // The key of the refused one is free again.
    let again = ledger.take_in(&[keyed("two")]).await.unwrap();
    assert!(matches!(&again[0], TakenIn::NotResumable { .. }), "{again:?}");
}
