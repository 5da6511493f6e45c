//! An in-memory network of named hosts on the paused clock: seeded latency, stalls in place of lost packets (the
//! transport is a byte stream: a lost packet is late, not missing), one-way and two-way partitions, resets,
//! switched-off hosts.
//!
//! An address is `host:port`, resolved at each dial. Bytes that are on their way when a path is cut stay where
//! they are and arrive after it heals, as a retransmission would; a dropped stream sends the other end an
//! end-of-file through the same path. Everything is ordered by tokio's clock, `BTreeMap`s and one seeded
//! generator, so that a single-threaded paused runtime replays a seed exactly.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use ovncp_raft::network::Net;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep};

/// Bytes a path holds before its writer waits.
pub const PIPE_BYTES_MAX: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 64;
/// First port given for port 0.
const PORT_FIRST: u16 = 20_000;

/// How paths behave while they are not cut.
#[derive(Clone, Debug)]
pub struct Weather {
    /// One-way delay of each write, milliseconds.
    pub latency_ms: RangeInclusive<u64>,
    /// Chance in 10,000 that a write is "lost": it and what follows it arrive after `retransmit` more.
    pub loss_per_10k: u32,
    /// Delay of a lost write.
    pub retransmit: Duration,
}

impl Default for Weather {
    fn default() -> Self {
        Self { latency_ms: 0..=1, loss_per_10k: 0, retransmit: Duration::from_millis(200) }
    }
}

/// What happened, so that a test can require that its faults had an effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections made.
    pub connected: u64,
    /// Dials refused because nothing listened.
    pub refused: u64,
    /// Dials that met a cut path or a switched-off host.
    pub blackholed: u64,
    /// Connections reset by a fault.
    pub resets: u64,
    /// Writes delayed as lost.
    pub lost: u64,
    /// Writes made while their path was cut.
    pub held: u64,
    /// Bytes written.
    pub bytes: u64,
}

struct World {
    rng: StdRng,
    weather: Weather,
    /// Directed paths that are cut.
    cut: BTreeSet<(String, String)>,
    /// Hosts without power: paths from and to them are cut, and nothing answers.
    off: BTreeSet<String>,
    listeners: BTreeMap<(String, u16), mpsc::Sender<(SimStream, String)>>,
    /// `host:port` that leads elsewhere, as a changed name record would.
    aliases: BTreeMap<String, String>,
    /// Live pipes by number; both directions of a connection share the number's half.
    pipes: BTreeMap<u64, Arc<Mutex<Pipe>>>,
    pipe_next: u64,
    port_next: u16,
    counters: Counters,
}

/// The network. Cheap to clone; [`host`](SimNet::host) gives a node its place in it.
#[derive(Clone)]
pub struct SimNet {
    world: Arc<Mutex<World>>,
    /// Changes with each repair, so that blackholed dials look again.
    repaired: watch::Sender<u64>,
}

/// One host's view: implements [`Net`].
#[derive(Clone)]
pub struct SimHost {
    net: SimNet,
    name: String,
}

impl SimNet {
    pub fn new(seed: u64) -> Self {
        let world = World {
            rng: StdRng::seed_from_u64(seed),
            weather: Weather::default(),
            cut: BTreeSet::new(),
            off: BTreeSet::new(),
            listeners: BTreeMap::new(),
            aliases: BTreeMap::new(),
            pipes: BTreeMap::new(),
            pipe_next: 0,
            port_next: PORT_FIRST,
            counters: Counters::default(),
        };
        Self { world: Arc::new(Mutex::new(world)), repaired: watch::Sender::new(0) }
    }

    pub fn host(&self, name: &str) -> SimHost {
        SimHost { net: self.clone(), name: name.to_owned() }
    }

    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Cuts the path from one host to another; the way back stays.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        self.lock().cut.insert((from.to_owned(), to.to_owned()));
        self.update_pipes();
    }

    /// Cuts both directions.
    pub fn cut(&self, a: &str, b: &str) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Cuts every path between the two groups.
    pub fn partition(&self, left: &[&str], right: &[&str]) {
        for a in left {
            for b in right {
                self.cut(a, b);
            }
        }
    }

    /// Repairs one direction.
    pub fn mend_one_way(&self, from: &str, to: &str) {
        self.lock().cut.remove(&(from.to_owned(), to.to_owned()));
        self.update_pipes();
    }

    /// Repairs every path and switches every host on.
    pub fn heal(&self) {
        {
            let mut world = self.lock();
            world.cut.clear();
            world.off.clear();
        }
        self.update_pipes();
    }

    /// Power loss: the host falls silent, its peers learn nothing.
    pub fn power_off(&self, host: &str) {
        self.lock().off.insert(host.to_owned());
        self.update_pipes();
    }

    /// Power is back. What the host held before must have been dropped by the caller meanwhile; connections of
    /// before the power loss are reset, as an unknown connection is by a fresh kernel.
    pub fn power_on(&self, host: &str) {
        self.reset_host(host);
        self.lock().off.remove(host);
        self.update_pipes();
    }

    /// Resets every connection between two hosts.
    pub fn reset(&self, a: &str, b: &str) {
        self.reset_where(|from, to| (from == a && to == b) || (from == b && to == a));
    }

    /// Resets every connection of a host.
    pub fn reset_host(&self, host: &str) {
        self.reset_where(|from, to| from == host || to == host);
    }

    /// Dials of `addr` reach `real` from now on.
    pub fn point(&self, addr: &str, real: &str) {
        self.lock().aliases.insert(addr.to_owned(), real.to_owned());
    }

    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Connections that at least one end still holds.
    pub fn connections(&self) -> usize {
        let mut world = self.lock();
        // The map's own reference is the last one once both ends are gone.
        world.pipes.retain(|_, pipe| Arc::strong_count(pipe) > 1);
        world.pipes.len() / 2
    }

    fn reset_where(&self, matches: impl Fn(&str, &str) -> bool) {
        let mut world = self.lock();
        let mut resets = 0;
        for pipe in world.pipes.values() {
            let mut pipe = lock(pipe);
            if matches(&pipe.from, &pipe.to) && !pipe.reset {
                pipe.reset = true;
                pipe.wake_both();
                resets += 1;
            }
        }
        world.counters.resets += resets / 2;
    }

    /// Tells every pipe whether its path is cut.
    fn update_pipes(&self) {
        let mut world = self.lock();
        world.pipes.retain(|_, pipe| Arc::strong_count(pipe) > 1);
        for pipe in world.pipes.values() {
            let mut pipe = lock(pipe);
            let blocked = world.is_cut(&pipe.from, &pipe.to);
            if pipe.blocked != blocked {
                pipe.blocked = blocked;
                pipe.wake_both();
            }
        }
        drop(world);
        self.repaired.send_modify(|generation| *generation += 1);
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds a lock of the network")
}

impl World {
    fn is_cut(&self, from: &str, to: &str) -> bool {
        from != to
            && (self.off.contains(from)
                || self.off.contains(to)
                || self.cut.contains(&(from.to_owned(), to.to_owned())))
    }

    fn latency(&mut self) -> Duration {
        let mut delay = Duration::from_millis(self.rng.random_range(self.weather.latency_ms.clone()));
        if self.weather.loss_per_10k > 0 && self.rng.random_range(0..10_000) < self.weather.loss_per_10k {
            self.counters.lost += 1;
            delay += self.weather.retransmit;
        }
        delay
    }

    fn pipe(&mut self, from: &str, to: &str) -> Arc<Mutex<Pipe>> {
        let pipe = Arc::new(Mutex::new(Pipe {
            from: from.to_owned(),
            to: to.to_owned(),
            queue: VecDeque::new(),
            bytes: 0,
            last_arrival: Instant::now(),
            end: None,
            reader_gone: false,
            blocked: self.is_cut(from, to),
            reset: false,
            reader: None,
            writer: None,
        }));
        self.pipes.insert(self.pipe_next, Arc::clone(&pipe));
        self.pipe_next += 1;
        pipe
    }
}

impl Net for SimHost {
    type Stream = SimStream;
    type Listener = SimListener;

    async fn connect(&self, addr: &str) -> io::Result<SimStream> {
        let mut repaired = self.net.repaired.subscribe();
        loop {
            repaired.borrow_and_update();
            let (host, port) = self.resolve(addr)?;
            let open = {
                let mut world = self.net.lock();
                let open = !world.is_cut(&self.name, &host) && !world.is_cut(&host, &self.name);
                world.counters.blackholed += u64::from(!open);
                open
            };
            if !open {
                // As SYN packets into nowhere: silence until the path is repaired or the caller gives up.
                repaired.changed().await.expect("the network outlives its hosts");
                continue;
            }
            let delay = self.net.lock().latency();
            tokio::time::sleep(delay).await;
            return self.connect_now(&host, port);
        }
    }

    async fn bind(&self, addr: &str) -> io::Result<SimListener> {
        let (_, port) = split(addr)?;
        let mut world = self.net.lock();
        let port = if port == 0 {
            world.port_next += 1;
            world.port_next
        } else {
            port
        };
        let key = (self.name.clone(), port);
        if world.listeners.get(&key).is_some_and(|listener| !listener.is_closed()) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{}:{port}", self.name)));
        }
        let (sender, incoming) = mpsc::channel(BACKLOG);
        world.listeners.insert(key, sender);
        Ok(SimListener { incoming, addr: format!("{}:{port}", self.name) })
    }

    async fn accept(&self, listener: &mut SimListener) -> io::Result<(SimStream, String)> {
        listener.incoming.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn local_addr(&self, listener: &SimListener) -> io::Result<String> {
        Ok(listener.addr.clone())
    }
}

impl SimHost {
    fn resolve(&self, addr: &str) -> io::Result<(String, u16)> {
        let world = self.net.lock();
        split(world.aliases.get(addr).map_or(addr, String::as_str))
    }

    fn connect_now(&self, host: &str, port: u16) -> io::Result<SimStream> {
        let mut world = self.net.lock();
        let refused = |world: &mut World| {
            world.counters.refused += 1;
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("{host}:{port}")))
        };
        let Some(listener) = world.listeners.get(&(host.to_owned(), port)).cloned() else {
            return refused(&mut world);
        };
        let there = world.pipe(&self.name, host);
        let back = world.pipe(host, &self.name);
        let ours = SimStream::new(self.net.clone(), Arc::clone(&back), Arc::clone(&there));
        let theirs = SimStream::new(self.net.clone(), there, back);
        if let Err(failure) = listener.try_send((theirs, self.name.clone())) {
            // The streams take the lock when they are dropped.
            let answer = refused(&mut world);
            drop(world);
            drop((failure, ours));
            return answer;
        }
        world.counters.connected += 1;
        Ok(ours)
    }
}

fn split(addr: &str) -> io::Result<(String, u16)> {
    addr.rsplit_once(':')
        .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no address: {addr}")))
}

/// Accepts until dropped; dials are refused afterwards.
pub struct SimListener {
    incoming: mpsc::Receiver<(SimStream, String)>,
    addr: String,
}

/// One direction of a connection.
struct Pipe {
    from: String,
    to: String,
    queue: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    last_arrival: Instant,
    /// When the reader learns that the writer closed.
    end: Option<Instant>,
    reader_gone: bool,
    blocked: bool,
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake_both(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// One end of a connection.
pub struct SimStream {
    net: SimNet,
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
    /// Until the next bytes arrive.
    arrival: Option<Pin<Box<Sleep>>>,
}

impl SimStream {
    fn new(net: SimNet, incoming: Arc<Mutex<Pipe>>, outgoing: Arc<Mutex<Pipe>>) -> Self {
        Self { net, incoming, outgoing, arrival: None }
    }

    fn close(&self) {
        let delay = self.net.lock().latency();
        let mut pipe = lock(&self.outgoing);
        if pipe.end.is_none() {
            let at = pipe.last_arrival.max(Instant::now() + delay);
            pipe.end = Some(at);
            pipe.wake_both();
        }
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let incoming = Arc::clone(&self.incoming);
        let mut pipe = lock(&incoming);
        loop {
            if pipe.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let next = pipe.queue.front().map(|(at, _)| *at).or(pipe.end);
            let Some(at) = next.filter(|_| !pipe.blocked) else {
                pipe.reader = Some(cx.waker().clone());
                return Poll::Pending;
            };
            if at <= Instant::now() {
                break;
            }
            let arrival = self.arrival.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if arrival.deadline() != at {
                arrival.as_mut().reset(at);
            }
            if arrival.as_mut().poll(cx).is_pending() {
                pipe.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        while out.remaining() > 0 {
            let Some((_, chunk)) = pipe.queue.front_mut().filter(|(at, _)| *at <= Instant::now()) else {
                break;
            };
            let take = chunk.len().min(out.remaining());
            out.put_slice(&chunk[..take]);
            chunk.advance(take);
            if chunk.is_empty() {
                pipe.queue.pop_front();
            }
            pipe.bytes -= take;
        }
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut world = self.net.lock();
        let mut pipe = lock(&self.outgoing);
        // The news that the reader is gone travels the way back.
        if pipe.reset || (pipe.reader_gone && !world.is_cut(&pipe.to, &pipe.from)) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = PIPE_BYTES_MAX.saturating_sub(pipe.bytes);
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let take = room.min(data.len());
        let delay = world.latency();
        world.counters.bytes += take as u64;
        world.counters.held += u64::from(pipe.blocked);
        // Invariant: arrivals never overtake each other.
        let at = pipe.last_arrival.max(Instant::now() + delay);
        pipe.last_arrival = at;
        pipe.queue.push_back((at, Bytes::copy_from_slice(&data[..take])));
        pipe.bytes += take;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.close();
        let mut pipe = lock(&self.incoming);
        pipe.reader_gone = true;
        pipe.wake_both();
    }
}
