//! Whether an answer may be stored, how long it is fresh, and how a stored one may be used (RFC 9111,
//! sections 3 and 4; RFC 5861), for a shared cache.
//!
//! Where the RFC leaves a choice, the conservative one is made: an unreadable age makes an answer stale, and
//! so does a directive given twice with different values. `s-maxage` forbids stale answers, unless the same
//! answer allows them by a `stale-...` directive of its own: the origin states both.

use super::directives::{Applies, RequestDirectives, ResponseDirectives};

const NS_PER_S: u64 = 1_000_000_000;
/// Denominator of the heuristic: an answer without explicit times is fresh for this part of the time since
/// its last modification, the typical value of RFC 9111, section 4.2.2.
const HEURISTIC_SHARE: u64 = 10;

/// A route's settings beside the answers' own directives. Durations are in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// Freshness of an answer without explicit times; 0 leaves it to the heuristic.
    pub default_ttl_ns: u64,
    /// Minimum freshness, which overrides shorter times of answers.
    pub min_ttl_ns: u64,
    /// Maximum freshness by the heuristic; 0 disables it.
    pub heuristic_limit_ns: u64,
    /// Where the answer doesn't say.
    pub stale_while_revalidate_ns: u64,
    /// Where the answer doesn't say.
    pub stale_if_error_ns: u64,
    /// Whether answers that set cookies are stored.
    pub cookies: bool,
}

/// The value of `Age` or `Expires`, which may be present but invalid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Field {
    #[default]
    Missing,
    Invalid,
    /// Seconds of age, or since 1970.
    At(u64),
}

/// The relevant parts of an answer's head.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub status: u16,
    pub directives: ResponseDirectives,
    /// Whether the directives come from a targeted field, so that `Expires` is ignored.
    pub targeted: bool,
    pub age: Field,
    pub expires: Field,
    /// Seconds since 1970.
    pub date_s: Option<u64>,
    /// Seconds since 1970.
    pub last_modified_s: Option<u64>,
    /// Whether it can be revalidated.
    pub has_validator: bool,
    pub sets_cookie: bool,
}

/// When an answer was requested and received.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub asked_ns: u64,
    pub came_ns: u64,
    /// Seconds since 1970.
    pub came_s: u64,
}

/// Why an answer isn't stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unstorable {
    /// The client or the origin forbids it, or the answer is private.
    Forbidden,
    /// Not a complete final answer, one about the time of the request only (425), or one with
    /// `must-understand` and a status that this cache doesn't understand.
    Status,
    /// The request had credentials, and the answer doesn't allow sharing explicitly.
    Credentials,
    /// It sets a cookie.
    Cookie,
    /// Useless: never fresh, and without a validator.
    Useless,
}

/// The terms of use of a stored answer. Durations are in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    lifetime_ns: u64,
    age_then_ns: u64,
    came_ns: u64,
    no_cache: bool,
    /// Never use it stale, not even for a client that accepts that.
    strict: bool,
    while_revalidate_ns: u64,
    if_error_ns: u64,
}

/// How to use a stored answer for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Send it.
    Fresh,
    /// Send it stale; the client accepts that.
    Stale,
    /// Send it, and revalidate in the background.
    StaleWhileRevalidate,
    /// Revalidate first.
    Revalidate,
}

impl Terms {
    /// Evaluate an answer to a GET. `credentials`: the request had an `Authorization`.
    ///
    /// # Errors
    /// Why it may not, or need not, be stored.
    pub fn of(
        head: &Head,
        rules: &Rules,
        request: &RequestDirectives,
        credentials: bool,
        times: Times,
    ) -> Result<Self, Unstorable> {
        let said = &head.directives;
        let understood = understood(head.status);
        if matches!(head.status, 0..=199 | 206 | 304 | 425) || (said.must_understand && !understood) {
            return Err(Unstorable::Status);
        }
        let no_store = said.no_store && !(said.must_understand && understood);
        if request.no_store || no_store || said.private == Applies::Whole {
            return Err(Unstorable::Forbidden);
        }
        if credentials && !(said.public || said.s_maxage.is_some() || said.must_revalidate) {
            return Err(Unstorable::Credentials);
        }
        if head.sets_cookie && !rules.cookies {
            return Err(Unstorable::Cookie);
        }
        let explicit = said.s_maxage.is_some() || said.max_age.is_some() || head.expires != Field::Missing;
        if !explicit && !said.public && !cacheable_by_default(head.status) {
            return Err(Unstorable::Status);
        }
        let no_cache = said.no_cache == Applies::Whole;
        let mut lifetime_ns = lifetime(head, rules, times.came_s);
        if !no_cache {
            lifetime_ns = lifetime_ns.max(rules.min_ttl_ns);
        }
        let never_fresh = no_cache || lifetime_ns == 0;
        let strict = said.must_revalidate || said.proxy_revalidate || no_cache;
        let window = |said_s: Option<u64>, rule_ns: u64| match said_s {
            _ if strict => 0,
            Some(seconds) => seconds * NS_PER_S,
            None if said.s_maxage.is_some() => 0,
            None => rule_ns,
        };
        let while_revalidate_ns = window(said.stale_while_revalidate, rules.stale_while_revalidate_ns);
        let if_error_ns = window(said.stale_if_error, rules.stale_if_error_ns);
        if never_fresh && !head.has_validator && while_revalidate_ns == 0 && if_error_ns == 0 {
            return Err(Unstorable::Useless);
        }
        Ok(Self {
            lifetime_ns,
            age_then_ns: age(head, times),
            came_ns: times.came_ns,
            no_cache,
            strict: strict || said.s_maxage.is_some(),
            while_revalidate_ns,
            if_error_ns,
        })
    }

    /// Its age at `now_ns` (RFC 9111, section 4.2.3).
    #[must_use]
    pub fn age_ns(&self, now_ns: u64) -> u64 {
        self.age_then_ns.saturating_add(now_ns.saturating_sub(self.came_ns))
    }

    /// Remaining freshness; negative once it is stale.
    #[must_use]
    pub fn fresh_for_ns(&self, now_ns: u64) -> i64 {
        // Both are below 2^63: an age of more than 290 years is capped.
        let age_ns = i64::try_from(self.age_ns(now_ns)).unwrap_or(i64::MAX);
        i64::try_from(self.lifetime_ns).unwrap_or(i64::MAX).saturating_sub(age_ns)
    }

    /// Whether it can ever be sent without revalidation.
    #[must_use]
    pub fn ever_fresh(&self) -> bool {
        !self.no_cache && self.lifetime_ns > self.age_then_ns
    }

    /// How it may be used at `now_ns`; `purged_ns` is the time of a soft purge, if there was one.
    #[must_use]
    pub fn usable(&self, request: &RequestDirectives, now_ns: u64, purged_ns: Option<u64>) -> Use {
        let age_ns = self.age_ns(now_ns);
        let stale_ns = self.stale_ns(now_ns, purged_ns);
        let too_old = request.max_age.is_some_and(|most| age_ns > most * NS_PER_S);
        let too_soon = request.min_fresh.is_some_and(|least| {
            self.fresh_for_ns(now_ns) < i64::try_from(least * NS_PER_S).unwrap_or(i64::MAX)
        });
        if self.no_cache || request.no_cache || too_old || too_soon {
            return Use::Revalidate;
        }
        match stale_ns {
            None => Use::Fresh,
            Some(stale_ns)
                if !self.strict && request.max_stale.is_some_and(|most| stale_ns / NS_PER_S <= most) =>
            {
                Use::Stale
            }
            Some(stale_ns) if stale_ns < self.while_revalidate_ns => Use::StaleWhileRevalidate,
            Some(_) => Use::Revalidate,
        }
    }

    /// Whether it may replace a failed answer at `now_ns` (`stale-if-error`).
    #[must_use]
    pub fn usable_on_error(&self, now_ns: u64, purged_ns: Option<u64>) -> bool {
        self.stale_ns(now_ns, purged_ns).unwrap_or(0) < self.if_error_ns
    }

    /// How long it has been stale; `None` while it is fresh.
    fn stale_ns(&self, now_ns: u64, purged_ns: Option<u64>) -> Option<u64> {
        let by_hand = purged_ns.map(|at| now_ns.saturating_sub(at));
        let fresh_for = self.fresh_for_ns(now_ns);
        let by_time = (fresh_for <= 0).then(|| fresh_for.unsigned_abs());
        by_hand.max(by_time)
    }
}

/// The freshness lifetime (RFC 9111, section 4.2.1).
fn lifetime(head: &Head, rules: &Rules, came_s: u64) -> u64 {
    let said = &head.directives;
    if let Some(seconds) = said.s_maxage.or(said.max_age) {
        return seconds * NS_PER_S;
    }
    let date_s = head.date_s.unwrap_or(came_s);
    match head.expires {
        Field::At(expires_s) if !head.targeted => {
            return expires_s.saturating_sub(date_s).min(1 << 31) * NS_PER_S;
        }
        Field::Invalid if !head.targeted => return 0,
        _ => {}
    }
    if rules.default_ttl_ns > 0 && cacheable_by_default(head.status) {
        return rules.default_ttl_ns;
    }
    // Any answer that gets here has a status or a directive that allows the heuristic.
    let unchanged_s = head.last_modified_s.map_or(0, |modified_s| date_s.saturating_sub(modified_s));
    (unchanged_s.saturating_mul(NS_PER_S) / HEURISTIC_SHARE).min(rules.heuristic_limit_ns)
}

/// The age of an answer when it was received (RFC 9111, section 4.2.3); an invalid one exceeds every
/// lifetime.
fn age(head: &Head, times: Times) -> u64 {
    let apparent_s = head.date_s.map_or(0, |date_s| times.came_s.saturating_sub(date_s));
    let value_ns = match head.age {
        Field::Missing => 0,
        Field::Invalid => return i64::MAX as u64,
        Field::At(seconds) => seconds.saturating_mul(NS_PER_S),
    };
    let delay_ns = times.came_ns.saturating_sub(times.asked_ns);
    apparent_s.saturating_mul(NS_PER_S).max(value_ns.saturating_add(delay_ns)).min(i64::MAX as u64)
}

/// Statuses that are cacheable by default (RFC 9110, section 15.1).
fn cacheable_by_default(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Statuses whose caching requirements this cache implements, for `must-understand` (RFC 9110).
fn understood(status: u16) -> bool {
    matches!(status, 200..=205 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: u64 = NS_PER_S;
    const NOW_S: u64 = 1_700_000_000;
    const NOTHING: RequestDirectives = RequestDirectives {
        no_store: false,
        no_cache: false,
        only_if_cached: false,
        max_age: None,
        min_fresh: None,
        max_stale: None,
    };

    fn head(cache_control: &str) -> Head {
        Head {
            status: 200,
            directives: ResponseDirectives::parse([cache_control.as_bytes()]),
            date_s: Some(NOW_S),
            has_validator: true,
            ..Head::default()
        }
    }

    fn terms(head: &Head, rules: &Rules) -> Result<Terms, Unstorable> {
        Terms::of(head, rules, &NOTHING, false, Times { asked_ns: 0, came_ns: 0, came_s: NOW_S })
    }

    fn stored(cache_control: &str) -> Terms {
        terms(&head(cache_control), &Rules::default()).unwrap()
    }

    fn after(terms: &Terms, seconds: u64) -> Use {
        terms.usable(&NOTHING, seconds * S, None)
    }

    #[test]
    fn what_is_forbidden_private_or_of_no_use_is_not_stored() {
        let refused = |text: &str| terms(&head(text), &Rules::default()).unwrap_err();
        assert_eq!(refused("max-age=60, no-store"), Unstorable::Forbidden);
        assert_eq!(refused("max-age=60, private"), Unstorable::Forbidden);
        let without = |text: &str| Head { has_validator: false, ..head(text) };
        assert_eq!(terms(&without("max-age=0"), &Rules::default()), Err(Unstorable::Useless));
        assert_eq!(terms(&without("no-cache"), &Rules::default()), Err(Unstorable::Useless));
        assert!(terms(&without("max-age=60, private=\"set-cookie\""), &Rules::default()).is_ok());
        let request = RequestDirectives { no_store: true, ..NOTHING };
        let times = Times { asked_ns: 0, came_ns: 0, came_s: NOW_S };
        let refused = Terms::of(&head("max-age=60"), &Rules::default(), &request, false, times);
        assert_eq!(refused, Err(Unstorable::Forbidden));
    }

    #[test]
    fn an_answer_to_credentials_is_stored_only_if_it_says_so() {
        let times = Times { asked_ns: 0, came_ns: 0, came_s: NOW_S };
        let asked = |text: &str| Terms::of(&head(text), &Rules::default(), &NOTHING, true, times);
        assert_eq!(asked("max-age=60"), Err(Unstorable::Credentials));
        for text in ["max-age=60, public", "s-maxage=60", "max-age=60, must-revalidate"] {
            assert!(asked(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_cookie_is_not_stored_unless_the_route_says_so() {
        let cookie = Head { sets_cookie: true, ..head("max-age=60, public") };
        assert_eq!(terms(&cookie, &Rules::default()), Err(Unstorable::Cookie));
        assert!(terms(&cookie, &Rules { cookies: true, ..Rules::default() }).is_ok());
    }

    #[test]
    fn a_status_must_be_understood_where_the_answer_asks_for_it() {
        let with = |status, text: &str| terms(&Head { status, ..head(text) }, &Rules::default());
        assert!(with(599, "max-age=60").is_ok());
        assert_eq!(with(599, "max-age=60, must-understand"), Err(Unstorable::Status));
        assert!(with(200, "max-age=60, must-understand, no-store").is_ok());
        assert_eq!(with(403, ""), Err(Unstorable::Status));
        assert!(with(404, "").is_ok());
        for status in [101, 206, 304, 425] {
            assert_eq!(with(status, "max-age=60"), Err(Unstorable::Status));
        }
    }

    #[test]
    fn the_lifetime_is_that_of_the_most_specific_field() {
        let with = |expires, text: &str| terms(&Head { expires, ..head(text) }, &Rules::default()).unwrap();
        let later = Field::At(NOW_S + 30);
        assert_eq!(with(later, "max-age=20, s-maxage=10").lifetime_ns, 10 * S);
        assert_eq!(with(later, "max-age=20").lifetime_ns, 20 * S);
        assert_eq!(with(later, "").lifetime_ns, 30 * S);
        assert_eq!(with(Field::Invalid, "").lifetime_ns, 0);
        let targeted = Head { targeted: true, expires: later, ..head("max-age=5") };
        assert_eq!(terms(&targeted, &Rules::default()).unwrap().lifetime_ns, 5 * S);
    }

    #[test]
    fn without_explicit_times_a_tenth_of_the_time_unchanged_and_no_more_than_the_route_allows() {
        let unchanged = |seconds| Head { last_modified_s: Some(NOW_S - seconds), ..head("") };
        let rules = Rules { heuristic_limit_ns: 50 * S, ..Rules::default() };
        assert_eq!(terms(&unchanged(100), &rules).unwrap().lifetime_ns, 10 * S);
        assert_eq!(terms(&unchanged(100_000), &rules).unwrap().lifetime_ns, 50 * S);
        assert_eq!(terms(&unchanged(100), &Rules::default()).unwrap().lifetime_ns, 0);
        let rules = Rules { default_ttl_ns: 7 * S, min_ttl_ns: 3 * S, ..rules };
        assert_eq!(terms(&unchanged(100), &rules).unwrap().lifetime_ns, 7 * S);
        assert_eq!(terms(&head("max-age=1"), &rules).unwrap().lifetime_ns, 3 * S);
        assert_eq!(terms(&head("no-cache"), &rules).unwrap().usable(&NOTHING, 0, None), Use::Revalidate);
    }

    #[test]
    fn age_counts_the_way_here_by_field_and_by_clock() {
        let times = Times { asked_ns: S, came_ns: 3 * S, came_s: NOW_S };
        let age = |head: &Head| {
            Terms::of(head, &Rules::default(), &NOTHING, false, times).unwrap().age_ns(4 * S) / S
        };
        assert_eq!(age(&head("max-age=60")), 3);
        assert_eq!(age(&Head { age: Field::At(10), ..head("max-age=60") }), 13);
        assert_eq!(age(&Head { date_s: Some(NOW_S - 30), ..head("max-age=60") }), 31);
        let unreadable = Head { age: Field::Invalid, ..head("max-age=60") };
        assert_eq!(after(&terms(&unreadable, &Rules::default()).unwrap(), 0), Use::Revalidate);
    }

    #[test]
    fn stale_answers_go_out_only_where_origin_and_client_allow_it() {
        let plain = stored("max-age=10, stale-while-revalidate=5, stale-if-error=20");
        assert_eq!(after(&plain, 9), Use::Fresh);
        assert_eq!(after(&plain, 10), Use::StaleWhileRevalidate);
        assert_eq!(after(&plain, 15), Use::Revalidate);
        assert!(plain.usable_on_error(29 * S, None) && !plain.usable_on_error(30 * S, None));
        let taken = RequestDirectives { max_stale: Some(3), ..NOTHING };
        assert_eq!(stored("max-age=10").usable(&taken, 13 * S, None), Use::Stale);
        assert_eq!(stored("max-age=10").usable(&taken, 14 * S, None), Use::Revalidate);
        for text in ["max-age=10, must-revalidate", "max-age=10, proxy-revalidate", "s-maxage=10"] {
            assert_eq!(stored(text).usable(&taken, 11 * S, None), Use::Revalidate, "{text}");
            assert!(!stored(text).usable_on_error(11 * S, None));
        }
        let both = stored("s-maxage=10, stale-while-revalidate=5");
        assert_eq!(after(&both, 11), Use::StaleWhileRevalidate);
    }

    #[test]
    fn a_client_may_ask_for_more_than_fresh() {
        let stored = stored("max-age=10, stale-while-revalidate=5");
        let at = |request: RequestDirectives, seconds: u64| stored.usable(&request, seconds * S, None);
        assert_eq!(at(RequestDirectives { no_cache: true, ..NOTHING }, 1), Use::Revalidate);
        assert_eq!(at(RequestDirectives { max_age: Some(3), ..NOTHING }, 3), Use::Fresh);
        assert_eq!(at(RequestDirectives { max_age: Some(3), ..NOTHING }, 4), Use::Revalidate);
        assert_eq!(at(RequestDirectives { min_fresh: Some(8), ..NOTHING }, 2), Use::Fresh);
        assert_eq!(at(RequestDirectives { min_fresh: Some(8), ..NOTHING }, 3), Use::Revalidate);
    }

    #[test]
    fn what_is_purged_softly_is_stale_from_then_on() {
        let stored = stored("max-age=100, stale-while-revalidate=5, stale-if-error=50");
        assert_eq!(stored.usable(&NOTHING, 20 * S, Some(20 * S)), Use::StaleWhileRevalidate);
        assert_eq!(stored.usable(&NOTHING, 25 * S, Some(20 * S)), Use::Revalidate);
        assert!(stored.usable_on_error(60 * S, Some(20 * S)));
        assert!(!stored.usable_on_error(70 * S, Some(20 * S)));
    }

    proptest! {
        #[test]
        fn an_answer_is_fresh_exactly_until_its_lifetime_and_never_again(
            lifetime in 1u64..1_000, given in 0u64..1_000, delay in 0u64..100, steps in prop::collection::vec(0u64..200, 1..20),
        ) {
            let head = Head { age: Field::At(given), ..head(&format!("max-age={lifetime}")) };
            let times = Times { asked_ns: 0, came_ns: delay * S, came_s: NOW_S };
            let terms = Terms::of(&head, &Rules::default(), &NOTHING, false, times).unwrap();
            let mut now = delay;
            for step in steps {
                now += step;
                let age = given + now;
                prop_assert_eq!(terms.age_ns(now * S), age * S);
                prop_assert_eq!(after(&terms, now) == Use::Fresh, age < lifetime);
            }
            prop_assert_eq!(terms.ever_fresh(), given + delay < lifetime);
        }

        #[test]
        fn nothing_stale_goes_out_where_it_is_forbidden_whatever_else_is_said(
            forbidding in prop::sample::select(vec!["must-revalidate", "proxy-revalidate", "no-cache"]),
            max_stale in prop::option::of(0u64..10_000), at in 60u64..10_000, default in 0u64..1_000,
        ) {
            let rules = Rules {
                stale_while_revalidate_ns: default * S, stale_if_error_ns: default * S, ..Rules::default()
            };
            let text = format!("max-age=60, stale-while-revalidate=900, stale-if-error=900, {forbidding}");
            let terms = terms(&head(&text), &rules).unwrap();
            let request = RequestDirectives { max_stale, ..NOTHING };
            prop_assert_eq!(terms.usable(&request, at * S, None), Use::Revalidate);
            prop_assert!(!terms.usable_on_error(at * S, None));
        }

        #[test]
        fn more_time_never_makes_an_answer_better(
            text in "(max-age=[0-9]{1,3}|s-maxage=[0-9]{1,3})(, stale-while-revalidate=[0-9]{1,3})?(, stale-if-error=[0-9]{1,3})?",
            early in 0u64..2_000, later in 0u64..2_000, purged in prop::option::of(0u64..500),
        ) {
            let Ok(terms) = terms(&head(&text), &Rules::default()) else { return Ok(()) };
            let rank = |seconds: u64| match terms.usable(&NOTHING, seconds * S, purged.map(|at| at * S)) {
                Use::Fresh => 3, Use::Stale => 2, Use::StaleWhileRevalidate => 1, Use::Revalidate => 0,
            };
            prop_assert!(rank(500 + early + later) <= rank(500 + early));
        }
    }
}
