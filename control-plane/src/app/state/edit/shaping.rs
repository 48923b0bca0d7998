//! Providers and shaping rules of a document.

use postrail_schema::limits::{PROVIDERS_MAX, SHAPING_RULES_MAX};
use postrail_schema::shaping::{Provider, ShapingRule};

use super::super::super::shaping::{MatchNames, checked_hosts, checked_rule, rule_of};
use super::{AppError, Editor, Wanted, ids, names};
use crate::plan::{ProviderEntry, ShapingRuleEntry};

impl Editor<'_> {
    pub(super) fn providers(&mut self, entries: &[ProviderEntry]) -> Result<(), AppError> {
        let known = self.draft.desired.providers.values();
        let known = ids(known.map(|provider| (provider.name.clone(), provider.id)));
        let mut wanted = Wanted::<Provider>::new();
        for (at, entry) in entries.iter().enumerate() {
            let name = self.checked(wanted.place(at, "name"), names::slug("", &entry.name));
            let hosts = self.checked(wanted.place(at, "hosts"), checked_hosts(&entry.hosts));
            let (Some(name), Some(hosts)) = (name, hosts) else { continue };
            let pointer = wanted.place(at, "name");
            if !self.once(&mut wanted, pointer, name.clone()) {
                continue;
            }
            let id = known.get(&name).copied().unwrap_or_else(|| self.draft.counters().next_provider());
            wanted.want(Provider { id, name, hosts });
        }
        if wanted.records.len() > PROVIDERS_MAX {
            self.fault("/providers".to_owned(), format!("there are at most {PROVIDERS_MAX} providers"));
        }
        self.settle(wanted)
    }

    pub(super) fn shaping_rules(&mut self, entries: &[ShapingRuleEntry]) -> Result<(), AppError> {
        let known = self.draft.desired.shaping_rules.values();
        let known = ids(known.map(|rule| (rule.name.clone(), rule.id)));
        // Sources, pools, tenants and providers are edited before.
        let desired = self.draft.desired.clone();
        let named = MatchNames::of(&desired);
        let mut wanted = Wanted::<ShapingRule>::new();
        for (at, entry) in entries.iter().enumerate() {
            let place = format!("/shaping_rules/{at}");
            let name = self.checked(format!("{place}/name"), names::slug("", &entry.name));
            let matches = self.placed(&place, named.checked(&entry.matches));
            let (Some(name), Some(matches)) = (name, matches) else { continue };
            if !self.once(&mut wanted, format!("{place}/name"), name.clone()) {
                continue;
            }
            let id = known.get(&name).copied().unwrap_or_else(|| self.draft.counters().next_shaping_rule());
            let rule = checked_rule(rule_of(id, &name, matches, entry));
            if let Some(rule) = self.placed(&place, rule) {
                wanted.want(rule);
            }
        }
        if wanted.records.len() > SHAPING_RULES_MAX {
            self.fault("/shaping_rules".to_owned(), format!("there are at most {SHAPING_RULES_MAX} shaping rules"));
        }
        self.settle(wanted)
    }

    /// The value, or `None` with what is wrong at its own pointer below `place`.
    fn placed<T>(&mut self, place: &str, result: Result<T, AppError>) -> Option<T> {
        let pointer = match &result {
            Err(AppError::Invalid { pointer, .. }) => format!("{place}{pointer}"),
            _ => place.to_owned(),
        };
        self.checked(pointer, result)
    }
}
