//! The gateway's secrets, compared in constant time.
//!
//! A comparison that stops at the first difference reveals by its duration how much of a guess is right. So
//! secrets have a type whose only comparison is constant-time (in the bytes; the length is not secret), and
//! that can't be printed. A lint forbids the comparison in every other file (`clippy.toml`), and
//! `tests/application/test_tidy.py` ensures that secrets have this type. `make bench-timing` measures whether
//! the comparison is in fact constant-time.

use serde::Deserialize;
use subtle::ConstantTimeEq;

/// Secret bytes.
#[derive(Clone, Default, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Whether `given` is the secret; the time depends only on its length.
    #[expect(clippy::disallowed_methods, reason = "this is the one place for it")]
    pub fn matches(&self, given: &[u8]) -> bool {
        self.0.ct_eq(given).into()
    }

    /// The bytes, to send or to sign with.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use super::*;

    #[test]
    fn only_the_whole_secret_matches() {
        let secret = Secret::from("correct horse".to_owned());
        assert!(secret.matches(b"correct horse"));
        for wrong in ["", "correct", "correct hors!", "correct horse ", "Correct horse"] {
            assert!(!secret.matches(wrong.as_bytes()));
        }
    }

    const SECRET: [u8; 64] = [0x5a; 64];

    /// Welch's t of the durations of `compare` for guesses that are all wrong, and for guesses that are right
    /// except for the last byte: above 10 they differ (Reparaz, Balasch, Verbauwhede, "Dude, is my code
    /// constant time?", 2017, where 4.5 is a hint and 10 is proof).
    fn leakage(compare: impl Fn(&[u8], &[u8]) -> bool) -> f64 {
        const ROUNDS: usize = 400_000;
        /// Comparisons per measurement: one is too short for the clock.
        const AT_ONCE: u32 = 8;
        let mut first = SECRET;
        first[0] = 0;
        let mut last = SECRET;
        last[63] = 0;
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut guess = SECRET;
        let mut durations: [Vec<f64>; 2] = Default::default();
        for _ in 0..ROUNDS {
            // The branch predictor must not foresee which of the two comes next.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let class = usize::from(random & 1 == 1);
            // Both in the same memory, so that only their content differs.
            guess.copy_from_slice(if class == 0 { &first } else { &last });
            let began = Instant::now();
            for _ in 0..AT_ONCE {
                black_box(compare(black_box(&SECRET), black_box(&guess)));
            }
            durations[class].push(began.elapsed().as_nanos() as f64);
        }
        let [left, right] = durations.map(|mut durations| {
            // The slowest tenth is noise of the machine.
            durations.sort_by(f64::total_cmp);
            durations.truncate(durations.len() * 9 / 10);
            let count = durations.len() as f64;
            let mean = durations.iter().sum::<f64>() / count;
            let variance = durations.iter().map(|each| (each - mean).powi(2)).sum::<f64>() / (count - 1.0);
            (mean, variance / count)
        });
        (left.0 - right.0).abs() / (left.1 + right.1).sqrt()
    }

    #[test]
    #[ignore = "measures time: `make bench-timing`"]
    fn a_comparison_takes_as_long_whatever_part_of_a_guess_is_right() {
        let naive = leakage(|secret, guess| {
            secret.iter().zip(guess).all(|(left, right)| black_box(left) == black_box(right))
        });
        let kept = Secret::from(&SECRET[..]);
        let ours = leakage(|_, guess| kept.matches(guess));
        println!("|t| of a naive comparison {naive:.1}, of ours {ours:.1}; beyond 10 it leaks");
        assert!(naive > 10.0, "the measurement finds no leak where there is one: {naive}");
        assert!(ours < 10.0, "the duration tells how much of a guess was right: {ours}");
    }
}
