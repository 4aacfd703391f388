use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Session;
use crate::io::Keeping;

/// A client's TLS connection after the handshake.
pub struct SecureStream {
    io: TcpStream,
    session: Box<Session>,
    /// `close_notify` has been queued.
    closed: bool,
}

impl SecureStream {
    pub fn new(io: TcpStream, session: Box<Session>) -> Self {
        Self { io, session, closed: false }
    }
}

impl Keeping for SecureStream {
    /// At most the records of one write, when the socket's buffer is full.
    fn keeps(&self) -> bool {
        self.session.keeps()
    }
}

impl AsyncRead for SecureStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, session, .. } = &mut *self;
        loop {
            if session.read(buffer) || session.ended() {
                return Poll::Ready(Ok(()));
            }
            let received = ready!(session.poll_receive(|room| Pin::new(&mut *io).poll_read(cx, room)));
            if received.is_err() {
                // Sending the alert is best effort; the client's error is what is returned.
                let _ = session.send(io);
                return Poll::Ready(received);
            }
        }
    }
}

impl AsyncWrite for SecureStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(part)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { io, session, .. } = &mut *self;
        session.poll_write(io, cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, session, .. } = &mut *self;
        session.poll_send(io, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, session, closed } = &mut *self;
        if !*closed {
            *closed = true;
            session.close();
        }
        ready!(session.poll_send(io, cx))?;
        Pin::new(io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::net;
    use std::sync::Arc;
    use std::thread;

    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::ring as provider;
    use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::{
        ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, SignatureScheme, Stream,
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A client that accepts any certificate: only the stream is tested.
    #[derive(Debug)]
    struct Trusting;

    impl ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }

    fn server() -> Arc<ServerConfig> {
        let random = ring::rand::SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.as_ref().to_vec()).into();
        let key = provider::sign::any_supported_type(&key).unwrap();
        let certificate = CertifiedKey::new(vec![CertificateDer::from(vec![0])], key);
        let server = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
        Arc::new(server)
    }

    fn client() -> ClientConnection {
        let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting))
            .with_no_client_auth();
        ClientConnection::new(Arc::new(config), ServerName::try_from("counterfoil.test").unwrap()).unwrap()
    }

    /// A connection that writes at most this many bytes at a time.
    struct Pieces(net::TcpStream, usize);

    impl Read for Pieces {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            self.0.read(room)
        }
    }

    impl Write for Pieces {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            self.0.write(&part[..part.len().min(self.1)])
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    /// Run `act` with a client's connection on a thread of its own. Return the gateway's side of the
    /// connection and the thread's handle.
    async fn connected<T: Send + 'static>(
        piece: usize,
        act: impl FnOnce(Stream<'_, ClientConnection, Pieces>) -> T + Send + 'static,
    ) -> (SecureStream, thread::JoinHandle<T>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acting = thread::spawn(move || {
            let stream = net::TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut client, mut stream) = (client(), Pieces(stream, piece));
            client.complete_io(&mut stream).unwrap();
            act(Stream::new(&mut client, &mut stream))
        });
        let (io, _) = listener.accept().await.unwrap();
        let mut session = Session::new(server()).unwrap();
        while session.is_handshaking() {
            io.readable().await.unwrap();
            session.receive(&io).unwrap();
            poll_fn(|cx| session.poll_send(&io, cx)).await.unwrap();
        }
        (SecureStream::new(io, session), acting)
    }

    #[tokio::test]
    async fn what_is_said_arrives_however_it_is_cut_and_whenever_keys_change_and_nothing_is_held() {
        for piece in [1, 7, 1000, usize::MAX] {
            let said: Vec<u8> = (0..60_000u32).map(|each| each as u8).collect();
            let (mut stream, acting) = connected(piece, {
                let said = said.clone();
                move |mut stream| {
                    let mut heard = vec![0; said.len()];
                    for part in (0..said.len()).step_by(20_000) {
                        stream.write_all(&said[part..part + 20_000]).unwrap();
                        stream.read_exact(&mut heard[part..part + 20_000]).unwrap();
                        stream.conn.refresh_traffic_keys().unwrap();
                    }
                    stream.conn.send_close_notify();
                    stream.flush().unwrap();
                    let end = stream.read(&mut [0]);
                    (heard, end.unwrap())
                }
            })
            .await;
            let mut heard = vec![0; said.len()];
            for part in heard.chunks_mut(20_000) {
                stream.read_exact(part).await.unwrap();
                stream.write_all(part).await.unwrap();
                stream.flush().await.unwrap();
            }
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(stream.session.held(), 0);
            stream.shutdown().await.unwrap();
            assert!(heard == said);
            assert!(acting.join().unwrap() == (said, 0));
        }
    }

    #[tokio::test]
    async fn who_does_not_read_is_waited_for_and_little_is_held_meanwhile() {
        const LENGTH: usize = 16 << 20;
        let (begin, begun) = std::sync::mpsc::channel();
        let (mut stream, acting) = connected(usize::MAX, move |mut stream| {
            begun.recv().unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            heard.len()
        })
        .await;
        let part = vec![7; 1 << 20];
        let mut written = 0;
        let mut begin = Some(begin);
        while written < LENGTH {
            tokio::select! {
                biased;
                taken = stream.write(&part) => written += taken.unwrap(),
                () = std::future::ready(()), if begin.is_some() => {
                    assert!(stream.keeps() && stream.session.held() < 40_000);
                    begin.take().unwrap().send(()).unwrap();
                }
            }
        }
        stream.shutdown().await.unwrap();
        assert_eq!(acting.join().unwrap(), written);
    }

    #[tokio::test]
    async fn what_is_not_tls_is_told_so_and_a_cut_connection_is_no_end() {
        let (mut stream, acting) = connected(usize::MAX, |mut stream| {
            stream.read_exact(&mut [0]).unwrap();
            stream.sock.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            stream.read(&mut [0]).unwrap_err().to_string()
        })
        .await;
        stream.write_all(b"a").await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(acting.join().unwrap().contains("alert"));
        let (mut stream, acting) = connected(usize::MAX, |mut stream| {
            stream.write_all(b"a").unwrap();
            stream.sock.0.shutdown(net::Shutdown::Write).unwrap();
            stream.sock.0.try_clone().unwrap()
        })
        .await;
        let _client = acting.join().unwrap();
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 1);
        assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
