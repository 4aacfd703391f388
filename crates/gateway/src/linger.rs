//! Lingering close: close a connection so that the client still receives its last answer.
//!
//! Closing a socket with unread bytes resets the connection, and a reset makes the client's kernel discard
//! data that arrived but wasn't read yet: the 431, or the GOAWAY, that gives the reason. A client refused in
//! the middle of sending would never see it. So the gateway shuts down its own side, and discards input until
//! the client has closed its side too (RFC 9112, section 9.6). The connection keeps its place (`door.rs`)
//! meanwhile, so the connection limits cover lingering connections.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use crate::server::CONNECTION_WINDOW;
use crate::timer::Timer;

/// Some round trips on a bad network: the answer's way there, and the client's close on its way back.
const LONGEST: Duration = Duration::from_secs(2);
/// The most that an HTTP/2 client may send before it hears from us. A client that sends more isn't reading.
const MOST: usize = CONNECTION_WINDOW as usize;
/// Bytes discarded per poll.
const PIECE: usize = 16 * 1024;

/// The limits of one lingering close.
pub struct Linger {
    left: usize,
    until: Instant,
    timer: Timer,
}

impl Linger {
    pub fn new() -> Self {
        Self { left: MOST, until: Instant::now() + LONGEST, timer: Timer::default() }
    }

    /// Ready when the client has closed its side, or has used up its time or bytes.
    pub fn poll(&mut self, io: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<()> {
        let mut room = [MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut room);
        match Pin::new(io).poll_read(cx, &mut piece) {
            Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                self.left = self.left.saturating_sub(piece.filled().len());
                if self.left == 0 {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
            }
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => {}
        }
        self.timer.poll_late(self.until, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    async fn linger(io: &mut (impl AsyncRead + Unpin)) -> Duration {
        let (began, mut linger) = (Instant::now(), Linger::new());
        poll_fn(|cx| linger.poll(io, cx)).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_sends_is_thrown_away_until_it_ends() {
        let (mut client, mut io) = duplex(1024);
        let sending = tokio::spawn(async move { client.write_all(&[0; 100_000]).await });
        assert_eq!(linger(&mut io).await, Duration::ZERO);
        assert!(sending.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_end_is_waited_for_only_so_long() {
        let (_client, mut io) = duplex(1024);
        let waited = linger(&mut io).await;
        assert!((LONGEST..LONGEST + Duration::from_millis(10)).contains(&waited), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_stop_is_cut_off() {
        let (mut client, mut io) = duplex(PIECE);
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while client.write_all(&[0; 1024]).await.is_ok() {
                sent += 1024;
            }
            sent
        });
        assert_eq!(linger(&mut io).await, Duration::ZERO);
        drop(io);
        assert!((MOST..MOST + 2 * PIECE).contains(&sending.await.unwrap()));
    }
}
