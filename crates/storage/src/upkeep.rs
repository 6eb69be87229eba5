//! Partitions made ahead of time, and rows whose time is over.

use chrono::{DateTime, Days, NaiveDate, Utc};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};

use crate::{error::StorageError, leader::write_as_leader, sql::sql};

/// Makes the partitions of `events` for `days` days from `from` on. Ids are UUIDv7, so a day is a range of ids.
///
/// # Errors
/// When the database cannot be reached, or a row of such a day lies in the default partition already.
pub async fn ensure_partitions(
    conn: &mut AsyncPgConnection,
    from: DateTime<Utc>,
    days: u64,
) -> Result<(), StorageError> {
    let mut first_error = None;
    for ahead in 0..days {
        let Some(day) = from.date_naive().checked_add_days(Days::new(ahead)) else { continue };
        // A day that cannot be made must not keep the next ones from being made: its rows stay in the default partition.
        if let Err(error) = ensure_partition(conn, day).await {
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(()), Err)
}

async fn ensure_partition(conn: &mut AsyncPgConnection, day: NaiveDate) -> Result<(), StorageError> {
    let Some(next) = day.succ_opt() else { return Ok(()) };
    // Names and bounds are made of digits only; DDL takes no bound values.
    let name = day.format("events_%Y%m%d");
    let (low, high) = (lowest_id(day), lowest_id(next));
    let create =
        format!("CREATE TABLE IF NOT EXISTS {name} PARTITION OF events FOR VALUES FROM ('{low}') TO ('{high}')");
    Ok(conn.batch_execute(&create).await?)
}

/// The smallest UUIDv7 of a day: its 48 leading bits are the Unix time in milliseconds (RFC 9562).
fn lowest_id(day: NaiveDate) -> uuid::Uuid {
    let millis = day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis();
    uuid::Uuid::from_u128((u128::from(millis.unsigned_abs())) << 80)
}

/// Forgets idempotency keys that are older than 24 hours.
///
/// # Errors
/// When the database cannot be reached or another process leads.
pub async fn forget_idempotency_keys(conn: &mut AsyncPgConnection, term: i64) -> Result<usize, StorageError> {
    write_as_leader!(conn, term, async {
        Ok(sql("DELETE FROM idempotency_keys WHERE created_at < now() - interval '24 hours'").execute(conn).await?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_days_ids_lie_between_its_bounds() {
        let day = NaiveDate::from_ymd_opt(2026, 11, 21).unwrap();
        let noon = day.and_hms_opt(12, 0, 0).unwrap().and_utc();
        let timestamp = uuid::Timestamp::from_unix(uuid::NoContext, noon.timestamp().unsigned_abs(), 0);
        let id = uuid::Uuid::new_v7(timestamp);

        assert!(lowest_id(day) < id && id < lowest_id(day.succ_opt().unwrap()));
    }
}
