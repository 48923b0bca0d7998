//! Connections that ask for nothing, beside one that asks.

use std::net::{Ipv4Addr, SocketAddr};

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

struct World {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

impl World {
    async fn new(limits: Limits) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let whose = |ConnectInfo(peer): ConnectInfo<Peer>| async move { peer.address.ip().to_string() };
        let router = Router::new().route("/", get(whose));
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(serve(Door::new(listener, None), router, limits, stopped));
        Self { address, stop, served }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Sends a request, and reads until the server closes.
async fn ask(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    match sent.and(stream.read_to_string(&mut answer).await) {
        Ok(_) => answer,
        Err(error) => error.to_string(),
    }
}

fn limits() -> Limits {
    Limits { connections: 4, of_one_address: 3, head: Duration::from_millis(50), ..Limits::default() }
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_not_waited_for() {
    let world = World::new(limits()).await;
    for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = world.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let closed = timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{begun:?} is held");
    }
    let answer = ask(world.connect().await).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1"), "{answer}");
}

#[tokio::test]
async fn one_address_has_no_more_connections_than_its_share_and_gets_new_ones_for_those_that_end() {
    let world = World::new(Limits { head: Duration::from_secs(600), ..limits() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = world.connect().await;
        stream.write_all(b"GET").await.unwrap();
        held.push(stream);
    }
    let answer = ask(world.connect().await).await;
    assert!(!answer.contains("200"), "{answer}");
    held.pop();
    let answered = async {
        loop {
            if ask(world.connect().await).await.starts_with("HTTP/1.1 200") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), answered).await.expect("the place of the one that ended");
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let world = World::new(Limits { head: Duration::from_secs(600), ..limits() }).await;
    let mut idle = world.connect().await;
    assert!(ask(world.connect().await).await.starts_with("HTTP/1.1 200"));
    world.stop.send(true).unwrap();
    timeout(Duration::from_secs(30), world.served).await.expect("it ends").unwrap();
    assert!(matches!(idle.read(&mut [0]).await, Ok(0) | Err(_)), "and so does the connection");
}
