//! `version`, `helper`, `completion`: what needs no engine.

use std::path::Path;

use clap::CommandFactory;
use serde_json::json;
use stacyvm::Result;

use crate::args::Cli;
use crate::output;

pub(crate) fn version(json: bool) -> Result<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let generation = stacyvm::agent::GENERATION;
    super::printed(if json {
        output::json(&json!({ "stacyvm": version, "agent_protocol_generation": generation }))
    } else {
        output::line(&format!(
            "stacyvm {version} (agent protocol generation {generation})"
        ))
    })?;
    Ok(0)
}

pub(crate) fn install_helper(root: &Path, json: bool) -> Result<u8> {
    let written = stacyvm::providers::oci::install_helper(root)?;
    super::printed(if json {
        output::json(&json!({ "written": written }))
    } else {
        written
            .iter()
            .try_for_each(|path| output::line(&path.display().to_string()))
    })?;
    Ok(0)
}

pub(crate) fn completion(shell: clap_complete::Shell, json: bool) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "stacyvm", &mut script);
    if json {
        let script = String::from_utf8_lossy(&script);
        let shell = shell.to_string();
        super::printed(output::json(&json!({ "shell": shell, "script": script })))?;
        return Ok(0);
    }
    super::printed(std::io::Write::write_all(
        &mut std::io::stdout().lock(),
        &script,
    ))?;
    Ok(0)
}
