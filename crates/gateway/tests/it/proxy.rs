//! What stands between a gateway and status, and can fail.

use std::{net::SocketAddr, pin::pin};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Connections are accepted, and nothing is ever answered.
    Silent,
    /// A connection that asks for this path breaks.
    Breaks(&'static str),
}

pub struct Proxy {
    pub url: String,
    fault: watch::Sender<Fault>,
}

impl Proxy {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fault = watch::channel(Fault::None).0;
        let faults = fault.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, to, faults.clone()));
            }
        });
        Self { url, fault }
    }

    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

async fn carry(mut client: TcpStream, to: SocketAddr, fault: watch::Receiver<Fault>) {
    let mut server = TcpStream::connect(to).await.unwrap();
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let (client_reads, server_reads) = (pin!(client.read(&mut asked)), pin!(server.read(&mut answered)));
        let (from_client, count) = tokio::select! {
            count = client_reads => (true, count.unwrap_or(0)),
            count = server_reads => (false, count.unwrap_or(0)),
        };
        let fault = *fault.borrow();
        match fault {
            _ if count == 0 => return,
            Fault::Silent => return std::future::pending().await,
            Fault::Breaks(path) if from_client && String::from_utf8_lossy(&asked[..count]).contains(path) => return,
            Fault::None | Fault::Breaks(_) => {}
        }
        let written = if from_client {
            server.write_all(&asked[..count]).await
        } else {
            client.write_all(&answered[..count]).await
        };
        if written.is_err() {
            return;
        }
    }
}
