//! What commands wrote, read again.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;

use super::exec::{BoxStream, ExecEvent, ExecInfo, LogOptions};
use super::handle::Sandbox;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ExecId;

/// How often commands that started since are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Commands that are read at once; others wait. An agent has fewer streams on
/// a connection, so that only one that makes up commands gets here.
const MAX_AT_ONCE: usize = 1024;

/// Which output is read, to build with [`Sandbox::logs`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogsRequest {
    /// Of this command; of all that are known if none.
    pub exec: Option<ExecId>,
    /// Whether what comes is read too. It ends when nothing of the command
    /// runs; of all commands, when the sandbox ends.
    pub follow: bool,
    /// What was written before this time is left out, to about a tenth of a
    /// second; of a command that writes much, to one part in 128 of what is kept.
    /// Of a command that starts while one follows, everything is read.
    pub since: Option<SystemTime>,
}

/// Something of a command's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// The command.
    pub exec: ExecId,
    /// Output, output that is lost, or the command's end, which is its last. A
    /// command that runs has no end unless it is followed.
    pub event: ExecEvent,
}

/// Kept output as it is read: see [`Sandbox::logs`].
pub struct Logs {
    sandbox: Sandbox,
    follow: bool,
    since: Option<SystemTime>,
    /// Those of the last look, and those that are read still, oldest first.
    commands: Vec<ExecInfo>,
    /// Commands that are not read yet, and since when.
    next: VecDeque<(ExecId, Option<SystemTime>)>,
    streams: SelectAll<BoxStream<Step>>,
    /// Whose streams these are.
    open: HashSet<ExecId>,
    /// When commands that started since are looked for; none where one is named.
    look: Option<tokio::time::Interval>,
}

/// What comes from the stream of a command.
enum Step {
    Event(Result<LogEvent>),
    /// Nothing more.
    Over(ExecId),
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs")
            .field("sandbox", self.sandbox.id())
            .field("commands", &self.commands.len())
            .finish_non_exhaustive()
    }
}

impl Logs {
    pub(super) async fn open(sandbox: Sandbox, request: LogsRequest) -> Result<Self> {
        let mut logs = Self {
            sandbox,
            follow: request.follow,
            since: request.since,
            commands: Vec::new(),
            next: VecDeque::new(),
            streams: SelectAll::new(),
            open: HashSet::new(),
            look: None,
        };
        logs.look_for_commands().await?;
        // Whatever else is found later started later.
        logs.since = None;
        if let Some(exec) = request.exec {
            logs.next = VecDeque::from([(logs.find(&exec)?, request.since)]);
        } else if request.follow {
            let mut look = tokio::time::interval(LOOK_AGAIN);
            look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            logs.look = Some(look);
        }
        Ok(logs)
    }

    /// The commands that the sandbox ran or remembered when they were last
    /// looked for, and those that are read still, oldest first.
    pub fn commands(&self) -> &[ExecInfo] {
        &self.commands
    }

    /// What comes next; `None` at the end.
    ///
    /// # Errors
    ///
    /// `sandbox_gone` where the sandbox ended before all was read, `unavailable`.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost: the next call goes on.
    pub async fn next(&mut self) -> Result<Option<LogEvent>> {
        loop {
            let most = if self.follow { MAX_AT_ONCE } else { 1 };
            while self.streams.len() < most
                && let Some((exec, since)) = self.next.front().cloned()
            {
                self.read(exec, since).await?;
                self.next.pop_front();
            }
            if self.streams.is_empty() && self.look.is_none() {
                return Ok(None);
            }
            tokio::select! {
                biased;
                Some(step) = self.streams.next() => match step {
                    Step::Event(event) => return event.map(Some),
                    Step::Over(exec) => drop(self.open.remove(&exec)),
                },
                () = tick(&mut self.look), if self.look.is_some() => match self.look_for_commands().await {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::SandboxGone => return Ok(None),
                    Err(error) => return Err(error),
                },
                // The last stream ended, and nothing is looked for.
                else => {}
            }
        }
    }

    /// Nothing is kept of a command that the sandbox has forgotten and that is
    /// read to its end.
    async fn look_for_commands(&mut self) -> Result<()> {
        let found = self.sandbox.execs().await?;
        let exists: HashSet<&ExecId> = found.iter().map(|info| &info.exec).collect();
        self.next.retain(|(exec, _)| exists.contains(exec));
        let mut known: HashSet<ExecId> =
            self.commands.iter().map(|info| info.exec.clone()).collect();
        self.commands
            .retain(|info| exists.contains(&info.exec) || self.open.contains(&info.exec));
        for info in found {
            if known.insert(info.exec.clone()) {
                self.next.push_back((info.exec.clone(), self.since));
                self.commands.push(info);
            }
        }
        Ok(())
    }

    /// The command of this id, or of an id that begins so.
    fn find(&self, wanted: &ExecId) -> Result<ExecId> {
        let mut alike = self
            .commands
            .iter()
            .map(|info| &info.exec)
            .filter(|exec| exec.as_str().starts_with(wanted.as_str()));
        match (alike.next(), alike.next()) {
            _ if self.commands.iter().any(|info| info.exec == *wanted) => Ok(wanted.clone()),
            (Some(exec), None) => Ok(exec.clone()),
            (None, _) => Err(Error::new(
                ErrorKind::NotFound,
                format!("no command {wanted} runs or is remembered in the sandbox, expected one that `ps` or `logs` names"),
            )
            .context("field", "process")
            .context("value", wanted)),
            (Some(one), Some(two)) => Err(Error::new(
                ErrorKind::Conflict,
                format!("{wanted} is the beginning of several commands, among them {one} and {two}; give more of the id"),
            )
            .context("field", "process")
            .context("value", wanted)),
        }
    }

    async fn read(&mut self, exec: ExecId, since: Option<SystemTime>) -> Result<()> {
        let options = LogOptions {
            follow: self.follow,
            // As old as it is by now: others may have been read before.
            age: since.map(|since| SystemTime::now().duration_since(since).unwrap_or_default()),
        };
        let stream = match self.sandbox.read_log(&exec, options).await {
            Ok(stream) => stream,
            // It was forgotten since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        self.open.insert(exec.clone());
        let over = Step::Over(exec.clone());
        let events = stream.map(move |event| {
            Step::Event(event.map(|event| LogEvent {
                exec: exec.clone(),
                event,
            }))
        });
        let events = events.chain(futures_util::stream::once(std::future::ready(over)));
        self.streams.push(Box::pin(events));
        Ok(())
    }
}

/// Waits until it is time to look again; for ever where nothing is looked for.
async fn tick(look: &mut Option<tokio::time::Interval>) {
    match look {
        Some(look) => drop(look.tick().await),
        None => std::future::pending().await,
    }
}
