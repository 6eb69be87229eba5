//! Who may write: one leader, by term. `docs/decisions/0003-term-guard.md` says why two locks.

use std::time::Duration;

use diesel::{
    QueryableByName,
    sql_types::{BigInt, Bool, Nullable, Text, Uuid as SqlUuid},
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _, TransactionManager as _};
use domain::StatusId;
use uuid::Uuid;

use crate::{error::StorageError, sql::sql};

/// The session lock that the leader holds: its loss is the loss of leadership.
const ELECTION_LOCK: i64 = 7_203_602;

/// Held shared by every write until its end, and exclusively by a new leader while it takes over: when it has it, no write
/// of an older term is under way any more.
const WRITE_LOCK: i64 = 7_203_603;
/// Begins a write, with its shared lock, in one message.
const BEGIN: &str = "BEGIN; SELECT pg_advisory_xact_lock_shared(7203603)";

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

/// Takes the lead when nobody has it: `None` while another process does.
///
/// # Errors
/// When the database cannot be reached.
pub async fn stand(database: &str, who: StatusId, url: &str) -> Result<Option<Leadership>, StorageError> {
    let mut conn = AsyncPgConnection::establish(&with_keepalives(database))
        .await
        .map_err(|error| StorageError::Unavailable(Box::new(error)))?;
    conn.batch_execute(
        "SET application_name = 'lekhika leader'; SET lock_timeout = '20s'; SET statement_timeout = '25s'; \
         SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 3",
    )
    .await?;
    let lock = sql("SELECT pg_try_advisory_lock(?) AS locked").bind::<BigInt, _>(ELECTION_LOCK);
    if !lock.get_result::<Locked>(&conn).await?.locked {
        return Ok(None);
    }
    let (holder, address) = (who.uuid(), url.to_owned());
    let term = conn
        .transaction(async move |conn| {
            sql("SELECT pg_advisory_xact_lock(?)").bind::<BigInt, _>(WRITE_LOCK).execute(conn).await?;
            let row: LeaderRow = sql("UPDATE leader SET term = term + 1, holder = ?, url = ?, taken_at = now() \
                                      RETURNING term, holder, url")
            .bind::<SqlUuid, _>(holder)
            .bind::<Text, _>(address)
            .get_result(conn)
            .await?;
            Ok::<_, StorageError>(row.term)
        })
        .await?;
    Ok(Some(Leadership { term, conn }))
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

/// A dead server must be noticed in seconds. (A dead leader too: the lock lives as long as the server believes in the connection,
/// which is what the session's own `tcp_keepalives_*` are for.)
fn with_keepalives(database: &str) -> String {
    let separator = if database.contains('?') { '&' } else { '?' };
    format!("{database}{separator}keepalives_idle=2&keepalives_interval=1&keepalives_retries=3&connect_timeout=5")
}

/// Runs a write of the leader of `$term` in one transaction, again when it was in another's way: `$body` uses `$conn`, which
/// is shared inside, so that its statements can be sent together. A macro, because the future of a closure over a borrowed
/// connection cannot be named as `Send`.
macro_rules! write_as_leader {
    ($conn:ident, $term:expr, $body:expr) => {{
        let mut attempt = 0;
        loop {
            attempt += 1;
            let result = match $crate::leader::begin($conn).await {
                Ok(()) => {
                    let $conn: &diesel_async::AsyncPgConnection = $conn;
                    // The check goes out with the first statement of the body. It counts first: what an older leader
                    // finds or fails at is of no interest.
                    let (leads, result) = futures::join!($crate::leader::check($conn, $term), $body);
                    leads.and(result)
                }
                Err(error) => Err(error),
            };
            match $crate::leader::end($conn, result).await {
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
