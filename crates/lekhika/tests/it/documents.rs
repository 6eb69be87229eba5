//! What the documents tell people to paste is what the shipped engines take.

use std::path::Path;

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
