//! Who vouches for clients, at run time: its keys, and the tokens that were found good before.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::config::Identity;
use crate::identity::{Bearer, Key};

/// Tokens whose signature was checked before. A full cache is emptied: simple, bounded, and the
/// cost is one verification for each live token.
const TOKENS: usize = 65_536;

pub struct Verifier {
    pub config: Identity,
    pub keys: ArcSwap<HashMap<String, Key>>,
    /// A token named a key that isn't here.
    pub unknown_key: Notify,
    pub jwks_failures: AtomicU64,
    tokens: Mutex<HashMap<Box<str>, Arc<Bearer>>>,
}

impl Verifier {
    /// `before` if its settings are the same; else one that knows no tokens yet, and no keys either
    /// unless they come from the same place.
    pub fn new(config: &Identity, before: Option<&Arc<Self>>) -> Arc<Self> {
        if let Some(same) = before.filter(|before| before.config == *config) {
            return Arc::clone(same);
        }
        let known = before.filter(|before| before.config.jwks_url == config.jwks_url);
        Arc::new(Self {
            config: config.clone(),
            keys: known.map_or_else(ArcSwap::default, |known| ArcSwap::new(known.keys.load_full())),
            unknown_key: Notify::new(),
            jwks_failures: AtomicU64::new(0),
            tokens: Mutex::default(),
        })
    }

    pub fn known_token(&self, token: &str, now: u64) -> Option<Arc<Bearer>> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(token).filter(|bearer| bearer.expires > now).cloned()
    }

    pub fn remember_token(&self, token: &str, bearer: &Arc<Bearer>) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS {
            tokens.clear();
        }
        tokens.insert(token.into(), Arc::clone(bearer));
    }
}
