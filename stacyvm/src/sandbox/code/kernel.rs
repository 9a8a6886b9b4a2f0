//! One interpreter: a command that answers in lines of JSON.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::{CodeError, CodeEvent, CodeResult};
use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::exec::{ExecEvent, ExitStatus, SignalScope};
use crate::sandbox::handle::Sandbox;
use crate::sandbox::process::Process;

/// The program that runs in the interpreter.
const PROGRAM: &str = include_str!("kernel.py");
/// The longest line that it may answer: a large picture in base64.
const LONGEST: usize = 96 << 20;
/// How long one that was interrupted has to say so.
const HEEDS_WITHIN: Duration = Duration::from_secs(2);
const SIGINT: i32 = 2;

#[derive(Serialize)]
struct Ask<'a> {
    code: &'a str,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Answer {
    Stdout {
        text: String,
    },
    Stderr {
        text: String,
    },
    Result {
        data: std::collections::BTreeMap<String, String>,
        main: bool,
    },
    Error {
        name: String,
        value: String,
        traceback: String,
    },
    End {},
}

/// An interpreter that runs.
#[derive(Debug)]
pub(super) struct Kernel {
    process: Process,
    /// What came of a line.
    line: Vec<u8>,
    /// Whole lines that were not looked at.
    lines: VecDeque<Vec<u8>>,
    /// What it said beside its answers, when it could not start.
    complaint: String,
    asked: Option<Instant>,
    interrupted: bool,
    ended: bool,
}

/// The interpreter is not there any more.
pub(super) fn gone() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the interpreter ended under the code; the next call starts a new one",
    )
}

impl Kernel {
    pub(super) async fn start(
        sandbox: &Sandbox,
        program: &str,
        workdir: Option<&str>,
    ) -> Result<Self> {
        let mut exec = sandbox.exec([program, "-u", "-c", PROGRAM]).stdin_pipe();
        if let Some(workdir) = workdir {
            exec = exec.workdir(workdir);
        }
        let process = exec.env("MPLBACKEND", "Agg").start().await?;
        Ok(Self {
            process,
            line: Vec::new(),
            lines: VecDeque::new(),
            complaint: String::new(),
            asked: None,
            interrupted: false,
            ended: false,
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether it waits for code.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_none() && !self.ended
    }

    /// Gives it code to run.
    pub(super) async fn ask(&mut self, code: &str) -> Result<()> {
        let mut line = serde_json::to_vec(&Ask { code })
            .map_err(|error| Error::new(ErrorKind::Internal, "code is no JSON").source(error))?;
        line.push(b'\n');
        self.asked = Some(Instant::now());
        self.interrupted = false;
        self.process.write_stdin(line).await.map_err(|error| {
            self.ended = true;
            gone().source(error)
        })
    }

    /// What comes next of the code that was asked; `None` at its end.
    pub(super) async fn next(&mut self, timeout: Option<Duration>) -> Result<Option<CodeEvent>> {
        let asked = self.asked.ok_or_else(gone)?;
        loop {
            if let Some(line) = self.lines.pop_front() {
                if let Some(event) = self.understand(&line)? {
                    return Ok(Some(event));
                }
                if self.asked.is_none() {
                    return if self.interrupted {
                        Err(late(timeout))
                    } else {
                        Ok(None)
                    };
                }
                continue;
            }
            let until = timeout.map(|timeout| {
                let grace = if self.interrupted {
                    HEEDS_WITHIN
                } else {
                    Duration::ZERO
                };
                asked + timeout + grace
            });
            let event = match until {
                None => self.process.next_event().await?,
                Some(until) => match timeout_at(until, self.process.next_event()).await {
                    Ok(event) => event?,
                    Err(_) if self.interrupted => {
                        self.ended = true;
                        return Err(late(timeout));
                    }
                    Err(_) => {
                        self.interrupted = true;
                        let signal = self.process.signal(SIGINT, SignalScope::Process);
                        drop(signal.await);
                        continue;
                    }
                },
            };
            match event {
                Some(ExecEvent::Stdout(bytes)) => self.take(&bytes)?,
                Some(ExecEvent::Stderr(bytes)) => {
                    if self.complaint.len() < 4096 {
                        self.complaint.push_str(&String::from_utf8_lossy(&bytes));
                    }
                }
                Some(ExecEvent::Lost { .. }) => {}
                Some(ExecEvent::Exited(status)) => {
                    self.ended = true;
                    let complaint = self.complaint.trim();
                    if status == ExitStatus::SandboxGone {
                        return Err(Error::new(
                            ErrorKind::SandboxGone,
                            "the sandbox ended under the code",
                        ));
                    }
                    return Err(gone().context("end", status).context("stderr", complaint));
                }
                None => {
                    self.ended = true;
                    return Err(gone());
                }
            }
        }
    }

    /// Cuts what came into lines.
    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&bytes[..end]);
            self.lines.push_back(std::mem::take(&mut self.line));
            bytes = &bytes[end + 1..];
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > LONGEST {
            self.ended = true;
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("a result is longer than {LONGEST} bytes; write it to a file"),
            ));
        }
        Ok(())
    }

    /// The event of a line; none for one that only ends the code.
    fn understand(&mut self, line: &[u8]) -> Result<Option<CodeEvent>> {
        let answer = serde_json::from_slice(line).map_err(|error| self.nonsense(&error))?;
        Ok(match answer {
            Answer::Stdout { text } => Some(CodeEvent::Stdout(text)),
            Answer::Stderr { text } => Some(CodeEvent::Stderr(text)),
            Answer::Result { data, main } => Some(CodeEvent::Result(CodeResult {
                data,
                is_main_result: main,
            })),
            Answer::Error {
                name,
                value,
                traceback,
            } => Some(CodeEvent::Error(CodeError {
                name,
                value,
                traceback,
            })),
            Answer::End {} => {
                self.asked = None;
                None
            }
        })
    }

    fn nonsense(&mut self, why: &dyn std::fmt::Display) -> Error {
        self.ended = true;
        Error::new(
            ErrorKind::Protocol,
            format!("the interpreter answered what makes no sense: {why}"),
        )
    }
}

/// Earlier code of the same context did not end in time.
pub(super) fn no_turn(timeout: Duration) -> Error {
    let given = crate::units::format_duration(timeout);
    Error::new(
        ErrorKind::Timeout,
        format!("other code ran in the same context for the whole {given}"),
    )
    .context(
        "remedy",
        "wait for its end before (a callback of that code waits for itself), or use another context",
    )
}

fn late(timeout: Option<Duration>) -> Error {
    let given = timeout
        .map(crate::units::format_duration)
        .unwrap_or_default();
    Error::new(
        ErrorKind::Timeout,
        format!("the code ran longer than {given}"),
    )
}
