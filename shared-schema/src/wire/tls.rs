//! TLS rules as flatbuffers.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::WireError;
use super::policy::{put_selector, read_selector};
use crate::generated::snapshot as wire;
use crate::tls::{TlsLevel, TlsRule, TlsVersion};

pub(super) fn put_tls_rule<'b>(to: &mut FlatBufferBuilder<'b>, rule: &TlsRule) -> WIPOffset<wire::TlsRule<'b>> {
    let hosts: Vec<_> = rule.hosts.iter().map(|host| to.create_string(host)).collect();
    let args = wire::TlsRuleArgs {
        name: Some(to.create_string(&rule.name)),
        selector: Some(put_selector(to, &rule.selector)),
        level: level_to_wire(rule.level),
        minimum_version: version_to_wire(rule.minimum_version),
        hosts: (!hosts.is_empty()).then(|| to.create_vector(&hosts)),
    };
    wire::TlsRule::create(to, &args)
}

pub(super) fn read_tls_rule(rule: wire::TlsRule<'_>) -> Result<TlsRule, WireError> {
    let (level, version) = (rule.level(), rule.minimum_version());
    let known = TlsLevel::ALL.into_iter().find(|known| level_to_wire(*known) == level);
    let known_version = TlsVersion::ALL.into_iter().find(|known| version_to_wire(*known) == version);
    Ok(TlsRule {
        name: rule.name().to_owned(),
        selector: read_selector(rule.selector())?,
        level: known.ok_or(WireError::UnknownValue { field: "tls level", value: level })?,
        minimum_version: known_version.ok_or(WireError::UnknownValue { field: "tls version", value: version })?,
        hosts: rule.hosts().into_iter().flatten().map(str::to_owned).collect(),
    })
}

const fn level_to_wire(level: TlsLevel) -> u8 {
    match level {
        TlsLevel::Opportunistic => 0,
        TlsLevel::Required => 1,
        TlsLevel::Verified => 2,
    }
}

const fn version_to_wire(version: TlsVersion) -> u8 {
    match version {
        TlsVersion::V1_2 => 2,
        TlsVersion::V1_3 => 3,
    }
}
