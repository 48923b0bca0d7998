//! The first start: one tenant, credential, domain, source and pool, so that mail can be sent.
//!
//! Invariants worth naming: it happens in one change, so a start that is cut short begins again from nothing. A store that is
//! empty beside a ledger that knows of numbers has lost its configuration, which is to come back: nothing is made then but
//! the operator, nothing is published, and data planes go on with what they have.

use std::net::{IpAddr, Ipv4Addr};

use postrail_schema::keys::OPERATOR;
use postrail_schema::limits::MESSAGE_BYTES_MAX;
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::snapshot::{
    Credential, EgressPool, EgressSource, KeyAlgorithm, PoolMember, Route, SendingDomain, Tenant,
};
use postrail_schema::standing::Standing;

use super::domains::dns_records;
use super::keys::{ALGORITHMS, first_selector, make_keys};
use super::{App, AppError, Draft, names, now_ms, put, secrets, settings};
use crate::plan::{Operator, Settings};
use crate::verify::DnsRecord;

/// What the first start is told.
#[derive(Clone, Debug, Default)]
pub struct Bootstrap {
    /// The name of this host, said in EHLO and in SPF.
    pub hostname: String,
    /// The first sending domain; `None`: none is made.
    pub domain: Option<String>,
    /// The algorithms of its DKIM keys; empty: all.
    pub algorithms: Vec<KeyAlgorithm>,
    /// Routes to begin with.
    pub routes: Vec<Route>,
}

/// What the first start made. The secrets are nowhere else: show them.
#[derive(Clone, Debug)]
pub struct FirstStart {
    pub tenant: String,
    pub username: String,
    /// The API key: password of `username`, or alone a bearer token.
    pub secret: String,
    pub operator_token: String,
    /// The first sending domain, if one was named.
    pub domain: Option<String>,
    /// What to publish for it.
    pub dns_records: Vec<DnsRecord>,
}

/// What holds on a later start, where the first resources are there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Whether there is a sending domain of the name that was told.
    pub has_domain: bool,
    /// By what name the first source greets receivers, where it is another than the host's.
    pub ehlo_name: Option<String>,
}

/// The finding while what was configured is lost.
pub(super) fn lost() -> Problem {
    Problem {
        severity: Severity::Error,
        code: "configuration_lost",
        subject: "fleet/configuration".to_owned(),
        detail: LOST.to_owned(),
    }
}

/// What is said while it is.
pub(super) const LOST: &str = "the configuration store is empty, and the ledger is not: the configuration was lost; restore a \
     snapshot of the store, or import an export (a document of your own begins anew); until then hosts go on with what they have";

impl App {
    /// What holds instead of what `told` would make on a first start.
    pub(crate) fn kept(&self, told: &Bootstrap) -> Kept {
        let desired = self.desired();
        let has_domain = |name: &String| desired.domains.values().any(|domain| domain.name.eq_ignore_ascii_case(name));
        let first = desired.sources.values().find(|source| source.name == DEFAULT);
        let other = first.filter(|source| !source.ehlo_name.eq_ignore_ascii_case(&told.hostname));
        Kept {
            has_domain: told.domain.as_ref().is_none_or(has_domain),
            ehlo_name: other.map(|source| source.ehlo_name.clone()),
        }
    }

    /// Makes the first resources if store and ledger are empty, and publishes in any case. `operator_token` is from then on the
    /// one that is believed.
    ///
    /// # Errors
    /// A name is malformed, or a store fails.
    pub(crate) fn bootstrap(
        &self,
        bootstrap: &Bootstrap,
        operator_token: &str,
    ) -> Result<Option<FirstStart>, AppError> {
        if let Some(operator) = &self.desired().operator {
            self.renew(operator, operator_token)?;
            self.ensure_settings()?;
            if self.allocation.is_none() {
                // The one data plane is of this version.
                self.publish_shared()?;
            }
            return Ok(None);
        }
        let is_lost = !self.given.is_empty();
        let domain = bootstrap.domain.as_deref().map(|name| names::domain("/domain", name, false)).transpose()?;
        let hostname = names::domain("/hostname", &bootstrap.hostname, true)?;
        let secret = secrets::make_api_key(DEFAULT)?;
        let secret_hash = secrets::hash(&secret)?;
        let operator = Operator { token_hash: secrets::hash(operator_token)?, retired: Vec::new() };
        let salt = settings::make_salt()?;
        let dns_records = self.change(|draft| {
            if draft.desired.operator.is_some() {
                return Err(AppError::conflict("another process has made the first resources"));
            }
            draft.writes.push(put(OPERATOR.to_owned(), &operator)?);
            draft.desired.operator = Some(operator.clone());
            // Who runs after a loss may be of earlier versions; a new installation's hosts come later than this.
            draft.desired.head.publishes_shared = !is_lost || self.allocation.is_none();
            draft.put_settings(Settings { ownership_salt: salt.clone(), ..Settings::default() })?;
            self.note_announced(&mut draft.desired);
            if is_lost {
                draft.desired.head.is_lost = true;
                // Those of the ledger hold, also for hosts that come after an import: they are announced with this.
                return Ok(Vec::new());
            }
            make_tenant(draft, &secret_hash)?;
            make_egress(draft, &hostname)?;
            for route in &bootstrap.routes {
                draft.put(route.clone())?;
            }
            let Some(name) = &domain else { return Ok(Vec::new()) };
            let domain = self.make_domain(draft, name, &bootstrap.algorithms)?;
            Ok(dns_records(&draft.desired, &domain, &hostname))
        })?;
        if is_lost {
            tracing::warn!("{LOST}");
            return Ok(None);
        }
        self.given.learn(self.ledger.as_ref(), &self.desired().head.counters)?;
        Ok(Some(FirstStart {
            tenant: DEFAULT.to_owned(),
            username: DEFAULT.to_owned(),
            secret,
            operator_token: operator_token.to_owned(),
            domain,
            dns_records,
        }))
    }

    /// Publishes anew, with another operator where the token is a new one.
    fn renew(&self, known: &Operator, operator_token: &str) -> Result<(), AppError> {
        if secrets::verify(operator_token, std::slice::from_ref(&known.token_hash)) {
            return self.announce_suppressions();
        }
        if secrets::verify(operator_token, &known.retired) {
            tracing::warn!(
                "operator.token here was replaced elsewhere and is not believed any more: take that of the control plane where \
                 it was replaced, or delete the file"
            );
            return self.announce_suppressions();
        }
        let former = std::iter::once(&known.token_hash).chain(&known.retired);
        let retired = former.take(RETIRED_TOKENS_MAX).cloned().collect();
        let operator = Operator { token_hash: secrets::hash(operator_token)?, retired };
        let act = self.ledger.audit_begin(now_ms(), "operator", "operator.token replaced, at a start")?;
        self.change(|draft| {
            draft.writes.push(put(OPERATOR.to_owned(), &operator)?);
            draft.desired.operator = Some(operator.clone());
            Ok(())
        })?;
        tracing::info!("operator.token here is another: the former one is refused from now on");
        Ok(self.ledger.audit_end(act, 200)?)
    }

    fn make_domain(
        &self,
        draft: &mut Draft,
        name: &str,
        algorithms: &[KeyAlgorithm],
    ) -> Result<SendingDomain, AppError> {
        let algorithms = if algorithms.is_empty() { &ALGORITHMS } else { algorithms };
        let tenant = draft.tenant(DEFAULT)?.id;
        let sealing = self.sealing(&draft.desired)?;
        let name_key = |algorithm| (draft.counters().next_key(), first_selector(algorithm));
        let keys = make_keys(sealing, algorithms, name_key)?;
        let domain = SendingDomain {
            id: draft.counters().next_domain(),
            tenant,
            name: name.to_owned(),
            keys,
            pool: None,
            standing: Standing::Trusted,
            is_platform: false,
            is_later: false,
        };
        draft.put(domain.clone())?;
        Ok(domain)
    }
}

fn make_tenant(draft: &mut Draft, secret_hash: &str) -> Result<(), AppError> {
    let tenant = Tenant {
        id: draft.counters().next_tenant(),
        name: DEFAULT.to_owned(),
        quota_per_day: None,
        weight: 1,
        message_bytes_max: u32::try_from(MESSAGE_BYTES_MAX).unwrap_or(u32::MAX),
        region: None,
        reserved_per_s: None,
        quarantines: false,
    };
    let credential = Credential {
        id: draft.counters().next_credential(),
        tenant: tenant.id,
        username: DEFAULT.to_owned(),
        secret_hashes: vec![secret_hash.to_owned()],
        disabled: false,
        marks: Vec::new(),
        scopes: Default::default(),
        networks: Vec::new(),
        trusts_networks: false,
    };
    draft.put(tenant)?;
    draft.put(credential)
}

fn make_egress(draft: &mut Draft, hostname: &str) -> Result<(), AppError> {
    let source = EgressSource {
        id: draft.counters().next_source(),
        name: DEFAULT.to_owned(),
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ehlo_name: hostname.to_owned(),
        needs: Default::default(),
    };
    let pool = EgressPool {
        id: draft.counters().next_pool(),
        name: DEFAULT.to_owned(),
        tenant: None,
        members: vec![PoolMember { source: source.id, weight: 1 }],
        classes: Default::default(),
    };
    draft.put(source)?;
    draft.put(pool)
}

/// Tokens of before that are known, so that none of them is taken for a new one.
const RETIRED_TOKENS_MAX: usize = 8;
/// The name of the first of each kind.
const DEFAULT: &str = "default";
