#![doc = include_str!("docs.md")]

mod config;
mod files;
mod owner;
mod session;
mod transport;

use std::fmt::Display;
use std::time::SystemTime;

use async_trait::async_trait;
use hyper::Method;

pub use config::HttpConfig;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::id::{ExecId, OwnerId, SandboxId, SnapshotId};
use crate::provider::{
    Capabilities, ClaimRequest, Connection, CreateRequest, DiskUse, Endpoint, Leftover,
    PortListener, ProbeReport, Provider, ProviderInfo, PullRequest, Reach, SnapshotInfo, Tidied,
    TidyRequest,
};
use crate::sandbox::exec::{
    AttachOptions, BoxStream, ExecEvent, ExecInfo, ExecSession, ExecSpec, LogOptions, SignalScope,
};
use crate::sandbox::files::{
    Archive, ByteStream, ExportRequest, FileEntry, FileReply, FileRequest, ImportRequest,
    ReadRequest, WatchEvent, WatchRequest, WriteRequest,
};
use crate::sandbox::spec::{Lifetime, SandboxSpec};
use crate::sandbox::state::{Observed, ProcessInfo, Usage};
use crate::wire::exec::{AttachBody, ExecBody, ExecsReply, LogBody, SignalBody, decode_event};
use crate::wire::file::{EntryReply, ImportBody, WriteBody};
use crate::wire::frame::broken;
use crate::wire::sandbox::{
    CreateBody, DeadlineBody, DoneReply, EmptyBody, LifetimeBody, OriginBody, OriginReply,
    ProcessesReply, ProviderReply, PullBody, SandboxReply, SandboxesReply, SnapshotBody,
};
use crate::wire::{LONGEST_PAGE, Time, UPGRADE_EXEC, UPGRADE_STREAM};
use owner::Owner;
use transport::{Call, Transport};

/// The provider behind a server of the HTTP API.
#[derive(Debug)]
pub struct HttpProvider {
    transport: Transport,
    info: ProviderInfo,
    capabilities: Capabilities,
    owner: Owner,
}

impl HttpProvider {
    /// Reaches the server and asks what its provider can do.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a URL that is not of this host, `unavailable`
    /// where nobody answers, `protocol` where it is no such server.
    pub async fn open(config: HttpConfig) -> Result<Self> {
        let transport = Transport::new(&config)?;
        let call = Call {
            method: Method::GET,
            path: "/v1/provider".to_owned(),
            context: None,
        };
        let told: ProviderReply = transport.ask(call).await?;
        let capabilities = Capabilities {
            // What the wire does not carry, whatever is claimed.
            listen: false,
            claim: false,
            ..told.claims()
        };
        let mut versions = told.info.versions;
        versions.insert("served_by".to_owned(), told.info.name);
        Ok(Self {
            transport,
            info: ProviderInfo {
                name: "http".to_owned(),
                runtime: told.info.runtime,
                versions,
            },
            capabilities,
            owner: Owner::default(),
        })
    }

    /// Refuses to send a stream to a server that does not claim to take it: without
    /// that claim it need not read bodies that come in pieces.
    fn takes(&self, claimed: bool, what: &str) -> Result<()> {
        if claimed {
            return Ok(());
        }
        let runtime = &self.info.runtime;
        Err(Error::unsupported(format!(
            "the server does not take {what}: its provider, of the runtime {runtime}, does not claim to"
        )))
    }

    /// Whom a sandbox of this lifetime ends with.
    async fn owner_for(&self, lifetime: Lifetime) -> Result<Option<OwnerId>> {
        match lifetime {
            Lifetime::Attached => Ok(Some(self.owner.id(&self.transport).await?)),
            Lifetime::Detached => Ok(None),
        }
    }

    async fn done(&self, call: Call<'_>, body: &impl serde::Serialize) -> Result<()> {
        let DoneReply {} = self.transport.tell(call, body).await?;
        Ok(())
    }
}

fn of(id: &SandboxId, rest: impl Display) -> String {
    format!("/v1/sandboxes/{id}{rest}")
}

fn of_exec(id: &SandboxId, exec: &ExecId, rest: &str) -> String {
    format!("/v1/sandboxes/{id}/execs/{exec}{rest}")
}

/// What the server says of this sandbox, and of no other one.
fn seen(reply: SandboxReply, id: &SandboxId) -> Result<Observed> {
    if reply.id != *id {
        return Err(broken("another sandbox than the one that was asked for"));
    }
    reply.try_into()
}

fn not_carried(what: &str) -> Error {
    Error::unsupported(format!("{what} is not carried by the HTTP API"))
}

#[async_trait]
impl Provider for HttpProvider {
    fn info(&self) -> ProviderInfo {
        self.info.clone()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    async fn probe(&self, cx: &Context) -> Result<ProbeReport> {
        self.transport.ask(Call::get(cx, "/v1/probe")).await
    }

    async fn pull(&self, cx: &Context, request: &PullRequest) -> Result<()> {
        let body = PullBody {
            source: request.source.clone(),
            when: request.when,
        };
        self.done(Call::post(cx, "/v1/pull"), &body).await
    }

    async fn create(&self, cx: &Context, request: &CreateRequest) -> Result<Observed> {
        if request.waits {
            return Err(not_carried("a sandbox that waits to be claimed"));
        }
        let owner = self.owner_for(request.spec.lifetime).await?;
        let mut spec = request.spec.clone();
        // Their values go beside it.
        spec.secrets.clear();
        if request.open_files_preferred {
            // The server adds its own preference to what asks for none.
            spec.resources.open_files = None;
        }
        let body = CreateBody {
            id: request.id.clone(),
            spec,
            secrets: request.secrets.expose().clone(),
            owner,
        };
        let call = Call::post(cx, "/v1/sandboxes");
        seen(self.transport.tell(call, &body).await?, &request.id)
    }

    async fn origin(&self, cx: &Context, spec: &SandboxSpec) -> Result<String> {
        let mut spec = spec.clone();
        spec.secrets.clear();
        let call = Call::post(cx, "/v1/origin");
        let told: OriginReply = self.transport.tell(call, &OriginBody { spec }).await?;
        Ok(told.origin)
    }

    async fn claim(&self, _: &Context, _: &SandboxId, _: &ClaimRequest) -> Result<()> {
        Err(not_carried("a claim"))
    }

    async fn inspect(&self, cx: &Context, id: &SandboxId) -> Result<Observed> {
        seen(self.transport.ask(Call::get(cx, of(id, ""))).await?, id)
    }

    async fn list(
        &self,
        cx: &Context,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Observed>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let limit = limit.min(LONGEST_PAGE);
        let path = match after {
            Some(after) => format!("/v1/sandboxes?after={after}&limit={limit}"),
            None => format!("/v1/sandboxes?limit={limit}"),
        };
        let told: SandboxesReply = self.transport.ask(Call::get(cx, path)).await?;
        let ids: Vec<&SandboxId> = told.sandboxes.iter().map(|one| &one.id).collect();
        let in_order = after
            .into_iter()
            .chain(ids.iter().copied())
            .is_sorted_by(|one, next| one < next);
        if !in_order || ids.len() > limit as usize {
            return Err(broken(
                "a list that is longer than asked for or out of order",
            ));
        }
        told.sandboxes.into_iter().map(Observed::try_from).collect()
    }

    async fn set_deadline(
        &self,
        cx: &Context,
        id: &SandboxId,
        ends: Option<SystemTime>,
    ) -> Result<()> {
        let call = Call::of(Method::PUT, cx, of(id, "/deadline"));
        let ends = ends.map(Time::from);
        self.done(call, &DeadlineBody { ends }).await
    }

    async fn set_lifetime(&self, cx: &Context, id: &SandboxId, lifetime: Lifetime) -> Result<()> {
        let owner = self.owner_for(lifetime).await?;
        let call = Call::of(Method::PUT, cx, of(id, "/lifetime"));
        self.done(call, &LifetimeBody { owner }).await
    }

    async fn pause(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.done(Call::post(cx, of(id, "/pause")), &EmptyBody {})
            .await
    }

    async fn resume(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.done(Call::post(cx, of(id, "/resume")), &EmptyBody {})
            .await
    }

    async fn destroy(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        let call = Call::of(Method::DELETE, cx, of(id, ""));
        let DoneReply {} = self.transport.ask(call).await?;
        Ok(())
    }

    async fn exec(&self, cx: &Context, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        let call = Call::post(cx, of(id, "/execs"));
        let body = ExecBody::from(spec);
        let io = self.transport.switch(call, &body, UPGRADE_EXEC).await?;
        session::open(io, &spec.exec, spec.stdin).await
    }

    async fn attach(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        options: AttachOptions,
    ) -> Result<ExecSession> {
        let call = Call::post(cx, of_exec(id, exec, "/attach"));
        let body = AttachBody::from(options);
        let io = self.transport.switch(call, &body, UPGRADE_EXEC).await?;
        session::open(io, exec, options.stdin).await
    }

    async fn read_log(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        options: LogOptions,
    ) -> Result<BoxStream<Result<ExecEvent>>> {
        let call = Call::post(cx, of_exec(id, exec, "/log"));
        let answer = self.transport.stream(call, &LogBody::from(options)).await?;
        let read = |frame| {
            let event = decode_event(&frame)?;
            event.ok_or_else(|| broken("a frame that is no event"))
        };
        Ok(crate::wire::stream::items(answer.frames()?, read, |_| {
            Ok(())
        }))
    }

    async fn list_execs(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ExecInfo>> {
        let told: ExecsReply = self.transport.ask(Call::get(cx, of(id, "/execs"))).await?;
        told.execs.into_iter().map(ExecInfo::try_from).collect()
    }

    async fn signal_exec(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        signal: i32,
        scope: SignalScope,
    ) -> Result<()> {
        let call = Call::post(cx, of_exec(id, exec, "/signal"));
        self.done(call, &SignalBody { signal, scope }).await
    }

    async fn file(&self, cx: &Context, id: &SandboxId, request: &FileRequest) -> Result<FileReply> {
        let call = Call::post(cx, of(id, "/files"));
        files::operation(&self.transport, call, request).await
    }

    async fn read_file(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ReadRequest,
    ) -> Result<(FileEntry, ByteStream)> {
        let call = Call::post(cx, of(id, "/files/read"));
        files::read(&self.transport, call, request).await
    }

    async fn write_file(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &WriteRequest,
        data: ByteStream,
    ) -> Result<FileEntry> {
        self.takes(self.capabilities.files, "files")?;
        let call = Call::post(cx, of(id, "/files/write"));
        let head = WriteBody::from(request);
        let entry: EntryReply = files::upload(&self.transport, call, &head, data).await?;
        entry.try_into()
    }

    async fn watch(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &WatchRequest,
    ) -> Result<BoxStream<Result<WatchEvent>>> {
        let call = Call::post(cx, of(id, "/files/watch"));
        files::watch(&self.transport, call, request).await
    }

    async fn export_tar(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ExportRequest,
    ) -> Result<Archive> {
        let call = Call::post(cx, of(id, "/files/export"));
        files::export(&self.transport, call, request).await
    }

    async fn import_tar(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ImportRequest,
        data: ByteStream,
    ) -> Result<()> {
        self.takes(self.capabilities.file_tar, "archives")?;
        let call = Call::post(cx, of(id, "/files/import"));
        let head = ImportBody::from(request);
        let DoneReply {} = files::upload(&self.transport, call, &head, data).await?;
        Ok(())
    }

    async fn dial(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Connection> {
        let call = Call::post(cx, of(id, format!("/ports/{port}/dial")));
        let io = self
            .transport
            .switch(call, &EmptyBody {}, UPGRADE_STREAM)
            .await?;
        Ok(Box::new(io))
    }

    async fn listen(&self, _: &Context, _: &SandboxId, _: u16) -> Result<PortListener> {
        Err(not_carried("listening inside"))
    }

    async fn endpoint(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Endpoint> {
        let path = of(id, format!("/ports/{port}/endpoint"));
        self.transport.ask(Call::get(cx, path)).await
    }

    async fn processes(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ProcessInfo>> {
        let call = Call::get(cx, of(id, "/processes"));
        let told: ProcessesReply = self.transport.ask(call).await?;
        Ok(told.processes)
    }

    async fn usage(&self, cx: &Context, id: &SandboxId) -> Result<Usage> {
        self.transport.ask(Call::get(cx, of(id, "/usage"))).await
    }

    async fn snapshot(
        &self,
        cx: &Context,
        id: &SandboxId,
        snapshot: &SnapshotId,
    ) -> Result<SnapshotInfo> {
        let call = Call::post(cx, of(id, "/snapshots"));
        let body = SnapshotBody {
            id: snapshot.clone(),
        };
        let made: SnapshotInfo = self.transport.tell(call, &body).await?;
        if made.id != *snapshot {
            return Err(broken("another snapshot than the one that was asked for"));
        }
        Ok(made)
    }

    async fn delete_snapshot(&self, cx: &Context, snapshot: &SnapshotId) -> Result<()> {
        let call = Call::of(Method::DELETE, cx, format!("/v1/snapshots/{snapshot}"));
        let DoneReply {} = self.transport.ask(call).await?;
        Ok(())
    }

    // What lies on the server's host is for whoever runs the server: others have
    // sandboxes and volumes there too. On this host there is nothing.

    async fn leftovers(&self, _: &Context, _: Reach) -> Result<Vec<Leftover>> {
        Ok(Vec::new())
    }

    async fn remove_leftover(&self, _: &Context, _: &str) -> Result<()> {
        Ok(())
    }

    async fn disk_use(&self, _: &Context) -> Result<Vec<DiskUse>> {
        Ok(Vec::new())
    }

    async fn tidy(&self, _: &Context, _: &TidyRequest) -> Result<Tidied> {
        Ok(Tidied::default())
    }
}
