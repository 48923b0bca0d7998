//! SPF as a receiver evaluates it (RFC 7208), with what a person needs to know about the way to the result.
//!
//! ```text
//! check_host(ip, domain) -> the record's terms in order -> a / mx / include / exists / ptr ask further -> first match
//! ```
//!
//! Invariants worth naming: at most ten terms that ask (section 4.6.4), two of them void, ten hosts of one `mx` or `ptr`;
//! a syntax error anywhere in a record makes its evaluation an error before a term is tried; what no server could say is
//! [`SpfResult::TempError`] and never a denial. Deliberately absent: `exp=` (its text is for a refusal that we do not make).

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use crate::dns::{Answer, Data, Failure, Found, Kind, Lookup};

mod macros;
mod record;

pub(crate) use record::SpfRecord;
use record::{Mechanism, Qualifier, Range};

/// The results of section 2.6.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SpfResult {
    None,
    Neutral,
    Pass,
    Fail,
    SoftFail,
    TempError { failure: Failure, name: String },
    PermError(PermError),
}

/// Why a record cannot be evaluated, which receivers treat as no permission at all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum PermError {
    #[error(
        "it needs more than {LOOKUPS_MAX} DNS lookups (the one too many is {term} in the record of {domain}), and receivers stop at {LOOKUPS_MAX}"
    )]
    TooManyLookups { domain: String, term: String },
    #[error("more than {VOID_LOOKUPS_MAX} of its terms name hosts that do not exist (the last is {name})")]
    TooManyVoids { name: String },
    #[error("the term {term} in the record of {domain} is not of SPF's form")]
    Syntax { domain: String, term: String },
    #[error("{domain} has {count} SPF records, and receivers accept one only")]
    Several { domain: String, count: usize },
    #[error("it includes {domain}, which has no SPF record")]
    NoRecord { domain: String },
    #[error("{domain} has more than {HOSTS_MAX} mail hosts, and receivers stop at {HOSTS_MAX}")]
    TooManyHosts { domain: String },
}

/// What an evaluation came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Evaluation {
    pub result: SpfResult,
    /// Terms that asked DNS.
    pub lookups: u32,
    /// The top record's term that decided; empty: none matched.
    pub matched: String,
}

/// Whether `ip` may send with a reverse path at `domain`.
pub(crate) async fn check_host<L: Lookup>(zone: &L, ip: IpAddr, domain: &str) -> Evaluation {
    let sender = format!("postmaster@{domain}");
    let mut walk = Walk { zone, ip: ip.to_canonical(), sender: &sender, lookups: 0, voids: 0 };
    let (result, matched) = match walk.evaluate(domain.to_owned()).await {
        Ok(done) => done,
        Err(Stop::Temp { failure, name }) => (SpfResult::TempError { failure, name }, String::new()),
        Err(Stop::Perm(error)) => (SpfResult::PermError(error), String::new()),
    };
    Evaluation { result, lookups: walk.lookups, matched }
}

/// The SPF records among the texts of a name (section 4.5).
pub(crate) fn records(texts: &[String]) -> Vec<&String> {
    let is_spf = |text: &&String| {
        let version = text.split(' ').next().unwrap_or_default();
        version.eq_ignore_ascii_case("v=spf1")
    };
    texts.iter().filter(is_spf).collect()
}

/// Why an evaluation ends at once.
enum Stop {
    Temp { failure: Failure, name: String },
    Perm(PermError),
}

/// One evaluation under way.
struct Walk<'a, L> {
    zone: &'a L,
    ip: IpAddr,
    sender: &'a str,
    lookups: u32,
    voids: u32,
}

type Boxed<'s, T> = Pin<Box<dyn Future<Output = Result<T, Stop>> + Send + 's>>;

impl<L: Lookup> Walk<'_, L> {
    /// The result of a domain's record, and the term that gave it.
    fn evaluate(&mut self, domain: String) -> Boxed<'_, (SpfResult, String)> {
        Box::pin(async move {
            let answer = self.zone.ask(&domain, Kind::Txt).await;
            known(&answer, &domain)?;
            let texts = answer.texts();
            let text = match records(&texts)[..] {
                [] => return Ok((SpfResult::None, String::new())),
                [only] => only,
                ref more => return Err(Stop::Perm(PermError::Several { domain, count: more.len() })),
            };
            let record = SpfRecord::parse(text)
                .map_err(|term| Stop::Perm(PermError::Syntax { domain: domain.clone(), term }))?;
            for directive in &record.directives {
                if self.matches(&directive.mechanism, &domain, &directive.text).await? {
                    return Ok((directive.qualifier.into(), directive.text.clone()));
                }
            }
            let Some(target) = &record.redirect else { return Ok((SpfResult::Neutral, String::new())) };
            let term = format!("redirect={target}");
            self.count(&domain, &term)?;
            let target = self.expand(target, &domain, &term)?;
            match self.evaluate(target.clone()).await? {
                (SpfResult::None, _) => Err(Stop::Perm(PermError::NoRecord { domain: target })),
                (result, _) => Ok((result, term)),
            }
        })
    }

    async fn matches(&mut self, mechanism: &Mechanism, domain: &str, term: &str) -> Result<bool, Stop> {
        Ok(match mechanism {
            Mechanism::All => true,
            Mechanism::Ip(network) => network.holds(self.ip),
            Mechanism::A { target, range } => {
                self.count(domain, term)?;
                let target = self.target(target.as_deref(), domain, term)?;
                self.is_host(&target, *range).await?
            }
            Mechanism::Mx { target, range } => {
                self.count(domain, term)?;
                let target = self.target(target.as_deref(), domain, term)?;
                self.is_mail_host(&target, *range).await?
            }
            Mechanism::Include(target) => {
                self.count(domain, term)?;
                let target = self.expand(target, domain, term)?;
                match self.evaluate(target.clone()).await?.0 {
                    SpfResult::Pass => true,
                    SpfResult::None => return Err(Stop::Perm(PermError::NoRecord { domain: target })),
                    _ => false,
                }
            }
            Mechanism::Exists(target) => {
                self.count(domain, term)?;
                let target = self.expand(target, domain, term)?;
                !self.asked(&target, Kind::A).await?.data().is_empty()
            }
            Mechanism::Ptr(target) => {
                self.count(domain, term)?;
                let target = self.target(target.as_deref(), domain, term)?;
                self.is_named(&target).await?
            }
        })
    }

    async fn is_host(&mut self, host: &str, range: Range) -> Result<bool, Stop> {
        let answer = self.asked(host, self.kind()).await?;
        Ok(answer.addresses().into_iter().any(|address| range.covers(address, self.ip)))
    }

    async fn is_mail_host(&mut self, domain: &str, range: Range) -> Result<bool, Stop> {
        let answer = self.asked(domain, Kind::Mx).await?;
        let hosts = answer.data().iter().filter_map(|data| match data {
            Data::Exchange { host, .. } if !host.is_empty() => Some(host.clone()),
            _ => None,
        });
        let hosts: Vec<_> = hosts.collect();
        if hosts.len() > HOSTS_MAX {
            return Err(Stop::Perm(PermError::TooManyHosts { domain: domain.to_owned() }));
        }
        for host in hosts {
            let answer = self.zone.ask(&host, self.kind()).await;
            known(&answer, &host)?;
            if answer.addresses().into_iter().any(|address| range.covers(address, self.ip)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Section 5.5; an error of DNS is no match there.
    async fn is_named(&mut self, domain: &str) -> Result<bool, Stop> {
        let answer = self.zone.ask(&macros::reverse_name(self.ip), Kind::Ptr).await;
        let names = answer.data().iter().filter_map(|data| match data {
            Data::Name(name) => Some(name.clone()),
            _ => None,
        });
        for name in names.take(HOSTS_MAX).collect::<Vec<_>>() {
            let inside = name == domain || name.ends_with(&format!(".{domain}"));
            if inside && self.zone.ask(&name, self.kind()).await.addresses().contains(&self.ip) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    const fn kind(&self) -> Kind {
        if self.ip.is_ipv4() { Kind::A } else { Kind::Aaaa }
    }

    /// An answer that counts as void where there is nothing.
    async fn asked(&mut self, name: &str, kind: Kind) -> Result<Answer, Stop> {
        let answer = self.zone.ask(name, kind).await;
        known(&answer, name)?;
        if matches!(answer.found, Found::NoData { .. } | Found::NoName) {
            self.voids += 1;
            if self.voids > VOID_LOOKUPS_MAX {
                return Err(Stop::Perm(PermError::TooManyVoids { name: name.to_owned() }));
            }
        }
        Ok(answer)
    }

    fn count(&mut self, domain: &str, term: &str) -> Result<(), Stop> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            let (domain, term) = (domain.to_owned(), term.to_owned());
            return Err(Stop::Perm(PermError::TooManyLookups { domain, term }));
        }
        Ok(())
    }

    fn target(&self, target: Option<&str>, domain: &str, term: &str) -> Result<String, Stop> {
        target.map_or_else(|| Ok(domain.to_owned()), |target| self.expand(target, domain, term))
    }

    fn expand(&self, target: &str, domain: &str, term: &str) -> Result<String, Stop> {
        macros::expand(target, self.ip, domain, self.sender).ok_or_else(|| {
            let (domain, term) = (domain.to_owned(), term.to_owned());
            Stop::Perm(PermError::Syntax { domain, term })
        })
    }
}

fn known(answer: &Answer, name: &str) -> Result<(), Stop> {
    match answer.failure() {
        // A name that DNS cannot carry exists nowhere (section 4.8).
        None | Some(Failure::Name) => Ok(()),
        Some(failure) => Err(Stop::Temp { failure, name: name.to_owned() }),
    }
}

impl From<Qualifier> for SpfResult {
    fn from(qualifier: Qualifier) -> Self {
        match qualifier {
            Qualifier::Pass => Self::Pass,
            Qualifier::Fail => Self::Fail,
            Qualifier::SoftFail => Self::SoftFail,
            Qualifier::Neutral => Self::Neutral,
        }
    }
}

/// Section 4.6.4.
pub(crate) const LOOKUPS_MAX: u32 = 10;
const VOID_LOOKUPS_MAX: u32 = 2;
const HOSTS_MAX: usize = 10;

#[cfg(test)]
mod tests;
