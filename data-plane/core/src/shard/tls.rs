//! TLS rules on the way of a group: the lane that its mail goes in, and what is told where a receiver cannot meet it.
//!
//! Invariants worth naming: what a mail demands is asked when it becomes ready, when the rules change, and once more when it
//! is begun; a session serves one lane. Absent here: handshakes (`egress`).

use std::rc::Rc;
use std::sync::Arc;

use postrail_schema::event::AttemptFacts;
use postrail_schema::ids::SourceId;
use postrail_schema::selector::MailFacts;
use postrail_schema::tls::TlsPolicy;

use super::{Group, Shard};
use crate::base::Moment;
use crate::dns::{MailHost, MailHosts, SiteName};
use crate::egress::{Fault, Phase, RecipientOutcome, Scope, Verdict};
use crate::schedule::PathKey;
use crate::smtp::reply::Reply;

impl Shard {
    /// What a group that goes to `site` demands of the connection.
    pub(super) fn tls_policy(&self, group: u32, site: &SiteName) -> Option<Arc<TlsPolicy>> {
        let rules = &self.rules.snapshot().tls;
        if rules.is_empty() {
            return None;
        }
        let mail = self.mail_facts(&self.groups[group as usize]);
        rules.policy(MailFacts { site: Some(&site.0), ..mail }).map(Arc::new)
    }

    /// Whether the path of that key is the lane of a group.
    pub(super) fn is_in_lane(&self, group: u32, key: &PathKey) -> bool {
        self.tls_policy(group, &key.site) == key.tls
    }

    /// The names of the TLS rules that demand something for a group.
    pub(super) fn tls_rules_of(&self, group: &Group) -> Vec<String> {
        let rules = &self.rules.snapshot().tls;
        if rules.is_empty() {
            return Vec::new();
        }
        rules.demanding(self.mail_facts(group)).map(|rule| rule.name.clone()).collect()
    }

    /// Adds to what was wrong with a receiver's TLS who demands it.
    pub(super) fn blame(&self, reply: &mut Reply, policy: &TlsPolicy, group: u32) {
        let names = self.tls_rules_of(&self.groups[group as usize]);
        let word = if names.len() == 1 { "rule" } else { "rules" };
        let demand = if names.len() == 1 { "demands" } else { "demand" };
        reply.text.push_str(&format!("; TLS {word} {} {demand} {policy}", names.join(", ")));
    }

    /// No host of the site is one that the group's mail may go to.
    pub(super) fn fail_hosts(&mut self, now: Moment, group: u32, source: SourceId, hosts: &MailHosts) {
        let Some(policy) = self.tls_policy(group, &hosts.site) else { return };
        let names: Vec<_> = hosts.hosts.iter().map(|host| host.name.as_str()).collect();
        let detail = format!("none of the MX hosts is allowed: {}", names.join(", "));
        let mut reply = Fault::TlsUnavailable.reply(detail);
        self.blame(&mut reply, &policy, group);
        let (verdict, scope, phase) = (Verdict::Transient, Scope::Site, Phase::StartTls);
        let outcome = RecipientOutcome { verdict, scope, phase, reply, maybe_delivered: false };
        let facts = AttemptFacts { source, site: hosts.site.0.to_string(), ..AttemptFacts::default() };
        self.settle_alike(now, group, outcome, &facts);
    }
}

/// The hosts of a site that a policy allows: none of the others, even if that leaves none at all.
pub(super) fn allowed_hosts(policy: &TlsPolicy, hosts: &Rc<MailHosts>) -> Rc<MailHosts> {
    let allows = |host: &&MailHost| policy.allows_host(host.name.as_str());
    if hosts.hosts.iter().all(|host| allows(&host)) {
        return Rc::clone(hosts);
    }
    let allowed = hosts.hosts.iter().filter(allows).cloned().collect();
    Rc::new(MailHosts { hosts: allowed, ..(**hosts).clone() })
}
