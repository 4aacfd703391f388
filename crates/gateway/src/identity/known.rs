//! A cache of verified tokens: a signature is verified once per worker, not once per request.
//!
//! Each worker has its own cache, so there are no locks and no cache lines move between cores; the price is
//! one verification per token and worker, some 100 us. The key is a digest: tokens are not kept in memory,
//! entries are small whatever the token's size, and a lookup compares digests, which an attacker can't
//! choose. `quick_cache` decides on evictions (S3-FIFO: a stream of tokens that are used once doesn't
//! displace those in use).

use std::cell::RefCell;
use std::sync::Arc;

use quick_cache::UnitWeighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use ring::digest::{SHA256, digest};
use rustc_hash::FxBuildHasher;

use crate::identity::{Bearer, Issuer, Rejected};

/// The capacity of one worker's cache, at some 200 bytes per token.
const TOKENS: usize = 32_768;

type Digest = [u8; 32];
type Tokens = Cache<Digest, Known, UnitWeighter, FxBuildHasher>;

#[derive(Clone)]
struct Known {
    bearer: Arc<Bearer>,
    /// The generation of the keys that verified it.
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

/// The bearer of a token from the cache, if it was verified by keys that are still current at one of
/// `issuers`. Otherwise the result of `check`, which also returns the generation of the keys.
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
