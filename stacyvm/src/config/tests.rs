use std::os::unix::fs::PermissionsExt;

use super::*;

fn environment(home: &Path) -> Environment {
    Environment {
        config_home: Some(home.join("config")),
        state_home: Some(home.join("state")),
        ..Environment::default()
    }
}

fn origin_of(config: &Config, name: &str) -> Origin {
    config
        .settings()
        .into_iter()
        .find(|s| s.name == name)
        .unwrap()
        .origin
}

#[test]
fn the_caller_wins_over_the_environment_over_the_file_over_the_default() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("config/stacyvm/stacyvm.yaml");
    let none = Overrides::default();
    let config = Config::from_parts(&none, environment(home.path())).unwrap();
    assert_eq!(config.state_dir, home.path().join("state/stacyvm"));
    assert_eq!(origin_of(&config, "state_dir"), Origin::Default);

    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(
        &file,
        "state_dir: /from/file\nparked_helpers: 3\npolicy:\n  max_ttl: 2h\n",
    )
    .unwrap();
    let config = Config::from_parts(&none, environment(home.path())).unwrap();
    assert_eq!(config.state_dir, Path::new("/from/file"));
    assert_eq!(
        (config.parked_helpers, config.max_ttl),
        (3, Some(Duration::from_hours(2)))
    );
    assert_eq!(origin_of(&config, "policy.max_ttl"), Origin::File(file));

    let with_variable = Environment {
        state_dir: Some("/from/env".into()),
        ..environment(home.path())
    };
    let config = Config::from_parts(&none, with_variable.clone()).unwrap();
    assert_eq!(config.state_dir, Path::new("/from/env"));
    assert_eq!(
        origin_of(&config, "state_dir"),
        Origin::Environment("STACYVM_STATE_DIR".into())
    );

    let given = Overrides {
        state_dir: Some("/from/caller".into()),
        ..Overrides::default()
    };
    let config = Config::from_parts(&given, with_variable).unwrap();
    assert_eq!(config.state_dir, Path::new("/from/caller"));
    assert_eq!(origin_of(&config, "state_dir"), Origin::Caller);
}

#[test]
fn a_file_that_is_wrong_says_where_and_what() {
    for (text, word) in [
        ("state_dri: /x\n", "state_dri"),
        ("a: [\n", "line"),
        ("parked_helpers: many\n", "line 1"),
        ("policy:\n  max_ttl: 5 parsecs\n", "line 2"),
        ("providers:\n  a:\n    kind: oci\n    color: red\n", "color"),
    ] {
        let error = file::parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(word), "{text:?}: {error}");
    }
    file::parse("").unwrap();
    file::parse("# nothing\n").unwrap();
}

#[test]
fn a_value_out_of_its_range_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("x.yaml");
    for (text, field) in [
        ("parked_helpers: 65\n", "parked_helpers"),
        ("retry:\n  attempts: 0\n", "retry.attempts"),
        ("retry:\n  attempts: 101\n", "retry.attempts"),
        (
            "policy:\n  mount_roots: [/srv, rel]\n",
            "policy.mount_roots",
        ),
        ("images:\n  ca_files: [ca.pem]\n", "images.ca_files"),
        ("images:\n  insecure: [x.io/a]\n", "images.insecure"),
        ("images:\n  mirrors:\n    hub: [m.io]\n", "images.mirrors"),
        (
            "images:\n  mirrors:\n    docker.io: [\"https://m.io\"]\n",
            "images.mirrors.docker.io",
        ),
        (
            "images:\n  mirrors:\n    docker.io: [m.io/]\n",
            "images.mirrors.docker.io",
        ),
        ("images:\n  caps:\n    entries: 0\n", "images.caps.entries"),
        ("images:\n  caps:\n    layers: 501\n", "images.caps.layers"),
    ] {
        std::fs::write(&file, text).unwrap();
        let named = Overrides {
            file: Some(file.clone()),
            ..Overrides::default()
        };
        let error = Config::from_parts(&named, environment(home.path())).unwrap_err();
        assert_eq!(error.fact("field"), Some(field), "{text:?}");
        assert!(error.fact("remedy").is_some());
    }
}

#[test]
fn where_images_come_from_is_read_and_shown() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("x.yaml");
    let text = "images:\n  pull: never\n  mirrors:\n    docker.io: [\"m.io:5000\", h.io/hub]\n  \
                insecure: [\"m.io:5000\"]\n  ca_files: [/ca.pem]\n  caps:\n    layers: 500\n    ratio: 300\n";
    std::fs::write(&file, text).unwrap();
    let named = Overrides {
        file: Some(file.clone()),
        ..Overrides::default()
    };
    let config = Config::from_parts(&named, environment(home.path())).unwrap();
    assert_eq!(config.images.pull, crate::provider::Pull::Never);
    assert_eq!(
        config.images.mirrors["docker.io"],
        ["m.io:5000", "h.io/hub"]
    );
    let shown = config.settings();
    for (name, value) in [
        ("pull", "never"),
        ("mirrors", "docker.io: m.io:5000, h.io/hub"),
        ("insecure", "m.io:5000"),
        ("ca_files", "/ca.pem"),
        ("caps", "ratio: 300, layers: 500"),
    ] {
        let name = format!("images.{name}");
        let setting = shown.iter().find(|s| s.name == name).unwrap();
        assert_eq!(setting.value, value, "{name}");
        assert_eq!(setting.origin, Origin::File(file.clone()), "{name}");
    }
    #[cfg(all(target_os = "linux", feature = "image"))]
    {
        let (caps, default) = (
            crate::image::Caps::of(&config.images),
            crate::image::Caps::default(),
        );
        assert_eq!((caps.layers, caps.ratio), (500, 300));
        assert_eq!(caps.entries, default.entries);
    }
    // What the file leaves out is not said to come from it.
    std::fs::write(&file, "images:\n  insecure: [\"m.io:5000\"]\n").unwrap();
    let config = Config::from_parts(&named, environment(home.path())).unwrap();
    assert_eq!(origin_of(&config, "images.pull"), Origin::Default);
    assert_eq!(origin_of(&config, "images.insecure"), Origin::File(file));
    let caps = config.settings();
    let caps = caps.into_iter().find(|s| s.name == "images.caps").unwrap();
    assert_eq!(
        (caps.value.as_str(), caps.origin),
        ("default", Origin::Default)
    );
    let error = file::parse("images:\n  pull: often\n").unwrap_err();
    assert!(error.to_string().contains("often"), "{error}");
}

#[test]
fn a_named_file_must_exist_and_a_file_of_everybody_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("x.yaml");
    let named = Overrides {
        file: Some(file.clone()),
        ..Overrides::default()
    };
    let error = Config::from_parts(&named, environment(home.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    std::fs::write(&file, "parked_helpers: 0\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = Config::from_parts(&named, environment(home.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        Config::from_parts(&named, environment(home.path()))
            .unwrap()
            .parked_helpers,
        0
    );
}

#[test]
fn the_working_directory_is_never_read() {
    let home = tempfile::tempdir().unwrap();
    // Relative base directories are not absolute paths and count for nothing.
    let relative = Environment {
        config_home: None,
        state_home: Some(home.path().into()),
        ..Environment::default()
    };
    let config = Config::from_parts(&Overrides::default(), relative).unwrap();
    assert!(
        config
            .settings()
            .iter()
            .all(|s| !matches!(&s.origin, Origin::File(p) if !p.starts_with("/etc")))
    );
}

#[test]
fn an_unknown_provider_and_an_absurd_variable_are_named() {
    let home = tempfile::tempdir().unwrap();
    let bad = Environment {
        provider: Some("nosuch".into()),
        ..environment(home.path())
    };
    let error = Config::from_parts(&Overrides::default(), bad).unwrap_err();
    assert!(
        error.to_string().contains("nosuch") && error.to_string().contains("docker"),
        "{error}"
    );
    let bad = Environment {
        parked_helpers: Some("-1".into()),
        ..environment(home.path())
    };
    let error = Config::from_parts(&Overrides::default(), bad).unwrap_err();
    assert_eq!(error.fact("field"), Some("STACYVM_PARKED_HELPERS"));
}
