//! Markdown as a tree, the same for every format that reads it.

use comrak::{
    Arena, Node, Options,
    nodes::{NodeLink, NodeValue},
    parse_document,
};

/// How Markdown is read and written: raw HTML is shown as text, never passed on; dangerous links lose their target.
pub(crate) fn options() -> Options<'static> {
    let mut options = Options::default();
    options.extension.table = true;
    options.extension.strikethrough = true;
    options.extension.tasklist = true;
    options.extension.footnotes = true;
    options.extension.autolink = true;
    options.render.escape = true;
    options.render.r#unsafe = false;
    options
}

/// Parses a section. Images become links: a file that is opened loads nothing from anywhere.
pub(crate) fn parse<'a>(arena: &'a Arena<'a>, markdown: &str, options: &Options<'static>) -> Node<'a> {
    let root = parse_document(arena, markdown, options);
    for node in root.descendants() {
        let mut data = node.data.borrow_mut();
        if let NodeValue::Image(link) = &data.value {
            let NodeLink { url, title } = link.as_ref();
            data.value = NodeValue::Link(Box::new(NodeLink { url: url.clone(), title: title.clone() }));
        }
    }
    root
}
