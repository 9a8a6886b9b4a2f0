//! The hardening of a container as the engine tells it.

use serde_json::{Value, json};
use stacyvm::provider::Provider;
use stacyvm::sandbox::spec::{Mount, MountSource, SandboxSpec, Source};
use stacyvm::{ErrorKind, ExitStatus, SandboxId};

use super::{Host, IMAGE, container};

/// An image that asks for what hardening takes away.
struct Image(String);

impl Image {
    async fn make(host: &Host) -> Self {
        let name = format!("stacyvm-test/around-{}", SandboxId::random());
        let maker = format!("around-{}", SandboxId::random());
        let line = "mkdir /data && echo of the image > /data/a";
        host.docker(&["run", "--name", &maker, IMAGE, "sh", "-c", line])
            .await;
        let changes = [
            "VOLUME /data",
            "HEALTHCHECK --interval=1s CMD touch /checked",
            "USER 1000",
        ];
        let mut words = vec!["commit"];
        for change in changes {
            words.extend(["--change", change]);
        }
        words.extend([maker.as_str(), name.as_str()]);
        host.docker(&words).await;
        host.docker(&["rm", "-f", &maker]).await;
        Self(name)
    }

    fn spec(&self) -> SandboxSpec {
        let mut spec = SandboxSpec::image(IMAGE);
        spec.source = Source::Image(self.0.clone());
        spec
    }

    async fn end(self, host: &Host) {
        host.docker(&["rmi", "-f", &self.0]).await;
    }
}

/// The volumes without a name that nobody has.
async fn unnamed(host: &Host) -> Vec<String> {
    let list = ["volume", "ls", "-q", "--filter", "dangling=true"];
    let all = host.docker(&list).await;
    let unnamed = all.lines().filter(|name| name.len() == 64);
    unnamed.map(str::to_owned).collect()
}

async fn told(host: &Host, id: &SandboxId) -> Value {
    let text = host.docker(&["inspect", &container(id)]).await;
    let all: Value = serde_json::from_str(&text).unwrap();
    all[0].clone()
}

#[tokio::test]
async fn a_container_is_hardened_as_the_engine_tells_it() {
    let Some(host) = Host::open().await else {
        return;
    };
    let image = Image::make(&host).await;
    let id = host.sandbox(image.spec().memory_mib(128).cpus(0.5)).await;
    let seen = told(&host, &id).await;
    let of = &seen["HostConfig"];

    assert_eq!(of["CapDrop"], json!(["ALL"]));
    let names = of["CapAdd"].as_array().unwrap().iter();
    let names = names.filter_map(Value::as_str);
    let mut added: Vec<&str> = names.map(|name| name.trim_start_matches("CAP_")).collect();
    added.sort_unstable();
    let agents = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "KILL",
        "SETGID",
        "SETPCAP",
        "SETUID",
    ];
    assert_eq!(added, agents, "what the agent has, and no command");
    let options: Vec<&str> = of["SecurityOpt"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(options.contains(&"no-new-privileges:true"));
    let filter = options
        .iter()
        .find_map(|option| option.strip_prefix("seccomp="));
    let filter: Value = serde_json::from_str(filter.unwrap()).unwrap();
    assert_eq!(filter["defaultAction"], "SCMP_ACT_ERRNO");
    assert!(!options.iter().any(|option| option.contains("unconfined")));
    assert_eq!(of["Privileged"], false);
    assert_eq!(of["NetworkMode"], "none");
    assert_eq!(of["IpcMode"], "private");
    assert_eq!(of["PidMode"], "");
    assert_eq!(of["UTSMode"], "");
    assert!(matches!(of["UsernsMode"].as_str(), Some("")));
    for empty in [
        "Devices",
        "DeviceRequests",
        "GroupAdd",
        "VolumesFrom",
        "PortBindings",
        "Sysctls",
    ] {
        let value = &of[empty];
        let none = value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        assert!(none, "{empty}: {value}");
    }
    assert_eq!(of["PidsLimit"], 1024);
    assert_eq!(of["Memory"], 128 << 20);
    assert_eq!(of["MemorySwap"], of["Memory"], "no swap on top");
    assert_eq!(of["NanoCpus"], 500_000_000);
    assert!(!of["OomKillDisable"].as_bool().unwrap_or_default());
    assert_eq!(
        of["Ulimits"],
        json!([{"Name": "core", "Hard": 1, "Soft": 1}])
    );
    let tmp = of["Tmpfs"]["/tmp"].as_str().unwrap();
    assert!(
        tmp.contains("nosuid") && tmp.contains("nodev") && tmp.contains("size=64m"),
        "{tmp}"
    );
    assert_eq!(of["LogConfig"]["Type"], "none", "a log has no end");
    assert_eq!(of["AutoRemove"], true);
    assert_eq!(of["RestartPolicy"]["MaximumRetryCount"], 0);
    assert_eq!(seen["Config"]["Healthcheck"]["Test"], json!(["NONE"]));
    let masked = of["MaskedPaths"].as_array().unwrap();
    assert!(masked.contains(&json!("/proc/kcore")) && masked.contains(&json!("/sys/firmware")));
    assert!(
        of["ReadonlyPaths"]
            .as_array()
            .unwrap()
            .contains(&json!("/proc/sys"))
    );
    let binds = of["Binds"].as_array().unwrap();
    assert!(binds.iter().all(|bind| {
        bind.as_str()
            .is_some_and(|bind| bind.ends_with(":ro,nocopy"))
    }));
    assert_eq!(of["ReadonlyRootfs"], false, "on request alone");
    // The engine gives its own profile where the kernel has AppArmor.
    let has_apparmor = host
        .docker(&["info", "-f", "{{.SecurityOptions}}"])
        .await
        .contains("name=apparmor");
    let profile = seen["AppArmorProfile"].as_str().unwrap();
    assert_eq!(profile == "docker-default", has_apparmor, "{profile}");

    // As a command sees it: the image's user, no capability, no rights to be had.
    let (status, said) = host
        .sh_as(
            &id,
            "1000",
            "grep -E 'Cap(Eff|Bnd|Prm|Inh|Amb)|NoNewPrivs|Seccomp:' /proc/self/status",
        )
        .await;
    assert_eq!(status, ExitStatus::Code { code: 0 });
    for line in said.lines() {
        let (name, value) = line.split_once(':').unwrap();
        let expected = match name {
            "NoNewPrivs" => "1",
            "Seccomp" => "2",
            _ => "0000000000000000",
        };
        assert_eq!(value.trim(), expected, "{line}");
    }
    // The image's check would have run by now.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let (status, _) = host.sh(&id, "test -e /checked").await;
    assert!(!status.success(), "the image's check has run");
    assert!(seen["State"]["Health"].is_null());
    host.provider.destroy(&super::cx(), &id).await.unwrap();
    image.end(&host).await;
    host.end(&[]).await;
}

#[tokio::test]
async fn what_an_image_declares_goes_with_its_sandbox_and_opens_no_read_only_root() {
    let Some(host) = Host::open().await else {
        return;
    };
    let image = Image::make(&host).await;
    let before = unnamed(&host).await;
    let id = host.sandbox(image.spec()).await;
    assert_eq!(host.says(&id, "cat /data/a").await, "of the image");
    host.says(&id, "echo x > /data/b").await;
    assert_eq!(host.held().await.len(), 2, "it has the store's label");
    host.provider.destroy(&super::cx(), &id).await.unwrap();
    assert_eq!(host.held().await, Vec::<String>::new());

    let mut spec = image.spec();
    spec.read_only_root = true;
    let error = host.refused(spec.clone()).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.fact("field"), Some("read_only_root"));
    assert!(error.to_string().contains("/data"), "{error}");
    // With something of the caller's in its place there is no volume.
    let spec = spec.mount(Mount {
        target: "/data".to_owned(),
        source: MountSource::Tmpfs { size_mib: 8 },
        writable: true,
        size_mib: None,
    });
    let id = host.sandbox(spec).await;
    let seen = told(&host, &id).await;
    assert_eq!(seen["HostConfig"]["ReadonlyRootfs"], true);
    assert_eq!(host.held().await.len(), 1, "the container alone");
    for line in ["echo x > /x", "echo x > /etc/x"] {
        let (status, _) = host.sh(&id, line).await;
        assert!(!status.success(), "{line}");
    }
    host.says(&id, "echo x > /data/b").await;
    host.provider.destroy(&super::cx(), &id).await.unwrap();
    // Other tests have such volumes for a moment.
    for left in (0..50).rev() {
        let now = unnamed(&host).await;
        if now.iter().all(|name| before.contains(name)) {
            break;
        }
        assert!(left > 0, "{now:?}, before {before:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    image.end(&host).await;
    host.end(&[]).await;
}

#[tokio::test]
async fn a_limit_of_disk_is_in_force_or_refused() {
    let Some(host) = Host::open().await else {
        return;
    };
    let spec = SandboxSpec::image(IMAGE).disk_mib(16);
    if host.provider.capabilities().disk_limit == stacyvm::provider::Level::Absent {
        let error = host.refused(spec).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.fact("field"), Some("disk_mib"));
        assert!(error.to_string().contains("xfs"), "{error}");
        host.end(&[]).await;
        return;
    }
    let id = host.sandbox(spec).await;
    let (status, _) = host
        .sh(&id, "head -c 64000000 /dev/zero > /workspace/big")
        .await;
    assert!(!status.success(), "64 MB were written to 16 MiB");
    host.says(&id, "rm /workspace/big; echo x > /workspace/a")
        .await;
    host.end(&[&id]).await;
}

/// By the filter, which needs `--oci-seccomp`: gVisor itself has it signalled.
#[tokio::test]
async fn root_in_gvisor_signals_its_own_and_not_the_agent() {
    let Some(host) = Host::with_runtime(Some("runsc")).await else {
        return;
    };
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    for signal in ["0", "TERM", "KILL"] {
        let (status, said) = host.sh(&id, &format!("kill -{signal} 1")).await;
        assert!(!status.success(), "{signal}");
        assert!(said.contains("Operation not permitted"), "{said}");
    }
    // The shell tells of it on its own.
    let own = "exec 2>/dev/null; sleep 100 & kill $! && ! wait $! && echo ended";
    assert_eq!(host.says(&id, own).await, "ended");
    host.end(&[&id]).await;
}

/// gVisor's streams stay open where its kernel was killed, and the heartbeat of the
/// connection would notice that after forty seconds.
#[tokio::test]
async fn a_command_in_gvisor_ends_with_its_kernel() {
    let Some(host) = Host::with_runtime(Some("runsc")).await else {
        return;
    };
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let killed = async {
        host.says(&id, "true").await;
        let words = ["inspect", "--format", "{{.Id}}", &container(&id)];
        let kernel = kernel_of(host.docker(&words).await.trim());
        rustix::process::kill_process(kernel, rustix::process::Signal::KILL).unwrap();
    };
    let limit = std::time::Duration::from_secs(30);
    let ends = tokio::time::timeout(limit, host.sh(&id, "sleep 300"));
    let (ended, ()) = tokio::join!(ends, killed);
    assert_eq!(ended.expect("it hangs").0, ExitStatus::SandboxGone);
    host.end(&[&id]).await;
}

/// The process that is the kernel of a container in gVisor, by what it is told to boot.
fn kernel_of(container: &str) -> rustix::process::Pid {
    let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
    let boots = |told: &str| told.contains("\0boot\0") && told.contains(container);
    let found = processes.find_map(|entry| {
        let told = std::fs::read(entry.path().join("cmdline")).ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        boots(&String::from_utf8_lossy(&told)).then_some(pid)
    });
    rustix::process::Pid::from_raw(found.expect("no kernel of gVisor")).unwrap()
}
