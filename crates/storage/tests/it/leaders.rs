//! One leader by term: an older one is refused at every write.

use domain::{ClaimId, ExecutorId, StatusId};
use protocol::{
    claim::{Claim, Renewal},
    operate::{PutLevel, PutUser},
};
use storage::StorageError;

use crate::{
    gate::{Gate, soon},
    interleavings::Operation,
    ledger::{Ledger, fresh, now},
};

/// What the loss of the leader's connection is to the server.
const END_LEADERSHIP: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE application_name = 'lekhika leader' AND datname = current_database()";

/// Whether a new leader has its term, or waits for the writes under way.
const TAKING_OVER: &str = "SELECT EXISTS (SELECT FROM leader WHERE term > $1) OR EXISTS (SELECT FROM pg_stat_activity \
     WHERE application_name = 'lekhika leader' AND datname = current_database() AND wait_event_type = 'Lock')";

fn refused<T: std::fmt::Debug>(term: i64, result: Result<T, StorageError>) {
    assert!(matches!(result, Err(StorageError::NotLeader(refused)) if refused == term), "{result:?}");
}

#[tokio::test]
async fn while_one_leads_nobody_else_does_and_its_end_lets_the_next_one_in() {
    let ledger = Ledger::start().await;
    let stand = async |url: &str| storage::leader::stand(&ledger.url, StatusId::generate(), url).await.unwrap();
    assert!(stand("http://two").await.is_none());
    let psql = ledger.psql().await;
    psql.batch_execute(END_LEADERSHIP).await.unwrap();

    tokio::time::timeout(std::time::Duration::from_secs(10), ledger.leadership.lost()).await.unwrap();
    let next = stand("http://two").await.unwrap();

    assert_eq!(next.term, ledger.term + 1);
    let current = storage::leader::current(&mut ledger.pool.get().await.unwrap()).await.unwrap();
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
async fn a_leader_replaced_in_the_middle_of_a_write_has_written_before_or_not_at_all() {
    let (mut written, mut refusals) = (0, 0);
    for steps in 0.. {
        let ledger = Ledger::start().await;
        let attempt = ledger.held().await;
        let (gate, conn) = Gate::connect(&ledger.url).await;
        let work = Operation::Complete.start(conn, &ledger, &attempt);
        for _ in 0..steps {
            soon("the next statement", async || work.is_finished() || gate.has_arrived()).await;
            gate.step().await;
            soon("its answer", async || gate.is_idle()).await;
        }
        let through = work.is_finished();
        let psql = ledger.psql().await;
        psql.batch_execute(END_LEADERSHIP).await.unwrap();
        let who = StatusId::generate();
        let stand =
            async || storage::leader::stand(&ledger.url, who, "http://two").await.unwrap().ok_or("another leads");

        let standing = async {
            let next = testkit::wait::until(std::time::Duration::from_secs(10), "the lead", stand).await;
            // What it reads first is what it rebuilds its index from.
            (next, ledger.state(attempt.execution).await)
        };
        let passing = async {
            // The write goes on when the new leader has taken over, or waits for it.
            soon("the takeover", async || psql.query_one(TAKING_OVER, &[&ledger.term]).await.unwrap().get(0)).await;
            gate.let_through(work).await
        };
        let (passed, (next, seen)) = tokio::join!(passing, standing);
        let (outcome, _) = passed.unwrap();

        ledger.audit(attempt.execution).await;
        let done = ledger.state(attempt.execution).await == domain::State::Completed;
        assert_eq!(
            seen == domain::State::Completed,
            done,
            "nothing of an older term is written after a leader has read"
        );
        match outcome {
            Ok(_) => written += usize::from(done),
            Err(error) => refusals += usize::from(matches!(error, StorageError::NotLeader(_)) && !done),
        }
        assert_eq!(written + refusals, steps + 1, "an answer says what is stored");
        let report = [attempt.completed()];
        let mut conn = ledger.conn().await;
        let again = storage::reports::report(&mut conn, next.term, attempt.executor, &report, now()).await.unwrap();
        assert_eq!(again[0].verdict.standing, protocol::report::Standing::Over);
        if through {
            break;
        }
    }
    assert!(written > 1 && refusals > 0, "{written} written, {refusals} refused");
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
