//! Proxies, as the environment names them.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::child::Pull;
use super::real::{BASIC, Registry};
use super::server::read_head;

/// A proxy for `CONNECT` that leads to one place, whatever it is asked for.
struct Proxy {
    host: String,
    /// The heads of the requests.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (noted, to) = (Arc::clone(&seen), to.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (noted, to) = (Arc::clone(&noted), to.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &to, &noted));
            }
        });
        Self { host, seen }
    }
}

fn serve(mut stream: TcpStream, to: &str, seen: &Mutex<Vec<String>>) {
    let Some(head) = read_head(&mut stream) else {
        return;
    };
    seen.lock().unwrap().push(head);
    let mut there = TcpStream::connect(to).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let (mut back, mut from) = (stream.try_clone().unwrap(), there.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut from, &mut back));
    // Either side may hang up.
    let _ = std::io::copy(&mut stream, &mut there);
    let _ = there.shutdown(std::net::Shutdown::Write);
}

#[test]
fn the_proxy_of_the_environment_is_used_but_where_it_is_not_to_be() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let proxy = Proxy::start(&registry.host);
    let file = registry.home.path().join("config.json");
    let auths = json!({"auths": {"registry.test": {"auth": BASIC}}});
    std::fs::write(&file, auths.to_string()).unwrap();
    // A name that only the proxy leads to.
    let pull = Pull {
        reference: "registry.test/team/app:1".to_owned(),
        ca_file: Some(registry.authority()),
        auth_file: Some(file),
        seconds: None,
    };
    let address = format!("http://ann:hush-4711@{}", proxy.host);
    pull.run(&[("HTTPS_PROXY", &address), ("NO_PROXY", "")])
        .unwrap();
    {
        let seen = proxy.seen.lock().unwrap();
        assert!(!seen.is_empty(), "the proxy was not used");
        for head in &*seen {
            assert!(head.starts_with("CONNECT registry.test:443 "), "{head}");
            let named = head.to_lowercase().contains("proxy-authorization: basic ");
            assert!(named, "{head}");
            // The registry's own stay between it and us.
            assert!(!head.contains(BASIC), "{head}");
        }
    }
    let before = proxy.seen.lock().unwrap().len();
    let without = [
        ("HTTPS_PROXY", address.as_str()),
        ("NO_PROXY", "other.test,registry.test"),
    ];
    let (kind, text) = pull.run(&without).unwrap_err();
    assert_eq!(kind, "unavailable", "{text}");
    assert_eq!(
        proxy.seen.lock().unwrap().len(),
        before,
        "the proxy was used"
    );
    assert!(!text.contains("4711"), "{text}");

    // One that is not there: its password is in no error.
    let dead = [
        ("HTTPS_PROXY", "http://ann:hush-4711@127.0.0.1:9"),
        ("NO_PROXY", ""),
    ];
    let (kind, text) = pull.run(&dead).unwrap_err();
    assert_eq!(kind, "unavailable", "{text}");
    assert!(!text.contains("4711"), "{text}");

    // Loopback is never asked through one.
    let near = Pull {
        reference: registry.reference().to_string(),
        ..pull
    };
    let auths = json!({"auths": {registry.host.clone(): {"auth": BASIC}}});
    std::fs::write(near.auth_file.as_ref().unwrap(), auths.to_string()).unwrap();
    near.run(&[("HTTPS_PROXY", &address), ("NO_PROXY", "")])
        .unwrap();
    assert_eq!(
        proxy.seen.lock().unwrap().len(),
        before,
        "the proxy was used"
    );
}
