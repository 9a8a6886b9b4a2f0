//! From the source to the archive: counted, hashed, kept, decompressed.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::image::caps::{self, Caps};
use crate::image::digest::{Digest, Hashing};
use crate::image::manifest::{self, media};

use super::Expected;

/// Bytes that go from one thread to the other at once.
const CHUNK: usize = 256 * 1024;
/// Chunks that wait for the one that is slower.
const WAITING: usize = 8;

enum Message {
    Bytes(Vec<u8>),
    Failed,
}

/// Where decompressed bytes are read.
pub(super) struct Receiving {
    from: Receiver<Message>,
    chunk: Vec<u8>,
    used: usize,
}

pub(super) struct Sending(SyncSender<Message>);

pub(super) fn pair() -> (Sending, Receiving) {
    let (sender, from) = sync_channel(WAITING);
    let receiving = Receiving {
        from,
        chunk: Vec::new(),
        used: 0,
    };
    (Sending(sender), receiving)
}

impl Read for Receiving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.chunk.len() {
            match self.from.recv() {
                Ok(Message::Bytes(chunk)) => (self.chunk, self.used) = (chunk, 0),
                Ok(Message::Failed) => return Err(io::Error::other("the source failed")),
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.used);
        buffer[..count].copy_from_slice(&self.chunk[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

/// What was read.
pub(super) struct Fed {
    pub(super) blob: Digest,
    pub(super) size: u64,
    pub(super) diff_id: Digest,
    pub(super) media_type: &'static str,
}

const HANG_UP: &str = "nobody reads the layer any more";

/// Whether this is the error of a feeder whose reader stopped first.
pub(super) fn is_hang_up(error: &Error) -> bool {
    error.message() == HANG_UP
}

/// Reads a source to its end.
#[expect(
    clippy::needless_pass_by_value,
    reason = "that nobody sends any more is seen by its end"
)]
pub(super) fn feed(
    context: &Context,
    caps: &Caps,
    source: &mut dyn Read,
    keep: Option<&File>,
    expected: &Expected,
    to: Sending,
) -> Result<Fed> {
    let mut sink = |chunk: Vec<u8>| {
        let sent = to.0.send(Message::Bytes(chunk));
        sent.map_err(|_| Error::new(ErrorKind::Cancelled, HANG_UP))
    };
    let fed = feed_all(context, caps, source, keep, expected, &mut sink);
    if fed.is_err() {
        // Where nobody waits for it any more, nobody misses it.
        let _ = to.0.send(Message::Failed);
    }
    fed
}

/// Decompresses a source to its end, judges it, and gives its bytes away.
pub(super) fn decompress(
    context: &Context,
    caps: &Caps,
    source: &mut dyn Read,
    expected: &Expected,
    to: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Fed> {
    feed_all(context, caps, source, None, expected, &mut |chunk| {
        to(&chunk)
    })
}

/// What takes decompressed bytes.
type Sink<'a> = &'a mut dyn FnMut(Vec<u8>) -> Result<()>;

/// Bytes as they come: bounded, counted, kept.
struct Coming<'a> {
    source: Hashing<&'a mut dyn Read>,
    keep: Option<&'a File>,
    context: &'a Context,
    left: u64,
    /// How many there may be.
    most: u64,
    /// What ended it, which an `io::Error` alone cannot say.
    failure: Option<Error>,
}

impl Coming<'_> {
    fn fail(&mut self, error: Error) -> io::Error {
        self.failure = Some(error);
        io::Error::other("stopped")
    }
}

impl Read for Coming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Err(error) = self.context.check() {
            return Err(self.fail(error));
        }
        let count = match self.source.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.fail(source_failed(error))),
        };
        let Some(left) = self.left.checked_sub(count as u64) else {
            let error = caps::reached("blob_bytes", self.most, "a blob is too long");
            return Err(self.fail(error));
        };
        self.left = left;
        if let Some(mut keep) = self.keep {
            if let Err(error) = keep.write_all(&buffer[..count]) {
                return Err(self.fail(crate::image::store::failed("write a blob", error)));
            }
            fault_point!("image.blob.bytes");
        }
        Ok(count)
    }
}

/// The error of a source: its own, where it is one of ours.
fn source_failed(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => Error::new(
            ErrorKind::Unavailable,
            "the source of the image cannot be read",
        )
        .source(error),
    }
}

/// The first bytes tell how a layer is compressed; what its media type says is
/// wrong too often.
enum Form {
    Plain,
    Gzip,
    Zstd,
}

fn form_of(start: &[u8]) -> Result<Form> {
    Ok(match start {
        [0x1f, 0x8b, ..] => Form::Gzip,
        // The second is a frame that is skipped, as in zstd:chunked.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Form::Zstd,
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            return Err(Error::unsupported(
                "the layer is compressed with bzip2 or xz, expected gzip, zstd or none",
            ));
        }
        _ => Form::Plain,
    })
}

fn feed_all(
    context: &Context,
    caps: &Caps,
    source: &mut dyn Read,
    keep: Option<&File>,
    expected: &Expected,
    to: Sink<'_>,
) -> Result<Fed> {
    if let Some(size) = expected.size.filter(|size| *size > caps.blob_bytes) {
        return Err(caps::reached(
            "blob_bytes",
            caps.blob_bytes,
            &format!("a layer has {size} bytes"),
        ));
    }
    let most = expected.size.unwrap_or(caps.blob_bytes);
    let coming = Coming {
        source: Hashing::new(source),
        keep,
        context,
        left: most,
        most,
        failure: None,
    };
    let mut coming = BufReader::with_capacity(CHUNK, coming);
    let form = match coming.fill_buf() {
        Ok(start) => form_of(start)?,
        Err(error) => return Err(why(&mut coming, error, expected)),
    };
    let mut plain = Counted {
        state: Sha256::new(),
        bytes: 0,
    };
    let hash = !matches!(form, Form::Plain);
    let (media_type, read) = match form {
        Form::Plain => {
            let read = pour(caps, &mut Bare(&mut coming), &mut plain, hash, to);
            (media::LAYER, read)
        }
        Form::Gzip => {
            let mut decoder = Gzip(flate2::bufread::MultiGzDecoder::new(&mut coming));
            (
                media::LAYER_GZIP,
                pour(caps, &mut decoder, &mut plain, hash, to),
            )
        }
        Form::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&mut coming);
            let mut decoder = Zstd(decoder.map_err(malformed)?);
            (
                media::LAYER_ZSTD,
                pour(caps, &mut decoder, &mut plain, hash, to),
            )
        }
    };
    match read {
        Ok(()) => {}
        Err(Stopped::Own(error)) => return Err(error),
        Err(Stopped::Read(error)) => return Err(why(&mut coming, error, expected)),
    }
    let (_, blob, size) = coming.into_inner().source.finish();
    let diff_id = if hash { plain.digest() } else { blob };
    judge("size", expected.size, size)?;
    judge("digest", expected.blob, blob)?;
    judge("diff id", expected.diff_id, diff_id)?;
    Ok(Fed {
        blob,
        size,
        diff_id,
        media_type,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "small values, compared once")]
fn judge<T: PartialEq + std::fmt::Display>(
    what: &str,
    expected: Option<T>,
    found: T,
) -> Result<()> {
    match expected {
        Some(expected) if expected != found => Err(Error::new(
            ErrorKind::Corrupt,
            format!("the {what} of a layer is {found}, expected {expected}"),
        )
        .context(
            "remedy",
            "get the image again; if it stays, its source is damaged",
        )),
        _ => Ok(()),
    }
}

struct Counted {
    state: Sha256,
    bytes: u64,
}

impl Counted {
    fn digest(self) -> Digest {
        Digest::from_bytes(self.state.finalize().into())
    }
}

enum Stopped {
    Own(Error),
    Read(io::Error),
}

/// A reader that tells how many bytes of the blob it used.
trait Decode: Read {
    fn used(&self) -> u64;
}

type Source<'a, 'b> = &'a mut BufReader<Coming<'b>>;
struct Bare<'a, 'b>(Source<'a, 'b>);
struct Gzip<'a, 'b>(flate2::bufread::MultiGzDecoder<Source<'a, 'b>>);
struct Zstd<'a, 'b>(zstd::stream::read::Decoder<'static, Source<'a, 'b>>);

fn used(source: &BufReader<Coming<'_>>) -> u64 {
    source.get_ref().source.count()
}

impl Read for Bare<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}
impl Decode for Bare<'_, '_> {
    fn used(&self) -> u64 {
        used(self.0)
    }
}
impl Read for Gzip<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}
impl Decode for Gzip<'_, '_> {
    fn used(&self) -> u64 {
        used(self.0.get_ref())
    }
}
impl Read for Zstd<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}
impl Decode for Zstd<'_, '_> {
    fn used(&self) -> u64 {
        used(self.0.get_ref())
    }
}

fn pour(
    caps: &Caps,
    from: &mut dyn Decode,
    plain: &mut Counted,
    hash: bool,
    to: Sink<'_>,
) -> std::result::Result<(), Stopped> {
    loop {
        let mut chunk = vec![0; CHUNK];
        let mut filled = 0;
        while filled < CHUNK {
            match from.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stopped::Read(error)),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        chunk.truncate(filled);
        plain.bytes += filled as u64;
        if plain.bytes > caps.layer_bytes {
            let error = caps::reached(
                "layer_bytes",
                caps.layer_bytes,
                "a layer unpacks to too much",
            );
            return Err(Stopped::Own(error));
        }
        let most = from.used().max(1).saturating_mul(caps.ratio);
        if plain.bytes > caps.ratio_floor && plain.bytes > most {
            let error = caps::reached(
                "ratio",
                caps.ratio,
                "a layer unpacks to too many times its bytes",
            );
            return Err(Stopped::Own(error));
        }
        if hash {
            plain.state.update(&chunk);
        }
        to(chunk).map_err(Stopped::Own)?;
    }
}

/// The error behind a read that failed: the source's own, or the decoder's.
fn why(coming: &mut BufReader<Coming<'_>>, error: io::Error, expected: &Expected) -> Error {
    match coming.get_mut().failure.take() {
        Some(failure) if failure.fact("cap") == Some("blob_bytes") && expected.size.is_some() => {
            Error::new(
                ErrorKind::Corrupt,
                "a layer has more bytes than its descriptor says",
            )
            .context(
                "remedy",
                "get the image again; if it stays, its source is damaged",
            )
        }
        Some(failure) => failure,
        None => malformed(error),
    }
}

fn malformed(error: io::Error) -> Error {
    manifest::invalid(
        "layer",
        "whole data of gzip or zstd, with nothing behind it",
    )
    .source(error)
}
