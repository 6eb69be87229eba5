//! The schema, both ways.

use crate::ledger::database;

async fn tables(url: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = client
        .query(
            "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace \
             AND NOT relispartition AND relname <> '__diesel_schema_migrations' ORDER BY relname",
            &[],
        )
        .await
        .unwrap();
    rows.into_iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn migrations_go_up_and_down_and_up_again() {
    let database = database().await;
    let url = database.url();
    let before = tables(&url).await;

    storage::revert_all(&url).await.unwrap();
    let bare = tables(&url).await;
    storage::migrate(&url).await.unwrap();
    storage::migrate(&url).await.unwrap();

    assert!(bare.is_empty(), "{bare:?}");
    assert_eq!(tables(&url).await, before);
    assert!(before.iter().any(|table| table == "executions"));
}

#[tokio::test]
async fn two_processes_may_migrate_at_once() {
    let database = database().await;
    let url = database.url();
    storage::revert_all(&url).await.unwrap();

    let (one, two) = tokio::join!(storage::migrate(&url), storage::migrate(&url));

    one.unwrap();
    two.unwrap();
}

#[tokio::test]
async fn every_table_says_what_it_is() {
    let database = database().await;
    let (client, connection) = tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);

    let rows = client
        .query(
            "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace \
             AND NOT relispartition AND relname <> '__diesel_schema_migrations' AND obj_description(oid, 'pg_class') IS NULL",
            &[],
        )
        .await
        .unwrap();

    let silent: Vec<String> = rows.into_iter().map(|row| row.get(0)).collect();
    assert!(silent.is_empty(), "{silent:?}");
}
