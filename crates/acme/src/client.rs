//! The client: blocking operations, each with a timeout.

use std::time::Duration;

use instant_acme::{
    Account, AccountBuilder, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType,
    Error as Protocol, ExternalAccountKey, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::runtime::{Builder, Runtime};

use crate::Error;
use crate::transport::Transport;

/// The initial interval of polling an order. It grows by half each time, unless the directory sends
/// `Retry-After`.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// An external account binding (RFC 8555, section 7.3.4).
pub struct External {
    pub key_id: String,
    pub key: Vec<u8>,
}

/// The suggested renewal window (RFC 9773) in seconds since 1970, and the number of seconds until it should
/// be queried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    pub start: f64,
    pub end: f64,
    pub ask_again_seconds: f64,
}

/// An account at a directory.
pub struct Client {
    account: Account,
    runtime: Runtime,
}

impl Client {
    /// Create an account at `directory`, which implies agreement to its terms of service. Returns the
    /// credentials for `open`, including the account's private key.
    ///
    /// `ca_file` holds the authority of the directory's own certificate, in PEM; it replaces the system's.
    ///
    /// # Errors
    /// The directory does not answer, or refuses.
    pub fn register(
        directory: &str,
        ca_file: Option<&str>,
        email: Option<&str>,
        external: Option<&External>,
        timeout: Duration,
    ) -> Result<String, Error> {
        let contact: Vec<String> = email.iter().map(|email| format!("mailto:{email}")).collect();
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let account =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let external = external.map(|bound| ExternalAccountKey::new(bound.key_id.clone(), &bound.key));
        let making = async {
            let created = builder(ca_file)?.create(&account, directory.to_owned(), external.as_ref()).await;
            let (_, credentials) = created?;
            serde_json::to_string(&credentials).map_err(|error| Error::refused(error.to_string()))
        };
        wait(&runtime()?, timeout, making)
    }

    /// Open an account created by `register`.
    ///
    /// # Errors
    /// The directory does not answer, or `credentials` are invalid.
    pub fn open(credentials: &str, ca_file: Option<&str>, timeout: Duration) -> Result<Self, Error> {
        let credentials = serde_json::from_str(credentials)
            .map_err(|error| Error::refused(format!("the stored account can't be read: {error}")))?;
        let runtime = runtime()?;
        let opening = async { Ok(builder(ca_file)?.from_credentials(credentials).await?) };
        Ok(Self { account: wait(&runtime, timeout, opening)?, runtime })
    }

    /// Order a certificate for `name`; returns the order's URL. `replaces` is the certificate (PEM) to be
    /// replaced: directories with ARI relax rate limits for renewals (RFC 9773, section 5).
    ///
    /// # Errors
    /// The directory does not answer, or refuses.
    pub fn order(
        &self,
        name: &str,
        profile: Option<&str>,
        replaces: Option<&str>,
        timeout: Duration,
    ) -> Result<String, Error> {
        let names = [Identifier::Dns(name.to_owned())];
        let wanted = || {
            let order = NewOrder::new(&names);
            if let Some(profile) = profile { order.profile(profile) } else { order }
        };
        let before = replaces.map(leaf).transpose()?;
        let before = before.as_ref().and_then(|before| CertificateIdentifier::try_from(before).ok());
        let ordering = async {
            let made = match before {
                None => self.account.new_order(&wanted()).await,
                Some(before) => match self.account.new_order(&wanted().replaces(before)).await {
                    Err(error) if is_about_replacing(&error) => self.account.new_order(&wanted()).await,
                    made => made,
                },
            };
            Ok(made?.url().to_owned())
        };
        wait(&self.runtime, timeout, ordering)
    }

    /// The digest of the key authorization, to be presented for the order's name in TLS-ALPN-01 (RFC 8737).
    /// `None` if the directory needs no further validation.
    ///
    /// # Errors
    /// The directory does not answer, refuses, or does not offer this challenge.
    pub fn challenge(&self, order: &str, timeout: Duration) -> Result<Option<Vec<u8>>, Error> {
        let asking = async {
            let mut order = self.account.order(order.to_owned()).await?;
            if order.state().status != OrderStatus::Pending {
                return Ok(None);
            }
            let mut authorizations = order.authorizations();
            while let Some(authorization) = authorizations.next().await {
                let mut authorization = authorization?;
                if authorization.status != AuthorizationStatus::Pending {
                    continue;
                }
                let challenge = authorization.challenge(ChallengeType::TlsAlpn01).ok_or_else(not_offered)?;
                return Ok(Some(challenge.key_authorization().digest().as_ref().to_vec()));
            }
            Ok(None)
        };
        wait(&self.runtime, timeout, asking)
    }

    /// Have the directory validate the challenge, and wait for the outcome.
    ///
    /// # Errors
    /// The directory does not answer, or the validation failed: its explanation.
    pub fn prove(&self, order: &str, timeout: Duration) -> Result<(), Error> {
        let proving = async {
            let mut current = self.account.order(order.to_owned()).await?;
            if current.state().status == OrderStatus::Pending {
                self.look(&mut current).await?;
                match current.poll_ready(&policy(timeout)).await {
                    Ok(OrderStatus::Ready) => return Ok(()),
                    Ok(_) | Err(Protocol::Api(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                current = self.account.order(order.to_owned()).await?;
            }
            match current.state().status {
                OrderStatus::Invalid => Err(why_invalid(&mut current).await?),
                _ => Ok(()),
            }
        };
        wait(&self.runtime, timeout, proving)
    }

    /// Tell the directory that the challenge is ready.
    async fn look(&self, order: &mut Order) -> Result<(), Error> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let mut challenge = authorization.challenge(ChallengeType::TlsAlpn01).ok_or_else(not_offered)?;
            if challenge.status == ChallengeStatus::Pending {
                challenge.set_ready().await?;
            }
        }
        Ok(())
    }

    /// The certificate chain in PEM for the request `csr` (PKCS #10, DER). For an order that is already
    /// finalized, the certificate issued then.
    ///
    /// # Errors
    /// The directory does not answer, or refuses.
    pub fn certificate(&self, order: &str, csr: &[u8], timeout: Duration) -> Result<String, Error> {
        let finishing = async {
            let mut order = self.account.order(order.to_owned()).await?;
            match order.state().status {
                OrderStatus::Ready => order.finalize_csr(csr).await?,
                OrderStatus::Processing | OrderStatus::Valid => {}
                OrderStatus::Pending => return Err(Error::refused("the order still waits for its proof")),
                OrderStatus::Invalid => return Err(why_invalid(&mut order).await?),
            }
            Ok(order.poll_certificate(&policy(timeout)).await?)
        };
        wait(&self.runtime, timeout, finishing)
    }

    /// When the directory suggests to renew `certificate` (PEM); `None` if it does not support ARI.
    ///
    /// # Errors
    /// The directory does not answer, or refuses.
    pub fn renewal(&self, certificate: &str, timeout: Duration) -> Result<Option<Window>, Error> {
        let certificate = leaf(certificate)?;
        let Ok(identifier) = CertificateIdentifier::try_from(&certificate) else { return Ok(None) };
        let asking = async {
            match self.account.renewal_info(&identifier).await {
                Ok((info, again)) => Ok(Some(Window {
                    start: info.suggested_window.start.unix_timestamp() as f64,
                    end: info.suggested_window.end.unix_timestamp() as f64,
                    ask_again_seconds: again.as_secs_f64(),
                })),
                Err(Protocol::Unsupported(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        wait(&self.runtime, timeout, asking)
    }
}

/// The directory's error about the challenge, or else about the order.
async fn why_invalid(order: &mut Order) -> Result<Error, Error> {
    let said = order.state().error.clone();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let found = authorization?.challenges.iter().find_map(|challenge| challenge.error.clone());
        if let Some(problem) = found {
            return Ok(Protocol::Api(problem).into());
        }
    }
    Ok(said.map_or_else(|| Error::refused("the order has become invalid"), |said| Protocol::Api(said).into()))
}

/// Whether to retry an order without `replaces`: the directory has no ARI, or may have rejected the
/// certificate to be replaced. That may belong to another account or a discontinued authority, or may have
/// been replaced by an order that was lost. For most of these cases there is no specific error type.
fn is_about_replacing(error: &Protocol) -> bool {
    const KINDS: [&str; 3] = [":malformed", ":unauthorized", ":alreadyReplaced"];
    match error {
        Protocol::Unsupported(_) => true,
        Protocol::Api(problem) => {
            problem.r#type.as_deref().is_some_and(|kind| KINDS.iter().any(|each| kind.ends_with(each)))
        }
        _ => false,
    }
}

fn not_offered() -> Error {
    Error::refused("the directory takes no proof by TLS-ALPN-01")
}

fn builder(ca_file: Option<&str>) -> Result<AccountBuilder, Error> {
    Ok(Account::builder_with_http(Box::new(Transport::new(ca_file)?)))
}

fn leaf(certificate: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|error| Error::refused(format!("the stored certificate can't be read: {error}")))
}

fn policy(timeout: Duration) -> RetryPolicy {
    RetryPolicy::new().initial_delay(FIRST_LOOK).backoff(1.5).timeout(timeout)
}

fn runtime() -> Result<Runtime, Error> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Error::Unavailable(format!("no runtime for the client of ACME: {error}")))
}

fn wait<T>(
    runtime: &Runtime,
    timeout: Duration,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    runtime.block_on(async {
        tokio::time::timeout(timeout, asking)
            .await
            .unwrap_or_else(|_| Err(Error::Unavailable(format!("no answer within {} s", timeout.as_secs()))))
    })
}
