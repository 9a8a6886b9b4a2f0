//! The Docker provider fulfils the contract with gVisor (`runsc`), whose kernel is the
//! sandbox's own.

mod docker_engine;

use docker_engine::Setting;

/// The agent's variables (`PATH`, `HOME` and those of the image), addresses, and where its
/// descriptors lead. Pipes of other commands can be opened by it; the agent's memory,
/// program, directories and channel cannot, nor can it be signalled.
const TO_ALL: &str = "gVisor tells every process inside of every other one";

fn main() -> std::process::ExitCode {
    // A gibibyte there and back takes about the minute that a case has, and a start, on
    // a busy machine, the second that the sandbox of the other one lives.
    let without = [
        "files.a_gibibyte_is_streamed",
        "lifecycle.an_end_is_taken_away",
    ];
    docker_engine::main(
        "runsc",
        Setting::Default,
        &without,
        &[
            (
                "honesty.set_id_gives_no_rights",
                "gVisor has no line NoNewPrivs in /proc/self/status",
            ),
            (
                "files.a_write_that_is_given_up_leaves_the_old_file",
                "gVisor has no files without names, so a write that is killed leaves its hidden name",
            ),
            (
                "files.a_write_that_fails_leaves_the_old_file",
                "gVisor has no files without names, so a write that is killed leaves its hidden name",
            ),
            (
                "limits.a_share_of_processors_is_held",
                "gVisor's times count waiting for a processor; by the host's cgroup the share holds",
            ),
            (
                "limits.memory_of_one_is_not_taken_from_another",
                "where memory is full the host's kernel kills gVisor's, and the sandbox ends",
            ),
            (
                "limits.files_in_memory_count_as_memory",
                "where memory is full the host's kernel kills gVisor's, or it stands still",
            ),
            (
                "probes.limits.processors",
                "gVisor's times count waiting for a processor; by the host's cgroup the share holds",
            ),
            (
                "mounts.a_host_directory_gives_no_devices_and_no_set_id",
                "the engine has no nosuid and nodev for what may be written; gVisor gives no \
                 rights by set-id files and opens no devices of the host",
            ),
            ("probes.agent.environment", TO_ALL),
            ("probes.agent.maps", TO_ALL),
            ("probes.agent.descriptors", TO_ALL),
            ("probes.agent.namespaces", TO_ALL),
            ("probes.agent.supervisor_descriptors", TO_ALL),
        ],
    )
}
