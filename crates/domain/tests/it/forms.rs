//! What a form takes and what it refuses.

use domain::{
    flow::{Field, FieldKind, InputForm},
    schema::JsonSchema,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn form(fields: Value) -> InputForm {
    serde_json::from_value(json!({ "fields": fields })).unwrap()
}

fn every_kind() -> InputForm {
    form(json!([
        {"name": "line", "type": "text", "required": true, "maxLength": 10},
        {"name": "long", "type": "textarea", "minLength": 3},
        {"name": "count", "type": "number", "integer": true, "min": 1, "max": 9, "default": 4},
        {"name": "ratio", "type": "number", "min": 0, "max": 1},
        {"name": "one", "type": "select", "options": ["a", {"value": "b", "label": "Bee"}], "required": true},
        {"name": "some", "type": "multiselect", "options": ["x", "y", "z"]},
        {"name": "flag", "type": "checkbox", "default": false},
        {"name": "mail", "type": "email"},
        {"name": "page", "type": "url"},
        {"name": "day", "type": "date"},
    ]))
}

fn refused(input: Value) -> String {
    let problems = every_kind().check(&input).unwrap_err();
    problems.iter().map(|problem| format!("{} {}: {}\n", problem.pointer, problem.code, problem.detail)).collect()
}

#[test]
fn a_good_input_comes_back_in_order_with_its_defaults() {
    let input =
        json!({"one": "b", "line": "hello", "ratio": 0.5, "count": 3.0, "mail": "", "day": "2024-02-29", "long": null});

    let checked = every_kind().check(&input).unwrap();

    assert_eq!(
        checked,
        json!({"line": "hello", "count": 3, "ratio": 0.5, "one": "b", "flag": false, "day": "2024-02-29"})
    );
    assert!(checked["count"].is_u64());
}

#[test]
fn every_wrong_answer_is_named_with_its_pointer() {
    insta::assert_snapshot!(refused(json!({
        "line": "much too long a line", "long": "ab", "count": 2.5, "ratio": 7, "one": "c", "some": ["x", "x"],
        "flag": "yes", "mail": "nobody", "page": "ftp://x", "day": "2023-02-29", "lines": 1, "a/b~c": 2,
    })), @r#"
    /a~1b~0c unknown_field: the form has no such field; known: count, day, flag, line, long, mail, one, page, ratio, some
    /lines unknown_field: the form has no such field; did you mean `line`?
    /line too_long: the text has 20 characters; at most 10 are allowed
    /long too_short: the text has 2 characters; at least 3 are wanted
    /count wrong_type: the answer is a whole number
    /ratio too_big: the greatest value is 1
    /one not_an_option: choose one of: a, b
    /some/1 duplicate: an option can be chosen once
    /flag wrong_type: the answer is true or false
    /mail invalid_format: the answer is an e-mail address, such as name@example.org
    /page invalid_format: the answer is an http or https address
    /day invalid_format: the answer is a date of the form YYYY-MM-DD
    "#);
    insta::assert_snapshot!(refused(json!({"one": 5, "some": ["x", "q"], "count": 10, "ratio": "1", "page": "https://"})), @r#"
    /line required: an answer is required
    /count too_big: the greatest value is 9
    /ratio wrong_type: the answer is a number
    /one wrong_type: the answer is a text
    /some/1 not_an_option: choose one of: x, y, z
    /page invalid_format: the answer is an http or https address
    "#);
    insta::assert_snapshot!(refused(json!([1])), @" wrong_type: the input is an object with one entry per field");
    insta::assert_snapshot!(refused(json!({"line": "a\u{0}b", "one": "a", "long": "   "})), @"/line invalid_character: the text contains the character U+0000");
    insta::assert_snapshot!(refused(json!({"line": "  ", "one": null, "some": {"x": 1}})), @r#"
    /line required: an answer is required
    /one required: an answer is required
    /some wrong_type: the answer is a list of options
    "#);
}

#[test]
fn an_input_of_great_depth_is_refused_where_it_begins() {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    insta::assert_snapshot!(refused(json!({"line": deep.clone(), "one": "a", "unknown": deep})), @r#"
    /unknown unknown_field: the form has no such field; known: count, day, flag, line, long, mail, one, page, ratio, some
    /line wrong_type: the answer is a text
    "#);
}

#[test]
fn the_published_schema_says_what_is_checked() {
    let schema = every_kind().json_schema();

    assert_eq!(schema["required"], json!(["line", "one"]));
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(
        schema["properties"]["count"],
        json!({"type": "integer", "title": "count", "default": 4, "minimum": 1.0, "maximum": 9.0})
    );
    assert_eq!(schema["properties"]["one"]["oneOf"][1], json!({"const": "b", "title": "Bee"}));
    JsonSchema::compile(&schema).unwrap();
}

fn answers() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_i64..12).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["a", "b", "x", "2024-01-31", "me@example.org", "https://example.org/x", "\u{0}"])
            .prop_map(Value::from),
        prop::collection::vec(prop::sample::select(vec!["x", "y", "z", "q"]), 0..4).prop_map(Value::from),
    ]
}

proptest! {
    #[test]
    fn what_is_accepted_satisfies_the_published_schema_and_stays_accepted(
        given in prop::collection::btree_map(prop::sample::select(vec!["line", "long", "count", "ratio", "one", "some", "flag", "mail", "page", "day", "?"]), answers(), 0..11)
    ) {
        let (form, input) = (every_kind(), json!(given));
        match form.check(&input) {
            Ok(checked) => {
                prop_assert!(JsonSchema::compile(&form.json_schema()).unwrap().check(&checked).is_ok(), "{checked}");
                prop_assert_eq!(form.check(&checked).unwrap(), checked);
            }
            Err(problems) => {
                let mut pointers: Vec<_> = problems.iter().map(|problem| problem.pointer.clone()).collect();
                pointers.dedup();
                prop_assert_eq!(pointers.len(), problems.len());
                prop_assert!(!problems.is_empty());
            }
        }
    }
}

#[test]
fn a_form_is_written_by_hand_with_few_words() {
    let field: Field = serde_json::from_value(json!({"name": "topic", "type": "text"})).unwrap();
    assert_eq!(field.kind, Some(FieldKind::Text));
    assert!(!field.required);
}
