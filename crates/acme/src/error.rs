//! Errors, by what the caller can do about them.

use instant_acme::{Error as Protocol, Problem};

/// The maximum number of characters of a directory's message, which appears in logs and in the gateway's
/// state.
const DETAIL_LIMIT: usize = 1_000;
const NAMESPACE: &str = "urn:ietf:params:acme:error:";
/// The error type for failures of the directory itself (RFC 8555, section 6.7).
const OWN_FAULT: &str = "serverInternal";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No response in time, or not an ACME response: the operation may or may not have happened.
    #[error("{0}")]
    Unavailable(String),
    /// The directory refused: the type of the problem document without its namespace (empty if there was no
    /// document), and its detail.
    #[error("{detail}")]
    Refused { kind: String, detail: String },
}

impl Error {
    pub(crate) fn refused(detail: impl Into<String>) -> Self {
        Self::Refused { kind: String::new(), detail: detail.into() }
    }

    fn of(problem: &Problem) -> Self {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        let kind = kind.strip_prefix(NAMESPACE).unwrap_or(kind).to_owned();
        let mut detail = problem.detail.clone().unwrap_or_default();
        for each in &problem.subproblems {
            detail.push_str("; ");
            detail.push_str(each.detail.as_deref().unwrap_or_default());
        }
        let detail = detail.chars().take(DETAIL_LIMIT).collect();
        if kind == OWN_FAULT { Self::Unavailable(detail) } else { Self::Refused { kind, detail } }
    }
}

impl From<Protocol> for Error {
    fn from(error: Protocol) -> Self {
        match error {
            Protocol::Api(problem) => Self::of(&problem),
            Protocol::Json(error) => Self::Unavailable(format!("its answer is not one of ACME: {error}")),
            Protocol::Timeout(_) => Self::Unavailable("the order did not come to its end in time".into()),
            Protocol::Str(said) => Self::refused(said),
            other => Self::Unavailable(innermost(&other)),
        }
    }
}

/// The innermost cause; the outer one is as unspecific as "client error (Connect)".
fn innermost(error: &Protocol) -> String {
    let mut inner: &dyn std::error::Error = match error {
        Protocol::Other(boxed) => boxed.as_ref(),
        other => other,
    };
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(document: &str) -> Error {
        Error::from(Protocol::Api(serde_json::from_str(document).unwrap()))
    }

    #[test]
    fn a_problem_document_is_passed_on_with_its_kind_and_all_its_details() {
        let refused = problem(
            r#"{"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "no",
                "subproblems": [{"type": "x", "detail": "not this name"}]}"#,
        );
        let expected =
            Error::Refused { kind: "rejectedIdentifier".into(), detail: "no; not this name".into() };
        assert_eq!(refused, expected);
    }

    #[test]
    fn a_fault_of_the_directory_itself_is_no_refusal() {
        let fault = problem(r#"{"type": "urn:ietf:params:acme:error:serverInternal", "detail": "disk"}"#);
        assert_eq!(fault, Error::Unavailable("disk".into()));
    }

    #[test]
    fn what_a_directory_says_is_cut_to_its_limit() {
        let long = "x".repeat(DETAIL_LIMIT * 2);
        let Error::Refused { detail, .. } = problem(&format!(r#"{{"detail": "{long}"}}"#)) else { panic!() };
        assert_eq!(detail.len(), DETAIL_LIMIT);
    }
}
