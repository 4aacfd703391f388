//! Keys of the issuer, fetched in the background and kept while the issuer is away.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::identity::Key;
use crate::shared::Shared;
use crate::verifier::Verifier;

/// Between two regular fetches.
const REFRESH: Duration = Duration::from_secs(300);
/// Between two fetches that unknown keys asked for: a client can't make the gateway hammer the
/// issuer with made-up key ids. Also the pause after a failure.
const FLOOR: Duration = Duration::from_secs(1);
/// An issuer that takes longer is away.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// An issuer's answer is not read beyond this.
const LIMIT: usize = 256 * 1024;

#[derive(Deserialize)]
struct Document {
    keys: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    kty: String,
    kid: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

/// Keep the keys fresh of whoever vouches for clients at the moment, for as long as the gateway
/// runs. One task does all fetches, so there is never more than one under way.
pub async fn keep_fresh(shared: &Shared) {
    let mut version = shared.version();
    loop {
        version.mark_unchanged();
        let verifier = shared.snapshot().verifier.clone();
        let same = |verifier: Option<&Arc<Verifier>>| verifier.map(Arc::as_ptr);
        let replaced = async {
            while version.changed().await.is_ok() {
                if same(shared.snapshot().verifier.as_ref()) != same(verifier.as_ref()) {
                    break;
                }
            }
        };
        tokio::select! {
            () = replaced => {}
            () = refresh(verifier.as_deref()) => {}
        }
    }
}

async fn refresh(verifier: Option<&Verifier>) {
    let Some(verifier) = verifier else { return std::future::pending().await };
    loop {
        let pause = match tokio::time::timeout(FETCH_TIMEOUT, fetch(&verifier.config.jwks_url)).await {
            Ok(Ok(keys)) => {
                verifier.keys.store(Arc::new(keys));
                REFRESH
            }
            // Stale keys go on being served: the issuer's absence is no reason to refuse.
            Ok(Err(_)) | Err(_) => {
                verifier.jwks_failures.fetch_add(1, Ordering::Relaxed);
                FLOOR
            }
        };
        tokio::time::sleep(FLOOR).await;
        tokio::select! {
            () = tokio::time::sleep(pause.saturating_sub(FLOOR)) => {}
            () = verifier.unknown_key.notified() => {}
        }
    }
}

async fn fetch(url: &str) -> Result<HashMap<String, Key>, Box<dyn std::error::Error + Send + Sync>> {
    let uri: hyper::Uri = url.parse()?;
    let authority = uri.authority().ok_or("the JWKS address has no host")?.clone();
    let port = authority.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((authority.host(), port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header("host", authority.as_str()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(format!("the issuer answered {}", response.status()).into());
    }
    let body =
        Limited::new(response.into_body(), LIMIT).collect().await.map_err(|error| error.to_string())?;
    connection.abort();
    let document: Document = serde_json::from_slice(&body.to_bytes())?;
    Ok(document
        .keys
        .into_iter()
        .filter_map(|entry| Some((entry.kid.clone().unwrap_or_default(), key(entry)?)))
        .collect())
}

fn key(entry: Entry) -> Option<Key> {
    let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
    match (entry.kty.as_str(), entry.crv.as_deref()) {
        ("EC", Some("P-256")) => {
            let mut point = vec![4];
            point.extend(bytes(entry.x)?);
            point.extend(bytes(entry.y)?);
            Some(Key::Es256(point))
        }
        ("RSA", _) => Some(Key::Rs256 { n: bytes(entry.n)?, e: bytes(entry.e)? }),
        _ => None,
    }
}
