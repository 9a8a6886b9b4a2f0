//! The files of a sandbox.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::{FutureExt as _, StreamExt as _};
use pyo3::prelude::*;
use stacyvm::sandbox::copy::CopyOptions;
use stacyvm::sandbox::exec::BoxStream;
use stacyvm::sandbox::files::{
    self, Attributes, ByteStream, ExportRequest, GuestPath, ImportRequest, WriteMode,
};
use stacyvm::sandbox::shared::Closable;
use stacyvm::sandbox::writing::Writing;
use stacyvm::{Error, ErrorKind, Result};

use crate::convert::{BYTES, Bytes, Moment, Nothing, Raw, Whole};
use crate::forked::OfProcess;
use crate::info::{EntryInfo, LeftOut, WatchEvent};
use crate::pending::Call;
use crate::sandbox::Place;

/// The files of a sandbox, as one user.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Files {
    place: Arc<Place>,
    user: Option<String>,
}

impl Files {
    pub(crate) fn of(place: Arc<Place>, user: Option<String>) -> Self {
        Self { place, user }
    }

    fn call<T, U, F>(&self, work: impl FnOnce(stacyvm::Files) -> F + Send + 'static) -> Call<T>
    where
        T: for<'py> IntoPyObject<'py> + From<U> + Send + 'static,
        F: Future<Output = Result<U>> + Send + 'static,
    {
        let (place, user) = (Arc::clone(&self.place), self.user.clone());
        Call::new(async move {
            let files = place.sandbox().await?.files();
            work(match user {
                Some(user) => files.with_user(user),
                None => files,
            })
            .await
        })
    }
}

#[pymethods]
impl Files {
    /// Reads a file, or a part of it.
    #[pyo3(signature = (path, offset=None, length=None))]
    fn read(&self, path: Raw, offset: Option<Whole>, length: Option<Whole>) -> Call<Bytes> {
        self.call(move |files| async move {
            let (offset, length) = range(offset, length)?;
            files.read_part(path.0, offset, length).await
        })
    }

    /// Reads a whole file of UTF-8 text.
    fn read_text(&self, path: Raw) -> Call<String> {
        self.call(|files| async move { files.read_text(path.0).await })
    }

    /// Reads a file piece by piece.
    #[pyo3(signature = (path, offset=None, length=None))]
    fn open(&self, path: Raw, offset: Option<Whole>, length: Option<Whole>) -> Call<Reader> {
        self.call(move |files| async move {
            let (offset, length) = range(offset, length)?;
            let (_, data) = files.read_range(path.0, offset, length).await?;
            Ok(Reader::new(data, Arc::default()))
        })
    }

    /// Writes a file in one step.
    #[pyo3(signature = (path, data, mode=None))]
    fn write(&self, path: Raw, data: Raw, mode: Option<Whole>) -> Call<EntryInfo> {
        self.call(move |files| async move {
            let mode = mode_of(mode)?;
            let data = Box::pin(futures_util::stream::iter([Ok(data.0.into())]));
            files
                .write_with(path.0, WriteMode::Replace, mode, data)
                .await
        })
    }

    /// Adds to the end of a file.
    fn append(&self, path: Raw, data: Raw) -> Call<EntryInfo> {
        self.call(move |files| async move { files.append(path.0, data.0).await })
    }

    /// Writes a file piece by piece; it is there when the writer is finished.
    #[pyo3(signature = (path, mode=None))]
    fn create(&self, path: Raw, mode: Option<Whole>) -> Call<Writer> {
        self.call(move |files| async move {
            let mode = mode_of(mode)?;
            Ok(Writer(Arc::new(OfProcess::new(Writing::begin(
                async move |data| {
                    let how = WriteMode::Replace;
                    let written = files.write_with(path.0, how, mode, data).await?;
                    Ok(Some(written))
                },
            )))))
        })
    }

    /// Sends a path as a tar stream.
    fn export_tar(&self, path: Raw, contents: bool, follow: bool) -> Call<Reader> {
        self.call(move |files| async move {
            let request = ExportRequest {
                user: None,
                path: GuestPath::new(path.0)?,
                contents,
                follow,
            };
            let (data, left_out) = files.export_tar_with(request).await?.into_parts();
            Ok(Reader::new(data, left_out))
        })
    }

    /// Unpacks a tar stream piece by piece; all of it is there when the writer is finished.
    fn import_tar(&self, path: Raw, parents: bool, keep_owner: bool) -> Call<Writer> {
        self.call(move |files| async move {
            let request = ImportRequest {
                user: None,
                path: GuestPath::new(path.0)?,
                parents,
                keep_owner,
            };
            Ok(Writer(Arc::new(OfProcess::new(Writing::begin(
                async move |data| {
                    files.import_tar_with(request, data).await?;
                    Ok(None)
                },
            )))))
        })
    }

    /// Describes a path; a symbolic link is described itself unless it is to be followed.
    #[pyo3(signature = (path, follow=false))]
    fn info(&self, path: Raw, follow: bool) -> Call<EntryInfo> {
        self.call(move |files| async move {
            if follow {
                files.stat_followed(path.0).await
            } else {
                files.stat(path.0).await
            }
        })
    }

    /// Whether there is something at a path.
    fn exists(&self, path: Raw) -> Call<bool> {
        self.call(|files| async move { files.exists(path.0).await })
    }

    /// Lists a directory, so many levels deep.
    fn entries(&self, path: Raw, depth: Whole) -> Call<Vec<EntryInfo>> {
        self.call(move |files| async move {
            let depth: u32 = depth.fits("depth", "a number of levels")?;
            let mut entries = files.list_depth(path.0, depth).await?;
            let mut all = Vec::new();
            while let Some(entry) = entries.next().await {
                all.push(entry?.into());
            }
            Ok(all)
        })
    }

    /// Finds paths by an absolute shell pattern.
    fn glob(&self, pattern: Raw) -> Call<Vec<EntryInfo>> {
        self.call(|files| async move {
            Ok(files
                .glob(pattern.0)
                .await?
                .into_iter()
                .map(Into::into)
                .collect::<Vec<_>>())
        })
    }

    /// Makes a directory and the missing ones above it.
    fn make_dir(&self, path: Raw) -> Call<Nothing> {
        self.call(|files| async move { files.make_dir(path.0).await })
    }

    /// Moves a path.
    fn rename(&self, old: Raw, new: Raw) -> Call<Nothing> {
        self.call(|files| async move { files.rename(old.0, new.0).await })
    }

    /// Removes a file, or a directory with what is in it.
    fn remove(&self, path: Raw) -> Call<Nothing> {
        self.call(|files| async move { files.remove(path.0).await })
    }

    /// Sets permission bits, owner, group and the time of the last change, of everything
    /// below as well if `recursive`.
    #[pyo3(signature = (path, *, recursive, mode=None, owner=None, group=None, modified=None))]
    fn set_attributes(
        &self,
        path: Raw,
        recursive: bool,
        mode: Option<Whole>,
        owner: Option<String>,
        group: Option<String>,
        modified: Option<Moment>,
    ) -> Call<Nothing> {
        self.call(move |files| async move {
            let attributes = Attributes {
                mode: mode_of(mode)?,
                owner,
                group,
                modified: modified.map(|moment| moment.0),
            };
            files.set_attributes(path.0, attributes, recursive).await
        })
    }

    /// Makes a symbolic link.
    fn symlink(&self, target: Raw, path: Raw) -> Call<Nothing> {
        self.call(|files| async move { files.link(target.0, path.0).await })
    }

    /// Reports changes of a path.
    #[pyo3(signature = (path, recursive=false))]
    fn watch(&self, path: Raw, recursive: bool) -> Call<Watch> {
        self.call(move |files| async move {
            let events = files.watch(path.0, recursive).await?;
            Ok(Watch(Arc::new(OfProcess::new(Closable::new(events)))))
        })
    }

    /// Copies a file or directory of the host into the sandbox; gives what was left out.
    fn upload(&self, local: PathBuf, path: Raw) -> Call<LeftOut> {
        self.call(|files| async move { files.copy_in(local, path.0, CopyOptions::default()).await })
    }

    /// Copies a file or directory of the sandbox to the host; gives what was left out.
    fn download(&self, path: Raw, local: PathBuf) -> Call<LeftOut> {
        self.call(
            |files| async move { files.copy_out(path.0, local, CopyOptions::default()).await },
        )
    }
}

/// The part of a file that is read.
fn range(offset: Option<Whole>, length: Option<Whole>) -> Result<(u64, Option<u64>)> {
    let length = length.map(|length| length.fits("length", BYTES));
    let offset = offset.map_or(Ok(0), |offset| offset.fits("offset", BYTES));
    Ok((offset?, length.transpose()?))
}

/// The permission bits of a file.
fn mode_of(mode: Option<Whole>) -> Result<Option<u32>> {
    let mode = mode.map(|mode| mode.fits("mode", "permission bits, at most 0o7777"));
    mode.transpose()
}

fn of_another_process() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "this was opened by the process that forked this one; open it again",
    )
}

/// A file or an archive that is read piece by piece.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Reader {
    data: Arc<OfProcess<Closable<ByteStream>>>,
    ended: Arc<AtomicBool>,
    left_out: Arc<OnceLock<files::LeftOut>>,
}

impl Reader {
    fn new(data: ByteStream, left_out: Arc<OnceLock<files::LeftOut>>) -> Self {
        Self {
            data: Arc::new(OfProcess::new(Closable::new(data))),
            ended: Arc::default(),
            left_out,
        }
    }
}

#[pymethods]
impl Reader {
    /// The next piece; `None` after the last. What was closed, or broke off, has no end.
    fn next(&self) -> Call<Option<Bytes>> {
        let (reader, ended) = (Arc::clone(&self.data), Arc::clone(&self.ended));
        Call::new(async move {
            let data = reader.get().ok_or_else(of_another_process)?;
            if ended.load(Ordering::Acquire) {
                return Ok(None);
            }
            let piece = data
                .with(|data| Box::pin(data.next()))
                .await
                .ok_or_else(|| Error::new(ErrorKind::Conflict, "this was closed before its end"))?;
            match &piece {
                Some(Ok(_)) => {}
                Some(Err(_)) => data.close().await,
                None => ended.store(true, Ordering::Release),
            }
            Ok(piece.transpose()?.map(Bytes))
        })
    }

    /// What the archive does not hold, as far as it is known.
    fn left_out(&self) -> LeftOut {
        self.left_out.get().cloned().unwrap_or_default().into()
    }

    /// Lets go of it, also where somebody waits for its next piece.
    fn close(&self) -> Call<Nothing> {
        let reader = Arc::clone(&self.data);
        Call::new(async move {
            if let Some(data) = reader.get() {
                data.close().await;
            }
            Ok(())
        })
    }
}

/// A file or an archive that is written piece by piece. One that is dropped leaves the
/// old file.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Writer(Arc<OfProcess<Writing<Option<files::FileEntry>>>>);

#[pymethods]
impl Writer {
    /// Writes a piece; waits while the sandbox is behind. False once it takes no more,
    /// which `finish` explains.
    fn write(&self, data: Raw) -> Call<bool> {
        let writer = Arc::clone(&self.0);
        Call::new(async move {
            let writing = writer.get().ok_or_else(of_another_process)?;
            Ok(writing.send(data.0).await)
        })
    }

    /// Has done what is done with all of it, and describes the file that it made.
    fn finish(&self) -> Call<Option<EntryInfo>> {
        let writer = Arc::clone(&self.0);
        Call::new(async move {
            let writing = writer.get().ok_or_else(of_another_process)?;
            Ok(writing.finish().await?.map(Into::into))
        })
    }

    /// Leaves the old file.
    fn abandon(&self) -> Call<Nothing> {
        let writer = Arc::clone(&self.0);
        Call::new(async move {
            let writing = writer.get().ok_or_else(of_another_process)?;
            writing.abandon().await;
            Ok(())
        })
    }
}

type Events = BoxStream<Result<stacyvm::sandbox::files::WatchEvent>>;

/// What a watch reports.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Watch(Arc<OfProcess<Closable<Events>>>);

#[pymethods]
impl Watch {
    /// The next change; `None` after the end of the watch.
    fn next(&self) -> Call<Option<WatchEvent>> {
        let watch = Arc::clone(&self.0);
        Call::new(async move {
            let watch = watch.get().ok_or_else(of_another_process)?;
            let event = watch.with(|events| Box::pin(events.next()));
            Ok(event.await.flatten().transpose()?.map(Into::into))
        })
    }

    /// The changes that are there now.
    fn take(&self) -> Call<Vec<WatchEvent>> {
        let watch = Arc::clone(&self.0);
        Call::new(async move {
            let watch = watch.get().ok_or_else(of_another_process)?;
            let there = watch.with(|events| {
                Box::pin(async move {
                    let mut there = Vec::new();
                    while let Some(Some(event)) = events.next().now_or_never() {
                        there.push(event?.into());
                    }
                    Ok(there)
                })
            });
            there.await.unwrap_or_else(|| Ok(Vec::new()))
        })
    }

    /// Ends it, also where somebody waits for its next change.
    fn stop(&self) -> Call<Nothing> {
        let watch = Arc::clone(&self.0);
        Call::new(async move {
            if let Some(watch) = watch.get() {
                watch.close().await;
            }
            Ok(())
        })
    }
}
