//! Engine versions: immutable, so whoever read one may keep it.

use diesel::{
    QueryableByName,
    sql_types::{Text, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{EngineId, VersionId};
use protocol::read::VersionView;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{error::StorageError, sql::sql};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    engine_id: Uuid,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    flow: String,
}

/// One version, if it is there.
///
/// # Errors
/// When the database cannot be reached.
pub async fn get(conn: &mut AsyncPgConnection, version_id: VersionId) -> Result<Option<VersionView>, StorageError> {
    let row: Option<Row> = sql(
        "SELECT v.engine_id, e.name, v.flow FROM engine_versions v JOIN engines e ON e.id = v.engine_id WHERE v.id = ?",
    )
    .bind::<SqlUuid, _>(version_id.uuid())
    .load(conn)
    .await?
    .pop();
    row.map(|row| {
        let flow = RawValue::from_string(row.flow).map_err(|error| StorageError::Corrupt(error.to_string()))?;
        Ok(VersionView { version_id, engine_id: EngineId::from_uuid(row.engine_id), engine_name: row.name, flow })
    })
    .transpose()
}
