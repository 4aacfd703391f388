//! Explains failed handshakes to operators.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use rustls::{AlertDescription, CertificateError, Error};
use rustls_pki_types::UnixTime;

/// Settings that explain a failure.
#[derive(Debug)]
pub struct Surroundings {
    pub ca_file: Option<String>,
    /// Whether the gateway has a client certificate for the service.
    pub shows_certificate: bool,
    /// Whether an instance has requested it.
    pub asked: AtomicBool,
}

/// Explain a failed handshake.
pub fn of_handshake(error: &io::Error, surroundings: &Surroundings) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::InvalidCertificate(error)) => of_certificate(error, surroundings),
        Some(Error::AlertReceived(alert)) => of_alert(*alert, surroundings),
        Some(Error::InvalidMessage(_)) => "it does not speak TLS: take tls out, or have it speak TLS".into(),
        Some(error) => error.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it ended the connection in the TLS handshake: see whether it speaks TLS".into()
        }
        None => error.to_string(),
    }
}

fn of_certificate(error: &CertificateError, surroundings: &Surroundings) -> String {
    match error {
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            format!("its certificate is for {names}, not {}", expected.to_str())
        }
        CertificateError::UnknownIssuer => unknown_issuer(surroundings),
        // Usually an authority that was recreated under its old name.
        CertificateError::BadSignature => {
            format!("{} (one of the same name has another key)", unknown_issuer(surroundings))
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired on {}", date(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is valid from {} on: look at the clocks", date(*not_before))
        }
        other => format!("its certificate can't be used: {other}"),
    }
}

fn unknown_issuer(surroundings: &Surroundings) -> String {
    match &surroundings.ca_file {
        Some(file) => format!("no authority in {file} vouches for its certificate"),
        None => "no authority that this machine trusts vouches for its certificate: set ca_file".into(),
    }
}

/// Explain an alert from an instance.
pub fn of_alert(alert: AlertDescription, surroundings: &Surroundings) -> String {
    match alert {
        AlertDescription::NoApplicationProtocol => {
            "it speaks another protocol (ALPN): set the service's protocol".into()
        }
        AlertDescription::ProtocolVersion => "it speaks neither TLS 1.3 nor 1.2".into(),
        AlertDescription::UnrecognisedName => "it does not know the name: set server_name".into(),
        alert if !surroundings.shows_certificate && is_about_clients(alert) => {
            format!("it asks for a client's certificate ({alert:?}): set certificate and key")
        }
        alert if is_about_clients(alert) => format!("it does not take the gateway's certificate ({alert:?})"),
        alert => format!("it refused the TLS handshake ({alert:?})"),
    }
}

/// Explain a reset before the first byte from an instance, if possible: it probably closed with unread data,
/// which discarded its alert.
pub fn of_reset(error: &io::Error, surroundings: &Surroundings) -> Option<String> {
    let asked = surroundings.asked.load(Ordering::Relaxed);
    let reset = matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
    (asked && reset).then(|| of_alert(AlertDescription::CertificateRequired, surroundings))
}

/// Whether an alert may be about the client certificate. In TLS 1.3 it arrives after the handshake is
/// complete for the client, instead of a response.
pub fn is_about_clients(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::HandshakeFailure
    )
}

/// A name without its kind: webpki writes `DnsName("shop.internal")` and `IpAddress(10.0.0.1)`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// In the format of HTTP dates.
pub fn date(time: UnixTime) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::ServerName;

    use super::*;

    fn surroundings(ca_file: Option<&str>) -> Surroundings {
        Surroundings {
            ca_file: ca_file.map(str::to_owned),
            shows_certificate: false,
            asked: AtomicBool::new(false),
        }
    }

    #[test]
    fn a_reason_names_what_was_found_and_what_was_wanted() {
        let wrong_name = |presented: &[&str]| {
            let error = CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("payments.internal").unwrap(),
                presented: presented.iter().map(|&name| name.to_owned()).collect(),
            };
            of_certificate(&error, &surroundings(None))
        };
        assert_eq!(
            wrong_name(&["DnsName(\"shop.internal\")", "IpAddress(10.0.0.1)"]),
            "its certificate is for shop.internal, 10.0.0.1, not payments.internal"
        );
        assert_eq!(wrong_name(&[]), "its certificate is for no name, not payments.internal");
        let foreign = |file| of_certificate(&CertificateError::UnknownIssuer, &surroundings(file));
        assert!(foreign(Some("ca.pem")).contains("no authority in ca.pem"));
        assert!(foreign(None).ends_with("set ca_file"));
    }

    #[test]
    fn who_speaks_no_tls_is_told_from_who_went_away() {
        let said = |error: io::Error| of_handshake(&error, &surroundings(None));
        let garbled = Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert!(
            said(io::Error::new(io::ErrorKind::InvalidData, garbled)).starts_with("it does not speak TLS")
        );
        assert!(said(io::ErrorKind::UnexpectedEof.into()).contains("ended the connection"));
        assert_eq!(
            of_alert(AlertDescription::CertificateRequired, &surroundings(None)),
            "it asks for a client's certificate (CertificateRequired): set certificate and key"
        );
    }

    #[test]
    fn a_reset_is_about_the_certificate_where_one_was_asked_for() {
        let (reset, around) = (io::ErrorKind::ConnectionReset.into(), surroundings(None));
        assert_eq!(of_reset(&reset, &around), None);
        around.asked.store(true, Ordering::Relaxed);
        assert!(of_reset(&reset, &around).unwrap().contains("set certificate and key"));
        assert_eq!(of_reset(&io::ErrorKind::TimedOut.into(), &around), None);
    }
}
