//! Two writes on one execution, at every statement boundary, in all orders: no acknowledged unit is handed out again, and there
//! is one terminal event at most (G2, G3, G4).

use std::time::Duration;

use diesel_async::AsyncPgConnection;
use domain::{ClaimId, ExecutorId, State, UnitKey};
use protocol::{
    claim::{Claim, Grant},
    report::Standing,
};
use storage::{StorageError, reports::Reported};
use tokio::task::JoinHandle;

use crate::{
    attempt::Attempt,
    gate::{Gate, PATIENCE, soon},
    ledger::{Ledger, now},
};

/// What one side does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Claim,
    Unit,
    Complete,
    Fail,
    GiveBack,
    TakeBack,
    /// The leader takes it back from one executor and grants it to another.
    Handover,
    Stop,
    ForceStop,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    Claimed(Option<Box<Grant>>),
    Reported(Box<Reported>),
    Fenced(usize),
    Stopped(State),
}

impl Operation {
    /// Starts it on `conn`, which comes back with the outcome.
    pub(crate) fn start(
        self,
        mut conn: AsyncPgConnection,
        ledger: &Ledger,
        attempt: &Attempt,
    ) -> JoinHandle<(Result<Outcome, StorageError>, AsyncPgConnection)> {
        let (term, subject, attempt) = (ledger.term, ledger.subject(attempt.execution), attempt.clone());
        tokio::spawn(async move {
            let outcome = self.run(&mut conn, term, &subject, attempt).await;
            (outcome, conn)
        })
    }

    async fn run(
        self,
        conn: &mut AsyncPgConnection,
        term: i64,
        subject: &protocol::read::Subject,
        attempt: Attempt,
    ) -> Result<Outcome, StorageError> {
        let report = match self {
            Self::Claim | Self::Handover => {
                if self == Self::Handover {
                    storage::fence::take_back(conn, term, &[attempt.loss()], now()).await?;
                }
                let claim = Claim { execution_id: attempt.execution, claim_id: ClaimId::generate() };
                let grants = storage::claims::claim(conn, term, ExecutorId::generate(), &[claim], now()).await?;
                return Ok(Outcome::Claimed(grants.into_iter().next().flatten().map(Box::new)));
            }
            Self::TakeBack => {
                let taken = storage::fence::take_back(conn, term, &[attempt.loss()], now()).await?;
                return Ok(Outcome::Fenced(taken.len()));
            }
            Self::Stop | Self::ForceStop => {
                let outcome = storage::stops::stop(conn, term, subject, self == Self::ForceStop, now()).await?;
                return Ok(Outcome::Stopped(outcome.unwrap().state));
            }
            Self::Unit => attempt.as_granted().unit("outline", "text"),
            Self::Complete => attempt.as_granted().completed(),
            Self::Fail => attempt.failed(),
            Self::GiveBack => attempt.given_back(),
        };
        let mut reported = storage::reports::report(conn, term, attempt.executor, &[report], now()).await?;
        Ok(Outcome::Reported(Box::new(reported.remove(0))))
    }
}

/// One side of a race.
struct Side {
    gate: Gate,
    conn: Option<AsyncPgConnection>,
}

impl Side {
    /// A connection that knows every statement already, so that a race has no steps for preparing them.
    async fn warm(ledger: &Ledger, operation: Operation) -> Self {
        let (gate, mut conn) = Gate::connect(&ledger.url).await;
        let attempt = ledger.held().await;
        let work = operation.start(conn, ledger, &attempt);
        let (outcome, back) = gate.let_through(work).await.unwrap();
        outcome.unwrap();
        conn = back;
        Self { gate, conn: Some(conn) }
    }
}

/// Who may go on at a point of a race, and who went.
struct Point {
    enabled: usize,
    chosen: usize,
}

/// Runs one order of one race: the choices of `prefix`, then always the first who can.
async fn race(
    ledger: &Ledger,
    sides: &mut [Side; 2],
    operations: [Operation; 2],
    attempt: &Attempt,
    prefix: &[usize],
) -> (Vec<Point>, [Outcome; 2]) {
    let psql = ledger.psql().await;
    let mut works = Vec::new();
    for (side, operation) in sides.iter_mut().zip(operations) {
        works.push(operation.start(side.conn.take().unwrap(), ledger, attempt));
        begin(&side.gate).await;
    }
    let mut points = Vec::new();
    let mut moved = 0;
    loop {
        // Who moved comes first: it may have made room for the other.
        let mut ready = [false; 2];
        for at in [moved, 1 - moved] {
            ready[at] = settled(psql, &sides[at].gate, &works[at]).await;
        }
        let ready: Vec<usize> = (0..2).filter(|at| ready[*at]).collect();
        if ready.is_empty() {
            break;
        }
        let chosen = prefix.get(points.len()).copied().unwrap_or(0);
        points.push(Point { enabled: ready.len(), chosen });
        moved = ready[chosen];
        sides[moved].gate.step().await;
    }
    let mut outcomes = Vec::new();
    for (side, work) in sides.iter_mut().zip(works) {
        let (outcome, conn) = tokio::time::timeout(PATIENCE, work).await.unwrap().unwrap();
        side.conn = Some(conn);
        outcomes.push(outcome.unwrap());
    }
    (points, outcomes.try_into().unwrap())
}

/// BEGIN with the shared term lock, and the look at the term, touch nothing that the other side writes: their order does not
/// matter, and leaving it out keeps the number of orders small.
async fn begin(gate: &Gate) {
    for _ in 0..2 {
        soon("the beginning", async || gate.has_arrived()).await;
        gate.step().await;
        soon("its answer", async || gate.is_idle()).await;
    }
}

/// Waits until a side stands at its gate (true), or is done or waits for a lock of the other (false).
async fn settled<T>(psql: &tokio_postgres::Client, gate: &Gate, work: &JoinHandle<T>) -> bool {
    let deciding = async {
        loop {
            if work.is_finished() {
                return false;
            }
            if gate.prepares() {
                gate.step().await;
            } else if gate.is_idle() {
                if gate.begins() {
                    begin(gate).await;
                } else if gate.has_arrived() {
                    return true;
                }
            } else {
                let sql = "SELECT cardinality(pg_blocking_pids($1)) > 0";
                if psql.query_one(sql, &[&gate.pid]).await.unwrap().get(0) {
                    return false;
                }
            }
            // Sleeps: between two looks.
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, deciding).await.expect("a side comes to its next statement, to a lock or to its end")
}

/// The next order to try, after all that share its beginning were tried.
fn next_prefix(mut points: Vec<Point>) -> Option<Vec<usize>> {
    while let Some(last) = points.pop() {
        if last.chosen + 1 < last.enabled {
            let mut prefix: Vec<usize> = points.iter().map(|point| point.chosen).collect();
            prefix.push(last.chosen + 1);
            return Some(prefix);
        }
    }
    None
}

/// What must be true after any order of any two operations.
pub(crate) async fn judge(ledger: &Ledger, attempt: &Attempt, outcomes: &[Outcome]) {
    ledger.audit(attempt.execution).await;
    let units = storage::units::outputs(&mut *ledger.conn().await, attempt.execution).await.unwrap();
    let stored = units.iter().any(|unit| unit.key == UnitKey::node("outline"));
    let state = ledger.state(attempt.execution).await;
    let mut granted = 0;
    for outcome in outcomes {
        match outcome {
            Outcome::Claimed(grant) => {
                granted += usize::from(grant.is_some());
                // Only one that does not hold it can be granted it: whatever is stored was acknowledged before.
                if let Some(grant) = grant {
                    assert_eq!(grant.finished.contains(&UnitKey::node("outline")), stored, "what is done is known");
                }
            }
            Outcome::Reported(reported) if reported.ended.is_some() => {
                assert!(!state.is_terminal() || reported.ended.unwrap().state == state || !ended_last(reported));
            }
            Outcome::Reported(reported) => {
                let taken = matches!(reported.verdict.standing, Standing::Held | Standing::Cancelling);
                if reported.new_units > 0 {
                    assert!(taken && stored, "what is acknowledged is stored");
                }
                assert!(
                    !stored || taken || reported.verdict.standing == Standing::Over,
                    "what is refused is not stored"
                );
            }
            Outcome::Stopped(stopped) => assert!(!stopped.is_terminal() || *stopped == state),
            Outcome::Fenced(count) => assert!(*count <= 1),
        }
    }
    assert!(granted <= 1, "one holder at a time");
    // Whoever gets it next knows what is done.
    if state == State::Queued {
        let next = ledger.attempt(attempt.execution).await;
        assert_eq!(next.grant.finished.contains(&UnitKey::node("outline")), stored);
    }
}

fn ended_last(reported: &Reported) -> bool {
    reported.ended.is_some_and(|ended| ended.state.is_terminal())
}

/// Tries every order of the two operations; each on a fresh execution that `prepare` makes.
async fn explore(ledger: &Ledger, operations: [Operation; 2], held: bool) -> usize {
    let [one, two] = operations;
    let mut sides = [Side::warm(ledger, one).await, Side::warm(ledger, two).await];
    let (mut prefix, mut orders) = (Vec::new(), 0);
    loop {
        let mut attempt = ledger.held().await;
        if !held {
            let mut report = attempt.unit("earlier", "text");
            report.finish = attempt.given_back().finish;
            ledger.report(attempt.executor, report).await;
            // Its taking back is that of the present epoch; its reports are those of the attempt that is over.
            attempt.epoch = 2;
        }
        let (points, outcomes) = race(ledger, &mut sides, operations, &attempt, &prefix).await;
        judge(ledger, &attempt, &outcomes).await;
        orders += 1;
        match next_prefix(points) {
            Some(next) => prefix = next,
            None => return orders,
        }
    }
}

/// Every pair of `operations` in all orders.
async fn explore_pairs(operations: &[Operation], held: bool) {
    let ledger = Ledger::start().await;
    for (at, one) in operations.iter().enumerate() {
        for two in &operations[at..] {
            let orders = explore(&ledger, [*one, *two], held).await;
            assert!(orders > 2, "{one:?} and {two:?} were run in {orders} orders only");
        }
    }
}

#[tokio::test]
async fn any_two_writes_on_a_held_execution_agree_in_every_order_of_their_statements() {
    use Operation as O;
    explore_pairs(&[O::Unit, O::Complete, O::TakeBack, O::Stop, O::Claim], true).await;
}

#[tokio::test]
async fn the_rarer_ends_of_a_held_execution_agree_too() {
    use Operation as O;
    explore_pairs(&[O::Unit, O::Fail, O::GiveBack, O::ForceStop], true).await;
}

#[tokio::test]
async fn any_two_writes_on_a_queued_execution_agree_in_every_order_of_their_statements() {
    use Operation as O;
    explore_pairs(&[O::Claim, O::Stop, O::TakeBack, O::Unit, O::Complete], false).await;
}

#[tokio::test]
async fn an_acknowledged_unit_is_known_to_the_next_holder_in_every_order_of_its_report_and_the_handover() {
    let ledger = Ledger::start().await;
    for report in [Operation::Unit, Operation::Complete] {
        let orders = explore(&ledger, [Operation::Handover, report], true).await;
        assert!(orders > 2, "a handover and {report:?} were run in {orders} orders only");
    }
}
