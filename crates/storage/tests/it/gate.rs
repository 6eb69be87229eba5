//! A connection to Postgres whose statements wait at a gate: each goes on only when the test says so. It stands between the real
//! code and the real server and knows only the wire protocol, so that no line of the product is different under test.

use std::{
    collections::VecDeque,
    path::PathBuf,
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, UnixStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
        unix,
    },
    sync::Mutex,
    task::JoinHandle,
};
use tokio_postgres::config::Host;

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `condition`, looking often: a race has hundreds of steps.
pub(crate) async fn soon(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !condition().await {
            // Sleeps: between two looks.
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "waited for {what}");
}

/// The test's side of a gated connection.
pub(crate) struct Gate {
    waiting: Arc<std::sync::Mutex<VecDeque<Vec<u8>>>>,
    sent: AtomicUsize,
    answered: Arc<AtomicUsize>,
    server: Mutex<Option<unix::OwnedWriteHalf>>,
    relays: Vec<JoinHandle<()>>,
    /// The server process of the connection.
    pub(crate) pid: i32,
}

impl Gate {
    /// A connection through an open gate to the database at `url`.
    pub(crate) async fn connect(url: &str) -> (Self, AsyncPgConnection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = tokio_postgres::Config::from_str(url).unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner =
            format!("postgres://{}@127.0.0.1:{port}/{}", config.get_user().unwrap(), config.get_dbname().unwrap());
        let connecting = tokio::spawn(async move { AsyncPgConnection::establish(&inner).await.unwrap() });
        let (client, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = connect_server(&config).await.into_split();
        let mut gate = Self {
            waiting: Arc::default(),
            sent: AtomicUsize::new(0),
            answered: Arc::default(),
            server: Mutex::new(Some(to_server)),
            relays: Vec::new(),
            pid: 0,
        };
        gate.relays.push(tokio::spawn(read_answers(from_server, to_client, gate.answered.clone())));
        gate.relays.push(tokio::spawn(read_statements(from_client, gate.waiting.clone())));
        let conn = gate.let_through(connecting).await.unwrap();
        let (pid, conn) = gate.let_through(tokio::spawn(backend_pid(conn))).await.unwrap();
        gate.pid = pid;
        (gate, conn)
    }

    /// Runs `work`, whose statements go through this gate, without holding any of them back.
    pub(crate) async fn let_through<T>(&self, work: JoinHandle<T>) -> Result<T, tokio::task::JoinError> {
        soon("work that goes through an open gate", async || {
            self.step().await;
            work.is_finished()
        })
        .await;
        work.await
    }

    /// Whether a statement stands at the gate.
    pub(crate) fn has_arrived(&self) -> bool {
        !self.waiting.lock().unwrap().is_empty()
    }

    /// Whether what stands at the gate only prepares (or forgets) a statement: it reads and writes nothing.
    pub(crate) fn prepares(&self) -> bool {
        let waiting = self.waiting.lock().unwrap();
        matches!(waiting.front().and_then(|bytes| bytes.first()), Some(b'P' | b'C'))
    }

    /// Whether what stands at the gate begins a transaction.
    pub(crate) fn begins(&self) -> bool {
        let waiting = self.waiting.lock().unwrap();
        waiting.front().is_some_and(|bytes| bytes.first() == Some(&b'Q') && bytes[5..].starts_with(b"BEGIN"))
    }

    /// Whether every statement that was let through has its answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.answered.load(Ordering::SeqCst) >= self.sent.load(Ordering::SeqCst)
    }

    /// Lets the next statement through, if there is one.
    pub(crate) async fn step(&self) -> bool {
        let next = self.waiting.lock().unwrap().pop_front();
        let Some((first, statement)) = next.and_then(|bytes| Some((*bytes.first()?, bytes))) else { return false };
        let mut server = self.server.lock().await;
        if let Some(server) = server.as_mut() {
            // The start-up message has no type (its length begins with 0); its answer ends with ReadyForQuery too.
            let expects_answer = matches!(first, 0 | b'Q' | b'P' | b'B' | b'C' | b'S');
            self.sent.fetch_add(usize::from(expects_answer), Ordering::SeqCst);
            // A server that is gone is noticed by the reader.
            let _ = server.write_all(&statement).await;
        }
        true
    }

    /// Breaks the connection in both directions, as the death of the process would.
    pub(crate) async fn kill(&self) {
        self.server.lock().await.take();
        for relay in &self.relays {
            relay.abort();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        for relay in &self.relays {
            relay.abort();
        }
    }
}

async fn connect_server(config: &tokio_postgres::Config) -> UnixStream {
    let [Host::Unix(folder), ..] = config.get_hosts() else { panic!("the test server listens on a unix socket") };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let path: PathBuf = folder.join(format!(".s.PGSQL.{port}"));
    UnixStream::connect(path).await.unwrap()
}

async fn backend_pid(mut conn: AsyncPgConnection) -> (i32, AsyncPgConnection) {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Integer)]
        pid: i32,
    }
    let row: Row =
        diesel_async::RunQueryDsl::get_result(diesel::sql_query("SELECT pg_backend_pid() AS pid"), &mut conn)
            .await
            .unwrap();
    (row.pid, conn)
}

/// Collects what belongs together: everything up to a Sync or a simple query, and the messages that come alone.
async fn read_statements(mut client: OwnedReadHalf, waiting: Arc<std::sync::Mutex<VecDeque<Vec<u8>>>>) {
    let push = |bytes: Vec<u8>| waiting.lock().unwrap().push_back(bytes);
    let Ok(length) = client.read_i32().await else { return };
    let mut start = length.to_be_bytes().to_vec();
    start.resize(usize::try_from(length).unwrap(), 0);
    if client.read_exact(&mut start[4..]).await.is_err() {
        return;
    }
    push(start);
    let mut group = Vec::new();
    while let Ok((kind, message)) = read_message(&mut client).await {
        group.extend(message);
        if matches!(kind, b'S' | b'Q' | b'X' | b'p') {
            push(std::mem::take(&mut group));
        }
    }
}

async fn read_answers(mut server: unix::OwnedReadHalf, mut client: OwnedWriteHalf, answered: Arc<AtomicUsize>) {
    while let Ok((kind, message)) = read_message(&mut server).await {
        if client.write_all(&message).await.is_err() {
            return;
        }
        if kind == b'Z' {
            answered.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn read_message(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let kind = from.read_u8().await?;
    let length = from.read_i32().await?;
    let mut message = vec![kind];
    message.extend(length.to_be_bytes());
    message.resize(1 + usize::try_from(length).unwrap(), 0);
    from.read_exact(&mut message[5..]).await?;
    Ok((kind, message))
}
