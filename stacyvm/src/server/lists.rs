//! What is only looked at.

use hyper::Response;

use super::answer::{self, Body};
use super::known;
use super::route::Call;
use crate::error::{Error, Result};
use crate::id::SandboxId;
use crate::provider::Provider as _;
use crate::wire::exec::{ExecReply, ExecsReply};
use crate::wire::sandbox::{ProcessesReply, ProviderReply, SandboxReply, SandboxesReply};
use crate::wire::{LONGEST_PAGE, to_json};

pub(super) fn provider(call: &Call) -> Result<Response<Body>> {
    let state = &call.state;
    let claims = to_json(&state.claims)?;
    answer::json(&ProviderReply {
        info: state.provider.info(),
        capabilities: crate::wire::reply(&claims)?,
    })
}

pub(super) async fn probe(call: &Call) -> Result<Response<Body>> {
    answer::json(&call.state.provider.probe(&call.context).await?)
}

pub(super) async fn inspect(call: &Call, id: &SandboxId) -> Result<Response<Body>> {
    let seen = call.state.provider.inspect(&call.context, id).await?;
    answer::json(&SandboxReply::from(seen))
}

/// `after` and `limit` behind the `?`.
pub(super) async fn sandboxes(call: &Call) -> Result<Response<Body>> {
    let (mut after, mut limit) = (None, LONGEST_PAGE);
    let query = call.request.uri().query().unwrap_or_default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("after", id)) => after = Some(SandboxId::new(id)?),
            Some(("limit", number)) => {
                let read = number.parse().ok();
                let fits = read.filter(|n| (1..=LONGEST_PAGE).contains(n));
                limit = fits.ok_or_else(|| {
                    Error::invalid(
                        "limit",
                        number,
                        &format!("1 to {LONGEST_PAGE}"),
                        "read longer lists in pages",
                    )
                })?;
            }
            _ => {
                return Err(Error::invalid(
                    "query",
                    pair,
                    "after=ID or limit=N",
                    "remove it",
                ));
            }
        }
    }
    let mut sandboxes = Vec::new();
    // A page is full although others' sandboxes are left out of it.
    loop {
        let provider = &call.state.provider;
        let all = provider.list(&call.context, after.as_ref(), limit).await?;
        let is_last = all.len() < limit as usize;
        after = all.last().map(|seen| seen.id.clone());
        for seen in all {
            let is_theirs = match &seen.tenant {
                Some(tenant) => *tenant == call.context.tenant,
                None => known::is_theirs(call, &seen.id).await?,
            };
            if is_theirs && sandboxes.len() < limit as usize {
                sandboxes.push(SandboxReply::from(seen));
            }
        }
        if is_last || sandboxes.len() == limit as usize {
            return answer::json(&SandboxesReply { sandboxes });
        }
    }
}

pub(super) async fn execs(call: &Call, id: &SandboxId) -> Result<Response<Body>> {
    let all = call.state.provider.list_execs(&call.context, id).await?;
    answer::json(&ExecsReply {
        execs: all.into_iter().map(ExecReply::from).collect(),
    })
}

pub(super) async fn endpoint(call: &Call, id: &SandboxId, port: u16) -> Result<Response<Body>> {
    let provider = &call.state.provider;
    answer::json(&provider.endpoint(&call.context, id, port).await?)
}

pub(super) async fn processes(call: &Call, id: &SandboxId) -> Result<Response<Body>> {
    let processes = call.state.provider.processes(&call.context, id).await?;
    answer::json(&ProcessesReply { processes })
}

pub(super) async fn usage(call: &Call, id: &SandboxId) -> Result<Response<Body>> {
    answer::json(&call.state.provider.usage(&call.context, id).await?)
}
