//! `cp`: files in and out.

use futures_util::{StreamExt, stream};
use serde_json::{Map, Value, json};
use stacyvm::engine::Engine;
use stacyvm::provider::Users;
use stacyvm::sandbox::copy::CopyOptions;
use stacyvm::sandbox::files::{ExportRequest, GuestPath, ImportRequest, LeftOut};
use stacyvm::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::args::CpArgs;
use crate::output;
use crate::session::unless_interrupted;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Host(&'a str),
    Stream,
    Sandbox(&'a str, &'a str),
}

impl<'a> Side<'a> {
    /// A colon parts a sandbox from its path, unless a slash or dot comes first.
    fn of(text: &'a str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            Some((name, path)) if !name.is_empty() && !name.contains(['/', '.']) => {
                Self::Sandbox(name, path)
            }
            _ => Self::Host(text),
        }
    }
}

pub(crate) async fn cp(engine: &Engine, args: &CpArgs, json: bool) -> Result<u8> {
    let options = CopyOptions {
        keep_owner: args.archive,
        follow: args.follow_link,
    };
    let copy = async {
        match (Side::of(&args.source), Side::of(&args.destination)) {
            (Side::Sandbox(_, ""), _) | (_, Side::Sandbox(_, "")) => Err(Error::invalid(
                "path",
                "",
                "a path inside the sandbox",
                "write SANDBOX:PATH; SANDBOX:/ is all of it",
            )),
            (Side::Host(from), Side::Sandbox(name, to)) => {
                files(engine, args, name, true)
                    .await?
                    .copy_in(from, guest(to), options)
                    .await
            }
            (Side::Sandbox(name, from), Side::Host(to)) => {
                files(engine, args, name, false)
                    .await?
                    .copy_out(guest(from), to, options)
                    .await
            }
            (Side::Stream, Side::Sandbox(name, to)) => unpack(engine, args, name, &guest(to))
                .await
                .map(|()| LeftOut::default()),
            (Side::Sandbox(name, from), Side::Stream) => {
                pack(engine, args, name, &guest(from)).await
            }
            _ => Err(Error::invalid(
                "source and destination",
                format!("{} {}", args.source, args.destination),
                "one of them as SANDBOX:PATH, the other a path of this host or -",
                "copy between sandboxes in two steps",
            )),
        }
    };
    let left_out = unless_interrupted(copy).await?;
    for name in &left_out.names {
        let name = stacyvm::error::escape(&String::from_utf8_lossy(name));
        warn(args, json, &format!("left out, a socket or device: {name}"));
    }
    if left_out.more > 0 {
        let text = format!("left out, sockets or devices: {} more", left_out.more);
        warn(args, json, &text);
    }
    if json {
        let report = report(args, &left_out);
        if args.destination == "-" {
            // Standard output carries the archive.
            output::json_aside(&report);
        } else {
            super::printed(output::json(&report))?;
        }
    }
    Ok(0)
}

/// A remark, unless standard error carries the report.
fn warn(args: &CpArgs, json: bool, text: &str) {
    if !(json && args.destination == "-") {
        output::remark(text);
    }
}

fn report(args: &CpArgs, left_out: &LeftOut) -> Value {
    let names = left_out.names.iter().map(|name| {
        let mut object = Map::new();
        output::bytes(&mut object, "name", name);
        Value::Object(object)
    });
    json!({
        "source": args.source,
        "destination": args.destination,
        "left_out": names.collect::<Vec<_>>(),
        "left_out_more": left_out.more,
    })
}

/// Paths inside that are not absolute begin at the root, as with `docker cp`.
fn guest(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// What is copied out is read with root's rights, where there is root: whoever may
/// use the sandbox may see all of it. What is copied in belongs to the default user, who is to
/// work with it, unless owners are kept.
async fn files(engine: &Engine, args: &CpArgs, name: &str, inward: bool) -> Result<stacyvm::Files> {
    let sandbox = engine.get(name).await?;
    let has_root = sandbox.capabilities()?.users == Users::Many;
    let files = sandbox.files();
    Ok(match args.user.as_deref() {
        Some(user) => files.with_user(user),
        None if (inward && !args.archive) || !has_root => files,
        None => files.with_user("root"),
    })
}

async fn unpack(engine: &Engine, args: &CpArgs, name: &str, to: &str) -> Result<()> {
    let data = stream::try_unfold(tokio::io::stdin(), async |mut stdin| {
        let mut buffer = bytes::BytesMut::with_capacity(256 * 1024);
        match stdin.read_buf(&mut buffer).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some((buffer.freeze(), stdin))),
            Err(e) => Err(Error::new(ErrorKind::Internal, "cannot read standard input").source(e)),
        }
    });
    let request = ImportRequest {
        user: None,
        path: GuestPath::new(to)?,
        parents: false,
        keep_owner: args.archive,
    };
    files(engine, args, name, true)
        .await?
        .import_tar_with(request, data.boxed())
        .await
}

async fn pack(engine: &Engine, args: &CpArgs, name: &str, from: &str) -> Result<LeftOut> {
    let contents = from.ends_with("/.");
    let follow = args.follow_link || contents || from.ends_with('/');
    let request = ExportRequest {
        user: None,
        path: GuestPath::new(from)?,
        contents,
        follow,
    };
    let mut data = files(engine, args, name, false)
        .await?
        .export_tar_with(request)
        .await?;
    let mut stdout = tokio::io::stdout();
    let failed = |e| Error::new(ErrorKind::Internal, "cannot write to standard output").source(e);
    while let Some(chunk) = data.next().await {
        stdout.write_all(&chunk?).await.map_err(failed)?;
    }
    stdout.flush().await.map_err(failed)?;
    Ok(data.left_out())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(Side::of("sabc:/x"), Side::Sandbox("sabc", "/x"));
        assert_eq!(Side::of("./a:b"), Side::Host("./a:b"));
        assert_eq!(Side::of("/a:b"), Side::Host("/a:b"));
        assert_eq!(Side::of("-"), Side::Stream);
        assert_eq!(guest("x"), "/x");
    }
}
