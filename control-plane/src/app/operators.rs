//! Accounts of operators, beside the token of the data folder, which is an administrator's.
//!
//! A token is told once, when it is made; only its hash is kept, and two may live at a time.

use postrail_schema::access::Network;
use postrail_schema::keys;
use postrail_schema::limits::{LIVE_SECRETS_MAX, OPERATORS_MAX};

use super::credentials::checked_networks;
use super::{App, AppError, Draft, Precondition, names, put, secrets};
use crate::plan::{OPERATORS, OperatorAccount, OperatorEntry, Role};
use crate::store::Write;

/// An account to make.
#[derive(Clone, Debug)]
pub(crate) struct NewOperator {
    pub name: String,
    pub role: Role,
    pub networks: Vec<Network>,
}

/// What to change of an account; `None`: as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct OperatorChange {
    pub role: Option<Role>,
    pub disabled: Option<bool>,
    pub networks: Option<Vec<Network>>,
}

/// An account with the token that was made for it.
#[derive(Clone, Debug)]
pub(crate) struct IssuedOperator {
    pub account: OperatorAccount,
    pub token: String,
}

impl App {
    /// # Errors
    /// The name is taken or malformed.
    pub(crate) fn create_operator(&self, new: &NewOperator) -> Result<IssuedOperator, AppError> {
        let name = names::slug("/name", &new.name)?;
        let token = secrets::make_account_token(&name)?;
        let secret_hashes = vec![secrets::hash(&token)?];
        let networks = checked_networks(&new.networks)?;
        let account = OperatorAccount { name: name.clone(), role: new.role, secret_hashes, disabled: false, networks };
        self.change(|draft| {
            if draft.desired.operators.contains_key(&name) {
                return Err(AppError::conflict(format!("operator {name} exists")));
            }
            draft.put_operator(account.clone())
        })?;
        Ok(IssuedOperator { account, token })
    }

    /// # Errors
    /// It does not exist, or has more networks than an account may have.
    pub(crate) fn change_operator(
        &self,
        name: &str,
        change: &OperatorChange,
        when: &Precondition,
    ) -> Result<OperatorAccount, AppError> {
        let networks = change.networks.as_deref().map(checked_networks).transpose()?;
        self.edit_operator(name, when, |account| {
            account.role = change.role.unwrap_or(account.role);
            account.disabled = change.disabled.unwrap_or(account.disabled);
            if let Some(networks) = &networks {
                account.networks.clone_from(networks);
            }
        })
    }

    /// Makes a new token; the former one stays valid until the next rotation.
    ///
    /// # Errors
    /// It does not exist.
    pub(crate) fn rotate_operator(&self, name: &str, when: &Precondition) -> Result<IssuedOperator, AppError> {
        let token = secrets::make_account_token(name)?;
        let hash = secrets::hash(&token)?;
        let account = self.edit_operator(name, when, |account| {
            account.secret_hashes.insert(0, hash.clone());
            account.secret_hashes.truncate(LIVE_SECRETS_MAX);
        })?;
        Ok(IssuedOperator { account, token })
    }

    /// # Errors
    /// It does not exist.
    pub(crate) fn delete_operator(&self, name: &str, when: &Precondition) -> Result<(), AppError> {
        self.change(|draft| {
            let found = draft.desired.operators.get(name).ok_or_else(|| AppError::not_found("operator", name))?;
            when.check(&OperatorEntry::of(found))?;
            draft.delete_operator(name);
            Ok(())
        })
    }

    fn edit_operator(
        &self,
        name: &str,
        when: &Precondition,
        edit: impl Fn(&mut OperatorAccount),
    ) -> Result<OperatorAccount, AppError> {
        self.change(|draft| {
            let found = draft.desired.operators.get(name).cloned();
            let mut account = found.ok_or_else(|| AppError::not_found("operator", name))?;
            when.check(&OperatorEntry::of(&account))?;
            edit(&mut account);
            draft.put_operator(account.clone())?;
            Ok(account)
        })
    }
}

impl Draft {
    pub(super) fn put_operator(&mut self, account: OperatorAccount) -> Result<(), AppError> {
        self.writes.push(put(keys::resource(OPERATORS, &account.name), &account)?);
        self.desired.operators.insert(account.name.clone(), account);
        if self.desired.operators.len() > OPERATORS_MAX {
            return Err(AppError::conflict(format!("there are {OPERATORS_MAX} operators already")));
        }
        Ok(())
    }

    pub(super) fn delete_operator(&mut self, name: &str) {
        self.desired.operators.remove(name);
        self.writes.push(Write::Delete { key: keys::resource(OPERATORS, &name) });
    }
}
