//! Whose a domain is: a text that only who controls its DNS can publish, and that serves one tenant only.

use aws_lc_rs::hmac;
use postrail_schema::ids::TenantId;

use super::records::OWNERSHIP_PREFIX;
use super::session::Session;
use super::{DnsRecord, Outcome, RecordState, Subject, words};
use crate::dns::{Kind, Lookup};

/// The token of a tenant's domain, 32 hexadecimal digits: the same for as long as the installation lives, another one for
/// each tenant, and without a way back to `salt`.
pub(crate) fn token(salt: &[u8], tenant: TenantId, domain: &str) -> String {
    let mut text = tenant.0.to_le_bytes().to_vec();
    text.extend_from_slice(domain.as_bytes());
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, salt), &text);
    tag.as_ref().iter().take(TOKEN_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

pub(super) async fn check<L: Lookup>(session: &Session<'_, L>, subject: &Subject, record: &DnsRecord) -> Outcome {
    let answer = session.ask(&record.name, Kind::Txt).await;
    if answer.failure().is_some() {
        return words::unreachable(&answer, record);
    }
    let texts = answer.texts();
    if texts.iter().any(|text| text.trim() == record.value) {
        return Outcome::of(&answer, RecordState::Ok);
    }
    let is_ours = |texts: &[String]| texts.iter().any(|text| text.trim() == record.value);
    if let Some(outcome) = words::mistake(session, subject, record, &answer, is_ours).await {
        return outcome;
    }
    let other = texts.iter().find(|text| text.trim().starts_with(OWNERSHIP_PREFIX));
    if other.is_some() {
        return Outcome::of(&answer, RecordState::Wrong).saying(
            "the verification text there is another account's, or was cut",
            format!("Add the text {} (another account's text may stay beside it).", record.value),
        );
    }
    words::absent(&answer, record)
}

/// 128 bits.
const TOKEN_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_stable_and_serves_one_tenant_and_one_domain() {
        let one = token(b"salt", TenantId(1), "a.example");
        assert_eq!(one, token(b"salt", TenantId(1), "a.example"));
        assert_eq!(one.len(), 32);
        for other in [
            token(b"salt", TenantId(2), "a.example"),
            token(b"salt", TenantId(1), "b.example"),
            token(b"other", TenantId(1), "a.example"),
        ] {
            assert_ne!(one, other);
        }
    }
}
