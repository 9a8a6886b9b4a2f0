//! Finds the values of secrets.

use std::collections::BTreeMap;

use tokio::io::AsyncReadExt as _;

use crate::error::{Error, ErrorKind, Result};
use crate::provider::Secrets;
use crate::sandbox::spec::SecretReference;

/// The longest value; more does not fit beside other variables of a command.
const LONGEST: usize = 64 << 10;

/// Finds the value of every reference. No error holds a value.
///
/// # Errors
///
/// `not_found` and `permission_denied` for one that cannot be read,
/// `invalid_argument` for one that cannot be a variable.
pub(super) async fn resolve(references: &BTreeMap<String, SecretReference>) -> Result<Secrets> {
    let mut values = BTreeMap::new();
    for (name, reference) in references {
        let value = match reference {
            SecretReference::Env(variable) => from_env(name, variable)?,
            SecretReference::File(path) => from_file(name, path).await?,
        };
        if value.contains('\0') || value.len() > LONGEST {
            return Err(unusable(name));
        }
        values.insert(name.clone(), value);
    }
    Ok(Secrets::new(values))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the variable is a value that the spec names, not a setting"
)]
fn from_env(name: &str, variable: &str) -> Result<String> {
    match std::env::var(variable) {
        Ok(value) => Ok(value),
        Err(std::env::VarError::NotUnicode(_)) => Err(unusable(name)),
        Err(std::env::VarError::NotPresent) => Err(Error::new(
            ErrorKind::NotFound,
            format!("secrets.{name} refers to the variable `{variable}`, which is not set; set it or change the reference"),
        )
        .context("field", format!("secrets.{name}"))
        .context("value", variable)),
    }
}

/// Reads a file. The newline that editors add to the end is left out.
async fn from_file(name: &str, path: &str) -> Result<String> {
    let failed = |error: std::io::Error| {
        Error::new(
            super::policy::io_kind(&error),
            format!("secrets.{name} refers to the file `{path}`, which cannot be read"),
        )
        .context("field", format!("secrets.{name}"))
        .context("value", path)
        .source(error)
    };
    // A pipe or a device would block or never end.
    if !tokio::fs::metadata(path).await.map_err(failed)?.is_file() {
        return Err(Error::invalid(
            format!("secrets.{name}"),
            path,
            "a regular file",
            "write the value to a file that only you can read",
        ));
    }
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(LONGEST as u64 + 2)
        .read_to_end(&mut bytes)
        .await
        .map_err(failed)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| unusable(name))
}

fn unusable(name: &str) -> Error {
    Error::invalid(
        format!("secrets.{name}"),
        "[redacted]",
        "UTF-8 text of at most 64 KiB without NUL",
        "encode the value, for example as base64",
    )
}
