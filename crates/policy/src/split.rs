//! Weighted choice between services, for canaries and gradual migration between versions.
//!
//! Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005): for
//! each service a key draws a number `u` from 0 to 1, by a hash of the key and the service's name, and goes
//! to the service with the lowest `-ln(u) / weight`. `-ln(u)` is exponentially distributed, so a service gets
//! its weight's share of all keys, whatever the sum of weights. The choice needs no stored state and moves as
//! few keys as possible:
//!
//! - A key draws the same numbers on every gateway and in every process. It moves from one service to another
//!   only when the ratio of their weights changes in favor of the other: raising the canary's weight keeps
//!   its keys there, lowering it moves no key to it.
//! - The numbers depend on names, not on positions in a list: a third service takes keys from both others,
//!   and moves none between them.
//! - Two routes with the same services and weights send a key to the same service.
//!
//! A service with a weight of 0 gets nothing. The hash isn't cryptographic: a client that chooses the key
//! (such as a header) can also choose the service.

/// Maximum weight: with larger ones a small service's share would be below the resolution of the drawn
/// numbers.
pub const WEIGHT_LIMIT: u32 = 1_000_000;

/// The services of a split by index, with their weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    shares: Vec<Share>,
}

#[derive(Debug, Clone, PartialEq)]
struct Share {
    /// Hash of the service's name.
    hash: u64,
    weight: f64,
}

/// Why a split is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// All weights are 0, or there are none.
    Nowhere,
    /// A weight is above `WEIGHT_LIMIT`.
    TooHeavy,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nowhere => f.write_str("no service has a weight above 0"),
            Self::TooHeavy => write!(f, "weights are 0 to {WEIGHT_LIMIT}"),
        }
    }
}

impl Split {
    /// # Errors
    /// `Wrong` for invalid weights.
    pub fn new<'a>(services: impl IntoIterator<Item = (&'a str, u32)>) -> Result<Self, Wrong> {
        let shares: Vec<_> = services
            .into_iter()
            .map(|(name, weight)| Share { hash: hash(name), weight: f64::from(weight) })
            .collect();
        if shares.iter().any(|share| share.weight > f64::from(WEIGHT_LIMIT)) {
            return Err(Wrong::TooHeavy);
        }
        if shares.iter().all(|share| share.weight == 0.0) {
            return Err(Wrong::Nowhere);
        }
        Ok(Self { shares })
    }

    /// The index of the service for `key`.
    #[must_use]
    pub fn of_key(&self, key: &str) -> usize {
        self.of_hash(hash(key))
    }

    /// The index of the service for a request without a key; `random` is uniformly distributed.
    #[must_use]
    pub fn at_random(&self, random: u64) -> usize {
        self.of_hash(random)
    }

    fn of_hash(&self, key: u64) -> usize {
        let mut first = (f64::INFINITY, 0);
        for (place, share) in self.shares.iter().enumerate().filter(|(_, share)| share.weight > 0.0) {
            // 53 bits plus a half, so that it is neither 0 nor 1.
            let drawn = ((mixed(key ^ share.hash) >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64);
            let waits = -drawn.ln() / share.weight;
            if waits < first.0 {
                first = (waits, place);
            }
        }
        first.1
    }
}

/// FNV-1a with a finalizer: stable across processes, unlike the standard library's hashes.
fn hash(text: &str) -> u64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mixed(text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// Every output bit depends on every input bit (the finalizer of SplitMix64; Steele, Lea and Flood, "Fast
/// splittable pseudorandom number generators", 2014).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEYS: u32 = 1_000;
    const NAMES: [&str; 4] = ["checkout", "checkout-next", "checkout-2", "other"];

    fn split(weights: &[u32]) -> Split {
        Split::new(NAMES.into_iter().zip(weights.iter().copied())).unwrap()
    }

    fn keys(seed: u32) -> impl Iterator<Item = String> {
        (0..KEYS).map(move |number| format!("tenant-{seed}-{number}"))
    }

    fn some_weight() -> impl Strategy<Value = Vec<u32>> {
        let weights = prop::collection::vec(prop_oneof![Just(0), 1u32..100, 1u32..=WEIGHT_LIMIT], 2..=4);
        weights.prop_filter("a weight above 0", |weights| weights.iter().any(|weight| *weight > 0))
    }

    /// Six standard deviations of the number of `keys` in a part: exceeded once in 500 million cases.
    fn bound(part: f64, keys: f64) -> f64 {
        6.0 * (keys * part * (1.0 - part)).sqrt() + 1.0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn each_service_gets_its_part_of_keys_and_of_those_without(weights in some_weight(), seed: u32) {
            let split = split(&weights);
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            let mut random = u64::from(seed);
            let mut counts = [[0.0; 4]; 2];
            for key in keys(seed) {
                random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                counts[0][split.of_key(&key)] += 1.0;
                counts[1][split.at_random(mixed(random))] += 1.0;
            }
            for count in counts {
                for (count, weight) in count.into_iter().zip(&weights) {
                    let part = f64::from(*weight) / total;
                    prop_assert!((count - f64::from(KEYS) * part).abs() <= bound(part, f64::from(KEYS)), "{count} of {part}");
                    prop_assert!(*weight > 0 || count == 0.0);
                }
            }
        }

        #[test]
        fn a_key_goes_over_only_to_a_service_whose_weight_grew_beside_its_own(
            before in some_weight(), after in some_weight(), seed: u32,
        ) {
            prop_assume!(before.len() == after.len());
            let (old, new) = (split(&before), split(&after));
            let ratio = |weights: &[u32], from: usize, to: usize| f64::from(weights[to]) / f64::from(weights[from]);
            for key in keys(seed) {
                let (from, to) = (old.of_key(&key), new.of_key(&key));
                prop_assert!(from == to || ratio(&after, from, to) > ratio(&before, from, to));
            }
        }

        #[test]
        fn with_one_weight_raised_nobody_leaves_that_service_and_nobody_moves_between_others(
            weights in some_weight(), raised in 0usize..4, by in 1u32..1_000, seed: u32,
        ) {
            let raised = raised % weights.len();
            let mut heavier = weights.clone();
            heavier[raised] = (heavier[raised] + by).min(WEIGHT_LIMIT);
            let (old, new) = (split(&weights), split(&heavier));
            for key in keys(seed) {
                let (from, to) = (old.of_key(&key), new.of_key(&key));
                prop_assert!(to == from || (from != raised && to == raised));
            }
        }

        #[test]
        fn where_a_key_goes_depends_on_names_and_ratios_alone(
            weights in prop::collection::vec(1u32..1_000, 2..=4), times in 1u32..1_000, key in "\\PC{0,20}",
        ) {
            let services: Vec<_> = NAMES.into_iter().zip(weights).collect();
            let turned = services.iter().rev().map(|(name, weight)| (*name, weight * times));
            let place = Split::new(services.iter().copied()).unwrap().of_key(&key);
            let other = Split::new(turned).unwrap().of_key(&key);
            prop_assert_eq!(place, services.len() - 1 - other);
        }
    }

    #[test]
    fn a_key_goes_the_same_way_for_good() {
        // Another hash would move all keys at the next update of the gateway.
        let split = split(&[50, 50]);
        let places: Vec<_> =
            ["aurora", "borealis", "cassini", "delta", "192.0.2.1", ""].map(|key| split.of_key(key)).into();
        assert_eq!(places, [0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_split_leads_somewhere() {
        assert_eq!(Split::new([]), Err(Wrong::Nowhere));
        assert_eq!(Split::new([("a", 0), ("b", 0)]), Err(Wrong::Nowhere));
        assert_eq!(Split::new([("a", WEIGHT_LIMIT + 1)]), Err(Wrong::TooHeavy));
        let alone = Split::new([("a", 0), ("b", 1)]).unwrap();
        assert!(keys(1).all(|key| alone.of_key(&key) == 1));
    }
}
