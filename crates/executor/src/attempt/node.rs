//! The work of one node.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use domain::{
    EventBody, Failure, FailureCode, UnitKey,
    flow::{Call, Chapter, ChapterPlan, NodeOutput, Work},
    template::RenderError,
};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use protocol::report::UnitReport;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    graph::Done,
    shared::{Attempt, Broken, internal},
    tally::words,
    unit::{Answer, Ask},
};

/// A finished item of a loop, with the place of its unit in the report stream.
type Item = (usize, Result<(Chapter, u64), Broken>);

impl Attempt {
    /// Does a node's work; a model call waits until `after` units are acknowledged.
    pub(super) async fn node(&self, node: usize, after: u64) -> Result<Done, Broken> {
        let Some(compiled) = self.flow.node(node) else {
            return Err(Broken::Failed(internal("the flow cannot be walked", "a node is missing")));
        };
        match &compiled.work {
            Work::Input => Ok(Done { place: 0, end: None }),
            Work::Generate(call) => {
                self.acknowledged(after).await?;
                let place = Box::pin(self.generate(node, &compiled.id, call)).await?;
                Ok(Done { place, end: None })
            }
            Work::Chapters { call, parallel, .. } => {
                self.acknowledged(after).await?;
                let place = Box::pin(self.chapters(node, &compiled.id, call, *parallel)).await?;
                Ok(Done { place, end: None })
            }
            Work::Output { formats, .. } => {
                self.begin_node(&compiled.id, 1);
                let end = Box::pin(self.output(formats)).await?;
                self.tally.node_done(&compiled.id);
                self.line.event(EventBody::NodeCompleted { node: compiled.id.to_string() });
                Ok(Done { place: 0, end: Some(end) })
            }
        }
    }

    fn begin_node(&self, id: &str, units: u32) {
        self.tally.node_began(id);
        self.line.event(EventBody::NodeStarted { node: id.to_owned(), units });
        self.line.progress(self.tally.progress());
    }

    async fn generate(&self, node: usize, id: &str, call: &Call) -> Result<u64, Broken> {
        let prompt = self.flow.render_generate(node, &self.context).map_err(|error| unrenderable(&error))?;
        self.begin_node(id, 1);
        let key = UnitKey::node(id);
        let parse = |text: &str| self.flow.parse_output(node, text);
        let ask = Ask { key: &key, call, prompt, parse: &parse };
        let Answer { output, .. } = self.ask(ask).await?;
        let raw = match &output {
            NodeOutput::Text(text) => raw(text)?,
            NodeOutput::Json(value) => raw(value)?,
            NodeOutput::Chapters(chapters) => raw(chapters)?,
        };
        self.progressed();
        self.tally.unit_done(words_of(&output));
        self.tally.node_done(id);
        self.context.set_output(node, output);
        let unit = UnitReport { key, output: raw, complete: true };
        let done = EventBody::NodeCompleted { node: id.to_owned() };
        Ok(self.line.unit(unit, [done], Some(self.tally.progress())))
    }

    async fn chapters(&self, node: usize, id: &str, call: &Call, parallel: usize) -> Result<u64, Broken> {
        let plan = self.flow.plan_chapters(node, &self.context).map_err(|error| unrenderable(&error))?;
        let total = u32::try_from(plan.items.len()).unwrap_or(u32::MAX);
        self.tally.units_known(total);
        let mut done = self.inherited_items(id, &plan);
        for chapter in done.values() {
            self.tally.unit_done(words(&chapter.text));
        }
        self.begin_node(id, total);
        let so_far = AtomicU32::new(u32::try_from(done.len()).unwrap_or(u32::MAX));
        let items = Items { node, id, call, plan: &plan, done: so_far };
        let place = if parallel <= 1 {
            self.one_after_the_other(&items, &mut done).await?
        } else {
            self.side_by_side(&items, &mut done, parallel).await?
        };
        self.context.set_output(node, NodeOutput::Chapters(done.into_values().collect()));
        self.tally.node_done(id);
        self.line.event(EventBody::NodeCompleted { node: id.to_owned() });
        self.line.progress(self.tally.progress());
        Ok(place)
    }

    /// Items that earlier attempts finished, by their number.
    fn inherited_items(&self, id: &str, plan: &ChapterPlan) -> BTreeMap<usize, Chapter> {
        let item = |index: usize| {
            let key = UnitKey::item(id, i32::try_from(index).ok()?);
            let chapter = serde_json::from_str(self.inherited.get(&key)?.get()).ok()?;
            Some((index, chapter))
        };
        (0..plan.items.len()).filter_map(item).collect()
    }

    /// Each item is stored before the next one begins, and knows what came before.
    async fn one_after_the_other(&self, items: &Items<'_>, done: &mut BTreeMap<usize, Chapter>) -> Result<u64, Broken> {
        let mut place = 0;
        for index in 0..items.plan.items.len() {
            if done.contains_key(&index) {
                continue;
            }
            self.acknowledged(place).await?;
            let before = index.checked_sub(1).and_then(|before| done.get(&before)).map(|chapter| &*chapter.text);
            let (chapter, stored) = self.item(items, index, before).await?;
            place = stored;
            done.insert(index, chapter);
        }
        Ok(place)
    }

    async fn side_by_side(
        &self,
        items: &Items<'_>,
        done: &mut BTreeMap<usize, Chapter>,
        parallel: usize,
    ) -> Result<u64, Broken> {
        let mut waiting: Vec<usize> =
            (0..items.plan.items.len()).rev().filter(|index| !done.contains_key(index)).collect();
        let mut running: FuturesUnordered<BoxFuture<'_, Item>> = FuturesUnordered::new();
        let (mut place, mut broken) = (0, None);
        loop {
            while broken.is_none()
                && running.len() < parallel
                && let Some(index) = waiting.pop()
            {
                running.push(Box::pin(async move { (index, self.item(items, index, None).await) }));
            }
            match running.next().await {
                Some((index, Ok((chapter, stored)))) => {
                    place = place.max(stored);
                    done.insert(index, chapter);
                }
                // The others may end: what they wrote is paid for, and a resume need not pay it again.
                Some((_, Err(Broken::Failed(failure)))) => {
                    self.fail();
                    broken = Some(Broken::Failed(failure));
                }
                Some((_, Err(other))) => {
                    broken.get_or_insert(other);
                }
                None => return broken.map_or(Ok(place), Err),
            }
        }
    }

    async fn item(&self, items: &Items<'_>, index: usize, before: Option<&str>) -> Result<(Chapter, u64), Broken> {
        let Items { node, id, call, plan, .. } = *items;
        let prompt = self.flow.render_chapter(node, &self.context, plan, index, before);
        let prompt = prompt.map_err(|error| unrenderable(&error))?;
        let title = plan.items.get(index).map(|item| item.title.clone()).unwrap_or_default();
        let key = UnitKey::item(id, i32::try_from(index).unwrap_or(i32::MAX));
        let parse = |text: &str| Ok(NodeOutput::Text(text.to_owned()));
        let ask = Ask { key: &key, call, prompt, parse: &parse };
        let Answer { text, .. } = self.ask(ask).await?;
        self.progressed();
        self.tally.unit_done(words(&text));
        let chapter = Chapter { title, text };
        let unit = UnitReport { key: key.clone(), output: raw(&chapter)?, complete: true };
        let units = u32::try_from(plan.items.len()).unwrap_or(u32::MAX);
        let done = items.done.fetch_add(1, Ordering::Relaxed) + 1;
        let progress = EventBody::NodeProgress { node: id.to_owned(), done, units };
        let place = self.line.unit(unit, [progress], Some(self.tally.progress()));
        Ok((chapter, place))
    }
}

/// The items of one loop.
struct Items<'a> {
    node: usize,
    id: &'a str,
    call: &'a Call,
    plan: &'a ChapterPlan,
    done: AtomicU32,
}

/// A stored output as the node's own.
pub(super) fn stored_output(work: &Work, output: &RawValue) -> Option<NodeOutput> {
    match work {
        Work::Generate(call) if call.json => serde_json::from_str(output.get()).ok().map(NodeOutput::Json),
        Work::Generate(_) => serde_json::from_str(output.get()).ok().map(NodeOutput::Text),
        _ => None,
    }
}

/// The words of an output, as progress counts them: data has none.
pub(super) fn words_of(output: &NodeOutput) -> u64 {
    match output {
        NodeOutput::Text(text) => words(text),
        NodeOutput::Json(_) => 0,
        NodeOutput::Chapters(chapters) => chapters.iter().map(|chapter| words(&chapter.text)).sum(),
    }
}

pub(super) fn raw(value: &(impl serde::Serialize + ?Sized)) -> Result<Box<RawValue>, Broken> {
    to_raw_value(value)
        .map_err(|error| Broken::Failed(internal("an output cannot be written as JSON", &error.to_string())))
}

/// The values of this execution do not fit the engine's template.
fn unrenderable(error: &RenderError) -> Broken {
    Broken::Failed(Failure::new(FailureCode::EngineMisconfigured, error.to_string()))
}
