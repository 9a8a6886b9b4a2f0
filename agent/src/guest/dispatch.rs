//! What a host says: the handshake, requests, and frames of open streams.

use super::agent::Agent;
use super::clock::now_ms;
use super::connection::{Connection, Frame, Input, MAX_STREAMS, Target};
use super::failure::failure;
use super::files::FileTask;
use super::handshake;
use super::launch;
use super::worker::Job;
use crate::protocol::control::ControlMessage;
use crate::protocol::message::{self, FailureKind};
use crate::protocol::{AGENT_STREAM, Kind};

/// Reads from one connection in a row.
const ROUNDS: usize = 8;

/// The host broke the protocol.
struct Violation;

impl Agent {
    pub(super) fn on_connection(&mut self, key: u64) {
        for _ in 0..ROUNDS {
            let Some(connection) = self.connections.get_mut(&key) else {
                return;
            };
            if connection.closing || self.ending.is_some() {
                return;
            }
            match connection.fill() {
                Input::Nothing => return,
                Input::Closed => {
                    self.dead.push(key);
                    return;
                }
                Input::Some => connection.heard_ms = heard(connection),
            }
            let mut inbox = connection.take_inbox();
            loop {
                let Some(connection) = self.connections.get_mut(&key) else {
                    return;
                };
                if connection.closing {
                    return;
                }
                let result = match inbox.next(connection.longest()) {
                    Ok(None) => {
                        connection.put_inbox(inbox);
                        break;
                    }
                    Ok(Some(frame)) if connection.accepted => self.on_frame(key, &frame),
                    Ok(Some(frame)) => self.on_hello(key, &frame),
                    Err(_) => Err(Violation),
                };
                if result.is_err() {
                    self.dead.push(key);
                    return;
                }
            }
        }
    }

    fn on_hello(&mut self, key: u64, frame: &Frame<'_>) -> Result<(), Violation> {
        let connection = self.connections.get_mut(&key).ok_or(Violation)?;
        if frame.kind != Kind::Hello || frame.stream != 0 {
            return Err(Violation);
        }
        let hello = message::decode(frame.payload).map_err(|_| Violation)?;
        match handshake::judge(&self.config, &connection.nonce, connection.keyed, &hello) {
            Ok(welcome) => {
                connection.accepted = true;
                connection.heard_ms = now_ms();
                connection.frame(0, Kind::Welcome, &message::encode(&welcome));
                if welcome.kernel.is_some_and(|kernel| kernel.gvisor) {
                    self.spares.host_came();
                }
                Ok(())
            }
            Err(Some(failure)) => {
                connection.frame(0, Kind::Failure, &message::encode(&failure));
                connection.closing = true;
                Ok(())
            }
            Err(None) => Err(Violation),
        }
    }

    fn on_frame(&mut self, key: u64, frame: &Frame<'_>) -> Result<(), Violation> {
        let to = (key, frame.stream);
        match frame.kind {
            Kind::Ping if frame.stream == 0 => self.send(to, Kind::Pong, frame.payload),
            Kind::Pong if frame.stream == 0 => {}
            Kind::Data | Kind::End | Kind::Credit | Kind::Cancel | Kind::Detach
                if frame.stream != 0 =>
            {
                return self.on_flow(to, frame);
            }
            Kind::Exec
            | Kind::Attach
            | Kind::ListExecs
            | Kind::Signal
            | Kind::Resize
            | Kind::Logs
            | Kind::File
            | Kind::ReadFile
            | Kind::WriteFile
            | Kind::Watch
            | Kind::ExportTar
            | Kind::ImportTar
            | Kind::Dial
            | Kind::Listen
            | Kind::Processes
            | Kind::Usage
            | Kind::SetDeadline
            | Kind::SetEnvironment
            | Kind::Terminate => return self.on_request(to, frame),
            Kind::Hello
            | Kind::Welcome
            | Kind::Ping
            | Kind::Pong
            | Kind::Done
            | Kind::Failure
            | Kind::Entry
            | Kind::Entries
            | Kind::Started
            | Kind::Exited
            | Kind::Execs
            | Kind::WatchEvent
            | Kind::ProcessList
            | Kind::UsageReport
            | Kind::Lost
            | Kind::Listening
            | Kind::Accepted
            | Kind::Data
            | Kind::DataErr
            | Kind::End
            | Kind::Credit
            | Kind::Cancel
            | Kind::LeftOut
            | Kind::Detach => return Err(Violation),
        }
        Ok(())
    }

    /// A frame of a stream. Where that has ended, the frame crossed its last
    /// one on the way and means nothing any more.
    fn on_flow(&mut self, to: (u64, u32), frame: &Frame<'_>) -> Result<(), Violation> {
        let connection = self.connections.get_mut(&to.0).ok_or(Violation)?;
        let Some(stream) = connection.streams.get_mut(&to.1) else {
            return Ok(());
        };
        let target = stream.target;
        match frame.kind {
            Kind::Data => {
                let size = frame.payload.len() as u64;
                stream.receive = stream.receive.checked_sub(size).ok_or(Violation)?;
                match target {
                    Target::Exec(exec) => self.exec_input(exec, frame.payload),
                    Target::Worker(worker) => self.worker_input(worker, frame.payload),
                    Target::Socket(socket) => self.socket_input(socket, frame.payload),
                    Target::Listener(_) | Target::Log(_) | Target::Answer => {}
                }
            }
            Kind::End => match target {
                Target::Exec(exec) => self.exec_input_end(exec),
                Target::Worker(worker) => self.worker_input_end(worker),
                Target::Socket(socket) => self.socket_input_end(socket),
                Target::Listener(_) | Target::Log(_) | Target::Answer => {}
            },
            Kind::Credit => {
                let credit: message::Credit =
                    message::decode(frame.payload).map_err(|_| Violation)?;
                connection.grant(to.1, credit.bytes);
                self.pump(target);
            }
            Kind::Cancel => match target {
                Target::Exec(exec) => self.cancel_exec(exec),
                Target::Log(exec) => {
                    self.drop_reader(exec, to);
                    self.fail(to, &failure(FailureKind::Cancelled, "cancelled"));
                }
                Target::Worker(worker) => self.cancel_worker(worker),
                Target::Socket(socket) => {
                    self.fail(to, &failure(FailureKind::Cancelled, "cancelled"));
                    self.drop_socket(socket);
                }
                Target::Listener(listener) => {
                    self.fail(to, &failure(FailureKind::Cancelled, "cancelled"));
                    self.drop_listener(listener);
                }
                Target::Answer => {}
            },
            Kind::Detach => match target {
                Target::Exec(exec) => {
                    connection.streams.remove(&to.1);
                    self.detach(exec);
                }
                _ => return Err(Violation),
            },
            _ => return Err(Violation),
        }
        Ok(())
    }

    fn on_request(&mut self, to: (u64, u32), frame: &Frame<'_>) -> Result<(), Violation> {
        fn read<'b, T: minicbor::Decode<'b, ()>>(frame: &Frame<'b>) -> Result<T, Violation> {
            message::decode(frame.payload).map_err(|_| Violation)
        }
        let connection = self.connections.get_mut(&to.0).ok_or(Violation)?;
        if to.1 == 0 || to.1 & AGENT_STREAM != 0 || connection.streams.contains_key(&to.1) {
            return Err(Violation);
        }
        if connection.streams.len() >= MAX_STREAMS {
            return Err(Violation);
        }
        // Whatever the request becomes, its stream is open until its last frame.
        connection.open(to.1, Target::Answer);
        match frame.kind {
            Kind::Exec => self.start_exec(to, read(frame)?),
            Kind::Attach => self.attach(to, &read(frame)?),
            Kind::ListExecs => self.list_execs(to),
            Kind::Signal => self.signal(to, &read(frame)?),
            Kind::Resize => self.resize(to, &read(frame)?),
            Kind::Logs => self.read_log(to, &read(frame)?),
            Kind::Dial => self.dial(to, read::<message::PortRequest>(frame)?.port),
            Kind::Listen => self.listen(to, read::<message::PortRequest>(frame)?.port),
            Kind::Processes => self.start_worker(to, frame.kind, Job::Processes),
            Kind::Usage => self.start_worker(to, frame.kind, Job::Usage),
            Kind::SetDeadline => {
                self.set_deadline(to, read::<message::DeadlineRequest>(frame)?.in_ms);
            }
            Kind::SetEnvironment => self.set_environment(to, read(frame)?),
            Kind::Terminate => self.ending = Some("a host ended it".to_owned()),
            kind => match FileTask::decode(kind, frame.payload) {
                Some(Ok(task)) => self.start_worker(to, kind, Job::File(task)),
                Some(Err(_)) | None => return Err(Violation),
            },
        }
        Ok(())
    }

    /// Takes the variables of whoever claimed this sandbox, once.
    fn set_environment(&mut self, to: (u64, u32), request: message::EnvironmentRequest) {
        if self.config.waits != Some(true) {
            let refusal = "the sandbox does not wait to be claimed, so its variables are settled";
            self.fail(to, &failure(FailureKind::AlreadyExists, refusal));
            return;
        }
        if let Err(failure) = launch::check_variables(&request.env) {
            self.fail(to, &failure);
            return;
        }
        self.config.waits = None;
        self.tell_spares(&request);
        self.config.env.extend(request.env);
        fault_point!("agent.claimed");
        self.finish(to, Kind::Done, &[]);
    }

    fn set_deadline(&mut self, to: (u64, u32), in_ms: Option<u64>) {
        if let Some(control) = &self.control {
            // The helper's timer binds.
            let _ = super::control::tell(control, &ControlMessage::Deadline { in_ms });
        } else {
            self.deadline = in_ms.map(|wait| now_ms().saturating_add(wait));
        }
        self.finish(to, Kind::Done, &[]);
    }
}

/// A stranger's time does not start again with each byte.
fn heard(connection: &Connection) -> u64 {
    if connection.accepted {
        now_ms()
    } else {
        connection.heard_ms
    }
}
