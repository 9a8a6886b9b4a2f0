//! The Docker provider fulfils the contract with gVisor (`runsc`), whose kernel is the
//! sandbox's own.

mod docker_engine;

fn main() -> std::process::ExitCode {
    // Probes ask what a kernel that is the host's lets through. This one is not, and
    // answers many of the calls by itself. A gibibyte there and back takes about the
    // minute that a case has, and a start, on a busy machine, the second that the
    // sandbox of the other one lives.
    let without = [
        "probes",
        "files.a_gibibyte_is_streamed",
        "lifecycle.an_end_is_taken_away",
    ];
    docker_engine::main(
        "runsc",
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
                "hostile.signals_to_process_1_end_nothing_in_silence",
                "gVisor lets root inside stop process 1, and the sandbox stands still until its lease is over",
            ),
        ],
    )
}
