//! Steering of QUIC datagrams to the worker that owns their connection.
//!
//! The workers' UDP sockets share a port (`SO_REUSEPORT`). By default, Linux selects a socket by a hash of
//! the addresses, so the datagrams of a client that changes its address would reach a worker that does not
//! know the connection. Instead, a classic BPF program of seven instructions (as in Envoy and nginx) selects
//! the socket by the first byte of the connection id, which each worker sets in the ids that it issues. A
//! client's first datagrams carry an id that the client has chosen. It is the same in all of them, so they
//! reach one worker, whose response carries ids of its own.
//!
//! An observer who knows the number of workers can tell from an id which worker serves a connection, as it
//! could from the addresses; the other seven bytes are random.
//!
//! On systems other than Linux, one worker serves all of HTTP/3.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use quinn::{ConnectionId, ConnectionIdGenerator};
use ring::rand::{SecureRandom, SystemRandom};
use socket2::{Domain, Protocol, Socket, Type};

/// 64 bits, as in quinn's default: enough to prevent guesses and collisions.
const LENGTH: usize = 8;
/// Socket buffers: some milliseconds at full link speed.
const BUFFER: usize = 2 * 1024 * 1024;

/// Bind one socket per worker to an address (one in total on systems other than Linux).
///
/// # Errors
/// The address is in use, or the kernel rejects the program.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    let workers = if cfg!(target_os = "linux") { workers } else { 1 };
    let sockets: Vec<UdpSocket> = (0..workers).map(|_| socket(address)).collect::<io::Result<_>>()?;
    #[cfg(target_os = "linux")]
    if let [first, _, ..] = &*sockets {
        steer(first, u32::try_from(workers).unwrap_or(1))?;
    }
    Ok(sockets)
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_send_buffer_size(BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Attach the program to the reuse-port group of `socket`. It returns the index of a socket in the order in
/// which they were bound.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate wraps SO_ATTACH_REUSEPORT_CBPF")]
fn steer(socket: &UdpSocket, workers: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let instruction = |code: u16, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let (load_byte, jump, jump_if_set, modulo, answer) = (0x30, 0x05, 0x45, 0x94, 0x16);
    let mut program = [
        instruction(load_byte, 0, 0, 0),
        // A long header (RFC 8999, section 5.1) has the id after flags, version and length,
        instruction(jump_if_set, 0, 2, 0x80),
        instruction(load_byte, 0, 0, 6),
        instruction(jump, 0, 0, 1),
        // a short header has it right after the flags.
        instruction(load_byte, 0, 0, 1),
        instruction(modulo, 0, 0, workers),
        instruction(answer, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies `program`, whose length is that of the array it points to.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Generates the connection ids of one worker.
#[derive(Clone)]
pub struct Ids {
    worker: u8,
    workers: u8,
    random: SystemRandom,
}

impl Ids {
    /// `worker` counts from 0.
    pub fn new(worker: u8, workers: u8) -> Self {
        Self { worker, workers, random: SystemRandom::new() }
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; LENGTH];
        // Without randomness the TLS handshake fails anyway.
        let _ = self.random.fill(&mut id);
        let groups = 256 / u16::from(self.workers);
        id[0] = (u16::from(id[0]) % groups * u16::from(self.workers) + u16::from(self.worker)) as u8;
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn workers_socket<'a>(sockets: &'a [UdpSocket], client: &UdpSocket, datagram: &[u8]) -> &'a UdpSocket {
        client.send_to(datagram, sockets[0].local_addr().unwrap()).unwrap();
        loop {
            // Loopback delivers before `send_to` returns, so each socket is polled without waiting.
            for socket in sockets {
                if socket.recv(&mut [0; 64]).is_ok() {
                    return socket;
                }
            }
        }
    }

    #[test]
    fn an_id_says_which_worker_made_it_and_is_new_each_time() {
        for workers in [1, 2, 3, 64] {
            for worker in 0..workers {
                let mut ids = Ids::new(worker, workers);
                let made: HashSet<_> = (0..100).map(|_| ids.generate_cid()).collect();
                assert_eq!(made.len(), 100);
                assert!(made.iter().all(|id| id[0] % workers == worker));
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_datagram_reaches_the_worker_that_its_id_names_wherever_it_comes_from() {
        let any = "127.0.0.1:0".parse().unwrap();
        let free = UdpSocket::bind::<SocketAddr>(any).unwrap().local_addr().unwrap();
        let sockets = bind(free, 3).unwrap();
        for (worker, wanted) in sockets.iter().enumerate() {
            let id = Ids::new(worker as u8, 3).generate_cid();
            let short = [&[0x40][..], &id, &[0; 8]].concat();
            let long = [&[0xc0, 0, 0, 0, 1, 8][..], &id, &[0; 8]].concat();
            for _ in 0..8 {
                let client = UdpSocket::bind::<SocketAddr>(any).unwrap();
                for datagram in [&short, &long] {
                    assert!(std::ptr::eq(workers_socket(&sockets, &client, datagram), wanted));
                }
            }
        }
    }
}
