//! Invalidation, by operators' purges and by unsafe requests.

use counterfoil_policy::caching::purges::Purge;
use hyper::Response;
use hyper::Uri;
use hyper::header;
use hyper::http::request::Parts;
use serde::{Deserialize, Serialize};

use crate::cache::request::{host, target};
use crate::cache::store::Store;
use crate::headers::text;
use crate::respond::Body;

/// What an operator purges: URLs (a path with its query; the host of an absolute URL is ignored, so it
/// applies to every host), tags, or everything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    urls: Vec<String>,
    tags: Vec<String>,
    all: bool,
    /// Mark responses as stale instead of dropping them.
    soft: bool,
}

/// What was purged, whether anything was stored for it or not.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Purged {
    pub urls: usize,
    pub tags: usize,
    pub all: bool,
    pub soft: bool,
}

/// Purge at `now_ns` what a JSON document lists: `{"urls": [], "tags": [], "all": false, "soft": false}`,
/// where each field is optional.
///
/// # Errors
/// What is wrong with the document, and the expected form. Nothing is purged then.
pub fn purge(store: &Store, document: &[u8], now_ns: u64) -> Result<Purged, String> {
    let wanted: Wanted = serde_json::from_slice(document).map_err(|error| {
        format!("send {{\"urls\": [], \"tags\": [], \"all\": false, \"soft\": false}}: {error}")
    })?;
    if wanted.urls.is_empty() && wanted.tags.is_empty() && !wanted.all {
        return Err("name urls or tags to purge, or set all".into());
    }
    let targets: Vec<_> = wanted
        .urls
        .iter()
        .map(|url| match url.parse::<Uri>() {
            Ok(uri) if url.contains('/') => {
                Ok(uri.path_and_query().map_or("/".to_owned(), |target| target.as_str().to_owned()))
            }
            _ => Err(format!("{url:?} is no address such as /items/1?page=2")),
        })
        .collect::<Result<_, _>>()?;
    let kind = if wanted.soft { Purge::Soft } else { Purge::Hard };
    for target in &targets {
        store.purges.purge(store.hash_of_target(target), kind, now_ns);
    }
    for tag in &wanted.tags {
        store.purges.purge(store.hash_of_tag(tag), kind, now_ns);
    }
    if wanted.all {
        store.purges.purge_all(kind, now_ns);
    }
    Ok(Purged { urls: targets.len(), tags: wanted.tags.len(), all: wanted.all, soft: wanted.soft })
}

/// Invalidate the target of an unsafe request that succeeded, and the URLs in its response's `Location` and
/// `Content-Location` if they are at the same host (RFC 9111, section 4.4).
pub fn invalidate(store: &Store, parts: &Parts, answer: &Response<Body>, now_ns: u64) {
    if !(answer.status().is_success() || answer.status().is_redirection()) {
        return;
    }
    store.purges.purge(store.hash_of_target(target(parts)), Purge::Hard, now_ns);
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        if let Some(named) = resolved(parts, text(answer.headers(), name)) {
            store.purges.purge(store.hash_of_target(&named), Purge::Hard, now_ns);
        }
    }
}

/// Path and query of a URI reference in a response, if it is at the request's host.
fn resolved(parts: &Parts, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().filter(|reference| !reference.is_empty())?;
    let own = |authority: &str| authority.eq_ignore_ascii_case(&host(parts));
    if let Some(rest) = reference.strip_prefix("//") {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        return own(authority).then(|| if path.is_empty() { "/".to_owned() } else { path.to_owned() });
    }
    if reference.starts_with('/') {
        return Some(reference.to_owned());
    }
    if let Some((_, rest)) = reference.split_once("://") {
        return resolved(parts, &format!("//{rest}"));
    }
    if reference.starts_with('?') {
        return Some(format!("{}{reference}", parts.uri.path()));
    }
    let folder = parts.uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    Some(format!("{folder}/{reference}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str) -> Parts {
        hyper::Request::post(target).header("host", "shop.example:80").body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_an_answer_names_is_found_where_it_is_at_the_same_host() {
        let parts = request("/items/1?page=2");
        for (reference, wanted) in [
            ("/a?b", Some("/a?b")),
            ("2", Some("/items/2")),
            ("?page=3", Some("/items/1?page=3")),
            ("http://SHOP.example:80/x#y", Some("/x")),
            ("//shop.example:80", Some("/")),
            ("http://other.example/x", None),
            ("", None),
        ] {
            assert_eq!(resolved(&parts, reference).as_deref(), wanted, "{reference}");
        }
    }

    #[test]
    fn a_purge_that_names_nothing_or_nonsense_is_refused_whole() {
        let store = Store::new(1_000_000);
        for document in
            ["{}", "[]", r#"{"url": "/a"}"#, r#"{"urls": ["/a", "b c"]}"#, r#"{"urls": ["word"]}"#]
        {
            assert!(purge(&store, document.as_bytes(), 5).is_err(), "{document}");
        }
        let done =
            purge(&store, br#"{"urls": ["https://x.example/a"], "tags": ["t", "u"], "soft": true}"#, 5);
        assert_eq!(done, Ok(Purged { urls: 1, tags: 2, all: false, soft: true }));
    }
}
