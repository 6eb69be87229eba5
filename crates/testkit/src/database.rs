//! A database per test, cloned from a template that is migrated once per content of the migrations.

use crate::services::{Server, url_of};
use sha2::{Digest, Sha256};
use tokio_postgres::{Client, NoTls};

/// A fresh database with the whole schema; dropped with the value.
#[derive(Debug)]
pub struct TestDatabase {
    server: String,
    name: String,
}

impl TestDatabase {
    /// A clone of the template for `template_key` (which must change whenever the migrations do: use a hash of their
    /// contents). The first caller of all processes builds the template with `migrate`, which is given its URL; it must
    /// have closed its connections when it returns.
    ///
    /// # Panics
    /// When Postgres or the migrations fail.
    pub async fn create(template_key: &str, migrate: impl AsyncFnOnce(String) -> anyhow::Result<()>) -> Self {
        let server = url_of(Server::Postgres).await;
        Self::create_on(&server, template_key, migrate).await
    }

    /// As [`create`](Self::create), on a server of the caller: a superuser's URL of its database `postgres`.
    ///
    /// # Panics
    /// When Postgres or the migrations fail.
    pub async fn create_on(
        server: &str,
        template_key: &str,
        migrate: impl AsyncFnOnce(String) -> anyhow::Result<()>,
    ) -> Self {
        let digest = hex::encode(Sha256::digest(template_key));
        let template = format!("template_{}", &digest[..16]);
        let admin = connect(server).await;
        if !exists(&admin, &template).await {
            build(&admin, server, &template, migrate).await;
        }
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        execute(&admin, &format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")).await;
        Self { server: server.to_owned(), name }
    }

    /// Its URL, for the superuser.
    #[must_use]
    pub fn url(&self) -> String {
        url_on(&self.server, &self.name)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDatabase {
    /// On a thread of its own, because the runtime of the test may be ending; a server that is gone is no error.
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let (client, connection) = tokio_postgres::connect(&server, NoTls).await.ok()?;
                tokio::spawn(connection);
                client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.ok()
            })
        });
        let _ = dropping.join();
    }
}

/// One builder at a time, by a lock that Postgres releases when its holder dies.
async fn build(admin: &Client, server: &str, template: &str, migrate: impl AsyncFnOnce(String) -> anyhow::Result<()>) {
    execute(admin, &format!("SELECT pg_advisory_lock(hashtext('{template}'))")).await;
    if !exists(admin, template).await {
        let building = format!("{template}_building");
        execute(admin, &format!("DROP DATABASE IF EXISTS {building} WITH (FORCE)")).await;
        execute(admin, &format!("CREATE DATABASE {building}")).await;
        migrate(url_on(server, &building)).await.expect("migrate the template database");
        // A pool of the migration may still be closing its connections.
        let sessions = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{building}'");
        execute(admin, &sessions).await;
        execute(admin, &format!("ALTER DATABASE {building} WITH ALLOW_CONNECTIONS false IS_TEMPLATE true")).await;
        crate::wait::until(std::time::Duration::from_secs(10), "the template to be free", async || {
            admin.batch_execute(&format!("ALTER DATABASE {building} RENAME TO {template}")).await
        })
        .await;
    }
    execute(admin, &format!("SELECT pg_advisory_unlock(hashtext('{template}'))")).await;
}

async fn exists(admin: &Client, template: &str) -> bool {
    let found = admin.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&template]).await;
    found.expect("look for the template database").is_some()
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect to the test server");
    tokio::spawn(connection);
    client
}

async fn execute(admin: &Client, sql: &str) {
    admin.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
}

/// The same server, another database.
fn url_on(server: &str, database: &str) -> String {
    let (base, _) = server.rsplit_once('/').expect("a URL with a database");
    format!("{base}/{database}")
}
