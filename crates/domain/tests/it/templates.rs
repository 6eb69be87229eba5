//! What templates can do, and what they cannot.

use domain::template::{MAX_TEMPLATE_BYTES, TemplateSet};
use minijinja::{Value, context};
use proptest::prelude::*;

fn render(text: &str, context: Value) -> Result<String, String> {
    let mut set = TemplateSet::new();
    let id = set.add(text).map_err(|error| format!("{}: {error}", error.code))?;
    set.render(id, context, "the test").map_err(|error| error.to_string())
}

#[test]
fn values_are_written_as_they_are() {
    let text = "{{ a }} {{ b.c }} {{ list | tojson }} {{ nothing }}.";
    let context = context! { a => "<b>&\"", b => context! { c => 3 }, list => vec!["<x>"], nothing => () };
    assert_eq!(render(text, context).unwrap(), "<b>&\" 3 [\n  \"<x>\"\n] .");
}

#[test]
fn a_tag_on_its_own_line_leaves_no_blank_line() {
    assert_eq!(render("a\n{% if true %}\nb\n{% endif %}\nc", context! {}).unwrap(), "a\nb\nc");
}

#[test]
fn a_missing_variable_is_an_error_with_its_line() {
    let error = render("one\n{{ a.b }}", context! { a => context! {} }).unwrap_err();
    insta::assert_snapshot!(error, @"rendering the test failed: line 2: undefined value");
}

#[test]
fn what_the_parser_lets_pass_is_refused_before_it_runs() {
    let refused: Vec<String> = [
        "{{ a | wordz(3) }}",
        "a\n{% if a is emty %}x{% endif %}",
        "{% include 'other' %}",
        "{% extends 'other' %}",
        "{% from 'other' import x %}",
        "{% if a %}",
        "{{ a",
        "{% filter uper %}x{% endfilter %}",
    ]
    .iter()
    .map(|text| render(text, context! { a => 1 }).unwrap_err())
    .collect();
    insta::assert_snapshot!(refused.join("\n"), @r#"
    unknown_filter: line 1: there is no filter `wordz`
    unknown_test: line 2: there is no test `emty`
    template_tag: line 1: `include` is not available: a template stands alone
    template_tag: line 1: `extends` is not available: a template stands alone
    template_tag: line 1: `from` is not available: a template stands alone
    template_syntax: line 1: unexpected end of input, expected end of block
    template_syntax: line 1: unexpected end of input, expected end of variable block
    unknown_filter: line 1: there is no filter `uper`
    "#);
}

#[test]
fn words_in_quotes_comments_and_raw_parts_are_not_code() {
    let text = "{{ \"a | nofilter }}\" }}{# x | nofilter #}{% raw %}{{ y | nofilter }}{% endraw %}{{ 'is nothing' }}";
    assert_eq!(render(text, context! {}).unwrap(), "a | nofilter }}{{ y | nofilter }}is nothing");
}

#[test]
fn a_template_cannot_run_for_ever_or_write_without_end() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert!(render(endless, context! {}).unwrap_err().contains("too many steps"));
    let long = "{% for a in range(20000) %}{{ text }}{% endfor %}";
    assert!(render(long, context! { text => "x".repeat(1000) }).unwrap_err().contains("more than 8 MB"));
    let deep = "{% macro down(n) %}{{ down(n + 1) }}{% endmacro %}{{ down(0) }}";
    assert!(render(deep, context! {}).is_err());
    assert!(render(&"x".repeat(MAX_TEMPLATE_BYTES + 1), context! {}).unwrap_err().contains("template_too_long"));
    assert!(render(&format!("{{{{ {}1{} }}}}", "(".repeat(5_000), ")".repeat(5_000)), context! {}).is_err());
}

#[test]
fn variables_that_a_template_sets_itself_are_not_demanded() {
    let mut set = TemplateSet::new();
    let text = "{% set x = input.a %}{% for c in nodes.o.output.list %}{{ c.t }}{{ loop.index }}{{ x }}{% endfor %}{{ range(3) }}";
    let id = set.add(text).unwrap();
    assert_eq!(set.variables(id).into_iter().collect::<Vec<_>>(), ["input.a", "nodes.o.output.list"]);
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "[ -~\\n{}%#|'\"]{0,200}") {
        let _ = render(&text, context! { a => 1 });
    }

    #[test]
    fn text_without_marks_is_itself(text in "[^{]{0,300}") {
        let shown = render(&text, context! {}).unwrap();
        prop_assert_eq!(shown, text.strip_suffix('\n').unwrap_or(&text).strip_suffix('\r').unwrap_or(text.strip_suffix('\n').unwrap_or(&text)));
    }

    #[test]
    fn excerpts_never_have_more_words_than_asked(text in "\\PC{0,200}", count in 0_usize..20) {
        for filter in ["words", "last_words", "excerpt"] {
            let shown = render(&format!("{{{{ text | {filter}({count}) }}}}"), context! { text => text.as_str() }).unwrap();
            prop_assert!(shown.split_whitespace().filter(|word| *word != "…").count() <= count, "{filter}: {shown:?}");
        }
    }
}
