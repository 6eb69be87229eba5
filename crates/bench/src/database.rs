//! What is read from the platform's ledger: counts, and times that no client can see.

use std::collections::HashMap;

use anyhow::Context as _;
use domain::{ExecutionId, State};
use tokio_postgres::{Client, NoTls, types::ToSql};

/// A connection to the platform's Postgres. It only reads the ledger.
#[derive(Debug)]
pub(crate) struct Database {
    client: Client,
}

/// One provider call of one execution, in microseconds of the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// When the executor began it.
    pub(crate) started: i64,
    /// When its last byte was read.
    pub(crate) ended: i64,
}

impl Database {
    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        Ok(Self { client: connect(url).await? })
    }

    /// Executions in no terminal state.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn unfinished(&self) -> anyhow::Result<u64> {
        self.count("SELECT count(*) FROM executions WHERE finished_at IS NULL", &[]).await
    }

    /// Executions in a terminal state.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn finished(&self) -> anyhow::Result<u64> {
        self.count("SELECT count(*) FROM executions WHERE finished_at IS NOT NULL", &[]).await
    }

    /// Executions in one state.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn in_state(&self, state: State) -> anyhow::Result<u64> {
        self.count("SELECT count(*) FROM executions WHERE state = $1", &[&state.code()]).await
    }

    /// Executions that an executor holds now. Cheap while few are unfinished.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn processing(&self) -> anyhow::Result<u64> {
        let processing = State::Processing.code();
        self.count("SELECT count(*) FROM executions WHERE finished_at IS NULL AND state = $1", &[&processing]).await
    }

    /// Slots of all executors that hold a lease.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn slots(&self) -> anyhow::Result<u64> {
        self.count("SELECT coalesce(sum(slots), 0) FROM executors WHERE lease_until > now()", &[]).await
    }

    /// A server setting, such as `fsync`.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn setting(&self, name: &str) -> anyhow::Result<String> {
        let row = self.client.query_one("SELECT current_setting($1)", &[&name]).await;
        Ok(row.with_context(|| format!("reading the setting `{name}`"))?.get(0))
    }

    /// The provider calls of all executions, in the order of their start.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn calls(&self) -> anyhow::Result<HashMap<ExecutionId, Vec<Call>>> {
        let query = "SELECT execution_id::text, (extract(epoch FROM started_at) * 1000000)::bigint, \
                     (extract(epoch FROM ended_at) * 1000000)::bigint FROM usage_calls ORDER BY started_at";
        let rows = self.client.query(query, &[]).await.context("reading the provider calls")?;
        let mut calls: HashMap<ExecutionId, Vec<Call>> = HashMap::new();
        for row in rows {
            let call = Call { started: row.get(1), ended: row.get(2) };
            calls.entry(id(&row.get::<_, String>(0))?).or_default().push(call);
        }
        Ok(calls)
    }

    /// When each finished execution reached its terminal state, in microseconds of the Unix epoch.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn ends(&self) -> anyhow::Result<HashMap<ExecutionId, i64>> {
        let query = "SELECT id::text, (extract(epoch FROM finished_at) * 1000000)::bigint FROM executions \
                     WHERE finished_at IS NOT NULL";
        let rows = self.client.query(query, &[]).await.context("reading the ends of executions")?;
        rows.iter().map(|row| Ok((id(&row.get::<_, String>(0))?, row.get(1)))).collect()
    }

    async fn count(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> anyhow::Result<u64> {
        let row = self.client.query_one(query, parameters).await.with_context(|| format!("counting with `{query}`"))?;
        Ok(u64::try_from(row.get::<_, i64>(0))?)
    }
}

/// A bare connection, for the raw limits.
///
/// # Errors
/// When the server cannot be reached.
pub(crate) async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("connecting to Postgres")?;
    // Ends with the client; what goes wrong shows in its queries.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

fn id(uuid: &str) -> anyhow::Result<ExecutionId> {
    Ok(format!("{}{uuid}", ExecutionId::PREFIX).parse()?)
}
