//! The suppressions of a region, cheap to copy with a change, and what leads from one list of them to another.
//!
//! ```text
//! ledger: change 7, 8, 9, each added or removed -> delta since 6: each address as the last change left it
//! host:   list of 6 -> with the delta -> list of 9, whose total is that of the ledger
//! ```
//!
//! A change copies one leaf and the list of leaves of its tenant. Invariants worth naming: a total is known with the list,
//! and goes with it from change to change, so that two lists are compared by it alone; it does not depend on the order;
//! each suppression holds for all ways to write its address ([`address`](crate::address)), also one that the ledger has in
//! another form than the normal one, of an earlier version or by a statement. Absent here: numbers of changes (the
//! ledger gives them), and what is kept on disks.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use crate::address::normal_address;
use crate::ids::TenantId;
use crate::snapshot::Suppression;
use crate::table::Table;

/// The header fields of the question and of the answer. A control plane of an earlier version passes over the question's,
/// and gives the whole list with its version.
pub mod headers {
    /// The point up to which the asker has the list; anything else: it has none, and could amend one.
    pub const HAVE: &str = "x-suppressions-have";
    /// The version that the answer has at least.
    pub const VERSION: &str = "x-suppressions-version";
    /// The point up to which the answer leads.
    pub const AT: &str = "x-suppressions-at";
    /// The change behind which these are the changes; not there: this is the whole list.
    pub const SINCE: &str = "x-suppressions-since";
    /// The total that the list has then, where it is known.
    pub const TOTAL: &str = "x-suppressions-total";
}

/// See the module head.
#[derive(Clone, Debug, Default)]
pub struct Suppressions {
    by_tenant: Table<TenantId, Addresses>,
    total: SuppressionTotal,
}

/// Those of a tenant.
#[derive(Clone, Debug, Default)]
struct Addresses {
    /// As the ledger has them.
    all: Table<Arc<str>, ()>,
    /// The normal forms of those that it has in other ones, and how many each is of.
    others: Table<String, u32>,
}

/// How many suppressions there are, and the sum of their hashes: equal for equal lists, and for no others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SuppressionTotal {
    pub count: u64,
    pub sum: u128,
}

/// A change that made a difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SuppressionChange {
    pub suppression: Suppression,
    pub is_added: bool,
}

/// Up to which change a list is whole, and of which ledger: numbers are of one ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SuppressionPoint {
    pub ledger: u128,
    pub sequence: u64,
}

/// What leads from one list to another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SuppressionDelta {
    pub added: Vec<Suppression>,
    pub removed: Vec<Suppression>,
}

impl Suppressions {
    pub fn is_empty(&self) -> bool {
        self.total.count == 0
    }

    pub fn total(&self) -> SuppressionTotal {
        self.total
    }

    /// Whether `tenant` has any.
    pub fn has(&self, tenant: TenantId) -> bool {
        self.by_tenant.contains_key(&tenant)
    }

    /// Whether the mailbox is in it, whose address is given in the normal form.
    pub fn contains(&self, tenant: TenantId, address: &str) -> bool {
        let Some(Addresses { all, others }) = self.by_tenant.get(&tenant) else { return false };
        all.contains_key(address) || !others.is_empty() && others.contains_key(address)
    }

    /// All of them, ascending by tenant and address.
    pub fn iter(&self) -> impl Iterator<Item = Suppression> {
        let of = |(tenant, addresses): (&TenantId, _)| {
            let (tenant, addresses): (_, &Addresses) = (*tenant, addresses);
            addresses.all.keys().map(move |address| Suppression { tenant, address: address.to_string() })
        };
        self.by_tenant.iter().flat_map(of)
    }

    /// This list with the changes of `delta`.
    #[must_use]
    pub fn with(&self, delta: &SuppressionDelta) -> Self {
        let mut next = self.clone();
        delta.removed.iter().for_each(|suppression| next.remove(suppression));
        delta.added.iter().for_each(|suppression| next.insert(suppression));
        next
    }

    fn insert(&mut self, suppression: &Suppression) {
        let Suppression { tenant, address } = suppression;
        if !self.by_tenant.contains_key(tenant) {
            self.by_tenant.insert(*tenant, Addresses::default());
        }
        let addresses = self.by_tenant.get_mut(tenant);
        if addresses.is_some_and(|addresses| addresses.insert(address)) {
            self.total.add(suppression);
        }
    }

    fn remove(&mut self, suppression: &Suppression) {
        let Some(addresses) = self.by_tenant.get_mut(&suppression.tenant) else { return };
        if !addresses.remove(&suppression.address) {
            return;
        }
        if addresses.all.is_empty() {
            self.by_tenant.remove(&suppression.tenant);
        }
        self.total.subtract(suppression);
    }
}

impl Addresses {
    fn insert(&mut self, address: &str) -> bool {
        let is_new = self.all.insert(Arc::from(address), ()).is_none();
        if let Cow::Owned(normal) = normal_address(address)
            && is_new
        {
            let count = self.others.get(&normal).copied().unwrap_or_default();
            self.others.insert(normal, count + 1);
        }
        is_new
    }

    fn remove(&mut self, address: &str) -> bool {
        let was_there = self.all.remove(address).is_some();
        if let Cow::Owned(normal) = normal_address(address)
            && was_there
        {
            match self.others.get(&normal).copied().unwrap_or_default() {
                0 | 1 => drop(self.others.remove(&normal)),
                count => drop(self.others.insert(normal, count - 1)),
            }
        }
        was_there
    }
}

impl FromIterator<Suppression> for Suppressions {
    fn from_iter<I: IntoIterator<Item = Suppression>>(suppressions: I) -> Self {
        let mut list = Self::default();
        suppressions.into_iter().for_each(|suppression| list.insert(&suppression));
        list
    }
}

impl SuppressionTotal {
    pub fn add(&mut self, suppression: &Suppression) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash(suppression));
    }

    pub fn subtract(&mut self, suppression: &Suppression) {
        self.count = self.count.saturating_sub(1);
        self.sum = self.sum.wrapping_sub(hash(suppression));
    }

    /// The total behind a change.
    pub fn take(&mut self, change: &SuppressionChange) {
        match change.is_added {
            true => self.add(&change.suppression),
            false => self.subtract(&change.suppression),
        }
    }
}

impl SuppressionDelta {
    /// Each address as the last of `changes` left it.
    pub fn of(changes: impl IntoIterator<Item = SuppressionChange>) -> Self {
        let last: BTreeMap<_, _> =
            changes.into_iter().map(|SuppressionChange { suppression, is_added }| (suppression, is_added)).collect();
        let mut delta = Self::default();
        for (suppression, is_added) in last {
            if is_added { &mut delta.added } else { &mut delta.removed }.push(suppression);
        }
        delta
    }

    pub fn len(&self) -> usize {
        self.added.len() + self.removed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// SHA-256 truncated to 128 bits, as chunks are named.
fn hash(Suppression { tenant, address }: &Suppression) -> u128 {
    let mut octets = Vec::with_capacity(4 + address.len());
    octets.extend_from_slice(&tenant.0.to_le_bytes());
    octets.extend_from_slice(address.as_bytes());
    let digest = digest(&SHA256, &octets);
    digest.as_ref().first_chunk().map_or(0, |first| u128::from_le_bytes(*first))
}

/// Why a text is no point and no total.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it is no number of 128 bits in hexadecimal, a colon and a number")]
pub struct PairError;

impl fmt::Display for SuppressionPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}:{}", self.ledger, self.sequence)
    }
}

impl FromStr for SuppressionPoint {
    type Err = PairError;

    fn from_str(text: &str) -> Result<Self, PairError> {
        pair(text).map(|(ledger, sequence)| Self { ledger, sequence })
    }
}

impl fmt::Display for SuppressionTotal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}:{}", self.sum, self.count)
    }
}

impl FromStr for SuppressionTotal {
    type Err = PairError;

    fn from_str(text: &str) -> Result<Self, PairError> {
        pair(text).map(|(sum, count)| Self { count, sum })
    }
}

fn pair(text: &str) -> Result<(u128, u64), PairError> {
    let (long, short) = text.split_once(':').ok_or(PairError)?;
    let long = u128::from_str_radix(long, 16).map_err(|_| PairError)?;
    Ok((long, short.parse().map_err(|_| PairError)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::{decode_suppression_delta, encode_suppression_delta};

    /// Each mailbox in four forms: those other than the first may be of an earlier version, or written by hand.
    fn suppression((tenant, address): (u32, u16)) -> Suppression {
        let (mailbox, form) = (address / 4, address % 4);
        let address = match form {
            0 => format!("m{mailbox:x}@receiver.example"),
            1 => format!("\"m{mailbox:x}\"@receiver.example"),
            2 => format!("\"\\m{mailbox:x}\"@receiver.example"),
            _ => format!("M{mailbox:x}@Receiver.example"),
        };
        Suppression { tenant: TenantId(tenant), address }
    }

    fn total(list: &BTreeSet<Suppression>) -> SuppressionTotal {
        let mut total = SuppressionTotal::default();
        list.iter().for_each(|suppression| total.add(suppression));
        total
    }

    proptest! {
        #[test]
        fn a_list_with_its_deltas_is_the_list_that_was_made_whole(
            steps in prop::collection::vec(((1..4_u32, 0..200_u16), any::<bool>()), 0..600),
            cuts in prop::collection::vec(1..40_usize, 1..40),
        ) {
            let (mut list, mut set, mut running) =
                (Suppressions::default(), BTreeSet::new(), SuppressionTotal::default());
            let (mut steps, mut cuts) = (steps.into_iter().peekable(), cuts.into_iter().cycle());
            while steps.peek().is_some() {
                let before = (list.clone(), set.clone());
                let some = steps.by_ref().take(cuts.next().unwrap_or(1)).map(|(key, is_added)| (suppression(key), is_added));
                // As a ledger: what makes no difference is no change.
                let changes: Vec<_> = some
                    .filter(|(suppression, is_added)| match is_added {
                        true => set.insert(suppression.clone()),
                        false => set.remove(suppression),
                    })
                    .map(|(suppression, is_added)| SuppressionChange { suppression, is_added })
                    .collect();
                changes.iter().for_each(|change| running.take(change));
                let delta = SuppressionDelta::of(changes);
                let delta = decode_suppression_delta(&encode_suppression_delta(&delta)).unwrap();
                list = list.with(&delta);
                prop_assert!(list.iter().eq(set.iter().cloned()));
                prop_assert_eq!(list.total(), running);
                prop_assert_eq!(list.total(), total(&set));
                prop_assert!(before.0.iter().eq(before.1.iter().cloned()), "the former list stays as it was");
            }
            let whole: Suppressions = set.iter().rev().cloned().collect();
            prop_assert_eq!(whole.total(), list.total());
            for (tenant, first) in (1..4).flat_map(|tenant| (0..200).step_by(4).map(move |first| (tenant, first))) {
                let one = suppression((tenant, first));
                let is_there = (0..4).any(|form| set.contains(&suppression((tenant, first + form))));
                prop_assert_eq!(list.contains(one.tenant, &one.address), is_there, "in whichever form");
            }
        }

        #[test]
        fn octets_that_are_no_delta_are_refused_and_do_not_panic(
            octets in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
        ) {
            drop(decode_suppression_delta(&octets));
            let delta = SuppressionDelta { added: vec![suppression((1, 1))], removed: vec![suppression((2, 2))] };
            let whole = encode_suppression_delta(&delta);
            prop_assert!(decode_suppression_delta(&whole[..at.index(whole.len())]).is_err());
            let mut damaged = whole.clone();
            damaged[at.index(whole.len())] ^= 0x41;
            drop(decode_suppression_delta(&damaged));
        }
    }

    #[test]
    fn points_and_totals_are_read_as_they_are_written() {
        let point = SuppressionPoint { ledger: u128::MAX - 7, sequence: u64::MAX };
        assert_eq!(point.to_string().parse(), Ok(point));
        let total = SuppressionTotal { count: 3, sum: 9 };
        assert_eq!(total.to_string().parse(), Ok(total));
        for text in ["", ":", "1", "1:", ":1", "g:1", "1:-1", "1:2:3", &"f".repeat(33)] {
            assert_eq!(text.parse::<SuppressionPoint>(), Err(PairError), "{text}");
        }
    }
}
