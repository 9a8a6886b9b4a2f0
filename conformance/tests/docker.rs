//! The Docker provider fulfils the contract with runc, whose containers share the
//! host's kernel.

mod docker_engine;

fn main() -> std::process::ExitCode {
    docker_engine::main("runc", &[], &[])
}
