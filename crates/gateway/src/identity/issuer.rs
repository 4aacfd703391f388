//! A token issuer: its keys, fetched in the background and kept while it is unreachable.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::identity::keys::{Key, Named, parse};
use crate::identity::token::Token;
use crate::identity::{Bearer, Rejected};
use crate::shared::Shared;
use crate::{config, own_request};

/// The interval of regular fetches.
const REFRESH: Duration = Duration::from_secs(300);
/// The minimum interval of fetches for unknown keys, so that a client can't flood the issuer by sending
/// made-up key ids. Also the pause after a failure.
const FLOOR: Duration = Duration::from_secs(1);
/// The maximum size of an issuer's response.
const LIMIT: usize = 256 * 1024;

/// Keys tried for one token, at 100 us each; applies if keys or the token have no key id. Issuers without key
/// ids have two or three keys.
const TRIED: usize = 8;

/// Keys, with a generation that is unique in the process.
struct Keys {
    generation: u64,
    named: Vec<Named>,
}

impl Keys {
    fn new(named: Vec<Named>) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self { generation: LAST.fetch_add(1, Ordering::Relaxed) + 1, named }
    }

    /// Whether a key has this id.
    fn knows(&self, id: &str) -> bool {
        self.named.iter().any(|each| each.id == id)
    }

    /// Candidate keys for a token: those with the token's key id, then those without any. For a token without
    /// a key id: those without one, then all others.
    fn of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Key> {
        let named = self.named.iter().filter(move |each| each.id == id);
        let others = move |each: &&Named| each.id != id && (each.id.is_empty() || id.is_empty());
        named.chain(self.named.iter().filter(others)).map(|each| &each.key)
    }
}

pub struct Issuer {
    pub config: config::Issuer,
    keys: ArcSwap<Keys>,
    /// Notified when a token names an unknown key.
    unknown_key: Notify,
    failures: AtomicU64,
    fetched: Mutex<Option<Instant>>,
    trouble: Mutex<Option<String>>,
}

impl Issuer {
    /// The issuer in `before` with the same settings; otherwise a new one, which takes over the keys that
    /// another has fetched from the same URL.
    pub fn new(config: &config::Issuer, before: &[Arc<Self>]) -> Arc<Self> {
        if let Some(same) = before.iter().find(|each| each.config == *config) {
            return Arc::clone(same);
        }
        let place = |issuer: &config::Issuer| (issuer.issuer.clone(), issuer.jwks_url.clone());
        let known = before.iter().find(|each| place(&each.config) == place(config));
        let keys = known.map(|known| known.keys.load().named.clone()).unwrap_or_default();
        Arc::new(Self {
            config: config.clone(),
            keys: ArcSwap::from_pointee(Keys::new(keys)),
            unknown_key: Notify::new(),
            failures: AtomicU64::new(0),
            fetched: Mutex::default(),
            trouble: Mutex::default(),
        })
    }

    /// Verify a token that claims to be from this issuer. Returns its bearer and the generation of the keys.
    pub fn check(&self, token: &Token<'_>, now: u64) -> Result<(Bearer, u64), Rejected> {
        let keys = self.keys.load();
        let id = token.key_id();
        let mut why = Rejected::UnknownKey;
        let (mut fitting, mut others) = (0, false);
        for key in keys.of(id) {
            if !token.fits(key) {
                others = true;
                continue;
            }
            fitting += 1;
            if fitting > TRIED {
                break;
            }
            match token.verify(key, &self.config, now) {
                Ok(bearer) => return Ok((bearer, keys.generation)),
                Err(Rejected::Signature) => why = Rejected::Signature,
                Err(rejected) => return Err(rejected),
            }
        }
        if fitting == 0 && others {
            why = Rejected::Algorithm;
        }
        // The key may be new.
        if id.is_empty() || !keys.knows(id) {
            self.unknown_key.notify_one();
        }
        Err(match why {
            _ if keys.named.is_empty() => Rejected::NoKeys,
            _ if !id.is_empty() && !keys.knows(id) => Rejected::UnknownKey,
            why => why,
        })
    }

    /// Changes when a key was removed or replaced; results of earlier verifications are then invalid.
    pub fn generation(&self) -> u64 {
        self.keys.load().generation
    }

    /// The state, for operators.
    pub fn state(&self) -> Value {
        let fetched = *self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "issuer": self.config.issuer,
            "keys": self.keys.load().named.len(),
            "fetched_seconds_ago": fetched.map(|fetched| fetched.elapsed().as_secs_f64()),
            "failures": self.failures(),
            "trouble": *trouble,
        })
    }

    /// The number of failed fetches.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Fetch the keys if there are none yet.
    ///
    /// # Errors
    /// What went wrong, and what to check.
    pub async fn ready(&self) -> Result<(), String> {
        if !self.keys.load().named.is_empty() {
            return Ok(());
        }
        self.fetch().await.map_err(|error| {
            let issuer = &self.config.issuer;
            format!("issuer {issuer}: its keys can't be had ({error}): see whether its jwks_url answers")
        })
    }

    async fn fetch(&self) -> Result<(), own_request::Error> {
        let url = match self.config.jwks_url.as_str() {
            "" => self.discover().await?,
            url => url.to_owned(),
        };
        let fetched = parse(&self.get(&url).await?)?;
        let keys = self.keys.load();
        let none_is_gone = keys.named.iter().all(|known| fetched.contains(known));
        let generation = if none_is_gone { Some(keys.generation) } else { None };
        let fetched = Keys::new(fetched);
        let generation = generation.unwrap_or(fetched.generation);
        self.keys.store(Arc::new(Keys { generation, ..fetched }));
        *self.fetched.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    /// The `jwks_uri` that the issuer publishes (OpenID Connect Discovery 1.0, section 4).
    async fn discover(&self) -> Result<String, own_request::Error> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
            jwks_uri: String,
        }
        let issuer = &self.config.issuer;
        let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let found: Discovery = serde_json::from_slice(&self.get(&place).await?)?;
        if found.issuer != *issuer {
            return Err(format!("{place} is of another issuer: {}", found.issuer).into());
        }
        Ok(found.jwks_uri)
    }

    async fn get(&self, url: &str) -> Result<Bytes, own_request::Error> {
        let authorities = self.config.ca_file.as_deref().map(Path::new);
        own_request::send(Request::get(url).body(Full::default())?, authorities, LIMIT).await
    }

    /// Keep the keys fresh. Nothing else fetches them, so at most one fetch is under way, however many tokens
    /// with unknown keys arrive.
    async fn refresh(&self) {
        loop {
            let outcome = self.fetch().await;
            let pause = if outcome.is_ok() { REFRESH } else { FLOOR };
            // Known keys stay in use: an unreachable issuer is no reason to reject tokens.
            self.say(outcome.err().map(|error| error.to_string()));
            tokio::time::sleep(FLOOR).await;
            tokio::select! {
                () = tokio::time::sleep(pause.saturating_sub(FLOOR)) => {}
                () = self.unknown_key.notified() => {}
            }
        }
    }

    /// Record the outcome of the last fetch, and log it if it has changed.
    fn say(&self, trouble: Option<String>) {
        self.failures.fetch_add(u64::from(trouble.is_some()), Ordering::Relaxed);
        let mut said = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *said == trouble {
            return;
        }
        let line = match &trouble {
            Some(error) => json!({"level": "warning", "event": "issuer_lost", "issuer": self.config.issuer,
                "error": error, "hint": "the keys that are here go on being used"}),
            None => json!({"level": "info", "event": "issuer_back", "issuer": self.config.issuer}),
        };
        eprintln!("{line}");
        *said = trouble;
    }
}

/// Keep the keys of all currently configured issuers fresh, until the gateway ends.
pub async fn keep_fresh(shared: &Shared) {
    let mut version = shared.version();
    let mut refreshing = JoinSet::new();
    let mut known = Vec::new();
    loop {
        version.mark_unchanged();
        let snapshot = shared.snapshot();
        let issuers = snapshot.verifier.as_ref().map_or(&[][..], |verifier| &verifier.issuers);
        known.retain(|(issuer, task): &(Arc<Issuer>, tokio::task::AbortHandle)| {
            let stays = issuers.iter().any(|each| Arc::ptr_eq(each, issuer));
            if !stays {
                task.abort();
            }
            stays
        });
        for issuer in issuers {
            if !known.iter().any(|(each, _)| Arc::ptr_eq(each, issuer)) {
                let kept = Arc::clone(issuer);
                let task = refreshing.spawn(async move { kept.refresh().await });
                known.push((Arc::clone(issuer), task));
            }
        }
        drop(snapshot);
        while refreshing.try_join_next().is_some() {}
        if version.changed().await.is_err() {
            return; // the gateway is gone
        }
    }
}
