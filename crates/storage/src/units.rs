//! Outputs of finished units, for the executor that continues.

use diesel::{
    QueryableByName,
    sql_types::{Integer, Text, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{ExecutionId, UnitKey};
use protocol::read::UnitOutput;
use serde_json::value::RawValue;

use crate::{error::StorageError, sql::sql};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    node: String,
    #[diesel(sql_type = Integer)]
    unit: i32,
    #[diesel(sql_type = Text)]
    output: String,
}

/// The finished units of an execution, by node and unit.
///
/// # Errors
/// When the database cannot be reached.
pub async fn outputs(conn: &mut AsyncPgConnection, execution: ExecutionId) -> Result<Vec<UnitOutput>, StorageError> {
    let rows: Vec<Row> =
        sql("SELECT node, unit, output FROM units WHERE execution_id = ? AND complete ORDER BY node, unit")
            .bind::<SqlUuid, _>(execution.uuid())
            .load(conn)
            .await?;
    rows.into_iter()
        .map(|row| {
            let output = RawValue::from_string(row.output).map_err(|error| StorageError::Corrupt(error.to_string()))?;
            Ok(UnitOutput { key: UnitKey { node: row.node, unit: row.unit }, output })
        })
        .collect()
}
