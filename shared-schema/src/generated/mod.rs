//! Code made by flatc 25.12.19 from `schema/*.fbs`; committed, and compared with the schema by `xtask schema --check`.
//!
//! Only [`crate::wire`] uses it: no generated type leaves this crate.

#[expect(
    dead_code,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    clippy::use_self,
    reason = "the generator decides the style of this file"
)]
#[rustfmt::skip]
pub(crate) mod event;
#[expect(
    dead_code,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    clippy::use_self,
    reason = "the generator decides the style of this file"
)]
#[rustfmt::skip]
pub(crate) mod manifest;
#[expect(
    dead_code,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    clippy::use_self,
    reason = "the generator decides the style of this file"
)]
#[rustfmt::skip]
pub(crate) mod snapshot;
