//! Configuration: documented as it is, and a wrong value names its variable.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    deploy_files::{read, root},
    processes::lekhika,
};

/// Every `LEKHIKA_..` in a text; what ends with an underscore is the beginning of several.
fn names(text: &str) -> BTreeSet<String> {
    let starts = text.match_indices("LEKHIKA_").map(|(at, _)| &text[at..]);
    let is_part = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    let names = starts.map(|rest| rest.split(|letter| !is_part(letter)).next().unwrap().to_owned());
    names.filter(|name| !name.ends_with('_')).collect()
}

fn used_below(folder: &Path, names_found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            used_below(&path, names_found);
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            // What stands below is a test's own.
            names_found.extend(names(text.split("#[cfg(test)]").next().unwrap()));
        }
    }
}

fn used() -> BTreeSet<String> {
    let mut found = names(&read("docker-compose.yml"));
    found.extend(names(&read("justfile")));
    used_below(&root().join("scripts"), &mut found);
    for crate_folder in std::fs::read_dir(root().join("crates")).unwrap().flatten() {
        used_below(&crate_folder.path().join("src"), &mut found);
    }
    found
}

#[test]
fn the_table_of_variables_is_complete_and_has_none_that_nobody_reads() {
    let documents = read("docs/operations.md");
    let rows = documents.lines().filter(|line| line.starts_with("| `LEKHIKA_"));
    let documented: BTreeSet<String> = rows.flat_map(|row| names(row.split('|').nth(1).unwrap())).collect();
    let used = used();

    assert!(used.len() > 40, "the search finds {} variables", used.len());
    let missing: Vec<_> = used.difference(&documented).collect();
    assert!(missing.is_empty(), "not in docs/operations.md: {missing:?}");
    let superfluous: Vec<_> = documented.difference(&used).collect();
    assert!(superfluous.is_empty(), "in docs/operations.md, but nowhere else: {superfluous:?}");
}

const SECRET: &str = "a-secret-of-more-than-thirty-two-bytes";

/// What lets every role start, as far as its configuration goes.
fn good() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("LEKHIKA_AMQP_URL", "amqp://guest:guest@127.0.0.1:1/%2f"),
        ("LEKHIKA_DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"),
        ("LEKHIKA_SERVICE_SECRET", SECRET),
        ("LEKHIKA_KEY_PEPPER", SECRET),
        ("LEKHIKA_LINK_SECRET", SECRET),
        ("LEKHIKA_ADMIN_SECRET", SECRET),
        ("LEKHIKA_STATUS_URLS", "http://127.0.0.1:1"),
        ("LEKHIKA_OBJECT_STORE", "s3://bucket"),
        ("LEKHIKA_INTERNAL_ADDR", "127.0.0.1:0"),
        ("LEKHIKA_PUBLIC_ADDR", "127.0.0.1:0"),
        ("LEKHIKA_ADMIN_ADDR", "127.0.0.1:0"),
    ])
}

/// What a role says when it refuses to start.
fn refusal(role: &str, wrong: &[(&'static str, &'static str)]) -> String {
    let mut variables = good();
    variables.extend(wrong.iter().copied());
    let mut child =
        lekhika().arg(role).env_clear().envs(variables).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!(
                "{role} starts with {wrong:?}: {}",
                String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr)
            );
        }
        // Sleeps: the standard library has no wait with a deadline.
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success(), "{role} with {wrong:?}");
    String::from_utf8(output.stderr).unwrap()
}

const EVERY_ROLE: [(&str, &str); 8] = [
    ("LEKHIKA_AMQP_URL", "http://user:hunter2@rabbitmq"),
    ("LEKHIKA_AMQP_URL", ""),
    ("LEKHIKA_AMQP_QUEUE_TYPE", "mirrored"),
    ("LEKHIKA_SERVICE_SECRET", "short"),
    ("LEKHIKA_INTERNAL_ADDR", "9000"),
    ("LEKHIKA_LOG", "status=loud"),
    ("LEKHIKA_LOG_FORMAT", "xml"),
    ("LEKHIKA_OTLP_ENDPOINT", "collector:4318"),
];

const GATEWAY: [(&str, &str); 13] = [
    ("LEKHIKA_PUBLIC_ADDR", "nowhere"),
    ("LEKHIKA_ADMIN_ADDR", "8081"),
    ("LEKHIKA_PUBLIC_URL", "lekhika.example"),
    ("LEKHIKA_STATUS_URLS", "http://status:9000,status:9001"),
    ("LEKHIKA_STATUS_URLS", ""),
    ("LEKHIKA_KEY_PEPPER", "hunter2"),
    ("LEKHIKA_LINK_SECRET", "hunter2"),
    ("LEKHIKA_ADMIN_SECRET", "hunter2"),
    ("LEKHIKA_MODELS", "gpt"),
    ("LEKHIKA_OBJECT_STORE", "/files"),
    ("LEKHIKA_OBJECT_STORE", ""),
    ("LEKHIKA_S3_ENDPOINT", "store:7070"),
    ("LEKHIKA_S3_ALLOW_HTTP", "yes"),
];

const STATUS: [(&str, &str); 5] = [
    ("LEKHIKA_DATABASE_URL", "mysql://user:hunter2@host/database"),
    ("LEKHIKA_DATABASE_CONNECTIONS", "0"),
    ("LEKHIKA_DATABASE_CONNECTIONS", "many"),
    ("LEKHIKA_SELF_URL", "status:9000"),
    ("LEKHIKA_FAILPOINT", "intake.before_lunch"),
];

const EXECUTOR: [(&str, &str); 10] = [
    ("LEKHIKA_STATUS_URLS", "status:9000"),
    ("LEKHIKA_OBJECT_STORE", "ftp://files"),
    ("LEKHIKA_S3_ENDPOINT", "store:7070"),
    ("LEKHIKA_SLOTS", "0"),
    ("LEKHIKA_DRAIN_GRACE_MS", "soon"),
    ("LEKHIKA_CALL_TIMEOUT_MS", "-1"),
    ("LEKHIKA_STORE_PATIENCE_MS", "long"),
    ("LEKHIKA_OPENAI_BASE_URL", "localhost:11434"),
    ("LEKHIKA_OPENAI_DIALECT", "klingon"),
    ("LEKHIKA_SIMULATOR_URL", "simulator"),
];

#[test]
fn a_wrong_value_names_its_variable_and_shows_no_secret() {
    let own: [(&str, &[(&str, &str)]); 3] = [("gateway", &GATEWAY), ("status", &STATUS), ("executor", &EXECUTOR)];
    for (role, wrong) in own {
        for (name, value) in EVERY_ROLE.iter().chain(wrong) {
            let told = refusal(role, &[(name, value)]);
            assert!(told.contains(name), "{role} with {name}={value} says: {told}");
            assert!(!told.contains("hunter2"), "{role} with {name}={value} says: {told}");
        }
    }
}

#[test]
fn all_problems_of_a_process_are_named_at_once() {
    let wrong = [
        ("LEKHIKA_LOG_FORMAT", "xml"),
        ("LEKHIKA_AMQP_URL", ""),
        ("LEKHIKA_AMQP_QUEUE_TYPE", "mirrored"),
        ("LEKHIKA_SERVICE_SECRET", ""),
        ("LEKHIKA_STATUS_URLS", ""),
        ("LEKHIKA_OBJECT_STORE", "/files"),
        ("LEKHIKA_DATABASE_URL", ""),
    ];
    let common = ["LEKHIKA_LOG_FORMAT", "LEKHIKA_AMQP_URL", "LEKHIKA_AMQP_QUEUE_TYPE", "LEKHIKA_SERVICE_SECRET"];
    let own: [(&str, &[&str]); 3] = [
        ("gateway", &["LEKHIKA_STATUS_URLS", "LEKHIKA_OBJECT_STORE"]),
        ("status", &["LEKHIKA_DATABASE_URL"]),
        ("executor", &["LEKHIKA_STATUS_URLS", "LEKHIKA_OBJECT_STORE"]),
    ];
    for (role, expected) in own {
        let told = refusal(role, &wrong);
        for name in common.iter().chain(expected) {
            assert!(told.contains(name), "{role} does not name {name}: {told}");
        }
    }
}
