//! TLS session tickets that every gateway with the same secret can resume.
//!
//! The key of a ticket is derived (HKDF, RFC 5869) from the secret and the number of the period in which the
//! ticket was made. So gateways with the same secret have the same keys without communicating, and keys
//! rotate by themselves. A ticket is accepted for two periods after its own, and one period early, since
//! clocks differ.
//!
//! The secret decrypts tickets, but not recorded traffic: each resumption agrees on new keys (`psk_dhe_ke`,
//! the only mode that rustls supports). Without a configured secret a gateway generates one, and its tickets
//! are void when it ends.

use std::time::{SystemTime, UNIX_EPOCH};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

use crate::Error;

/// Length of a period in seconds. A key seals fewer tickets per period than random nonces are safe for
/// (2^32).
const PERIOD: u64 = 6 * 3600;
/// Periods for which a ticket is accepted after its own.
const PERIODS: u64 = 2;
/// Minimum bytes of a secret: as strong as the derived keys.
const LEAST_SECRET: usize = 32;
const PERIOD_BYTES: usize = size_of::<u64>();

pub struct Tickets {
    secret: Prk,
    random: SystemRandom,
}

impl Tickets {
    /// Load the secret from a file, or generate one.
    ///
    /// # Errors
    /// The file can't be read or is too short, or the system has no randomness.
    pub fn load(file: Option<&str>) -> Result<Self, Error> {
        let random = SystemRandom::new();
        let secret = match file {
            Some(path) => {
                let secret = std::fs::read(path).map_err(Error::io(format!("ticket_secret {path}")))?;
                if secret.len() < LEAST_SECRET {
                    let short = format!("ticket_secret {path}: a secret has {LEAST_SECRET} bytes at least");
                    return Err(Error::Config(short));
                }
                secret
            }
            None => {
                let mut secret = vec![0; LEAST_SECRET];
                random.fill(&mut secret).map_err(|_| Error::Config("there is no randomness".into()))?;
                secret
            }
        };
        Ok(Self { secret: Salt::new(HKDF_SHA256, b"counterfoil tickets").extract(&secret), random })
    }

    fn key(&self, period: u64) -> Option<LessSafeKey> {
        let info = [&period.to_be_bytes()[..]];
        let key = UnboundKey::from(self.secret.expand(&info, &AES_256_GCM).ok()?);
        Some(LessSafeKey::new(key))
    }

    /// Ticket layout: period, nonce, sealed content, tag.
    fn seal(&self, content: &[u8], seconds: u64) -> Option<Vec<u8>> {
        let period = seconds / PERIOD;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = content.to_vec();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        let period_bytes = period.to_be_bytes();
        self.key(period)?.seal_in_place_append_tag(nonce_used, Aad::from(period_bytes), &mut sealed).ok()?;
        Some([&period_bytes[..], &nonce, &sealed].concat())
    }

    fn open(&self, ticket: &[u8], seconds: u64) -> Option<Vec<u8>> {
        let (period_bytes, rest) = ticket.split_first_chunk::<PERIOD_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (period, now) = (u64::from_be_bytes(*period_bytes), seconds / PERIOD);
        if period > now + 1 || period + PERIODS < now {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let content = self.key(period)?.open_in_place(nonce, Aad::from(*period_bytes), &mut sealed).ok()?;
        Some(content.to_vec())
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Tickets")
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        (PERIOD * PERIODS) as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, now())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tickets(secret: u8) -> Tickets {
        Tickets {
            secret: Salt::new(HKDF_SHA256, b"counterfoil tickets").extract(&[secret; LEAST_SECRET]),
            random: SystemRandom::new(),
        }
    }

    proptest! {
        #[test]
        fn a_ticket_is_taken_by_whoever_has_the_secret_for_as_long_as_it_lives(
            content in prop::collection::vec(any::<u8>(), 0..200),
            made in 1_000_000_000u64..2_000_000_000,
            later in 0..=PERIOD * PERIODS,
        ) {
            let ticket = tickets(1).seal(&content, made).unwrap();
            prop_assert_eq!(tickets(1).open(&ticket, made + later), Some(content.clone()));
            prop_assert_eq!(tickets(1).open(&ticket, made - PERIOD), Some(content));
            prop_assert_eq!(tickets(1).open(&ticket, made + PERIOD * (PERIODS + 1)), None);
            prop_assert_eq!(tickets(2).open(&ticket, made), None);
        }

        #[test]
        fn a_ticket_that_was_touched_is_none(
            content in prop::collection::vec(any::<u8>(), 0..200),
            place in any::<prop::sample::Index>(),
            change in 1u8..,
        ) {
            let mut ticket = tickets(1).seal(&content, 1_000_000_000).unwrap();
            let place = place.index(ticket.len());
            ticket[place] ^= change;
            prop_assert_eq!(tickets(1).open(&ticket, 1_000_000_000), None);
            prop_assert_eq!(tickets(1).open(&ticket[..place], 1_000_000_000), None);
        }
    }
}
