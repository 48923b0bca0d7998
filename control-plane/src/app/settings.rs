//! What holds for the whole installation.

use postrail_schema::keys::SETTINGS;
use postrail_schema::limits::{DKIM_ROTATION_DAYS_MAX, DKIM_ROTATION_DAYS_MIN};

use super::keys::random;
use super::{App, AppError, Draft, Precondition, domains, names, put};
use crate::plan::{Settings, SettingsEntry, Verification};

/// What to change of the settings; `None`: as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct SettingsChange {
    pub domain_verification: Option<Verification>,
    /// `Some(None)`: domains name their sources.
    pub spf_include: Option<Option<String>>,
    /// A sending domain by name; `Some(None)`: none signs for all.
    pub platform_domain: Option<Option<String>>,
    /// `Some(None)`: keys get no successors by themselves.
    pub dkim_rotation_days: Option<Option<u32>>,
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
        let platform = match &change.platform_domain {
            Some(Some(name)) => Some(Some(domains::name_of("/platform_domain", name)?)),
            Some(None) => Some(None),
            None => None,
        };
        let days = change.dkim_rotation_days.map(|days| days.map(checked_days).transpose()).transpose()?;
        self.change(|draft| {
            let mut settings = draft.desired.settings.clone();
            when.check(&SettingsEntry::of(&settings))?;
            settings.domain_verification = change.domain_verification.unwrap_or(settings.domain_verification);
            settings.spf_include = include.clone().unwrap_or(settings.spf_include);
            settings.platform_domain = platform.clone().unwrap_or(settings.platform_domain);
            settings.dkim_rotation_days = days.unwrap_or(settings.dkim_rotation_days);
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
        let former = &self.desired.settings.platform_domain;
        if *former != settings.platform_domain {
            let names = [former, &settings.platform_domain].into_iter().flatten();
            let places = names.flat_map(|name| self.desired.places_of_domain(name)).collect::<Vec<_>>();
            self.changed.extend(places);
        }
        self.desired.settings = settings;
        Ok(())
    }
}

/// Days after which keys get successors.
pub(super) fn checked_days(days: u32) -> Result<u32, AppError> {
    if (DKIM_ROTATION_DAYS_MIN..=DKIM_ROTATION_DAYS_MAX).contains(&days) {
        return Ok(days);
    }
    let range = format!("{DKIM_ROTATION_DAYS_MIN} to {DKIM_ROTATION_DAYS_MAX} days");
    let detail = format!("{range}, or null for never: each new key asks its owner to publish a record");
    Err(AppError::invalid("/dkim_rotation_days", detail))
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
