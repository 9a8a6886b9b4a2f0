//! Every route, and what serves it.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Request, Response, StatusCode};

use super::answer::{self, Body};
use super::{State, files, guard, known, lists, owners, sandboxes, session};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExecId, SandboxId, SnapshotId};
use crate::provider::OperationKind;

/// What a body is, in words of the types of [`wire`](crate::wire).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// None.
    Nothing,
    /// JSON of this type.
    Json(&'static str),
    /// Frames: the type of the head, of each item, and of the end, in JSON; bytes
    /// where an item has no type.
    Frames {
        /// The head.
        head: Option<&'static str>,
        /// An item; none is bytes, or events of a command.
        item: Option<&'static str>,
        /// The end.
        end: Option<&'static str>,
    },
    /// `101 Switching Protocols` to this.
    Upgrade(&'static str),
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The operation of a provider that it is; none for what a server tells of itself.
    pub operation: Option<OperationKind>,
    /// The method.
    pub method: &'static str,
    /// The path; what is in braces is a parameter.
    pub path: &'static str,
    /// Parameters behind `?`.
    pub query: &'static [&'static str],
    /// What it does, in a line.
    pub summary: &'static str,
    /// The body of the request.
    pub request: Form,
    /// The body of the response.
    pub response: Form,
}

const OWNERS: &str = "/v1/owners";
const DONE: Form = Form::Json("DoneReply");
const EMPTY: Form = Form::Json("EmptyBody");
const BYTES: Form = Form::Frames {
    head: None,
    item: None,
    end: None,
};

macro_rules! routes {
    ($($operation:ident $method:literal $path:literal $([$($query:literal),*])? $summary:literal, $request:expr => $response:expr;)*) => {
        /// Every route.
        pub const ROUTES: &[Route] = &[
            Route {
                operation: None,
                method: "GET",
                path: "/v1/provider",
                query: &[],
                summary: "Tells which provider is served and what it can do over the wire",
                request: Form::Nothing,
                response: Form::Json("ProviderReply"),
            },
            Route {
                operation: None,
                method: "POST",
                path: OWNERS,
                query: &[],
                summary: "Becomes the owner of attached sandboxes, which end with this connection",
                request: EMPTY,
                response: Form::Upgrade(crate::wire::UPGRADE_OWNER),
            },
            $(Route {
                operation: Some(OperationKind::$operation),
                method: $method,
                path: $path,
                query: &[$($($query),*)?],
                summary: $summary,
                request: $request,
                response: $response,
            },)*
        ];
    };
}

routes! {
    Probe "GET" "/v1/probe" "Tells whether the server's host can run the provider", Form::Nothing => Form::Json("ProbeReport");
    Pull "POST" "/v1/pull" "Brings an image to where creates find it", Form::Json("PullBody") => DONE;
    Origin "POST" "/v1/origin" "Tells what a sandbox of a spec would be made from now", Form::Json("OriginBody") => Form::Json("OriginReply");
    List "GET" "/v1/sandboxes" ["after", "limit"] "Lists sandboxes in the order of their ids", Form::Nothing => Form::Json("SandboxesReply");
    Create "POST" "/v1/sandboxes" "Makes a sandbox under the id that the client minted", Form::Json("CreateBody") => Form::Json("SandboxReply");
    Inspect "GET" "/v1/sandboxes/{sandbox}" "Tells what is there", Form::Nothing => Form::Json("SandboxReply");
    Destroy "DELETE" "/v1/sandboxes/{sandbox}" "Ends a sandbox; an absent one is success", Form::Nothing => DONE;
    SetDeadline "PUT" "/v1/sandboxes/{sandbox}/deadline" "Moves the end of a sandbox's life", Form::Json("DeadlineBody") => DONE;
    SetLifetime "PUT" "/v1/sandboxes/{sandbox}/lifetime" "Has a sandbox end with an owner, or with none", Form::Json("LifetimeBody") => DONE;
    Pause "POST" "/v1/sandboxes/{sandbox}/pause" "Stops every process", EMPTY => DONE;
    Resume "POST" "/v1/sandboxes/{sandbox}/resume" "Lets the processes go on", EMPTY => DONE;
    ListExecs "GET" "/v1/sandboxes/{sandbox}/execs" "Lists commands", Form::Nothing => Form::Json("ExecsReply");
    Exec "POST" "/v1/sandboxes/{sandbox}/execs" "Starts a command and follows it", Form::Json("ExecBody") => Form::Upgrade(crate::wire::UPGRADE_EXEC);
    Attach "POST" "/v1/sandboxes/{sandbox}/execs/{exec}/attach" "Follows a command", Form::Json("AttachBody") => Form::Upgrade(crate::wire::UPGRADE_EXEC);
    ReadLog "POST" "/v1/sandboxes/{sandbox}/execs/{exec}/log" "Reads what is kept of a command's output: frames of events", Form::Json("LogBody") => BYTES;
    SignalExec "POST" "/v1/sandboxes/{sandbox}/execs/{exec}/signal" "Sends a signal to a command", Form::Json("SignalBody") => DONE;
    File "POST" "/v1/sandboxes/{sandbox}/files" "Does a file operation without data; a list comes as frames of EntryReply", Form::Json("FileBody") => Form::Json("FileDoneReply");
    ReadFile "POST" "/v1/sandboxes/{sandbox}/files/read" "Reads a file", Form::Json("ReadBody") => Form::Frames { head: Some("EntryReply"), item: None, end: None };
    WriteFile "POST" "/v1/sandboxes/{sandbox}/files/write" "Writes a file", Form::Frames { head: Some("WriteBody"), item: None, end: None } => Form::Json("EntryReply");
    Watch "POST" "/v1/sandboxes/{sandbox}/files/watch" "Reports changes below a path", Form::Json("WatchBody") => Form::Frames { head: None, item: Some("ChangeReply"), end: None };
    ExportTar "POST" "/v1/sandboxes/{sandbox}/files/export" "Sends a path as a tar stream", Form::Json("ExportBody") => Form::Frames { head: None, item: None, end: Some("LeftOutReply") };
    ImportTar "POST" "/v1/sandboxes/{sandbox}/files/import" "Unpacks a tar stream", Form::Frames { head: Some("ImportBody"), item: None, end: None } => DONE;
    Dial "POST" "/v1/sandboxes/{sandbox}/ports/{port}/dial" "Connects to a TCP port inside", EMPTY => Form::Upgrade(crate::wire::UPGRADE_STREAM);
    Endpoint "GET" "/v1/sandboxes/{sandbox}/ports/{port}/endpoint" "Tells where others reach a port", Form::Nothing => Form::Json("Endpoint");
    Processes "GET" "/v1/sandboxes/{sandbox}/processes" "Lists the processes inside", Form::Nothing => Form::Json("ProcessesReply");
    Usage "GET" "/v1/sandboxes/{sandbox}/usage" "Tells what the sandbox uses", Form::Nothing => Form::Json("Usage");
    Snapshot "POST" "/v1/sandboxes/{sandbox}/snapshots" "Saves a sandbox under an id that the client minted", Form::Json("SnapshotBody") => Form::Json("SnapshotInfo");
    DeleteSnapshot "DELETE" "/v1/snapshots/{snapshot}" "Deletes a snapshot; an absent one is success", Form::Nothing => DONE;
}

/// The parameters of a path, in its order.
type Found<'a> = Vec<&'a str>;

fn find<'a>(route: &Route, path: &'a str) -> Option<Found<'a>> {
    let mut found = Vec::new();
    let (mut pattern, mut given) = (route.path.split('/'), path.split('/'));
    loop {
        match (pattern.next(), given.next()) {
            (None, None) => return Some(found),
            (Some(part), Some(value)) if part.starts_with('{') => found.push(value),
            (Some(part), Some(value)) if part == value => {}
            _ => return None,
        }
    }
}

/// One request, as far as its line and headers say what it is.
pub(super) struct Call {
    pub(super) state: Arc<State>,
    pub(super) context: Context,
    pub(super) request: Request<Incoming>,
}

/// Serves a request.
pub(super) async fn dispatch(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    guard::check(request.headers())?;
    let context = state.context(guard::tenant(request.headers())?);
    let path = request.uri().path().to_owned();
    let all = ROUTES.iter();
    let fitting: Vec<(&Route, Found<'_>)> = all
        .filter_map(|route| find(route, &path).map(|found| (route, found)))
        .collect();
    let method = request.method().as_str();
    let Some((route, found)) = fitting.iter().find(|(route, _)| route.method == method) else {
        return Ok(unserved(method, &path, &fitting));
    };
    if let (Some(query), true) = (request.uri().query(), route.query.is_empty()) {
        return Err(Error::invalid("query", query, "none here", "remove it"));
    }
    let call = Call {
        state,
        context,
        request,
    };
    let done = serve(call, route, found).await;
    done.map_err(|error| match route.operation {
        Some(kind) => error.operation(kind.name()),
        None => error,
    })
}

async fn serve(call: Call, route: &Route, found: &[&str]) -> Result<Response<Body>> {
    use OperationKind as Kind;
    let Some(kind) = route.operation else {
        return match route.path {
            OWNERS => owners::own(call).await,
            _ => lists::provider(&call),
        };
    };
    let at = |index: usize| found.get(index).copied().unwrap_or_default();
    let sandbox = || SandboxId::new(at(0));
    let exec = || ExecId::new(at(1));
    // An absent one is no failure of its end.
    if route.path.contains("{sandbox}") && kind != Kind::Destroy {
        known::check(&call, &sandbox()?).await?;
    }
    match kind {
        Kind::Probe => lists::probe(&call).await,
        Kind::Pull => sandboxes::pull(call).await,
        Kind::Origin => sandboxes::origin(call).await,
        Kind::List => lists::sandboxes(&call).await,
        Kind::Create => sandboxes::create(call).await,
        Kind::Inspect => lists::inspect(&call, &sandbox()?).await,
        Kind::Destroy => sandboxes::destroy(&call, &sandbox()?).await,
        Kind::SetDeadline => sandboxes::set_deadline(call, &sandbox()?).await,
        Kind::SetLifetime => sandboxes::set_lifetime(call, &sandbox()?).await,
        Kind::Pause => sandboxes::pause(call, &sandbox()?, true).await,
        Kind::Resume => sandboxes::pause(call, &sandbox()?, false).await,
        Kind::ListExecs => lists::execs(&call, &sandbox()?).await,
        Kind::Exec => session::exec(call, &sandbox()?).await,
        Kind::Attach => session::attach(call, &sandbox()?, &exec()?).await,
        Kind::ReadLog => session::read_log(call, &sandbox()?, &exec()?).await,
        Kind::SignalExec => session::signal(call, &sandbox()?, &exec()?).await,
        Kind::File => files::operation(call, &sandbox()?).await,
        Kind::ReadFile => files::read(call, &sandbox()?).await,
        Kind::WriteFile => files::write(call, &sandbox()?).await,
        Kind::Watch => files::watch(call, &sandbox()?).await,
        Kind::ExportTar => files::export(call, &sandbox()?).await,
        Kind::ImportTar => files::import(call, &sandbox()?).await,
        Kind::Dial => session::dial(call, &sandbox()?, port(at(1))?).await,
        Kind::Endpoint => lists::endpoint(&call, &sandbox()?, port(at(1))?).await,
        Kind::Processes => lists::processes(&call, &sandbox()?).await,
        Kind::Usage => lists::usage(&call, &sandbox()?).await,
        Kind::Snapshot => sandboxes::snapshot(call, &sandbox()?).await,
        Kind::DeleteSnapshot => sandboxes::delete_snapshot(&call, &SnapshotId::new(at(0))?).await,
        Kind::Claim
        | Kind::Listen
        | Kind::Leftovers
        | Kind::RemoveLeftover
        | Kind::DiskUse
        | Kind::Tidy => Err(Error::unsupported(format!(
            "{} is not served over the wire",
            kind.name()
        ))),
    }
}

fn port(text: &str) -> Result<u16> {
    text.parse()
        .map_err(|_| Error::invalid("port", text, "0 to 65535", "name a TCP port"))
}

/// The answer to a path that is not served, or not by this method.
fn unserved(method: &str, path: &str, fitting: &[(&Route, Found<'_>)]) -> Response<Body> {
    if fitting.is_empty() {
        return answer::error(
            &Error::new(
                ErrorKind::NotFound,
                format!("the server has nothing at `{path}`; see docs/openapi.json"),
            )
            .context("path", path),
        );
    }
    let allowed: Vec<&str> = fitting.iter().map(|(route, _)| route.method).collect();
    let allowed = allowed.join(", ");
    let error = Error::invalid(
        "method",
        method,
        &allowed,
        "use a method that this path has",
    );
    let mut response = answer::error(&error);
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(ALLOW, value);
    }
    response
}
