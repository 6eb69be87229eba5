//! Rules of the house that no compiler knows.

use std::path::{Path, PathBuf};

/// A test waits for what it wants to see. Where time itself is the subject, a comment `Sleeps: ..` says why.
#[test]
fn no_test_sleeps_in_place_of_waiting() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for one in std::fs::read_dir(crates).unwrap().flatten() {
        sources(&one.path().join("tests"), &mut files);
    }
    assert!(files.len() > 20, "the tests are found: {files:?}");

    let unexplained: Vec<String> = files.iter().flat_map(|file| sleeps(file)).collect();

    assert!(unexplained.is_empty(), "wait for a state instead (testkit::wait):\n{}", unexplained.join("\n"));
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sleeps(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let called =
        |line: &str| ["::sleep(", " sleep(", "::sleep_until(", " sleep_until("].iter().any(|call| line.contains(call));
    let explained = |at: usize| lines[at.saturating_sub(2)..at].iter().any(|line| line.contains("// Sleeps: "));
    let unexplained = (0..lines.len()).filter(|at| called(lines[*at]) && !explained(*at) && !lines[*at].contains('"'));
    unexplained.map(|at| format!("{}:{}", file.display(), at + 1)).collect()
}
