//! One resume at a time: a second one, while an execution made from the same parent is unfinished, would pay for the same work twice.

use std::collections::HashMap;

use diesel::{
    QueryableByName,
    sql_types::{Array, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::ExecutionId;
use protocol::submission::Submission;
use uuid::Uuid;

use super::{NewExecution, TakenIn};
use crate::{error::StorageError, sql::sql};

#[derive(QueryableByName)]
struct ChildRow {
    #[diesel(sql_type = SqlUuid)]
    parent_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// The parent of a resume that wants to be alone.
fn alone(submission: &Submission) -> Option<Uuid> {
    submission.parent.filter(|parent| parent.inherit && !parent.parallel).map(|parent| parent.execution_id.uuid())
}

/// Refuses resumes of what is being continued already. Comes after the replays: a repeated request keeps its answer.
pub(super) async fn refuse_second_resumes(
    conn: &AsyncPgConnection,
    batch: &[NewExecution<'_>],
    answers: &mut [Option<TakenIn>],
) -> Result<(), StorageError> {
    let open = batch.iter().zip(&*answers).filter(|(_, answer)| answer.is_none());
    let parents: Vec<Uuid> = open.filter_map(|(new, _)| alone(new.submission)).collect();
    if parents.is_empty() {
        return Ok(());
    }
    let rows: Vec<ChildRow> =
        sql("SELECT parent_id, id FROM executions WHERE parent_id = ANY(?) AND finished_at IS NULL")
            .bind::<Array<SqlUuid>, _>(parents)
            .load(conn)
            .await?;
    let mut children: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
    for row in rows {
        children.entry(row.parent_id).or_default().push(row.id);
    }
    let mut refused = Vec::new();
    for (new, answer) in batch.iter().zip(answers).filter(|(_, answer)| answer.is_none()) {
        let Some(parent) = alone(new.submission) else { continue };
        let own = new.submission.execution_id.uuid();
        let running = children.entry(parent).or_default();
        // Its own row is there when the message was delivered before.
        if running.contains(&own) {
            continue;
        }
        if let Some(child) = running.first() {
            let detail = format!(
                "{} was made from it and is not finished; ?parallel=true resumes it all the same",
                ExecutionId::from_uuid(*child)
            );
            refused.push(own);
            *answer = Some(TakenIn::NotResumable { detail });
        } else if new.rejected.is_none() {
            running.push(own);
        }
    }
    forget_keys(conn, refused).await
}

/// A refused resume leaves no execution that its Idempotency-Key could stand for.
async fn forget_keys(conn: &AsyncPgConnection, refused: Vec<Uuid>) -> Result<(), StorageError> {
    if !refused.is_empty() {
        sql("DELETE FROM idempotency_keys WHERE execution_id = ANY(?)")
            .bind::<Array<SqlUuid>, _>(refused)
            .execute(conn)
            .await?;
    }
    Ok(())
}
