//! Tokens that were found good before: a signature is checked once for each worker, not once for
//! each request.
//!
//! Each worker remembers for itself, so nothing is locked and no cache line travels between cores;
//! the price is one check a token and worker, some 100 us. What is remembered is a digest: a token
//! is not kept in memory, an entry is small whatever the token's size, and looking one up compares
//! digests, of which nobody can aim at a given one. What leaves when it is full is the matter of
//! `quick_cache` (S3-FIFO: a stream of tokens that are used once doesn't displace those in use).

use std::cell::RefCell;
use std::sync::Arc;

use quick_cache::UnitWeighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use ring::digest::{SHA256, digest};
use rustc_hash::FxBuildHasher;

use crate::identity::{Bearer, Issuer, Rejected};

/// Tokens that one worker remembers, at some 200 bytes each.
const TOKENS: usize = 32_768;

type Digest = [u8; 32];
type Tokens = Cache<Digest, Known, UnitWeighter, FxBuildHasher>;

#[derive(Clone)]
struct Known {
    bearer: Arc<Bearer>,
    /// Of the keys that it was checked by.
    generation: u64,
}

thread_local! {
    static TOKENS_OF_WORKER: RefCell<Tokens> = RefCell::new(Cache::with(
        TOKENS,
        TOKENS as u64,
        UnitWeighter,
        FxBuildHasher,
        DefaultLifecycle::default(),
    ));
}

/// The bearer of a token that was found good before, by keys that one of `issuers` still has, or
/// what `check` says, with the generation of the keys that it used.
pub fn find_or_check(
    token: &str,
    now: u64,
    issuers: &[Arc<Issuer>],
    check: impl FnOnce() -> Result<(Bearer, u64), Rejected>,
) -> Result<Arc<Bearer>, Rejected> {
    let mut key: Digest = [0; 32];
    key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    TOKENS_OF_WORKER.with_borrow_mut(|tokens| {
        if let Some(known) = tokens.get(&key)
            && known.bearer.expires > now
            && issuers.iter().any(|issuer| issuer.generation() == known.generation)
        {
            return Ok(Arc::clone(&known.bearer));
        }
        let (bearer, generation) = check()?;
        let bearer = Arc::new(bearer);
        tokens.insert(key, Known { bearer: Arc::clone(&bearer), generation });
        Ok(bearer)
    })
}
