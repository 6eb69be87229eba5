//! The rules of variables: a template reads only what will be there.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    compile::shown,
    document::{NodeKind, OutputKind},
    node_rules::bare,
    problem::{Problems, suggestion},
    read::Draft,
    structure::Structure,
};
use crate::schema::{JsonSchema, Shape, items_of, shape_at};

/// What is known about every node's output, each as a JSON Schema.
pub(super) struct Scopes {
    /// Of each node; `true` when anything may be there.
    outputs: Vec<Value>,
    schemas: HashMap<usize, Arc<JsonSchema>>,
    ids: HashMap<String, usize>,
    input: Option<usize>,
}

/// The variables that only the templates of a loop know.
#[derive(Debug, Clone)]
pub(super) struct ItemVariables {
    /// With `over`: the variable that gives the list, if it is one and nothing else. Without it an item is a number.
    pub(super) over: Option<BTreeSet<String>>,
    /// Whether `previous` can be read.
    pub(super) previous: bool,
}

/// A variable that cannot be read.
struct Unreadable {
    code: &'static str,
    message: String,
    hint: Option<String>,
}

impl Scopes {
    pub(super) fn new(draft: &Draft, structure: &Structure, problems: &mut Problems) -> Self {
        let mut schemas = HashMap::new();
        let mut outputs = Vec::with_capacity(draft.nodes.len());
        for (at, node) in draft.nodes.iter().enumerate() {
            outputs.push(match &node.kind {
                Some(NodeKind::Input(form)) => form.json_schema(),
                Some(NodeKind::Generate(generate)) if generate.output == OutputKind::Json => {
                    let schema = generate.schema.as_ref();
                    if let Some(compiled) = schema.and_then(|schema| compile_schema(schema, at, problems)) {
                        schemas.insert(at, Arc::new(compiled));
                    }
                    schema.cloned().unwrap_or(Value::Bool(true))
                }
                Some(NodeKind::Generate(_)) => json!({"type": "string"}),
                Some(NodeKind::Chapters(_)) => json!({"type": "array", "items": {
                    "type": "object", "properties": {"title": {"type": "string"}, "text": {"type": "string"}},
                }}),
                Some(NodeKind::Output(_)) | None => Value::Bool(true),
            });
        }
        Self { outputs, schemas, ids: structure.index.clone(), input: structure.input }
    }

    /// The compiled schema of a `generate` node.
    pub(super) fn schema(&self, node: usize) -> Option<Arc<JsonSchema>> {
        self.schemas.get(&node).cloned()
    }

    /// Reports every variable in `names` that `node` cannot read.
    #[expect(clippy::too_many_arguments, reason = "the place, the scope and the collector belong together here only")]
    pub(super) fn check(
        &self,
        draft: &Draft,
        structure: &Structure,
        node: usize,
        names: &BTreeSet<String>,
        items: Option<&ItemVariables>,
        pointer: &str,
        problems: &mut Problems,
    ) {
        for name in names {
            let found = self.find(draft, structure, node, name, items);
            if let Err(Unreadable { code, message, hint }) = found {
                problems.add_with_hint(pointer, code, format!("`{}`: {message}", shown(name)), hint);
            }
        }
    }

    /// Reports an `over` that is known not to be a list.
    pub(super) fn check_list(&self, names: &BTreeSet<String>, text: &str, pointer: &str, problems: &mut Problems) {
        let whole = names.iter().find(|name| *name == bare(text));
        let Some((_, part)) = whole.and_then(|name| self.part(name)) else { return };
        let kind = part.get("type").and_then(Value::as_str);
        if kind.is_some_and(|kind| kind != "array") {
            let message = format!("`{}` is a {}, not a list", shown(bare(text)), kind.unwrap_or("value"));
            let hint = kind.filter(|kind| matches!(*kind, "integer" | "number"));
            problems.add_with_hint(pointer, "not_a_list", message, hint.map(|_| "use `count` for a number".to_owned()));
        }
    }

    fn find(
        &self,
        draft: &Draft,
        structure: &Structure,
        node: usize,
        name: &str,
        items: Option<&ItemVariables>,
    ) -> Result<(), Unreadable> {
        let path: Vec<&str> = name.split('.').collect();
        match (path.as_slice(), items) {
            (["input", rest @ ..], _) => self.fields(self.input, rest, "the form"),
            (["nodes"] | ["nodes", _], _) => {
                let hint = "write `nodes.<id>.output`".to_owned();
                Err(Unreadable {
                    code: "unknown_variable",
                    message: "this names no output".to_owned(),
                    hint: Some(hint),
                })
            }
            (["nodes", id, second, rest @ ..], _) => {
                let source = self.earlier(draft, structure, node, id)?;
                if *second != "output" {
                    let message = format!("a node has `output`, not `{}`", shown(second));
                    let hint = Some(format!("write `nodes.{id}.output`"));
                    return Err(Unreadable { code: "unknown_variable", message, hint });
                }
                self.fields(Some(source), rest, &format!("the output of `{id}`"))
            }
            (["item", rest @ ..], Some(items)) => self.item_fields(items, rest),
            (["index" | "number" | "total"], Some(_)) => Ok(()),
            (["previous"], Some(ItemVariables { previous: true, .. })) => Ok(()),
            (["previous", ..], Some(_)) => Err(Unreadable {
                code: "previous_not_known",
                message: "what came before is not known here".to_owned(),
                hint: Some("`previous` is for prompts of loops with `parallel: 1`".to_owned()),
            }),
            ([first, ..], _) => Err(unknown_root(first, items.is_some())),
            ([], _) => Ok(()),
        }
    }

    fn earlier(&self, draft: &Draft, structure: &Structure, node: usize, id: &str) -> Result<usize, Unreadable> {
        let Some(source) = self.ids.get(id).copied() else {
            let hint = suggestion(id, self.ids.keys().map(String::as_str));
            return Err(Unreadable {
                code: "unknown_node",
                message: format!("there is no node `{}`", shown(id)),
                hint,
            });
        };
        if structure.ordered && !structure.ancestors.contains(node, source) {
            let me = draft.nodes.get(node).map_or("?", |node| node.id.as_str());
            let message = format!("`{id}` does not come before `{}`", shown(me));
            let hint = Some(format!("add an edge from `{id}` to `{}`", shown(me)));
            return Err(Unreadable { code: "not_an_ancestor", message, hint: hint.filter(|_| source != node) });
        }
        Ok(source)
    }

    fn fields(&self, node: Option<usize>, path: &[&str], whose: &str) -> Result<(), Unreadable> {
        let Some(root) = node.and_then(|node| self.outputs.get(node)) else { return Ok(()) };
        known(shape_at(root, root, path), path, whose)
    }

    fn item_fields(&self, items: &ItemVariables, path: &[&str]) -> Result<(), Unreadable> {
        let Some(over) = &items.over else {
            let number = json!({"type": "integer"});
            return known(shape_at(&number, &number, path), path, "an item (a number)");
        };
        let list = over.iter().next().and_then(|name| self.part(name));
        let Some((root, list)) = list else { return Ok(()) };
        match items_of(root, list) {
            Shape::Known(item) => known(shape_at(root, item, path), path, "an item"),
            _ => Ok(()),
        }
    }

    /// The schema, and its part, that describe a variable of the form `input.x` or `nodes.y.output.z`.
    fn part(&self, name: &str) -> Option<(&Value, &Value)> {
        let path: Vec<&str> = name.split('.').collect();
        let (node, rest) = match path.as_slice() {
            ["input", rest @ ..] => (self.input?, rest),
            ["nodes", id, "output", rest @ ..] => (*self.ids.get(*id)?, rest),
            _ => return None,
        };
        let root = self.outputs.get(node)?;
        match shape_at(root, root, rest) {
            Shape::Known(part) => Some((root, part)),
            _ => None,
        }
    }
}

fn compile_schema(schema: &Value, node: usize, problems: &mut Problems) -> Option<JsonSchema> {
    JsonSchema::compile(schema)
        .map_err(|problem| {
            problems.add(format!("/nodes/{node}/schema{}", problem.pointer), "bad_schema", problem.message);
        })
        .ok()
}

fn known(shape: Shape<'_>, path: &[&str], whose: &str) -> Result<(), Unreadable> {
    let Shape::Missing(part) = shape else { return Ok(()) };
    let listed = Shape::listed(part);
    let missing = path.iter().find(|name| !listed.contains(name)).copied().unwrap_or("");
    let hint = suggestion(missing, listed);
    let path = path.join(".");
    Err(Unreadable { code: "unknown_variable", message: format!("{whose} has no field `{}`", shown(&path)), hint })
}

fn unknown_root(name: &str, in_loop: bool) -> Unreadable {
    let plain = ["input", "nodes"];
    let looped = ["input", "nodes", "item", "index", "number", "total", "previous"];
    let hint = suggestion(name, if in_loop { looped.iter() } else { plain.iter() }.copied());
    Unreadable { code: "unknown_variable", message: "there is no such variable here".to_owned(), hint }
}
