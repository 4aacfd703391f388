//! TLS over TCP, with clients.

mod session;
mod stream;

pub use session::Session;
pub use stream::SecureStream;
