//! The files of a sandbox.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};

use futures_util::{FutureExt as _, StreamExt as _};
use napi::Env;
use napi::bindgen_prelude::{Buffer, PromiseRaw, ToNapiValue};
use napi_derive::napi;
use stacyvm::Result;
use stacyvm::sandbox::copy::CopyOptions;
use stacyvm::sandbox::exec::BoxStream;
use stacyvm::sandbox::files::{
    self, Attributes, ByteStream, ExportRequest, GuestPath, ImportRequest, WriteMode,
};
use stacyvm::sandbox::shared::Closable;
use stacyvm::sandbox::writing::Writing;

use crate::convert::{Raw, buffer, bytes, call, count, fits, mode_of, moment};
use crate::info::{EntryInfo, LeftOut, WatchEvent};

/// Attributes that are set; those left out stay.
#[napi(object, object_to_js = false)]
#[derive(Debug)]
pub struct AttributesToSet {
    /// Permission bits.
    pub mode: Option<f64>,
    /// A user name or number.
    pub owner: Option<String>,
    /// A group name or number.
    pub group: Option<String>,
    /// When the content changed last, in milliseconds since 1970.
    pub modified: Option<f64>,
}

/// The files of a sandbox, as one user.
#[napi]
#[derive(Debug)]
pub struct Files(stacyvm::Files);

impl Files {
    pub(crate) fn of(files: stacyvm::Files, user: Option<String>) -> Self {
        Self(match user {
            Some(user) => files.with_user(user),
            None => files,
        })
    }

    fn call<'env, T, U, F>(
        &self,
        env: &'env Env,
        work: impl FnOnce(stacyvm::Files) -> F,
    ) -> napi::Result<PromiseRaw<'env, T>>
    where
        T: ToNapiValue + From<U> + Send + 'static,
        F: Future<Output = Result<U>> + Send + 'static,
    {
        call(env, work(self.0.clone()))
    }
}

#[napi]
impl Files {
    /// Reads a file, or a part of it.
    #[napi]
    pub fn read<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        offset: f64,
        length: Option<f64>,
    ) -> napi::Result<PromiseRaw<'env, Buffer>> {
        let path = bytes(path);
        self.call(env, move |files| async move {
            let (offset, length) = range(offset, length)?;
            Ok(buffer(files.read_part(path, offset, length).await?))
        })
    }

    /// Reads a whole file of UTF-8 text.
    #[napi]
    pub fn read_text<'env>(
        &self,
        env: &'env Env,
        path: Raw,
    ) -> napi::Result<PromiseRaw<'env, String>> {
        let path = bytes(path);
        self.call(env, |files| async move { files.read_text(path).await })
    }

    /// Reads a file piece by piece.
    #[napi]
    pub fn open<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        offset: f64,
        length: Option<f64>,
    ) -> napi::Result<PromiseRaw<'env, Reader>> {
        let path = bytes(path);
        self.call(env, move |files| async move {
            let (offset, length) = range(offset, length)?;
            let (_, data) = files.read_range(path, offset, length).await?;
            Ok(Reader::new(data, Arc::default()))
        })
    }

    /// Writes a file in one step.
    #[napi]
    pub fn write<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        data: Raw,
        mode: Option<f64>,
    ) -> napi::Result<PromiseRaw<'env, EntryInfo>> {
        let (path, data) = (bytes(path), bytes(data));
        self.call(env, move |files| async move {
            let mode = mode_of(mode)?;
            let data = Box::pin(futures_util::stream::iter([Ok(data.into())]));
            files.write_with(path, WriteMode::Replace, mode, data).await
        })
    }

    /// Adds to the end of a file.
    #[napi]
    pub fn append<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        data: Raw,
    ) -> napi::Result<PromiseRaw<'env, EntryInfo>> {
        let (path, data) = (bytes(path), bytes(data));
        self.call(env, |files| async move { files.append(path, data).await })
    }

    /// Writes a file piece by piece; it is there when the writer is finished.
    #[napi]
    pub fn create<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        mode: Option<f64>,
    ) -> napi::Result<PromiseRaw<'env, Writer>> {
        let path = bytes(path);
        self.call(env, move |files| async move {
            let mode = mode_of(mode)?;
            Ok(Writer(Arc::new(Writing::begin(async move |data| {
                let written = files
                    .write_with(path, WriteMode::Replace, mode, data)
                    .await?;
                Ok(Some(written))
            }))))
        })
    }

    /// Sends a path as a tar stream.
    #[napi]
    pub fn export_tar<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        contents: bool,
        follow: bool,
    ) -> napi::Result<PromiseRaw<'env, Reader>> {
        let path = bytes(path);
        self.call(env, move |files| async move {
            let request = ExportRequest {
                user: None,
                path: GuestPath::new(path)?,
                contents,
                follow,
            };
            let (data, left_out) = files.export_tar_with(request).await?.into_parts();
            Ok(Reader::new(data, left_out))
        })
    }

    /// Unpacks a tar stream piece by piece; all of it is there when the writer is finished.
    #[napi]
    pub fn import_tar<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        parents: bool,
        keep_owner: bool,
    ) -> napi::Result<PromiseRaw<'env, Writer>> {
        let path = bytes(path);
        self.call(env, move |files| async move {
            let request = ImportRequest {
                user: None,
                path: GuestPath::new(path)?,
                parents,
                keep_owner,
            };
            Ok(Writer(Arc::new(Writing::begin(async move |data| {
                files.import_tar_with(request, data).await?;
                Ok(None)
            }))))
        })
    }

    /// Describes a path; a symbolic link is described itself unless it is to be followed.
    #[napi]
    pub fn info<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        follow: bool,
    ) -> napi::Result<PromiseRaw<'env, EntryInfo>> {
        let path = bytes(path);
        self.call(env, move |files| async move {
            if follow {
                files.stat_followed(path).await
            } else {
                files.stat(path).await
            }
        })
    }

    /// Whether there is something at a path.
    #[napi]
    pub fn exists<'env>(&self, env: &'env Env, path: Raw) -> napi::Result<PromiseRaw<'env, bool>> {
        let path = bytes(path);
        self.call(env, |files| async move { files.exists(path).await })
    }

    /// Lists a directory, so many levels deep.
    #[napi]
    pub fn entries<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        depth: f64,
    ) -> napi::Result<PromiseRaw<'env, Vec<EntryInfo>>> {
        let path = bytes(path);
        self.call(env, move |files| async move {
            let depth = fits("depth", depth, "a number of levels")?;
            let mut entries = files.list_depth(path, depth).await?;
            let mut all = Vec::new();
            while let Some(entry) = entries.next().await {
                all.push(EntryInfo::from(entry?));
            }
            Ok(all)
        })
    }

    /// Finds paths by an absolute shell pattern.
    #[napi]
    pub fn glob<'env>(
        &self,
        env: &'env Env,
        pattern: Raw,
    ) -> napi::Result<PromiseRaw<'env, Vec<EntryInfo>>> {
        let pattern = bytes(pattern);
        self.call(env, |files| async move {
            let found = files.glob(pattern).await?;
            Ok(found.into_iter().map(EntryInfo::from).collect::<Vec<_>>())
        })
    }

    /// Makes a directory and the missing ones above it.
    #[napi]
    pub fn make_dir<'env>(&self, env: &'env Env, path: Raw) -> napi::Result<PromiseRaw<'env, ()>> {
        let path = bytes(path);
        self.call(env, |files| async move { files.make_dir(path).await })
    }

    /// Moves a path.
    #[napi]
    pub fn rename<'env>(
        &self,
        env: &'env Env,
        from: Raw,
        to: Raw,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        let (from, to) = (bytes(from), bytes(to));
        self.call(env, |files| async move { files.rename(from, to).await })
    }

    /// Removes a file, or a directory with what is in it.
    #[napi]
    pub fn remove<'env>(&self, env: &'env Env, path: Raw) -> napi::Result<PromiseRaw<'env, ()>> {
        let path = bytes(path);
        self.call(env, |files| async move { files.remove(path).await })
    }

    /// Sets attributes, of everything below as well if `recursive`.
    #[napi]
    pub fn set_attributes<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        set: AttributesToSet,
        recursive: bool,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        let path = bytes(path);
        self.call(env, move |files| async move {
            let attributes = Attributes {
                mode: mode_of(set.mode)?,
                owner: set.owner,
                group: set.group,
                modified: set.modified.map(moment).transpose()?,
            };
            files.set_attributes(path, attributes, recursive).await
        })
    }

    /// Makes a symbolic link.
    #[napi]
    pub fn symlink<'env>(
        &self,
        env: &'env Env,
        target: Raw,
        path: Raw,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        let (target, path) = (bytes(target), bytes(path));
        self.call(env, |files| async move { files.link(target, path).await })
    }

    /// Reports changes of a path.
    #[napi]
    pub fn watch<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        recursive: bool,
    ) -> napi::Result<PromiseRaw<'env, Watch>> {
        let path = bytes(path);
        self.call(env, move |files| async move {
            let events = files.watch(path, recursive).await?;
            Ok(Watch(Arc::new(Closable::new(events))))
        })
    }

    /// Copies a file or directory of the host into the sandbox; gives what was left out.
    #[napi]
    pub fn upload<'env>(
        &self,
        env: &'env Env,
        local: String,
        path: Raw,
    ) -> napi::Result<PromiseRaw<'env, LeftOut>> {
        let path = bytes(path);
        let options = CopyOptions::default();
        self.call(env, |files| async move {
            files.copy_in(local, path, options).await
        })
    }

    /// Copies a file or directory of the sandbox to the host; gives what was left out.
    #[napi]
    pub fn download<'env>(
        &self,
        env: &'env Env,
        path: Raw,
        local: String,
    ) -> napi::Result<PromiseRaw<'env, LeftOut>> {
        let path = bytes(path);
        let options = CopyOptions::default();
        self.call(env, |files| async move {
            files.copy_out(path, local, options).await
        })
    }
}

/// The part of a file that is read.
fn range(offset: f64, length: Option<f64>) -> Result<(u64, Option<u64>)> {
    let length = length.map(|length| count("length", length)).transpose()?;
    Ok((count("offset", offset)?, length))
}

/// A file or an archive that is read piece by piece.
#[napi]
pub struct Reader {
    data: Arc<Closable<ByteStream>>,
    left_out: Arc<OnceLock<files::LeftOut>>,
}

impl Reader {
    fn new(data: ByteStream, left_out: Arc<OnceLock<files::LeftOut>>) -> Self {
        let data = Arc::new(Closable::new(data));
        Self { data, left_out }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

#[napi]
impl Reader {
    /// The next piece; null after the last, and once it is closed.
    #[napi]
    pub fn next<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, Option<Buffer>>> {
        let reader = Arc::clone(&self.data);
        call(env, async move {
            let piece = reader.with(|data| Box::pin(data.next())).await.flatten();
            Ok(piece.transpose()?.map(buffer))
        })
    }

    /// What the archive does not hold, as far as it is known.
    #[napi]
    pub fn left_out(&self) -> LeftOut {
        self.left_out.get().cloned().unwrap_or_default().into()
    }

    /// Lets go of it, also where somebody waits for its next piece.
    #[napi]
    pub fn close<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let reader = Arc::clone(&self.data);
        call(env, async move {
            reader.close().await;
            Ok(())
        })
    }
}

/// A file or an archive that is written piece by piece. One that is dropped leaves the
/// old file.
#[napi]
#[derive(Debug)]
pub struct Writer(Arc<Writing<Option<files::FileEntry>>>);

#[napi]
impl Writer {
    /// Writes a piece; waits while the sandbox is behind. False once it takes no more,
    /// which `finish` explains.
    #[napi]
    pub fn write<'env>(&self, env: &'env Env, data: Raw) -> napi::Result<PromiseRaw<'env, bool>> {
        let (writer, data) = (Arc::clone(&self.0), bytes(data));
        call(env, async move { Ok(writer.send(data).await) })
    }

    /// Has done what is done with all of it, and describes the file that it made.
    #[napi]
    pub fn finish<'env>(
        &self,
        env: &'env Env,
    ) -> napi::Result<PromiseRaw<'env, Option<EntryInfo>>> {
        let writer = Arc::clone(&self.0);
        call(env, async move {
            Ok(writer.finish().await?.map(EntryInfo::from))
        })
    }

    /// Leaves the old file.
    #[napi]
    pub fn abandon<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let writer = Arc::clone(&self.0);
        call(env, async move {
            writer.abandon().await;
            Ok(())
        })
    }
}

/// What a watch reports.
#[napi]
#[derive(Debug)]
pub struct Watch(Arc<Closable<BoxStream<Result<stacyvm::sandbox::files::WatchEvent>>>>);

#[napi]
impl Watch {
    /// The next change; null after the end of the watch.
    #[napi]
    pub fn next<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, Option<WatchEvent>>> {
        let watch = Arc::clone(&self.0);
        call(env, async move {
            let event = watch.with(|events| Box::pin(events.next()));
            Ok(event.await.flatten().transpose()?.map(WatchEvent::from))
        })
    }

    /// The changes that are there now.
    #[napi]
    pub fn take<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, Vec<WatchEvent>>> {
        let watch = Arc::clone(&self.0);
        call(env, async move {
            let there = watch.with(|events| {
                Box::pin(async move {
                    let mut there = Vec::new();
                    while let Some(Some(event)) = events.next().now_or_never() {
                        there.push(WatchEvent::from(event?));
                    }
                    Ok(there)
                })
            });
            there.await.unwrap_or_else(|| Ok(Vec::new()))
        })
    }

    /// Ends it, and a wait for its next change.
    #[napi]
    pub fn stop<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let watch = Arc::clone(&self.0);
        call(env, async move {
            watch.close().await;
            Ok(())
        })
    }
}
