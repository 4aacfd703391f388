//! API keys, for programs that can't fetch tokens: `cf_NAME_SECRET`, in `X-Api-Key`.
//!
//! The name selects the entry and is not secret. The configuration holds the SHA-256 of the key. The secret
//! is 256 random bits (from `counterfoil gateway key`), so it can't be guessed from the digest, and a slow
//! hash or a pepper would add nothing.

use std::collections::HashMap;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use crate::Error;
use crate::config;
use crate::identity::{Bearer, Rejected};
use crate::secret::Secret;

/// `cf_`, a name, `_`, and 32 bytes in base64url.
const KEY_LIMIT: usize = 3 + 64 + 1 + 43;

pub struct ApiKeys(HashMap<String, (Secret, Arc<Bearer>)>);

impl ApiKeys {
    /// # Errors
    /// `Error::Config` for an invalid digest.
    pub fn new(configured: &HashMap<String, config::ApiKey>) -> Result<Self, Error> {
        let keys = configured.iter().map(|(name, key)| {
            let hash = key.sha256.as_bytes();
            if hash.len() != 64 || !hash.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                let hint = "make a key, and its entry, by `counterfoil gateway key`";
                return Err(Error::Config(format!("API key {name}: sha256 is not 64 hex digits: {hint}")));
            }
            let bearer = Bearer::of_key(&key.tenant, &key.tier);
            Ok((name.clone(), (Secret::from(key.sha256.clone()), bearer)))
        });
        Ok(Self(keys.collect::<Result<_, _>>()?))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Identify the owner of a key.
    pub fn check(&self, given: &str) -> Result<Arc<Bearer>, Rejected> {
        if given.len() > KEY_LIMIT {
            return Err(Rejected::ApiKey);
        }
        let name = given.strip_prefix("cf_").and_then(|rest| rest.split_once('_')).ok_or(Rejected::ApiKey)?.0;
        let (sha256, bearer) = self.0.get(name).ok_or(Rejected::ApiKey)?;
        let hex: String = digest(&SHA256, given.as_bytes()).as_ref().iter().fold(
            String::with_capacity(64),
            |mut hex, byte| {
                hex.extend(
                    [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])),
                );
                hex
            },
        );
        if !sha256.matches(hex.as_bytes()) {
            return Err(Rejected::ApiKey);
        }
        Ok(Arc::clone(bearer))
    }
}
