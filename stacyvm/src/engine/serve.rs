//! What a server does with the records of its engine, by exact ids.

use std::path::{Component, Path};
use std::sync::Arc;
use std::time::SystemTime;

use super::Engine;
use super::policy::path_of_archive;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::layer::Layered;
use crate::provider::{Provider as _, Pull};
use crate::sandbox::handle::Sandbox;
use crate::sandbox::spec::{Lifetime, MountSource, SandboxSpec, Source};
use crate::sandbox::state::Observed;

impl Engine {
    /// The engine's default context, for the tenant that a request names.
    pub(crate) fn context_of(&self, tenant: Option<crate::id::TenantId>) -> Context {
        let mut context = self.0.context.clone();
        if let Some(tenant) = tenant {
            context.tenant = tenant;
        }
        context
    }

    /// A configured provider within its layers.
    pub(crate) async fn layered(&self, name: &str) -> Result<Arc<Layered>> {
        self.0.registry.open(name).await
    }

    /// Whether directories of this host may be named by those who are served:
    /// only where the operator has said which.
    pub(crate) fn serves_host_paths(&self) -> bool {
        self.0.policy.mount_roots.is_some()
    }

    /// Refuses what of this host a spec names, unless the operator allows it. A path
    /// that is not allowed is refused unseen: nobody learns whether it exists.
    pub(crate) fn check_served(&self, spec: &SandboxSpec) -> Result<()> {
        if let Some(name) = spec.secrets.keys().next() {
            return Err(Error::invalid(
                format!("spec.secrets.{name}"),
                "a reference",
                "no references: the server reads no variable and no file for its clients",
                "send the values in `secrets` beside the spec",
            ));
        }
        let mounts = spec.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Host(path) => Some(("spec.mounts", path, path.as_str())),
            _ => None,
        });
        let image = match &spec.source {
            Source::Image(name) if name.starts_with('/') => Some((name, name.as_str())),
            Source::Image(name) => path_of_archive(name).map(|archive| (name, archive.path)),
            _ => None,
        };
        let image = image.map(|(name, path)| ("spec.source.image", name, path));
        let roots = self.0.policy.mount_roots.as_deref().unwrap_or_default();
        let is_allowed = |path: &str| {
            let path = Path::new(path);
            let climbs = path.components().any(|part| part == Component::ParentDir);
            !climbs && roots.iter().any(|root| path.starts_with(root))
        };
        let mut all = mounts.chain(image);
        let Some((field, value, _)) = all.find(|(_, _, path)| !is_allowed(path)) else {
            return Ok(());
        };
        let (expected, remedy) = if roots.is_empty() {
            (
                "nothing of the server's host: it has no `policy.mount_roots`",
                "name what may be used in `policy.mount_roots` of the server",
            )
        } else {
            (
                "a path beneath `policy.mount_roots` of the server, without `..`",
                "name one beneath them, or add its directory there",
            )
        };
        Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("{field} is `{value}`, expected {expected}; {remedy}"),
        )
        .context("field", field)
        .context("value", value)
        .context("expected", expected)
        .context("remedy", remedy))
    }

    /// What a sandbox of this spec would be made from, of what the policy allows.
    pub(crate) async fn origin_served(
        &self,
        context: &Context,
        provider: &Layered,
        spec: SandboxSpec,
    ) -> Result<String> {
        self.check_served(&spec)?;
        let spec = self.resolved(spec).await?;
        provider.origin(context, &spec).await
    }

    /// Brings an image as the policy allows it.
    pub(crate) async fn pull_served(
        &self,
        context: &Context,
        provider: &Layered,
        image: &crate::provider::PullRequest,
    ) -> Result<()> {
        let policy = &self.0.policy;
        if policy.pull == Pull::Never && image.when == Pull::Missing {
            // What is missing is told by the create.
            return Ok(());
        }
        policy.pull(Some(image.when), &image.source)?;
        // What was checked is what is opened.
        let image = crate::provider::PullRequest {
            source: policy.resolve_source(&image.source).await?,
            ..image.clone()
        };
        provider.pull(context, &image).await
    }

    /// Makes a sandbox of this id, or finds the one that an earlier call with
    /// the same spec made.
    pub(crate) async fn create_served(
        &self,
        context: &Context,
        provider: &Layered,
        id: &SandboxId,
        spec: SandboxSpec,
    ) -> Result<Observed> {
        self.check_served(&spec)?;
        let create = self
            .create(spec)
            .provider(provider.name())
            .id(id.clone())
            .idempotency_key(id.as_str())
            .context(context.clone())
            // Whoever wants it pulled has asked for that before.
            .pull(Pull::Never);
        let sandbox = create.await?;
        provider.inspect(context, sandbox.id()).await
    }

    /// The sandbox of this id, if it is on record as this provider's.
    async fn served(
        &self,
        context: &Context,
        provider: &Arc<Layered>,
        id: &SandboxId,
    ) -> Result<Option<Sandbox>> {
        let record = match self.load(context, id).await {
            Ok(record) => record,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if record.provider != provider.name() {
            return Ok(None);
        }
        let provider = Arc::clone(provider);
        Ok(Some(self.handle(provider, record.id, context.clone())))
    }

    /// Ends a sandbox of this tenant, and writes that down where it is on record.
    /// Gives whether it was this tenant's: another one's is absent, which is success.
    pub(crate) async fn destroy_served(
        &self,
        context: &Context,
        provider: &Arc<Layered>,
        id: &SandboxId,
    ) -> Result<bool> {
        if let Some(sandbox) = self.served(context, provider, id).await? {
            sandbox.kill().await?;
            return Ok(true);
        }
        // Without a record it is theirs only where the provider says so.
        match provider.inspect(context, id).await {
            Ok(seen) if seen.tenant.as_ref() == Some(&context.tenant) => {
                provider.destroy(context, id).await?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::SandboxGone => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Whether a sandbox is on record as this provider's, for this tenant.
    ///
    /// Providers find a sandbox by its id; whose it is, the record says.
    pub(crate) async fn is_served(
        &self,
        context: &Context,
        provider: &Arc<Layered>,
        id: &SandboxId,
    ) -> Result<bool> {
        Ok(self.served(context, provider, id).await?.is_some())
    }

    /// Moves the end of a sandbox's life within the policy.
    pub(crate) async fn end_served(
        &self,
        context: &Context,
        provider: &Arc<Layered>,
        id: &SandboxId,
        ends: Option<SystemTime>,
    ) -> Result<()> {
        let sandbox = self.recorded(context, provider, id).await?;
        self.set_end_at(&sandbox, ends).await
    }

    /// Has a sandbox end with this server or with nobody, and writes that down.
    pub(crate) async fn lifetime_served(
        &self,
        context: &Context,
        provider: &Arc<Layered>,
        id: &SandboxId,
        lifetime: Lifetime,
    ) -> Result<()> {
        let sandbox = self.recorded(context, provider, id).await?;
        self.set_lifetime(&sandbox, lifetime).await
    }

    /// Stops or continues a sandbox, and writes that down.
    pub(crate) async fn pause_served(
        &self,
        context: &Context,
        provider: &Arc<Layered>,
        id: &SandboxId,
        stop: bool,
    ) -> Result<()> {
        let sandbox = self.recorded(context, provider, id).await?;
        if stop {
            self.pause(&sandbox).await
        } else {
            self.resume(&sandbox).await
        }
    }

    async fn recorded(
        &self,
        context: &Context,
        provider: &Arc<Layered>,
        id: &SandboxId,
    ) -> Result<Sandbox> {
        let found = self.served(context, provider, id).await?;
        found.ok_or_else(|| crate::store::no_sandbox(id))
    }
}
