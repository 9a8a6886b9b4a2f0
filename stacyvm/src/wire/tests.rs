use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(any(feature = "http", feature = "server"))]
use bytes::Bytes;
#[cfg(any(feature = "http", feature = "server"))]
use futures_util::{StreamExt as _, stream};

use super::error::{ErrorBody, FACTS, status};
use super::exec::ExecBody;
use super::frame::{Decoder, Kind, LONGEST, encode, encode_long, encode_numbered};
use super::sandbox::{CreateBody, ProviderReply, SandboxReply};
use super::{Raw, Time, reply, request, to_json};
use crate::error::{Error, ErrorKind, Retry};
use crate::provider::Level;
use crate::sandbox::exec::ExecSpec;

#[test]
fn bytes_survive_whether_they_are_text_or_not() {
    for bytes in [b"plain".to_vec(), vec![0xff, 0x00, 0xfe], Vec::new()] {
        let text = to_json(&Raw(bytes.clone())).unwrap();
        assert_eq!(reply::<Raw>(&text).unwrap().0, bytes);
    }
    assert_eq!(to_json(&Raw(b"a".to_vec())).unwrap(), b"\"a\"");
    for bad in ["1", r#"{"base64":"!"}"#, r#"{"base64":"YQ==","x":1}"#] {
        assert!(reply::<Raw>(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn moments_survive_before_and_after_1970() {
    let second = Duration::from_secs(1);
    for time in [
        UNIX_EPOCH,
        UNIX_EPOCH - second,
        UNIX_EPOCH - Duration::new(1, 1),
        UNIX_EPOCH + Duration::new(1, 999_999_999),
        SystemTime::now(),
    ] {
        assert_eq!(Time::from(time).to_system(), Some(time));
    }
    let none = Time {
        seconds: 0,
        nanoseconds: 1_000_000_000,
    };
    assert_eq!(none.to_system(), None);
    let none = Time {
        seconds: i64::MIN,
        nanoseconds: 0,
    };
    // Whether there is such a moment is the host's to say; it must not panic.
    let _ = none.to_system();
}

#[test]
fn frames_are_found_however_they_are_cut() {
    let mut all = encode(Kind::Head, b"{}").to_vec();
    all.extend_from_slice(&encode_numbered(Kind::Stdin, 7, b"abc"));
    all.extend_from_slice(&encode_long(Kind::Data, &vec![5; LONGEST + 1]));
    for step in [1, 3, 4096, all.len()] {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for piece in all.chunks(step) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                found.push(frame);
            }
        }
        assert!(!decoder.is_within_a_frame());
        let kinds: Vec<Kind> = found.iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds, [Kind::Head, Kind::Stdin, Kind::Data, Kind::Data]);
        let (number, payload) = found[1].clone().numbered().unwrap();
        assert_eq!((number, &payload[..]), (7, &b"abc"[..]));
        assert_eq!(
            (found[2].payload.len(), found[3].payload.len()),
            (LONGEST, 1)
        );
    }
}

#[test]
fn a_frame_that_is_too_long_or_unknown_is_refused_before_its_bytes_come() {
    let long = u32::try_from(LONGEST + 1).unwrap().to_be_bytes();
    for header in [
        [long[0], long[1], long[2], long[3], 2],
        [0, 0, 0, 1, 99],
        [0xff; 5],
    ] {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&header);
        let error = decoder.next_frame().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(decoder.buffer().capacity() < LONGEST);
    }
    let short = encode(Kind::Credit, b"abc");
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(&short);
    let frame = decoder.next_frame().unwrap().unwrap();
    assert!(frame.clone().credit().is_err() && frame.numbered().is_err());
}

#[test]
fn requests_are_strict_and_name_the_field_but_no_value() {
    let id = "s1";
    for (text, field) in [
        (
            format!(r#"{{"id":"{id}","spec":{{"memory":1}}}}"#),
            "memory",
        ),
        (
            format!(r#"{{"id":"{id}","spec":{{}},"who":"hunter2"}}"#),
            "who",
        ),
        (r#"{"spec":{}}"#.to_owned(), "id"),
        (format!(r#"{{"id":"{id}","id":"{id}","spec":{{}}}}"#), "id"),
        (
            format!(r#"{{"id":"{id}","spec":{{}},"secrets":{{"A":["hunter2"]}}}}"#),
            "body",
        ),
        (
            format!(r#"{{"id":"{id}","spec":{{"env":"hunter2"}}}}"#),
            "body",
        ),
        ("{".to_owned(), "body"),
        (String::new(), "body"),
    ] {
        let error = request::<CreateBody>(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
        assert_eq!(error.fact("field"), Some(field), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let error = request::<ExecBody>(br#"{"exec":"x1","argv":[],"cwd":"/"}"#).unwrap_err();
    assert_eq!(error.fact("field"), Some("cwd"));
}

#[test]
fn replies_are_lenient() {
    let text = br#"{"id":"s1","state":"running","mood":"fine"}"#;
    assert_eq!(reply::<SandboxReply>(text).unwrap().id.as_str(), "s1");
    let told: ProviderReply = reply(
        br#"{"info":{"name":"n","runtime":"r","versions":{}},"capabilities":
            {"dial":true,"teleport":true,"isolation":"aura","ttl":"enforced"},"more":1}"#,
    )
    .unwrap();
    let claims = told.claims();
    assert!(claims.dial && claims.ttl == Level::Enforced);
    assert_eq!(claims.isolation, crate::provider::Isolation::None);
}

#[test]
fn a_command_survives_with_bytes_and_short_times() {
    let mut spec = ExecSpec::new([b"a".as_slice(), &[0xff]]);
    spec.timeout = Some(Duration::from_nanos(1));
    spec.env.push(("A".into(), "b".into()));
    let text = to_json(&ExecBody::from(&spec)).unwrap();
    let read = ExecSpec::from(request::<ExecBody>(&text).unwrap());
    assert_eq!((&read.argv, &read.env), (&spec.argv, &spec.env));
    assert_eq!(read.timeout, Some(Duration::from_micros(1)));
}

#[test]
fn every_kind_of_error_survives_with_its_facts() {
    assert!(FACTS.is_sorted(), "it is searched by halves");
    for kind in ErrorKind::ALL {
        let error = Error::new(*kind, "what failed")
            .operation("exec")
            .provider("inner")
            .context("path", "/a")
            .retry(Retry::Maybe {
                after: Duration::from_millis(5),
            })
            .source(std::io::Error::other("the cause"));
        let text = to_json(&ErrorBody::from(&error)).unwrap();
        let read = reply::<ErrorBody>(&text).unwrap().into_error();
        assert_eq!(read.kind(), *kind);
        assert_eq!(read.message(), "what failed: the cause");
        assert_eq!(read.failed_operation(), "exec");
        assert_eq!(read.fact("path"), Some("/a"));
        assert_eq!(read.fact("served_by"), Some("inner"));
        assert_eq!(read.retryable(), error.retryable());
        assert!((400..600).contains(&status(*kind)));
    }
}

#[test]
fn what_a_server_makes_up_is_bounded_and_escaped() {
    let facts: Vec<String> = (0..1000).map(|n| format!("[\"k{n}\",\"v\"]")).collect();
    let text = format!(
        r#"{{"kind":"on_fire","message":"a\u001b[2J{}","operation":"rm","retry":"tomorrow",
            "retry_after_ms":99999999,"context":[{}]}}"#,
        "x".repeat(100_000),
        facts.join(",")
    );
    let error = reply::<ErrorBody>(text.as_bytes()).unwrap().into_error();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert_eq!(error.fact("kind"), Some("on_fire"));
    assert!(error.message().len() < 10_000 && !error.message().contains('\x1b'));
    assert!(error.facts().len() < 100);
    assert_eq!(error.retryable(), Retry::Never);
    assert_eq!(error.failed_operation(), "");
}

#[cfg(any(feature = "http", feature = "server"))]
#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_wherever_it_does() {
    use super::stream::{Frames, body, items};

    let source = stream::iter([Ok(Bytes::from_static(b"ab")), Ok(Bytes::from_static(b"c"))]);
    let write = |bytes: Bytes| Ok(encode(Kind::Data, &bytes));
    let end = || Ok(encode(Kind::End, &[]));
    let whole: Vec<Result<Bytes, ()>> = body(None, source.boxed(), write, end).collect().await;
    let whole: Vec<u8> = whole
        .into_iter()
        .flat_map(|b| b.unwrap().to_vec())
        .collect();
    for cut in 0..=whole.len() {
        let bytes = Bytes::copy_from_slice(&whole[..cut]);
        let frames = Frames::new(stream::iter([Ok(bytes)]).boxed());
        let read = items(frames, |frame| Ok(frame.payload), |_| Ok(()));
        let read: Vec<_> = read.collect().await;
        if cut == whole.len() {
            let all: Vec<u8> = read.into_iter().flat_map(|b| b.unwrap().to_vec()).collect();
            assert_eq!(all, b"abc");
        } else {
            let error = read.last().unwrap().as_ref().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "cut at {cut}");
        }
    }
}
