//! TLS over TCP on client connections.

mod session;
mod stream;

pub use session::Session;
pub use stream::SecureStream;
