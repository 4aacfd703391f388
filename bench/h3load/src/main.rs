//! A load generator for HTTP/3, like h2load for HTTP/2 (distributions build h2load without QUIC): a fixed
//! number of connections and of concurrent requests on each, in a closed loop. Prints one line of JSON at the
//! end.
//!
//! A response counts if it has status 200, the expected number of bytes, and arrived in time; anything else
//! is an error, and the first one is reported. Everything runs on one thread, since the benches give the load
//! generator one core. It uses quinn and h3 with `h3-quinn`, and none of the data plane's own code, so that a
//! bug there can't hide behind the same one here. The libraries are common to both; therefore the bench
//! checks this program against aioquic before each use.

mod tally;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use clap::Parser;
use h3::client::SendRequest;
use h3_quinn::OpenStreams;
use http::{Request, StatusCode};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use tally::Tally;

/// The name in the benches' certificates.
const NAME: &str = "localhost";
/// The timeout of a request: longer than any proxy's queue.
const PATIENCE: Duration = Duration::from_secs(10);
/// The flow-control window of a stream and of the connection: large enough never to block the server.
const WINDOW: u32 = 16 * 1024 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Ask a server for the same path over HTTP/3, and say how often it answered.
#[derive(Debug, Parser)]
#[command(name = "h3load")]
struct Arguments {
    /// The server's address and port.
    address: SocketAddr,
    /// The authority (PEM) that vouches for its certificate, which is for localhost.
    #[arg(long)]
    authority: PathBuf,
    /// What is asked for.
    #[arg(long, default_value = "/")]
    path: String,
    /// How many connections there are.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// How many requests are under way on each.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100))]
    streams: u32,
    /// How long requests are begun; those under way then are waited for.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Stop after as many requests on each connection, if that comes first.
    #[arg(long)]
    requests: Option<u64>,
    /// How many bytes the body of an answer must have.
    #[arg(long)]
    body_bytes: usize,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("h3load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<String, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, load(Arc::new(arguments)))
}

async fn load(arguments: Arc<Arguments>) -> Result<String, Failure> {
    let config = client(&arguments.authority)?;
    let mut connections = JoinSet::new();
    for _ in 0..arguments.connections {
        // An endpoint, and therefore a port, per connection: each is a client of its own.
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
        endpoint.set_default_client_config(config.clone());
        connections.spawn_local(connect(Arc::clone(&arguments), endpoint));
    }
    let mut ready = Vec::new();
    while let Some(connected) = connections.join_next().await {
        ready.push(connected??);
    }
    let began = Instant::now();
    let end = began + Duration::from_secs(arguments.seconds);
    let mut asking = JoinSet::new();
    for connection in &ready {
        for stream in 0..arguments.streams {
            let most = arguments.requests.map(|all| share(all, arguments.streams, stream));
            let (sender, arguments) = (connection.sender.clone(), Arc::clone(&arguments));
            asking.spawn_local(ask_until(arguments, sender, end, most.unwrap_or(u64::MAX)));
        }
    }
    let mut tally = Tally::new()?;
    while let Some(asked) = asking.join_next().await {
        tally.add(&asked??)?;
    }
    let report = tally.report(began.elapsed())?;
    for Connected { endpoint, sender } in ready {
        drop(sender);
        endpoint.close(VarInt::from_u32(h3::error::Code::H3_NO_ERROR.value() as u32), b"");
        // Wait until the server knows that its clients are gone, so that it keeps no state for the next run.
        endpoint.wait_idle().await;
    }
    Ok(report)
}

/// The share of `all` requests of one of `streams` tasks.
fn share(all: u64, streams: u32, stream: u32) -> u64 {
    let (all_have, rest) = (all / u64::from(streams), all % u64::from(streams));
    all_have + u64::from(u64::from(stream) < rest)
}

/// The QUIC client configuration.
fn client(authority: &PathBuf) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    let read = fs::read(authority).map_err(|error| format!("{}: {error}", authority.display()))?;
    roots.add(CertificateDer::from_pem_slice(&read)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(WINDOW.into()).receive_window(WINDOW.into());
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

struct Connected {
    endpoint: Endpoint,
    sender: SendRequest<OpenStreams, Bytes>,
}

async fn connect(arguments: Arc<Arguments>, endpoint: Endpoint) -> Result<Connected, Failure> {
    let connecting = endpoint.connect(arguments.address, NAME)?;
    let connection = timeout(PATIENCE, connecting).await.map_err(|_| "no handshake in time")??;
    let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    // The driver ends with its connection; errors there are reported by each request.
    tokio::task::spawn_local(async move { driver.wait_idle().await });
    Ok(Connected { endpoint, sender })
}

/// Send requests one after the other.
async fn ask_until(
    arguments: Arc<Arguments>,
    mut sender: SendRequest<OpenStreams, Bytes>,
    end: Instant,
    most: u64,
) -> Result<Tally, Failure> {
    let uri = format!("https://{NAME}:{}{}", arguments.address.port(), arguments.path);
    let request = Request::get(uri).body(())?;
    let mut tally = Tally::new()?;
    for _ in 0..most {
        let began = Instant::now();
        if began >= end {
            break;
        }
        match timeout(PATIENCE, ask(&mut sender, request.clone(), arguments.body_bytes)).await {
            Ok(Ok(())) => tally.answered(began.elapsed())?,
            Ok(Err(error)) => tally.failed(error.to_string()),
            Err(_) => tally.failed(format!("no answer within {} s", PATIENCE.as_secs())),
        }
        if tally.hopeless() {
            break;
        }
    }
    Ok(tally)
}

/// Send one request.
///
/// # Errors
/// The response isn't the expected one.
async fn ask(
    sender: &mut SendRequest<OpenStreams, Bytes>,
    request: Request<()>,
    body_bytes: usize,
) -> Result<(), Failure> {
    let mut stream = sender.send_request(request).await?;
    stream.finish().await?;
    let status = stream.recv_response().await?.status();
    let mut received = 0;
    while let Some(part) = stream.recv_data().await? {
        received += part.remaining();
    }
    if status != StatusCode::OK {
        return Err(format!("status {status}").into());
    }
    if received != body_bytes {
        return Err(format!("{received} bytes instead of {body_bytes}").into());
    }
    Ok(())
}
