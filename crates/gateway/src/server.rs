//! Listening sockets, worker threads, and the admin port.
//!
//! Startup has two steps, so that a gateway can be running before it accepts clients. `start` binds the
//! client port, which fails early if the port is taken, and serves the admin port; `Closed::open` calls
//! `listen`. The kernel distributes connections only among listening sockets: until `open`, they go to the
//! gateway that already listens there, if any, and a gateway that knows no instances yet rejects no clients.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::{Request, Response};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use crate::client::Client;
use crate::connection::{self, Agreed, Spoken};
use crate::door::{Door, Patience, Places};
use crate::early_data::{self, Accepted};
use crate::request_body::RequestBody;
use crate::respond::Body;
use crate::shared::{Phase, Shared};
use crate::{
    Error, admin, certificates, exchange, health, http3, identity, proxy, proxy_protocol, tls, tracing,
};

const BACKLOG: i32 = 4096;
/// Maximum number of headers in a request: three times what a browser sends.
pub const HEADERS_LIMIT: usize = 100;
/// Maximum total size of a request's headers: four times the cookies that a browser keeps for one name.
pub const HEADER_BYTES: usize = 32 * 1024;
/// Concurrent streams per connection in HTTP/2 and HTTP/3: enough for a page with many pictures (RFC 9113,
/// section 6.5.2, recommends at least 100).
pub const STREAMS: u32 = 128;
/// Flow-control windows for one request body and for all bodies of a connection: enough for an upload of 80
/// Mbit/s at 25 ms.
pub const STREAM_WINDOW: u32 = 256 * 1024;
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Limit of unsent bytes in the kernel's socket buffer (`TCP_NOTSENT_LOWAT`). By default the kernel would
/// buffer megabytes, and a later answer on the same connection would wait behind them; data that stays in the
/// gateway is interleaved. Twice the size of our largest write.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;
/// How long clients may cache the HTTP/3 advertisement (`Alt-Svc`), in seconds.
const REMEMBERED: u32 = 86_400;

/// The addresses that `start` bound, and the threads that don't serve clients.
pub struct Started {
    pub listen: String,
    pub admin: String,
    pub threads: Vec<JoinHandle<()>>,
    pub closed: Closed,
}

/// The client port, bound but not listening.
pub struct Closed {
    address: SocketAddr,
    congestion: Option<String>,
    workers: usize,
    /// One per worker; empty after one of them failed to listen.
    sockets: Vec<Socket>,
    quic: Option<quinn::ServerConfig>,
    door: Arc<Door>,
}

/// Bind both ports and serve the admin port.
pub fn start(shared: &Arc<Shared>) -> Result<Started, Error> {
    let snapshot = shared.snapshot();
    let config = &snapshot.config;
    let (tls, certificates) = tls::load(config)?.unzip();
    if let Some(certificates) = certificates {
        shared.shows(certificates);
    }
    let congestion = config.clients.congestion.as_deref();
    let first = bind(&config.listen, congestion)?;
    let address = first.local_addr().map_err(Error::io("listen"))?.as_socket();
    let address = address.ok_or_else(|| Error::Config(format!("{} is no address of IP", config.listen)))?;
    let admin = bind(&config.admin, None)?;
    listen(&admin, &config.admin)?;
    let admin = TcpListener::from(admin);
    let admin_address = admin.local_addr().map_err(Error::io("admin"))?;
    let mut alternative = None;
    let quic = match (&tls, config.http3) {
        (_, false) => None,
        (None, true) => return Err(Error::Config("http3 needs TLS: set tls, or leave http3 out".into())),
        (Some(tls), true) => {
            let header = format!("h3=\":{}\"; ma={REMEMBERED}", address.port());
            alternative = HeaderValue::from_str(&header).ok();
            let tls =
                if config.early_data { tls.speaking_early_by_quic(&[b"h3"]) } else { tls.speaking(&[b"h3"]) };
            Some(http3::config(tls, &config.clients)?)
        }
    };
    let spoken: [&[u8]; 3] = [b"h2", b"http/1.1", certificates::PROOF];
    // No early data for sessions that other gateways can resume: a shared ticket secret takes precedence.
    let tls = tls.map(|tls| match config.early_data && config.ticket_secret.is_none() {
        true => tls.speaking_early_by_tcp(&spoken),
        false => tls.speaking(&spoken),
    });
    let patience = Patience::new(&config.clients)?;
    let places = Arc::new(Places::new(&config.clients));
    let door = Arc::new(Door {
        tls: tls.map(Arc::new),
        announced: config.proxy_protocol,
        early_data: config.early_data,
        alternative,
        for_clients: true,
        last: Phase::Draining,
        patience,
        places,
    });
    let operators = Arc::clone(shared);
    // The admin port has no connection limit.
    let office = Door {
        tls: None,
        announced: false,
        early_data: false,
        alternative: None,
        for_clients: false,
        last: Phase::Ended,
        patience,
        places: Arc::default(),
    };
    let mut threads = vec![thread("gateway-admin".into(), move || admin_worker(&operators, admin, office))?];
    if let Some(link) = shared.link.clone() {
        let shared = Arc::clone(shared);
        threads.push(thread("gateway-limits".into(), move || {
            run(async {
                exchange::keep(&shared, &link).await;
                Ok(())
            })
        })?);
    }
    let (congestion, workers) = (config.clients.congestion.clone(), config.threads.clamp(1, 64));
    let mut closed = Closed { address, congestion, workers, sockets: vec![first], quic, door };
    closed.bind()?;
    Ok(Started { listen: address.to_string(), admin: admin_address.to_string(), threads, closed })
}

impl Closed {
    /// Bind the sockets that aren't bound yet.
    fn bind(&mut self) -> Result<(), Error> {
        while self.sockets.len() < self.workers {
            self.sockets.push(bind(&self.address.to_string(), self.congestion.as_deref())?);
        }
        Ok(())
    }

    /// Listen, with one thread per worker. After an error no socket listens, and the call may be repeated.
    ///
    /// # Errors
    /// `Error::Io`: another process listens there without sharing the port, or has the UDP port.
    pub fn open(&mut self, shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>, Error> {
        self.bind()?;
        let address = self.address;
        // A UDP socket receives datagrams as soon as it is bound, so bind it only now.
        let datagrams = match &self.quic {
            Some(_) => http3::bind(address, self.workers)
                .map_err(Error::io(format!("can't listen on {address}, UDP")))?,
            None => Vec::new(),
        };
        // Start the threads first; each waits for its socket and ends if it gets none.
        let mut threads = Vec::new();
        let mut waiting = Vec::new();
        for number in 0..self.workers {
            let (give, given) = mpsc::channel();
            let (shared, door) = (Arc::clone(shared), Arc::clone(&self.door));
            let (number, workers) = (number as u8, self.workers as u8);
            let work = move || match given.recv() {
                Ok((listener, quic)) => worker(&shared, listener, door, quic, number, workers),
                Err(mpsc::RecvError) => Ok(()),
            };
            threads.push(thread(format!("gateway-{number}"), work)?);
            waiting.push(give);
        }
        for socket in &self.sockets {
            if let Err(error) = listen(socket, &address.to_string()) {
                // Close the sockets that listen already: the kernel would give them clients that no thread
                // serves.
                self.sockets.clear();
                return Err(error);
            }
        }
        let mut datagrams = datagrams.into_iter();
        for (give, socket) in waiting.iter().zip(self.sockets.drain(..)) {
            let quic = self.quic.clone().zip(datagrams.next());
            // The receiver is waiting, so this can't fail.
            let _ = give.send((TcpListener::from(socket), quic));
        }
        Ok(threads)
    }
}

fn thread(
    name: String,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            if let Err(error) = run() {
                eprintln!(
                    "{{\"level\":\"error\",\"event\":\"worker_ended\",\"error\":{:?}}}",
                    error.to_string()
                );
            }
        })
        .map_err(Error::io(name))
}

/// A bound socket at `address` that doesn't listen yet; accepted connections inherit its options.
fn bind(address: &str, congestion: Option<&str>) -> Result<Socket, Error> {
    let parsed: SocketAddr = address
        .parse()
        .map_err(|_| Error::Config(format!("{address} is not an address such as 127.0.0.1:8443")))?;
    let bound = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(parsed), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_notsent_lowat(UNSENT)?;
        socket.bind(&parsed.into())?;
        Ok(socket)
    };
    let socket = bound().map_err(Error::io(format!("can't listen on {address}")))?;
    if let Some(algorithm) = congestion {
        control(&socket, algorithm)?;
    }
    Ok(socket)
}

fn listen(socket: &Socket, address: &str) -> Result<(), Error> {
    socket.listen(BACKLOG).map_err(Error::io(format!("can't listen on {address}")))
}

/// Set the congestion control algorithm.
#[cfg(target_os = "linux")]
fn control(socket: &Socket, algorithm: &str) -> Result<(), Error> {
    const KNOWN: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";
    socket.set_tcp_congestion(algorithm.as_bytes()).map_err(|error| {
        let known = std::fs::read_to_string(KNOWN).unwrap_or_default();
        Error::Config(format!("congestion {algorithm:?}: {error}; this kernel has: {}", known.trim()))
    })
}

#[cfg(not(target_os = "linux"))]
fn control(_: &Socket, algorithm: &str) -> Result<(), Error> {
    Err(Error::Config(format!("congestion {algorithm:?}: only Linux lets connections choose")))
}

fn run<F: Future<Output = io::Result<()>>>(future: F) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

fn worker(
    shared: &Arc<Shared>,
    listener: TcpListener,
    door: Arc<Door>,
    quic: Option<(quinn::ServerConfig, UdpSocket)>,
    number: u8,
    workers: u8,
) -> io::Result<()> {
    run(async {
        let streams = accept(shared, listener, Arc::clone(&door), proxy::serve);
        match quic {
            None => streams.await,
            Some((config, socket)) => {
                let ids = http3::Ids::new(number, workers);
                let datagrams = http3::listen(Arc::clone(shared), door, socket, config, ids);
                tokio::try_join!(streams, datagrams).map(|_| ())
            }
        }
    })
}

fn admin_worker(shared: &Arc<Shared>, listener: TcpListener, door: Door) -> io::Result<()> {
    let serve = |shared: Arc<Shared>, _, request| async move { Ok(admin::serve(&shared, request).await) };
    run(async {
        // On this thread these tasks take no time from clients.
        let kept = Arc::clone(shared);
        tokio::spawn(async move { identity::keep_fresh(&kept).await });
        let kept = Arc::clone(shared);
        tokio::spawn(async move { health::keep_checking(&kept).await });
        let kept = Arc::clone(shared);
        let exporting = tokio::spawn(async move { tracing::keep_exporting(&kept).await });
        let accepted = accept(shared, listener, Arc::new(door), serve).await;
        // It exports what is left and ends soon after the gateway.
        let _ = exporting.await;
        accepted
    })
}

/// Accept until the phase `door.last`, then accept the connections that are in the backlog by then, and wait
/// until the gateway ends, as connections are still being served. After a failed accept (such as no
/// descriptors left) pause and continue.
async fn accept<S, F>(
    shared: &Arc<Shared>,
    listener: TcpListener,
    door: Arc<Door>,
    serve: S,
) -> io::Result<()>
where
    S: Fn(Arc<Shared>, Arc<Client>, Request<RequestBody>) -> F + Copy + Send + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut phase = shared.phase();
    let welcome = move |shared, address: IpAddr, stream, door: Arc<Door>, place| {
        let client = HeaderValue::from_str(&address.to_canonical().to_string())
            .map(|address| Arc::new(Client::new(address)));
        async move {
            let Ok(client) = client else { return };
            let Some(tls) = door.tls.clone() else {
                connection::serve(shared, client, stream, Agreed::default(), &door, place, serve).await;
                return;
            };
            // On the heap, so that plain connections don't reserve space for TLS, and that of the handshake is
            // freed with it.
            let accepted = Box::pin(handshake(tls, stream, &client, &door)).await;
            match accepted {
                Some((Accepted::Complete(stream), agreed)) => {
                    Box::pin(connection::serve(shared, client, stream, agreed, &door, place, serve)).await;
                }
                Some((Accepted::Early(stream), agreed)) => {
                    Box::pin(connection::serve(shared, client, stream, agreed, &door, place, serve)).await;
                }
                None => {}
            }
        }
    };
    let admit = |mut stream: TcpStream, address: SocketAddr| {
        let peer = address.ip();
        let place = if door.announced { door.places.take_for_whomever() } else { door.places.take(peer) };
        let Some(mut place) = place else {
            shared.turned_away.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if stream.set_nodelay(true).is_err() {
            return; // the client is gone already
        }
        let (shared, door) = (Arc::clone(shared), Arc::clone(&door));
        if !door.announced {
            tokio::spawn(welcome(shared, peer, stream, door, place));
            return;
        }
        tokio::spawn(async move {
            let Some(client) = announced(&shared, &mut stream, peer, &door).await else { return };
            if place.settle(client) {
                // As a task of its own, without the space that reading the header took.
                tokio::spawn(welcome(shared, client, stream, door, place));
            } else {
                shared.turned_away.fetch_add(1, Ordering::Relaxed);
            }
        });
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| *phase >= door.last) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                admit(stream, address);
                // Accept one connection per pass over the ready tasks: established connections don't wait
                // while a burst of new ones is set up, at up to 0.1 ms each.
                yield_now().await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    let listener = listener.into_std()?;
    for _ in 0..BACKLOG {
        let Ok((stream, address)) = listener.accept() else { break };
        stream.set_nonblocking(true)?;
        admit(TcpStream::from_std(stream)?, address);
    }
    drop(listener);
    // The sender of phases lives as long as `shared`.
    let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
    Ok(())
}

/// The client address that a trusted proxy announces; `None` if the connection must be dropped.
async fn announced(shared: &Shared, stream: &mut TcpStream, peer: IpAddr, door: &Door) -> Option<IpAddr> {
    if !shared.snapshot().trust.as_ref().is_some_and(|trust| trust.knows(&peer)) {
        shared.unannounced.add(peer, "its address is in none of trusted_proxies");
        return None;
    }
    match tokio::time::timeout(door.patience.head, proxy_protocol::source(stream)).await {
        Ok(Ok(source)) => Some(source.unwrap_or(peer)),
        Ok(Err(error)) => {
            // Any other error is no refusal: load balancers also connect and close as a health check.
            if error.kind() == io::ErrorKind::InvalidData {
                shared.unannounced.add(peer, &error.to_string());
            }
            None
        }
        Err(_) => {
            shared.unannounced.add(peer, "no header came in time");
            None
        }
    }
}

/// Complete a client's handshake, or take in its early data. `None` if nothing is to be served.
async fn handshake(
    tls: Arc<ServerConfig>,
    stream: TcpStream,
    client: &Arc<Client>,
    door: &Door,
) -> Option<(Accepted, Agreed)> {
    let deadline = Instant::now() + door.patience.head;
    let accepting = early_data::accept(tls, stream, client, deadline);
    let (mut accepted, protocol, handshake) = timeout_at(deadline, accepting).await.ok()?.ok()?;
    if let Some(spoken) = agreed(protocol.as_deref()) {
        return Some((accepted, Agreed { spoken: Some(spoken), handshake }));
    }
    // The ACME directory may have disconnected already.
    let _ = match &mut accepted {
        Accepted::Complete(stream) => stream.shutdown().await,
        Accepted::Early(stream) => stream.shutdown().await,
    };
    None
}

/// The protocol for what ALPN negotiated, never guessed from the bytes. `None` for an ACME directory, which
/// needs only the handshake.
fn agreed(protocol: Option<&[u8]>) -> Option<Spoken> {
    match protocol {
        Some(b"h2") => Some(Spoken::Http2),
        Some(certificates::PROOF) => None,
        _ => Some(Spoken::Http1),
    }
}
