//! Watching the tree.

use std::collections::VecDeque;
use std::sync::Arc;

use super::sandbox::{Sandbox, State};
use super::tree::{ROOT, failed};
use crate::error::{ErrorKind, Result};
use crate::sandbox::exec::BoxStream;
use crate::sandbox::files::{FileKind, WatchEvent, WatchKind, WatchRequest};

/// Events that wait to be read; one more is an overflow.
const MOST_WAITING: usize = 1024;
/// Watches at once.
const MOST_WATCHES: usize = 32;

/// Somebody who watches a path.
#[derive(Debug)]
pub(super) struct Watcher {
    root: Vec<u8>,
    recursive: bool,
    waiting: VecDeque<WatchEvent>,
}

impl Watcher {
    fn offer(&mut self, kind: WatchKind, path: &[u8]) {
        let relative: &[u8] = if path == self.root {
            b""
        } else if self.root == b"/" {
            &path[1..]
        } else {
            match path.strip_prefix(self.root.as_slice()) {
                Some([b'/', rest @ ..]) => rest,
                _ => return,
            }
        };
        if !self.recursive && relative.contains(&b'/') {
            return;
        }
        let event = |kind, path: &[u8]| WatchEvent {
            kind,
            path: path.to_vec(),
        };
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back(event(kind, relative));
        } else if self
            .waiting
            .back()
            .is_some_and(|e| e.kind != WatchKind::Overflow)
        {
            self.waiting.push_back(event(WatchKind::Overflow, b""));
        }
    }
}

impl State {
    /// Hands the changes of the tree to whoever watches.
    pub(super) fn tell_watchers(&mut self) {
        for (kind, path) in std::mem::take(&mut self.tree.changes) {
            for watcher in self.watchers.values_mut() {
                watcher.offer(kind, &path);
            }
        }
    }
}

struct Watching {
    sandbox: Arc<Sandbox>,
    number: u64,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.sandbox.lock().watchers.remove(&self.number);
    }
}

/// Begins to watch. The stream ends with the sandbox.
pub(super) fn watch(
    sandbox: &Arc<Sandbox>,
    request: &WatchRequest,
) -> Result<BoxStream<Result<WatchEvent>>> {
    let who = sandbox.account(request.user.as_deref())?.credentials;
    let path = request.path.as_bytes();
    let number = {
        let mut state = sandbox.alive()?;
        let (node, found) = state.tree.find(&who, path, true)?;
        state
            .tree
            .demand(&who, node, super::tree::Right::Read, path)?;
        if request.recursive && state.tree.node(node).kind() != FileKind::Directory {
            return Err(failed(
                ErrorKind::NotDirectory,
                "only a directory is watched with what is below it",
                path,
            ));
        }
        if state.watchers.len() >= MOST_WATCHES {
            return Err(failed(
                ErrorKind::ResourceExhausted,
                "32 paths of the sandbox are watched already; end one first",
                path,
            ));
        }
        let root = if node == ROOT {
            b"/".to_vec()
        } else {
            state.tree.path_of(found.parent, &found.name)
        };
        let number = state.number();
        state.watchers.insert(
            number,
            Watcher {
                root,
                recursive: request.recursive,
                waiting: VecDeque::new(),
            },
        );
        number
    };
    let watching = Watching {
        sandbox: Arc::clone(sandbox),
        number,
    };
    Ok(Box::pin(futures_util::stream::unfold(
        watching,
        |watching| async move {
            let number = watching.number;
            let event = watching
                .sandbox
                .until(|state| match state.watchers.get_mut(&number) {
                    Some(watcher) => watcher.waiting.pop_front().map(Some),
                    None => Some(None),
                })
                .await?;
            Some((Ok(event), watching))
        },
    )))
}
