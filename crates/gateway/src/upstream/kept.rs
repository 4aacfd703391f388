//! A worker's connections by address.
//!
//! With TLS the address is not enough: two services may use one address with different server names or client
//! certificates, and a reload may remove the authority that a connection relied on. So each `Tls` has
//! connections of its own, and those of a replaced `Tls` are dropped.

use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;

use super::tls::Tls;

type ByAddress<T> = FxHashMap<String, T>;

pub struct Kept<T> {
    plain: ByAddress<T>,
    secured: FxHashMap<u64, (Weak<Tls>, ByAddress<T>)>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { plain: FxHashMap::default(), secured: FxHashMap::default() }
    }
}

impl<T> Kept<T> {
    pub fn get_mut(&mut self, address: &str, tls: Option<&Arc<Tls>>) -> Option<&mut T> {
        match tls {
            None => self.plain.get_mut(address),
            Some(tls) => self.secured.get_mut(&tls.id)?.1.get_mut(address),
        }
    }

    /// The entry for an address, created if there is none.
    pub fn get_or_default(&mut self, address: &str, tls: Option<&Arc<Tls>>) -> &mut T
    where
        T: Default,
    {
        let by_address = match tls {
            None => &mut self.plain,
            Some(tls) => {
                let begun = || (Arc::downgrade(tls), FxHashMap::default());
                &mut self.secured.entry(tls.id).or_insert_with(begun).1
            }
        };
        by_address.entry(address.to_owned()).or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.secured.is_empty()
    }

    /// Drop the entries that `keep` rejects, and all of `Tls` instances no longer in use.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        self.plain.retain(|_, each| keep(each));
        self.secured.retain(|_, (tls, by_address)| {
            by_address.retain(|_, each| keep(each));
            tls.strong_count() > 0 && !by_address.is_empty()
        });
    }
}
