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

/// A name of SPF as A-labels, which may begin with an underscore as those of host names may not.
pub(super) fn spf_name(text: &str) -> Result<String, AppError> {
    let plain: String =
        text.split('.').map(|label| label.strip_prefix('_').unwrap_or(label)).collect::<Vec<_>>().join(".");
    let name = names::domain("/spf_include", &plain, false)?;
    let labels: Vec<_> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    if labels.len() != name.split('.').count() {
        return Err(AppError::invalid("/spf_include", "the labels of a name are joined by plain dots"));
    }
    let labels = labels.into_iter().zip(name.split('.'));
    let labels = labels.map(|(was, is)| if was.starts_with('_') { format!("_{is}") } else { is.to_owned() });
    Ok(labels.collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_spf_is_kept_as_dns_has_it() {
        for (text, wanted) in [
            ("_spf.Mail.example", Some("_spf.mail.example")),
            ("_spf.bücher.example.", Some("_spf.xn--bcher-kva.example")),
            ("_Straße._spf.example", Some("_xn--strae-oqa._spf.example")),
            ("_spf.a\u{3002}example", None),
            ("__spf.example", None),
            ("_spf..example", None),
            ("no dots", None),
            ("_", None),
        ] {
            assert_eq!(spf_name(text).ok().as_deref(), wanted, "{text}");
        }
    }
}
