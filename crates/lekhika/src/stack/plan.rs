//! Which processes a stack has, and what each is told: no more than its role needs.

use std::{collections::BTreeMap, net::TcpListener, path::Path, time::Duration};

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use service::Environment;

use super::member::Member;
use crate::{bootstrap::Secrets, cli::StackArguments};

/// How long executors may drain when the stack ends.
const DRAIN: Duration = Duration::from_secs(5);
/// What of the caller's environment reaches every process, or one role.
const KEPT: [&str; 3] = ["LEKHIKA_LOG", "LEKHIKA_LOG_FORMAT", "LEKHIKA_OTLP_ENDPOINT"];
const KEPT_BY_GATEWAYS: [&str; 1] = ["LEKHIKA_MODELS"];
const KEPT_BY_EXECUTORS: [&str; 5] = [
    "LEKHIKA_OPENAI_API_KEY",
    "LEKHIKA_OPENAI_BASE_URL",
    "LEKHIKA_OPENAI_DIALECT",
    "LEKHIKA_CALL_TIMEOUT_MS",
    "LEKHIKA_STORE_PATIENCE_MS",
];
const KEPT_BY_SIMULATORS: [&str; 1] = ["LEKHIKA_SIMULATOR_SEED"];

/// What the plan is made from.
pub(super) struct Ground<'a> {
    pub(super) arguments: &'a StackArguments,
    pub(super) environment: &'a Environment,
    pub(super) secrets: &'a Secrets,
    pub(super) folder: &'a Path,
    pub(super) database_url: &'a str,
    pub(super) amqp_url: &'a str,
}

/// The processes in the order of their start, and where they are reached.
pub(super) struct Plan {
    pub(super) members: Vec<Member>,
    pub(super) public_urls: Vec<String>,
    pub(super) admin_url: String,
    pub(super) simulator_url: String,
}

impl Plan {
    pub(super) fn new(ground: &Ground<'_>) -> anyhow::Result<Self> {
        let mut ports = Ports::default();
        let simulator = ports.next()?;
        let statuses: Vec<String> =
            (0..ground.arguments.statuses).map(|_| ports.next()).collect::<anyhow::Result<_>>()?;
        let status_urls = statuses.iter().map(|address| url(address)).collect::<Vec<_>>().join(",");
        let simulator_url = url(&simulator);
        let mut members = vec![ground.simulator(&simulator)];
        members.extend(statuses.iter().zip(1..).map(|(address, number)| ground.status(number, address)));
        let (mut public_urls, mut admin_url) = (Vec::new(), String::new());
        for number in 1..=ground.arguments.gateways {
            let (public, admin) = (ports.next()?, ports.next()?);
            public_urls.push(url(&public));
            if number == 1 {
                admin_url = url(&admin);
            }
            members.push(ground.gateway(number, [public, admin, ports.next()?], &status_urls));
        }
        for number in 1..=ground.arguments.executors {
            members.push(ground.executor(number, ports.next()?, &status_urls, &simulator_url));
        }
        Ok(Self { members, public_urls, admin_url, simulator_url })
    }
}

impl Ground<'_> {
    fn simulator(&self, address: &str) -> Member {
        let arguments = vec!["simulator".to_owned(), "--address".to_owned(), address.to_owned()];
        let mut member = Member::new("simulator", "simulator".to_owned(), arguments, url(address));
        member.environment = self.kept(&KEPT_BY_SIMULATORS);
        member
    }

    fn status(&self, number: u16, address: &str) -> Member {
        let mut member = service("status", number, address);
        member.environment = self.kept(&[]);
        member.environment.extend([
            ("LEKHIKA_INTERNAL_ADDR", address.to_owned()),
            ("LEKHIKA_SELF_URL", url(address)),
            ("LEKHIKA_DATABASE_URL", self.database_url.to_owned()),
            ("LEKHIKA_AMQP_URL", self.amqp_url.to_owned()),
            ("LEKHIKA_SERVICE_SECRET", self.secrets.service().expose_secret().to_owned()),
        ]);
        member
    }

    fn gateway(&self, number: u16, [public, admin, internal]: [String; 3], status_urls: &str) -> Member {
        let mut member = service("gateway", number, &internal);
        member.environment = self.kept(&KEPT_BY_GATEWAYS);
        member.environment.extend([
            ("LEKHIKA_PUBLIC_ADDR", public),
            ("LEKHIKA_ADMIN_ADDR", admin),
            ("LEKHIKA_INTERNAL_ADDR", internal),
            ("LEKHIKA_STATUS_URLS", status_urls.to_owned()),
            ("LEKHIKA_AMQP_URL", self.amqp_url.to_owned()),
            ("LEKHIKA_SERVICE_SECRET", self.secrets.service().expose_secret().to_owned()),
            ("LEKHIKA_KEY_PEPPER", self.secrets.key_pepper().expose_secret().to_owned()),
            ("LEKHIKA_ADMIN_SECRET", self.secrets.admin().expose_secret().to_owned()),
            ("LEKHIKA_LINK_SECRET", self.secrets.link().expose_secret().to_owned()),
            ("LEKHIKA_OBJECT_STORE", self.files()),
        ]);
        member
    }

    fn executor(&self, number: u16, internal: String, status_urls: &str, simulator_url: &str) -> Member {
        let mut member = service("executor", number, &internal);
        member.environment = self.kept(&KEPT_BY_EXECUTORS);
        member.environment.extend([
            ("LEKHIKA_EXECUTOR_NAME", member.name.clone()),
            ("LEKHIKA_INTERNAL_ADDR", internal),
            ("LEKHIKA_STATUS_URLS", status_urls.to_owned()),
            ("LEKHIKA_SIMULATOR_URL", simulator_url.to_owned()),
            ("LEKHIKA_AMQP_URL", self.amqp_url.to_owned()),
            ("LEKHIKA_SERVICE_SECRET", self.secrets.service().expose_secret().to_owned()),
            ("LEKHIKA_OBJECT_STORE", self.files()),
            ("LEKHIKA_SLOTS", self.arguments.slots.to_string()),
            ("LEKHIKA_DRAIN_GRACE_MS", DRAIN.as_millis().to_string()),
        ]);
        member
    }

    fn files(&self) -> String {
        format!("file://{}", self.folder.join("files").display())
    }

    fn kept(&self, also: &[&'static str]) -> BTreeMap<&'static str, String> {
        let names = KEPT.iter().chain(also);
        names.filter_map(|name| Some((*name, self.environment.optional(name)?))).collect()
    }
}

fn service(role: &'static str, number: u16, internal: &str) -> Member {
    Member::new(role, format!("{role}-{number}"), vec![role.to_owned()], url(internal))
}

fn url(address: &str) -> String {
    format!("http://{address}")
}

/// Free ports, held until the plan is made, so that none is given twice.
#[derive(Default)]
struct Ports(Vec<TcpListener>);

impl Ports {
    fn next(&mut self) -> anyhow::Result<String> {
        let listener = instances::free_listener().context("no port is free")?;
        let address = listener.local_addr()?.to_string();
        self.0.push(listener);
        Ok(address)
    }
}
