//! Lost executors: what they held comes back, what they showed is kept, what they paid is counted.

use domain::{ExecutorId, FailureCode, State};
use protocol::{
    claim::{Held, Renewal},
    report::{CallOutcome, Report, Standing, UsageRow},
};

use crate::{
    attempt::{Attempt, call},
    ledger::{Ledger, now},
};

async fn take_back(ledger: &Ledger, attempt: &Attempt) -> Vec<storage::fence::TakenBack> {
    storage::fence::take_back(&mut *ledger.conn().await, ledger.term, &[attempt.loss()], now()).await.unwrap()
}

async fn partial(ledger: &Ledger, attempt: &Attempt) -> Vec<(String, String)> {
    let sql = "SELECT node, output FROM units WHERE execution_id = $1::text::uuid AND NOT complete ORDER BY node";
    let rows = ledger.psql().await.query(sql, &[&attempt.execution.uuid().to_string()]).await.unwrap();
    rows.into_iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn lost_calls(ledger: &Ledger, attempt: &Attempt) -> i64 {
    let sql = "SELECT count(*) FROM usage_calls WHERE execution_id = $1::text::uuid AND source = 3";
    ledger.psql().await.query_one(sql, &[&attempt.execution.uuid().to_string()]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_lost_execution_is_queued_in_front_at_once_and_then_waits_longer_and_longer() {
    let ledger = Ledger::start().await;
    let execution = ledger.queued().await;
    let mut waits = Vec::new();
    for _ in 0..9 {
        let claim = protocol::claim::Claim { execution_id: execution, claim_id: domain::ClaimId::generate() };
        let later = now() + chrono::Duration::minutes(5);
        let executor = ExecutorId::generate();
        let grant = storage::claims::claim(&mut *ledger.conn().await, ledger.term, executor, &[claim], later).await;
        let attempt = Attempt::of(executor, grant.unwrap().pop().unwrap().unwrap());
        let at = now();
        let taken =
            storage::fence::take_back(&mut *ledger.conn().await, ledger.term, &[attempt.loss()], at).await.unwrap();
        waits.push((taken[0].state, taken[0].eligible_at.map(|eligible| (eligible - at).num_seconds())));
    }

    let queued = |wait| (State::Queued, wait);
    let expected = [None, Some(1), Some(5), Some(30), Some(30), Some(30), Some(30), Some(30)].map(queued);
    assert_eq!(waits[..8], expected);
    assert_eq!(waits[8], (State::Failed, None));
    assert_eq!(ledger.view(execution).await.failure.unwrap().code, FailureCode::ExecutorLost);
    ledger.audit(execution).await;
}

#[tokio::test]
async fn a_finished_unit_makes_the_next_loss_the_first_again() {
    let ledger = Ledger::start().await;
    let first = ledger.held().await;
    take_back(&ledger, &first).await;
    let mut second = ledger.attempt(first.execution).await;
    ledger.report(second.executor, second.unit("outline", "text")).await;

    let taken = take_back(&ledger, &second).await;

    assert_eq!(taken[0].eligible_at, None);
}

#[tokio::test]
async fn what_an_orderly_executor_leaves_is_no_loss() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    for _ in 0..12 {
        let given =
            storage::fence::give_back(&mut *ledger.conn().await, ledger.term, &[attempt.loss()], now()).await.unwrap();
        assert_eq!((given[0].state, given[0].eligible_at), (State::Queued, None));
        attempt = ledger.attempt(attempt.execution).await;
    }
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn a_fence_leaves_another_attempt_alone_and_can_be_repeated() {
    let ledger = Ledger::start().await;
    let first = ledger.held().await;
    assert_eq!(take_back(&ledger, &first).await.len(), 1);
    assert_eq!(take_back(&ledger, &first).await.len(), 0);
    let second = ledger.attempt(first.execution).await;

    assert_eq!(take_back(&ledger, &first).await.len(), 0);

    assert_eq!(ledger.view(second.execution).await.attempt, second.epoch);
    ledger.audit(second.execution).await;
}

#[tokio::test]
async fn a_stopped_execution_whose_executor_is_lost_is_cancelled() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    ledger.report(attempt.executor, attempt.writing("chapters", "half a chapter")).await;
    ledger.stop(attempt.execution, false).await;

    let taken = take_back(&ledger, &attempt).await;

    assert_eq!(taken[0].state, State::Cancelled);
    let view = ledger.view(attempt.execution).await;
    let receipt = view.stop.unwrap();
    assert_eq!((receipt.closed_by.as_deref(), receipt.upstream_closed_at), (Some("lease"), None));
    assert_eq!(receipt.tokens_at_stop, Some(4), "fourteen characters are four tokens");
    assert_eq!(partial(&ledger, &attempt).await, [("chapters".to_owned(), r#""half a chapter""#.to_owned())]);
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn a_call_that_was_open_is_counted_as_lost_for_its_own_attempt_only() {
    let ledger = Ledger::start().await;
    let mut first = ledger.held().await;
    ledger.report(first.executor, first.writing("chapters", "twelve chars")).await;
    take_back(&ledger, &first).await;
    assert_eq!((lost_calls(&ledger, &first).await, ledger.view(first.execution).await.output_tokens), (1, 3));

    // The next attempt is lost before it begins that unit: its text is still the first one's.
    let second = ledger.attempt(first.execution).await;
    take_back(&ledger, &second).await;

    assert_eq!((lost_calls(&ledger, &first).await, ledger.view(first.execution).await.output_tokens), (1, 3));
    ledger.audit(first.execution).await;
}

#[tokio::test]
async fn the_true_row_of_a_lost_call_replaces_the_estimate() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    ledger.report(attempt.executor, attempt.writing("chapters", "twelve chars")).await;
    take_back(&ledger, &attempt).await;
    let row = UsageRow { outcome: CallOutcome::Aborted, ..call("chapters", 40, 6) };

    let late = ledger.report(attempt.executor, Report { usage: vec![row], ..attempt.nothing() }).await;

    assert_eq!(late.verdict.standing, Standing::Lost);
    let view = ledger.view(attempt.execution).await;
    assert_eq!((lost_calls(&ledger, &attempt).await, view.input_tokens, view.output_tokens), (0, 40, 6));
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn a_call_that_was_reported_is_not_lost() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    let mut report = attempt.writing("chapters", "twelve chars");
    report.usage = vec![call("chapters", 40, 6)];
    ledger.report(attempt.executor, report).await;

    take_back(&ledger, &attempt).await;

    assert_eq!(lost_calls(&ledger, &attempt).await, 0);
    assert_eq!(partial(&ledger, &attempt).await.len(), 1);
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn a_lease_lives_by_the_databases_clock_until_the_goodbye() {
    let ledger = Ledger::start().await;
    let attempt = ledger.held().await;
    let mut renewal = Renewal {
        executor_id: attempt.executor,
        name: "one".into(),
        version: "0".into(),
        slots: 4,
        draining: false,
        held: vec![Held { execution_id: attempt.execution, epoch: attempt.epoch }],
        goodbye: false,
    };
    let mut conn = ledger.conn().await;
    let known = [attempt.executor, ExecutorId::generate()];
    assert_eq!(storage::executors::lapsed(&mut conn, &known).await.unwrap().len(), 2);

    storage::executors::renew(&mut conn, ledger.term, &renewal).await.unwrap();
    assert_eq!(storage::executors::lapsed(&mut conn, &known).await.unwrap(), known[1..]);
    let listed = storage::executors::list(&mut conn).await.unwrap();
    assert_eq!((listed.len(), listed[0].running, listed[0].slots), (1, 1, 4));
    let holds = storage::executors::holds(&mut conn).await.unwrap();
    assert_eq!(
        holds.iter().map(|(loss, who)| (loss.execution_id, *who)).collect::<Vec<_>>(),
        [(attempt.execution, attempt.executor)]
    );

    renewal.goodbye = true;
    storage::executors::renew(&mut conn, ledger.term, &renewal).await.unwrap();
    assert_eq!(storage::executors::lapsed(&mut conn, &known).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_call_that_had_shown_nothing_is_counted_as_lost_too() {
    let mut ledger = Ledger::start().await;
    let flow = r#"{"nodes": [{"id": "outline", "type": "generate"}, {"id": "chapters", "type": "chapters"},
                             {"id": "book", "type": "output", "note": "\u0000"}]}"#;
    let deploy = protocol::operate::Deploy {
        name: "engine".into(),
        title: String::new(),
        description: String::new(),
        flow: crate::ledger::raw(flow),
    };
    let deployed = storage::admin::deploy(&mut *ledger.conn().await, ledger.term, &deploy).await.unwrap();
    ledger.version = deployed.version_id;
    let mut first = ledger.held().await;
    let begin = |attempt: &mut Attempt, node: &str| {
        let event = attempt.event(domain::EventBody::NodeStarted { node: node.into(), units: 1 });
        Report { events: vec![event], ..attempt.nothing() }
    };
    for node in ["outline", "chapters", "book"] {
        let report = begin(&mut first, node);
        ledger.report(first.executor, report).await;
    }
    ledger.report(first.executor, first.unit("outline", "text")).await;
    ledger.report(first.executor, first.writing("chapters", "twelve chars")).await;
    take_back(&ledger, &first).await;
    assert_eq!(lost_calls(&ledger, &first).await, 1, "the outline is done, the book makes no call");

    let mut second = ledger.attempt(first.execution).await;
    let report = begin(&mut second, "chapters");
    ledger.report(second.executor, report).await;
    take_back(&ledger, &second).await;

    assert_eq!(lost_calls(&ledger, &first).await, 2);
    let kept = partial(&ledger, &first).await;
    assert_eq!(kept, [("chapters".to_owned(), r#""twelve chars""#.to_owned())], "silence replaces no text");
    assert_eq!(ledger.view(first.execution).await.output_tokens, 8);
    ledger.audit(first.execution).await;
}
