//! The walk over random graphs: every node once, never before its parents, always an end.

use std::sync::Arc;

use domain::flow::{Graph, Outcome, Walk};
use proptest::prelude::*;

/// A graph whose edges lead from a lower to a higher place of a random order.
fn graphs() -> impl Strategy<Value = Arc<Graph>> {
    (1_usize..40).prop_flat_map(|nodes| {
        let order = Just((0..nodes).collect::<Vec<_>>()).prop_shuffle();
        let pairs = prop::collection::vec((0..nodes, 0..nodes), 0..nodes * 3);
        (order, pairs).prop_map(move |(order, pairs)| {
            let edges = pairs.into_iter().filter(|(a, b)| a != b).map(|(a, b)| (order[a.min(b)], order[a.max(b)]));
            Arc::new(Graph::new(nodes, edges))
        })
    })
}

proptest! {
    #[test]
    fn every_node_runs_once_and_never_before_its_parents(graph in graphs(), picks in prop::collection::vec(any::<prop::sample::Index>(), 100)) {
        let mut walk = Walk::new(Arc::clone(&graph), []);
        let mut started = vec![false; graph.len()];
        let mut settled = vec![false; graph.len()];
        let mut running = Vec::new();
        let mut picks = picks.into_iter().cycle();

        while !walk.is_done() {
            for node in walk.ready() {
                prop_assert!(!std::mem::replace(&mut started[node], true), "{node} started twice");
                prop_assert!(graph.parents(node).iter().all(|parent| settled[*parent]));
                running.push(node);
            }
            let node = running.swap_remove(picks.next().unwrap().index(running.len()));
            settled[node] = true;
            prop_assert!(walk.settle(node, Outcome::Completed).is_empty());
        }

        prop_assert!(started.iter().all(|started| *started));
        prop_assert_eq!(walk.settled(), graph.len());
    }

    #[test]
    fn every_walk_ends_whatever_the_outcomes(graph in graphs(), outcomes in prop::collection::vec(0..6_u8, 40)) {
        let mut walk = Walk::new(Arc::clone(&graph), []);
        let mut ended: Vec<Option<Outcome>> = vec![None; graph.len()];

        while let Some(node) = walk.start() {
            let outcome = match outcomes[node] { 0 => Outcome::Failed, 1 => Outcome::Skipped, _ => Outcome::Completed };
            prop_assert!(ended[node].replace(outcome).is_none());
            for skipped in walk.settle(node, outcome) {
                prop_assert!(ended[skipped].replace(Outcome::Skipped).is_none());
                prop_assert!(graph.parents(skipped).iter().all(|parent| ended[*parent] == Some(Outcome::Skipped)));
            }
        }

        prop_assert!(walk.is_done());
        for node in 0..graph.len() {
            let below_failed = graph.parents(node).iter().any(|parent| matches!(ended[*parent], Some(Outcome::Failed) | None));
            prop_assert_eq!(ended[node].is_none(), below_failed, "node {}", node);
        }
    }

    #[test]
    fn a_walk_that_goes_on_never_repeats_what_is_finished(graph in graphs(), cut in any::<prop::sample::Index>()) {
        let order = graph.order();
        let finished = &order[..cut.index(order.len())];

        let mut walk = Walk::new(Arc::clone(&graph), finished.iter().copied());
        let mut ran = Vec::new();
        while let Some(node) = walk.start() {
            ran.push(node);
            walk.settle(node, Outcome::Completed);
        }

        ran.sort_unstable();
        let mut expected = order[finished.len()..].to_vec();
        expected.sort_unstable();
        prop_assert_eq!(ran, expected);
    }

    #[test]
    fn the_ancestors_are_those_from_whom_a_path_leads(graph in graphs()) {
        let ancestors = graph.ancestors();
        prop_assert_eq!(graph.cycle(), None);
        for node in 0..graph.len() {
            let above = graph.reached(node, false);
            for other in 0..graph.len() {
                prop_assert_eq!(ancestors.contains(node, other), above[other] && other != node);
            }
        }
    }

    #[test]
    fn a_cycle_is_found_and_is_one(graph in graphs(), back in any::<prop::sample::Index>()) {
        let order = graph.order();
        let (first, last) = (order[back.index(order.len())], order[order.len() - 1]);
        prop_assume!(first != last && graph.ancestors().contains(last, first));
        let mut edges: Vec<_> = (0..graph.len()).flat_map(|node| graph.children(node).iter().map(move |child| (node, *child))).collect();
        edges.push((last, first));

        let cyclic = Graph::new(graph.len(), edges);
        let cycle = cyclic.cycle().unwrap();

        for (at, node) in cycle.iter().enumerate() {
            prop_assert!(cyclic.children(*node).contains(&cycle[(at + 1) % cycle.len()]));
        }
    }
}

#[test]
fn settling_what_does_not_run_changes_nothing() {
    let mut walk = Walk::new(Arc::new(Graph::new(2, [(0, 1)])), []);

    assert!(walk.settle(1, Outcome::Completed).is_empty());
    assert_eq!(walk.ready(), [0]);
    walk.settle(0, Outcome::Completed);
    walk.settle(0, Outcome::Failed);

    assert_eq!(walk.ready(), [1]);
    assert!(!walk.has_failed());
}

#[test]
fn a_wide_and_a_deep_graph_are_walked_in_linear_time() {
    let wide: Vec<_> = (1..2_499).flat_map(|node| [(0, node), (node, 2_499)]).collect();
    let deep: Vec<_> = (1..2_500).map(|node| (node - 1, node)).collect();
    for edges in [wide, deep] {
        let graph = Arc::new(Graph::new(2_500, edges));
        let mut walk = Walk::new(graph, []);
        while let Some(node) = walk.start() {
            walk.settle(node, Outcome::Completed);
        }
        assert_eq!(walk.settled(), 2_500);
    }
}
