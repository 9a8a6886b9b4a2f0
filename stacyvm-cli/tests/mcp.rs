//! `stacyvm mcp` as a client of the Model Context Protocol sees it.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};
use support::{Cli, cli};

/// A client that has made itself known.
struct Client {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    asked: u64,
}

impl Client {
    fn start(cli: &Cli, options: &[&str]) -> Self {
        let mut command = cli.command();
        command.arg("mcp").args(options);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let mut client = Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            asked: 0,
        };
        let about = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        });
        let server = client.ask("initialize", &about);
        assert_eq!(server["serverInfo"]["name"], "stacyvm");
        client.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        client
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.input.as_mut().unwrap(), "{message}").unwrap();
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        self.say(&json!({"jsonrpc": "2.0", "id": self.asked, "method": method, "params": params}));
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended");
            let answer: Value = serde_json::from_str(&line).unwrap();
            if answer["id"] == self.asked {
                return answer["result"].clone();
            }
        }
    }

    /// Calls a tool: whether it failed, and what it said.
    fn call(&mut self, tool: &str, arguments: &Value) -> (bool, String) {
        let result = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        let blocks = result["content"]
            .as_array()
            .unwrap_or_else(|| panic!("{result}"));
        let said = blocks.iter().map(|block| {
            let shown = block["text"].as_str().or(block["mimeType"].as_str());
            shown.unwrap().to_owned()
        });
        let said: Vec<String> = said.collect();
        (result["isError"] == true, said.join("\n"))
    }

    fn works(&mut self, tool: &str, arguments: &Value) -> String {
        let (failed, said) = self.call(tool, arguments);
        assert!(!failed, "{said}");
        said
    }

    /// Closes the streams, and waits for the end.
    fn end(mut self) {
        self.input = None;
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn tools_work_in_one_sandbox_that_ends_with_them() {
    let cli = cli();
    let mut client = Client::start(&cli, &[]);
    let tools = client.ask("tools/list", &json!({}));
    let mut names: Vec<_> = tools["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    let expected = [
        "list_files",
        "read_file",
        "reset_sandbox",
        "run_code",
        "run_command",
        "write_file",
    ];
    assert_eq!(names, expected);
    assert!(cli.sandboxes().is_empty());

    client.works(
        "write_file",
        &json!({"path": "/workspace/a/b.txt", "content": "text"}),
    );
    assert_eq!(
        client.works("read_file", &json!({"path": "/workspace/a/b.txt"})),
        "text"
    );
    assert!(
        client
            .works("list_files", &json!({"path": "/workspace"}))
            .ends_with(" a/")
    );
    let said = client.works(
        "run_command",
        &json!({"command": "cat a/b.txt; echo err >&2; exit 3"}),
    );
    assert_eq!(said, "exit code 3\nstdout:\ntext\nstderr:\nerr\n");
    let said = client.works(
        "run_command",
        &json!({"command": "sleep 60", "timeout_seconds": 0.2}),
    );
    assert_eq!(said, "timed out");
    assert_eq!(cli.sandboxes().len(), 1);

    client.works("reset_sandbox", &json!({}));
    assert!(cli.sandboxes().is_empty());
    let (failed, said) = client.call("read_file", &json!({"path": "/workspace/a/b.txt"}));
    assert!(failed && said.starts_with("not_found: "), "{said}");
    client.end();
    assert!(cli.sandboxes().is_empty());
}

#[test]
fn code_keeps_its_state_and_shows_pictures() {
    let cli = cli();
    let mut client = Client::start(&cli, &["--memory", "256m"]);
    let (failed, said) = client.call("run_code", &json!({"code": "x = 20"}));
    if failed {
        assert!(
            said.starts_with("command_not_found") || said.starts_with("unsupported"),
            "{said}"
        );
        println!("not run: no python3, or no limit of memory, on this host");
        return client.end();
    }
    assert_eq!(client.works("run_code", &json!({"code": "x + 1"})), "21");
    let picture = "class P:\n  def _repr_png_(self): return b'x'\nP()";
    assert_eq!(
        client.works("run_code", &json!({"code": picture})),
        "image/png"
    );
    let (failed, said) = client.call("run_code", &json!({"code": "print(1)\n1/0"}));
    assert!(
        failed && said.contains("stdout:\n1\n") && said.contains("ZeroDivisionError"),
        "{said}"
    );
    client.end();
}

#[test]
fn options_that_make_no_sense_are_told_at_once() {
    let done = cli().run(&["mcp", "--memory", "lots"]);
    assert_eq!(done.status.code(), Some(125));
}
