//! Which of several services a request goes to, by weight: canaries, and going over from one version to
//! the next step by step.
//!
//! Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005):
//! for each service a key draws a number `u` from 0 to 1, by a hash of the key and the service's name,
//! and goes to the service whose `-ln(u) / weight` is the least. `-ln(u)` is distributed exponentially,
//! so a service gets its weight's part of all keys, whatever the weights sum up to. It is decided without
//! remembering anything, and so that nobody moves who needn't:
//!
//! - A key keeps its services' numbers for good, on every gateway and in every process. It goes over
//!   from one service to another only when the ratio of their weights changes in favour of the other: with
//!   the canary's weight raised those who are on it stay, and with it lowered nobody comes to it.
//! - The numbers depend on names, not on places in a list: a third service takes keys from both
//!   others, and moves none between them.
//! - Two routes that split between the same services by the same weights send a key the same way.
//!
//! A service with a weight of 0 gets nothing. The hash is none of cryptography: who chooses the key (a
//! header, say) can choose the side as well.

/// Beyond it a service's part could not be told from nothing by the numbers that keys draw.
pub const WEIGHT_LIMIT: u32 = 1_000_000;

/// The services of a split by their places, and what each gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    shares: Vec<Share>,
}

#[derive(Debug, Clone, PartialEq)]
struct Share {
    /// Of the service's name.
    hash: u64,
    weight: f64,
}

/// Why there is no such split.
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
    /// As `Wrong` says.
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

    /// The place of the service that `key` goes to.
    #[must_use]
    pub fn of_key(&self, key: &str) -> usize {
        self.of_hash(hash(key))
    }

    /// The place of the service for somebody without a key; `random` is any number, each as likely as
    /// the next.
    #[must_use]
    pub fn at_random(&self, random: u64) -> usize {
        self.of_hash(random)
    }

    fn of_hash(&self, key: u64) -> usize {
        let mut first = (f64::INFINITY, 0);
        for (place, share) in self.shares.iter().enumerate().filter(|(_, share)| share.weight > 0.0) {
            // 53 bits of it, and a half, so that it is neither 0 nor 1.
            let drawn = ((mixed(key ^ share.hash) >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64);
            let waits = -drawn.ln() / share.weight;
            if waits < first.0 {
                first = (waits, place);
            }
        }
        first.1
    }
}

/// FNV-1a, mixed: the same in every process, unlike the hashes of the standard library.
fn hash(text: &str) -> u64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mixed(text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// Every bit of it depends on every bit (the finalizer of SplitMix64; Steele, Lea and Flood, "Fast
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

    /// Six standard deviations of how many of `keys` fall to a part: one case in 500 million is beyond.
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
        // Another hash would move everybody at the next update of the gateway.
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
