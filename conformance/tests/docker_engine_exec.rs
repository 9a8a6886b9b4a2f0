//! The Docker provider without the agent: commands are the engine's own execs. What it
//! does not claim must be refused; probes want sandboxes that end with their host, which
//! it does not have.

mod docker_engine;

use docker_engine::Setting;

const WHOLE: &str =
    "an engine ends no command: what is to end before it does takes its sandbox with it";
const CODES: &str = "the engine tells the end by a signal as a code of 128 and more";
const END: &str = "the container's own process was told its end and cannot be told another one";
const NO_LIST: &str = "nobody inside lists commands";
const NO_ID: &str = "a command is ended by whoever started it, or with its sandbox";
const SECRETS: &str =
    "variables of a sandbox would be shown by `docker inspect`, so secrets are refused";
const TEXT: &str = "the engine's requests are JSON: arguments are text";
const NAMES: &str = "the engine sets no `USER`, and whom a number names only the image says";
const SIZE: &str = "the engine sets the size of a terminal after the start";

fn main() -> std::process::ExitCode {
    docker_engine::main(
        "runc",
        Setting::EngineExec,
        &["probes"],
        &[
            ("background.a_foreground_command_cannot_be_detached", WHOLE),
            (
                "background.a_survivor_is_ended_by_the_id_of_its_command",
                NO_ID,
            ),
            ("background.an_id_is_used_as_given_and_once", NO_LIST),
            ("concurrency.a_command_that_hangs_blocks_nothing", NO_LIST),
            ("errors.a_call_that_was_cancelled_says_so", WHOLE),
            ("exec.a_signal_is_told_as_it_was", CODES),
            ("exec.bytes_that_are_no_text_arrive", TEXT),
            ("exec.every_sandbox_sees_the_usual_environment", NAMES),
            ("honesty.secrets_are_told_nowhere", SECRETS),
            ("honesty.secrets_reach_commands", SECRETS),
            ("kill.a_command_that_ends_in_time_has_not_timed_out", CODES),
            ("kill.a_context_that_ends_takes_the_whole_tree", WHOLE),
            (
                "kill.a_context_that_is_cancelled_takes_the_whole_tree",
                WHOLE,
            ),
            ("kill.a_deadline_ends_its_command_alone", WHOLE),
            ("kill.a_deadline_ends_what_ignores_or_stands_still", WHOLE),
            ("kill.a_deadline_is_told_as_such", WHOLE),
            ("kill.a_deadline_passes_although_nobody_reads", WHOLE),
            ("kill.a_deadline_takes_the_whole_tree", WHOLE),
            ("kill.a_dropped_output_takes_the_whole_tree", WHOLE),
            ("kill.a_dropped_process_takes_the_whole_tree", WHOLE),
            ("kill.a_kill_by_id_takes_the_whole_tree", NO_ID),
            ("kill.a_kill_is_told_and_repeated_is_success", WHOLE),
            ("kill.a_kill_takes_the_whole_tree", WHOLE),
            ("kill.a_signal_after_the_end_is_not_found", WHOLE),
            ("kill.a_signal_is_told_as_a_signal", CODES),
            ("lifecycle.an_end_is_moved", END),
            ("lifecycle.an_end_is_taken_away", END),
            ("reattach.another_engine_moves_its_end", END),
            (
                "tty.a_command_has_a_terminal_of_the_size_that_was_asked_for",
                SIZE,
            ),
            (
                "tty.an_interrupt_that_is_typed_reaches_the_foreground",
                CODES,
            ),
            ("tty.dropping_it_takes_the_whole_tree", WHOLE),
        ],
    )
}
