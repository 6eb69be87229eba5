//! The ledger's rows under their lock: the one place where SQL writes a state, an epoch or an event number.
//!
//! A write locks its rows in id order, reads what it depends on in later statements, decides in Rust with
//! [`domain::State::after`], and saves all rows with one compare-and-set.

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{Change, Event, EventBody, EventRecord, ExecutionId, IllegalTransition, Sequence, State, WaitingReason};
use protocol::report::Progress;
use uuid::Uuid;

use crate::{error::StorageError, sql::sql};

/// One locked row and what becomes of it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) id: ExecutionId,
    pub(crate) user_id: Uuid,
    pub(crate) engine_id: Uuid,
    pub(crate) version_id: Uuid,
    pub(crate) state: State,
    pub(crate) waiting_reason: Option<WaitingReason>,
    pub(crate) epoch: i32,
    pub(crate) losses: i16,
    pub(crate) executor_id: Option<Uuid>,
    pub(crate) claim_id: Option<Uuid>,
    pub(crate) last_sequence: Sequence,
    pub(crate) eligible_at: Option<DateTime<Utc>>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) claimed_at: Option<DateTime<Utc>>,
    pub(crate) finished_at: Option<DateTime<Utc>>,
    pub(crate) deadline_at: Option<DateTime<Utc>>,
    pub(crate) stop: Stop,
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) progress: Progress,
    /// Events to append.
    pub(crate) events: Vec<EventRecord>,
    before: (State, i32),
    dirty: bool,
}

/// The receipt of a stop, as stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    pub(crate) requested_at: Option<DateTime<Utc>>,
    pub(crate) executor_ack_at: Option<DateTime<Utc>>,
    pub(crate) upstream_closed_at: Option<DateTime<Utc>>,
    pub(crate) closed_by: Option<String>,
    pub(crate) tokens: Option<i64>,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    engine_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    version_id: Uuid,
    #[diesel(sql_type = SmallInt)]
    state: i16,
    #[diesel(sql_type = Nullable<SmallInt>)]
    waiting_reason: Option<i16>,
    #[diesel(sql_type = Integer)]
    epoch: i32,
    #[diesel(sql_type = SmallInt)]
    losses: i16,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    executor_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    claim_id: Option<Uuid>,
    #[diesel(sql_type = BigInt)]
    last_sequence: i64,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    eligible_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    started_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    claimed_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    finished_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    deadline_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    stop_requested_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    executor_ack_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    upstream_closed_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Text>)]
    closed_by: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    tokens_at_stop: Option<i64>,
    #[diesel(sql_type = BigInt)]
    input_tokens: i64,
    #[diesel(sql_type = BigInt)]
    output_tokens: i64,
    #[diesel(sql_type = Integer)]
    nodes_done: i32,
    #[diesel(sql_type = Integer)]
    nodes_total: i32,
    #[diesel(sql_type = Integer)]
    units_done: i32,
    #[diesel(sql_type = Integer)]
    units_total: i32,
    #[diesel(sql_type = BigInt)]
    words: i64,
    #[diesel(sql_type = Nullable<Text>)]
    current_node: Option<String>,
}

/// Locks the rows of `ids`, in id order, and reads them. Ids without a row are left out.
pub(crate) async fn lock(conn: &AsyncPgConnection, mut ids: Vec<Uuid>) -> Result<Vec<Entry>, StorageError> {
    ids.sort_unstable();
    ids.dedup();
    let rows: Vec<Row> = sql(
        "SELECT id, user_id, engine_id, version_id, state, waiting_reason, epoch, losses, executor_id, claim_id, last_sequence, \
         eligible_at, started_at, claimed_at, finished_at, deadline_at, stop_requested_at, executor_ack_at, upstream_closed_at, closed_by, \
         tokens_at_stop, input_tokens, output_tokens, nodes_done, nodes_total, units_done, units_total, words, current_node \
         FROM executions WHERE id = ANY(?) ORDER BY id FOR NO KEY UPDATE",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .load(conn)
    .await?;
    rows.into_iter().map(Entry::try_from).collect()
}

impl TryFrom<Row> for Entry {
    type Error = StorageError;

    fn try_from(row: Row) -> Result<Self, StorageError> {
        let state = state_of(row.state)?;
        Ok(Self {
            id: ExecutionId::from_uuid(row.id),
            user_id: row.user_id,
            engine_id: row.engine_id,
            version_id: row.version_id,
            state,
            waiting_reason: row.waiting_reason.and_then(WaitingReason::from_code),
            epoch: row.epoch,
            losses: row.losses,
            executor_id: row.executor_id,
            claim_id: row.claim_id,
            last_sequence: Sequence(row.last_sequence),
            eligible_at: row.eligible_at,
            started_at: row.started_at,
            claimed_at: row.claimed_at,
            finished_at: row.finished_at,
            deadline_at: row.deadline_at,
            stop: Stop {
                requested_at: row.stop_requested_at,
                executor_ack_at: row.executor_ack_at,
                upstream_closed_at: row.upstream_closed_at,
                closed_by: row.closed_by,
                tokens: row.tokens_at_stop,
            },
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            progress: Progress {
                nodes_done: row.nodes_done.unsigned_abs(),
                nodes_total: row.nodes_total.unsigned_abs(),
                units_done: row.units_done.unsigned_abs(),
                units_total: row.units_total.unsigned_abs(),
                words: row.words.unsigned_abs(),
                current_node: row.current_node,
            },
            events: Vec::new(),
            before: (state, row.epoch),
            dirty: false,
        })
    }
}

/// The state of a stored number.
pub(crate) fn state_of(code: i16) -> Result<State, StorageError> {
    State::from_code(code).ok_or_else(|| StorageError::Corrupt(format!("state {code}")))
}

impl Entry {
    /// Marks the row as one to save.
    pub(crate) const fn touch(&mut self) {
        self.dirty = true;
    }

    /// Moves the row along the state machine, with everything that a state carries.
    pub(crate) fn change(&mut self, change: Change, now: DateTime<Utc>) -> Result<State, IllegalTransition> {
        self.state = self.state.after(change)?;
        self.dirty = true;
        if !self.state.is_held() {
            self.executor_id = None;
            self.claim_id = None;
        }
        if self.state != State::Waiting {
            self.waiting_reason = None;
        }
        if self.state.is_terminal() {
            self.finished_at = Some(now);
            self.eligible_at = None;
            self.progress.current_node = None;
        }
        Ok(self.state)
    }

    /// Makes status the writer of this execution: whoever wrote before is fenced.
    pub(crate) const fn take_epoch(&mut self) {
        self.epoch += 1;
        self.dirty = true;
    }

    /// Writes an event in the name of the holder of the epoch.
    pub(crate) fn write(&mut self, body: EventBody, at: DateTime<Utc>) -> Result<(), StorageError> {
        let event = Event {
            sequence: self.last_sequence.next_in(self.epoch),
            prev: self.last_sequence,
            execution_id: self.id,
            attempt: self.epoch,
            at,
            body,
        };
        let record = event.record().map_err(|error| StorageError::Corrupt(error.to_string()))?;
        self.append(record);
        Ok(())
    }

    /// Appends an event whose `prev` is the last one.
    pub(crate) fn append(&mut self, record: EventRecord) {
        self.last_sequence = record.sequence;
        self.events.push(record);
        self.dirty = true;
    }

    /// Writes the receipt of a stop that ends here.
    pub(crate) fn close(&mut self, closed_by: &str, upstream_closed_at: Option<DateTime<Utc>>) {
        self.stop.closed_by = Some(closed_by.to_owned());
        self.stop.upstream_closed_at = upstream_closed_at;
    }

    /// The tokens of the receipt: those of the executor, or all that are known when it is saved.
    fn tokens_at_stop(&self) -> Option<i64> {
        let known = self.input_tokens + self.output_tokens;
        self.stop.tokens.or_else(|| self.stop.closed_by.is_some().then_some(known))
    }
}

/// One chunk of the event log: the records as a JSON array.
pub(crate) fn chunk(records: &[EventRecord]) -> Result<String, StorageError> {
    serde_json::to_string(records).map_err(|error| StorageError::Corrupt(error.to_string()))
}

/// Saves every entry that changed, and its events, with two statements.
pub(crate) async fn save(conn: &AsyncPgConnection, entries: &[Entry]) -> Result<(), StorageError> {
    let dirty: Vec<&Entry> = entries.iter().filter(|entry| entry.dirty).collect();
    if dirty.is_empty() {
        return Ok(());
    }
    let expected = dirty.len();
    let events = append_events(&dirty)?;
    let append = async {
        match events {
            Some(insert) => insert.execute(conn).await,
            None => Ok(0),
        }
    };
    let (_, updated) = futures::try_join!(append, update(&dirty).execute(conn))?;
    if updated == expected {
        Ok(())
    } else {
        // The rows are locked and were just read: this cannot happen while the lock works.
        Err(StorageError::Corrupt(format!("{updated} of {expected} locked rows were as they were read")))
    }
}

fn append_events(entries: &[&Entry]) -> Result<Option<crate::sql::Sql>, StorageError> {
    let (mut ids, mut firsts, mut lasts, mut records) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        if let (Some(first), Some(last)) = (entry.events.first(), entry.events.last()) {
            ids.push(entry.id.uuid());
            firsts.push(first.sequence.0);
            lasts.push(last.sequence.0);
            records.push(chunk(&entry.events)?);
        }
    }
    if ids.is_empty() {
        return Ok(None);
    }
    let insert = sql("INSERT INTO events (execution_id, first_sequence, last_sequence, records) \
         SELECT * FROM unnest(?::uuid[], ?::bigint[], ?::bigint[], ?::text[])")
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Array<BigInt>, _>(firsts)
    .bind::<Array<BigInt>, _>(lasts)
    .bind::<Array<Text>, _>(records);
    Ok(Some(insert))
}

/// Values of one column, in the order of the entries.
fn column<T>(entries: &[&Entry], value: impl Fn(&Entry) -> T) -> Vec<T> {
    entries.iter().map(|entry| value(entry)).collect()
}

fn integer(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn update(entries: &[&Entry]) -> crate::sql::Sql {
    sql("UPDATE executions e SET state = n.state, waiting_reason = n.waiting_reason, epoch = n.epoch, losses = n.losses, \
         executor_id = n.executor_id, claim_id = n.claim_id, last_sequence = n.last_sequence, eligible_at = n.eligible_at, \
         started_at = n.started_at, claimed_at = n.claimed_at, finished_at = n.finished_at, stop_requested_at = n.stop_requested_at, \
         executor_ack_at = n.executor_ack_at, upstream_closed_at = n.upstream_closed_at, closed_by = n.closed_by, \
         tokens_at_stop = n.tokens_at_stop, input_tokens = n.input_tokens, output_tokens = n.output_tokens, \
         nodes_done = n.nodes_done, nodes_total = n.nodes_total, units_done = n.units_done, units_total = n.units_total, \
         words = n.words, current_node = n.current_node \
         FROM unnest(?::uuid[], ?::smallint[], ?::integer[], ?::smallint[], ?::smallint[], ?::integer[], ?::smallint[], ?::uuid[], \
         ?::uuid[], ?::bigint[], ?::timestamptz[], ?::timestamptz[], ?::timestamptz[], ?::timestamptz[], ?::timestamptz[], ?::timestamptz[], \
         ?::timestamptz[], ?::text[], ?::bigint[], ?::bigint[], ?::bigint[], ?::integer[], ?::integer[], ?::integer[], ?::integer[], \
         ?::bigint[], ?::text[]) \
         AS n(id, old_state, old_epoch, state, waiting_reason, epoch, losses, executor_id, claim_id, last_sequence, eligible_at, \
         started_at, claimed_at, finished_at, stop_requested_at, executor_ack_at, upstream_closed_at, closed_by, tokens_at_stop, \
         input_tokens, output_tokens, nodes_done, nodes_total, units_done, units_total, words, current_node) \
         WHERE e.id = n.id AND e.state = n.old_state AND e.epoch = n.old_epoch")
    .bind::<Array<SqlUuid>, _>(column(entries, |e| e.id.uuid()))
    .bind::<Array<SmallInt>, _>(column(entries, |e| e.before.0.code()))
    .bind::<Array<Integer>, _>(column(entries, |e| e.before.1))
    .bind::<Array<SmallInt>, _>(column(entries, |e| e.state.code()))
    .bind::<Array<Nullable<SmallInt>>, _>(column(entries, |e| e.waiting_reason.map(WaitingReason::code)))
    .bind::<Array<Integer>, _>(column(entries, |e| e.epoch))
    .bind::<Array<SmallInt>, _>(column(entries, |e| e.losses))
    .bind::<Array<Nullable<SqlUuid>>, _>(column(entries, |e| e.executor_id))
    .bind::<Array<Nullable<SqlUuid>>, _>(column(entries, |e| e.claim_id))
    .bind::<Array<BigInt>, _>(column(entries, |e| e.last_sequence.0))
    .bind::<Array<Nullable<Timestamptz>>, _>(column(entries, |e| e.eligible_at))
    .bind::<Array<Nullable<Timestamptz>>, _>(column(entries, |e| e.started_at))
    .bind::<Array<Nullable<Timestamptz>>, _>(column(entries, |e| e.claimed_at))
    .bind::<Array<Nullable<Timestamptz>>, _>(column(entries, |e| e.finished_at))
    .bind::<Array<Nullable<Timestamptz>>, _>(column(entries, |e| e.stop.requested_at))
    .bind::<Array<Nullable<Timestamptz>>, _>(column(entries, |e| e.stop.executor_ack_at))
    .bind::<Array<Nullable<Timestamptz>>, _>(column(entries, |e| e.stop.upstream_closed_at))
    .bind::<Array<Nullable<Text>>, _>(column(entries, |e| e.stop.closed_by.clone()))
    .bind::<Array<Nullable<BigInt>>, _>(column(entries, Entry::tokens_at_stop))
    .bind::<Array<BigInt>, _>(column(entries, |e| e.input_tokens))
    .bind::<Array<BigInt>, _>(column(entries, |e| e.output_tokens))
    .bind::<Array<Integer>, _>(column(entries, |e| integer(e.progress.nodes_done)))
    .bind::<Array<Integer>, _>(column(entries, |e| integer(e.progress.nodes_total)))
    .bind::<Array<Integer>, _>(column(entries, |e| integer(e.progress.units_done)))
    .bind::<Array<Integer>, _>(column(entries, |e| integer(e.progress.units_total)))
    .bind::<Array<BigInt>, _>(column(entries, |e| i64::try_from(e.progress.words).unwrap_or(i64::MAX)))
    .bind::<Array<Nullable<Text>>, _>(column(entries, |e| e.progress.current_node.clone()))
}
