//! Builds a mock.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::commands::Commands;
use super::fault::FaultPlan;
use super::script::{Call, Script};
use super::users::Users;
use super::world::{Mock, Settings};
use crate::clock::{Clock, SystemClock};

/// Builds a [`Mock`].
///
/// ```
/// use stacyvm::providers::mock::{MockBuilder, Script};
/// let mock = MockBuilder::new()
///     .command("python3", |call| match call.argument(2) {
///         "print(6 * 7)" => Script::new().out("42\n"),
///         other => Script::new().err(format!("cannot run {other}\n")).exit(1),
///     })
///     .build();
/// ```
#[derive(Debug)]
pub struct MockBuilder {
    settings: Settings,
}

impl Default for MockBuilder {
    fn default() -> Self {
        Self {
            settings: Settings {
                name: "mock".to_owned(),
                clock: Arc::new(SystemClock),
                commands: Commands::default(),
                users: Users::default(),
                images: None,
                files: BTreeMap::new(),
                disk_bytes: 64 << 20,
                ring_bytes: 256 << 10,
                faults: FaultPlan::default(),
            },
        }
    }
}

impl MockBuilder {
    /// A mock with the built-in commands, on the system's clock, without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the provider; `mock` if not said.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Sets the clock that dates files and ends sandboxes. A manual clock ends
    /// a sandbox at the first call after it was moved past its end.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Registers a command by its name; one of that name is replaced.
    pub fn command(
        mut self,
        name: &str,
        command: impl Fn(&Call) -> Script + Send + Sync + 'static,
    ) -> Self {
        self.settings.commands.add(name, command);
        self
    }

    /// Names an image. Once one is named, every other is `not_found`; before
    /// that, every name is an image.
    pub fn image(mut self, name: impl Into<String>) -> Self {
        self.settings
            .images
            .get_or_insert_default()
            .insert(name.into());
        self
    }

    /// Adds a user with a group of the same name and number.
    pub fn user(mut self, name: &str, id: u32) -> Self {
        self.settings.users.add(name, id);
        self
    }

    /// Puts a file of root's into every sandbox, with mode `0o644`.
    pub fn file(mut self, path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.settings.files.insert(path.into(), bytes.into());
        self
    }

    /// Sets how many bytes the files of one sandbox may have; 64 MiB if not said.
    pub fn disk_bytes(mut self, bytes: u64) -> Self {
        self.settings.disk_bytes = bytes;
        self
    }

    /// Sets how many bytes of output a command keeps that nobody follows;
    /// 256 KiB if not said.
    pub fn ring_bytes(mut self, bytes: usize) -> Self {
        self.settings.ring_bytes = bytes;
        self
    }

    /// Sets what goes wrong.
    pub fn faults(mut self, plan: FaultPlan) -> Self {
        self.settings.faults = plan;
        self
    }

    /// Builds it.
    pub fn build(self) -> Mock {
        Mock::new(self.settings)
    }
}
