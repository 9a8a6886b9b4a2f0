use bytes::Bytes;
use futures_util::TryStreamExt;

use super::{Bench, bench, path};
use crate::error::{ErrorKind, Result};
use crate::provider::Provider;
use crate::sandbox::files::{
    ByteStream, ExportRequest, FileKind, FileOperation, ImportRequest, WriteMode,
};

impl Bench {
    async fn export(&self, at: &str, contents: bool) -> Result<Vec<u8>> {
        let request = ExportRequest {
            user: None,
            path: path(at),
            contents,
            follow: false,
        };
        let data = self.mock.export_tar(&self.cx, &self.id, &request).await?;
        let pieces: Vec<Bytes> = data.try_collect().await?;
        Ok(pieces.concat())
    }

    async fn import(&self, at: &str, archive: &[u8]) -> Result<()> {
        let request = ImportRequest {
            user: None,
            path: path(at),
            parents: true,
            keep_owner: false,
        };
        // In pieces that fit nothing.
        let pieces: Vec<Result<Bytes>> = archive
            .chunks(777)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let data: ByteStream = Box::pin(futures_util::stream::iter(pieces));
        self.mock
            .import_tar(&self.cx, &self.id, &request, data)
            .await
    }
}

/// One header of an archive that a program would not write.
fn header(name: &str, kind: u8, link: &str) -> Vec<u8> {
    let mut block = vec![0_u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut all = members.concat();
    all.extend([0; 1024]);
    all
}

#[tokio::test]
async fn a_tree_survives_the_round_trip() {
    let bench = bench().await;
    let long = format!("/tmp/s/{}/{}", "d".repeat(120), "e".repeat(200));
    bench.make_dir(&long).await;
    let big = "x".repeat(200_000);
    bench
        .write("/tmp/s/big", WriteMode::Replace, &big)
        .await
        .unwrap();
    bench
        .write(&format!("{long}/f"), WriteMode::Replace, "deep")
        .await
        .unwrap();
    bench
        .write("/tmp/s/empty", WriteMode::Replace, "")
        .await
        .unwrap();
    let link = FileOperation::Link {
        target: b"big".to_vec(),
        path: path("/tmp/s/link"),
    };
    bench.file(None, link).await.unwrap();

    let tar = bench.export("/tmp/s", false).await.unwrap();
    assert_eq!(tar.len() % 512, 0);
    bench.import("/tmp/t", &tar).await.unwrap();
    assert!(bench.read(None, "/tmp/t/s/link").await.unwrap() == big);
    let copy = long.replace("/tmp/s", "/tmp/t/s");
    assert_eq!(
        bench.read(None, &format!("{copy}/f")).await.unwrap(),
        "deep"
    );
    assert_eq!(
        bench.stat("/tmp/t/s/link").await.unwrap().kind,
        FileKind::Link
    );
    assert_eq!(bench.stat("/tmp/t/s/empty").await.unwrap().size, 0);

    let tar = bench.export("/tmp/s", true).await.unwrap();
    bench.import("/tmp/u", &tar).await.unwrap();
    assert!(bench.read(None, "/tmp/u/big").await.unwrap() == big);
}

#[tokio::test]
async fn an_archive_of_another_program_is_read() {
    // What the host's tar writes is read, and it reads what we write.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("in")).unwrap();
    std::fs::write(at("in/a"), "one").unwrap();
    let name = "n".repeat(150);
    std::fs::write(at("in").join(&name), "long").unwrap();
    std::fs::hard_link(at("in/a"), at("in/b")).unwrap();
    let bench = bench().await;
    for format in ["gnu", "pax", "ustar"] {
        let mut tar = tokio::process::Command::new("tar");
        tar.arg("-C")
            .arg(folder.path())
            .arg(format!("--format={format}"));
        if format == "ustar" {
            tar.arg(format!("--exclude={name}"));
        }
        let output = tar.args(["-cf", "-", "in"]).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let target = format!("/tmp/{format}");
        bench.import(&target, &output.stdout).await.unwrap();
        let read = async |name: &str| bench.read(None, &format!("{target}/in/{name}")).await;
        assert_eq!(read("a").await.unwrap(), "one");
        assert_eq!(read("b").await.unwrap(), "one");
        if format != "ustar" {
            assert_eq!(read(&name).await.unwrap(), "long");
        }
    }
    std::fs::write(
        at("ours.tar"),
        bench.export("/tmp/gnu", true).await.unwrap(),
    )
    .unwrap();
    let mut tar = tokio::process::Command::new("tar");
    let tar = tar
        .arg("-C")
        .arg(folder.path())
        .args(["-xf"])
        .arg(at("ours.tar"));
    let output = tar
        .args(["--transform", "s,in,out,"])
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let read = std::fs::read_to_string(at("out").join(&name)).unwrap();
    assert_eq!(read, "long");
}

#[tokio::test]
async fn a_hostile_archive_changes_nothing() {
    let bench = bench().await;
    bench.make_dir("/tmp/in").await;
    bench
        .write("/tmp/kept", WriteMode::Replace, "kept")
        .await
        .unwrap();
    let fine = header("fine", b'0', "");
    let through = [header("l", b'2', "sub"), header("l/x", b'0', "")].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("up", archive(&[fine.clone(), header("../kept", b'0', "")])),
        (
            "absolute",
            archive(&[fine.clone(), header("/tmp/kept", b'0', "")]),
        ),
        (
            "through a link out",
            archive(&[
                fine.clone(),
                header("l", b'2', ".."),
                header("l/kept", b'0', ""),
            ]),
        ),
        ("through a link", archive(&[fine.clone(), through])),
        (
            "hard link out",
            archive(&[fine.clone(), header("h", b'1', "../kept")]),
        ),
        (
            "hard link through a link",
            archive(&[
                fine.clone(),
                header("l", b'2', ".."),
                header("h", b'1', "l/kept"),
            ]),
        ),
        ("device", archive(&[fine.clone(), header("d", b'3', "")])),
        ("pipe", archive(&[fine.clone(), header("p", b'6', "")])),
        ("short", fine.clone()),
        ("garbage", vec![b'x'; 5120]),
        ("empty", Vec::new()),
    ];
    for (name, bytes) in cases {
        let error = bench.import("/tmp/in", &bytes).await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}: {error}");
        let left = bench.stat("/tmp/in/fine").await;
        assert!(left.is_err(), "{name} left something");
    }
    assert_eq!(bench.read(None, "/tmp/kept").await.unwrap(), "kept");
    let bad_sum = {
        let mut bytes = archive(&[fine]);
        bytes[0] = b'g';
        bytes
    };
    assert!(bench.import("/tmp/in", &bad_sum).await.is_err());
}

#[tokio::test]
async fn attributes_of_an_archive_are_set_last_and_without_set_id_bits() {
    let bench = bench().await;
    let with_mode = |name, kind, mode: &str| {
        let mut block = header(name, kind, "");
        block[100..107].copy_from_slice(mode.as_bytes());
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    };
    let members = [
        with_mode(".", b'5', "0000000"),
        with_mode("closed", b'5', "0000555"),
        with_mode("closed/program", b'0', "0006755"),
        header("link", b'2', "/etc"),
    ];
    bench.import("/tmp/in", &archive(&members)).await.unwrap();
    let mode = async |at| bench.stat(at).await.unwrap().mode;
    assert_eq!(mode("/tmp/in").await, 0o755, "it keeps its own");
    assert_eq!(mode("/tmp/in/closed").await, 0o555);
    assert_eq!(mode("/tmp/in/closed/program").await, 0o755);
    let target = bench.stat("/tmp/in/link").await.unwrap().target;
    assert_eq!(target, Some(b"/etc".to_vec()));
}

#[tokio::test]
async fn what_cannot_be_read_is_not_left_out() {
    let bench = bench().await;
    let error = bench.export("/root", false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let error = bench.export("/etc/passwd", true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotDirectory);
}
