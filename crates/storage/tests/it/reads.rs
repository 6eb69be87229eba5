//! What owners and operators read.

use domain::{EngineId, Sequence, State, UserId};
use protocol::{
    read::{ListExecutions, ReadStats},
    report::Report,
    submission::Submission,
};

use crate::ledger::{Ledger, now};

fn everything(ledger: &Ledger) -> ListExecutions {
    ListExecutions {
        user_id: Some(ledger.user),
        user_engine_id: None,
        states: vec![],
        engine_id: None,
        created_after: None,
        created_before: None,
        labels: Default::default(),
        after: None,
        limit: 100,
    }
}

#[tokio::test]
async fn pages_of_events_join_without_a_hole_and_end_with_the_terminal_one() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    for chunk in 0..5 {
        let events = (0..4).map(|at| attempt.delta("a", "x", chunk * 4 + at)).collect();
        let report = protocol::report::Report { events, ..attempt.nothing() };
        ledger.report(attempt.executor, report).await;
    }
    ledger.report(attempt.executor, attempt.completed()).await;
    let whole = ledger.log(attempt.execution).await;
    let mut conn = ledger.conn().await;

    for limit in [1, 3, 7, 22, 23] {
        let (mut after, mut joined) = (Sequence::START, Vec::new());
        loop {
            let page = storage::events::page(&mut conn, attempt.execution, after, limit).await.unwrap();
            assert!(page.events.len() <= limit);
            assert_eq!(page.terminal, !page.more);
            after = page.events.last().map_or(after, |record| record.sequence);
            joined.extend(page.events.into_iter().map(|record| (record.sequence, record.data(attempt.execution))));
            if !page.more {
                break;
            }
        }
        let expected: Vec<_> = whole.iter().map(|record| (record.sequence, record.data(attempt.execution))).collect();
        assert_eq!(joined, expected, "limit {limit}");
    }
    let end = storage::events::page(&mut conn, attempt.execution, attempt.last.next_in(1), 10).await.unwrap();
    assert!(end.events.is_empty() && end.terminal && !end.more, "a reconnect after the end learns that it is over");
}

#[tokio::test]
async fn a_page_after_the_last_event_of_a_running_one_is_empty_and_not_the_end() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    ledger.report(attempt.executor, attempt.started()).await;

    let page = storage::events::page(&mut *ledger.conn().await, attempt.execution, attempt.last, 10).await.unwrap();

    assert!(page.events.is_empty() && !page.terminal && !page.more);
}

#[tokio::test]
async fn tails_bring_only_what_was_missed() {
    let ledger = Ledger::start().await;
    let (mut one, two) = (ledger.held().await, ledger.held().await);
    let events = (0..300).map(|at| one.delta("a", "x", at)).collect();
    ledger.report(one.executor, protocol::report::Report { events, ..one.nothing() }).await;
    let streams = [(one.execution, one.grant.last_sequence), (two.execution, two.grant.last_sequence)];

    let tails = storage::events::tails(&mut *ledger.conn().await, &streams).await.unwrap();

    assert_eq!(tails.len(), 1);
    assert_eq!((tails[0].execution_id, tails[0].events.len()), (one.execution, 200));
    assert_eq!(tails[0].events[0].prev, one.grant.last_sequence);
}

#[tokio::test]
async fn lists_are_newest_first_in_pages_and_filtered() {
    let ledger = Ledger::start().await;
    let other_engine = EngineId::generate();
    let at = now();
    let batch: Vec<Submission> = (0..7_i64)
        .map(|place| {
            let mut submission = ledger.submission();
            // Two share each instant: the id decides.
            submission.submitted_at = at + chrono::Duration::seconds(place / 2);
            if place % 3 == 0 {
                submission.labels.insert("book".into(), "one".into());
                submission.engine_id = other_engine;
            }
            submission
        })
        .collect();
    ledger.take_in(&batch).await.unwrap();
    ledger.stop(batch[5].execution_id, false).await;
    let mut conn = ledger.conn().await;
    let ids = |page: &protocol::read::ExecutionPage| -> Vec<_> {
        page.executions.iter().map(|execution| execution.execution_id).collect()
    };

    let mut query = ListExecutions { limit: 3, ..everything(&ledger) };
    let mut joined = Vec::new();
    loop {
        let page = storage::executions::list(&mut conn, &query).await.unwrap();
        joined.extend(ids(&page));
        query.after = page.executions.last().map(|last| (last.created_at, last.execution_id));
        if !page.more {
            break;
        }
    }
    let labels = [("book".to_owned(), "one".to_owned())].into_iter().collect();
    let labelled =
        storage::executions::list(&mut conn, &ListExecutions { labels, ..everything(&ledger) }).await.unwrap();
    let states = vec![State::Cancelled];
    let stopped =
        storage::executions::list(&mut conn, &ListExecutions { states, ..everything(&ledger) }).await.unwrap();
    let engine_id = Some(other_engine);
    let engine =
        storage::executions::list(&mut conn, &ListExecutions { engine_id, ..everything(&ledger) }).await.unwrap();
    let user_id = Some(UserId::generate());
    let foreign =
        storage::executions::list(&mut conn, &ListExecutions { user_id, ..everything(&ledger) }).await.unwrap();
    let all =
        storage::executions::list(&mut conn, &ListExecutions { user_id: None, ..everything(&ledger) }).await.unwrap();
    let window = ListExecutions {
        created_after: Some(at + chrono::Duration::seconds(1)),
        created_before: Some(at + chrono::Duration::seconds(2)),
        ..everything(&ledger)
    };
    let window = storage::executions::list(&mut conn, &window).await.unwrap();

    let mut expected: Vec<_> = batch.iter().map(|new| (new.submitted_at, new.execution_id)).collect();
    expected.sort_by(|a, b| b.cmp(a));
    assert_eq!(joined, expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
    assert_eq!((ids(&labelled).len(), ids(&engine).len(), ids(&foreign).len(), ids(&all).len()), (3, 3, 0, 7));
    assert_eq!(labelled.executions[0].labels["book"], "one");
    assert_eq!(ids(&stopped), [batch[5].execution_id]);
    assert_eq!(window.executions.len(), 2);
}

#[tokio::test]
async fn counts_are_the_owners() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    ledger.report(attempt.executor, attempt.unit("a", "x")).await;
    ledger.report(attempt.executor, attempt.completed()).await;
    ledger.queued().await;
    let query = |user_id| ReadStats { user_id, user_engine_id: None };
    let mut conn = ledger.conn().await;

    let own = storage::executions::stats(&mut conn, &query(ledger.user)).await.unwrap();
    let foreign = storage::executions::stats(&mut conn, &query(UserId::generate())).await.unwrap();

    assert_eq!((own.by_state["completed"], own.by_state["queued"]), (1, 1));
    assert_eq!((own.input_tokens, own.output_tokens), (3, 5));
    assert!(foreign.by_state.is_empty());
}

#[tokio::test]
async fn the_backlog_is_everything_unfinished() {
    let ledger = Ledger::start().await;
    let (queued, held, done) = (ledger.queued().await, ledger.held().await, ledger.held().await);
    ledger.report(done.executor, done.completed()).await;
    let mut conn = ledger.conn().await;

    let all = storage::backlog::unfinished(&mut conn).await.unwrap();
    let some = storage::backlog::some(&mut conn, &[held.execution, done.execution]).await.unwrap();

    let found: Vec<_> = all.iter().map(|one| (one.execution_id, one.state, one.epoch, one.started)).collect();
    assert_eq!(found, [(queued, State::Queued, 0, false), (held.execution, State::Processing, 1, true)]);
    assert_eq!(all[1].executor_id, Some(held.executor));
    assert!((all[0].tag - 1.5).abs() < f64::EPSILON);
    assert_eq!(some.len(), 1);
}

#[tokio::test]
async fn the_invariant_query_finds_what_is_broken() {
    let ledger = Ledger::start().await;
    let done = ledger.held().await;
    ledger.report(done.executor, done.completed()).await;
    let (queued, held) = (ledger.queued().await, ledger.held().await);
    let psql = ledger.psql().await;
    let id = |execution: domain::ExecutionId| execution.uuid().to_string();
    psql.batch_execute(&format!(
        "DELETE FROM events WHERE execution_id = '{}' AND last_sequence > 4294967296; \
         UPDATE executions SET state = 2 WHERE id = '{}'; \
         INSERT INTO units (execution_id, node, unit, epoch, complete, output) VALUES ('{}', 'n', 0, 9, true, '1')",
        id(done.execution),
        id(queued),
        id(held.execution),
    ))
    .await
    .unwrap();

    let violations = storage::invariants::violations(&mut *ledger.conn().await).await.unwrap();

    let mut found: Vec<_> = violations.iter().map(|broken| (broken.rule.as_str(), broken.execution_id)).collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("events_beyond_the_row", Some(done.execution)),
            ("held_without_lease", Some(held.execution)),
            ("terminal_without_one_terminal_event", Some(done.execution)),
            ("unit_above_epoch", Some(held.execution)),
            ("waiting_without_wake_up", Some(queued)),
        ]
    );
}

#[tokio::test]
async fn partitions_are_made_ahead_by_days_of_ids() {
    let ledger = Ledger::start().await;
    let mut conn = ledger.conn().await;

    storage::upkeep::ensure_partitions(&mut conn, now(), 3).await.unwrap();
    storage::upkeep::ensure_partitions(&mut conn, now(), 3).await.unwrap();
    let execution = ledger.queued().await;

    let psql = ledger.psql().await;
    let sql = "SELECT tableoid::regclass::text FROM events WHERE execution_id = $1::text::uuid";
    let table: String = psql.query_one(sql, &[&execution.uuid().to_string()]).await.unwrap().get(0);
    assert_eq!(table, now().format("events_%Y%m%d").to_string());
    let count =
        psql.query_one("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 4);
}

#[tokio::test]
async fn a_day_whose_rows_came_too_early_does_not_keep_the_next_days_from_being_made() {
    let ledger = Ledger::start().await;
    let execution = ledger.queued().await;
    let mut conn = ledger.conn().await;

    let result = storage::upkeep::ensure_partitions(&mut conn, now(), 3).await;

    assert!(result.is_err());
    let sql = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass";
    assert_eq!(ledger.psql().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 3);
    ledger.audit(execution).await;
}

#[tokio::test]
async fn a_page_and_a_tail_are_bounded_by_their_bytes_too() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    let text = "x".repeat(1 << 20);
    for offset in 0..8 {
        let event = attempt.delta("chapters", &text, offset << 20);
        ledger.report(attempt.executor, Report { events: vec![event], ..attempt.nothing() }).await;
    }
    let mut conn = ledger.conn().await;

    let (mut seen, mut after) = (0, Sequence::START);
    loop {
        let page = storage::events::page(&mut conn, attempt.execution, after, 1_000).await.unwrap();
        assert!(page.events.len() <= 6, "{}", page.events.len());
        seen += page.events.len();
        after = page.events.last().map_or(after, |last| last.sequence);
        if !page.more {
            break;
        }
    }
    let tails = storage::events::tails(&mut conn, &[(attempt.execution, Sequence::START)]).await.unwrap();

    assert_eq!(seen, 9);
    assert!((1..=6).contains(&tails[0].events.len()), "{}", tails[0].events.len());
}
