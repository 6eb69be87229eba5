//! The compose file and the Dockerfile, checked without a container engine: what they name exists, what they say is
//! understood by those it is said to, and who may reach whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use broker::AmqpConfig;
use service::{Environment, telemetry::TelemetryConfig};

use crate::compose::{self, Compose, Condition, Restart, Service};

/// Only these may know the database.
const LEDGER: [&str; 3] = ["migrate", "postgres", "status"];

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn file() -> Compose {
    compose::read(&read("docker-compose.yml")).unwrap_or_else(|error| panic!("docker-compose.yml: {error}"))
}

fn services() -> BTreeMap<String, Service> {
    file().services
}

fn is_ours(service: &Service) -> bool {
    service.image.starts_with("lekhika:")
}

/// The first argument of our image.
fn role(service: &Service) -> &str {
    service.command.as_ref().and_then(|words| words.first()).map_or("", String::as_str)
}

#[test]
fn a_service_has_an_image_of_a_fixed_version_and_a_build_that_exists() {
    for (name, service) in services() {
        let (repository, tag) = service.image.split_once(':').unwrap_or_else(|| panic!("{name} has no tag"));
        assert_ne!(tag, "latest", "{name} is not pinned");
        assert!(!repository.split('/').next().unwrap().contains('.'), "{name}: `{repository}` names a registry");
        if let Some(build) = &service.build {
            assert!(root().join(&build.context).is_dir(), "{name}");
            assert!(root().join(&build.dockerfile).is_file(), "{name}");
        }
    }
}

#[test]
fn every_named_volume_and_network_is_declared_and_every_declared_one_is_used() {
    let file = file();
    let volumes: BTreeSet<&String> =
        file.services.values().flat_map(|service| &service.volumes).map(|mount| &mount.volume).collect();
    let networks: BTreeSet<&String> = file.services.values().flat_map(|service| &service.networks).collect();

    assert_eq!(volumes, file.volumes.keys().collect());
    assert_eq!(networks, file.networks.keys().collect());
}

#[test]
fn a_service_waits_only_for_what_can_become_ready() {
    let services = services();

    for (name, service) in &services {
        for (on, how) in &service.depends_on {
            let other = services.get(on).unwrap_or_else(|| panic!("{name} depends on {on}, which does not exist"));
            match how.condition {
                Condition::ServiceHealthy => assert!(!other.healthcheck.test.is_empty(), "{on} has no health check"),
                Condition::ServiceCompletedSuccessfully => {
                    assert_eq!(other.restart, Restart::No, "{on} never completes");
                }
            }
        }
        let settled = !service.healthcheck.test.is_empty() || service.restart == Restart::No;
        assert!(settled, "nobody knows whether {name} is well");
    }
}

#[test]
fn our_image_is_called_with_commands_that_exist() {
    let services = services();
    let mut roles = BTreeSet::new();
    for (name, service) in services.iter().filter(|(_, service)| is_ours(service)) {
        let command = service.command.as_deref().unwrap_or_default();
        lekhika::cli::command()
            .try_get_matches_from(std::iter::once("lekhika").chain(command.iter().map(String::as_str)))
            .unwrap_or_else(|error| panic!("{name} runs `lekhika {}`: {error}", command.join(" ")));
        roles.insert(role(service));
        if let [how, words @ ..] = service.healthcheck.test.as_slice() {
            assert_eq!((how.as_str(), words[0].as_str()), ("CMD", "lekhika"), "{name}");
            lekhika::cli::command().try_get_matches_from(words).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    assert_eq!(roles, BTreeSet::from(["executor", "gateway", "migrate", "simulator", "status"]));
}

#[test]
fn every_service_of_ours_accepts_what_it_is_told() {
    for (name, service) in services().iter().filter(|(_, service)| is_ours(service)) {
        let variables = service.environment.iter().map(|(name, value)| (name.clone(), value.text()));
        let environment = Environment::of(variables);
        let read = match role(service) {
            "gateway" => gateway::GatewayConfig::from_environment(&environment).map(drop),
            "status" => status::StatusConfig::from_environment(&environment).map(drop),
            "executor" => executor::ExecutorConfig::from_environment(&environment).map(drop),
            "migrate" => environment.secret_url("LEKHIKA_DATABASE_URL", &["postgres"]).map(drop),
            "simulator" => environment.required_parsed::<std::net::SocketAddr>("LEKHIKA_SIMULATOR_ADDR").map(drop),
            other => panic!("{name} runs the unknown role {other}"),
        };
        let serves = ["gateway", "status", "executor"].contains(&role(service));
        let amqp = serves.then(|| AmqpConfig::from_environment(&environment, name).map(drop));
        let telemetry = TelemetryConfig::from_environment(&environment);

        environment.finish().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(read.is_ok() && amqp.is_none_or(|amqp| amqp.is_ok()) && telemetry.is_ok(), "{name}");
    }
}

#[test]
fn every_url_inside_names_a_service_that_shares_a_network() {
    let services = services();
    for (name, service) in services.iter().filter(|(_, service)| is_ours(service)) {
        for (variable, value) in &service.environment {
            let Ok(url) = url::Url::parse(&value.text()) else { continue };
            let Some(host) = url.host_str().filter(|host| *host != "127.0.0.1" && url.scheme() != "s3") else {
                continue;
            };
            let target = services.get(host).unwrap_or_else(|| panic!("{name}: {variable} names the unknown `{host}`"));
            let shared = target.networks.iter().any(|network| service.networks.contains(network));
            assert!(shared, "{name} cannot reach {host} ({variable})");
        }
    }
}

#[test]
fn the_layout_has_two_gateways_and_two_executors() {
    let services = services();
    let count = |wanted: &str| services.values().filter(|service| role(service) == wanted).count();

    assert_eq!((count("gateway"), count("executor"), count("status")), (2, 2, 1));
}

#[test]
fn every_service_that_writes_traces_can_reach_a_collector_outside() {
    let file = file();
    for (name, service) in &file.services {
        let traces = service.environment.contains_key("LEKHIKA_OTLP_ENDPOINT");
        let way_out = service.networks.iter().any(|network| !file.networks[network].internal);
        assert!(!traces || way_out, "{name} is on internal networks only");
    }
}

#[test]
fn only_status_and_the_migration_reach_the_database() {
    for (name, service) in services() {
        let allowed = LEDGER.contains(&name.as_str());
        let in_network = service.networks.iter().any(|network| network == "ledger");
        let knows_url = service.environment.contains_key("LEKHIKA_DATABASE_URL");

        assert_eq!(in_network, allowed, "{name} and the network `ledger`");
        assert!(!knows_url || allowed, "{name} knows the database's URL");
    }
}

#[test]
fn ports_are_published_once_and_only_on_the_loopback_interface() {
    let mut published = BTreeSet::new();
    for (name, service) in services() {
        for port in &service.ports {
            assert!(port.host.ip().is_loopback(), "{name} publishes {} to everyone", port.host);
            assert!(published.insert(port.host), "{} is published twice", port.host);
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
    // The engines of `examples` and the `migrations` are compiled into the binary.
    for needed in ["Cargo.toml", "Cargo.lock", "crates", "migrations", "examples"] {
        assert!(lines.contains(&format!("!{needed}").as_str()), "{needed} is missing");
        assert!(root().join(needed).exists(), "{needed} does not exist");
    }
}

#[test]
fn the_first_steps_of_the_guide_are_commands_that_exist() {
    let guide = read("deploy/README.md");
    let line = guide.lines().find(|line| line.contains("admin token")).expect("it says how to get a token");
    let words = line.split('#').next().unwrap().split_whitespace().skip_while(|word| *word != "lekhika");

    lekhika::cli::command().try_get_matches_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
    // Making levels, users and keys is more than an operator may do.
    assert!(line.contains("--role owner"), "{line}");
}
