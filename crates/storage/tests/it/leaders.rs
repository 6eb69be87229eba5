//! One leader by term: an older one is refused at every write.

use domain::{ClaimId, ExecutorId, StatusId};
use protocol::{
    claim::{Claim, Renewal},
    operate::{PutLevel, PutUser},
};
use storage::StorageError;

use crate::ledger::{Ledger, fresh, now};

fn refused<T: std::fmt::Debug>(term: i64, result: Result<T, StorageError>) {
    assert!(matches!(result, Err(StorageError::NotLeader(refused)) if refused == term), "{result:?}");
}

#[tokio::test]
async fn while_one_leads_nobody_else_does_and_its_end_lets_the_next_one_in() {
    let ledger = Ledger::start().await;
    let stand = async |url: &str| storage::leader::stand(&ledger.url, StatusId::generate(), url).await.unwrap();
    assert!(stand("http://two").await.is_none());
    let psql = ledger.psql().await;
    psql.batch_execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lekhika leader' \
         AND datname = current_database()",
    )
    .await
    .unwrap();

    tokio::time::timeout(std::time::Duration::from_secs(10), ledger.leadership.lost()).await.unwrap();
    let next = stand("http://two").await.unwrap();

    assert_eq!(next.term, ledger.term + 1);
    let current = storage::leader::current(&mut *ledger.pool.get().await.unwrap()).await.unwrap();
    assert_eq!((current.term, current.url.as_str()), (next.term, "http://two"));
}

#[tokio::test]
async fn an_older_term_is_refused_at_every_write() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    let queued = ledger.queued().await;
    // As if another process had taken over while this one was away.
    ledger.psql().await.batch_execute("UPDATE leader SET term = term + 1").await.unwrap();
    let (term, at) = (ledger.term, now());
    let mut conn = ledger.conn().await;
    let submission = ledger.submission();
    let claim = Claim { execution_id: queued, claim_id: ClaimId::generate() };
    let renewal = Renewal {
        executor_id: attempt.executor,
        name: String::new(),
        version: String::new(),
        slots: 1,
        draining: false,
        held: vec![],
        goodbye: false,
    };
    let level = PutLevel {
        name: "l".into(),
        weight: 1.0,
        max_running: None,
        max_queued: None,
        requests_per_minute: None,
        max_priority: domain::Priority::Urgent,
    };
    let user = PutUser { name: "u".into(), level: "l".into() };
    let subject = ledger.subject(queued);

    refused(term, storage::intake::take_in(&mut conn, term, &[fresh(&submission)], at).await);
    refused(term, storage::claims::claim(&mut conn, term, ExecutorId::generate(), &[claim], at).await);
    refused(term, storage::reports::report(&mut conn, term, attempt.executor, &[attempt.started()], at).await);
    refused(term, storage::fence::take_back(&mut conn, term, &[attempt.loss()], at).await);
    refused(term, storage::fence::give_back(&mut conn, term, &[attempt.loss()], at).await);
    refused(term, storage::stops::stop(&mut conn, term, &subject, true, at).await);
    refused(term, storage::expiry::expire_due(&mut conn, term, 10, at).await);
    refused(term, storage::expiry::wake(&mut conn, term, &[queued], at).await);
    refused(term, storage::executors::renew(&mut conn, term, &renewal).await);
    refused(term, storage::executors::forget_old(&mut conn, term).await);
    refused(term, storage::upkeep::forget_idempotency_keys(&mut conn, term).await);
    refused(term, storage::admin::put_level(&mut conn, term, &level).await);
    refused(term, storage::admin::put_user(&mut conn, term, &user).await);
    refused(term, storage::admin::revoke_key(&mut conn, term, domain::KeyId::generate()).await);

    assert_eq!(ledger.names(queued).await, ["execution.queued"]);
    assert_eq!(ledger.names(attempt.execution).await, ["execution.queued"]);
}

#[tokio::test]
async fn the_pool_heals_after_the_server_dropped_its_connections() {
    let ledger = Ledger::start().await;
    let execution = ledger.queued().await;
    let psql = ledger.psql().await;
    psql.batch_execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lekhika' \
         AND datname = current_database()",
    )
    .await
    .unwrap();

    // The first uses may find the broken ones; nothing is handed out twice.
    let found = testkit::wait::until(std::time::Duration::from_secs(10), "a healthy connection", async || {
        let mut conn = ledger.pool.get().await.map_err(|error| error.to_string())?;
        let subject = ledger.subject(execution);
        storage::executions::get(&mut conn, &subject).await.map_err(|error| {
            assert!(error.is_transient(), "{error:?}");
            error.to_string()
        })
    })
    .await;

    assert!(found.is_some());
}

#[tokio::test]
async fn a_write_that_is_dropped_in_the_middle_leaves_nothing_behind() {
    let ledger = Ledger::start().await;
    let attempt = ledger.held().await;
    let blocker = ledger.psql().await;
    let lock = "BEGIN; SELECT FROM executions FOR UPDATE";
    blocker.batch_execute(lock).await.unwrap();
    let waiting = ledger.report(attempt.executor, attempt.completed());

    let dropped = tokio::time::timeout(std::time::Duration::from_millis(200), waiting).await;
    assert!(dropped.is_err(), "it waits for the row");
    blocker.batch_execute("ROLLBACK").await.unwrap();
    let done = ledger.report(attempt.executor, attempt.completed()).await;

    assert_eq!(done.verdict.standing, protocol::report::Standing::Over);
    ledger.audit(attempt.execution).await;
}
