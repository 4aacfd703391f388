//! The life of a request: route, identity, limits, hooks, concurrency, attempts, stub.

use std::cell::Cell;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Body as _;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};

use crate::ambiguity::checked_path;
use crate::attempt::{attempt, is_repeatable};
use crate::cache::{self, Outcome};
use crate::client::{Client, UnderWay};
use crate::early_data::{self, Early};
use crate::forwarded::{Origin, see_to_claims};
use crate::headers::{self, text};
use crate::hints::Hints;
use crate::identity::{Bearer, BodyDigest, Rejected};
use crate::mirror::{self, Mirror};
use crate::record::Record;
use crate::request_body::RequestBody;
use crate::respond::{Body, Problem, head_only};
use crate::rewrite::Rewrite;
use crate::route::{Leads, Route};
use crate::service::{Admitted, Endpoint, Permit, Upstream};
use crate::shared::{Shared, now_us};
use crate::snapshot::Snapshot;
use crate::tracing::Trace;
use crate::tunnel::{self, Upgrade};
use crate::upload::{Upload, discard, drain};
use crate::{grpc, grpc_web, hook, limit};

/// Header by which a service names the effect of its answer: the other half of the stub.
pub const EFFECT: HeaderName = HeaderName::from_static("counterfoil-effect");

/// What is known about a request by the time it is answered.
pub struct Seen {
    pub started: Instant,
    pub under_way: UnderWay,
    pub request_id: HeaderValue,
    pub bearer: Option<Arc<Bearer>>,
    /// The request's origin, if trusted proxies forwarded it.
    pub origin: Option<Box<Origin>>,
    /// Whether it came in early data and may be a replay; the service is told.
    pub early: bool,
    /// Its trace context, if requests are traced.
    pub trace: Option<Box<Trace>>,
    /// The index of the split's service that it goes to.
    pub side: Option<usize>,
    pub endpoint: Option<Arc<Endpoint>>,
    pub attempts: u32,
    /// How the request is rewritten for the instance.
    pub rewrite: Option<Arc<Rewrite>>,
    /// The mirror that gets a copy.
    pub mirror: Option<Arc<Mirror>>,
    /// Headers that hooks add.
    pub hooked: hook::Headers,
    pub cache: Outcome,
    /// Whether the service's early hints (103) are forwarded to the client.
    pub hinted: bool,
}

impl Seen {
    /// Read a request's head; headers that only trusted proxies may set are removed if anyone else sent them.
    fn new(started: Instant, under_way: UnderWay, snapshot: &Snapshot, parts: &mut Parts) -> Self {
        let request_id = request_id(parts.headers.get(headers::REQUEST_ID));
        let peer = under_way.client().address.to_str().unwrap_or_default();
        let trust = snapshot.trust.as_ref();
        let origin = trust.and_then(|trust| trust.origin(peer, &parts.headers).map(Box::new));
        see_to_claims(trust, peer, parts, snapshot.config.certificate.is_some());
        let trace = snapshot.tracing.as_ref().map(|tracing| Box::new(tracing.begin(&mut parts.headers)));
        Self {
            started,
            under_way,
            request_id,
            bearer: None,
            origin,
            early: false,
            trace,
            side: None,
            endpoint: None,
            attempts: 0,
            rewrite: None,
            mirror: None,
            hooked: Vec::new(),
            cache: Outcome::Off,
            hinted: false,
        }
    }

    /// The client's address, from trusted proxies if they forwarded the request.
    pub fn address(&self) -> &str {
        let client = || self.under_way.client().address.to_str().unwrap_or_default();
        self.origin.as_ref().map_or_else(client, |origin| &origin.address)
    }

    /// The `X-Forwarded-For` addresses that instances get.
    pub fn way(&self) -> &HeaderValue {
        self.origin.as_ref().map_or(&self.under_way.client().address, |origin| &origin.way)
    }

    /// Where early hints of the service go, if they are forwarded.
    pub fn hints<'a>(&'a self, parts: &'a Parts) -> Option<Hints<'a>> {
        if self.hinted { Hints::to(self.under_way.client(), parts) } else { None }
    }

    /// A copy for work on behalf of this request that may outlive it.
    pub fn apart(&self) -> Self {
        Self {
            started: Instant::now(),
            under_way: self.under_way.beside(),
            request_id: self.request_id.clone(),
            bearer: self.bearer.clone(),
            origin: self.origin.clone(),
            early: self.early,
            trace: self.trace.clone(),
            side: self.side,
            endpoint: None,
            attempts: 0,
            rewrite: self.rewrite.clone(),
            mirror: self.mirror.clone(),
            hooked: self.hooked.clone(),
            cache: Outcome::Off,
            hinted: false,
        }
    }
}

/// Answer one request; its stub is written before the answer is sent.
pub async fn serve(
    shared: Arc<Shared>,
    client: Arc<Client>,
    request: Request<RequestBody>,
) -> Result<Response<Body>, Infallible> {
    let started = Instant::now();
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let snapshot = shared.snapshot();
    let (mut parts, mut body) = request.into_parts();
    let seen = Seen::new(started, client.begin(), &snapshot, &mut parts);
    let found = find_route(&snapshot, &parts);
    let is_web = found.as_ref().is_ok_and(|route| route.config.grpc_web);
    let web = if is_web { grpc_web::Call::take(&mut parts, &mut body) } else { None };
    let route = found.as_ref().ok().copied();
    let mut record = Record::new(&snapshot, route, parts, seen);
    let Record { parts, seen, .. } = &mut record;
    let parts = &*parts;
    let answer = match found {
        Ok(route) => pass_on(&shared, &snapshot, route, parts, &mut body, seen).await,
        Err(problem) => Err(problem),
    };
    let limited = matches!(&answer, Err(problem) if problem.status == StatusCode::TOO_MANY_REQUESTS);
    let call = answer.as_ref().err().and_then(|problem| grpc::Status::of(problem, &parts.headers));
    let mut response = answer.unwrap_or_else(Problem::into_response);
    if let Some(route) = route
        && (route.tells || limited)
    {
        let now_ns = shared.nanoseconds(Instant::now());
        limit::tell(response.headers_mut(), route, parts, seen, limited, now_ns);
    }
    if !body.is_end_stream() {
        response = Box::pin(refuse_rest(parts, body, response)).await;
    }
    let duration_us = record.duration_us();
    let written = record.settle(response.status(), text(response.headers(), EFFECT), duration_us);
    if written.is_err() && response.status().is_success() {
        // Without a stub the answer could never be matched; the client may send the request again.
        response = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the answer could not be recorded")
            .retry_after(1)
            .into_response();
    }
    if record.parts.method == Method::HEAD {
        head_only(&mut response);
    }
    record.tell(response.status(), duration_us);
    let Record { parts, seen, .. } = &record;
    if let Some(call) = call {
        call.replace(&mut response);
    }
    if let Some(web) = web {
        web.answer(&mut response);
    }
    if let Some(edge) = route.and_then(|route| route.edge.as_ref()) {
        edge.mark(parts, response.headers_mut());
    }
    if let Some(compression) = route.and_then(|route| route.compression.as_ref()) {
        compression.apply(parts, &mut response);
    }
    response.headers_mut().insert(headers::REQUEST_ID, seen.request_id.clone());
    response.body_mut().keep(seen.under_way.beside());
    if let Body::Tunnel(tunnel) = response.body_mut()
        && let Some(tunnel) = tunnel.take()
    {
        tunnel.open(shared.connected());
    }
    Ok(response)
}

/// The route of a request. Fails if other servers may read the path as one of a route with other guards.
fn find_route<'a>(snapshot: &'a Snapshot, parts: &Parts) -> Result<&'a Route, Problem> {
    let path = checked_path(parts)?;
    let (routes, method) = (&snapshot.routes, tunnel::method(parts));
    let route = routes.find(parts, method, &path).map_err(|missed| {
        let status = if missed.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::METHOD_NOT_ALLOWED };
        Problem::new(status, format!("there is no route for {} {path}", parts.method))
            .allow(missed.join(", "))
    })?;
    if routes.is_ambiguous(parts, method, &path, route) {
        let detail = "services may read the path as one of another route: ask for the path that is meant";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    Ok(route)
}

/// Handle the unread rest of a refused request's body. What arrives soon is awaited, what arrives later is
/// discarded while the client reads its answer, and a body that was only offered (`Expect: 100-continue`)
/// isn't requested.
async fn refuse_rest(parts: &Parts, mut body: RequestBody, mut answer: Response<Body>) -> Response<Body> {
    let one_at_a_time = parts.version < Version::HTTP_2;
    let offered = parts.headers.contains_key(header::EXPECT);
    if one_at_a_time && !offered && drain(&mut body).await {
        return answer;
    }
    if one_at_a_time {
        // The rest of the body would be parsed as the next request, so close the connection.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    tokio::spawn(async move { discard(&mut body).await });
    answer
}

async fn pass_on(
    shared: &Arc<Shared>,
    snapshot: &Snapshot,
    route: &Route,
    parts: &Parts,
    body: &mut RequestBody,
    seen: &mut Seen,
) -> Result<Response<Body>, Problem> {
    let early = Early::of(parts, route.config.early_data);
    if !matches!(early, Early::Settled) {
        seen.early = Box::pin(early_data::settle(early, &shared.early_data)).await?;
    }
    if let Some(addresses) = &route.addresses {
        addresses.check(seen.address())?;
    }
    if let Some(edge) = &route.edge
        && let Some(answer) = edge.answer(&snapshot.routes, parts)
    {
        return answer;
    }
    let mut signed_body = None;
    if route.config.identity {
        let (bearer, digest) = identify(snapshot, parts, !body.is_end_stream())?;
        (seen.bearer, signed_body) = (Some(bearer), digest);
    }
    limit::pass(route, parts, seen, shared.nanoseconds(seen.started))?;
    if route.asks {
        Box::pin(limit::pass_strictly(route, parts, seen, shared)).await?;
    }
    if !route.hooks.is_empty() {
        seen.hooked = Box::pin(hook::ask(&route.hooks, parts, seen)).await?;
    }
    seen.rewrite.clone_from(&route.rewrite);
    seen.mirror.clone_from(&route.mirror);
    let target = match &route.leads {
        Leads::To(target) => target,
        Leads::Split(split) => split.choose(route, parts, seen),
        // Unreachable: such a route has a redirect, which has answered.
        Leads::Nowhere => return Err(no_service()),
    };
    let upstream = &target.upstream;
    let upgrade = Upgrade::asked(parts, !body.is_end_stream(), &target.upgrades, upstream.tunnel_idle);
    let only_tunnel = tunnel::is_all_that_is_asked(parts);
    if only_tunnel && upgrade.is_none() {
        return Err(tunnel::not_offered());
    }
    if let Some(cache) = &target.cache
        && signed_body.is_none()
        && upgrade.is_none()
        && body.is_end_stream()
        && cache::concerns(parts)
    {
        return Box::pin(cache::serve(cache, shared, upstream, parts, seen)).await;
    }
    seen.hinted = route.config.early_hints;
    let tunnelled = upgrade.as_ref().map(|_| admit_tunnel(upstream)).transpose()?;
    let limit = route.config.request_body_limit.unwrap_or(snapshot.config.request_body_limit);
    let mut upload = if let Some(upgrade) = upgrade {
        Upload::Upgrade(Box::new(upgrade))
    } else if let Some(digest) = signed_body {
        Upload::Whole(Box::pin(digest.receive(body, limit)).await?)
    } else if body.is_end_stream() {
        Upload::Whole(Bytes::new())
    } else {
        let offers = parts.headers.contains_key(header::EXPECT);
        Box::pin(Upload::receive(body, limit, offers, is_repeatable(parts))).await?
    };
    // Admit only after the body: a slow upload would hold a place meanwhile.
    let admitted = match admit(shared, upstream, seen).await {
        Ok(admitted) => admitted,
        Err(problem) => {
            *body = upload.into_rest();
            return Err(problem);
        }
    };
    let waited = admitted.waited || !upload.is_empty() || !route.hooks.is_empty() || route.asks;
    let mut answer = if seen.mirror.is_some() {
        Box::pin(mirror::attempt(shared, upstream, parts, &mut upload, seen, waited)).await
    } else {
        attempt(shared, upstream, parts, &mut upload, seen, waited).await
    };
    *body = upload.into_rest();
    if only_tunnel {
        answer = answer.and_then(tunnel::or_refused);
    }
    match answer.as_mut().map(Response::body_mut) {
        // A tunnel may stay open for days, so it counts against the tunnel limit instead.
        Ok(body @ Body::Tunnel(_)) => body.keep(tunnelled),
        Ok(body) => body.keep(admitted),
        Err(_) => {}
    }
    if let (Some(store), false, Ok(answer)) = (&snapshot.cache, parts.method.is_safe(), &answer) {
        cache::invalidate(store, parts, answer, shared.nanoseconds(Instant::now()));
    }
    answer
}

fn no_service() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "the route leads to no service")
}

/// Take one of the service's concurrency places.
pub async fn admit(shared: &Shared, upstream: &Upstream, seen: &Seen) -> Result<Admitted, Problem> {
    let bearer = seen.bearer.as_deref();
    let tenant = bearer.map_or("", |bearer| &bearer.tenant);
    upstream.admit(tenant, || shared.snapshot().rank(bearer)).await
}

fn admit_tunnel(upstream: &Upstream) -> Result<Permit, Problem> {
    upstream.admit_tunnel().ok_or_else(|| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the service has as many tunnels open as it may have")
            .retry_after(1)
    })
}

fn identify(
    snapshot: &Snapshot,
    parts: &Parts,
    has_body: bool,
) -> Result<(Arc<Bearer>, Option<BodyDigest>), Problem> {
    let verifier = snapshot.verifier.as_ref().ok_or(Rejected::Missing)?;
    Ok(verifier.identify(parts, has_body, now_us() / 1_000_000)?)
}

/// The client's request id if it is valid, or a new one: a random prefix for each worker thread, and a
/// counter.
fn request_id(given: Option<&HeaderValue>) -> HeaderValue {
    thread_local! {
        static LAST: Cell<u128> = Cell::new(u128::from(RandomState::new().hash_one(())) << 64);
    }
    if let Some(given) = given
        && (1..=64).contains(&given.len())
        && given.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    {
        return given.clone();
    }
    let number = LAST.get().wrapping_add(1);
    LAST.set(number);
    let digits: [u8; 32] =
        std::array::from_fn(|place| b"0123456789abcdef"[(number >> (4 * (31 - place))) as usize & 15]);
    HeaderValue::from_bytes(&digits).unwrap_or(HeaderValue::from_static("0"))
}
