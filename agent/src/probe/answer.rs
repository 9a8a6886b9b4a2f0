//! What an attack got, as one line of JSON.

/// What an attack got.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It got what it should not get.
    Fired {
        /// What it saw.
        evidence: String,
    },
    /// It was kept out.
    Silent {
        /// The error that kept it out; 0 where there was none.
        errno: i32,
        /// What it saw.
        evidence: String,
    },
    /// It could not be tried here.
    Unable {
        /// What it lacked.
        evidence: String,
    },
}

/// The most of the evidence that is told, in characters.
const LONGEST: usize = 200;

impl Answer {
    pub(crate) fn fired(evidence: impl Into<String>) -> Self {
        let evidence = evidence.into();
        Self::Fired { evidence }
    }

    pub(crate) fn silent(errno: i32, evidence: impl Into<String>) -> Self {
        let evidence = evidence.into();
        Self::Silent { errno, evidence }
    }

    pub(crate) fn unable(evidence: impl Into<String>) -> Self {
        let evidence = evidence.into();
        Self::Unable { evidence }
    }

    /// Fired where it worked.
    #[expect(clippy::needless_pass_by_value, reason = "it is made for this")]
    pub(crate) fn of<T>(result: Result<T, i32>, evidence: &str) -> Self {
        match result {
            Ok(_) => Self::fired(evidence),
            Err(errno) => Self::silent(errno, ""),
        }
    }

    /// The first that fired, else the last that was kept out. What is not there is
    /// out of reach.
    pub(crate) fn any(answers: impl IntoIterator<Item = Self>) -> Self {
        let mut last = Self::silent(libc::ENOENT, "there is none of it here");
        for answer in answers {
            match answer {
                Self::Fired { .. } => return answer,
                Self::Silent { .. } => last = answer,
                Self::Unable { .. } => {}
            }
        }
        last
    }

    pub(crate) fn line(&self, name: &str) -> String {
        let (verdict, errno, evidence) = match self {
            Self::Fired { evidence } => ("fired", 0, evidence),
            Self::Silent { errno, evidence } => ("silent", *errno, evidence),
            Self::Unable { evidence } => ("unable", 0, evidence),
        };
        let evidence = plain(evidence);
        format!(
            r#"{{"attack":"{name}","verdict":"{verdict}","errno":{errno},"evidence":"{evidence}"}}"#
        )
    }
}

/// The beginning of a text, as it can stand in a string of JSON.
fn plain(text: &str) -> String {
    text.chars()
        .take(LONGEST)
        .map(|c| match c {
            '"' | '\\' => '\'',
            c if c.is_ascii_graphic() || c == ' ' => c,
            _ => '.',
        })
        .collect()
}
