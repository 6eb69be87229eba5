//! The wire between status and Postgres: it can lose the answer to a commit, or fall silent, as networks and frozen servers do.

use std::{
    path::PathBuf,
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use testkit::TestDatabase;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_postgres::config::Host;

pub struct Wire {
    url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    /// The answer to the next commit will be lost.
    armed: AtomicBool,
    lost: AtomicUsize,
    silent: watch::Sender<bool>,
}

impl Wire {
    pub async fn to(database: &TestDatabase) -> Self {
        let config = tokio_postgres::Config::from_str(&database.url()).unwrap();
        let [Host::Unix(folder), ..] = config.get_hosts() else { panic!("the test server listens on a unix socket") };
        let server = folder.join(format!(".s.PGSQL.{}", config.get_ports().first().copied().unwrap_or(5432)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("postgres://{}@127.0.0.1:{port}/{}", config.get_user().unwrap(), database.name());
        let state = Arc::new(State {
            armed: AtomicBool::new(false),
            lost: AtomicUsize::new(0),
            silent: watch::Sender::new(false),
        });
        let task = tokio::spawn(listen(listener, server, state.clone()));
        Self { url, state, task }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The next commit is done, and nobody hears of it: its connection breaks.
    pub fn lose_next_commit(&self) {
        self.state.armed.store(true, Ordering::SeqCst);
    }

    /// How many answers to commits were lost.
    pub fn lost(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }

    /// From now on nothing comes through, and nothing breaks; or it comes through again.
    pub fn set_silent(&self, silent: bool) {
        self.state.silent.send_replace(silent);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, server: PathBuf, state: Arc<State>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (server, state) = (server.clone(), state.clone());
        tokio::spawn(async move { connect(client, UnixStream::connect(server).await.unwrap(), &state).await });
    }
}

async fn connect(client: TcpStream, server: UnixStream, state: &State) {
    client.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let losing = AtomicBool::new(false);
    // Whichever side ends, both do.
    tokio::select! {
        () = relay(from_client, to_server, state, |bytes| {
            if says_commit(bytes) && state.armed.swap(false, Ordering::SeqCst) {
                losing.store(true, Ordering::SeqCst);
            }
            true
        }) => {}
        () = relay(from_server, to_client, state, |bytes| {
            let lost = losing.load(Ordering::SeqCst) && says_commit(bytes);
            state.lost.fetch_add(usize::from(lost), Ordering::SeqCst);
            !lost
        }) => {}
    }
}

/// The text of the command, and the tag of its answer.
fn says_commit(bytes: &[u8]) -> bool {
    bytes.windows(7).any(|window| window == b"COMMIT\0")
}

async fn relay(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: &State,
    mut passes: impl FnMut(&[u8]) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut silent = state.silent.subscribe();
    while let Ok(length) = from.read(&mut buffer).await {
        silent.wait_for(|silent| !silent).await.unwrap();
        if length == 0 || !passes(&buffer[..length]) || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
