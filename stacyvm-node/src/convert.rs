//! Values that both sides know under different names, and calls.

use std::future::Future;
use std::time::{Duration, SystemTime};

use napi::bindgen_prelude::{Buffer, Either3, PromiseRaw, ToNapiValue, TypeName, Uint8Array};
use napi::{Either, Env, ValueType, sys};
use napi_derive::napi;
use stacyvm::{Error, ErrorKind, Result};
use tokio::sync::watch;

use crate::error;

/// A path inside, an argument, or data: bytes as they are, and text as UTF-8.
#[napi]
pub type Raw = Either<String, Uint8Array>;

/// A line for the shell inside, or an argument vector without a shell.
#[napi]
pub type Command = Either3<String, Uint8Array, Vec<Raw>>;

/// The bytes of a value, copied: its owner may change it while the call is under way.
pub(crate) fn bytes(value: Raw) -> Vec<u8> {
    match value {
        Either::A(text) => text.into_bytes(),
        Either::B(bytes) => bytes.to_vec(),
    }
}

/// Bytes for Node, not copied where nobody else holds them.
pub(crate) fn buffer(bytes: bytes::Bytes) -> Buffer {
    Vec::from(bytes).into()
}

/// A value for `JSON.parse`.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
}

/// A number that Node can hold. Beyond 2^53 its last digits are lost.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A time in milliseconds.
pub(crate) fn duration(field: &str, milliseconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(milliseconds / 1000.0).map_err(|_| {
        Error::invalid(
            field,
            milliseconds,
            "milliseconds, not below zero",
            "give a number of milliseconds, or leave it out",
        )
    })
}

/// A whole number of Node's.
pub(crate) fn count(field: &str, value: f64) -> Result<u64> {
    const MOST: f64 = 9_007_199_254_740_991.0;
    if value.fract() == 0.0 && (0.0..=MOST).contains(&value) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked"
        )]
        return Ok(value as u64);
    }
    Err(Error::invalid(
        field,
        value,
        "a whole number, not below zero",
        "give another number",
    ))
}

/// A whole number that must fit into another type. Node would make one that fits of any.
pub(crate) fn fits<T: TryFrom<u64>>(field: &str, value: f64, expected: &str) -> Result<T> {
    let whole = count(field, value)
        .ok()
        .and_then(|whole| T::try_from(whole).ok());
    whole.ok_or_else(|| Error::invalid(field, value, expected, "give such a number"))
}

/// The permission bits of a file.
pub(crate) fn mode_of(mode: Option<f64>) -> Result<Option<u32>> {
    let mode = mode.map(|mode| fits("mode", mode, "permission bits, at most 0o7777"));
    mode.transpose()
}

/// The number of a signal.
pub(crate) fn signal_of(signal: f64) -> Result<i32> {
    let number: u8 = fits("signal", signal, "the number or the name of a signal")?;
    Ok(number.into())
}

/// A moment that a `Date` gives in milliseconds since 1970; an invalid one gives none.
pub(crate) fn moment(milliseconds: f64) -> Result<SystemTime> {
    let apart = count("time", milliseconds.abs()).map(Duration::from_millis);
    let moment = apart.ok().and_then(|apart| {
        if milliseconds < 0.0 {
            SystemTime::UNIX_EPOCH.checked_sub(apart)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(apart)
        }
    });
    moment.ok_or_else(|| {
        let remedy = "give a `Date` that is a moment";
        Error::invalid("time", milliseconds, "a moment", remedy)
    })
}

/// A moment: a `Date`.
#[derive(Clone, Copy, Debug)]
pub struct Date(SystemTime);

impl From<SystemTime> for Date {
    fn from(time: SystemTime) -> Self {
        Self(time)
    }
}

impl TypeName for Date {
    fn type_name() -> &'static str {
        "Date"
    }

    fn value_type() -> ValueType {
        ValueType::Object
    }
}

impl ToNapiValue for Date {
    unsafe fn to_napi_value(env: sys::napi_env, date: Self) -> napi::Result<sys::napi_value> {
        let (apart, sign) = match date.0.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => (after, 1.0),
            Err(before) => (before.duration(), -1.0),
        };
        #[expect(clippy::cast_precision_loss, reason = "exact for 285,000 years")]
        let milliseconds = apart.as_millis() as f64 * sign;
        let of = Env::from_raw(env);
        let made = of.create_date(milliseconds)?;
        // SAFETY: `env` is the one that we were called with, and `made` is of it.
        unsafe { ToNapiValue::to_napi_value(env, made) }
    }
}

/// Gives a call up.
#[napi]
#[derive(Debug, Default)]
pub struct Cancel(watch::Sender<bool>);

#[napi]
impl Cancel {
    /// Of a call that is to begin.
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives it up, where it is under way.
    #[napi]
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    /// The work, unless it is given up before it is done.
    pub(crate) fn unless<T, W>(&self, work: W) -> impl Future<Output = Result<T>> + Send + use<T, W>
    where
        W: Future<Output = Result<T>> + Send,
    {
        let mut given_up = self.0.subscribe();
        async move {
            tokio::select! {
                biased;
                Ok(_) = given_up.wait_for(|given_up| *given_up) => {
                    Err(Error::new(ErrorKind::Cancelled, "it was given up"))
                }
                done = work => done,
            }
        }
    }
}

thread_local! {
    /// Is dropped with the thread of Node that loaded us.
    static THREAD: watch::Sender<()> = watch::Sender::new(());
}

/// Begins a call of the library: a promise. Where its thread ends before, as that of a
/// worker which is terminated, the call is given up.
pub(crate) fn call<T, U>(
    env: &Env,
    work: impl Future<Output = Result<U>> + Send + 'static,
) -> napi::Result<PromiseRaw<'_, T>>
where
    T: ToNapiValue + From<U> + Send + 'static,
{
    let mut thread = THREAD.with(watch::Sender::subscribe);
    env.spawn_future(async move {
        tokio::select! {
            biased;
            done = work => done.map(T::from).map_err(|error| error::reject(&error)),
            _ = thread.changed() => {
                let gone = Error::new(ErrorKind::Cancelled, "the thread that asked is gone");
                Err(error::reject(&gone))
            }
        }
    })
}
