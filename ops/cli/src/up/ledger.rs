//! Where the ledger is: in the data folder, or in a PostgreSQL database.
//!
//! Invariants worth naming: a password reaches the process by a file or its environment only. The list of processes shows
//! options to every user of the host, and errors quote the configuration file; both are refused with a password in them.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use postrail_control_plane::PostgresAddress;

/// What was said of the ledger beside the environment.
#[derive(Default)]
pub(crate) struct LedgerTold {
    pub(crate) option: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
}

impl LedgerTold {
    /// Where the ledger is; `None`: in the data folder. `variable` reads the environment.
    ///
    /// # Errors
    /// What was said is no address, shows a password, or names a file that cannot be read.
    pub(crate) fn address(self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<PostgresAddress>> {
        let shown = [("--ledger", &self.option), ("the configuration file's ledger", &self.file)];
        for (place, url) in shown.into_iter().filter_map(|(place, url)| url.as_ref().map(|url| (place, url))) {
            if has_password(url) {
                bail!(
                    "{place} holds a password, which others can read there: change it, and put the new one into \
                     {PASSWORD} or the file of --ledger-password-file"
                );
            }
        }
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let Some(url) = self.option.or_else(|| set(URL)).or(self.file) else {
            if self.password_file.is_some() {
                bail!("--ledger-password-file needs --ledger");
            }
            return Ok(None);
        };
        let password = match &self.password_file {
            Some(path) => Some(read(path)?),
            None => set(PASSWORD),
        };
        let address = PostgresAddress::parse(&url, password.as_deref()).context("where the ledger is, is not right")?;
        Ok(Some(address))
    }
}

/// Whether `url` has a password, before the host or among the parameters.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
    let user = base.rsplit_once('@').map_or("", |(user, _)| user);
    user.contains(':') || query.split('&').any(|pair| pair.starts_with("password="))
}

/// The first line of a file.
fn read(path: &Path) -> Result<String> {
    let unreadable = || format!("cannot read the ledger's password in {}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(unreadable)?;
    file.take(PASSWORD_BYTES_MAX + 1).read_to_string(&mut text).with_context(unreadable)?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() || text.len() as u64 > PASSWORD_BYTES_MAX {
        bail!("{} holds no password: it is to be the first line", path.display());
    }
    Ok(password.to_owned())
}

/// Variables of the environment.
const URL: &str = "POSTRAIL_LEDGER";
const PASSWORD: &str = "POSTRAIL_LEDGER_PASSWORD";
/// Octets of a password's file.
const PASSWORD_BYTES_MAX: u64 = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "postgres://postrail@127.0.0.1/postrail";

    fn told(option: Option<&str>, file: Option<&str>) -> LedgerTold {
        LedgerTold { option: option.map(str::to_owned), file: file.map(str::to_owned), password_file: None }
    }

    #[test]
    fn an_option_wins_over_the_environment_and_that_over_the_file() {
        let name = |told: LedgerTold, variable: Option<&str>| {
            let set = |name: &str| variable.filter(|_| name == URL).map(str::to_owned);
            told.address(set).expect("a good address").map(|address| address.name().to_owned())
        };
        let url = |database| format!("postgres://u@127.0.0.1/{database}");
        let (one, two, three) = (url("one"), url("two"), url("three"));
        assert_eq!(name(told(Some(&one), Some(&three)), Some(&two)).as_deref(), Some("127.0.0.1:5432/one"));
        assert_eq!(name(told(None, Some(&three)), Some(&two)).as_deref(), Some("127.0.0.1:5432/two"));
        assert_eq!(name(told(None, Some(&three)), None).as_deref(), Some("127.0.0.1:5432/three"));
        assert_eq!(name(told(None, None), Some("")), None);
    }

    #[test]
    fn a_password_where_others_read_it_is_refused_and_not_repeated() {
        let shown = ["postgres://u:secret@h/d", "postgres:///d?host=h&password=secret", "u:secret@h/d"];
        for url in shown {
            for told in [told(Some(url), None), told(None, Some(url))] {
                let said = format!("{:#}", told.address(|_| None).expect_err(url));
                assert!(said.contains("holds a password") && !said.contains("secret"), "{said}");
            }
        }
        let variable = |name: &str| (name == URL).then(|| "postgres://u:secret@127.0.0.1/d".to_owned());
        assert!(told(None, None).address(variable).expect("the environment may").is_some());
    }

    #[test]
    fn a_password_comes_from_a_file_or_the_environment() {
        let path = std::env::temp_dir().join(format!("postrail-ledger-password-{}", std::process::id()));
        let with_file = || LedgerTold { password_file: Some(path.clone()), ..told(Some(PLAIN), None) };
        let refused = |told: LedgerTold| format!("{:#}", told.address(|_| None).expect_err("a refusal"));
        assert!(refused(with_file()).contains("cannot read the ledger's password"));
        for nothing in ["", "\n", "\nsecret"] {
            std::fs::write(&path, nothing).expect("a temporary file");
            assert!(refused(with_file()).contains("holds no password"), "{nothing:?}");
        }
        std::fs::write(&path, "secret\n").expect("a temporary file");
        let address = with_file().address(|_| None).expect("a good file");
        assert!(!format!("{address:?}").contains("secret"));
        std::fs::remove_file(&path).expect("it was there");
        let variable = |name: &str| (name == PASSWORD).then(|| "secret".to_owned());
        assert!(told(Some(PLAIN), None).address(variable).expect("a good variable").is_some());
        let alone = LedgerTold { password_file: Some(path), ..LedgerTold::default() };
        assert!(refused(alone).contains("needs --ledger"));
    }
}
