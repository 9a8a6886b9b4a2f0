//! The Docker provider fulfils the contract with runc, whose containers share the
//! host's kernel.

mod docker_engine;

use docker_engine::Setting;

fn main() -> std::process::ExitCode {
    docker_engine::main(
        "runc",
        Setting::Default,
        &[],
        &[(
            "mounts.a_host_directory_gives_no_devices_and_no_set_id",
            "the engine has no nosuid and nodev for what may be written; no-new-privileges \
             and the device cgroup stand for them (stacyvm/tests/docker_around/mounts.rs)",
        )],
    )
}
