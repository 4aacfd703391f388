//! The gateway's own requests, such as for an issuer's keys or to a trace collector. They are few, and no
//! client waits for them, so each opens a new connection.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::authorities;

/// Timeout of a whole exchange.
const TIMEOUT: Duration = Duration::from_secs(5);

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A status other than 2xx.
#[derive(Debug, thiserror::Error)]
#[error("answered {0}")]
pub struct Refused(pub StatusCode);

/// Send `request` to its URL, and read an answer of at most `limit` bytes. Any status but 2xx is an error. An
/// `https` server needs a certificate of an authority that this machine trusts, or of one in the PEM file
/// `authorities`.
///
/// # Errors
/// A readable text; it has no secrets unless the URL has.
pub async fn send(
    request: Request<Full<Bytes>>,
    authorities: Option<&Path>,
    limit: usize,
) -> Result<Bytes, Error> {
    let timeout = || format!("no answer within {} s", TIMEOUT.as_secs());
    tokio::time::timeout(TIMEOUT, exchange(request, authorities, limit)).await.map_err(|_| timeout())?
}

async fn exchange(
    mut request: Request<Full<Bytes>>,
    authorities: Option<&Path>,
    limit: usize,
) -> Result<Bytes, Error> {
    let address = std::mem::take(request.uri_mut());
    let authority = address.authority().ok_or("the address has no host")?;
    let secure = match address.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("the address begins neither with http:// nor with https://".into()),
    };
    *request.uri_mut() = Uri::from(address.path_and_query().cloned().ok_or("the address has no path")?);
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    let host = authority.host().trim_matches(['[', ']']);
    let stream =
        TcpStream::connect((host, authority.port_u16().unwrap_or(if secure { 443 } else { 80 }))).await?;
    if secure {
        let name = ServerName::try_from(host.to_owned())?;
        let connector = TlsConnector::from(Arc::new(trusting(authorities)?));
        answer(connector.connect(name, stream).await?, request, limit).await
    } else {
        answer(stream, request, limit).await
    }
}

async fn answer<S>(stream: S, request: Request<Full<Bytes>>, limit: usize) -> Result<Bytes, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let serving = tokio::spawn(connection);
    let read = async {
        let response: Response<Incoming> = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(Refused(response.status()).into());
        }
        Ok(Limited::new(response.into_body(), limit).collect().await?.to_bytes())
    };
    let read = read.await;
    serving.abort();
    read
}

/// Read each time: authorities change, and these requests are rare.
fn trusting(authorities: Option<&Path>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities::trusted(authorities)?)
        .with_no_client_auth())
}
