//! The token of a job: whoever has it is one of the job's, and nobody else is heard. It is a secret, so nothing here shows it.

use crate::refusal::Refusal;
use crate::secret_file;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;

/// Environment variable that has a job's token.
pub const JOB_TOKEN: &str = "OCTRAIN_TOKEN";
/// Shortest and longest token, in bytes: shorter ones are guessed, longer ones are no header of a call.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=256;

/// The token of a job.
#[derive(Clone)]
pub struct JobToken {
    text: String,
    /// What is compared, so that neither the time it takes nor the length tells anything of the token.
    digest: [u8; 32],
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file is not there, or may not be read.
    #[error("the job's token cannot be read from `{}`: {source}; give a file that has it, readable by this user", path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// What is there is no token. It is not shown.
    #[error(
        "the job's token in {place} {why}; take a random one, e.g. of `openssl rand -hex 32`, the same for the coordinator and for whoever speaks to it"
    )]
    Unfit {
        /// Where it comes from.
        place: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl JobToken {
    /// A token from its text, blanks around it left out; `place` is named in errors.
    ///
    /// # Errors
    /// When it has fewer than 16 or more than 256 bytes, or others than visible ASCII characters.
    pub fn new(text: &str, place: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let unfit = |why| Err(TokenError::Unfit { place: place.into(), why });
        match text.len() {
            0 => unfit("is empty"),
            n if n < *LENGTH.start() => unfit("is shorter than 16 characters"),
            n if n > *LENGTH.end() => unfit("is longer than 256 characters"),
            _ if !text.bytes().all(|b| b.is_ascii_graphic()) => {
                unfit("has blanks within, or characters that are not ASCII")
            }
            _ => Ok(Self { text: text.into(), digest: Sha256::digest(text).into() }),
        }
    }

    /// The token in a file. That others may read the file is said in the log.
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else than a token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let unread = |source| TokenError::Unread { path: path.into(), source };
        let bytes = secret_file::read(path).map_err(unread)?;
        Self::new(&String::from_utf8_lossy(&bytes), &format!("`{}`", path.display()))
    }

    /// The token of a file, where one is named, else that of the environment ([`JOB_TOKEN`]); none where there is neither.
    ///
    /// # Errors
    /// When what is named holds no token.
    pub fn find(file: Option<&Path>) -> Result<Option<Self>, TokenError> {
        match (file, std::env::var_os(JOB_TOKEN)) {
            (Some(path), _) => Self::read(path).map(Some),
            (None, Some(text)) => Self::new(&text.to_string_lossy(), JOB_TOKEN).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// A token that nobody has had before, for a job that one process starts with all of its workers.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn draw() -> io::Result<Self> {
        let text = draw()?;
        let digest = Sha256::digest(&text).into();
        Ok(Self { text, digest })
    }

    /// The token itself, to be handed to whoever is of the job. Never to be shown.
    pub fn secret(&self) -> &str {
        &self.text
    }
}

/// Text that nobody guesses.
///
/// # Errors
/// When the system gives no random bytes.
pub fn draw() -> io::Result<String> {
    let mut random = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|b| format!("{b:02x}")).collect())
}

/// Compared in constant time.
impl PartialEq for JobToken {
    fn eq(&self, other: &Self) -> bool {
        self.digest.ct_eq(&other.digest).into()
    }
}

impl fmt::Debug for JobToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobToken(..)")
    }
}

/// Whether a call is one of the job's, by the bytes of the token that it has, if any.
///
/// # Errors
/// As a refusal that says what to do, and nothing of the job's token.
pub fn admit(ours: Option<&JobToken>, theirs: Option<&[u8]>) -> Result<(), Refusal> {
    match (ours, theirs) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Refusal::TokenUnwanted),
        (Some(_), None) => Err(Refusal::TokenMissing),
        (Some(ours), Some(theirs)) => {
            let digest: [u8; 32] = Sha256::digest(theirs).into();
            match ours.digest.ct_eq(&digest).into() {
                true => Ok(()),
                false => Err(Refusal::TokenOther),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "0123456789abcdef";

    #[test]
    fn a_token_is_read_without_its_newline_and_is_never_shown() {
        let token = JobToken::new(&format!("{TEXT}\n"), "F").unwrap();
        assert_eq!(token.secret(), TEXT);
        assert_eq!(format!("{token:?}"), "JobToken(..)");
        for (text, why) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("abc123", "is shorter than 16"),
            (&"x".repeat(257), "is longer than 256"),
            ("0123456789 abcdef", "has blanks within"),
            ("0123456789äbcdef", "has blanks within"),
        ] {
            let e = JobToken::new(text, "`F`").unwrap_err().to_string();
            assert!(e.starts_with(&format!("the job's token in `F` {why}")), "{e}");
            assert!(!text.contains("abc") || !e.contains("abc"), "the secret is shown: {e}");
        }
        let missing = JobToken::read(Path::new("/nowhere/token")).unwrap_err().to_string();
        assert!(missing.contains("`/nowhere/token`") && missing.contains("No such file"), "{missing}");
        let folder = JobToken::read(Path::new("/")).unwrap_err().to_string();
        assert!(folder.contains("directory"), "{folder}");
    }

    #[test]
    fn only_the_job_s_own_token_is_let_in() {
        let ours = JobToken::new(TEXT, "F").unwrap();
        assert_eq!(admit(None, None), Ok(()));
        assert_eq!(admit(Some(&ours), Some(TEXT.as_bytes())), Ok(()));
        assert_eq!(admit(None, Some(TEXT.as_bytes())), Err(Refusal::TokenUnwanted));
        assert_eq!(admit(Some(&ours), None), Err(Refusal::TokenMissing));
        for other in ["", "0123456789abcdeg", "0123456789abcde", "0123456789abcdef0", " 0123456789abcdef"] {
            assert_eq!(admit(Some(&ours), Some(other.as_bytes())), Err(Refusal::TokenOther), "{other:?}");
        }
    }

    #[test]
    fn what_is_drawn_is_a_token_and_another_each_time() {
        let (a, b) = (JobToken::draw().unwrap(), JobToken::draw().unwrap());
        assert!(a != b && a == JobToken::new(a.secret(), "F").unwrap());
    }
}
