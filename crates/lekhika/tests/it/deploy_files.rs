//! The compose file and the Dockerfile, checked without a container engine: what they name exists, and who may reach whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

/// The keys of a service that we use. A key that is not here is a typing mistake until it is added.
const SERVICE_KEYS: [&str; 20] = [
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "entrypoint",
    "environment",
    "healthcheck",
    "hostname",
    "image",
    "network_mode",
    "networks",
    "ports",
    "read_only",
    "restart",
    "security_opt",
    "stop_grace_period",
    "tmpfs",
    "ulimits",
    "user",
    "volumes",
];

/// Only these may know the database.
const LEDGER: [&str; 3] = ["migrate", "postgres", "status"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn compose() -> Value {
    serde_saphyr::from_str(&read("docker-compose.yml")).expect("docker-compose.yml is YAML")
}

fn services() -> BTreeMap<String, Map<String, Value>> {
    serde_json::from_value(compose()["services"].clone()).expect("services are objects")
}

fn is_ours(service: &Map<String, Value>) -> bool {
    service["image"].as_str().is_some_and(|image| image.starts_with("lekhika:"))
}

/// A list of texts; a missing one is empty.
fn texts(service: &Map<String, Value>, key: &str) -> Vec<String> {
    service.get(key).map_or_else(Vec::new, |list| serde_json::from_value(list.clone()).expect("a list of texts"))
}

fn environment(service: &Map<String, Value>) -> BTreeMap<String, Value> {
    service.get("environment").map_or_else(BTreeMap::new, |map| serde_json::from_value(map.clone()).unwrap())
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn a_service_has_an_image_a_restart_policy_and_only_known_keys() {
    for (name, service) in services() {
        for key in service.keys() {
            assert!(SERVICE_KEYS.contains(&key.as_str()), "{name} has the unknown key `{key}`");
        }
        let image = service["image"].as_str().unwrap();
        let (repository, tag) = image.split_once(':').unwrap_or_else(|| panic!("{name}: `{image}` has no tag"));
        assert_ne!(tag, "latest", "{name} is not pinned");
        assert!(!repository.split('/').next().unwrap().contains('.'), "{name}: `{image}` names a registry");
        assert!(["unless-stopped", "no"].contains(&service["restart"].as_str().unwrap()), "{name}");
        if let Some(build) = service.get("build") {
            assert!(root().join(build["context"].as_str().unwrap()).is_dir(), "{name}");
            assert!(root().join(build["dockerfile"].as_str().unwrap()).is_file(), "{name}");
        }
    }
}

#[test]
fn every_named_volume_and_network_is_declared_and_every_declared_one_is_used() {
    let file = compose();
    let mut volumes = BTreeSet::new();
    let mut networks = BTreeSet::new();
    for service in services().values() {
        volumes.extend(texts(service, "volumes").iter().map(|mount| mount.split(':').next().unwrap().to_owned()));
        networks.extend(texts(service, "networks"));
    }

    assert_eq!(volumes, keys(&file["volumes"]));
    assert_eq!(networks, keys(&file["networks"]));
}

#[test]
fn a_service_waits_only_for_what_can_become_ready() {
    let services = services();

    for (name, service) in &services {
        let Some(depends) = service.get("depends_on") else { continue };
        for (on, how) in depends.as_object().unwrap() {
            let other = services.get(on).unwrap_or_else(|| panic!("{name} depends on {on}, which does not exist"));
            match how["condition"].as_str().unwrap() {
                "service_healthy" => assert!(other["healthcheck"].get("test").is_some(), "{on} has no health check"),
                "service_completed_successfully" => assert_eq!(other["restart"], "no", "{on} never completes"),
                condition => panic!("{name} waits for {on} by `{condition}`"),
            }
        }
    }
    for (name, service) in &services {
        let settled = service["healthcheck"].get("test").is_some() || service["restart"] == "no";
        assert!(settled, "nobody knows whether {name} is well");
    }
}

#[test]
fn our_image_is_called_with_commands_that_exist() {
    let mut roles = BTreeSet::new();
    for (name, service) in services().iter().filter(|(_, service)| is_ours(service)) {
        let command = texts(service, "command");
        lekhika::cli::command()
            .try_get_matches_from(std::iter::once("lekhika").chain(command.iter().map(String::as_str)))
            .unwrap_or_else(|error| panic!("{name} runs `lekhika {}`: {error}", command.join(" ")));
        roles.insert(command[0].clone());
        if let Some(test) = service["healthcheck"].get("test") {
            assert_eq!(test[0], "CMD", "{name}");
            assert_eq!(test[1], "lekhika", "{name}");
            let words: Vec<&str> = test.as_array().unwrap()[1..].iter().map(|word| word.as_str().unwrap()).collect();
            lekhika::cli::command().try_get_matches_from(words).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    assert_eq!(roles, BTreeSet::from(["executor", "gateway", "migrate", "simulator", "status"].map(str::to_owned)));
}

#[test]
fn every_service_gets_what_all_services_need() {
    for (name, service) in services() {
        let serves = ["gateway", "status", "executor"].contains(&texts(&service, "command").concat().as_str());
        let variables = environment(&service);
        for needed in ["LEKHIKA_AMQP_URL", "LEKHIKA_SERVICE_SECRET", "LEKHIKA_STATUS_URLS", "LEKHIKA_INTERNAL_ADDR"] {
            assert!(!is_ours(&service) || !serves || variables.contains_key(needed), "{name} lacks {needed}");
        }
    }
}

#[test]
fn the_layout_has_two_gateways_and_two_executors() {
    let count = |role: &str| services().values().filter(|service| texts(service, "command") == [role]).count();

    assert_eq!((count("gateway"), count("executor"), count("status")), (2, 2, 1));
}

#[test]
fn every_variable_from_outside_has_a_default_or_a_message() {
    let text = read("docker-compose.yml");
    let mut found = 0;
    for (start, _) in text.match_indices("${") {
        let inside = text[start + 2..].split('}').next().unwrap();
        assert!(inside.contains(":-") || inside.contains(":?"), "`${{{inside}}}` is empty when it is not set");
        found += 1;
    }
    assert!(found > 10, "the file takes {found} variables");
}

#[test]
fn every_variable_of_ours_is_documented() {
    let Ok(documented) = std::fs::read_to_string(root().join("docs/operations.md")) else { return };
    let services = services();
    let used: BTreeSet<String> =
        services.values().filter(|service| is_ours(service)).flat_map(environment_names).collect();

    for name in used {
        assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/operations.md");
    }
}

fn environment_names(service: &Map<String, Value>) -> Vec<String> {
    environment(service).into_keys().filter(|name| name.starts_with("LEKHIKA_")).collect()
}

#[test]
fn only_status_and_the_migration_reach_the_database() {
    for (name, service) in services() {
        let allowed = LEDGER.contains(&name.as_str());
        let in_network = texts(&service, "networks").contains(&"ledger".to_owned());
        let knows_url = environment(&service).contains_key("LEKHIKA_DATABASE_URL");

        assert_eq!(in_network, allowed, "{name} and the network `ledger`");
        assert!(!knows_url || allowed, "{name} knows the database's URL");
    }
}

#[test]
fn ports_are_published_once_and_only_on_the_loopback_interface() {
    let mut published = BTreeSet::new();
    for (name, service) in services() {
        for port in texts(&service, "ports") {
            let host = port.rsplit_once(':').unwrap().0.to_owned();
            assert!(host.starts_with("127.0.0.1:"), "{name} publishes `{port}` to everyone");
            assert!(published.insert(host), "`{port}` is published twice");
        }
    }
    assert_eq!(published.len(), 4);
}

#[test]
fn the_image_is_built_from_files_that_exist_and_runs_as_nobody_special() {
    let text = read("deploy/Dockerfile");
    // A line that ends with a backslash goes on.
    let joined = text.replace("\\\n", " ");
    let instructions: Vec<Vec<&str>> =
        joined.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace().collect()).collect();
    let last = |name: &str| instructions.iter().rfind(|words| words.first() == Some(&name)).unwrap();

    for copy in instructions.iter().filter(|words| words.first() == Some(&"COPY")) {
        if copy[1].starts_with("--from=") {
            continue;
        }
        for source in &copy[1..copy.len() - 1] {
            assert!(root().join(source).exists(), "the Dockerfile copies `{source}`");
        }
    }
    assert_eq!(last("ENTRYPOINT")[1], "[\"lekhika\"]");
    assert!(last("HEALTHCHECK").contains(&"\"health\","));
    let user = last("USER")[1];
    assert!(user.starts_with(|digit: char| ('1'..='9').contains(&digit)), "it runs as `{user}`");
}

#[test]
fn the_build_sees_everything_it_compiles_and_no_local_data() {
    let ignored = read("deploy/Dockerfile.dockerignore");
    let lines: Vec<&str> = ignored.lines().filter(|line| !line.starts_with('#')).collect();

    assert_eq!(lines[0], "*", "it is a list of what is let in");
    for needed in ["Cargo.toml", "Cargo.lock", "crates", "migrations"] {
        assert!(lines.contains(&format!("!{needed}").as_str()), "{needed} is missing");
        assert!(root().join(needed).exists(), "{needed} does not exist");
    }
}
