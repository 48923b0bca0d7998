//! What holds for the whole installation.

use postrail_schema::keys::SETTINGS;

use super::keys::random;
use super::{App, AppError, Draft, Precondition, names, put};
use crate::plan::{Settings, SettingsEntry, Verification};

/// What to change of the settings; `None`: as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct SettingsChange {
    pub domain_verification: Option<Verification>,
    /// `Some(None)`: domains name their sources.
    pub spf_include: Option<Option<String>>,
}

impl App {
    /// # Errors
    /// A name is malformed.
    pub(crate) fn change_settings(&self, change: &SettingsChange, when: &Precondition) -> Result<Settings, AppError> {
        let include = match &change.spf_include {
            Some(Some(name)) => Some(Some(spf_name(name)?)),
            Some(None) => Some(None),
            None => None,
        };
        self.change(|draft| {
            let mut settings = draft.desired.settings.clone();
            when.check(&SettingsEntry::of(&settings))?;
            settings.domain_verification = change.domain_verification.unwrap_or(settings.domain_verification);
            settings.spf_include = include.clone().unwrap_or(settings.spf_include);
            draft.put_settings(settings.clone())?;
            Ok(settings)
        })
    }

    /// Makes what an installation of an earlier version does not have.
    pub(super) fn ensure_settings(&self) -> Result<(), AppError> {
        if !self.desired().settings.ownership_salt.is_empty() {
            return Ok(());
        }
        let ownership_salt = make_salt()?;
        self.change(|draft| {
            if draft.desired.settings.ownership_salt.is_empty() {
                let settings = Settings { ownership_salt: ownership_salt.clone(), ..draft.desired.settings.clone() };
                draft.put_settings(settings)?;
            }
            Ok(())
        })
    }
}

impl Draft {
    pub(super) fn put_settings(&mut self, settings: Settings) -> Result<(), AppError> {
        self.writes.push(put(SETTINGS.to_owned(), &settings)?);
        self.desired.settings = settings;
        Ok(())
    }
}

/// 256 random bits, hexadecimal.
pub(super) fn make_salt() -> Result<String, AppError> {
    Ok(random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A name of SPF, whose labels may begin with an underscore as host names may not.
pub(super) fn spf_name(text: &str) -> Result<String, AppError> {
    let plain: String =
        text.split('.').map(|label| label.strip_prefix('_').unwrap_or(label)).collect::<Vec<_>>().join(".");
    names::domain("/spf_include", &plain, false)?;
    Ok(text.trim_end_matches('.').to_ascii_lowercase())
}
