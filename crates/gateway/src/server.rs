//! Listening: worker threads with a socket each, and the operators' port.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio_rustls::TlsAcceptor;

use crate::client::{Client, Ending, HEADER_TIMEOUT};
use crate::config::Config;
use crate::io::Together;
use crate::request_body::RequestBody;
use crate::respond::Body;
use crate::shared::{Phase, Shared};
use crate::{Error, admin, exchange, identity, proxy};

const BACKLOG: i32 = 4096;
const HEADERS_LIMIT: usize = 100;
const HEADER_BYTES: usize = 32 * 1024;

/// What `start` bound, and the threads that serve it.
pub struct Started {
    pub listen: String,
    pub admin: String,
    pub threads: Vec<JoinHandle<()>>,
}

/// Bind both ports and start all threads.
pub fn start(shared: &Arc<Shared>) -> Result<Started, Error> {
    let snapshot = shared.snapshot();
    let config = &snapshot.config;
    let tls = acceptor(config)?;
    let first = bind(&config.listen)?;
    let listen = first.local_addr().map_err(Error::io("listen"))?;
    let admin = bind(&config.admin)?;
    let admin_address = admin.local_addr().map_err(Error::io("admin"))?;
    let mut listeners = vec![first];
    for _ in 1..config.threads.clamp(1, 64) {
        listeners.push(bind(&listen.to_string())?);
    }
    let mut threads = Vec::new();
    for (number, listener) in listeners.into_iter().enumerate() {
        let (shared, tls) = (Arc::clone(shared), tls.clone());
        threads.push(thread(format!("gateway-{number}"), move || worker(&shared, listener, tls))?);
    }
    let operators = Arc::clone(shared);
    threads.push(thread("gateway-admin".into(), move || admin_worker(&operators, admin))?);
    if let Some(link) = shared.link.clone() {
        let shared = Arc::clone(shared);
        threads.push(thread("gateway-limits".into(), move || {
            run(async {
                exchange::keep(&shared, &link).await;
                Ok(())
            })
        })?);
    }
    Ok(Started { listen: listen.to_string(), admin: admin_address.to_string(), threads })
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

fn bind(address: &str) -> Result<TcpListener, Error> {
    let parsed: SocketAddr = address
        .parse()
        .map_err(|_| Error::Config(format!("{address} is not an address such as 127.0.0.1:8443")))?;
    let bound = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(parsed), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&parsed.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bound().map_err(Error::io(format!("can't listen on {address}")))
}

fn acceptor(config: &Config) -> Result<Option<TlsAcceptor>, Error> {
    let (Some(certificate), Some(key)) = (&config.certificate, &config.key) else {
        return Ok(None);
    };
    let wrong = |path: &str, error: &dyn std::fmt::Display| Error::Config(format!("{path}: {error}"));
    let chain = CertificateDer::pem_file_iter(Path::new(certificate))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(Path::new(key)).map_err(|error| wrong(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong(certificate, &error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| wrong(certificate, &error))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(tls))))
}

fn run<F: Future<Output = io::Result<()>>>(future: F) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

fn worker(shared: &Arc<Shared>, listener: TcpListener, tls: Option<TlsAcceptor>) -> io::Result<()> {
    run(async { accept(shared, listener, tls, Phase::Draining, proxy::serve).await })
}

fn admin_worker(shared: &Arc<Shared>, listener: TcpListener) -> io::Result<()> {
    let serve = |shared: Arc<Shared>, _, request| async move { Ok(admin::serve(&shared, &request)) };
    run(async {
        // Here it takes no time from clients.
        let kept = Arc::clone(shared);
        tokio::spawn(async move { identity::keep_fresh(&kept).await });
        accept(shared, listener, None, Phase::Ended, serve).await
    })
}

/// Accept until the phase `last`, and stay for whoever is still connected until the gateway ends.
/// A failed accept (no descriptors left) pauses, and goes on.
async fn accept<S, F>(
    shared: &Arc<Shared>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    last: Phase,
    serve: S,
) -> io::Result<()>
where
    S: Fn(Arc<Shared>, Arc<Client>, Request<RequestBody>) -> F + Copy + Send + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut phase = shared.phase();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| *phase >= last) => break,
        };
        let Ok((stream, address)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(client) = HeaderValue::from_str(&address.ip().to_string()) else { continue };
        let client = Arc::new(Client::new(client));
        if stream.set_nodelay(true).is_err() {
            continue; // the client is gone already
        }
        let (shared, tls) = (Arc::clone(shared), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => {
                    let io = Together::new(TokioIo::new(stream));
                    connection(shared, client, io, last, serve).await;
                }
                Some(tls) => {
                    if let Ok(Ok(stream)) = tokio::time::timeout(HEADER_TIMEOUT, tls.accept(stream)).await {
                        connection(shared, client, TokioIo::new(stream), last, serve).await;
                    }
                }
            }
        });
    }
    drop(listener);
    // The sender of phases lives as long as `shared`.
    let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
    Ok(())
}

async fn connection<I, S, F>(shared: Arc<Shared>, client: Arc<Client>, io: I, last: Phase, serve: S)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: Fn(Arc<Shared>, Arc<Client>, Request<RequestBody>) -> F + Copy + Send + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let _connected = shared.connected();
    let mut builder = Builder::new(TokioExecutor::new());
    // Clients that are slow or idle are watched for below, in either protocol.
    builder.http1().header_read_timeout(None).max_headers(HEADERS_LIMIT).max_buf_size(HEADER_BYTES);
    builder.http2().max_header_list_size(HEADER_BYTES as u32).max_concurrent_streams(256);
    let watching = tokio::spawn(Arc::clone(&client).watch(shared.phase(), last));
    let asked = Arc::clone(&client);
    let service = service_fn(move |request: Request<_>| {
        serve(Arc::clone(&shared), Arc::clone(&asked), request.map(RequestBody::Hyper))
    });
    let serving = builder.serve_connection(io, service);
    tokio::pin!(serving);
    let mut ending = None;
    poll_fn(|cx| {
        loop {
            // A client's protocol error ends its connection, which is all it needs to know.
            if serving.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            match ready!(client.poll_ending(ending, cx)) {
                Ending::Politely => serving.as_mut().graceful_shutdown(),
                Ending::Cut => return Poll::Ready(()),
            }
            ending = Some(Ending::Politely);
        }
    })
    .await;
    watching.abort();
}
