//! The files that are made for a sandbox.

use std::os::fd::AsFd;

use super::fault::Result;
use super::mounts::{directory, needed_directory, unfit, write_new};
use crate::helper_protocol::Launch;

/// The user that commands run as in a view of the host.
pub(crate) const USER_ID: u32 = 1000;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    user:x:1000:1000:user:/home/user:/bin/bash\n\
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n";

/// Names and addresses, in every sandbox.
pub(crate) fn network_files(root: impl AsFd, launch: &Launch) -> Result<()> {
    let etc = needed_directory(root, "/etc")?;
    let hosts = format!(
        "127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        name = launch.hostname
    );
    let hostname = format!("{}\n", launch.hostname);
    for (name, content) in [
        ("hosts", &hosts),
        ("hostname", &hostname),
        ("resolv.conf", &launch.resolv_conf),
    ] {
        write_new(&etc, name, content.as_bytes(), 0o644).map_err(|failed| match failed.errno {
            Some(libc::EISDIR) => unfit(
                failed,
                format!("one in which /etc/{name} is a file, or nothing"),
            ),
            _ => failed,
        })?;
    }
    Ok(())
}

/// Users and groups, in a view of the host, which has none of its own.
pub(crate) fn account_files(root: impl AsFd) -> Result<()> {
    let etc = directory(root, "/etc")?;
    write_new(&etc, "passwd", PASSWD.as_bytes(), 0o644)?;
    write_new(&etc, "group", GROUP.as_bytes(), 0o644)
}
