//! The walk over the graph: nodes start when their parents are settled; what calls a model waits for their acknowledgement.

use chrono::{DateTime, Utc};
use domain::{
    EventBody, Failure, UnitKey,
    flow::{CompiledNode, Outcome, Work},
};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use protocol::report::DeliverableRow;
use serde_json::value::RawValue;

use super::shared::{Attempt, Broken, internal};
use crate::halt::Reason;

/// How the walk ended.
pub(super) enum End {
    /// All nodes are settled.
    Completed {
        /// The output node's value.
        result: Box<RawValue>,
        /// Its files.
        deliverables: Vec<DeliverableRow>,
    },
    /// A node failed.
    Failed(Failure),
    /// It waits for a provider.
    Parked(DateTime<Utc>),
    /// Another executor continues.
    GivenBack,
    /// It was told to end.
    Halted,
}

/// What a node leaves.
pub(super) struct Done {
    /// What has to be acknowledged before a model call that depends on it.
    pub(super) place: u64,
    /// Of the output node.
    pub(super) end: Option<(Box<RawValue>, Vec<DeliverableRow>)>,
}

type Running<'a> = FuturesUnordered<BoxFuture<'a, (usize, Result<Done, Broken>)>>;

/// What the walk remembers.
#[derive(Default)]
struct Course {
    places: Vec<u64>,
    end: Option<(Box<RawValue>, Vec<DeliverableRow>)>,
    failure: Option<Failure>,
    parked: Option<DateTime<Utc>>,
    boundary: bool,
    halted: bool,
}

impl Course {
    /// Whether nothing new starts.
    const fn is_closing(&self) -> bool {
        self.failure.is_some() || self.parked.is_some() || self.boundary || self.halted
    }

    fn end(self) -> End {
        match (self.end, self.failure) {
            // All units were reported before the halt was heard: then it is complete.
            (Some((result, deliverables)), None) => End::Completed { result, deliverables },
            (_, Some(failure)) => End::Failed(failure),
            _ if self.halted => End::Halted,
            _ if self.boundary => End::GivenBack,
            _ => self.parked.map_or_else(
                || End::Failed(internal("the flow has no result", "its output node was not reached")),
                End::Parked,
            ),
        }
    }
}

impl Attempt {
    /// Runs all nodes.
    pub(super) async fn walk(&self) -> End {
        let finished: Vec<usize> = (0..self.flow.nodes().len()).filter(|node| self.inherit(*node)).collect();
        let mut walk = self.flow.walk(finished);
        let mut course = Course { places: vec![0; self.flow.nodes().len()], ..Course::default() };
        let mut running: Running<'_> = FuturesUnordered::new();
        loop {
            while !course.is_closing()
                && running.len() < self.flow.max_parallel()
                && let Some(node) = walk.start()
            {
                let after = self.flow.graph().parents(node).iter().filter_map(|parent| course.places.get(*parent));
                let after = after.copied().max().unwrap_or_default();
                running.push(Box::pin(async move { (node, self.node(node, after).await) }));
            }
            let ended = tokio::select! {
                biased;
                // First, so that the log says why what follows is cut short.
                () = self.halt.ordered(), if !course.halted => {
                    course.halted = true;
                    if matches!(self.halt.reason(), Some(Reason::Stopped(_))) {
                        self.line.urgent(EventBody::Cancelling);
                    }
                    continue;
                }
                ended = running.next() => ended,
            };
            let Some((node, ended)) = ended else { break };
            let outcome = self.take(&mut course, node, ended);
            for skipped in walk.settle(node, outcome) {
                if let Some(CompiledNode { id, .. }) = self.flow.node(skipped) {
                    self.tally.node_done(id);
                    self.line.event(EventBody::NodeSkipped { node: id.to_string() });
                }
            }
        }
        course.end()
    }

    fn take(&self, course: &mut Course, node: usize, ended: Result<Done, Broken>) -> Outcome {
        match ended {
            Ok(done) => {
                if let Some(place) = course.places.get_mut(node) {
                    *place = done.place;
                }
                course.end = course.end.take().or(done.end);
                return Outcome::Completed;
            }
            Err(Broken::Failed(failure)) => {
                self.fail();
                let id = self.flow.node(node).map(|node| node.id.to_string()).unwrap_or_default();
                let code = failure.code.as_str().to_owned();
                self.line.event(EventBody::NodeFailed { node: id.clone(), code });
                course.failure.get_or_insert(Failure { failed_node: Some(id), ..failure });
            }
            Err(Broken::Parked(wait)) => {
                let until = self.executor.clock.now() + wait;
                course.parked = Some(course.parked.map_or(until, |known| known.min(until)));
            }
            Err(Broken::Boundary) => course.boundary = true,
            Err(Broken::Halted) => course.halted |= !self.is_failing(),
        }
        Outcome::Failed
    }

    /// Whether a node is finished already; then its output is there again.
    fn inherit(&self, node: usize) -> bool {
        let Some(CompiledNode { id, work, .. }) = self.flow.node(node) else { return false };
        if !matches!(work, Work::Generate(_)) {
            // A loop looks at its units one by one; pure nodes are computed again.
            return false;
        }
        let Some(output) = self.inherited.get(&UnitKey::node(&**id)) else { return false };
        let Some(output) = super::node::stored_output(work, output) else { return false };
        self.tally.unit_done(super::node::words_of(&output));
        self.tally.node_done(id);
        self.context.set_output(node, output);
        true
    }
}
