//! The Docker provider fulfils the contract with gVisor (`runsc`), whose kernel is the
//! sandbox's own.

mod docker_engine;

fn main() -> std::process::ExitCode {
    docker_engine::main("runsc", &[])
}
