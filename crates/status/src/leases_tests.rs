//! What the leader remembers of leases.

use super::*;

struct Bench {
    leases: Leases,
    executor: ExecutorId,
    id: ExecutionId,
}

impl Bench {
    fn new() -> Self {
        Self { leases: Leases::new(), executor: ExecutorId::generate(), id: ExecutionId::generate() }
    }

    fn renewal(&self, executor: ExecutorId, slots: u32, draining: bool) -> Renewal {
        Renewal {
            executor_id: executor,
            name: String::new(),
            version: String::new(),
            slots,
            draining,
            held: vec![],
            goodbye: false,
        }
    }
}

#[test]
fn the_end_of_an_attempt_leaves_the_next_one_alone() {
    let bench = Bench::new();
    let next = ExecutorId::generate();
    bench.leases.hold(bench.id, 1, bench.executor, None, false);
    bench.leases.hold(bench.id, 3, next, None, false);

    assert_eq!(bench.leases.release(bench.id, 1), Freed::Newer);
    // Nor does a late word about the earlier one.
    bench.leases.hold(bench.id, 1, bench.executor, None, false);

    assert_eq!(bench.leases.holder(bench.id), Some((3, next)));
    assert_eq!(bench.leases.release(bench.id, 3), Freed::Free);
    assert_eq!(bench.leases.holder(bench.id), None);
    assert!(bench.leases.holders().is_empty());
}

#[test]
fn one_attempt_is_taken_back_by_one_task_at_a_time() {
    let bench = Bench::new();
    let losses = [Loss { execution_id: bench.id, epoch: 1 }];

    assert_eq!(bench.leases.leave(&losses).len(), 1);
    assert!(bench.leases.leave(&losses).is_empty());
    assert_eq!(bench.leases.leave(&[Loss { execution_id: bench.id, epoch: 3 }]).len(), 1);
    bench.leases.left(&losses);

    assert_eq!(bench.leases.leave(&losses).len(), 1);
}

#[test]
fn a_renewal_that_waited_for_the_database_does_not_lose_what_was_granted_meanwhile() {
    let bench = Bench::new();
    bench.leases.hold(bench.id, 1, bench.executor, None, false);
    let renewal = bench.renewal(bench.executor, 4, false);
    let after = |wait: Duration| bench.leases.renewed(&renewal, Instant::now() + wait).1;

    let before_the_grant = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
    assert!(bench.leases.renewed(&renewal, before_the_grant).1.is_empty());

    assert!(after(Duration::from_millis(1_500)).is_empty());
    assert_eq!(after(Duration::from_secs(3)).len(), 1, "what is not listed for two seconds is given back");
}

#[test]
fn a_claim_that_is_answered_again_still_has_to_stop() {
    let bench = Bench::new();
    let claim = ClaimId::generate();
    bench.leases.hold(bench.id, 1, bench.executor, Some(claim), false);
    assert!(bench.leases.cancelling(bench.id));

    bench.leases.hold(bench.id, 1, bench.executor, Some(claim), false);

    let mut renewal = bench.renewal(bench.executor, 4, false);
    renewal.held = vec![Held { execution_id: bench.id, epoch: 1 }];
    let (answer, _) = bench.leases.renewed(&renewal, Instant::now());
    assert_eq!(answer.cancelling, [bench.id]);
    assert!(bench.leases.is_granted(bench.id, bench.executor, claim));
}

#[test]
fn what_a_draining_executor_still_runs_takes_no_slot_of_the_others() {
    let bench = Bench::new();
    let (draining, working) = (ExecutorId::generate(), ExecutorId::generate());
    for executor in [draining, working] {
        bench.leases.renewed(&bench.renewal(executor, 4, false), Instant::now());
    }
    for _ in 0..4 {
        bench.leases.hold(ExecutionId::generate(), 1, draining, None, false);
    }
    bench.leases.hold(bench.id, 1, working, None, false);
    bench.leases.renewed(&bench.renewal(draining, 4, true), Instant::now());

    let capacity = bench.leases.capacity();

    assert_eq!(capacity, Capacity { slots: 4, elsewhere: 4 });
    let mut schedule = crate::scheduler::Schedule::default();
    for _ in 0..5 {
        schedule.run(crate::scheduler::Job {
            id: ExecutionId::generate(),
            user: domain::UserId::generate(),
            engine: domain::EngineId::generate(),
            tag: 0.0,
            share: 1.0,
            limit: None,
            started: true,
        });
    }
    schedule.set_slots(capacity.slots, capacity.elsewhere);
    assert_eq!((schedule.free(), schedule.room()), (3, 4));
}
