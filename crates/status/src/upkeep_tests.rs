//! What the minute check sees.

use super::*;
use domain::{EngineId, Priority, UserId};

fn row(state: State, executor: Option<ExecutorId>) -> Unfinished {
    Unfinished {
        execution_id: ExecutionId::generate(),
        user_id: UserId::generate(),
        engine_id: EngineId::generate(),
        priority: Priority::Normal,
        tag: 0.0,
        state,
        epoch: 3,
        executor_id: executor,
        started: true,
        eligible_at: None,
        due_at: None,
        weight: 1.0,
        max_running: None,
    }
}

#[test]
fn a_hold_without_its_lease_is_a_difference() {
    let executor = ExecutorId::generate();
    let held = row(State::Processing, Some(executor));
    let look = |hold| difference(&held, Some(Place::Running), hold, &HashSet::new());

    assert_eq!(look(Some((3, executor))), None);
    for orphaned in [None, Some((1, executor)), Some((3, ExecutorId::generate()))] {
        assert_eq!(look(orphaned), Some("held_without_a_lease"));
    }
    let queued = row(State::Queued, None);
    let leased = difference(&queued, Some(Place::Ranked), Some((3, executor)), &HashSet::new());
    assert_eq!(leased, Some("not_held_but_leased"));
}
