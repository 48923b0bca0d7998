//! What the configuration says about some mail, and which record says it: asked of the published snapshot by the same code
//! that data planes ask.

use postrail_schema::ids::Revision;
use postrail_schema::policy::{PoolReason, RetryPolicy};
use postrail_schema::selector::MailFacts;
use postrail_schema::snapshot::{EgressPool, SendingDomain, Snapshot, TrafficClass};
use postrail_schema::tls::TlsRule;
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, AppError, names};
use crate::plan::{Desired, SelectorEntry};

/// The mail that is asked about.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub sending_domain: String,
    /// Whose the sending domain is; `None`: the first tenant's that has it.
    pub tenant: Option<String>,
    pub recipient_domain: String,
    pub site: Option<String>,
    pub class: TrafficClass,
}

/// What holds for it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Explained {
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// Whose the sending domain is.
    pub tenant: String,
    pub pool: PoolExplained,
    pub destination: DestinationExplained,
    pub retry: RetryExplained,
    pub expiry: ExpiryExplained,
    pub tls: TlsExplained,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PoolExplained {
    /// Null: its mail waits.
    pub name: Option<String>,
    pub because: String,
    /// What would come first, and why it does not count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct DestinationExplained {
    /// Whose MX counts.
    pub domain: String,
    pub port: u16,
    pub because: String,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct RetryExplained {
    pub first_delay_s: u32,
    pub factor_percent: u32,
    pub longest_delay_s: u32,
    pub because: String,
}

/// What the connection to the receiver has to meet.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TlsExplained {
    pub level: String,
    pub minimum_version: String,
    /// A host that may be used is in each of these lists; none: any.
    pub hosts: Vec<Vec<String>>,
    /// The rules that hold; what a site's rule demands is known where the site is said.
    pub because: Vec<String>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ExpiryExplained {
    pub seconds: u64,
    pub because: String,
}

impl App {
    /// What holds for mail that is accepted and tried now.
    ///
    /// # Errors
    /// A name is malformed, or nobody (or not that tenant) has the sending domain.
    pub(crate) fn explain(&self, asked: &Asked) -> Result<Explained, AppError> {
        let (desired, snapshot) = self.published();
        let sending = names::domain("/from", &asked.sending_domain, false)?;
        let recipient = names::domain("/to", &asked.recipient_domain, true)?;
        let site = asked.site.as_deref().map(|site| names::site("/site", site)).transpose()?;
        let domain = self.domain_asked_about(&desired, asked, &sending)?;
        let mail = MailFacts {
            recipient_domain: Some(&recipient),
            site: site.as_deref(),
            sending_domain: domain.id,
            tenant: domain.tenant,
            class: asked.class,
        };
        let reason = |reason: &PoolReason<'_>| match reason {
            PoolReason::Rule(rule) => {
                let words = SelectorEntry::of(&desired, &rule.selector).words();
                format!("routing rule {}: {words}", rule.name)
            }
            PoolReason::Domain => format!("the pool of sending domain {sending}"),
            PoolReason::Default => "the default pool".to_owned(),
        };
        let policy = |policy: Option<&RetryPolicy>| match policy {
            Some(policy) => {
                let words = SelectorEntry::of(&desired, &policy.selector).words();
                format!("retry policy {}: {words}", policy.name)
            }
            None => "no retry policy says it: the default".to_owned(),
        };
        let mut passed_over = Vec::new();
        let mut chosen = None;
        for (why, pool) in snapshot.pools_of(mail) {
            match pool {
                Some(pool) if pool.carries(mail.tenant, mail.class) => {
                    chosen = Some((pool, why));
                    break;
                }
                Some(pool) => passed_over.push(format!("{}: {}", reason(&why), refusal(pool, mail))),
                None => passed_over.push(format!("{}: its pool does not exist", reason(&why))),
            }
        }
        let route = snapshot.route_of(&recipient);
        let (delays, rules) = (snapshot.policies.retry_rules.delays(mail), &snapshot.policies.retry_rules);
        // Expiry is fixed for all recipients of a mail.
        let whole = MailFacts { recipient_domain: None, site: None, ..mail };
        Ok(Explained {
            revision: snapshot.revision,
            tenant: desired.tenants.get(&domain.tenant).map(|tenant| tenant.name.clone()).unwrap_or_default(),
            pool: PoolExplained {
                name: chosen.map(|(pool, _)| pool.name.clone()),
                because: chosen.map_or_else(|| "no pool carries it: it waits".to_owned(), |(_, why)| reason(&why)),
                passed_over,
            },
            destination: DestinationExplained {
                domain: route.and_then(|route| route.routing_domain.clone()).unwrap_or(recipient.clone()),
                port: route.map_or(25, |route| route.port),
                because: route.map_or_else(|| "no route".to_owned(), |route| format!("route {}", route.domain)),
            },
            retry: RetryExplained {
                first_delay_s: delays.first_s,
                factor_percent: delays.factor_percent,
                longest_delay_s: delays.longest_s,
                because: policy(rules.delays_policy(mail)),
            },
            expiry: ExpiryExplained {
                seconds: rules.expiry(whole).as_secs(),
                because: policy(rules.expiry_policy(whole)),
            },
            tls: tls_explained(&desired, &snapshot, mail),
        })
    }

    /// The domain called `sending`: of the tenant that is asked about, or the first one.
    fn domain_asked_about<'a>(
        &self,
        desired: &'a Desired,
        asked: &Asked,
        sending: &str,
    ) -> Result<&'a SendingDomain, AppError> {
        let tenant = asked.tenant.as_deref().map(|name| self.tenant_id(name)).transpose()?;
        desired.domain(tenant, sending).ok_or_else(|| match &asked.tenant {
            Some(tenant) => AppError::not_found("sending domain", format!("{sending} of tenant {tenant}")),
            None => AppError::not_found("sending domain", sending),
        })
    }
}

fn tls_explained(desired: &Desired, snapshot: &Snapshot, mail: MailFacts<'_>) -> TlsExplained {
    let policy = snapshot.tls.policy(mail).unwrap_or_default();
    let words = |rule: &TlsRule| {
        let mail = SelectorEntry::of(desired, &rule.selector).words();
        format!("TLS rule {}: {mail}", rule.name)
    };
    let mut because: Vec<_> = snapshot.tls.holding(mail).map(words).collect();
    if because.is_empty() {
        because.push("no TLS rule is about it: TLS where the receiver offers it".to_owned());
    }
    TlsExplained {
        level: policy.level.name().to_owned(),
        minimum_version: policy.minimum_version.name().to_owned(),
        hosts: policy.hosts,
        because,
    }
}

fn refusal(pool: &EgressPool, mail: MailFacts<'_>) -> String {
    if pool.tenant.is_some_and(|owner| owner != mail.tenant) {
        return format!("pool {} is another tenant's", pool.name);
    }
    format!("pool {} does not carry {} mail", pool.name, mail.class.name())
}
