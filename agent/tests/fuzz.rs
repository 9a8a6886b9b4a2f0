//! Mutated input, bounded and seeded: decoding never panics, and an agent that
//! is fed with anything goes on serving others.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod agent_support;

use std::io::{Read as _, Write as _};

use agent_support::{Agent, config, exec};
use stacyvm_agent::protocol::message::{self, *};
use stacyvm_agent::protocol::{HEADER_BYTES, Header, Kind};

/// A small generator (splitmix64), so that a run can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 if !bytes.is_empty() => bytes[at] = self.next().to_le_bytes()[0],
                1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at),
                _ => bytes.insert(at.min(bytes.len()), self.next().to_le_bytes()[0]),
            }
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let failure = Failure {
        kind: FailureKind::Invalid,
        message: "m".into(),
        subject: None,
        errno: Some(1),
    };
    let list = FileRequest {
        user: None,
        operation: FileOperation::List {
            path: b"/p".to_vec().into(),
            depth: 1,
        },
    };
    vec![
        message::encode(&exec("e", &["/no/such", "b"])),
        message::encode(&failure),
        message::encode(&list),
        message::encode(&config()),
        message::encode(&Hello::default()),
    ]
}

#[test]
fn decoding_mutated_bytes_never_panics() {
    let seeds = seeds();
    let mut random = Random(1);
    let mut decoded = 0;
    for _ in 0..20_000 {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        random.mutate(&mut bytes);
        decoded += usize::from(message::decode::<ExecRequest>(&bytes).is_ok());
        decoded += usize::from(message::decode::<Failure>(&bytes).is_ok());
        decoded += usize::from(message::decode::<FileRequest>(&bytes).is_ok());
        decoded += usize::from(message::decode::<AgentConfig>(&bytes).is_ok());
        decoded += usize::from(message::decode::<Entries>(&bytes).is_ok());
        decoded += usize::from(message::decode::<Hello>(&bytes).is_ok());
        if let Some(header) = bytes.first_chunk::<HEADER_BYTES>()
            && let Ok(header) = Header::decode(header)
        {
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }
    // Mutation that nothing survives would look at the first byte alone.
    assert!(decoded > 100, "{decoded}");
}

#[test]
fn an_agent_fed_with_anything_goes_on() {
    let agent = Agent::start(config());
    let mut random = Random(2);
    for _ in 0..150 {
        let mut host = agent.connect();
        host.stream.set_nonblocking(true).unwrap();
        for _ in 0..20 {
            let seeds = seeds();
            let mut payload = seeds[random.below(seeds.len())].clone();
            if random.below(2) == 0 {
                random.mutate(&mut payload);
            }
            // Everything but the request that ends the sandbox.
            let kind = Kind::ALL[random.below(Kind::ALL.len())];
            if kind == Kind::Terminate {
                continue;
            }
            let header = Header {
                length: u32::try_from(payload.len()).unwrap(),
                stream: u32::try_from(random.below(4)).unwrap(),
                kind,
            };
            let bytes = [&header.encode()[..], &payload].concat();
            if host.stream.write_all(&bytes).is_err() {
                break;
            }
            let _ = host.stream.read(&mut [0; 4096]);
        }
    }
    let mut host = agent.connect();
    let text = host.run(1, &exec("last", &["echo", "here"])).text();
    assert_eq!(text, "here\n");
}
