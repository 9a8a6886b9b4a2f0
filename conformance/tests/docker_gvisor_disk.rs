//! The Docker provider saves snapshots with gVisor where that writes to the container's
//! own layer (`runsc-disk`, registered with `--overlay2=none`): the rest of the contract
//! is judged with `runsc`.

mod docker_engine;

use docker_engine::Setting;

fn main() -> std::process::ExitCode {
    let suites = stacyvm_conformance::CASES
        .iter()
        .map(stacyvm_conformance::Case::suite);
    let others: Vec<&str> = suites.filter(|suite| *suite != "snapshots").collect();
    docker_engine::main("runsc-disk", Setting::Default, &others, &[])
}
