//! A status service with a client, a gateway's inbox and executors played by the test.

use std::{sync::Arc, time::Duration};

use broker::{Broker, Consumer, InProcessBroker, Inbox, Message, Queue, ReplyTo};
use domain::{
    ClaimId, EngineId, Event, EventBody, EventRecord, ExecutionId, ExecutorId, KeyId, Priority, Sequence, UnitKey,
    UserId, VersionId,
};
use protocol::{
    Envelope,
    claim::{CLAIMS_PATH, Claim, ClaimRequest, ClaimResponse, Grant, Held, RENEWALS_PATH, Renewal, RenewalResponse},
    dispatch::Dispatch,
    operate::{Deploy, Deployed, INVARIANTS_PATH, Invariants, PutLevel, PutUser},
    read::{EVENTS_PATH, EXECUTION_PATH, EventPage, ExecutionView, Found, ReadEvents, Subject},
    report::{Finish, REPORTS_PATH, Report, ReportRequest, ReportResponse, UnitReport, Verdict},
    submission::{Submission, SubmissionOutcome, SubmissionReplies, Submissions},
};
use secrecy::SecretString;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{json, value::RawValue};
use service::{Environment, InternalClient, ServiceTokens, Shutdown, SystemClock};
use testkit::{TestDatabase, wait};

const SECRET: &str = "a secret of at least thirty-two bytes";
pub const WITHIN: Duration = Duration::from_secs(10);

pub struct Bench {
    pub client: InternalClient,
    pub broker: Arc<InProcessBroker>,
    pub shutdown: Shutdown,
    pub user: UserId,
    pub engine: EngineId,
    pub version: VersionId,
    pub url: String,
    inbox: Inbox,
    dispatch: Consumer,
    pub database: TestDatabase,
}

pub fn now() -> chrono::DateTime<chrono::Utc> {
    service::Clock::now(&SystemClock)
}

pub async fn database() -> TestDatabase {
    TestDatabase::create(&storage::migrations_key(), async |url| Ok(storage::migrate(&url).await?)).await
}

pub fn config(database: &TestDatabase) -> status::StatusConfig {
    config_at(&database.url())
}

pub fn config_at(url: &str) -> status::StatusConfig {
    status::StatusConfig::from_environment(&Environment::of([
        ("LEKHIKA_INTERNAL_ADDR", "127.0.0.1:0"),
        ("LEKHIKA_DATABASE_URL", url),
        ("LEKHIKA_SERVICE_SECRET", SECRET),
    ]))
    .unwrap()
}

pub fn client(urls: Vec<String>) -> InternalClient {
    let secret = SecretString::from(SECRET);
    let tokens = ServiceTokens::new(&secret, "test", Arc::new(SystemClock)).unwrap();
    let http = service::http_client::build(&service::http_client::ClientConfig::reaching("http://127.0.0.1")).unwrap();
    InternalClient::new(http, urls, "status", Arc::new(tokens))
}

impl Bench {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With a limit of executions at once for the one user.
    pub async fn start_with(max_queued: Option<u32>) -> Self {
        let database = database().await;
        let url = database.url();
        Self::start_at(database, url, max_queued).await
    }

    /// With a database that status reaches at `url`.
    pub async fn start_at(database: TestDatabase, url: String, max_queued: Option<u32>) -> Self {
        let broker = Arc::new(InProcessBroker::new());
        let shutdown = Shutdown::new();
        let handle = status::run(config_at(&url), broker.clone(), Arc::new(SystemClock), shutdown.clone()).unwrap();
        let client = client(vec![handle.url.clone()]);
        let level = PutLevel {
            name: "test".into(),
            weight: 1.0,
            max_running: None,
            max_queued,
            requests_per_minute: None,
            max_priority: Priority::Urgent,
        };
        wait::until(WITHIN, "a leader", async || {
            post::<_, serde_json::Value>(&client, protocol::operate::LEVELS_PATH, &level)
                .await
                .map_err(|e| e.to_string())
        })
        .await;
        let user: protocol::operate::Created<UserId> =
            post(&client, protocol::operate::USERS_PATH, &PutUser { name: "ada".into(), level: "test".into() })
                .await
                .unwrap();
        let deploy =
            Deploy { name: "engine".into(), title: "Engine".into(), description: String::new(), flow: raw(json!({})) };
        let deployed: Deployed = post(&client, protocol::operate::DEPLOY_PATH, &deploy).await.unwrap();
        let inbox = broker.inbox(1024);
        let dispatch = broker.consume(Queue::Dispatch, 16);
        Self {
            client,
            broker,
            shutdown,
            user: user.id,
            engine: deployed.engine_id,
            version: deployed.version_id,
            url: handle.url,
            inbox,
            dispatch,
            database,
        }
    }

    pub fn submission(&self) -> Submission {
        Submission {
            execution_id: ExecutionId::generate(),
            user_id: self.user,
            engine_id: self.engine,
            user_engine_id: None,
            version_id: self.version,
            key_id: KeyId::generate(),
            input: raw(json!({"topic": "bees"})),
            priority: Priority::Normal,
            labels: std::collections::BTreeMap::new(),
            end_user: None,
            submitted_at: now(),
            deadline_at: None,
            queue_deadline_at: None,
            idempotency: None,
            parent: None,
            trace: None,
        }
    }

    pub async fn publish(&self, submissions: Vec<Submission>) {
        let letter = Envelope::new(Submissions { submissions }, None);
        self.send(&letter, self.inbox.address().borrow().clone()).await;
    }

    pub async fn send(&self, letter: &Envelope<Submissions>, reply_to: Option<ReplyTo>) {
        self.send_as_it_is(letter.to_bytes().unwrap(), reply_to).await;
    }

    /// A message that perhaps nobody can read; the answer comes to the test.
    pub async fn send_bytes(&self, bytes: Vec<u8>) {
        self.send_as_it_is(bytes, self.inbox.address().borrow().clone()).await;
    }

    async fn send_as_it_is(&self, bytes: Vec<u8>, reply_to: Option<ReplyTo>) {
        let message = Message::persistent(bytes).reply_to(reply_to);
        self.broker.publish(Queue::Submissions, message, WITHIN).await.unwrap();
    }

    pub async fn replies(&mut self) -> Vec<(ExecutionId, SubmissionOutcome)> {
        let bytes = tokio::time::timeout(WITHIN, self.inbox.next()).await.expect("a reply").unwrap();
        let replies = Envelope::<SubmissionReplies>::from_bytes(&bytes).unwrap().body.replies;
        replies.into_iter().map(|reply| (reply.execution_id, reply.outcome)).collect()
    }

    pub async fn submit(&mut self) -> ExecutionId {
        let submission = self.submission();
        let id = submission.execution_id;
        self.publish(vec![submission]).await;
        let replies = self.replies().await;
        assert!(matches!(replies[0].1, SubmissionOutcome::Accepted { .. }), "{replies:?}");
        id
    }

    /// The executions of the next hint.
    pub async fn dispatched(&mut self) -> Vec<ExecutionId> {
        self.dispatch().await.body.executions
    }

    /// The next hint.
    pub async fn dispatch(&mut self) -> Envelope<Dispatch> {
        let delivery = tokio::time::timeout(WITHIN, self.dispatch.next()).await.expect("a dispatch").unwrap();
        let envelope = Envelope::from_bytes(&delivery.body).unwrap();
        delivery.ack();
        envelope
    }

    pub async fn view(&self, id: ExecutionId) -> ExecutionView {
        match post(&self.client, EXECUTION_PATH, &self.subject(id)).await.unwrap() {
            Found::Found(view) => view,
            other => panic!("{other:?}"),
        }
    }

    pub fn subject(&self, id: ExecutionId) -> Subject {
        Subject { user_id: Some(self.user), user_engine_id: None, execution_id: id }
    }

    pub async fn events(&self, id: ExecutionId) -> Vec<Event> {
        let query = ReadEvents { subject: self.subject(id), after: Sequence::START, limit: 1000 };
        let page: Found<EventPage> = post(&self.client, EVENTS_PATH, &query).await.unwrap();
        let Found::Found(page) = page else { panic!("{page:?}") };
        page.events.iter().map(|record| serde_json::from_str(&record.data(id)).unwrap()).collect()
    }

    pub async fn names(&self, id: ExecutionId) -> Vec<&'static str> {
        self.events(id).await.iter().map(|event| event.body.name()).collect()
    }

    pub async fn all_is_well(&self) {
        let found: Invariants = post(&self.client, INVARIANTS_PATH, &json!({})).await.unwrap();
        assert_eq!(found.violations, []);
    }

    /// Statements of the test's own.
    pub async fn psql(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.database.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

pub async fn post<T: Serialize, R: DeserializeOwned>(
    client: &InternalClient,
    path: &str,
    body: &T,
) -> Result<R, service::InternalError> {
    client.post_json(path, body, WITHIN).await
}

pub fn raw(value: serde_json::Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(&value).unwrap()
}

/// An executor, as far as status can tell.
pub struct FakeExecutor {
    pub id: ExecutorId,
    client: InternalClient,
}

impl FakeExecutor {
    pub async fn join(bench: &Bench) -> Self {
        let this = Self { id: ExecutorId::generate(), client: bench.client.clone() };
        this.renew(vec![]).await;
        this
    }

    /// The same boot, after another replica took over.
    pub async fn rejoin(bench: &Bench, before: &Self) -> Self {
        let this = Self { id: before.id, client: bench.client.clone() };
        this.renew(vec![]).await;
        this
    }

    pub async fn renew(&self, held: Vec<Held>) -> RenewalResponse {
        self.renewal(held, false).await
    }

    pub async fn goodbye(&self) {
        self.renewal(vec![], true).await;
    }

    async fn renewal(&self, held: Vec<Held>, goodbye: bool) -> RenewalResponse {
        let renewal = Renewal {
            executor_id: self.id,
            name: "fake".into(),
            version: "0".into(),
            slots: 8,
            draining: goodbye,
            held,
            goodbye,
        };
        post(&self.client, RENEWALS_PATH, &renewal).await.unwrap()
    }

    pub async fn claim(&self, id: ExecutionId) -> Option<Grant> {
        self.claim_as(id, ClaimId::generate()).await
    }

    pub async fn claim_as(&self, id: ExecutionId, claim: ClaimId) -> Option<Grant> {
        let claims = vec![Claim { execution_id: id, claim_id: claim }];
        let request = ClaimRequest { executor_id: self.id, claims };
        let mut response: ClaimResponse = post(&self.client, CLAIMS_PATH, &request).await.unwrap();
        assert_eq!(response.grants.len() + response.refused.len(), 1);
        response.grants.pop()
    }

    /// A claim that gets no answer.
    pub async fn claim_fails(&self, id: ExecutionId) {
        let claims = vec![Claim { execution_id: id, claim_id: ClaimId::generate() }];
        let request = ClaimRequest { executor_id: self.id, claims };
        post::<_, ClaimResponse>(&self.client, CLAIMS_PATH, &request).await.unwrap_err();
    }

    pub async fn report(&self, report: Report) -> Verdict {
        let request = ReportRequest { executor_id: self.id, reports: vec![report] };
        let mut response: ReportResponse = post(&self.client, REPORTS_PATH, &request).await.unwrap();
        response.verdicts.pop().unwrap()
    }
}

/// The attempt of a fake executor: numbers its events as a real one does.
pub struct Attempt {
    pub id: ExecutionId,
    pub epoch: i32,
    pub last: Sequence,
}

impl Attempt {
    pub fn of(grant: &Grant) -> Self {
        Self { id: grant.execution_id, epoch: grant.epoch, last: grant.last_sequence }
    }

    pub fn event(&mut self, body: EventBody) -> EventRecord {
        let sequence = self.last.next_in(self.epoch);
        let event = Event {
            sequence,
            prev: self.last,
            execution_id: self.id,
            attempt: domain::attempt_of(self.epoch),
            at: now(),
            body,
        };
        self.last = sequence;
        event.record().unwrap()
    }

    pub fn delta(&mut self, node: &str, text: &str, offset: u64) -> EventRecord {
        self.event(EventBody::OutputDelta { node: node.into(), unit: 0, text: text.into(), offset })
    }

    pub fn report(&self) -> Report {
        Report {
            execution_id: self.id,
            epoch: self.epoch,
            events: vec![],
            units: vec![],
            usage: vec![],
            progress: None,
            finish: None,
        }
    }

    pub fn unit(&self, node: &str, text: &str) -> Report {
        let unit = UnitReport { key: UnitKey::node(node), output: raw(json!(text)), complete: true };
        Report { units: vec![unit], ..self.report() }
    }

    pub fn finish(&self) -> Report {
        let finish = Finish::Completed { result: raw(json!({"done": true})), deliverables: vec![] };
        Report { finish: Some(finish), ..self.report() }
    }
}
