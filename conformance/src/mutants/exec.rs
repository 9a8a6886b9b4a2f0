//! Lies about commands.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use stacyvm::context::Context;
use stacyvm::provider::Provider;
use stacyvm::sandbox::exec::{
    BoxStream, ExecControl, ExecEvent, ExecSession, ExecSpec, ExitStatus, SignalScope, TtySize,
};
use stacyvm::{ErrorKind, Result, SandboxId};

use super::Lie;

const CUT: usize = 64 << 10;

/// What is asked instead of what the caller asked.
pub(super) fn asked(lie: Lie, spec: &ExecSpec) -> ExecSpec {
    let mut spec = spec.clone();
    match lie {
        Lie::IgnoresEnv => spec.env.clear(),
        Lie::IgnoresUser => spec.user = None,
        Lie::IgnoresWorkdir => spec.workdir = None,
        Lie::IgnoresTimeout | Lie::LeavesTreeOnTimeout => spec.timeout = None,
        Lie::IgnoresArguments => spec.argv.truncate(2),
        Lie::OpensStdin => spec.stdin = true,
        Lie::IgnoresExecId => spec.exec = stacyvm::ExecId::random(),
        Lie::PassesEnvironment => {
            let host = std::env::vars_os();
            let text = host.filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.into_string().ok()?))
            });
            let known: Vec<String> = spec.env.iter().map(|(name, _)| name.clone()).collect();
            let new = text.filter(|(name, _)| name != "PATH" && !known.contains(name));
            spec.env.extend(new);
        }
        Lie::LeaksDescriptors => through(&mut spec, "exec 9</dev/null; exec \"$@\""),
        Lie::EndsWithOutput => through(
            &mut spec,
            "p=/tmp/$$.pipe; mkfifo $p; \"$@\" >$p & exec cat $p",
        ),
        _ => {}
    }
    spec
}

/// Has a shell run a line that runs the command.
pub(super) fn through(spec: &mut ExecSpec, line: &str) {
    let shell = ExecSpec::new(["sh", "-c", line, "sh"]).argv;
    spec.argv.splice(0..0, shell);
}

/// A session of a command that never started.
pub(super) fn ended(spec: &ExecSpec, status: ExitStatus) -> ExecSession {
    ExecSession {
        exec: spec.exec.clone(),
        pid: None,
        events: Box::pin(stream::iter([Ok(ExecEvent::Exited(status))])),
        control: Arc::new(Nobody),
    }
}

/// Lies about the outcome of a start.
pub(super) fn started(
    lie: Lie,
    spec: &ExecSpec,
    result: Result<ExecSession>,
) -> Result<ExecSession> {
    match (lie, &result) {
        (Lie::NotFoundIsAnExit, Err(error)) if error.kind() == ErrorKind::CommandNotFound => {
            Ok(ended(spec, ExitStatus::Code { code: 127 }))
        }
        (Lie::RunsAfterDestroy, Err(error))
            if matches!(error.kind(), ErrorKind::SandboxGone | ErrorKind::NotFound) =>
        {
            Ok(ended(spec, ExitStatus::Code { code: 0 }))
        }
        (Lie::HidesLongNames, Err(_)) if spec.argv.iter().any(|word| word.len() >= 65_536) => Err(
            stacyvm::Error::new(ErrorKind::Internal, "the supervisor ended early"),
        ),
        _ => result,
    }
}

/// Lies about a session.
pub(super) fn told(
    lie: Lie,
    inner: &Arc<dyn Provider>,
    cx: &Context,
    id: &SandboxId,
    spec: &ExecSpec,
    session: ExecSession,
) -> ExecSession {
    let ExecSession {
        exec,
        pid,
        events,
        control,
    } = session;
    let events: BoxStream<Result<ExecEvent>> = match lie {
        Lie::LosesLastByte => last_byte_lost(events),
        Lie::EndsBeforeOutput => end_first(events),
        Lie::EndsTwice => Box::pin(events.flat_map(|event| {
            let again = matches!(event, Ok(ExecEvent::Exited(_))).then(|| match &event {
                Ok(event) => Ok(event.clone()),
                Err(_) => unreachable!("it is an exit"),
            });
            stream::iter([Some(event), again].into_iter().flatten())
        })),
        Lie::NeverEnds => {
            Box::pin(events.filter(|e| std::future::ready(!matches!(e, Ok(ExecEvent::Exited(_))))))
        }
        Lie::HidesLoss => Box::pin(
            events.filter(|e| std::future::ready(!matches!(e, Ok(ExecEvent::Lost { .. })))),
        ),
        Lie::RepeatsOutput => {
            let mut first = true;
            Box::pin(events.flat_map(move |event| {
                let again = match &event {
                    Ok(event @ (ExecEvent::Stdout(_) | ExecEvent::Stderr(_))) if first => {
                        first = false;
                        Some(Ok(event.clone()))
                    }
                    _ => None,
                };
                stream::iter([again, Some(event)].into_iter().flatten())
            }))
        }
        Lie::WaitsForServers => {
            let (inner, cx, id, exec) = (Arc::clone(inner), cx.clone(), id.clone(), exec.clone());
            Box::pin(events.then(move |event| {
                let (inner, cx, id, exec) =
                    (Arc::clone(&inner), cx.clone(), id.clone(), exec.clone());
                async move {
                    if matches!(event, Ok(ExecEvent::Exited(_))) {
                        wait_for_survivors(&inner, &cx, &id, &exec).await;
                    }
                    event
                }
            }))
        }
        Lie::LeavesTreeOnDrop => Box::pin(Kept(Some(events))),
        Lie::LeavesTreeOnTimeout if spec.timeout.is_some() => {
            let limit = tokio::time::sleep(spec.timeout.unwrap_or_default());
            Box::pin(Timed {
                events: Kept(Some(events)),
                limit: Box::pin(limit),
                over: false,
            })
        }
        _ => Box::pin(events.map(move |event| event.map(|event| changed(lie, event)))),
    };
    let control: Arc<dyn ExecControl> = Arc::new(Hand {
        inner: control,
        lie,
        passed: AtomicUsize::new(0),
    });
    ExecSession {
        exec,
        pid,
        events,
        control,
    }
}

async fn wait_for_survivors(
    inner: &Arc<dyn Provider>,
    cx: &Context,
    id: &SandboxId,
    exec: &stacyvm::ExecId,
) {
    loop {
        let execs = inner.list_execs(cx, id).await.unwrap_or_default();
        let known = execs.iter().find(|known| known.exec == *exec);
        if known.is_none_or(|known| known.processes == 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn changed(lie: Lie, event: ExecEvent) -> ExecEvent {
    let exited = |status| ExecEvent::Exited(status);
    let zero = ExitStatus::Code { code: 0 };
    match (lie, event) {
        (Lie::SwapsStreams, ExecEvent::Stdout(bytes)) => ExecEvent::Stderr(bytes),
        (Lie::SwapsStreams, ExecEvent::Stderr(bytes)) => ExecEvent::Stdout(bytes),
        (Lie::BreaksBytes, ExecEvent::Stdout(bytes)) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            ExecEvent::Stdout(Bytes::from(text))
        }
        (Lie::HidesCodes, ExecEvent::Exited(ExitStatus::Code { .. }))
        | (Lie::HidesSignals, ExecEvent::Exited(ExitStatus::Signal { .. })) => exited(zero),
        (Lie::HidesTimeouts, ExecEvent::Exited(ExitStatus::TimedOut { .. }))
        | (Lie::HidesLackOfMemory, ExecEvent::Exited(ExitStatus::OutOfMemory)) => {
            exited(ExitStatus::Signal { signal: 9 })
        }
        (Lie::InventsTimeouts, ExecEvent::Exited(ExitStatus::Signal { .. })) => {
            exited(ExitStatus::TimedOut {
                sandbox_ended: false,
            })
        }
        (_, event) => event,
    }
}

fn last_byte_lost(events: BoxStream<Result<ExecEvent>>) -> BoxStream<Result<ExecEvent>> {
    let mut held: Option<Bytes> = None;
    Box::pin(events.flat_map(move |event| {
        let mut out = Vec::new();
        match event {
            Ok(ExecEvent::Stdout(bytes)) => {
                if let Some(before) = held.replace(bytes) {
                    out.push(Ok(ExecEvent::Stdout(before)));
                }
            }
            Ok(ExecEvent::Exited(status)) => {
                if let Some(last) = held.take() {
                    let kept = last.len().saturating_sub(1);
                    out.push(Ok(ExecEvent::Stdout(last.slice(..kept))));
                }
                out.push(Ok(ExecEvent::Exited(status)));
            }
            other => out.push(other),
        }
        stream::iter(out)
    }))
}

/// The last piece of output comes after the end.
fn end_first(events: BoxStream<Result<ExecEvent>>) -> BoxStream<Result<ExecEvent>> {
    let mut held: Option<Result<ExecEvent>> = None;
    Box::pin(events.flat_map(move |event| {
        let out = match event {
            Ok(ExecEvent::Exited(_)) => vec![Some(event), held.take()],
            other => vec![held.replace(other)],
        };
        stream::iter(out.into_iter().flatten())
    }))
}

/// Events that go on being read when nobody wants them any more.
struct Kept(Option<BoxStream<Result<ExecEvent>>>);

impl Stream for Kept {
    type Item = Result<ExecEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<Self::Item>> {
        let Some(events) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let event = std::task::ready!(events.as_mut().poll_next(cx));
        if event.is_none() {
            self.0 = None;
        }
        Poll::Ready(event)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let (Some(mut events), Ok(runtime)) =
            (self.0.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { while events.next().await.is_some() {} });
        }
    }
}

/// Tells a timeout, and leaves the command running.
struct Timed {
    events: Kept,
    limit: Pin<Box<tokio::time::Sleep>>,
    over: bool,
}

impl Stream for Timed {
    type Item = Result<ExecEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(event) = Pin::new(&mut self.events).poll_next(cx) {
            return Poll::Ready(event);
        }
        std::task::ready!(self.limit.as_mut().poll(cx));
        self.over = true;
        Poll::Ready(Some(Ok(ExecEvent::Exited(ExitStatus::TimedOut {
            sandbox_ended: false,
        }))))
    }
}

/// The control of a command, with lies.
#[derive(Debug)]
struct Hand {
    inner: Arc<dyn ExecControl>,
    lie: Lie,
    passed: AtomicUsize,
}

#[async_trait]
impl ExecControl for Hand {
    async fn write_stdin(&self, data: Bytes) -> Result<()> {
        match self.lie {
            Lie::LosesStdin => Ok(()),
            Lie::CutsStdin => {
                let before = self.passed.fetch_add(data.len(), Ordering::Relaxed);
                let room = CUT.saturating_sub(before).min(data.len());
                self.inner.write_stdin(data.slice(..room)).await
            }
            _ => self.inner.write_stdin(data).await,
        }
    }

    async fn close_stdin(&self) -> Result<()> {
        match self.lie {
            Lie::KeepsStdinOpen => Ok(()),
            _ => self.inner.close_stdin().await,
        }
    }

    async fn signal(&self, signal: i32, scope: SignalScope) -> Result<()> {
        match self.lie {
            Lie::IgnoresSignals => Ok(()),
            Lie::SignalsFirstProcess => self.inner.signal(signal, SignalScope::Process).await,
            _ => self.inner.signal(signal, scope).await,
        }
    }

    async fn resize(&self, size: TtySize) -> Result<()> {
        self.inner.resize(size).await
    }
}

/// The control of a command that is none.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl ExecControl for Nobody {
    async fn write_stdin(&self, _: Bytes) -> Result<()> {
        Ok(())
    }

    async fn close_stdin(&self) -> Result<()> {
        Ok(())
    }

    async fn signal(&self, _: i32, _: SignalScope) -> Result<()> {
        Ok(())
    }

    async fn resize(&self, _: TtySize) -> Result<()> {
        Ok(())
    }
}
