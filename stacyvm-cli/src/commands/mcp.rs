//! `mcp`: a sandbox as tools of an AI agent, by the Model Context Protocol on the
//! standard streams.

use std::sync::Arc;
use std::time::Duration;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock, Implementation, ServerCapabilities, ServerConfig};
use rmcp::{ServerHandler, ServiceExt as _, schemars, tool, tool_handler, tool_router};
use serde::Deserialize;
use stacyvm::engine::Engine;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Error, ErrorKind, Result, Sandbox};
use tokio::sync::Mutex;

use crate::args::McpArgs;
use crate::spec;

/// Bytes of each stream that a model is given.
const MOST_OUTPUT: usize = 256 << 10;

const INSTRUCTIONS: &str = "Tools that work in one disposable machine, which has no \
    network unless it was started with one. It is made by the first call, keeps files, \
    processes and the interpreter's state between calls, and ends with this server.";

/// Serves the tools until the client closes the streams.
pub(crate) async fn mcp(engine: &Engine, args: &McpArgs) -> Result<u8> {
    // What is wrong with the options is told before a client asks.
    spec::sandbox(&args.spec)?.check()?;
    let tools = Tools {
        engine: engine.clone(),
        args: Arc::new(args.clone()),
        sandbox: Arc::default(),
    };
    let sandbox = Arc::clone(&tools.sandbox);
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Protocol,
            format!("the client and this server part: {error}"),
        )
        .context(
            "remedy",
            "start it from a client of the Model Context Protocol",
        )
    };
    let served = match tools.serve(rmcp::transport::stdio()).await {
        Ok(service) => service
            .waiting()
            .await
            .map(drop)
            .map_err(|error| failed(&error)),
        Err(error) => Err(failed(&error)),
    };
    if let Some(sandbox) = sandbox.lock().await.take() {
        sandbox.kill().await?;
    }
    served.map(|()| 0)
}

#[derive(Clone)]
struct Tools {
    engine: Engine,
    args: Arc<McpArgs>,
    /// None before the first call, and after a reset.
    sandbox: Arc<Mutex<Option<Sandbox>>>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunCommand {
    /// A line for /bin/sh.
    command: String,
    /// Its directory; the sandbox's own if none.
    cwd: Option<String>,
    /// Seconds after which its whole tree is killed; 120 if none.
    timeout_seconds: Option<f64>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunCode {
    /// Python code. The value of its last expression is its result.
    code: String,
    /// Seconds after which it is interrupted; 120 if none.
    timeout_seconds: Option<f64>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadFile {
    /// An absolute path.
    path: String,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteFile {
    /// An absolute path. Directories above it are made.
    path: String,
    /// What the file is to hold.
    content: String,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListFiles {
    /// An absolute path of a directory.
    path: String,
}

fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

/// The result, or the error for the model: it may know better next time.
fn told(result: Result<CallToolResult>) -> CallToolResult {
    result.unwrap_or_else(|error| {
        let remedy = error.fact("remedy").map(|remedy| format!("; {remedy}"));
        let said = format!("{}: {error}{}", error.kind(), remedy.unwrap_or_default());
        CallToolResult::error(vec![ContentBlock::text(said)])
    })
}

fn seconds(given: Option<f64>) -> Result<Duration> {
    let given = given.unwrap_or(120.0);
    Duration::try_from_secs_f64(given).map_err(|_| {
        Error::invalid(
            "timeout_seconds",
            given,
            "seconds, above zero",
            "give a number of seconds",
        )
    })
}

#[tool_router]
impl Tools {
    async fn sandbox(&self) -> Result<Sandbox> {
        let mut held = self.sandbox.lock().await;
        if let Some(sandbox) = held.as_ref() {
            return Ok(sandbox.clone());
        }
        let spec = spec::sandbox(&self.args.spec)?.lifetime(Lifetime::Attached);
        let mut create = self.engine.create(spec);
        if let Some(provider) = &self.args.spec.provider {
            create = create.provider(provider);
        }
        Ok(held.insert(create.await?).clone())
    }

    #[tool(description = "Runs a shell command in the sandbox; gives its output and how it ended")]
    async fn run_command(&self, Parameters(asked): Parameters<RunCommand>) -> CallToolResult {
        let run = async {
            let sandbox = self.sandbox().await?;
            let mut exec = sandbox.shell(asked.command).max_output(MOST_OUTPUT);
            if let Some(cwd) = asked.cwd {
                exec = exec.workdir(cwd);
            }
            let output = exec
                .timeout(seconds(asked.timeout_seconds)?)
                .output()
                .await?;
            let mut said = vec![output.status.to_string()];
            for (name, bytes, lost) in [
                (
                    "stdout",
                    output.stdout_text(),
                    output.stdout_truncated_bytes,
                ),
                (
                    "stderr",
                    output.stderr_text(),
                    output.stderr_truncated_bytes,
                ),
            ] {
                if !bytes.is_empty() {
                    said.push(format!("{name}:\n{bytes}"));
                }
                if lost > 0 {
                    said.push(format!("({lost} more bytes of {name} were left out)"));
                }
            }
            Ok(text(said.join("\n")))
        };
        told(run.await)
    }

    #[tool(description = "Runs Python code in an interpreter of the sandbox that keeps its state")]
    async fn run_code(&self, Parameters(asked): Parameters<RunCode>) -> CallToolResult {
        let run = async {
            let sandbox = self.sandbox().await?;
            let code = sandbox
                .run_code(asked.code)
                .timeout(seconds(asked.timeout_seconds)?);
            let done = code.output().await?;
            let mut blocks = Vec::new();
            for (name, said) in [("stdout", &done.stdout), ("stderr", &done.stderr)] {
                if !said.is_empty() {
                    blocks.push(ContentBlock::text(format!("{name}:\n{said}")));
                }
            }
            for result in &done.results {
                match (result.data.get("image/png"), result.data.get("text/plain")) {
                    (Some(png), _) => blocks.push(ContentBlock::image(png.clone(), "image/png")),
                    (None, Some(plain)) => blocks.push(ContentBlock::text(plain.clone())),
                    (None, None) => {}
                }
            }
            if let Some(error) = &done.error {
                blocks.push(ContentBlock::text(error.traceback.clone()));
                return Ok(CallToolResult::error(blocks));
            }
            Ok(CallToolResult::success(blocks))
        };
        told(run.await)
    }

    #[tool(description = "Reads a text file of the sandbox")]
    async fn read_file(&self, Parameters(asked): Parameters<ReadFile>) -> CallToolResult {
        let read = async {
            let content = self.sandbox().await?.files().read_text(asked.path).await?;
            Ok(text(content))
        };
        told(read.await)
    }

    #[tool(description = "Writes a text file of the sandbox, in one step")]
    async fn write_file(&self, Parameters(asked): Parameters<WriteFile>) -> CallToolResult {
        let write = async {
            let files = self.sandbox().await?.files();
            let entry = files.write(asked.path, asked.content).await?;
            Ok(text(format!("{} bytes were written", entry.size)))
        };
        told(write.await)
    }

    #[tool(description = "Lists a directory of the sandbox")]
    async fn list_files(&self, Parameters(asked): Parameters<ListFiles>) -> CallToolResult {
        let list = async {
            let entries = self.sandbox().await?.files().list(asked.path).await?;
            let line = |entry: &stacyvm::sandbox::files::FileEntry| {
                let kind = match entry.kind {
                    stacyvm::sandbox::files::FileKind::Directory => "/",
                    _ => "",
                };
                let name = stacyvm::error::escape(&String::from_utf8_lossy(&entry.path));
                format!("{:>12} {name}{kind}", entry.size)
            };
            Ok(text(
                entries.iter().map(line).collect::<Vec<_>>().join("\n"),
            ))
        };
        told(list.await)
    }

    #[tool(description = "Ends the sandbox with all that is in it; the next call has a new one")]
    async fn reset_sandbox(&self) -> CallToolResult {
        let reset = async {
            if let Some(sandbox) = self.sandbox.lock().await.take() {
                sandbox.kill().await?;
            }
            Ok(text("the sandbox has ended"))
        };
        told(reset.await)
    }
}

#[tool_handler]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("stacyvm", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }
}
