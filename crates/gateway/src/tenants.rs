//! Answers by tenant, for the tenants that the configuration lists. All others count as one, so that the
//! number of series doesn't grow with the number of customers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;

/// All tenants that aren't listed. A tenant of this name is counted here too.
const OTHER: &str = "other";

type Answers = [AtomicU64; 5];

/// Counters by status class, 1xx to 5xx.
pub struct Tenants {
    listed: BTreeMap<String, Arc<Answers>>,
    other: Arc<Answers>,
}

impl Tenants {
    /// Counters of the tenants in `listed`, taken over from `before`; `None` if the list is empty.
    pub fn new(listed: &[String], before: Option<&Self>) -> Option<Self> {
        let known =
            |name: &str| before.and_then(|before| before.listed.get(name)).cloned().unwrap_or_default();
        let counts = listed.iter().filter(|name| *name != OTHER).map(|name| (name.clone(), known(name)));
        let other = before.map(|before| Arc::clone(&before.other)).unwrap_or_default();
        (!listed.is_empty()).then(|| Self { listed: counts.collect(), other })
    }

    pub fn add(&self, tenant: &str, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.listed.get(tenant).unwrap_or(&self.other)[class].fetch_add(1, Ordering::Relaxed);
    }

    pub fn answers(&self) -> impl Iterator<Item = (&str, &Answers)> {
        let listed = self.listed.iter().map(|(name, answers)| (name.as_str(), &**answers));
        listed.chain([(OTHER, &*self.other)])
    }
}
