//! The error of every operation.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The result of every operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// What went wrong, in words that programs can match.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind { $($(#[$doc])* $name,)* }

        impl ErrorKind {
            /// Every kind. Bindings and wire formats are compared with this list.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable code, in snake case.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The kind of a code.
            pub fn from_code(code: &str) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// A value makes no sense; the context names the field and what was expected.
    InvalidArgument = "invalid_argument";
    /// This combination of provider, runtime and host cannot do it. Nothing was done.
    Unsupported = "unsupported";
    /// No such sandbox, exec, path, image, user or port.
    NotFound = "not_found";
    /// It is there already.
    AlreadyExists = "already_exists";
    /// Another state or another request of the same key stands against it.
    Conflict = "conflict";
    /// The caller, or the user inside, may not.
    PermissionDenied = "permission_denied";
    /// A credential is missing or wrong.
    Unauthenticated = "unauthenticated";
    /// A quota, a limit or the host's means are used up.
    ResourceExhausted = "resource_exhausted";
    /// A disk is full.
    NoSpace = "no_space";
    /// A deadline passed.
    Timeout = "timeout";
    /// The caller gave it up.
    Cancelled = "cancelled";
    /// The runtime, its daemon or its service does not answer.
    Unavailable = "unavailable";
    /// The sandbox ended.
    SandboxGone = "sandbox_gone";
    /// The command does not exist inside; nothing ran.
    CommandNotFound = "command_not_found";
    /// The command exists but cannot be executed; nothing ran.
    CommandNotExecutable = "command_not_executable";
    /// A directory where a file is needed.
    IsDirectory = "is_directory";
    /// A file where a directory is needed.
    NotDirectory = "not_directory";
    /// The directory has entries.
    DirectoryNotEmpty = "directory_not_empty";
    /// The other side broke the protocol.
    Protocol = "protocol";
    /// Stored data is damaged.
    Corrupt = "corrupt";
    /// Stored data or a peer is of a version that this build cannot serve.
    Incompatible = "incompatible";
    /// A defect of stacyvm or of its host.
    Internal = "internal";
}

impl ErrorKind {
    /// A kind whose message a person can act on by changing the request.
    pub fn is_caller_fault(self) -> bool {
        matches!(
            self,
            Self::InvalidArgument
                | Self::Unsupported
                | Self::NotFound
                | Self::AlreadyExists
                | Self::Conflict
                | Self::PermissionDenied
                | Self::Unauthenticated
        )
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call fails the same way.
    Never,
    /// The same call may succeed, not before this delay.
    Maybe {
        /// The least time to wait.
        after: Duration,
    },
    /// It was tried as often as the retry layer allows.
    Exhausted,
}

/// An error: what failed, where, why, and whether to try again.
///
/// `Display` is one line; `Debug` adds the context and the sources. Text that
/// came from a sandbox is escaped, so that it cannot forge a line or drive a
/// terminal.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    provider: Option<String>,
    message: String,
    context: Vec<(&'static str, String)>,
    retry: Retry,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error. The message is lowercase without a full stop and says
    /// what failed and what was expected.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            operation: "",
            provider: None,
            message: escape(&message.into()),
            context: Vec::new(),
            retry: Retry::Never,
            source: None,
        }))
    }

    /// A field of a request has a value that cannot be served.
    ///
    /// ```
    /// let error = stacyvm::Error::invalid("memory_mib", "0", "at least 4", "ask for 4 MiB or more");
    /// assert_eq!(error.kind(), stacyvm::ErrorKind::InvalidArgument);
    /// assert!(error.to_string().contains("memory_mib"));
    /// ```
    pub fn invalid(
        field: impl Into<String>,
        value: impl fmt::Display,
        expected: &str,
        remedy: &str,
    ) -> Self {
        let field = field.into();
        let value = shorten(&escape(&value.to_string()));
        Self::new(
            ErrorKind::InvalidArgument,
            format!("{field} is `{value}`, expected {expected}; {remedy}"),
        )
        .context("field", field)
        .context("value", value)
        .context("expected", expected)
        .context("remedy", remedy)
    }

    /// Options that could not be read, by what a parser of serde told. What it found is
    /// left out, as it may be a secret: only its type is told, and what was expected.
    ///
    /// ```
    /// let told = "invalid type: string \"sk-1\", expected f64";
    /// let error = stacyvm::Error::unreadable("timeout", told);
    /// assert!(error.to_string().contains("timeout is `a string`, expected a number"));
    /// ```
    pub fn unreadable(field: &str, told: &str) -> Self {
        let told = told.split(" at line ").next().unwrap_or_default();
        let (found, expected) = told.rsplit_once(", expected ").unwrap_or((told, ""));
        if let Some(name) = found.strip_prefix("unknown field ") {
            // The path may end with it already.
            let name = name.trim_matches('`');
            let within = field.strip_suffix(name).unwrap_or(field);
            let within = within.trim_end_matches('.');
            let field = if within.is_empty() {
                escape(name)
            } else {
                escape(&format!("{within}.{name}"))
            };
            return Self::new(
                ErrorKind::InvalidArgument,
                format!("there is no option {field}, expected {expected}"),
            )
            .context("field", field)
            .context("expected", expected);
        }
        let is_a_word = found.starts_with("unknown variant ");
        let mut words = found
            .split_once(": ")
            .map_or("", |(_, found)| found)
            .split(' ');
        let found = match words.next().unwrap_or_default() {
            "string" => "a string",
            "integer" | "floating" => "a number",
            "boolean" => "a boolean",
            "null" | "unit" | "Option" => "nothing",
            "map" => "an object",
            "sequence" => "a list",
            _ if is_a_word => "another word",
            _ => "something else",
        };
        let expected = match expected {
            "" | "value" => "a value that JSON has (no NaN, no infinity)",
            "f64" => "a number",
            "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not below zero",
            "i8" | "i16" | "i32" | "i64" => "a whole number",
            "a map" => "an object of names and values",
            "a sequence" => "a list",
            other if other.starts_with("struct ") || other.contains("enum ") => {
                "an object of its options"
            }
            other => other,
        };
        let field = if field == "." { "options" } else { field };
        Self::invalid(field, found, expected, "correct the option")
    }

    /// A request that this provider cannot serve; nothing was done.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
    }

    /// Names the operation that failed, unless it has a name already: the
    /// innermost name is kept.
    pub fn operation(mut self, operation: &'static str) -> Self {
        if self.0.operation.is_empty() {
            self.0.operation = operation;
        }
        self
    }

    /// Names the provider.
    pub fn provider(mut self, provider: impl Into<String>) -> Self {
        self.0.provider.get_or_insert_with(|| provider.into());
        self
    }

    /// Adds a fact.
    pub fn context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0
            .context
            .push((key, shorten(&escape(&value.to_string()))));
        self
    }

    /// Adds the cause.
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says whether to try again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that failed; empty if nobody named it.
    pub fn failed_operation(&self) -> &'static str {
        self.0.operation
    }

    /// The provider that failed.
    pub fn failed_provider(&self) -> Option<&str> {
        self.0.provider.as_deref()
    }

    /// The message without operation and provider.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The facts, in the order they were added.
    pub fn facts(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// The value of a fact.
    pub fn fact(&self, key: &str) -> Option<&str> {
        self.0
            .context
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Whether trying again can help.
    pub fn retryable(&self) -> Retry {
        self.0.retry
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.operation.is_empty() {
            write!(f, "{}: ", words(self.0.operation))?;
        }
        f.write_str(&self.0.message)?;
        let mut source = self.0.source.as_deref().map(|s| s as &dyn StdError);
        while let Some(cause) = source {
            write!(f, ": {}", escape(&cause.to_string()))?;
            source = cause.source();
        }
        Ok(())
    }
}

/// An operation as callers know it. Its own name is a code, for programs.
fn words(operation: &'static str) -> std::borrow::Cow<'static, str> {
    let known = match operation {
        "destroy" => "kill",
        "set_deadline" => "extend",
        "list_execs" => "ps",
        "read_log" => "logs",
        "signal_exec" => "signal",
        "export_tar" | "import_tar" => "cp",
        "leftovers" | "remove_leftover" => "leaks",
        "disk_use" => "df",
        "tidy" => "prune",
        other => return other.replace('_', " ").into(),
    };
    known.into()
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.kind)?;
        if let Some(provider) = &self.0.provider {
            write!(f, "\n  provider: {provider}")?;
        }
        for (key, value) in &self.0.context {
            write!(f, "\n  {key}: {value}")?;
        }
        write!(f, "\n  retry: {:?}", self.0.retry)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|s| s as &(dyn StdError + 'static))
    }
}

/// Escapes control characters and other characters that can drive a terminal
/// or reorder a line.
pub fn escape(text: &str) -> String {
    if text.chars().all(is_plain) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_plain(c) {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 512;
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let cut = text.floor_char_boundary(LONGEST);
    format!("{}… ({} bytes)", &text[..cut], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_find_their_kind() {
        let mut seen = std::collections::HashSet::new();
        for kind in ErrorKind::ALL {
            assert!(seen.insert(kind.code()), "{kind} twice");
            assert_eq!(ErrorKind::from_code(kind.code()), Some(*kind));
        }
    }

    #[test]
    fn hostile_text_cannot_forge_a_line() {
        let error = Error::new(ErrorKind::NotFound, "no file \x1b[2Jx\nerror: y")
            .context("path", "a\u{202e}b");
        assert!(!error.to_string().contains(['\n', '\x1b']));
        assert!(!format!("{error:?}").contains('\u{202e}'));
    }

    #[test]
    fn a_text_names_operations_as_callers_know_them_and_the_code_stays() {
        use crate::provider::OperationKind;
        for kind in OperationKind::ALL {
            let error = Error::new(ErrorKind::Internal, "x").operation(kind.name());
            assert!(!error.to_string().contains('_'), "{error}");
            assert_eq!(error.failed_operation(), kind.name());
        }
        let error = |name| Error::new(ErrorKind::Internal, "x").operation(name);
        assert_eq!(error("list_execs").to_string(), "ps: x");
        assert_eq!(error("set_deadline").to_string(), "extend: x");
    }

    #[test]
    fn the_innermost_operation_is_kept() {
        let error = Error::new(ErrorKind::Internal, "x")
            .operation("exec")
            .operation("create");
        assert_eq!(error.to_string(), "exec: x");
    }
}
