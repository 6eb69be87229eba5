//! Reports: taken from the holder alone, once, in order.

use domain::{EventBody, ExecutionId, ExecutorId, Sequence, State};
use protocol::report::{DeliverableRow, Finish, Report, Standing};

use diesel_async::SimpleAsyncConnection as _;
use storage::reports::{Filed, report_batch};

use crate::{
    attempt::{call, unit},
    ledger::{Ledger, now, raw},
};

#[tokio::test]
async fn a_repeated_report_changes_nothing() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    let report = attempt.unit("outline", "text");

    let first = ledger.report(attempt.executor, report.clone()).await;
    let again = ledger.report(attempt.executor, report).await;

    assert_eq!((first.verdict.standing, again.verdict.standing), (Standing::Held, Standing::Held));
    assert_eq!((first.appended.len(), again.appended.len()), (1, 0));
    assert_eq!((first.new_units, again.new_units), (1, 0));
    assert_eq!(first.verdict.stored_through, again.verdict.stored_through);
    let view = ledger.view(attempt.execution).await;
    assert_eq!((view.input_tokens, view.output_tokens), (3, 5));
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn a_call_named_twice_in_one_request_is_counted_once() {
    let ledger = Ledger::start().await;
    let attempt = ledger.held().await;
    let row = call("outline", 10, 20);
    let report = Report { usage: vec![row.clone(), row], ..attempt.nothing() };

    ledger.report(attempt.executor, report).await;

    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn what_is_stored_is_trimmed_and_a_gap_is_refused_whole() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    let events: Vec<_> = (0..4).map(|at| attempt.delta("outline", "x", at)).collect();
    let send = async |events: &[domain::EventRecord], units| {
        let report = Report { events: events.to_vec(), units, ..attempt.nothing() };
        ledger.report(attempt.executor, report).await
    };

    let first = send(&events[..2], vec![]).await;
    let gap = send(&events[3..], vec![unit("outline", "xxxx", true)]).await;
    let overlap = send(&events, vec![]).await;

    assert_eq!(first.verdict.stored_through, events[1].sequence);
    assert_eq!((gap.verdict.standing, gap.verdict.stored_through), (Standing::Gap, events[1].sequence));
    assert_eq!(overlap.appended.len(), 2);
    assert_eq!(storage::units::outputs(&mut *ledger.conn().await, attempt.execution).await.unwrap().len(), 0);
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn an_executor_can_write_neither_a_terminal_event_nor_one_of_another_epoch_nor_skip_a_number() {
    let ledger = Ledger::start().await;
    let attempt = ledger.held().await;
    let mut terminal = attempt.clone();
    let mut foreign = attempt.clone();
    foreign.epoch = 7;
    let mut skipping = attempt.clone();
    let mut skipped = skipping.event(EventBody::Started);
    skipped.sequence = Sequence(skipped.sequence.0 + 1);

    for event in [terminal.event(EventBody::Completed), foreign.event(EventBody::Started), skipped] {
        let report = Report { events: vec![event], ..attempt.nothing() };
        assert_eq!(ledger.report(attempt.executor, report).await.verdict.standing, Standing::Gap);
    }
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn a_stale_attempt_changes_nothing_but_its_usage_counts_once() {
    let ledger = Ledger::start().await;
    let mut stale = ledger.held().await;
    ledger.report(stale.executor, stale.started()).await;
    storage::fence::take_back(&mut *ledger.conn().await, ledger.term, &[stale.loss()], now()).await.unwrap();
    let mut living = ledger.attempt(stale.execution).await;
    ledger.report(living.executor, living.started()).await;
    let mut report = stale.unit("outline", "from the dead");
    report.finish = Some(Finish::Completed { result: raw("1"), deliverables: vec![] });

    let first = ledger.report(stale.executor, report.clone()).await;
    let again = ledger.report(stale.executor, report).await;

    assert_eq!((first.verdict.standing, again.verdict.standing), (Standing::Lost, Standing::Lost));
    let view = ledger.view(stale.execution).await;
    assert_eq!((view.state, view.attempt), (State::Processing, living.epoch));
    assert_eq!((view.input_tokens, view.output_tokens), (3, 5));
    assert!(storage::units::outputs(&mut *ledger.conn().await, stale.execution).await.unwrap().is_empty());
    ledger.audit(stale.execution).await;
}

#[tokio::test]
async fn an_earlier_attempt_of_the_very_executor_that_holds_it_again_is_stale() {
    let ledger = Ledger::start().await;
    let mut stale = ledger.held().await;
    storage::fence::take_back(&mut *ledger.conn().await, ledger.term, &[stale.loss()], now()).await.unwrap();
    let grant = ledger.claim(stale.executor, stale.execution).await.unwrap();

    let finish = ledger.report(stale.executor, stale.completed()).await;
    let unit = ledger.report(stale.executor, stale.unit("a", "text")).await;

    assert_eq!((finish.verdict.standing, unit.verdict.standing), (Standing::Lost, Standing::Lost));
    assert_eq!(ledger.view(stale.execution).await.attempt, grant.epoch);
    assert_eq!(ledger.state(stale.execution).await, State::Processing);
    ledger.audit(stale.execution).await;
}

#[tokio::test]
async fn another_executor_with_the_right_number_is_not_the_holder() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;

    let reported = ledger.report(ExecutorId::generate(), attempt.started()).await;

    assert_eq!(reported.verdict.standing, Standing::Lost);
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn a_complete_unit_replaces_a_partial_one_and_is_never_replaced() {
    let ledger = Ledger::start().await;
    let attempt = ledger.held().await;
    let outputs = async |units| {
        let report = Report { units, ..attempt.nothing() };
        ledger.report(attempt.executor, report).await;
        let units = storage::units::outputs(&mut *ledger.conn().await, attempt.execution).await.unwrap();
        units.into_iter().map(|unit| unit.output.get().to_owned()).collect::<Vec<_>>()
    };

    assert!(outputs(vec![unit("a", "half", false)]).await.is_empty());
    assert!(outputs(vec![unit("a", "more", false)]).await.is_empty());
    assert_eq!(outputs(vec![unit("a", "whole", true)]).await, [r#""whole""#]);
    assert_eq!(outputs(vec![unit("a", "half", false)]).await, [r#""whole""#]);
    assert_eq!(outputs(vec![unit("a", "other", true)]).await, [r#""whole""#]);
    assert_eq!(outputs(vec![unit("b", "half", false), unit("b", "whole", true)]).await.len(), 2);
}

#[tokio::test]
async fn a_finish_is_one_terminal_event_and_its_repetition_is_over() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    let file = DeliverableRow {
        format: "md".into(),
        name: "book.md".into(),
        media_type: "text/markdown".into(),
        bytes: 12,
        object_key: Some("k".into()),
        error: None,
    };
    let mut report = attempt.unit("outline", "text");
    report.finish = Some(Finish::Completed { result: raw(r#"{"a": [1, 2]}"#), deliverables: vec![file.clone()] });

    let first = ledger.report(attempt.executor, report.clone()).await;
    let again = ledger.report(attempt.executor, report).await;

    assert_eq!((first.verdict.standing, again.verdict.standing), (Standing::Over, Standing::Over));
    assert_eq!(first.ended.unwrap().state, State::Completed);
    assert_eq!(first.appended.last().unwrap().name, "execution.completed");
    assert!(again.ended.is_none() && again.appended.is_empty());
    let view = ledger.view(attempt.execution).await;
    assert_eq!(view.result.unwrap().get(), r#"{"a": [1, 2]}"#);
    assert_eq!(view.deliverables, [file]);
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn a_failure_is_stored_even_with_a_nul_and_keeps_what_was_done() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    ledger.report(attempt.executor, attempt.unit("outline", "text")).await;

    ledger.report(attempt.executor, attempt.failed()).await;

    let view = ledger.view(attempt.execution).await;
    assert_eq!(view.failure.unwrap().detail, "it said\u{fffd}no");
    assert_eq!(view.completed_units, 1);
    assert!(view.result.unwrap().get().starts_with(r#"{"partial":{"outline":"#));
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn given_back_is_queued_again_and_no_loss() {
    let ledger = Ledger::start().await;
    let attempt = ledger.held().await;

    let reported = ledger.report(attempt.executor, attempt.given_back()).await;

    let ended = reported.ended.unwrap();
    assert_eq!((reported.verdict.standing, ended.state, ended.eligible_at), (Standing::Over, State::Queued, None));
    assert_eq!(ledger.names(attempt.execution).await, ["execution.queued", "execution.queued"]);
    let late = ledger.report(attempt.executor, attempt.completed()).await;
    assert_eq!(late.verdict.standing, Standing::Lost);
    ledger.audit(attempt.execution).await;
}

#[tokio::test]
async fn a_cancelled_finish_without_a_stop_gives_it_back() {
    let ledger = Ledger::start().await;
    let attempt = ledger.held().await;

    let reported = ledger.report(attempt.executor, attempt.cancelled()).await;

    assert_eq!(reported.ended.unwrap().state, State::Queued);
    assert!(ledger.view(attempt.execution).await.stop.is_none());
    let stopped = ledger.stop(attempt.execution, false).await;
    assert_eq!(stopped.state, State::Cancelled);
    let receipt = ledger.view(attempt.execution).await.stop.unwrap();
    assert_eq!((receipt.closed_by.as_deref(), receipt.executor_ack_at), (Some("status"), None));
}

#[tokio::test]
async fn one_request_carries_reports_of_many_and_each_has_its_own_verdict() {
    let ledger = Ledger::start().await;
    let executor = ExecutorId::generate();
    let mut attempts = Vec::new();
    for _ in 0..50 {
        let execution = ledger.queued().await;
        attempts.push(crate::attempt::Attempt::of(executor, ledger.claim(executor, execution).await.unwrap()));
    }
    ledger.stop(attempts[7].execution, false).await;
    ledger.stop(attempts[8].execution, true).await;
    let mut reports: Vec<Report> = attempts.iter_mut().map(|attempt| attempt.unit("a", "text")).collect();
    reports.push(Report { execution_id: ExecutionId::generate(), ..reports[0].clone() });
    reports.reverse();

    let mut answers = ledger.reports(executor, &reports).await;

    answers.reverse();
    let standings: Vec<Standing> = answers.iter().map(|answer| answer.verdict.standing).collect();
    assert_eq!(standings[7..9], [Standing::Cancelling, Standing::Lost]);
    assert_eq!(standings[50], Standing::Lost);
    assert_eq!(standings.iter().filter(|standing| **standing == Standing::Held).count(), 48);
    for attempt in &attempts {
        ledger.audit(attempt.execution).await;
    }
}

#[tokio::test]
async fn progress_is_shown_as_reported() {
    let ledger = Ledger::start().await;
    let attempt = ledger.held().await;
    let progress = protocol::report::Progress {
        nodes_done: 1,
        nodes_total: 4,
        units_done: 2,
        units_total: 9,
        words: 1_234,
        current_node: Some("chapters".into()),
    };

    ledger.report(attempt.executor, Report { progress: Some(progress.clone()), ..attempt.nothing() }).await;

    assert_eq!(ledger.view(attempt.execution).await.progress, progress);
}

#[tokio::test]
async fn one_transaction_takes_the_reports_of_several_executors() {
    let ledger = Ledger::start().await;
    let (mut one, mut two) = (ledger.held().await, ledger.held().await);
    let stranger = ExecutorId::generate();
    let reports =
        [(one.executor, one.unit("a", "x")), (two.executor, two.unit("a", "y")), (stranger, two.unit("b", "z"))];
    let filed: Vec<Filed<'_>> =
        reports.iter().map(|(executor, report)| Filed { executor: *executor, report }).collect();

    let answers = report_batch(&mut *ledger.conn().await, ledger.term, &filed, now()).await.unwrap();

    let standings: Vec<Standing> = answers.iter().map(|answer| answer.verdict.standing).collect();
    assert_eq!(standings, [Standing::Held, Standing::Held, Standing::Lost]);
    assert_eq!(answers.iter().map(|answer| answer.new_units).collect::<Vec<_>>(), [1, 1, 0]);
    ledger.audit(one.execution).await;
    ledger.audit(two.execution).await;
}

#[tokio::test]
async fn a_new_database_is_never_scanned_on_the_way_of_an_execution() {
    let ledger = Ledger::start().await;
    let mut attempt = ledger.held().await;
    ledger.report(attempt.executor, attempt.unit("outline", "text")).await;
    let finish = Finish::Completed { result: raw("{}"), deliverables: Vec::new() };
    ledger.report(attempt.executor, Report { finish: Some(finish), ..attempt.nothing() }).await;
    drop(ledger.view(attempt.execution).await);
    // Each connection of the pool keeps its counts to itself for a while.
    let mut conns = Vec::new();
    for _ in 0..8 {
        conns.push(ledger.conn().await);
    }
    for conn in &mut conns {
        conn.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    }

    let rows = ledger
        .psql()
        .await
        .query(
            "SELECT relname FROM pg_stat_user_tables WHERE seq_scan > 0 AND relname IN \
             ('executions', 'execution_details', 'units', 'usage_calls', 'events', 'events_default', 'deliverables')",
            &[],
        )
        .await
        .unwrap();

    assert!(rows.is_empty(), "{rows:?}");
}
