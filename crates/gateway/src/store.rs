//! The store that all gateways share, Redis or Valkey: connection, scripts, and the meaning of its errors.
//! `exchange` decides when to use it.

use std::time::Duration;

use counterfoil_policy::gcra::Decision;
use counterfoil_policy::shared_gcra::{Advance, SharedGcra};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, RedisError, Script, ServerErrorKind,
};

use crate::Error;
use crate::config::SharedLimits;

/// Maximum number of keys per script, which blocks the store for about a millisecond.
pub const BATCH: usize = 500;
/// Timeout: a healthy store takes about a millisecond, one that forks to save its data some hundred.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How long a key is kept after its debt is over: longer than a batch can be in flight, so that a missing key
/// owed nothing when the batch began.
const KEPT_US: i64 = 10_000_000;
/// The oldest supported version: the first that replicates a script's effects rather than the script. Ours
/// reads the time.
const OLDEST: u32 = 5;

/// Why limits aren't shared, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub error: String,
    pub hint: &'static str,
}

impl Trouble {
    fn new(error: impl Into<String>, hint: &'static str) -> Self {
        Self { error: error.into(), hint }
    }
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        let hint = match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
                "set REDIS_PASSWORD, and the user in the address if it isn't `default`: redis://USER@host:port/0"
            }
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) => {
                "let its user run EVALSHA, SCRIPT LOAD, TIME, GET, SET, PING and INFO on counterfoil:*"
            }
            (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => {
                "give the address of the primary, not of a replica"
            }
            (ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::CrossSlot), _) => {
                "give the address of a single primary: Redis Cluster isn't supported"
            }
            (_, Some("OOM")) => "raise its maxmemory: a key that spends takes some 150 bytes",
            (_, Some("LOADING" | "BUSY")) => "wait: it answers again when it is done",
            _ => "see whether it runs at this address; it is tried again until it answers",
        };
        Self::new(error.to_string(), hint)
    }
}

/// One key of a batch, and the cells that get the store's answer.
pub struct Entry<'a> {
    pub limit: &'a str,
    pub cells: &'a SharedGcra,
    pub key: Box<str>,
    pub advance: Advance,
}

/// A request for the store to decide.
pub struct Question {
    pub limit: Box<str>,
    pub key: Box<str>,
    pub interval_ns: u64,
    pub tolerance_ns: u64,
    pub debt_limit_ns: u64,
}

/// The store's decision on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    /// The key's debt afterwards.
    pub debt_ns: u64,
}

/// The store's address and credentials.
pub struct Place {
    /// Without credentials.
    pub address: String,
    client: Client,
    prefix: String,
    advance: Script,
    admit: Script,
}

impl Place {
    pub fn new(settings: &SharedLimits) -> Result<Self, Error> {
        // The error isn't included: an address may hold a password.
        let wrong = |_| {
            Error::Config("shared limits: the address is not one such as redis://127.0.0.1:6379/0".into())
        };
        let mut info = settings.url.as_str().into_connection_info().map_err(wrong)?;
        if !settings.password.is_empty() {
            let redis = info
                .redis_settings()
                .clone()
                .set_password(String::from_utf8_lossy(settings.password.expose()));
            info = info.set_redis_settings(redis);
        }
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self {
            address: info.addr().to_string(),
            client: Client::open(info).map_err(wrong)?,
            prefix: settings.prefix.clone(),
            advance: Script::new(include_str!("advance.lua")),
            admit: Script::new(include_str!("admit.lua")),
        })
    }

    /// Connect, and check that the server is suitable. A warning says what may make it lose debts.
    pub async fn connect(&self) -> Result<(Store<'_>, Option<Trouble>), Trouble> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let warning = match redis::cmd("INFO").query_async::<String>(&mut connection).await {
            Ok(said) => suits(&said)?,
            // Without permission for INFO the server's setup has to be trusted.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => None,
            Err(error) => return Err(error.into()),
        };
        Ok((Store { place: self, connection }, warning))
    }
}

/// Whether the server with this INFO can be used, and with what warning.
fn suits(said: &str) -> Result<Option<Trouble>, Trouble> {
    let field = |name: &str| {
        let found = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_default().trim()
    };
    let version = field("redis_version");
    let major = version.split('.').next().and_then(|number| number.parse().ok());
    if major.is_some_and(|major: u32| major < OLDEST) {
        let error = format!("Redis {version} is too old");
        return Err(Trouble::new(error, "use Redis 5 or later, or Valkey"));
    }
    let policy = field("maxmemory_policy");
    if !matches!(field("maxmemory"), "" | "0") && !matches!(policy, "" | "noeviction") {
        let error = format!("with maxmemory-policy {policy} it may evict a key that is in debt");
        return Ok(Some(Trouble::new(error, "set maxmemory-policy noeviction, or use a Redis of its own")));
    }
    Ok(None)
}

/// A connection to the store; clones share it.
#[derive(Clone)]
pub struct Store<'a> {
    place: &'a Place,
    connection: MultiplexedConnection,
}

impl Store<'_> {
    /// Apply the batch, which is as of `sent_ns`; returns each key's debt in nanoseconds.
    pub async fn advance(&mut self, batch: &[Entry<'_>], sent_ns: u64) -> Result<Vec<u64>, Trouble> {
        let mut call = self.place.advance.prepare_invoke();
        call.arg(KEPT_US);
        for Entry { limit, cells, key, advance } in batch {
            call.key(format!("{}{limit}:{key}", self.place.prefix))
                .arg(advance.by_ns.div_ceil(1_000))
                .arg((advance.at_least_ns as i64 - sent_ns as i64).div_euclid(1_000) + 1)
                .arg(cells.debt_limit_ns().div_ceil(1_000));
        }
        let debts: Vec<u64> = call.invoke_async(&mut self.connection).await?;
        expect(batch.len(), debts.len())?;
        Ok(debts.into_iter().map(|debt_us| debt_us.saturating_mul(1_000)).collect())
    }

    /// Decide the requests, in order for each key.
    pub async fn admit<'a>(
        &mut self,
        batch: impl ExactSizeIterator<Item = &'a Question>,
    ) -> Result<Vec<Verdict>, Trouble> {
        let number = batch.len();
        let mut call = self.place.admit.prepare_invoke();
        call.arg(KEPT_US);
        for Question { limit, key, interval_ns, tolerance_ns, debt_limit_ns } in batch {
            call.key(format!("{}{limit}:{key}", self.place.prefix))
                .arg(interval_ns.div_ceil(1_000))
                .arg(tolerance_ns.div_ceil(1_000))
                .arg(debt_limit_ns.div_ceil(1_000));
        }
        let said: Vec<(u64, u64)> = call.invoke_async(&mut self.connection).await?;
        expect(number, said.len())?;
        let verdict = |(debt_us, early_us): (u64, u64)| Verdict {
            decision: match early_us.saturating_mul(1_000) {
                0 => Decision::Allowed,
                retry_after_ns => Decision::Refused { retry_after_ns },
            },
            debt_ns: debt_us.saturating_mul(1_000),
        };
        Ok(said.into_iter().map(verdict).collect())
    }

    /// Check the connection.
    pub async fn ping(&mut self) -> Result<(), Trouble> {
        Ok(redis::cmd("PING").query_async(&mut self.connection).await?)
    }
}

fn expect(keys: usize, answers: usize) -> Result<(), Trouble> {
    if keys == answers {
        return Ok(());
    }
    let error = format!("{answers} answers for {keys} keys");
    Err(Trouble::new(error, "see whether this is a Redis or a Valkey"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn a_server_that_is_too_old_or_that_evicts_is_told_apart() {
        let said = |version: &str, memory: &str, policy: &str| {
            suits(&format!(
                "# Server\r\nredis_version:{version}\r\nmaxmemory:{memory}\r\nmaxmemory_policy:{policy}\r\n"
            ))
        };
        assert_eq!(said("7.0.15", "67108864", "noeviction"), Ok(None));
        assert_eq!(said("7.0.15", "0", "allkeys-lru"), Ok(None));
        assert!(said("7.2.4", "1000", "volatile-lru").unwrap().unwrap().error.contains("volatile-lru"));
        assert!(said("4.0.9", "0", "noeviction").unwrap_err().error.contains("4.0.9"));
    }

    #[test]
    fn a_password_is_in_no_error_and_in_no_address() {
        let at = |url: &str| {
            let password = Secret::from("s3cret".to_owned());
            Place::new(&SharedLimits { url: url.into(), password, prefix: String::new(), interval_ms: 50 })
        };
        assert_eq!(at("redis://me@localhost:1/0").unwrap().address, "localhost:1");
        let error = at("redis://me:s3cret@localhost:port/0").err().unwrap();
        assert!(!error.to_string().contains("s3cret"));
    }
}
