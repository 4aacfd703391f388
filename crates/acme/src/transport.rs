//! HTTPS to a directory, with a limit on the size of responses, which instant-acme's own client lacks.

use std::pin::Pin;

use bytes::Bytes;
use http::Request;
use http_body_util::Limited;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error as Protocol, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::Error;

/// In bytes. The largest ACME response is a certificate chain, with some 2 KiB per certificate.
const ANSWER_LIMIT: usize = 256 * 1024;

/// The HTTP client for directories.
pub struct Transport(Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl Transport {
    /// `ca_file` holds the directory's authority in PEM (only the first certificate counts); it replaces the
    /// system's.
    ///
    /// # Errors
    /// There is no usable authority.
    pub fn new(ca_file: Option<&str>) -> Result<Self, Error> {
        let secured = match ca_file {
            Some(path) => HttpsConnectorBuilder::new().with_tls_config(trusting(path)?),
            None => HttpsConnectorBuilder::new()
                .try_with_platform_verifier()
                .map_err(|error| Error::Unavailable(error.to_string()))?,
        };
        let connector = secured.https_only().enable_http1().enable_http2().build();
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Protocol>> + Send>> {
        let asked = self.0.request(request);
        Box::pin(async move {
            let answer = asked.await.map_err(|error| Protocol::Other(Box::new(error)))?;
            Ok(BytesResponse::from(answer.map(|body| Limited::new(body, ANSWER_LIMIT))))
        })
    }
}

fn trusting(path: &str) -> Result<ClientConfig, Error> {
    let no_authority =
        |reason: &dyn std::fmt::Display| Error::refused(format!("{path} holds no authority: {reason}"));
    let authority = CertificateDer::from_pem_file(path).map_err(|error| no_authority(&error))?;
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(|error| no_authority(&error))?;
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
