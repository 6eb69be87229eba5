//! The queue's promises.

use proptest::prelude::*;

use super::*;

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_790_000_000_000 + ms).unwrap()
}

struct Bench {
    schedule: Schedule,
    engine: EngineId,
    next: u128,
}

impl Bench {
    fn new(slots: u32) -> Self {
        let mut schedule = Schedule::default();
        schedule.set_slots(slots, 0);
        Self { schedule, engine: EngineId::generate(), next: 1 }
    }

    fn submit(&mut self, user: UserId, share: f64, limit: Option<u32>) -> ExecutionId {
        let id = ExecutionId::from_uuid(uuid::Uuid::from_u128(self.next));
        self.next += 1;
        let tag = self.schedule.tag(&mut Drafts::default(), user, self.engine, share);
        self.schedule.queue(Job { id, user, engine: self.engine, tag, share, limit, started: false }, None);
        id
    }

    fn position(&self, id: ExecutionId) -> Option<u64> {
        self.schedule.block(id, at(0)).unwrap().position
    }

    fn run_one(&mut self) -> Option<ExecutionId> {
        let id = self.schedule.release(1, at(0)).pop()?;
        self.schedule.claimed(id);
        self.schedule.ended(id, Some(10_000));
        Some(id)
    }
}

#[test]
fn nobodys_hundredth_job_precedes_anothers_first() {
    let mut bench = Bench::new(1);
    let (busy, late) = (UserId::generate(), UserId::generate());
    let jobs: Vec<_> = (0..100).map(|_| bench.submit(busy, 1.0, None)).collect();
    bench.run_one();

    let first = bench.submit(late, 1.0, None);

    assert_eq!(bench.position(first), Some(1));
    assert_eq!(bench.position(jobs[99]), Some(100));
}

#[test]
fn after_a_restart_a_newcomer_is_not_before_everybody_who_waits() {
    for running in [0, 1] {
        let mut before = Bench::new(1);
        let busy = [UserId::generate(), UserId::generate()];
        let jobs: Vec<_> = (0..40).map(|at| before.submit(busy[at % 2], 1.0, None)).collect();
        for _ in 0..20 {
            before.run_one();
        }
        let mut after = Bench::new(1);
        for (at, id) in jobs[20..].iter().enumerate() {
            let job = before.schedule.entries[id].job;
            if at < running { after.schedule.run(job) } else { after.schedule.queue(job, None) }
        }
        after.schedule.restored();
        after.next = before.next;

        let newcomer = UserId::generate();
        let news: Vec<_> = (0..5).map(|_| after.submit(newcomer, 1.0, None)).collect();

        assert!(after.position(news[0]) <= Some(3), "{:?}", after.position(news[0]));
        assert!(after.position(news[4]) >= Some(12), "{:?}", after.position(news[4]));
    }
}

#[test]
fn low_priority_gets_its_turn_beside_an_endless_stream_of_urgent_work() {
    let mut bench = Bench::new(1);
    let (low, urgent) = (UserId::generate(), UserId::generate());
    bench.submit(urgent, 16.0, None);
    bench.run_one();
    let patient = [bench.submit(low, 0.25, None), bench.submit(low, 0.25, None)];
    let mut ran = Vec::new();
    for _ in 0..200 {
        bench.submit(urgent, 16.0, None);
        ran.extend(bench.run_one());
    }

    assert!(patient.iter().all(|id| ran.contains(id)));
}

#[test]
fn what_waits_behind_a_limit_has_no_position_but_a_reason() {
    let mut bench = Bench::new(8);
    let user = UserId::generate();
    let jobs: Vec<_> = (0..3).map(|_| bench.submit(user, 1.0, Some(1))).collect();

    for (ahead, id) in jobs.iter().enumerate().skip(1) {
        let waiting = bench.schedule.block(*id, at(0)).unwrap();
        assert_eq!((waiting.position, waiting.ahead), (None, ahead as u64));
        assert_eq!(waiting.waiting_reason, "user_limit");
    }

    assert_eq!(bench.schedule.release(8, at(0)), [jobs[0]]);
    bench.schedule.claimed(jobs[0]);
    assert!(bench.schedule.release(8, at(0)).is_empty());
    bench.schedule.ended(jobs[0], Some(5));
    assert_eq!(bench.position(jobs[1]), Some(1));
}

#[test]
fn an_unclaimed_release_is_published_again_after_two_seconds() {
    let mut bench = Bench::new(8);
    let id = bench.submit(UserId::generate(), 1.0, None);
    bench.schedule.release(1, at(0));

    assert!(bench.schedule.overdue(8, at(1_999)).is_empty());
    assert_eq!(bench.schedule.overdue(8, at(2_000)), [id]);
    assert!(bench.schedule.overdue(8, at(3_999)).is_empty());
    bench.schedule.claimed(id);
    assert!(bench.schedule.overdue(8, at(10_000)).is_empty());
}

#[test]
fn no_more_is_published_again_than_there_are_free_slots() {
    let mut bench = Bench::new(8);
    let jobs: Vec<_> = (0..8).map(|_| bench.submit(UserId::generate(), 1.0, None)).collect();
    let released = bench.schedule.release(8, at(0));
    assert_eq!(released.len(), jobs.len());
    for id in &released[..5] {
        bench.schedule.claimed(*id);
    }

    assert_eq!(bench.schedule.overdue(2, at(2_000)), released[5..7]);
    // The others are next, and none twice.
    assert_eq!(bench.schedule.overdue(2, at(2_000)), released[7..]);
}

#[test]
fn a_batch_that_is_not_taken_in_costs_its_owner_nothing() {
    let mut bench = Bench::new(8);
    let user = UserId::generate();
    let first = bench.submit(user, 1.0, None);
    let mut drafts = Drafts::default();
    let tags: Vec<f64> = (0..3).map(|_| bench.schedule.tag(&mut drafts, user, bench.engine, 1.0)).collect();
    assert!(tags.is_sorted() && tags[0] < tags[2]);

    let again = bench.schedule.tag(&mut Drafts::default(), user, bench.engine, 1.0);

    assert_eq!(again, tags[0]);
    assert_eq!(bench.position(first), Some(1));
}

#[test]
fn a_hold_of_the_ledger_counts_wherever_the_queue_had_it() {
    let mut bench = Bench::new(8);
    let id = bench.submit(UserId::generate(), 1.0, None);

    assert!(bench.schedule.claimed(id));
    assert!(!bench.schedule.claimed(ExecutionId::generate()));

    assert_eq!(
        (bench.schedule.queued(), bench.schedule.running(), bench.schedule.place(id)),
        (0, 1, Some(Place::Running))
    );
    bench.schedule.ended(id, Some(5));
    bench.schedule.ended(id, Some(5));
    assert_eq!((bench.schedule.queued(), bench.schedule.running(), bench.schedule.free()), (0, 0, 8));
}

#[test]
fn slices_show_everything_that_stays_while_others_go() {
    let mut bench = Bench::new(8);
    let jobs: Vec<_> = (0..100).map(|_| bench.submit(UserId::generate(), 1.0, None)).collect();
    let (mut seen, mut end, mut gone) = (std::collections::HashSet::new(), usize::MAX, jobs.iter().step_by(3));
    while end > 0 {
        let (ids, start) = bench.schedule.slice(end, 7);
        seen.extend(ids);
        end = start;
        for id in gone.by_ref().take(3) {
            bench.schedule.remove(*id);
        }
    }

    assert!(jobs.iter().filter(|id| bench.schedule.place(**id).is_some()).all(|id| seen.contains(id)));
}

#[test]
fn what_comes_back_goes_in_front_once_it_may() {
    let mut bench = Bench::new(1);
    let (first, second) = (UserId::generate(), UserId::generate());
    let lost = bench.submit(first, 1.0, None);
    let other = bench.submit(second, 1.0, None);
    bench.schedule.release(1, at(0));
    bench.schedule.claimed(lost);
    let job = bench.schedule.ended(lost, None).unwrap();
    assert!(job.started);

    bench.schedule.queue(job, Some(at(1_000)));
    assert_eq!(bench.schedule.block(lost, at(0)).unwrap().waiting_reason, "retry");
    assert_eq!(bench.schedule.next_eligible(), Some(at(1_000)));
    bench.schedule.mature(at(1_000));

    assert_eq!((bench.position(lost), bench.position(other)), (Some(1), Some(2)));
}

proptest! {
    #[test]
    fn the_rank_shown_is_the_order_of_release(
        jobs in prop::collection::vec((0..5_usize, 1..4_u32, prop::option::of(1..4_u32)), 1..60),
        removals in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut bench = Bench::new(4);
        let users: Vec<UserId> = (0..5).map(|_| UserId::generate()).collect();
        // A limit belongs to the owner, not to the job.
        let limits: Vec<_> = (0..5).map(|user| jobs.iter().find(|job| job.0 == user).and_then(|job| job.2)).collect();
        let mut ids: Vec<_> = jobs.iter().map(|(user, share, _)| bench.submit(users[*user], f64::from(*share), limits[*user])).collect();
        for index in removals {
            if !ids.is_empty() {
                let id = ids.swap_remove(index.index(ids.len()));
                bench.schedule.remove(id);
            }
        }
        let mut shown: Vec<_> = ids.iter().filter_map(|id| Some((bench.position(*id)?, *id))).collect();
        shown.sort_unstable();

        let released = bench.schedule.release(ids.len(), at(0));

        prop_assert_eq!(&shown.iter().map(|(_, id)| *id).collect::<Vec<_>>(), &released);
        prop_assert!(shown.iter().enumerate().all(|(at, (position, _))| *position == at as u64 + 1));
        for id in &released {
            bench.schedule.claimed(*id);
        }
        // Whatever order they end in, everybody gets a turn and nothing is left.
        let mut running: Vec<_> = released;
        let mut seen = running.len();
        while let Some(id) = running.pop() {
            bench.schedule.ended(id, Some(7));
            let more = bench.schedule.release(100, at(0));
            for id in &more {
                bench.schedule.claimed(*id);
            }
            seen += more.len();
            running.extend(more);
        }
        prop_assert_eq!(seen, ids.len());
        prop_assert_eq!(bench.schedule.queued() + bench.schedule.running(), 0);
        prop_assert!(bench.schedule.owners.is_empty());
    }
}
