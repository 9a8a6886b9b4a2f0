//! The Docker provider without added Linux capabilities: sandboxes have one user, whom
//! the agent is, too. What users do not touch runs with many of them (`docker.rs`).

mod docker_engine;

use docker_engine::Setting;

fn main() -> std::process::ExitCode {
    docker_engine::main(
        "runc",
        Setting::OneUser,
        &[
            "concurrency",
            "errors",
            "honesty",
            "labels",
            "lifecycle",
            "network",
            "ports",
            "probes",
            "reattach",
            "streaming",
            "tar",
            "watch",
        ],
        &[(
            "mounts.a_host_directory_gives_no_devices_and_no_set_id",
            "the engine has no nosuid and nodev for what may be written; no-new-privileges \
                 and the device cgroup stand for them (stacyvm/tests/docker_around/mounts.rs)",
        )],
    )
}
