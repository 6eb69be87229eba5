//! The writer dies at every statement boundary of every write, and the write is repeated: as if it had been made once.

use domain::{ExecutionId, ExecutorId};
use storage::StorageError;

use crate::{
    attempt::Attempt,
    gate::{Gate, PATIENCE, soon},
    interleavings::{Operation, judge},
    ledger::{Ledger, fresh, now},
};

/// Lets `steps` statements through, then breaks the connection; false when the work was done before.
async fn kill_after<T>(ledger: &Ledger, gate: &Gate, work: &tokio::task::JoinHandle<T>, steps: usize) -> bool {
    for _ in 0..steps {
        soon("the next statement", async || work.is_finished() || gate.has_arrived()).await;
        if work.is_finished() {
            return false;
        }
        gate.step().await;
        soon("its answer", async || gate.is_idle()).await;
    }
    gate.kill().await;
    // Its locks are gone when its server process is.
    let psql = ledger.psql().await;
    soon("the end of its session", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
        psql.query_one(sql, &[&gate.pid]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    true
}

async fn die_everywhere(operation: Operation) {
    let ledger = Ledger::start().await;
    for steps in 0.. {
        let attempt = ledger.held().await;
        let (gate, conn) = Gate::connect(&ledger.url).await;
        let work = operation.start(conn, &ledger, &attempt);
        let died = kill_after(&ledger, &gate, &work, steps).await;
        if died {
            let (outcome, _) = tokio::time::timeout(PATIENCE, work).await.unwrap().unwrap();
            // After the last statement the answer may have come through.
            let lost = matches!(outcome, Ok(_) | Err(StorageError::Unavailable(_)));
            assert!(lost, "{operation:?} after {steps}: {outcome:?}");
        }

        let (gate, conn) = Gate::connect(&ledger.url).await;
        let (again, _) = gate.let_through(operation.start(conn, &ledger, &attempt)).await.unwrap();

        judge(&ledger, &attempt, &[again.unwrap()]).await;
        if !died {
            assert!(steps > 5, "{operation:?} has {steps} statements only");
            return;
        }
    }
}

#[tokio::test]
async fn a_unit_report_survives_the_death_of_its_writer_at_every_statement() {
    die_everywhere(Operation::Unit).await;
}

#[tokio::test]
async fn a_finish_survives_the_death_of_its_writer_at_every_statement() {
    die_everywhere(Operation::Complete).await;
}

#[tokio::test]
async fn a_fence_survives_the_death_of_its_writer_at_every_statement() {
    die_everywhere(Operation::TakeBack).await;
}

#[tokio::test]
async fn a_stop_survives_the_death_of_its_writer_at_every_statement() {
    die_everywhere(Operation::ForceStop).await;
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_granted_again() {
    let ledger = Ledger::start().await;
    for steps in 0.. {
        let execution = ledger.queued().await;
        let executor = ExecutorId::generate();
        let claim = protocol::claim::Claim { execution_id: execution, claim_id: domain::ClaimId::generate() };
        let (gate, mut conn) = Gate::connect(&ledger.url).await;
        let term = ledger.term;
        let work =
            tokio::spawn(async move { storage::claims::claim(&mut conn, term, executor, &[claim], now()).await });
        let died = kill_after(&ledger, &gate, &work, steps).await;

        let mut conn = ledger.conn().await;
        let grants = storage::claims::claim(&mut conn, term, executor, &[claim], now()).await.unwrap();

        let attempt = Attempt::of(executor, grants[0].clone().expect("the same claim gets the same grant"));
        assert_eq!(attempt.epoch, 1);
        ledger.audit(execution).await;
        if !died {
            return;
        }
    }
}

#[tokio::test]
async fn an_intake_whose_answer_was_lost_takes_in_once() {
    let ledger = Ledger::start().await;
    for steps in 0.. {
        let submission = ledger.submission();
        let (gate, mut conn) = Gate::connect(&ledger.url).await;
        let (term, sent) = (ledger.term, submission.clone());
        let work =
            tokio::spawn(
                async move { storage::intake::take_in(&mut conn, term, &[fresh(&sent)], now()).await.map(drop) },
            );
        let died = kill_after(&ledger, &gate, &work, steps).await;

        ledger.take_in(std::slice::from_ref(&submission)).await.unwrap();

        let id: ExecutionId = submission.execution_id;
        assert_eq!(ledger.names(id).await, ["execution.queued"]);
        ledger.audit(id).await;
        if !died {
            return;
        }
    }
}
