//! A database with one owner and one engine, and the shortest way to every state.

use std::{collections::BTreeMap, time::SystemTime};

use chrono::{DateTime, Utc};
use domain::{
    ClaimId, EngineId, EventRecord, ExecutionId, ExecutorId, KeyId, Priority, Sequence, State, StatusId, UserId,
    VersionId,
};
use protocol::{
    claim::{Claim, Grant},
    read::{ExecutionView, Subject},
    report::Report,
    submission::Submission,
};
use serde_json::value::RawValue;
use storage::{
    Pool, PooledConnection, StorageError,
    intake::{NewExecution, TakenIn},
    leader::Leadership,
    reports::Reported,
};
use testkit::TestDatabase;

use crate::attempt::Attempt;

/// A migrated database under a leader.
pub(crate) struct Ledger {
    pub(crate) url: String,
    pub(crate) pool: Pool,
    pub(crate) term: i64,
    pub(crate) user: UserId,
    pub(crate) engine: EngineId,
    pub(crate) version: VersionId,
    /// Held open: its connection is the leadership.
    pub(crate) leadership: Leadership,
    psql: tokio::sync::OnceCell<tokio_postgres::Client>,
    _database: TestDatabase,
}

pub(crate) fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

pub(crate) async fn database() -> TestDatabase {
    TestDatabase::create(&storage::migrations_key(), async |url| Ok(storage::migrate(&url).await?)).await
}

pub(crate) fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

impl Ledger {
    pub(crate) async fn start() -> Self {
        let database = database().await;
        let url = database.url();
        let pool = storage::pool(&url, 8).unwrap();
        let leadership = storage::leader::stand(&url, StatusId::generate(), "http://one").await.unwrap().unwrap();
        let term = leadership.term;
        let (user, engine, version) = (UserId::generate(), EngineId::generate(), VersionId::generate());
        Self {
            url,
            pool,
            term,
            user,
            engine,
            version,
            leadership,
            psql: tokio::sync::OnceCell::new(),
            _database: database,
        }
    }

    pub(crate) async fn conn(&self) -> PooledConnection {
        self.pool.get().await.unwrap()
    }

    /// A connection for statements of the test's own.
    pub(crate) async fn psql(&self) -> &tokio_postgres::Client {
        let connect = async || {
            let (client, connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            client
        };
        self.psql.get_or_init(connect).await
    }

    pub(crate) fn submission(&self) -> Submission {
        Submission {
            execution_id: ExecutionId::generate(),
            user_id: self.user,
            engine_id: self.engine,
            user_engine_id: None,
            version_id: self.version,
            key_id: KeyId::generate(),
            input: raw(r#"{"topic":"भाषा"}"#),
            priority: Priority::Normal,
            labels: BTreeMap::new(),
            end_user: None,
            submitted_at: now(),
            deadline_at: None,
            queue_deadline_at: None,
            idempotency: None,
            parent: None,
            trace: None,
        }
    }

    pub(crate) async fn take_in(&self, submissions: &[Submission]) -> Result<Vec<TakenIn>, StorageError> {
        let batch: Vec<NewExecution<'_>> = submissions.iter().map(fresh).collect();
        storage::intake::take_in(&mut *self.conn().await, self.term, &batch, now()).await
    }

    /// An execution in the queue.
    pub(crate) async fn queued(&self) -> ExecutionId {
        let submission = self.submission();
        let taken = self.take_in(std::slice::from_ref(&submission)).await.unwrap();
        assert!(matches!(&taken[..], [TakenIn::Inserted { state: State::Queued, .. }]), "{taken:?}");
        submission.execution_id
    }

    pub(crate) async fn claim(&self, executor: ExecutorId, execution: ExecutionId) -> Option<Grant> {
        let claim = Claim { execution_id: execution, claim_id: ClaimId::generate() };
        storage::claims::claim(&mut *self.conn().await, self.term, executor, &[claim], now())
            .await
            .unwrap()
            .pop()
            .unwrap()
    }

    /// An execution that an executor holds.
    pub(crate) async fn held(&self) -> Attempt {
        let execution = self.queued().await;
        self.attempt(execution).await
    }

    /// The next attempt of an execution, by an executor of its own.
    pub(crate) async fn attempt(&self, execution: ExecutionId) -> Attempt {
        let executor = ExecutorId::generate();
        Attempt::of(executor, self.claim(executor, execution).await.expect("it can be claimed"))
    }

    pub(crate) async fn report(&self, executor: ExecutorId, report: Report) -> Reported {
        self.reports(executor, &[report]).await.pop().unwrap()
    }

    pub(crate) async fn reports(&self, executor: ExecutorId, reports: &[Report]) -> Vec<Reported> {
        storage::reports::report(&mut *self.conn().await, self.term, executor, reports, now()).await.unwrap()
    }

    pub(crate) fn subject(&self, execution: ExecutionId) -> Subject {
        Subject { user_id: Some(self.user), user_engine_id: None, execution_id: execution }
    }

    pub(crate) async fn view(&self, execution: ExecutionId) -> ExecutionView {
        storage::executions::get(&mut *self.conn().await, &self.subject(execution)).await.unwrap().unwrap()
    }

    pub(crate) async fn state(&self, execution: ExecutionId) -> State {
        self.view(execution).await.state
    }

    pub(crate) async fn log(&self, execution: ExecutionId) -> Vec<EventRecord> {
        let page = storage::events::page(&mut *self.conn().await, execution, Sequence::START, 1_000).await.unwrap();
        assert!(!page.more);
        page.events
    }

    pub(crate) async fn names(&self, execution: ExecutionId) -> Vec<String> {
        self.log(execution).await.into_iter().map(|record| record.name).collect()
    }

    pub(crate) async fn stop(&self, execution: ExecutionId, force: bool) -> storage::stops::StopOutcome {
        let subject = self.subject(execution);
        storage::stops::stop(&mut *self.conn().await, self.term, &subject, force, now()).await.unwrap().unwrap()
    }

    /// What must be true of every execution at every time (G2, G4, G5, G8).
    pub(crate) async fn audit(&self, execution: ExecutionId) {
        let view = self.view(execution).await;
        let log = self.log(execution).await;
        let mut prev = Sequence::START;
        for record in &log {
            assert_eq!(record.prev, prev, "the log has no hole and no fork");
            assert!(record.sequence > prev);
            prev = record.sequence;
        }
        assert_eq!(prev, view.last_sequence);
        let terminal = log.iter().filter(|record| record.is_terminal()).count();
        assert_eq!(terminal, usize::from(view.state.is_terminal()), "{:?}", view.state);
        assert!(!view.state.is_terminal() || log.last().unwrap().is_terminal());
        let sums = self
            .psql()
            .await
            .query_one(
                "SELECT COALESCE(sum(input_tokens), 0)::bigint, COALESCE(sum(output_tokens), 0)::bigint FROM usage_calls \
                 WHERE execution_id = $1::text::uuid",
                &[&execution.uuid().to_string()],
            )
            .await
            .unwrap();
        assert_eq!(
            (view.input_tokens, view.output_tokens),
            (sums.get(0), sums.get(1)),
            "totals are the sum of the rows"
        );
        let violations = storage::invariants::violations(&mut *self.conn().await).await.unwrap();
        // No test renews leases unless it is about leases.
        let mut broken = violations.iter().filter(|violation| violation.rule != "held_without_lease");
        assert!(broken.next().is_none(), "{violations:?}");
    }
}

pub(crate) fn fresh(submission: &Submission) -> NewExecution<'_> {
    NewExecution { submission, tag: 1.5, traceparent: None, rejected: None }
}
