//! Hooks: ask the user's Python code, in processes of its own, about a request.
//!
//! Python must not slow routes that don't use it, so it never runs in this process. A route with a hook asks
//! the hook's process with the fewest questions in flight, over connections that each worker pools. The
//! number of waiting requests is bounded, and so is the time that each waits; beyond that, and whenever a
//! hook can't be reached or fails, its configuration says whether requests pass or are refused. A route
//! without hooks only checks an empty list.
//!
//! Question and answer are JSON documents, each prefixed by its length in four bytes (big endian).

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{StatusCode, header};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Error;
use crate::config::{self, OnFailure};
use crate::headers::{of_one_connection, set_by_gateway};
use crate::proxy::Seen;
use crate::respond::Problem;

/// Idle connections that a worker keeps per process: mostly as many as its questions in flight.
const IDLE: usize = 16;
/// Maximum bytes of an answer: it is a few headers or a sentence.
const ANSWER_LIMIT: u32 = 64 * 1024;

thread_local! {
    static POOL: RefCell<FxHashMap<String, Vec<TcpStream>>> = RefCell::default();
}

/// Headers that hooks add to a request.
pub type Headers = Vec<(HeaderName, HeaderValue)>;

pub struct Hook {
    pub name: String,
    pub config: config::Hook,
    deadline: Duration,
    processes: Vec<Process>,
    waiting: Arc<AtomicUsize>,
    counts: Counts,
}

struct Process {
    address: String,
    asked: Arc<AtomicUsize>,
}

/// Outcomes of questions.
#[derive(Default)]
struct Counts {
    passed: AtomicU64,
    refused: AtomicU64,
    /// Not asked: the queue was full.
    full: AtomicU64,
    late: AtomicU64,
    failed: AtomicU64,
}

/// Counts one up until dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(number: &Arc<AtomicUsize>) -> Self {
        number.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(number))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Serialize)]
struct Question<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    headers: Vec<(&'a str, Cow<'a, str>)>,
    address: &'a str,
    tenant: &'a str,
    tier: &'a str,
    request_id: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Answer {
    Pass(Vec<(String, String)>),
    Refuse {
        status: u16,
        detail: String,
        retry_after_seconds: Option<u64>,
    },
    /// The hook raised an error, which its process has logged.
    Failed,
}

/// Ask the hooks of a route in order; returns the headers that they add, or the first refusal.
pub async fn ask(hooks: &[Arc<Hook>], parts: &Parts, seen: &Seen) -> Result<Headers, Problem> {
    let question = serde_json::to_vec(&Question::of(parts, seen))
        .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the request can't be shown to a hook"))?;
    let mut added = Headers::new();
    for hook in hooks {
        added.append(&mut hook.ask(&question).await?);
    }
    Ok(added)
}

impl<'a> Question<'a> {
    fn of(parts: &'a Parts, seen: &'a Seen) -> Self {
        let (tenant, tier) = seen.bearer.as_ref().map_or(("", ""), |bearer| (&bearer.tenant, &bearer.tier));
        Self {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or_default(),
            headers: parts
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
                .collect(),
            address: seen.address(),
            tenant,
            tier,
            request_id: seen.request_id.to_str().unwrap_or_default(),
        }
    }
}

impl Hook {
    pub fn new(name: &str, config: &config::Hook) -> Result<Self, Error> {
        if config.addresses.is_empty() {
            return Err(Error::Config(format!(
                "hook {name} has no process that could be asked: start the gateway anew"
            )));
        }
        let process = |address: &String| Process { address: address.clone(), asked: Arc::default() };
        Ok(Self {
            name: name.into(),
            config: config.clone(),
            deadline: Duration::from_millis(config.deadline_ms),
            processes: config.addresses.iter().map(process).collect(),
            waiting: Arc::default(),
            counts: Counts::default(),
        })
    }

    async fn ask(&self, question: &[u8]) -> Result<Headers, Problem> {
        if self.waiting.load(Ordering::Relaxed) >= self.config.queue {
            return self.without(&self.counts.full, "as many requests wait for it as may");
        }
        let _waiting = Counted::new(&self.waiting);
        match timeout(self.deadline, self.exchange(question)).await {
            Ok(Ok(answer)) => self.settle(answer),
            Ok(Err(_)) => self.without(&self.counts.failed, "it can't be reached"),
            Err(_) => self.without(&self.counts.late, "it did not answer in time"),
        }
    }

    fn settle(&self, answer: Answer) -> Result<Headers, Problem> {
        match answer {
            Answer::Pass(headers) => {
                let Some(headers) = checked(headers) else {
                    return self.without(&self.counts.failed, "it set a header that it can't set");
                };
                self.counts.passed.fetch_add(1, Ordering::Relaxed);
                Ok(headers)
            }
            Answer::Refuse { status, detail, retry_after_seconds } => {
                let Some(status) = StatusCode::from_u16(status)
                    .ok()
                    .filter(|status| status.is_client_error() || status.is_server_error())
                else {
                    return self.without(&self.counts.failed, "it refused with a status that is no error");
                };
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                let problem = Problem::new(status, detail);
                Err(match retry_after_seconds {
                    Some(seconds) => problem.retry_after(seconds),
                    None => problem,
                })
            }
            Answer::Failed => self.without(&self.counts.failed, "it failed"),
        }
    }

    /// Decide about a request without the hook's answer.
    fn without(&self, count: &AtomicU64, why: &str) -> Result<Headers, Problem> {
        count.fetch_add(1, Ordering::Relaxed);
        match self.config.failure {
            OnFailure::Pass => Ok(Headers::new()),
            OnFailure::Refuse => {
                let detail = format!("hook {} has not decided: {why}", self.name);
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1))
            }
        }
    }

    /// Ask the process with the fewest questions in flight; a dead one soon has the fewest, so if connecting
    /// fails, the others are tried. A question that was delivered isn't sent to another process: it may have
    /// crashed the first one.
    async fn exchange(&self, question: &[u8]) -> io::Result<Answer> {
        let mut rest: Vec<&Process> = self.processes.iter().collect();
        loop {
            let least = rest.iter().enumerate().min_by_key(|(_, each)| each.asked.load(Ordering::Relaxed));
            let Some((place, _)) = least else { return Err(io::ErrorKind::NotConnected.into()) };
            let process = rest.swap_remove(place);
            let _asked = Counted::new(&process.asked);
            let mut got_it = false;
            if let Some(mut pooled) = pooled(&process.address) {
                if let Ok(answer) = talk(&mut pooled, question).await {
                    give_back(&process.address, pooled);
                    return Ok(answer);
                }
                got_it = true;
            }
            // No idle connection, or its process was replaced. A hook only decides and changes nothing, so
            // asking twice is safe.
            let mut stream = match TcpStream::connect(&process.address).await {
                Ok(stream) => stream,
                Err(_) if !got_it => continue,
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            // Only a connection with a complete answer returns to the pool, so that no request reads the
            // answer to an abandoned question.
            let answer = talk(&mut stream, question).await?;
            give_back(&process.address, stream);
            return Ok(answer);
        }
    }

    /// The counters, for the admin port.
    pub fn state(&self) -> Value {
        let mut state = Value::from_iter(self.outcomes());
        state["name"] = self.name.as_str().into();
        state["waiting"] = self.waiting.load(Ordering::Relaxed).into();
        state
    }

    /// Outcomes of the requests that needed the hook.
    pub fn outcomes(&self) -> [(&'static str, u64); 5] {
        let Counts { passed, refused, full, late, failed } = &self.counts;
        [("passed", passed), ("refused", refused), ("full", full), ("late", late), ("failed", failed)]
            .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }
}

async fn talk(stream: &mut TcpStream, question: &[u8]) -> io::Result<Answer> {
    let length = u32::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = Vec::with_capacity(question.len() + 4);
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(question);
    stream.write_all(&message).await?;
    let length = stream.read_u32().await?;
    if length > ANSWER_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// The headers of an answer; `None` if the hook may not set one of them.
fn checked(headers: Vec<(String, String)>) -> Option<Headers> {
    let header = |(name, value): (String, String)| {
        let name: HeaderName = name.parse().ok()?;
        let kept = of_one_connection(name.as_str())
            || set_by_gateway(name.as_str())
            || [header::CONTENT_LENGTH, header::EXPECT].contains(&name);
        (!kept).then_some((name, value.parse().ok()?))
    };
    headers.into_iter().map(header).collect()
}

/// An idle connection that its process hasn't closed.
fn pooled(address: &str) -> Option<TcpStream> {
    let is_silent = |stream: &TcpStream| {
        stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    };
    POOL.with_borrow_mut(|pool| {
        let idle = pool.get_mut(address)?;
        std::iter::from_fn(|| idle.pop()).find(is_silent)
    })
}

fn give_back(address: &str, stream: TcpStream) {
    POOL.with_borrow_mut(|pool| match pool.get_mut(address) {
        Some(idle) if idle.len() < IDLE => idle.push(stream),
        Some(_) => {}
        None => {
            pool.insert(address.to_owned(), vec![stream]);
        }
    });
}
