//! The rules of a form: what its fields may say.

use std::collections::HashSet;

use super::{
    compile::shown,
    form::{Field, FieldKind, InputForm, MAX_FIELDS, MAX_OPTIONS, check_answer},
    problem::{Problems, below},
    structure::is_id,
};

/// Checks every field of the input node at `node`.
pub(super) fn check(form: &InputForm, node: usize, problems: &mut Problems) {
    let place = format!("/nodes/{node}/fields");
    if form.fields.len() > MAX_FIELDS {
        problems.add(place, "too_many", format!("a form has at most {MAX_FIELDS} fields"));
        return;
    }
    let mut names = HashSet::new();
    for (at, field) in form.fields.iter().enumerate() {
        let place = below(&place, at);
        check_name(field, &place, problems);
        if !field.name.is_empty() && !names.insert(field.name.as_str()) {
            let message = format!("the form has a field `{}` already", shown(&field.name));
            problems.add(below(&place, "name"), "duplicate_field", message);
        }
        match field.kind {
            Some(kind) => check_kind(field, kind, &place, problems),
            None => problems.add_missing(below(&place, "type"), "the field says no `type`"),
        }
    }
}

fn check_name(field: &Field, place: &str, problems: &mut Problems) {
    if field.name.is_empty() {
        problems.add_missing(below(place, "name"), "the field has no `name`");
    } else if !is_id(&field.name) {
        let message = format!("`{}` cannot be a field's name", shown(&field.name));
        let hint = "letters, digits and underscores, beginning with a letter, at most 64".to_owned();
        problems.add_with_hint(below(place, "name"), "bad_id", message, hint);
    }
}

fn check_kind(field: &Field, kind: FieldKind, place: &str, problems: &mut Problems) {
    let only = [
        ("options", field.options.is_some(), kind.has_options(), "select and multiselect"),
        ("min", field.min.is_some(), kind == FieldKind::Number, "numbers"),
        ("max", field.max.is_some(), kind == FieldKind::Number, "numbers"),
        ("integer", field.integer, kind == FieldKind::Number, "numbers"),
        ("minLength", field.min_length.is_some(), kind.is_text(), "texts"),
        ("maxLength", field.max_length.is_some(), kind.is_text(), "texts"),
    ];
    for (name, said, fits, whom) in only {
        if said && !fits {
            problems.add(below(place, name), "not_for_this_type", format!("`{name}` is for {whom}"));
        }
    }
    if field.min.zip(field.max).is_some_and(|(min, max)| min > max) {
        problems.add(below(place, "min"), "out_of_range", "`min` is greater than `max`");
    }
    if field.min_length.is_some_and(|least| least > field.max_length.unwrap_or(u64::MAX)) {
        problems.add(below(place, "minLength"), "out_of_range", "`minLength` is greater than `maxLength`");
    }
    if kind.has_options() {
        check_options(field, place, problems);
    }
    if let Some(default) = &field.default
        && let Err(problem) = check_answer(field, default, &below(place, "default"))
    {
        problems.add(problem.pointer, "bad_default", format!("the default is no valid answer: {}", problem.detail));
    }
}

fn check_options(field: &Field, place: &str, problems: &mut Problems) {
    let options = field.options.as_deref().unwrap_or_default();
    let place = below(place, "options");
    if options.is_empty() {
        problems.add_missing(place, "the field has no `options` to choose from");
        return;
    }
    if options.len() > MAX_OPTIONS {
        problems.add(place, "too_many", format!("a field has at most {MAX_OPTIONS} options"));
        return;
    }
    let mut values = HashSet::new();
    for (at, option) in options.iter().enumerate() {
        if !values.insert(option.value.as_str()) {
            problems.add(
                below(&place, at),
                "duplicate_option",
                format!("the option `{}` stands twice", shown(&option.value)),
            );
        } else if option.value.is_empty() {
            problems.add(below(&place, at), "empty_option", "an option's value is not empty");
        }
    }
}
