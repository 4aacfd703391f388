//! The client: blocking operations, each with a timeout.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::error::{Error, Failure};
use crate::members::{Members, Repeat};
use crate::protocol::{
    Compare, Empty, LeaseGrantRequest, LeaseRequest, LeaseResponse, Operation, PutRequest, RangeRequest,
    RangeResponse, RequestOp, TxnRequest, TxnResponse, WireKeyValue, path,
};
use crate::watch::{Follower, Latest};

/// A key with its value, and the revisions of its creation and last change.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub lease: i64,
}

/// A lease with the TTL in seconds that etcd granted, at least the requested one.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub id: i64,
    pub ttl_seconds: i64,
}

/// The client. It can be shared between threads; its background tasks run on one thread of its own.
pub struct Client {
    members: Arc<Members>,
    root: Root,
    background: Arc<Background>,
}

impl Client {
    /// Create a client whose keys all have the prefix `root`. Does not connect yet.
    pub fn new(members: &[String], user: Option<(String, String)>, root: String) -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("etcd")
            .enable_all()
            .build()
            .map_err(|error| Error::Unavailable(format!("no thread for etcd's client: {error}")))?;
        Ok(Self {
            members: Arc::new(Members::new(members, user)?),
            root: Root(root),
            background: Arc::new(Background { handle: runtime.handle().clone(), runtime: Some(runtime) }),
        })
    }

    /// All keys with `prefix`, in order. The read is linearizable.
    pub fn range(&self, prefix: &str, timeout: Duration) -> Result<Vec<KeyValue>, Error> {
        let found: RangeResponse = self.call(path::RANGE, self.root.range(prefix), Repeat::Safe, timeout)?;
        found.kvs.into_iter().map(|pair| self.root.strip(pair).map_err(Error::from)).collect()
    }

    /// Set a key, in one transaction with the check of its revision. `lease` 0: none.
    ///
    /// Returns `None` if the lease has expired, or the key's `mod_revision` is not `if_revision` (0: it does
    /// not exist).
    pub fn put(
        &self,
        key: &str,
        value: &str,
        lease: i64,
        if_revision: Option<i64>,
        timeout: Duration,
    ) -> Result<Option<KeyValue>, Error> {
        let key = self.root.key(key);
        let compare = if_revision.map(|revision| Compare {
            result: Compare::EQUAL,
            target: Compare::MOD_REVISION,
            key: key.clone(),
            mod_revision: Some(revision),
        });
        let put = PutRequest { key: key.clone(), value: value.into(), lease };
        let read = RangeRequest { key, range_end: Vec::new() };
        let transaction = TxnRequest {
            compare: compare.into_iter().collect(),
            success: [Operation::Put(put), Operation::Range(read)].map(RequestOp::from).into(),
        };
        let answer: TxnResponse = match self.background.handle.block_on(self.members.call(
            path::TXN,
            transaction,
            Repeat::Never,
            deadline(timeout),
        )) {
            Err(Failure::NoLease) => return Ok(None),
            answer => answer?,
        };
        if !answer.succeeded {
            return Ok(None);
        }
        let written =
            answer.responses.into_iter().filter_map(|it| it.range).flat_map(|range| range.kvs).next();
        written.map(|pair| self.root.strip(pair).map_err(Error::from)).transpose()
    }

    /// Grant a lease of at least `ttl_seconds`.
    pub fn grant(&self, ttl_seconds: i64, timeout: Duration) -> Result<Lease, Error> {
        // Safe to repeat: if a response is lost, that lease just expires.
        let granted: LeaseResponse =
            self.call(path::LEASE_GRANT, LeaseGrantRequest { ttl: ttl_seconds }, Repeat::Safe, timeout)?;
        Ok(Lease { id: granted.id, ttl_seconds: granted.ttl })
    }

    /// Renew a lease; false if it has expired.
    pub fn keep_alive(&self, lease: i64, timeout: Duration) -> Result<bool, Error> {
        let kept: LeaseResponse =
            self.call(path::LEASE_KEEP_ALIVE, LeaseRequest { id: lease }, Repeat::Safe, timeout)?;
        Ok(kept.ttl > 0)
    }

    /// Revoke a lease, which deletes its keys.
    pub fn revoke(&self, lease: i64, timeout: Duration) -> Result<(), Error> {
        let question = LeaseRequest { id: lease };
        let revoking =
            self.members.call::<_, Empty>(path::LEASE_REVOKE, question, Repeat::Safe, deadline(timeout));
        match self.background.handle.block_on(revoking) {
            Ok(_) | Err(Failure::NoLease) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Watch the keys with `prefix`: a snapshot now and after each change.
    pub fn watch(&self, prefix: &str) -> Watch {
        let (latest, receiver) = watch::channel(None);
        let follower = Follower {
            members: self.members.clone(),
            root: self.root.clone(),
            prefix: prefix.to_owned(),
            latest,
        };
        let task = self.background.handle.spawn(follower.follow()).abort_handle();
        Watch { receiver: Mutex::new(receiver), task, background: self.background.clone() }
    }

    fn call<Question, Answer>(
        &self,
        path: &'static str,
        question: Question,
        repeat: Repeat,
        timeout: Duration,
    ) -> Result<Answer, Error>
    where
        Question: prost::Message + Clone + 'static,
        Answer: prost::Message + Default + 'static,
    {
        Ok(self.background.handle.block_on(self.members.call(path, question, repeat, deadline(timeout)))?)
    }
}

/// The runtime. Dropping it does not wait for its thread, which may be resolving a name.
struct Background {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A watch. Dropping it ends the background task.
pub struct Watch {
    receiver: Mutex<watch::Receiver<Latest>>,
    task: AbortHandle,
    background: Arc<Background>,
}

impl Watch {
    /// The next snapshot; `None` if there was none within the timeout.
    pub fn next(&self, limit: Duration) -> Result<Option<Vec<KeyValue>>, Error> {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        match self.background.handle.block_on(async { timeout(limit, receiver.changed()).await }) {
            Err(_) => Ok(None),
            Ok(Ok(())) => receiver.borrow_and_update().clone().transpose(),
            Ok(Err(_)) => match receiver.borrow().clone() {
                Some(Err(last_word)) => Err(last_word),
                _ => Err(Error::Unavailable("the watch has ended".to_owned())),
            },
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The prefix of all keys, invisible to callers.
#[derive(Clone)]
pub(crate) struct Root(String);

impl Root {
    fn key(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.0).into_bytes()
    }

    /// The range of keys with `prefix`: the first key, and the first one after it.
    pub(crate) fn prefix(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        let first = self.key(prefix);
        let mut end = first.clone();
        // Can't overflow: UTF-8 has no byte 255.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        (first, end)
    }

    pub(crate) fn range(&self, prefix: &str) -> RangeRequest {
        let (key, range_end) = self.prefix(prefix);
        RangeRequest { key, range_end }
    }

    pub(crate) fn strip(&self, pair: WireKeyValue) -> Result<KeyValue, Failure> {
        match (String::from_utf8(pair.key), String::from_utf8(pair.value)) {
            (Ok(key), Ok(value)) => Ok(KeyValue {
                key: key.strip_prefix(&self.0).unwrap_or(&key).to_owned(),
                value,
                create_revision: pair.create_revision,
                mod_revision: pair.mod_revision,
                lease: pair.lease,
            }),
            _ => Err(Failure::Refused {
                message: format!("etcd holds a key below {} that is not text", self.0),
                hint: "leave this prefix to Counterfoil",
            }),
        }
    }
}

fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout
}
