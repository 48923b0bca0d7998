//! Those who hold what they ask for, beside those who just ask.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use axum::body::HttpBody;
use axum::extract::ConnectInfo;
use axum::response::Response;
use hyper::body::Frame;
use tokio::task::JoinHandle;

use super::*;
use crate::listen::{Peer, Proof};

/// A body of which one octet comes, and then nothing.
struct Stuck(Option<Bytes>);

impl HttpBody for Stuck {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |octet| Poll::Ready(Some(Ok(Frame::data(octet)))))
    }
}

impl World {
    /// A request whose body does not come to its end.
    fn stuck(&self, authorization: &str, path: &str, peer: Option<Proof>) -> JoinHandle<Response> {
        let mut request = Request::builder().method("POST").uri(path);
        if !authorization.is_empty() {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(proof) = peer {
            request = request.extension(ConnectInfo(Peer { address: "192.0.2.1:9".parse().unwrap(), proof }));
        }
        let request = request.body(Body::new(Stuck(Some(Bytes::from_static(b"{"))))).unwrap();
        let router = self.router.clone();
        tokio::spawn(async move { router.oneshot(request).await.unwrap() })
    }
}

async fn status(request: JoinHandle<Response>) -> u16 {
    request.await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_tenant_that_holds_its_places_holds_up_nobody_else() {
    let world = World::new();
    let (red, blue) = (world.tenant("red").await, world.tenant("blue").await);
    let held: Vec<_> = (0..300).map(|_| world.stuck(&red, "/v2/suppressions", None)).collect();
    // The first of them are read on; the others are answered at once.
    while held.iter().filter(|request| request.is_finished()).count() < 268 {
        tokio::task::yield_now().await;
    }
    let (status, problem) = world.call(&red, "GET", "/v2/domains", Value::Null).await;
    assert_eq!((status, &problem["code"]), (429, &json!("too_many_requests")), "{problem}");
    let wanted = json!({"address": "gone@receiver.example"});
    assert_eq!(world.call(&blue, "POST", "/v2/suppressions", wanted).await.0, 201);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(world.call("", "GET", path, Value::Null).await.0, 200, "{path}");
    }
    world.get("/v2/tenants").await;
    held.iter().for_each(JoinHandle::abort);
    while world.call(&red, "GET", "/v2/domains", Value::Null).await.0 != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let world = World::new();
    let red = world.tenant("red").await;
    assert_eq!(status(world.stuck(&red, "/v2/suppressions", None)).await, 408);
    // A body that the operation does not take is read as well, to say so.
    assert_eq!(status(world.stuck("Bearer po_token", "/v2/queue/retry", None)).await, 408);
}

#[tokio::test]
async fn who_is_no_host_of_the_fleet_is_refused_before_a_body_is_read() {
    let world = World::new();
    for proof in [Proof::Unknown, Proof::Loopback] {
        let asked = world.stuck("Bearer pf_other", "/fleet/suppressions", Some(proof));
        assert_eq!(status(asked).await, 401, "{proof:?}");
    }
    assert_eq!(status(world.stuck("", "/v2/suppressions", None)).await, 401);
}
