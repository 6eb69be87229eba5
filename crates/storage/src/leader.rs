//! Who may write: one leader, by term. `docs/decisions/0003-term-guard.md` says why two locks.

use std::time::Duration;

use diesel::{
    QueryableByName,
    sql_types::{BigInt, Bool, Nullable, Text, Uuid as SqlUuid},
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _, TransactionManager as _};
use domain::StatusId;
use uuid::Uuid;

use crate::{
    error::StorageError,
    pool::with_keepalives,
    sql::{SILENCE, sql},
};

/// The session lock that the leader holds: its loss is the loss of leadership.
const ELECTION_LOCK: i64 = 7_203_602;

/// Held shared by every write until its end, and exclusively by a new leader while it takes over: when it has it, no write
/// of an older term is under way any more.
const WRITE_LOCK: i64 = 7_203_603;
/// Begins a write, with its shared lock, in one message.
const BEGIN: &str = "BEGIN; SELECT pg_advisory_xact_lock_shared(7203603)";

/// What a leader's session is named, and one that waits to lead.
const LEADER: &str = "lekhika leader";
const STANDBY: &str = "lekhika standby";

/// How long connecting, or asking for the lead, may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long taking over may take: it waits for the writes under way, at most as long as the server lets them take.
const TAKE_OVER_WITHIN: Duration = Duration::from_secs(30);

/// How often and how long a write is repeated when transactions are in each other's way.
pub(crate) const ATTEMPTS: u32 = 6;

/// The leader as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its term.
    pub term: i64,
    /// Which process.
    pub holder: Option<StatusId>,
    /// Where others reach it.
    pub url: String,
}

/// The right to write, for as long as its connection lives.
pub struct Leadership {
    /// The number that every write carries.
    pub term: i64,
    conn: AsyncPgConnection,
}

#[derive(QueryableByName)]
struct LeaderRow {
    #[diesel(sql_type = BigInt)]
    term: i64,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    holder: Option<Uuid>,
    #[diesel(sql_type = Text)]
    url: String,
}

#[derive(QueryableByName)]
struct Locked {
    #[diesel(sql_type = Bool)]
    locked: bool,
}

/// A session that may lead. It is kept between two tries: a standby asks twice a second.
pub struct Candidate {
    conn: AsyncPgConnection,
}

/// How a try ended.
pub enum Election {
    /// This process leads.
    Won(Leadership),
    /// Another one does: try again later.
    Lost(Candidate),
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(StorageError::Unavailable(SILENCE.into())))
}

impl Candidate {
    /// Opens a session.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn connect(database: &str) -> Result<Self, StorageError> {
        // A dead leader must be noticed too: the lock lives as long as the server believes in the session.
        let set_up = format!(
            "SET application_name = '{STANDBY}'; SET lock_timeout = '20s'; SET statement_timeout = '25s'; \
             SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 3"
        );
        let connecting = async {
            let mut conn = AsyncPgConnection::establish(&with_keepalives(database))
                .await
                .map_err(|error| StorageError::Unavailable(Box::new(error)))?;
            conn.batch_execute(&set_up).await?;
            Ok(Self { conn })
        };
        within(ANSWER_WITHIN, connecting).await
    }

    /// Takes the lead when nobody has it.
    ///
    /// # Errors
    /// When the database cannot be reached: this session is of no more use.
    pub async fn stand(mut self, who: StatusId, url: &str) -> Result<Election, StorageError> {
        let lock = sql("SELECT pg_try_advisory_lock(?) AS locked").bind::<BigInt, _>(ELECTION_LOCK);
        if !lock.get_result::<Locked>(&self.conn).await?.locked {
            return Ok(Election::Lost(self));
        }
        // A process that is frozen keeps its connection, for its kernel answers for it; but it asks nothing any more.
        let lead = format!("SET application_name = '{LEADER}'; SET idle_session_timeout = '5s'");
        let taking = async {
            self.conn.batch_execute(&lead).await?;
            take_over(&mut self.conn, who, url.to_owned()).await
        };
        let term = within(TAKE_OVER_WITHIN, taking).await?;
        Ok(Election::Won(Leadership { term, conn: self.conn }))
    }
}

/// The next term begins when no write of an older one is under way.
async fn take_over(conn: &mut AsyncPgConnection, who: StatusId, url: String) -> Result<i64, StorageError> {
    conn.transaction(async move |conn| {
        conn.batch_execute(&format!("SELECT pg_advisory_xact_lock({WRITE_LOCK})")).await?;
        let row: LeaderRow = sql("UPDATE leader SET term = term + 1, holder = ?, url = ?, taken_at = now() \
                                  RETURNING term, holder, url")
        .bind::<SqlUuid, _>(who.uuid())
        .bind::<Text, _>(url)
        .get_result(conn)
        .await?;
        Ok::<_, StorageError>(row.term)
    })
    .await
}

/// Connects and takes the lead when nobody has it: `None` while another process does.
///
/// # Errors
/// When the database cannot be reached.
pub async fn stand(database: &str, who: StatusId, url: &str) -> Result<Option<Leadership>, StorageError> {
    match Candidate::connect(database).await?.stand(who, url).await? {
        Election::Won(leadership) => Ok(Some(leadership)),
        Election::Lost(_) => Ok(None),
    }
}

/// Whether another process waits to lead.
///
/// # Errors
/// When the database cannot be reached.
pub async fn has_standby(conn: &mut AsyncPgConnection) -> Result<bool, StorageError> {
    let waiting = sql("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = ? \
                       AND datname = current_database()) AS locked")
    .bind::<Text, _>(STANDBY);
    Ok(waiting.get_result::<Locked>(conn).await?.locked)
}

impl Leadership {
    /// Returns when the leadership is lost: its connection is gone or the database is.
    pub async fn lost(mut self) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let check = tokio::time::timeout(Duration::from_secs(3), self.conn.batch_execute("SELECT 1"));
            if !matches!(check.await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// The leader of now, if there ever was one.
///
/// # Errors
/// When the database cannot be reached.
pub async fn current(conn: &mut AsyncPgConnection) -> Result<Leader, StorageError> {
    let row: LeaderRow = sql("SELECT term, holder, url FROM leader").get_result(conn).await?;
    Ok(Leader { term: row.term, holder: row.holder.map(StatusId::from_uuid), url: row.url })
}

/// Runs a write of the leader of `$term` in one transaction, again when it was in another's way: `$body` uses `$conn`, which
/// is shared inside, so that its statements can be sent together. A macro, because the future of a closure over a borrowed
/// connection cannot be named as `Send`.
macro_rules! write_as_leader {
    ($conn:ident, $term:expr, $body:expr) => {{
        let mut attempt = 0;
        loop {
            attempt += 1;
            let transaction = async {
                let result = match $crate::leader::begin($conn).await {
                    Ok(()) => {
                        let $conn: &diesel_async::AsyncPgConnection = $conn;
                        // The check goes out with the first statement of the body. It counts first: what an older
                        // leader finds or fails at is of no interest.
                        let (leads, result) = futures::join!($crate::leader::check($conn, $term), $body);
                        leads.and(result)
                    }
                    Err(error) => Err(error),
                };
                $crate::leader::end($conn, result).await
            };
            // A transaction that is given up is dropped with its connection: the pool takes none back that has one open.
            match $crate::leader::within($crate::pool::PATIENCE, transaction).await {
                Err($crate::StorageError::Contended(_)) if attempt < $crate::leader::ATTEMPTS => {}
                result => break result,
            }
        }
    }};
}
pub(crate) use write_as_leader;

type Manager = <AsyncPgConnection as diesel_async::AsyncConnection>::TransactionManager;

/// Begins a transaction that no new leader can overtake. The lock comes first: every statement after it sees what a new
/// leader committed.
pub(crate) async fn begin(conn: &mut AsyncPgConnection) -> Result<(), StorageError> {
    Ok(Manager::begin_transaction_sql(conn, BEGIN).await?)
}

/// Commits what went well and rolls back what did not.
pub(crate) async fn end<R>(conn: &mut AsyncPgConnection, result: Result<R, StorageError>) -> Result<R, StorageError> {
    match result {
        Ok(value) => {
            Manager::commit_transaction(conn).await?;
            Ok(value)
        }
        Err(error) => {
            // The first error is the one to report; a connection that cannot roll back is discarded by the pool.
            drop(Manager::rollback_transaction(conn).await);
            Err(error)
        }
    }
}

/// Refuses an older term.
pub(crate) async fn check(conn: &AsyncPgConnection, term: i64) -> Result<(), StorageError> {
    let row: LeaderRow = sql("SELECT term, holder, url FROM leader").get_result(conn).await?;
    if row.term == term { Ok(()) } else { Err(StorageError::NotLeader(term)) }
}
