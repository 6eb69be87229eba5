//! Connections: a bounded pool for work, and single ones for migrations.

use std::time::Duration;

use diesel_async::{
    AsyncConnection as _, AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection as _,
    pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod},
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use futures::FutureExt as _;

use crate::error::StorageError;

/// Every migration, inside the binary.
const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations");

/// How long any wait for a connection, a lock or a statement may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long we wait for any answer: a little longer than the server's own deadline, for a server that stands still keeps none.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);
/// How long a migration waits for one that another process runs.
const TURN: Duration = Duration::from_secs(120);

/// A bounded pool of connections.
pub type Pool = diesel_async::pooled_connection::deadpool::Pool<AsyncPgConnection>;

/// A borrowed connection.
pub type PooledConnection = diesel_async::pooled_connection::deadpool::Object<AsyncPgConnection>;

/// A pool of at most `size` connections to `url`. Nothing is opened yet.
///
/// # Errors
/// When no pool can be made at all.
pub fn pool(url: &str, size: usize) -> Result<Pool, StorageError> {
    let mut config = ManagerConfig::default();
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = Box::new(|url| establish(url.to_owned()).boxed());
    let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new_with_config(with_keepalives(url), config);
    Pool::builder(manager)
        .max_size(size)
        .wait_timeout(Some(DEADLINE))
        .create_timeout(Some(DEADLINE))
        .recycle_timeout(Some(DEADLINE))
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .map_err(|error| StorageError::Unavailable(Box::new(error)))
}

/// A server whose host is gone must be noticed in seconds, whether we wait for it or send to it.
pub(crate) fn with_keepalives(url: &str) -> String {
    const OPTIONS: [&str; 5] = [
        "keepalives_idle=2",
        "keepalives_interval=1",
        "keepalives_retries=3",
        "tcp_user_timeout=10",
        "connect_timeout=5",
    ];
    // A URL, or `key=value` pairs.
    let (first, next) = match url.contains("://") {
        true if url.contains('?') => ("&", "&"),
        true => ("?", "&"),
        false => (" ", " "),
    };
    format!("{url}{first}{}", OPTIONS.join(next))
}

async fn establish(url: String) -> Result<AsyncPgConnection, diesel::ConnectionError> {
    let mut conn = AsyncPgConnection::establish(&url).await?;
    // A statement that hangs must not hang its caller; plans of our statements do not depend on their values. Every statement
    // finds its rows by an index: without the last line a plan made while the tables are small scans them, and is kept
    // until the next ANALYZE, however large they have become.
    conn.batch_execute(
        "SET application_name = 'lekhika'; SET statement_timeout = '10s'; SET lock_timeout = '5s'; \
         SET idle_in_transaction_session_timeout = '5s'; SET plan_cache_mode = 'force_generic_plan'; SET jit = off; \
         SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off",
    )
    .await
    .map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}

/// Brings the database to this release's form. Safe to run twice and from several processes.
///
/// # Errors
/// When the database cannot be reached or a migration fails.
pub async fn migrate(url: &str) -> Result<(), StorageError> {
    migrating(url, |mut harness| harness.run_pending_migrations(MIGRATIONS).map(drop)).await
}

/// Undoes every migration: all data is lost.
///
/// # Errors
/// When the database cannot be reached or a migration fails.
pub async fn revert_all(url: &str) -> Result<(), StorageError> {
    migrating(url, |mut harness| harness.revert_all_migrations(MIGRATIONS).map(drop)).await
}

type Harness = AsyncMigrationHarness<AsyncPgConnection>;

/// The harness blocks its thread, which only a runtime of many threads allows: it gets one of its own, so that callers may have
/// any.
async fn migrating(
    url: &str,
    work: fn(Harness) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
) -> Result<(), StorageError> {
    let url = url.to_owned();
    let unavailable = |error: std::io::Error| StorageError::Unavailable(Box::new(error));
    let migrated = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime
            .map_err(unavailable)?
            .block_on(async { work(harness(&url, DEADLINE, TURN).await?).map_err(StorageError::Unavailable) })
    });
    migrated.await.map_err(|error| StorageError::Unavailable(Box::new(error)))?
}

/// A text that changes with the contents of the migrations: the key of a template database for tests.
#[must_use]
pub fn migrations_key() -> String {
    env!("MIGRATIONS_KEY").to_owned()
}

async fn harness(url: &str, connect_within: Duration, turn_within: Duration) -> Result<Harness, StorageError> {
    let connecting = tokio::time::timeout(connect_within, AsyncPgConnection::establish(url));
    let mut conn = match connecting.await {
        Ok(Ok(conn)) => conn,
        Ok(Err(error)) => return Err(StorageError::Unavailable(Box::new(error))),
        Err(late) => return Err(StorageError::Unavailable(Box::new(late))),
    };
    // Two processes that start together take turns; the lock ends with the connection.
    conn.batch_execute(&format!("SET lock_timeout = {}", turn_within.as_millis())).await?;
    conn.batch_execute("SELECT pg_advisory_lock(7203601)").await?;
    conn.batch_execute("RESET lock_timeout").await?;
    Ok(AsyncMigrationHarness::new(conn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::services::{Server, url_of};

    const SOON: Duration = Duration::from_millis(200);

    #[test]
    fn a_dead_server_is_noticed_however_the_address_is_written() {
        for url in ["postgres://u@h:1/d", "postgres://u@h:1/d?sslmode=disable", "host=h user=u dbname=d"] {
            let config: tokio_postgres::Config = with_keepalives(url).parse().unwrap();

            assert_eq!(config.get_keepalives_idle(), Duration::from_secs(2), "{url}");
            assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_secs(10)), "{url}");
            assert_eq!(config.get_dbname(), Some("d"), "{url}");
        }
    }

    #[tokio::test]
    async fn a_server_that_takes_the_connection_and_is_silent_does_not_hold_up_a_migration() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://u@{}/d", listener.local_addr().unwrap());

        let outcome = tokio::time::timeout(DEADLINE, harness(&url, SOON, SOON)).await.expect("it ends");

        assert!(matches!(outcome.err(), Some(StorageError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_migration_does_not_wait_for_ever_for_its_turn() {
        let url = url_of(Server::Postgres).await;
        let holder = harness(&url, DEADLINE, DEADLINE).await.unwrap();

        let outcome = tokio::time::timeout(DEADLINE, harness(&url, DEADLINE, SOON)).await.expect("it ends");

        assert!(matches!(outcome.err(), Some(StorageError::Unavailable(_))));
        drop(holder);
    }
}
