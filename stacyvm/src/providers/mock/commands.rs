//! The commands that a mock knows: a small built-in set, and what was registered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::script::{Call, Command, Script, ShellLines, Step};
use super::shell;

/// Directories that commands are found in.
const PATHS: [&str; 6] = [
    "/usr/local/sbin/",
    "/usr/local/bin/",
    "/usr/sbin/",
    "/usr/bin/",
    "/sbin/",
    "/bin/",
];

/// The commands, by the last component of their path.
#[derive(Clone)]
pub(super) struct Commands(BTreeMap<String, Command>);

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Default for Commands {
    fn default() -> Self {
        let mut commands = Self(BTreeMap::new());
        commands.add("true", |_| Script::new());
        commands.add("false", |_| Script::new().exit(1));
        commands.add("echo", echo);
        commands.add("cat", cat);
        commands.add("printf", printf);
        commands.add("sleep", sleep);
        commands.add("pwd", |call| {
            Script::new().out(format!("{}\n", call.workdir))
        });
        commands.add("id", id);
        commands.add("yes", |call| {
            let word = if call.argv.len() > 1 {
                call.argv[1..].join(" ")
            } else {
                "y".to_owned()
            };
            // Whole lines in pieces of about 8 KiB, as yes writes them.
            let line = format!("{word}\n");
            let lines = line.repeat((8192 / line.len()).max(1));
            Script::new().step(Step::Repeat(Bytes::from(lines)))
        });
        commands.add("socat", socat);
        commands.add("sh", sh);
        commands.add("bash", sh);
        commands
    }
}

impl Commands {
    pub(super) fn add(
        &mut self,
        name: &str,
        command: impl Fn(&Call) -> Script + Send + Sync + 'static,
    ) {
        self.0.insert(name.to_owned(), Arc::new(command));
    }

    /// The name under which a command is registered, if it is.
    pub(super) fn knows(&self, program: &str) -> bool {
        self.0.contains_key(plain(program)) || matches!(plain(program), "env" | "setsid" | "nohup")
    }

    /// What a command does; `None` if nobody registered it.
    pub(super) fn script(&self, call: &Call) -> Option<Script> {
        let name = plain(call.argument(0));
        if let Some(command) = self.0.get(name) {
            return Some(command(call));
        }
        // These run another command in their place.
        let (skipped, before) = match name {
            "env" => {
                let mut inner = call.clone();
                let mut rest = 1;
                while let Some((key, value)) =
                    call.argv.get(rest).and_then(|word| word.split_once('='))
                {
                    inner.env.insert(key.to_owned(), value.to_owned());
                    rest += 1;
                }
                if rest >= call.argv.len() {
                    let lines = inner.env.iter().map(|(k, v)| format!("{k}={v}\n"));
                    return Some(Script::new().out(lines.collect::<String>()));
                }
                return Some(self.inner(&inner.without_first(rest)));
            }
            "setsid" => (1, Step::NewSession),
            "nohup" => (1, Step::Ignore(1)),
            _ => return None,
        };
        let mut script = self.inner(&call.clone().without_first(skipped));
        script.0.insert(0, before);
        Some(script)
    }

    fn inner(&self, call: &Call) -> Script {
        self.script(call).unwrap_or_else(|| {
            let name = call.argument(0);
            Script::new()
                .err(format!("{name}: No such file or directory\n"))
                .exit(127)
        })
    }
}

/// The name of a program without a directory in which commands are found.
fn plain(program: &str) -> &str {
    PATHS
        .iter()
        .find_map(|path| program.strip_prefix(path))
        .unwrap_or(program)
}

fn echo(call: &Call) -> Script {
    let plain = call.argument(1) == "-n";
    let words = call.bytes_from(if plain { 2 } else { 1 });
    let mut line = words.join(&b' ');
    if !plain {
        line.push(b'\n');
    }
    Script::new().out(line)
}

/// `socat TCP-LISTEN:PORT[,..] EXEC:cat` answers what it gets; `socat - TCP:HOST:PORT`
/// sends its input to a port and writes what comes back.
fn socat(call: &Call) -> Script {
    let port = |address: &str, kind: &str| -> Option<u16> {
        let rest = address.strip_prefix(kind)?.split(',').next()?;
        rest.rsplit(':').next()?.parse().ok()
    };
    let (one, two) = (call.argument(1), call.argument(2));
    match (port(one, "TCP-LISTEN:"), port(two, "TCP:")) {
        (Some(port), None) if two == "EXEC:cat" => Script::new().serve(port, <[u8]>::to_vec),
        (None, Some(port)) if one == "-" => Script::new().read_stdin(move |input| {
            Script::new().step(Step::Connect {
                port,
                send: input.into(),
                then: Box::new(|answer| Script::new().out(answer)),
            })
        }),
        _ => Script::new()
            .err("socat: the mock knows TCP-LISTEN:PORT EXEC:cat and - TCP:HOST:PORT\n")
            .exit(1),
    }
}

/// Writes its format, with `\\n`, `\\t`, `\\\\` and bytes as `\\NNN`, and `%s` for each
/// word; again as long as there are words, as a shell does.
fn printf(call: &Call) -> Script {
    let mut words = call.bytes_from(2).iter();
    let mut out = Vec::new();
    loop {
        let before = words.len();
        let format = call.bytes_from(1).first().cloned().unwrap_or_default();
        if let Err(complaint) = print(&format, &mut words, &mut out) {
            return Script::new().err(complaint).exit(2);
        }
        // A format without a place for words is written once.
        if words.len() == 0 || words.len() == before {
            return Script::new().out(out);
        }
    }
}

fn print<'a>(
    mut rest: &[u8],
    words: &mut impl Iterator<Item = &'a Bytes>,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'\\', [b'0'..=b'7', ..]) => {
                let octal = |b: &&u8| (b'0'..=b'7').contains(*b);
                let digits = after.iter().take(3).take_while(octal).count();
                let value = after[..digits]
                    .iter()
                    .fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                out.push((value & 0xff) as u8);
                rest = &after[digits..];
            }
            (b'\\', [escape @ (b'n' | b't' | b'\\'), after @ ..]) => {
                out.push(match escape {
                    b'n' => b'\n',
                    b't' => b'\t',
                    other => *other,
                });
                rest = after;
            }
            (b'%', [b's', after @ ..]) => {
                out.extend_from_slice(words.next().map_or(&[], |word| word));
                rest = after;
            }
            (b'%', [b'%', after @ ..]) => {
                out.push(b'%');
                rest = after;
            }
            (b'%' | b'\\', _) => {
                return Err(
                    "printf: the mock knows %s, %%, \\n, \\t, \\\\ and \\NNN and no other\n",
                );
            }
            (byte, _) => out.push(*byte),
        }
    }
    Ok(())
}

fn cat(call: &Call) -> Script {
    let mut script = Script::new();
    for path in &call.argv[1..] {
        script = script.step(Step::Read {
            path: path.clone(),
            then: Box::new(|bytes| Script::new().out(bytes)),
        });
    }
    if call.argv.len() == 1 {
        script = script.step(Step::CopyStdin);
    }
    script
}

fn sleep(call: &Call) -> Script {
    let text = call.argument(1);
    let seconds = text.strip_suffix('s').unwrap_or(text).parse::<f64>();
    match seconds
        .ok()
        .and_then(|s| std::time::Duration::try_from_secs_f64(s).ok())
    {
        Some(duration) => Script::new().sleep(duration),
        None => Script::new()
            .err(format!("sleep: invalid time interval '{text}'\n"))
            .exit(1),
    }
}

fn id(call: &Call) -> Script {
    Script::new().out(match call.argument(1) {
        "-u" => format!("{}\n", call.uid),
        "-g" => format!("{}\n", call.gid),
        "-un" => format!("{}\n", call.user),
        _ => format!("uid={}({}) gid={}\n", call.uid, call.user, call.gid),
    })
}

fn sh(call: &Call) -> Script {
    if call.argument(1) != "-c" || call.argv.len() < 3 {
        return Script::new()
            .err("sh: the mock knows sh -c LINE and no other form\n")
            .exit(2);
    }
    line(call.argument(2))
}

/// The script of a shell line.
pub(super) fn line(text: &str) -> Script {
    match shell::parse(text) {
        Ok(lines) => Script::new().step(Step::Shell(ShellLines(Arc::new(lines)))),
        Err(why) => Script::new()
            .err(format!("sh: syntax error: {why}\n"))
            .exit(2),
    }
}
