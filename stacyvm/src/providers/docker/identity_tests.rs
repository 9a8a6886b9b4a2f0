//! What runtimes claim, and what is believed of it.

use super::*;
use bollard::models::Runtime;

use Isolation::{Namespaces, UserKernel, VirtualMachine};

const HERE: &str = "2d5fdb87-4f97-438c-ae7a-c7a746f318ff";
const LINUX: &str = "Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org) #1 SMP";

#[test]
fn runtimes_are_known_by_their_usual_names() {
    for (name, path, claim, promise) in [
        ("runc", "runc", Namespaces, Namespaces),
        ("fast", "/opt/fast", Namespaces, Namespaces),
        ("kata", "", VirtualMachine, VirtualMachine),
        (
            "kata",
            "/opt/kata/bin/kata-runtime",
            VirtualMachine,
            VirtualMachine,
        ),
        ("kata-runtime", "/opt/x", VirtualMachine, VirtualMachine),
        ("kata-containers", "", VirtualMachine, VirtualMachine),
        ("kata-qemu", "", VirtualMachine, VirtualMachine),
        (
            "io.containerd.kata.v2",
            "io.containerd.kata.v2",
            VirtualMachine,
            VirtualMachine,
        ),
        (
            "mine",
            "/usr/bin/kata-runtime",
            VirtualMachine,
            VirtualMachine,
        ),
        (
            "mine",
            "/usr/bin/containerd-shim-kata-v2",
            VirtualMachine,
            VirtualMachine,
        ),
        ("runsc", "/usr/bin/runsc", UserKernel, UserKernel),
        ("runsc-hostnet", "/usr/bin/runsc", UserKernel, UserKernel),
        ("gvisor", "/opt/x", UserKernel, UserKernel),
        ("mine", "/usr/local/bin/runsc", UserKernel, UserKernel),
        (
            "io.containerd.runsc.v1",
            "io.containerd.runsc.v1",
            UserKernel,
            UserKernel,
        ),
        // The name claims what the program is known not to be.
        ("kata", "/usr/bin/runc", VirtualMachine, Namespaces),
        ("runsc", "/usr/sbin/crun", UserKernel, Namespaces),
        ("kata", "/usr/bin/runsc", VirtualMachine, UserKernel),
        ("katalog", "/opt/x", Namespaces, Namespaces),
    ] {
        assert_eq!(claimed(name, path), claim, "{name} {path}");
        assert_eq!(promised(name, path), promise, "{name} {path}");
    }
}

fn kernel(version: &str, boot_id: &str) -> Kernel {
    Kernel {
        version: version.to_owned(),
        boot_id: boot_id.to_owned(),
        gvisor: false,
    }
}

#[test]
fn a_kernel_that_is_shared_proves_nothing_whatever_it_says() {
    let gvisor = Kernel {
        gvisor: true,
        ..kernel("Linux version 4.4.0 #1 SMP", HERE)
    };
    for claim in [UserKernel, VirtualMachine] {
        for kernel in [&kernel(LINUX, HERE), &gvisor] {
            let seen = judge(claim, kernel, Some(HERE));
            assert!(matches!(seen, Seen::Wrong(_)), "{claim:?} {seen:?}");
        }
    }
}

#[test]
fn gvisor_is_told_by_what_it_alone_has() {
    let proved = |kernel: &Kernel| judge(UserKernel, kernel, Some(HERE)) == Seen::Proved;
    assert!(proved(&Kernel {
        gvisor: true,
        ..kernel("Linux version 9", "other")
    }));
    assert!(proved(&kernel(
        "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016",
        "other"
    )));
    assert!(proved(&kernel("Linux version 4.19.0-gvisor #1 SMP", "")));
    assert!(!proved(&kernel(LINUX, "other")));
    assert!(!proved(&kernel("", "")));
    // And it is no virtual machine.
    let seen = judge(
        VirtualMachine,
        &kernel("Linux version 4.19.0-gvisor", "x"),
        None,
    );
    assert!(matches!(seen, Seen::Wrong(_)), "{seen:?}");
}

#[test]
fn a_virtual_machine_is_told_by_its_kernel_and_never_without_a_comparison() {
    let seen = |kernel: &Kernel| judge(VirtualMachine, kernel, Some(HERE));
    let release = Seen::Release("6.1.0-18-amd64".to_owned());
    assert_eq!(seen(&kernel(LINUX, "other")), release);
    assert_eq!(judge(VirtualMachine, &kernel(LINUX, HERE), None), release);
    for dumb in [kernel("", "other"), kernel(LINUX, ""), kernel("Linux", "x")] {
        assert!(matches!(seen(&dumb), Seen::Wrong(_)), "{dumb:?}");
    }
}

#[test]
fn what_is_compared_with_is_a_runtime_that_shares_its_kernel() {
    let registered = |(name, path): &(&str, &str)| {
        let path = Some((*path).to_owned());
        let runtime = Runtime {
            path,
            ..Runtime::default()
        };
        ((*name).to_owned(), runtime)
    };
    let info = |runtimes: &[(&str, &str)], default: &str| SystemInfo {
        default_runtime: Some(default.to_owned()),
        runtimes: Some(runtimes.iter().map(registered).collect()),
        ..SystemInfo::default()
    };
    let of = |runtimes: &[(&str, &str)], default| plain_runtime(&info(runtimes, default));
    assert_eq!(
        of(&[("kata", "x"), ("runc", "runc")], "kata"),
        Some("runc".into())
    );
    assert_eq!(
        of(&[("crun", "/usr/bin/crun")], "crun"),
        Some("crun".into())
    );
    assert_eq!(of(&[("mine", "/opt/x")], "mine"), Some("mine".into()));
    assert_eq!(of(&[("runc", "/usr/bin/kata-runtime")], "runc"), None);
    assert_eq!(of(&[("kata", "kata-runtime")], "kata"), None);
    assert_eq!(plain_runtime(&SystemInfo::default()), None);
}
