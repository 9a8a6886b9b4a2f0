//! Runs the lines of a shell.

use std::sync::{Arc, Mutex};

use super::process::{Running, Sink, Source, Task, launch};
use super::sandbox::Ended;
use super::script::{Script, ShellLines, Step};
use super::shell::{Item, Joint, Line, Piece, Target, Word};
use super::signal::number;

struct Shell {
    task: Task,
    status: i32,
    last_background: Option<u32>,
}

/// Runs lines to their end; the last status is the shell's.
pub(super) fn shell(task: Task, lines: Arc<Vec<Line>>) -> Running<Ended> {
    Box::pin(async move {
        let mut shell = Shell {
            task,
            status: 0,
            last_background: None,
        };
        for line in lines.iter() {
            if let Some(code) = shell.line(line).await {
                return Ended::Code(code & 0xff);
            }
        }
        Ended::Code(shell.status)
    })
}

impl Shell {
    /// Runs a line; a code ends the shell.
    async fn line(&mut self, line: &Line) -> Option<i32> {
        if line.background {
            self.last_background = self.background(line).await;
            self.status = 0;
            return None;
        }
        for (joint, item) in &line.items {
            self.task.gate().await;
            let runs = match joint {
                Joint::Always => true,
                Joint::And => self.status == 0,
                Joint::Or => self.status != 0,
            };
            if !runs {
                continue;
            }
            match item {
                Item::Group(lines) => {
                    let lines = Arc::clone(lines);
                    let child = self.fork(self.task.clone(), lines).await;
                    self.status = self.wait(child).await;
                }
                Item::Simple {
                    words,
                    redirections,
                } => {
                    if let Some(code) = self.simple(words, redirections).await {
                        return Some(code);
                    }
                }
            }
        }
        None
    }

    /// Starts a line without waiting for it; it reads nothing.
    async fn background(&mut self, line: &Line) -> Option<u32> {
        let mut task = self.task.clone();
        task.input = Source::Null;
        if let [
            (
                Joint::Always,
                Item::Simple {
                    words,
                    redirections,
                },
            ),
        ] = line.items.as_slice()
            && self
                .argv(words)
                .first()
                .is_some_and(|name| self.task.sandbox.fixed.commands.knows(name))
        {
            let argv = self.argv(words);
            return match self.redirect(&mut task, redirections).await {
                Ok(()) => self.command(task, argv).await,
                Err(()) => None,
            };
        }
        let line = Line {
            items: line.items.clone(),
            background: false,
        };
        self.fork(task, Arc::new(vec![line])).await
    }

    async fn fork(&self, task: Task, lines: Arc<Vec<Line>>) -> Option<u32> {
        let parent = self.task.pid;
        self.task
            .act(|state| {
                launch(state, parent, false, task, move |_| {
                    Script::new().step(Step::Shell(ShellLines(lines)))
                })
            })
            .await
    }

    async fn command(&self, mut task: Task, argv: Vec<String>) -> Option<u32> {
        task.argv = argv.into_iter().map(Into::into).collect();
        let commands = Arc::clone(&task.sandbox.fixed.commands);
        let parent = self.task.pid;
        self.task
            .act(|state| {
                launch(state, parent, false, task, move |call| {
                    commands.script(call).unwrap_or_default()
                })
            })
            .await
    }

    async fn wait(&self, child: Option<u32>) -> i32 {
        let Some(child) = child else { return 254 };
        let me = self.task.pid;
        self.task
            .sandbox
            .until(|state| {
                if !state.may_run(me) {
                    return None;
                }
                let process = state.processes.get_mut(&me)?;
                if let Some(ended) = process.ended_children.remove(&child) {
                    return Some(ended.shell_status());
                }
                let mine = state.processes.get(&child).is_some_and(|p| p.parent == me);
                (!mine).then_some(127)
            })
            .await
    }

    fn expand(&self, word: &Word) -> String {
        word.iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Variable(name) => match name.as_str() {
                    "$" => self.task.pid.to_string(),
                    "?" => self.status.to_string(),
                    "!" => self
                        .last_background
                        .map(|pid| pid.to_string())
                        .unwrap_or_default(),
                    name => self.task.env.get(name).cloned().unwrap_or_default(),
                },
            })
            .collect()
    }

    fn argv(&self, words: &[Word]) -> Vec<String> {
        words.iter().map(|word| self.expand(word)).collect()
    }

    async fn redirect(&self, task: &mut Task, all: &[(u8, Target)]) -> Result<(), ()> {
        for (from, target) in all {
            let sink: Sink = match target {
                Target::Descriptor(1) => task.out.clone(),
                Target::Descriptor(_) => task.err.clone(),
                Target::File { path, .. } if *from == 0 => {
                    task.input = self.input(&self.expand(path)).await?;
                    continue;
                }
                Target::File { path, append } => {
                    match task.open(&self.expand(path), *append).await {
                        Ok(sink) => sink,
                        Err(why) => {
                            self.complain(&why).await;
                            return Err(());
                        }
                    }
                }
            };
            if *from == 2 {
                task.err = sink;
            } else {
                task.out = sink;
            }
        }
        Ok(())
    }

    async fn input(&self, path: &str) -> Result<Source, ()> {
        let path = self.task.absolute(path);
        if path == "/dev/null" {
            return Ok(Source::Null);
        }
        let who = self.task.account.credentials.clone();
        let read = self
            .task
            .act(|state| state.tree.bytes(&who, path.as_bytes()))
            .await;
        match read {
            Ok((_, bytes)) => Ok(Source::Bytes(Arc::new(Mutex::new(bytes.to_vec().into())))),
            Err(error) => {
                self.complain(error.message()).await;
                Err(())
            }
        }
    }

    async fn complain(&self, why: &str) {
        self.task
            .write(&self.task.err, format!("sh: {why}\n").into())
            .await;
    }

    /// Runs one command; a code ends the shell.
    async fn simple(&mut self, words: &[Word], redirections: &[(u8, Target)]) -> Option<i32> {
        let argv = self.argv(words);
        let mut task = self.task.clone();
        if self.redirect(&mut task, redirections).await.is_err() {
            self.status = 1;
            return None;
        }
        let Some(name) = argv.first() else {
            self.status = 0;
            return None;
        };
        let argument = argv.get(1).map_or("", String::as_str);
        self.status = match name.as_str() {
            "exit" => return Some(argument.parse().unwrap_or(self.status)),
            ":" => 0,
            // Without a command, its redirections are the shell's own from here on.
            "exec" if argv.len() == 1 => {
                self.task = task;
                0
            }
            "cd" if self.task.is_directory(argument).await => {
                self.task.workdir = self.task.absolute(argument);
                0
            }
            "cd" => {
                self.complain(&format!("cd: no directory: {argument}"))
                    .await;
                1
            }
            "wait" => {
                let child = argument.parse().ok();
                if child.is_some() {
                    self.wait(child).await
                } else {
                    let me = self.task.pid;
                    self.task
                        .sandbox
                        .until(|s| {
                            let waits = s.processes.values().any(|p| p.parent == me);
                            (!waits && s.may_run(me)).then_some(())
                        })
                        .await;
                    0
                }
            }
            "trap" => {
                let signals = argv.iter().skip(2).map(|name| number(name));
                let signals = signals.collect::<Option<Vec<i32>>>().unwrap_or_default();
                let code = argument.strip_prefix("exit ").map(str::parse);
                let code = match code {
                    None if argument.is_empty() => Some(None),
                    Some(Ok(code)) => Some(Some(code)),
                    _ => None,
                };
                if let (Some(code), false) = (code, signals.is_empty()) {
                    for signal in signals {
                        self.task.trap(signal, code).await;
                    }
                    0
                } else {
                    let known = "trap: the mock knows trap '' SIGNAL.. and trap 'exit N' SIGNAL..";
                    self.complain(known).await;
                    2
                }
            }
            "kill" => self.kill(&argv[1..]).await,
            _ if self.task.sandbox.fixed.commands.knows(name) => {
                let child = self.command(task, argv).await;
                self.wait(child).await
            }
            _ => {
                let message = format!("sh: {name}: not found\n");
                task.write(&task.err, message.into()).await;
                127
            }
        };
        None
    }

    async fn kill(&self, arguments: &[String]) -> i32 {
        let (signal, targets) = match arguments.first().and_then(|a| a.strip_prefix('-')) {
            Some(name) => (number(name), &arguments[1..]),
            None => (Some(15), arguments),
        };
        let Some(signal) = signal else {
            self.complain("kill: no such signal").await;
            return 2;
        };
        let mut status = 0;
        for target in targets {
            let sent = match target.parse::<i64>() {
                Ok(target) => {
                    let me = self.task.pid;
                    self.task
                        .act(|state| state.kill_from(me, target, signal))
                        .await
                }
                Err(_) => Err("arguments must be process numbers"),
            };
            if let Err(why) = sent {
                self.complain(&format!("kill: ({target}) - {why}")).await;
                status = 1;
            }
        }
        // A shell that killed itself goes no further.
        self.task.gate().await;
        status
    }
}
