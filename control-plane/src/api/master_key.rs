//! `/v2/master-key`: another master key for what is sealed; an administrator's.

use axum::Json;
use axum::extract::State;

use super::Shared;
use super::extract::Operator;
use super::problem::ProblemDocument;
use crate::app::Rotation;

/// One step: wraps the keys of some domains anew. Ask again until nothing is left; a rotation that was cut short goes on.
#[utoipa::path(post, path = "/v2/master-key/rotate", tag = "master-key",
    responses((status = 200, body = Rotation), (status = 409, body = ProblemDocument)))]
pub(crate) async fn rotate(State(shared): State<Shared>, _: Operator) -> Result<Json<Rotation>, ProblemDocument> {
    Ok(Json(shared.run(|app| app.rotate_master_key()).await?))
}
