//! `/v2/settings`: what holds for the whole installation; the operator's.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Tagged};
use super::problem::ProblemDocument;
use super::tenants::present;
use crate::app::SettingsChange;
use crate::plan::{Settings, SettingsEntry, Verification, entity_tag};

/// The settings.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SettingsView {
    /// What lets a domain send that the operator makes without saying so: `operator` or `dns`.
    domain_verification: Verification,
    /// A name whose SPF record lists all sources; null: domains name their sources.
    spf_include: Option<String>,
    /// The sending domain whose keys sign all mail, beside those of each mail's own domain; null: none.
    platform_domain: Option<String>,
    /// After how many days of signing a DKIM key gets a successor by itself; null: never.
    dkim_rotation_days: Option<u32>,
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsPatch {
    /// `operator` or `dns`; domains that exist keep theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain_verification: Option<Verification>,
    /// Null: domains name their sources.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    spf_include: Option<Option<String>>,
    /// Null: no domain signs for all.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    platform_domain: Option<Option<String>>,
    /// 30 to 3650. Null: keys get no successors by themselves.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    dkim_rotation_days: Option<Option<u32>>,
}

#[utoipa::path(get, path = "/v2/settings", tag = "settings", responses((status = 200, body = SettingsView)))]
pub(crate) async fn show(State(shared): State<Shared>, _: Operator) -> Tagged<SettingsView> {
    tagged(&shared.app.desired().settings)
}

#[utoipa::path(patch, path = "/v2/settings", tag = "settings", request_body = SettingsPatch,
    responses((status = 200, body = SettingsView), (status = 422, body = ProblemDocument)))]
pub(crate) async fn change(
    State(shared): State<Shared>,
    _: Operator,
    IfMatch(when): IfMatch,
    Body(patch): Body<SettingsPatch>,
) -> Result<Tagged<SettingsView>, ProblemDocument> {
    let when = when.sending(&patch);
    let SettingsPatch { domain_verification, spf_include, platform_domain, dkim_rotation_days } = patch;
    let change = SettingsChange { domain_verification, spf_include, platform_domain, dkim_rotation_days };
    let settings = shared.run(move |app| app.change_settings(&change, &when)).await?;
    Ok(tagged(&settings))
}

fn tagged(settings: &Settings) -> Tagged<SettingsView> {
    Tagged(entity_tag(&SettingsEntry::of(settings)), view(settings))
}

fn view(settings: &Settings) -> SettingsView {
    SettingsView {
        domain_verification: settings.domain_verification,
        spf_include: settings.spf_include.clone(),
        platform_domain: settings.platform_domain.clone(),
        dkim_rotation_days: settings.dkim_rotation_days,
    }
}
