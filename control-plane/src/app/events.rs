//! Events page by page, and where a tenant's page ends.
//!
//! ```text
//! cursor of a tenant   base64url of: nonce, 12 | place in the ledger, 8 | tag, 16     AES-256-GCM
//! its key              HMAC-SHA-256 by the installation's salt, of the tenant
//! ```
//!
//! A place in the ledger counts everybody's events, so operators are shown it and tenants are not. Invariants worth naming:
//! no two answers have the same cursor, also of the same place; a cursor opens for the tenant that it was given to alone, at
//! every control plane of its region, and for as long as the installation lives (its salt moves with its configuration, and
//! has nothing to do with master keys); an answer to a tenant is short only where nothing more of it follows, up to a bound,
//! so that how many answers it takes tells nothing of others either. Absent here: how long an answer takes, which is longer
//! where much of others lies between.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postrail_schema::event::Event;
use postrail_schema::ids::TenantId;

use super::keys::random;
use super::{App, AppError};
use crate::ledger::EventPage;

impl App {
    /// Events after `place`, of one tenant or of all.
    ///
    /// # Errors
    /// The ledger fails.
    pub(crate) fn events(&self, tenant: Option<TenantId>, place: u64, limit: u32) -> Result<EventPage, AppError> {
        let mut page = self.ledger.events(tenant, place, limit)?;
        // One read looks at a bounded number of events, whoever's they are.
        for _ in 1..READS_MAX {
            let room = limit.saturating_sub(u32::try_from(page.events.len()).unwrap_or(u32::MAX));
            if tenant.is_none() || room == 0 || !page.more {
                break;
            }
            let next = self.ledger.events(tenant, page.cursor, room)?;
            page.events.extend(next.events);
            (page.cursor, page.more) = (next.cursor, next.more);
        }
        Ok(page)
    }

    /// A cursor of `tenant` for a place in the ledger.
    ///
    /// # Errors
    /// There is no entropy.
    pub(crate) fn cursor_of(&self, tenant: TenantId, place: u64) -> Result<String, AppError> {
        seal(self.cursor_key(tenant)?, self.region.as_bytes(), random()?, place)
    }

    /// The place that a cursor of `tenant` names; `None`: it was not given to it here.
    ///
    /// # Errors
    /// Cryptography fails.
    pub(crate) fn place_of(&self, tenant: TenantId, cursor: &str) -> Result<Option<u64>, AppError> {
        Ok(open(self.cursor_key(tenant)?, self.region.as_bytes(), cursor))
    }

    /// A key of its own for each tenant, so that few nonces are drawn for each.
    fn cursor_key(&self, tenant: TenantId) -> Result<LessSafeKey, AppError> {
        let salt = hmac::Key::new(hmac::HMAC_SHA256, self.desired().settings.ownership_salt.as_bytes());
        let tag = hmac::sign(&salt, format!("postrail cursor of tenant {tenant}").as_bytes());
        let key = UnboundKey::new(&AES_256_GCM, tag.as_ref()).map_err(|_| FAILED)?;
        Ok(LessSafeKey::new(key))
    }
}

/// What an event is known by, wherever and however often it is told: it follows from the event itself, so that it is the same
/// also where a ledger was lost and has taken it from a journal anew.
pub(crate) fn event_id(event: &Event) -> String {
    let mut context = Context::new(&SHA256);
    context.update(b"postrail event");
    context.update(&event.message.bits().to_be_bytes());
    context.update(&event.index.0.to_be_bytes());
    context.update(&event.at_ms.to_be_bytes());
    context.update(&event.attempt.as_ref().map_or(0, |attempt| attempt.number).to_be_bytes());
    context.update(event.kind.name().as_bytes());
    context.update(b" ");
    context.update(event.reason.as_bytes());
    URL_SAFE_NO_PAD.encode(&context.finish().as_ref()[..ID_BYTES])
}

fn seal(key: LessSafeKey, region: &[u8], nonce: [u8; NONCE_LEN], place: u64) -> Result<String, AppError> {
    let mut sealed = place.to_be_bytes().to_vec();
    let unique = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(unique, Aad::from(region), &mut sealed).map_err(|_| FAILED)?;
    Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
}

fn open(key: LessSafeKey, region: &[u8], cursor: &str) -> Option<u64> {
    // What is not as long as ours is none, and is not decoded.
    let octets = URL_SAFE_NO_PAD.decode(Some(cursor).filter(|cursor| cursor.len() == CURSOR_CHARS)?).ok()?;
    let (nonce, sealed) = octets.split_first_chunk::<NONCE_LEN>()?;
    let mut sealed = sealed.to_vec();
    let place = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(region), &mut sealed).ok()?;
    Some(u64::from_be_bytes(place.as_ref().try_into().ok()?))
}

/// Reads of the ledger for one answer.
const READS_MAX: usize = 64;
/// 36 octets in base64url.
const CURSOR_CHARS: usize = 48;
/// 128 bits.
const ID_BYTES: usize = 16;
const FAILED: AppError = AppError::Crypto { act: "sealing a cursor" };

#[cfg(test)]
mod tests {
    use super::*;

    fn key(octet: u8) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[octet; 32]).unwrap())
    }

    #[test]
    fn a_cursor_opens_with_its_key_in_its_region_and_unchanged_alone() {
        for place in [0, 1, 4_711, u64::MAX] {
            let cursor = seal(key(1), b"eu", [7; 12], place).unwrap();
            assert_eq!(cursor.len(), CURSOR_CHARS);
            assert_eq!(open(key(1), b"eu", &cursor), Some(place));
            assert_eq!((open(key(2), b"eu", &cursor), open(key(1), b"us", &cursor)), (None, None));
            for at in 0..cursor.len() {
                let other = if &cursor[at..=at] == "A" { "B" } else { "A" };
                let changed = format!("{}{other}{}", &cursor[..at], &cursor[at + 1..]);
                assert_eq!(open(key(1), b"eu", &changed), None, "{changed}");
                assert_eq!(open(key(1), b"eu", &cursor[..at]), None, "cut at {at}");
            }
        }
        for text in ["", "0", "97", "ä", &"=".repeat(48), &"ä".repeat(24), &"A".repeat(10_000)] {
            assert_eq!(open(key(1), b"eu", text), None, "{text}");
        }
    }
}
