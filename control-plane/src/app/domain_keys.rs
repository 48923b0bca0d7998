//! The DKIM keys of a sending domain as its owner sees them: added, rotated, taken into use, retired, removed.
//!
//! Invariants worth naming: a new key signs nothing before its record was seen in DNS, unless the operator says so; a selector
//! names one key of a domain. Absent here: what a check of DNS moves (`checks`), and the stages themselves (`plan::key_stages`).

use postrail_schema::ids::{KeyId, SendingDomainId};
use postrail_schema::limits::DOMAIN_KEYS_MAX;
use postrail_schema::snapshot::{DkimKey, KeyAlgorithm, KeyStage, SendingDomain};

use super::domains::find;
use super::keys::{Private, selector_of};
use super::{App, AppError, Draft, Precondition, names, now_ms};
use crate::plan::{DomainEntry, key_stages};

/// A key to add to a domain.
#[derive(Debug)]
pub(crate) struct NewKey {
    /// Of a key that is made here.
    pub algorithm: KeyAlgorithm,
    /// `None`: one that no key of the installation has had.
    pub selector: Option<String>,
    /// A key that is brought, as PEM.
    pub private_key: Option<String>,
}

/// What is to become of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeyAct {
    /// It signs from now on, whether or not its record was seen.
    Sign,
    /// It signs no more; or if it does not sign, its record may go.
    Retire,
    /// It is forgotten: one that waits, or whose record may go.
    Remove,
}

impl App {
    /// Adds a key, which waits for its record.
    ///
    /// # Errors
    /// The domain does not exist or has too many keys, one of that selector, or one that waits; or what was brought is no
    /// private key that receivers verify.
    pub(crate) fn add_key(
        &self,
        id: SendingDomainId,
        new: &NewKey,
        when: &Precondition,
    ) -> Result<SendingDomain, AppError> {
        let private = match &new.private_key {
            Some(pem) => Private::read(pem)?,
            None => Private::make(new.algorithm)?,
        };
        let selector = new.selector.as_deref().map(|text| names::domain("/selector", text, true)).transpose()?;
        self.change(|draft| {
            let mut domain = find(&draft.desired, id)?.clone();
            when.check(&DomainEntry::of(&draft.desired, &domain))?;
            self.put_waiting(draft, &mut domain, &private, selector.clone())?;
            draft.put(domain.clone())?;
            Ok(domain)
        })
    }

    /// Gives each key that signs a successor, which waits for its record; those that have one stay.
    ///
    /// # Errors
    /// The domain does not exist or has too many keys, no key signs, or every one has a successor.
    pub(crate) fn rotate_keys(
        &self,
        id: SendingDomainId,
        only: Option<KeyAlgorithm>,
        when: &Precondition,
    ) -> Result<SendingDomain, AppError> {
        let wanted = |domain: &SendingDomain| -> Vec<KeyAlgorithm> {
            let signing = domain.keys.iter().filter(|key| key.stage.signs()).map(|key| key.algorithm);
            let signing = signing.filter(|algorithm| only.is_none_or(|only| only == *algorithm));
            signing.filter(|algorithm| !key_stages::waits(&domain.keys, *algorithm)).collect()
        };
        let desired = self.desired();
        let mut made = Vec::new();
        for algorithm in wanted(find(&desired, id)?) {
            made.push(Private::make(algorithm)?);
        }
        self.change(|draft| {
            let mut domain = find(&draft.desired, id)?.clone();
            when.check(&DomainEntry::of(&draft.desired, &domain))?;
            let wanted = wanted(&domain);
            if wanted.is_empty() {
                let waiting = domain.keys.iter().find(|key| key.stage == KeyStage::Waiting);
                return Err(AppError::conflict(match waiting {
                    Some(key) => {
                        format!("the key {} waits for its record already: publish that, or remove it", key.selector)
                    }
                    None => "no such key signs, so there is none to rotate: add one".to_owned(),
                }));
            }
            for algorithm in wanted {
                let private = made.iter().find(|private| private.algorithm == algorithm);
                let private =
                    private.ok_or_else(|| AppError::conflict("the keys have changed meanwhile; try again"))?;
                self.put_waiting(draft, &mut domain, private, None)?;
            }
            draft.put(domain.clone())?;
            Ok(domain)
        })
    }

    /// # Errors
    /// The domain or the key does not exist, or the key is in no stage for that.
    pub(crate) fn act_on_key(
        &self,
        id: SendingDomainId,
        selector: &str,
        act: KeyAct,
        when: &Precondition,
    ) -> Result<SendingDomain, AppError> {
        let selector = &*names::domain("", selector, true).map_err(|_| AppError::not_found("key", selector))?;
        self.change(|draft| {
            let mut domain = find(&draft.desired, id)?.clone();
            when.check(&DomainEntry::of(&draft.desired, &domain))?;
            let at = domain.keys.iter().position(|key| key.selector == selector);
            let at = at.ok_or_else(|| AppError::not_found("key", selector))?;
            let stage = domain.keys[at].stage;
            match (act, stage) {
                (KeyAct::Sign, KeyStage::Retired) => {
                    return Err(AppError::conflict("its private key is gone: add a new key"));
                }
                (KeyAct::Sign, _) => key_stages::sign_with(&mut domain.keys, selector, now_ms()),
                (KeyAct::Retire, KeyStage::Waiting) => {
                    return Err(AppError::conflict("it has never signed: remove it"));
                }
                (KeyAct::Retire, KeyStage::Signing)
                    if domain.keys.iter().filter(|key| key.stage.signs()).count() == 1 =>
                {
                    return Err(AppError::conflict(
                        "no other key signs, and its mail would go out unsigned: rotate, and sign by the new key, first",
                    ));
                }
                (KeyAct::Retire, _) => key_stages::retire(&mut domain.keys[at], now_ms()),
                (KeyAct::Remove, KeyStage::Signing | KeyStage::Former { .. }) => {
                    return Err(AppError::conflict("receivers verify mail with it: retire it first"));
                }
                (KeyAct::Remove, KeyStage::Waiting | KeyStage::Retired) => {
                    domain.keys.remove(at);
                }
            }
            draft.put(domain.clone())?;
            Ok(domain)
        })
    }

    /// Puts `private` among the keys of `domain`, to wait for its record.
    pub(super) fn put_waiting(
        &self,
        draft: &mut Draft,
        domain: &mut SendingDomain,
        private: &Private,
        selector: Option<String>,
    ) -> Result<(), AppError> {
        if domain.keys.len() >= DOMAIN_KEYS_MAX {
            let detail = format!("a domain has at most {DOMAIN_KEYS_MAX} keys: remove those whose records are gone");
            return Err(AppError::conflict(detail));
        }
        if let Some(key) = domain.keys.iter().find(|key| key.public_key == private.public_key) {
            return Err(AppError::conflict(format!("the domain has this key already, as {}", key.selector)));
        }
        if key_stages::waits(&domain.keys, private.algorithm) {
            return Err(AppError::conflict(
                "a key of this algorithm waits for its record already: remove that one first",
            ));
        }
        let id: KeyId = draft.counters().next_key();
        let salt = &draft.desired.settings.ownership_salt;
        let selector = selector.unwrap_or_else(|| selector_of(salt, private.algorithm, id));
        if domain.keys.iter().any(|key| key.selector == selector) {
            return Err(AppError::conflict(format!("the domain has a key of the selector {selector} already")));
        }
        let sealed = private.seal(self.sealing(&draft.desired)?)?;
        let key = DkimKey {
            id,
            selector,
            algorithm: private.algorithm,
            sealed_private_key: sealed,
            public_key: private.public_key.clone(),
            stage: KeyStage::Waiting,
            since_ms: now_ms(),
        };
        key_stages::add(&mut domain.keys, key);
        Ok(())
    }
}
