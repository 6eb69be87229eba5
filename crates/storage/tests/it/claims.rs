//! Claims: one holder at a time, with a new fencing number each.

use domain::{ClaimId, ExecutorId, State, UnitKey};
use protocol::claim::Claim;

use crate::ledger::{Ledger, now};

#[tokio::test]
async fn a_repeated_claim_gets_the_same_grant_and_another_one_none() {
    let ledger = Ledger::start().await;
    let execution_id = ledger.queued().await;
    let (one, two) = (ExecutorId::generate(), ExecutorId::generate());
    let claim = Claim { execution_id, claim_id: ClaimId::generate() };
    let ask = async |executor, claim| {
        let mut conn = ledger.conn().await;
        storage::claims::claim(&mut conn, ledger.term, executor, &[claim], now()).await.unwrap().pop().unwrap()
    };

    let first = ask(one, claim).await.unwrap();
    let again = ask(one, claim).await.unwrap();
    let other_claim = ask(one, Claim { execution_id, claim_id: ClaimId::generate() }).await;
    let other_executor = ask(two, claim).await;

    assert_eq!((first.epoch, again.epoch), (1, 1));
    assert_eq!(first.last_sequence, again.last_sequence);
    assert_eq!(first.input.get(), r#"{"topic":"भाषा"}"#);
    assert!(other_claim.is_none() && other_executor.is_none());
}

#[tokio::test]
async fn answers_are_in_the_order_of_the_claims() {
    let ledger = Ledger::start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(ledger.queued().await);
    }
    ledger.stop(ids[1], false).await;
    let claims: Vec<Claim> =
        ids.iter().rev().map(|id| Claim { execution_id: *id, claim_id: ClaimId::generate() }).collect();

    let grants =
        storage::claims::claim(&mut *ledger.conn().await, ledger.term, ExecutorId::generate(), &claims, now()).await;

    let got: Vec<_> = grants.unwrap().into_iter().map(|grant| grant.map(|grant| grant.execution_id)).collect();
    assert_eq!(got, [Some(ids[2]), None, Some(ids[0])]);
}

#[tokio::test]
async fn the_next_attempt_learns_what_is_finished_and_what_was_only_shown() {
    let ledger = Ledger::start().await;
    let mut first = ledger.held().await;
    ledger.report(first.executor, first.unit("outline", "all of it")).await;
    ledger.report(first.executor, first.writing("chapters", "once upon")).await;
    ledger.report(first.executor, first.given_back()).await;

    let mut second = ledger.attempt(first.execution).await;

    assert_eq!(second.epoch, 3, "status wrote the second epoch");
    assert_eq!(second.grant.finished, [UnitKey::node("outline")]);
    assert_eq!(second.grant.open, [UnitKey::node("chapters")]);
    // Once reset, there is nothing left to reset.
    let reset = second.reset("chapters");
    let mut report = second.nothing();
    report.events = vec![reset];
    ledger.report(second.executor, report).await;
    ledger.report(second.executor, second.given_back()).await;
    assert_eq!(ledger.attempt(first.execution).await.grant.open, []);
}

#[tokio::test]
async fn the_next_attempt_goes_on_from_the_tokens_and_the_progress_of_those_before() {
    let ledger = Ledger::start().await;
    let mut first = ledger.held().await;
    assert_eq!((first.grant.input_tokens, first.grant.output_tokens), (0, 0));
    assert!(first.grant.progress_at.is_some(), "its own beginning");
    ledger.report(first.executor, first.unit("outline", "all of it")).await;
    ledger.report(first.executor, first.parked()).await;
    let later = now() + chrono::Duration::hours(5);
    storage::expiry::wake(&mut *ledger.conn().await, ledger.term, &[first.execution], later).await.unwrap();

    let second = ledger.attempt(first.execution).await;

    assert_eq!((second.grant.input_tokens, second.grant.output_tokens), (3, 5));
    assert!(second.grant.progress_at > first.grant.progress_at);
    assert_eq!((second.epoch, ledger.view(first.execution).await.attempt), (3, 2), "waiting is no attempt");
}

#[tokio::test]
async fn what_has_to_wait_is_granted_to_nobody_before_its_time() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    for _ in 0..2 {
        let losses = [attempt.loss()];
        storage::fence::take_back(&mut *ledger.conn().await, ledger.term, &losses, now()).await.unwrap();
        if ledger.view(attempt.execution).await.attempt < 2 {
            attempt = ledger.attempt(attempt.execution).await;
        }
    }
    let claim = Claim { execution_id: attempt.execution, claim_id: ClaimId::generate() };
    let later = now() + chrono::Duration::seconds(2);

    let early = ledger.claim(ExecutorId::generate(), attempt.execution).await;
    let mut conn = ledger.conn().await;
    let late = storage::claims::claim(&mut conn, ledger.term, ExecutorId::generate(), &[claim], later).await.unwrap();

    assert!(early.is_none());
    assert!(late[0].is_some());
    assert_eq!(ledger.state(attempt.execution).await, State::Processing);
}
