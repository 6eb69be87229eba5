//! What the documents tell people to paste is what the shipped engines take, and what they name is there.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use domain::flow::CompiledFlow;
use serde_json::Value;

/// The bodies of all `curl .. -d '{..}'` of a document.
fn bodies(document: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    text.split("-d '").skip(1).map(|rest| serde_json::from_str(rest.split('\'').next().unwrap()).unwrap()).collect()
}

#[test]
fn the_first_request_of_the_readme_fits_the_engine_that_it_names() {
    let engine = CompiledFlow::from_text(lekhika::bootstrap::ENGINES[0]).unwrap();

    let bodies = bodies("README.md");

    assert!(!bodies.is_empty());
    for body in bodies {
        engine.check_input(&body["input"]).unwrap();
        for name in body["input"].as_object().unwrap().keys() {
            assert!(engine.form().field(name).is_some(), "field-guide has no field `{name}`");
        }
    }
}

/// Every source file by its path below `crates`, with its text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                sources.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    sources
}

/// What is wrong with a name such as `executor/attempt/call.rs::count` (code) or `storage/crashes::*` (tests).
fn missing(sources: &[(String, String)], name: &str) -> Option<String> {
    let (path, symbol) = name.split_once("::").map_or((name, None), |(path, symbol)| (path, Some(symbol)));
    let is_there: Box<dyn Fn(&str) -> bool> = if path.ends_with(".rs") {
        let path = format!("/{path}");
        Box::new(move |source| {
            let source = format!("/{source}");
            source.ends_with(&path) || source.replace("/src/", "/").ends_with(&path)
        })
    } else {
        let (package, file) = path.split_once('/')?;
        let path = format!("{package}/tests/it/{file}.rs");
        Box::new(move |source| source == path)
    };
    let mut found = sources.iter().filter(|(source, _)| is_there(source)).peekable();
    if found.peek().is_none() {
        return Some(format!("there is no file `{path}`"));
    }
    let symbol = symbol?.trim_end_matches(['*', '.']);
    let word = symbol.rsplit("::").next().unwrap_or_default();
    (!found.any(|(_, text)| text.contains(word))).then(|| format!("`{path}` has no `{symbol}`"))
}

#[test]
fn every_file_and_test_that_the_documents_name_is_there() {
    let sources = sources();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let decisions = std::fs::read_dir(folder.join("decisions")).unwrap().map(|entry| entry.unwrap().path());
    let documents = ["architecture.md", "data-model.md", "operations.md"].map(|name| folder.join(name));
    let mut named = 0;
    let mut wrong = Vec::new();
    for document in documents.into_iter().chain(decisions) {
        let text = std::fs::read_to_string(&document).unwrap();
        // Every second piece is inside of backticks.
        let names = text.split('`').skip(1).step_by(2).filter(|name| {
            let path = name.split("::").next().unwrap_or_default();
            let plain = !path.is_empty() && path.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c));
            plain
                && *name != "crate/file::function"
                && (path.ends_with(".rs") || (path.contains('/') && name.contains("::")))
        });
        for name in names {
            named += 1;
            wrong.extend(missing(&sources, name).map(|why| format!("{}: {name}: {why}", document.display())));
        }
    }

    assert!(named > 100, "{named}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_metric_is_in_the_operators_table() {
    let table =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md")).unwrap();
    let in_table: BTreeSet<&str> = table.split('`').filter(|word| word.starts_with("lekhika_")).collect();
    let sources = sources();
    let in_code: BTreeSet<&str> = sources
        .iter()
        .filter(|(source, _)| source.contains("/src/"))
        .flat_map(|(_, text)| text.split('"'))
        .filter(|word| word.starts_with("lekhika_") && word.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();

    assert!(in_code.len() > 30);
    assert_eq!(in_code, in_table);
}
