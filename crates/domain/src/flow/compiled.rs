//! A flow ready to run: parsed templates, compiled schemas, the graph. Built once per engine version and shared.

use std::{collections::HashMap, sync::Arc};

use minijinja::Value;

use super::{
    context::RunContext,
    document::{FileFormat, Flow, Node},
    form::{FieldProblem, InputForm},
    graph::Graph,
    walk::Walk,
};
use crate::{
    schema::JsonSchema,
    template::{ExpressionId, TemplateId, TemplateSet},
};

/// A flow ready to run. Nodes are named by their index: their place in the document.
#[derive(Debug)]
pub struct CompiledFlow {
    pub(super) flow: Flow,
    pub(super) form: InputForm,
    pub(super) input_node: usize,
    pub(super) output_node: usize,
    pub(super) graph: Arc<Graph>,
    pub(super) index: Arc<HashMap<String, usize>>,
    pub(super) nodes: Vec<CompiledNode>,
    pub(super) templates: TemplateSet,
}

/// One node ready to run.
#[derive(Debug)]
pub struct CompiledNode {
    /// The id in the document.
    pub id: Arc<str>,
    /// What it does.
    pub work: Work,
    /// [`super::definition_hash`] of the node.
    pub definition_hash: String,
}

/// What an executor does for a node.
#[derive(Debug)]
pub enum Work {
    /// Nothing: its output is the input, which is there from the start.
    Input,
    /// One model call, one unit: [`CompiledFlow::render_generate`], then [`CompiledFlow::parse_output`].
    Generate(Call),
    /// One model call and one unit per item: [`CompiledFlow::plan_chapters`], then [`CompiledFlow::render_chapter`] for each.
    Chapters {
        /// How each item's model is called.
        call: Call,
        /// How many items may be made at the same time; 1: one after the other, each with what came before.
        parallel: usize,
        /// Where the items come from.
        #[doc(hidden)]
        items: Items,
        /// How an item's title is made.
        #[doc(hidden)]
        item_title: Option<TemplateId>,
        /// How many words of the item before `previous` shows.
        #[doc(hidden)]
        previous_words: usize,
    },
    /// No model: [`CompiledFlow::assemble`], then one file per format.
    Output {
        /// The files to make.
        formats: Vec<FileFormat>,
        /// What they hold.
        #[doc(hidden)]
        plan: OutputPlan,
    },
}

/// How a node calls its model.
#[derive(Debug)]
pub struct Call {
    /// `provider/model-id`.
    pub model: String,
    /// 0 to 2; no value: the provider's own default.
    pub temperature: Option<f64>,
    /// The most tokens of the answer; no value: the provider's own default.
    pub max_tokens: Option<u32>,
    /// Whether the answer is data.
    pub json: bool,
    /// The schema of that data, if one is known.
    pub schema: Option<Arc<JsonSchema>>,
    pub(super) system: Option<TemplateId>,
    pub(super) prompt: TemplateId,
}

/// Where the items of a loop come from.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub enum Items {
    Over(ExpressionId),
    Count(ExpressionId),
    Fixed(usize),
}

/// The templates of an output node.
#[doc(hidden)]
#[derive(Debug)]
pub struct OutputPlan {
    pub(super) title: TemplateId,
    pub(super) subtitle: Option<TemplateId>,
    pub(super) author: Option<TemplateId>,
    pub(super) language: Option<TemplateId>,
    pub(super) sections: Vec<SectionPlan>,
}

#[derive(Debug)]
pub(super) struct SectionPlan {
    pub(super) source: SectionSource,
    pub(super) title: Option<TemplateId>,
}

#[derive(Debug)]
pub(super) enum SectionSource {
    Node(usize),
    Text(TemplateId),
}

/// What a model is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The system message, if the node has one.
    pub system: Option<String>,
    /// The user message.
    pub user: String,
}

/// The items of a loop, known before the first one is made.
#[derive(Debug, Clone)]
pub struct ChapterPlan {
    /// In order; an item's place is its unit number.
    pub items: Vec<ChapterItem>,
}

/// One item of a loop.
#[derive(Debug, Clone)]
pub struct ChapterItem {
    /// Its title.
    pub title: String,
    pub(super) value: Value,
}

/// The parts of the finished document, before they become files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembly {
    /// The document's title; never empty.
    pub title: String,
    /// A line below the title.
    pub subtitle: Option<String>,
    /// Who is named as author.
    pub author: Option<String>,
    /// A language tag (BCP 47).
    pub language: String,
    /// In reading order.
    pub parts: Vec<Part>,
}

/// One part of the finished document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its heading, if it has one.
    pub title: Option<String>,
    /// 1 for a part of the document, 2 for an item inside a part.
    pub level: u8,
    /// Its text.
    pub markdown: String,
}

impl CompiledFlow {
    /// The flow it was made from.
    #[must_use]
    pub const fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The flow it was made from, by value.
    #[must_use]
    pub fn into_flow(self) -> Flow {
        self.flow
    }

    /// The form of the flow's input.
    #[must_use]
    pub const fn form(&self) -> &InputForm {
        &self.form
    }

    /// Checks an execution's input; see [`InputForm::check`].
    ///
    /// # Errors
    /// Every answer that the form does not take.
    pub fn check_input(&self, input: &serde_json::Value) -> Result<serde_json::Value, Vec<FieldProblem>> {
        self.form.check(input)
    }

    /// How many nodes of one execution may run at the same time.
    #[must_use]
    pub fn max_parallel(&self) -> usize {
        self.flow.max_parallel.map_or(super::MAX_PARALLEL as usize, |most| most as usize)
    }

    /// All nodes, by index.
    #[must_use]
    pub fn nodes(&self) -> &[CompiledNode] {
        &self.nodes
    }

    /// The node of this index.
    #[must_use]
    pub fn node(&self, node: usize) -> Option<&CompiledNode> {
        self.nodes.get(node)
    }

    /// The node as it was written.
    #[must_use]
    pub fn source(&self, node: usize) -> Option<&Node> {
        self.flow.nodes.get(node)
    }

    /// The index of the node with this id.
    #[must_use]
    pub fn index_of(&self, id: &str) -> Option<usize> {
        self.index.get(id).copied()
    }

    /// The index of the output node.
    #[must_use]
    pub const fn output_node(&self) -> usize {
        self.output_node
    }

    /// The graph.
    #[must_use]
    pub const fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// A walk that begins after `finished` nodes.
    pub fn walk(&self, finished: impl IntoIterator<Item = usize>) -> Walk {
        Walk::new(Arc::clone(&self.graph), finished)
    }

    /// The context of an execution with this checked input; the input node's output is there already.
    #[must_use]
    pub fn context(&self, input: &serde_json::Value) -> RunContext {
        let context = RunContext::new(&self.form, Arc::clone(&self.index), input);
        context.set_input_output(self.input_node);
        context
    }
}
