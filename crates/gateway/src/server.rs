//! Listening sockets and worker threads, and the operators' port.
//!
//! It is done in two steps, so that a gateway can be there before it lets clients in. `start` binds the
//! port of clients, which shows whether it can be had, and serves operators; `Closed::open` listens. The
//! kernel hands connections to sockets that listen alone: until then they go to the gateway that is
//! there already, if there is one, and a gateway that knows no instance yet refuses nobody.

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
use crate::door::{Door, Patience, Place, Places};
use crate::early_data::{self, Accepted};
use crate::request_body::RequestBody;
use crate::respond::Body;
use crate::shared::{Phase, Shared};
use crate::{
    Error, admin, certificates, exchange, health, http3, identity, proxy, proxy_protocol, tls, tracing,
};

const BACKLOG: i32 = 4096;
/// Headers of a request: three times what a browser sends.
pub const HEADERS_LIMIT: usize = 100;
/// Their size in all: four times the cookies that a browser keeps for one name.
pub const HEADER_BYTES: usize = 32 * 1024;
/// Requests of a client at a time, in the protocols that have more than one: a page of many
/// pictures fits (RFC 9113, section 6.5.2, asks for 100 at least).
pub const STREAMS: u32 = 128;
/// What a client may send of one body before it is read, and of all of them: enough for 80 Mbit/s
/// of an upload at 25 ms.
pub const STREAM_WINDOW: u32 = 256 * 1024;
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What the kernel holds of answers that can't be sent yet. It would take megabytes, and an answer
/// that comes later on the same connection would have to wait behind them; what is left with us is
/// interleaved. Twice what one write of ours takes at most.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;
/// For how long clients may remember that there is HTTP/3 here, in seconds.
const REMEMBERED: u32 = 86_400;

/// What `start` bound, and the threads that serve operators and what needs no client.
pub struct Started {
    pub listen: String,
    pub admin: String,
    pub threads: Vec<JoinHandle<()>>,
    pub closed: Closed,
}

/// The port of clients, bound, and not listened to.
pub struct Closed {
    address: SocketAddr,
    congestion: Option<String>,
    workers: usize,
    /// One for each worker; none once one of them could not listen.
    sockets: Vec<Socket>,
    quic: Option<quinn::ServerConfig>,
    door: Arc<Door>,
}

/// Bind both ports and let operators in.
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
    // Sessions that other gateways resume get no early data: who shares a secret wants to share them.
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
    // Operators get in however many clients there are.
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
    /// Bind what is not bound yet.
    fn bind(&mut self) -> Result<(), Error> {
        while self.sockets.len() < self.workers {
            self.sockets.push(bind(&self.address.to_string(), self.congestion.as_deref())?);
        }
        Ok(())
    }

    /// Listen, on a thread for each worker: on all of them or, after an error, on none, and it may be
    /// tried again.
    ///
    /// # Errors
    /// `Error::Io`: somebody else listens there without sharing, or has the port of UDP.
    pub fn open(&mut self, shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>, Error> {
        self.bind()?;
        let address = self.address;
        // A socket of UDP gets datagrams from its binding on, so it has to wait until now.
        let datagrams = match &self.quic {
            Some(_) => http3::bind(address, self.workers)
                .map_err(Error::io(format!("can't listen on {address}, UDP")))?,
            None => Vec::new(),
        };
        // The threads come first, and wait for their sockets; without one they end.
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
                // Those that listen would be sent clients whom nobody serves.
                self.sockets.clear();
                return Err(error);
            }
        }
        let mut datagrams = datagrams.into_iter();
        for (give, socket) in waiting.iter().zip(self.sockets.drain(..)) {
            let quic = self.quic.clone().zip(datagrams.next());
            // It waits, so it takes it.
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

/// A socket at `address`, which doesn't listen yet; connections there have its options.
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

/// Let the kernel's `algorithm` say how fast answers are sent.
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
        // Here it takes no time from clients.
        let kept = Arc::clone(shared);
        tokio::spawn(async move { identity::keep_fresh(&kept).await });
        let kept = Arc::clone(shared);
        tokio::spawn(async move { health::keep_checking(&kept).await });
        let kept = Arc::clone(shared);
        let exporting = tokio::spawn(async move { tracing::keep_exporting(&kept).await });
        let accepted = accept(shared, listener, Arc::new(door), serve).await;
        // It ends soon after the gateway, with what was still to be told.
        let _ = exporting.await;
        accepted
    })
}

/// Accept until the door's last phase and those who wait at the door by then, and stay for whoever is
/// still connected until the gateway ends. A failed accept (no descriptors left) pauses, and goes on.
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
            match door.tls.clone() {
                None => {
                    connection::serve(shared, client, stream, Agreed::default(), &door, place, serve).await
                }
                // On the heap, where plain connections don't take its room.
                Some(tls) => Box::pin(secure(shared, client, stream, tls, door, place, serve)).await,
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
                // By itself, without the room that reading the header took.
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
                // One in each pass over those who are ready: whoever is served already doesn't wait for
                // the beginnings of all who come at once, at up to 0.1 ms for each.
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

/// Whose connection a proxy passes on, by its word; nothing if it is to be let go.
async fn announced(shared: &Shared, stream: &mut TcpStream, peer: IpAddr, door: &Door) -> Option<IpAddr> {
    if !shared.snapshot().trust.as_ref().is_some_and(|trust| trust.knows(&peer)) {
        shared.unannounced.add(peer, "its address is in none of trusted_proxies");
        return None;
    }
    match tokio::time::timeout(door.patience.head, proxy_protocol::source(stream)).await {
        Ok(Ok(source)) => Some(source.unwrap_or(peer)),
        Ok(Err(error)) => {
            // Balancers connect and go to see whether there is somebody, too.
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

async fn secure<S, F>(
    shared: Arc<Shared>,
    client: Arc<Client>,
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    door: Arc<Door>,
    place: Place,
    serve: S,
) where
    S: Fn(Arc<Shared>, Arc<Client>, Request<RequestBody>) -> F + Copy + Send + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let deadline = Instant::now() + door.patience.head;
    // On the heap both times, since each layer of what serves the connection would have room for it,
    // more than a KiB: a handshake that is over takes none, and a connection takes it once.
    match timeout_at(deadline, Box::pin(early_data::accept(tls, stream, &client, deadline))).await {
        Ok(Ok(Accepted::Complete(mut stream, protocol))) => match agreed(protocol.as_deref()) {
            Some(spoken) => {
                let agreed = Agreed { spoken: Some(spoken), handshake: None };
                connection::serve(shared, client, stream, agreed, &door, place, serve).await;
            }
            // The directory may be gone already.
            None => _ = stream.shutdown().await,
        },
        Ok(Ok(Accepted::Early(mut stream, protocol, handshake))) => match agreed(protocol.as_deref()) {
            Some(spoken) => {
                let agreed = Agreed { spoken: Some(spoken), handshake: Some(handshake) };
                let serving = connection::serve(shared, client, stream, agreed, &door, place, serve);
                // By itself, where connections without early data don't take its room.
                Box::pin(serving).await;
            }
            None => _ = stream.shutdown().await,
        },
        Ok(Err(_)) | Err(_) => {}
    }
}

/// What is spoken once ALPN has agreed on `protocol`: that, and nothing that looks otherwise. Nothing if the
/// handshake is all that the client, an ACME directory, wants to see.
fn agreed(protocol: Option<&[u8]>) -> Option<Spoken> {
    match protocol {
        Some(b"h2") => Some(Spoken::Http2),
        Some(certificates::PROOF) => None,
        _ => Some(Spoken::Http1),
    }
}
