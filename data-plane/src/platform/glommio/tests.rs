//! The platform on the real kernel: loopback sockets with ports of the kernel's choice, files in a temporary folder.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Barrier};

use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use socket2::{Domain, Type};

use super::*;
use crate::platform::{Datagrams, Listener, Net, Stream};

/// Runs `work` on one shard and returns its result.
fn on_a_shard<R, T>(work: impl Fn(Glommio) -> R + Clone + Send + 'static) -> T
where
    R: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let threads = ShardThreads::new(NonZeroU16::MIN);
    run_shards(&threads, move |_, platform| work(platform)).unwrap().pop().unwrap()
}

/// A folder that is removed with its content at the end of the test, also of a failed one.
struct Folder(PathBuf);

impl Folder {
    fn new(parent: PathBuf) -> Self {
        let path = parent.join(format!("postrail-platform-{:016x}", kernel::entropy()));
        small_files::create_dir(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Sends back what it reads on each connection, until the peer ends.
async fn echo(platform: Glommio, listener: GlommioListener, connections: usize) {
    for _ in 0..connections {
        let mut stream = listener.accept().await.unwrap();
        platform.spawn("echo", async move {
            let mut buffer = [0; 4096];
            loop {
                match stream.read(&mut buffer).await.unwrap() {
                    0 => break,
                    count => stream.write_all(&buffer[..count]).await.unwrap(),
                }
            }
            stream.close().await.unwrap();
        });
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn two_connections_from_a_chosen_source_are_echoed() {
    let text = on_a_shard(|platform| async move {
        let listener = platform.net().listen(loopback()).unwrap();
        let to = listener.local().unwrap();
        platform.spawn("listener", echo(platform.clone(), listener, 2));
        let source = "127.0.0.2".parse().unwrap();
        let limit = Duration::from_secs(5);
        let mut first = platform.net().connect(Some(source), to, limit).await.unwrap();
        let mut second = platform.net().connect(Some(source), to, limit).await.unwrap();
        assert_eq!(first.local().unwrap().ip(), source);
        assert_eq!(second.peer(), Some(to));
        let mut text = String::new();
        second.write_all(b"second ").await.unwrap();
        second.close().await.unwrap();
        second.read_to_string(&mut text).await.unwrap();
        first.write_all(b"first").await.unwrap();
        first.close().await.unwrap();
        first.read_to_string(&mut text).await.unwrap();
        text
    });
    assert_eq!(text, "second first");
}

#[test]
fn a_listener_of_its_own_shares_its_address_with_nobody() {
    on_a_shard(|platform| async move {
        let net = platform.net();
        let alone = net.listen_alone(loopback()).unwrap();
        let at = alone.local().unwrap();
        let in_use = |error: io::Error| error.kind() == io::ErrorKind::AddrInUse;
        assert!(net.listen_alone(at).is_err_and(in_use) && net.listen(at).is_err_and(in_use));
        drop(alone);
        let shared = net.listen(at).unwrap();
        assert!(net.listen(at).is_ok() && net.listen_alone(at).is_err_and(in_use));
        drop(shared);
    });
}

#[test]
fn shards_share_an_address_with_each_other_and_with_nobody_else() {
    on_a_shard(|platform| async move {
        let first = platform.net().listen_first(loopback()).unwrap();
        let at = first.local().unwrap();
        let second = platform.net().listen(at).unwrap();
        // As another process would, which asks before it shares.
        assert!(platform.net().listen_first(at).is_err());
        let streams: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(at).unwrap()).collect();
        let mut taken = [0, 0];
        for (listener, taken) in [&first, &second].into_iter().zip(&mut taken) {
            let late = || async {
                platform.sleep_until(platform.now() + Duration::from_millis(50)).await;
                None
            };
            while futures_lite::future::or(async { listener.accept().await.ok() }, late()).await.is_some() {
                *taken += 1;
            }
        }
        assert_eq!(taken.iter().sum::<i32>(), 64);
        assert!(taken.iter().all(|taken| *taken > 0), "each has its part: {taken:?}");
        // Where the first is gone, the address is taken as before.
        drop((first, streams));
        assert!(platform.net().listen_first(at).is_err());
    });
}

#[test]
fn of_many_that_would_be_the_first_at_one_moment_at_most_one_is() {
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = reserved.local_addr().unwrap();
    drop(reserved);
    let threads = ShardThreads::new(NonZeroU16::new(4).unwrap());
    let start = Arc::new(Barrier::new(4));
    for _ in 0..8 {
        let start = Arc::clone(&start);
        let listening = run_shards(&threads, move |_, platform| {
            let start = Arc::clone(&start);
            async move {
                start.wait();
                let listener = platform.net().listen_first(at);
                start.wait();
                listener.is_ok()
            }
        });
        let listening = listening.unwrap().into_iter().filter(|is_listening| *is_listening).count();
        assert!(listening <= 1, "{listening} listen at one address");
    }
}

#[test]
fn connections_that_came_before_anybody_waited_for_them_are_accepted() {
    let accepted = on_a_shard(|platform| async move {
        let listener = platform.net().listen_alone(loopback()).unwrap();
        let at = listener.local().unwrap();
        let early: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(at).unwrap()).collect();
        // Two looks pass: an edge that is told once stays known.
        platform.sleep_until(platform.now() + Duration::from_millis(20)).await;
        let mut accepted = 0;
        for _ in &early {
            listener.accept().await.unwrap();
            accepted += 1;
        }
        accepted
    });
    assert_eq!(accepted, 100);
}

#[test]
fn a_listener_sees_the_source_that_was_bound() {
    let peer = on_a_shard(|platform| async move {
        let listener = platform.net().listen(loopback()).unwrap();
        let source = "127.0.0.3".parse().unwrap();
        let connect = platform.net().connect(Some(source), listener.local().unwrap(), Duration::from_secs(5));
        let (stream, accepted) = futures_lite::future::zip(connect, listener.accept()).await;
        stream.unwrap();
        accepted.unwrap().peer().unwrap().ip()
    });
    assert_eq!(peer, IpAddr::from([127, 0, 0, 3]));
}

#[test]
fn connects_fail_as_the_network_says() {
    on_a_shard(|platform| async move {
        let limit = Duration::from_millis(100);
        let closed = UdpSocket::bind(loopback()).unwrap().local_addr().unwrap();
        let refused = platform.net().connect(None, closed, limit).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let foreign = Some(IpAddr::from([192, 0, 2, 1]));
        let unbound = platform.net().connect(foreign, closed, limit).await.err().unwrap();
        assert_eq!(unbound.kind(), io::ErrorKind::AddrNotAvailable);
        // A full backlog drops the SYN: nobody answers.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&loopback().into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let _fills = platform.net().connect(None, silent, limit).await.unwrap();
        let before = platform.now();
        let late = platform.net().connect(None, silent, limit).await.err().unwrap();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let took = platform.now().since(before);
        assert!(took >= limit && took < limit * 20, "{took:?}");
    });
}

#[test]
fn a_read_that_timed_out_loses_no_octet() {
    on_a_shard(|platform| async move {
        let listener = platform.net().listen(loopback()).unwrap();
        let connect = platform.net().connect(None, listener.local().unwrap(), Duration::from_secs(5));
        let (ours, theirs) = futures_lite::future::zip(connect, listener.accept()).await;
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
        let writer = platform.clone();
        platform.spawn("writer", async move {
            for number in 0..ROUNDS {
                theirs.write_all(&number.to_be_bytes()).await.unwrap();
                // About as long as the reader's limit, so that either comes first.
                writer.sleep_until(writer.now() + Duration::from_micros(u64::from(number % 7) * 100)).await;
            }
        });
        let (mut received, mut expired) = (Vec::new(), 0);
        while received.len() < ROUNDS as usize * 4 {
            let mut buffer = [0; 3];
            let limit = Duration::from_micros(300);
            match platform.timeout(limit, async { ours.read(&mut buffer).await }).await {
                Some(count) => received.extend_from_slice(&buffer[..count.unwrap()]),
                None => expired += 1,
            }
        }
        let numbers = received.chunks(4).map(|octets| u32::from_be_bytes(octets.try_into().unwrap()));
        assert!(numbers.eq(0..ROUNDS));
        assert!(expired > 0, "no read timed out: nothing was tested");
    });
    const ROUNDS: u32 = 2_000;
}

#[test]
fn the_end_of_a_stream_is_read_behind_its_last_octets() {
    on_a_shard(|platform| async move {
        let peer = TcpListener::bind(loopback()).unwrap();
        let to = peer.local_addr().unwrap();
        for ends_at_once in [true, false] {
            let mut stream = platform.net().connect(None, to, Duration::from_secs(5)).await.unwrap();
            let (mut theirs, _) = peer.accept().unwrap();
            theirs.write_all(b"bye").unwrap();
            let theirs = if ends_at_once {
                drop(theirs);
                None
            } else {
                Some(theirs)
            };
            // Octets and end are told by one edge, or by two; the buffer takes more than there is.
            let mut buffer = [0; 64];
            assert_eq!(stream.read(&mut buffer).await.unwrap(), 3);
            drop(theirs);
            assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
            assert_eq!(stream.read(&mut buffer).await.unwrap(), 0, "the end stays the end");
        }
    });
}

#[test]
fn a_reset_reaches_a_reader_that_waits() {
    on_a_shard(|platform| async move {
        let peer = TcpListener::bind(loopback()).unwrap();
        let to = peer.local_addr().unwrap();
        let mut stream = platform.net().connect(None, to, Duration::from_secs(5)).await.unwrap();
        let (theirs, _) = peer.accept().unwrap();
        let mut buffer = [0; 64];
        assert!(futures_lite::future::poll_once(stream.read(&mut buffer)).await.is_none());
        Socket::from(theirs).set_linger(Some(Duration::ZERO)).unwrap();
        let error = stream.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_writer_waits_for_a_slow_reader_and_loses_nothing() {
    const OCTETS: usize = 32 << 20;
    on_a_shard(|platform| async move {
        let peer = TcpListener::bind(loopback()).unwrap();
        let to = peer.local_addr().unwrap();
        let mut stream = platform.net().connect(None, to, Duration::from_secs(5)).await.unwrap();
        let (mut theirs, _) = peer.accept().unwrap();
        let sent: Vec<u8> = (0..OCTETS).map(|at| (at / 251) as u8).collect();
        // More than both sockets' buffers hold, so the writer is stopped before anybody reads.
        let mut write = Box::pin(async {
            stream.write_all(&sent).await.unwrap();
            stream.close().await.unwrap();
        });
        assert!(futures_lite::future::poll_once(&mut write).await.is_none());
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            theirs.read_to_end(&mut received).map(|_| received)
        });
        write.await;
        assert!(reader.join().unwrap().unwrap() == sent, "what was read is what was written");
    });
}

#[test]
fn an_accept_that_timed_out_loses_no_connection() {
    on_a_shard(|platform| async move {
        let listener = platform.net().listen(loopback()).unwrap();
        let to = listener.local().unwrap();
        let client = platform.clone();
        platform.spawn("client", async move {
            for number in 0..ROUNDS {
                let mut stream = client.net().connect(None, to, Duration::from_secs(5)).await.unwrap();
                stream.write_all(&number.to_be_bytes()).await.unwrap();
                client.sleep_until(client.now() + Duration::from_micros(u64::from(number % 7) * 100)).await;
            }
        });
        let (mut accepted, mut expired) = (0, 0);
        while accepted < ROUNDS {
            match platform.timeout(Duration::from_micros(300), listener.accept()).await {
                Some(stream) => {
                    let mut number = [0; 4];
                    stream.unwrap().read_exact(&mut number).await.unwrap();
                    assert_eq!(u32::from_be_bytes(number), accepted);
                    accepted += 1;
                }
                None => expired += 1,
            }
        }
        assert!(expired > 0, "no accept timed out: nothing was tested");
    });
    const ROUNDS: u32 = 1_000;
}

#[test]
fn a_wait_may_be_polled_and_dropped_more_often_than_a_task_has_wakers() {
    on_a_shard(|platform| async move {
        let listener = platform.net().listen(loopback()).unwrap();
        for _ in 0..40_000 {
            assert!(futures_lite::future::poll_once(listener.accept()).await.is_none());
        }
        let held = platform.clone();
        let mut work =
            Box::pin(async move { held.run_blocking(|| std::thread::sleep(Duration::from_millis(200))).await });
        for _ in 0..40_000 {
            assert!(futures_lite::future::poll_once(&mut work).await.is_none());
        }
        work.await;
    });
}

#[test]
fn datagrams_go_both_ways_and_survive_a_timeout() {
    on_a_shard(|platform| async move {
        let server = UdpSocket::bind(loopback()).unwrap();
        let datagrams = platform.net().datagrams(server.local_addr().unwrap()).await.unwrap();
        let mut buffer = [0; 512];
        assert!(platform.timeout(Duration::from_millis(5), datagrams.receive(&mut buffer)).await.is_none());
        datagrams.send(b"question").await.unwrap();
        let (count, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"question");
        server.send_to(b"answer", from).unwrap();
        server.send_to(b"", from).unwrap();
        assert_eq!(datagrams.receive(&mut buffer).await.unwrap(), 6);
        assert_eq!(&buffer[..6], b"answer");
        assert_eq!(datagrams.receive(&mut buffer).await.unwrap(), 0);
    });
}

#[test]
fn files_hold_what_was_written_and_synced() {
    for parent in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        let folder = Folder::new(parent);
        let (first, second) = (folder.at("first"), folder.at("second"));
        let path = folder.0.clone();
        on_a_shard(move |platform| {
            let (first, second, path) = (first.clone(), second.clone(), path.clone());
            async move {
                let disk = platform.disk();
                assert_eq!(disk.open(&first, None).await.err().unwrap().kind(), io::ErrorKind::NotFound);
                let file = disk.open(&first, Some(64 * 1024)).await.unwrap();
                disk.sync_dir(&path).await.unwrap();
                let mut buffer = file.buffer(5_000);
                assert_eq!(buffer.as_ref(), [0; 8_192]);
                buffer.as_mut()[..5].copy_from_slice(b"hello");
                buffer.as_mut()[8_190..].copy_from_slice(b"!!");
                file.write(4_096, buffer).await.unwrap();
                file.sync().await.unwrap();
                assert_eq!(file.read(4_097, 3).await.unwrap(), b"ell");
                assert_eq!(file.read(12_286, 4).await.unwrap(), b"!!\0\0");
                assert_eq!(file.read(65_000, 8_192).await.unwrap().len(), 65_536 - 65_000);
                assert_eq!(file.read(1 << 30, 10).await.unwrap(), b"");
                file.close().await;
                disk.rename(&first, &second).await.unwrap();
                disk.sync_dir(&path).await.unwrap();
                assert_eq!(disk.list(&path).await.unwrap(), ["second"]);
                let file = disk.open(&second, None).await.unwrap();
                assert_eq!(file.read(4_096, 5).await.unwrap(), b"hello");
                // A write larger than the registered memory comes from the heap.
                let mut large = file.buffer(2 << 20);
                large.as_mut().fill(7);
                file.write(0, large).await.unwrap();
                // Over blocks that hold data already, as in a recycled segment.
                file.write(4_096, file.buffer(4_096)).await.unwrap();
                file.sync().await.unwrap();
                assert_eq!(file.read(8_191, 2).await.unwrap(), [0, 7]);
                assert_eq!(file.read((2 << 20) - 1, 10).await.unwrap(), [7]);
                file.close().await;
                disk.remove(&second).await.unwrap();
                assert!(disk.list(&path).await.unwrap().is_empty());
            }
        });
    }
}

#[test]
fn small_files_are_replaced_whole() {
    let folder = Folder::new(std::env::temp_dir());
    let path = folder.0.clone();
    on_a_shard(move |platform| {
        let path = path.clone();
        async move {
            let (disk, cursor) = (platform.disk(), path.join("deep/er/cursor"));
            assert_eq!(disk.read_file(&cursor).await.unwrap_err().kind(), io::ErrorKind::NotFound);
            disk.create_dir(cursor.parent().unwrap()).await.unwrap();
            disk.create_dir(cursor.parent().unwrap()).await.unwrap();
            disk.write_file(&cursor, b"one").await.unwrap();
            disk.write_file(&cursor, b"two").await.unwrap();
            assert_eq!(disk.read_file(&cursor).await.unwrap(), b"two");
            assert_eq!(disk.list(cursor.parent().unwrap()).await.unwrap(), ["cursor"]);
            let usage = disk.usage(&path).await.unwrap();
            assert!(usage.used_percent <= 100 && usage.free_bytes > 0);
        }
    });
}

#[test]
fn a_panic_in_a_task_ends_that_task_only() {
    let sum = on_a_shard(|platform| async move {
        platform.spawn("doomed", async { panic!("on purpose") });
        let (sender, receiver) = async_channel::bounded(1);
        let (platform_of_task, blocking) = (platform.clone(), sender.clone());
        platform.spawn("doomed by blocking work", async move {
            let _held_until_the_panic = blocking;
            platform_of_task.run_blocking(|| panic!("on purpose")).await
        });
        platform.spawn("sound", async move { sender.send(1).await.unwrap() });
        let first: u64 = receiver.recv().await.unwrap();
        // Ends once the second doomed task has dropped its sender: the panic reached the caller of the blocking work.
        assert!(receiver.recv().await.is_err());
        first + platform.run_blocking(|| 41).await
    });
    assert_eq!(sum, 42);
}

#[test]
fn shards_return_in_order_and_a_panic_of_one_is_reported() {
    let threads = ShardThreads::new(NonZeroU16::new(3).unwrap());
    assert_eq!(run_shards(&threads, |shard, _| async move { shard.0 }).unwrap(), [0, 1, 2]);
    let error = run_shards(&threads, |shard, _| async move { assert_ne!(shard.0, 1, "on purpose") }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("shard 1 panicked") && text.contains("on purpose"), "{text}");
}

#[test]
fn the_clock_goes_on_and_sleeps_last_as_asked() {
    on_a_shard(|platform| async move {
        let (begin, wall) = (platform.now(), platform.timestamp());
        platform.sleep_until(begin + Duration::from_millis(20)).await;
        assert!(platform.now().since(begin) >= Duration::from_millis(20));
        assert!(platform.timestamp().since(wall) >= Duration::from_millis(10));
        platform.sleep_until(begin).await;
        assert!(platform.timeout(Duration::from_millis(5), platform.sleep_until(Instant::FAR)).await.is_none());
        assert_ne!(platform.entropy(), platform.entropy());
    });
}

/// Runs alone in a process of its own, so that other tests do not move its memory.
#[test]
fn ten_thousand_connections_that_time_out_and_their_tasks_leave_no_memory() {
    const ALONE: &str = "POSTRAIL_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "platform::glommio::tests::ten_thousand_connections_that_time_out_and_their_tasks_leave_no_memory";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args([name, "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let grown = on_a_shard(|platform| async move {
        let listener = platform.net().listen(loopback()).unwrap();
        let to = listener.local().unwrap();
        let mut after_warming = 0;
        for round in 0..12_000 {
            if round == 2_000 {
                after_warming = resident_bytes();
            }
            let connect = platform.net().connect(None, to, Duration::from_secs(5));
            let (ours, theirs) = futures_lite::future::zip(connect, listener.accept()).await;
            let (mut ours, theirs) = (ours.unwrap(), theirs.unwrap());
            let (done, ended) = async_channel::bounded(1);
            let task_platform = platform.clone();
            platform.spawn("reader", async move {
                let mut buffer = [0; 16];
                let limit = Duration::from_micros(50);
                assert!(task_platform.timeout(limit, async { ours.read(&mut buffer).await }).await.is_none());
                done.send(()).await.unwrap();
            });
            ended.recv().await.unwrap();
            drop(theirs);
        }
        resident_bytes().saturating_sub(after_warming)
    });
    println!("10,000 connections grew the memory by {grown} octets");
    assert!(grown < 512 * 1024, "{grown} octets grew: 50 octets a connection would be a leak");
}
