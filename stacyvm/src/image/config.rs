//! What an image says about the commands that run from it.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// The part of an image's configuration that a sandbox respects unless its
/// spec says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageConfig {
    /// Variables, in the image's order; of a name that comes twice the last.
    pub env: Vec<(String, String)>,
    /// What a command is put behind; empty for none.
    pub entrypoint: Vec<String>,
    /// The default command, or the default arguments of the entrypoint.
    pub cmd: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; `None` is root.
    pub user: Option<String>,
    /// Where commands start; absolute. `None` is `/`.
    pub workdir: Option<String>,
    /// Ports, as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the main process to end, as `SIGTERM` or `15`.
    pub stop_signal: Option<String>,
}

impl ImageConfig {
    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let mut all = self.env.iter();
        all.find(|(known, _)| known == name)
            .map(|(_, v)| v.as_str())
    }

    /// The default command: entrypoint and `cmd`. Empty where the image has none.
    pub fn command(&self) -> Vec<String> {
        [&self.entrypoint[..], &self.cmd[..]].concat()
    }
}

/// `config` as it stands in the file, with `null` wherever Docker writes it.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct RawConfig {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
}

impl RawConfig {
    /// # Errors
    ///
    /// `invalid_argument` for a NUL byte where none can be, a variable without
    /// a name, and a working directory that is not absolute.
    pub(super) fn checked(self) -> Result<ImageConfig> {
        let mut env: Vec<(String, String)> = Vec::new();
        for line in self.env.unwrap_or_default() {
            // Docker takes a line without a sign as a name without a value.
            let (name, value) = line.split_once('=').unwrap_or((&line, ""));
            if name.is_empty() || line.contains('\0') {
                return Err(bad("env", &line, "NAME=VALUE without a NUL byte"));
            }
            env.retain(|(known, _)| known != name);
            env.push((name.to_owned(), value.to_owned()));
        }
        let argv = |field, list: Option<Vec<String>>| {
            let list = list.unwrap_or_default();
            match list.iter().find(|word| word.contains('\0')) {
                Some(word) => Err(bad(field, word, "words without a NUL byte")),
                None => Ok(list),
            }
        };
        let text = |field, value: Option<String>| match value.filter(|v| !v.is_empty()) {
            Some(value) if value.contains('\0') => {
                Err(bad(field, &value, "text without a NUL byte"))
            }
            value => Ok(value),
        };
        let workdir = text("working_dir", self.working_dir)?;
        if let Some(workdir) = workdir.as_ref().filter(|w| !w.starts_with('/')) {
            return Err(bad("working_dir", workdir, "an absolute path"));
        }
        Ok(ImageConfig {
            env,
            entrypoint: argv("entrypoint", self.entrypoint)?,
            cmd: argv("cmd", self.cmd)?,
            user: text("user", self.user)?,
            workdir,
            exposed_ports: self
                .exposed_ports
                .map(|ports| ports.into_keys().collect())
                .unwrap_or_default(),
            labels: self.labels.unwrap_or_default(),
            stop_signal: text("stop_signal", self.stop_signal)?,
        })
    }
}

fn bad(field: &str, value: &str, expected: &str) -> Error {
    Error::invalid(
        format!("image.config.{field}"),
        value,
        expected,
        "the image was built wrong; build it again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<ImageConfig> {
        serde_json::from_str::<RawConfig>(json).unwrap().checked()
    }

    #[test]
    fn what_docker_writes_is_read() {
        let config = read(
            r#"{"Env":["PATH=/bin","A=1","A=2=3","B"],"Cmd":["sh"],"Entrypoint":null,"User":"",
                "ExposedPorts":{"80/tcp":{}},"Volumes":null,"WorkingDir":"/w","Labels":null,
                "OnBuild":null,"StopSignal":"SIGQUIT","Healthcheck":{"Test":["NONE"]}}"#,
        )
        .unwrap();
        assert_eq!(config.variable("A"), Some("2=3"));
        assert_eq!(config.env.len(), 3);
        assert_eq!(config.variable("B"), Some(""));
        assert_eq!(config.command(), ["sh"]);
        assert_eq!(config.user, None);
        assert_eq!(config.workdir.as_deref(), Some("/w"));
        assert_eq!(config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(read("{}").unwrap(), ImageConfig::default());
    }

    #[test]
    fn what_no_command_can_have_is_refused_by_field() {
        for (json, field) in [
            (r#"{"Env":["=x"]}"#, "image.config.env"),
            (r#"{"Env":["A=\u0000"]}"#, "image.config.env"),
            (r#"{"Cmd":["a\u0000"]}"#, "image.config.cmd"),
            (r#"{"WorkingDir":"w"}"#, "image.config.working_dir"),
            (r#"{"User":"a\u0000b"}"#, "image.config.user"),
        ] {
            assert_eq!(read(json).unwrap_err().fact("field"), Some(field));
        }
    }
}
