//! Adopting machines, over the API: one is asked what it is, and says so.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use bramble_model::inventory::{Adoption, Inventory};
use bramble_model::names::Mac;
use bramble_model::repository::Cluster;

use crate::adoptions::{Adoptions, mac_of, name_of};
use crate::boots::Boots;
use crate::ends::Ends;
use crate::power::Power;
use crate::refusal::{Asked, Path, Refusal, failed, refuse};
use crate::snapshots::Snapshots;
use crate::timeline::Timeline;

fn parse(mac: &str) -> Result<Mac, Refusal> {
    mac.parse().map_err(|_| refuse(StatusCode::BAD_REQUEST, format!("`{mac}` is no MAC address"), None))
}

fn not_a_node(cluster: &Cluster, mac: Mac) -> Result<(), Refusal> {
    match cluster.node_of(mac) {
        Some((name, _)) => Err(refuse(StatusCode::CONFLICT, format!("{mac} is node {name} already"), None)),
        None => Ok(()),
    }
}

/// `POST /v1/seen/MAC/adopt`: its next boot is into the inventory. A machine that sleeps is woken.
pub(crate) async fn adopt(
    State(snapshots): State<Arc<Snapshots>>,
    State(adoptions): State<Arc<Adoptions>>,
    State(power): State<Arc<Power>>,
    State(timeline): State<Arc<Timeline>>,
    Path(mac): Path<String>,
) -> Result<StatusCode, Refusal> {
    let mac = parse(&mac)?;
    not_a_node(&snapshots.cluster(), mac)?;
    adoptions.ask(mac).map_err(failed)?;
    timeline.note(&format!("{mac} is to say what it is at its next boot"));
    // Many machines do not listen for it; a person switches them on.
    if let Err(error) = power.wake(vec![mac]).set(&name_of(mac), true).await {
        tracing::debug!(%mac, error = bramble_system::sentence(&error), "it could not be woken");
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/seen/MAC/inventory`
pub(crate) async fn inventory(
    State(adoptions): State<Arc<Adoptions>>,
    Path(mac): Path<String>,
) -> Result<Json<Adoption>, Refusal> {
    let mac = parse(&mac)?;
    adoptions.present(mac).map(Json).ok_or_else(|| {
        refuse(StatusCode::NOT_FOUND, format!("{mac} has not said what it is"), Some("`bramble adopt` asks it"))
    })
}

/// `POST /v1/boots/REPORTER/inventory`: the machine of this boot says what it is, with the capability for its reports.
pub(crate) async fn report(
    State(boots): State<Arc<Boots>>,
    State(adoptions): State<Arc<Adoptions>>,
    State(timeline): State<Arc<Timeline>>,
    Extension(ends): Extension<Ends>,
    Path(reporter): Path<String>,
    Asked(inventory): Asked<Inventory>,
) -> Result<StatusCode, Refusal> {
    let Some(mac) = boots.reports(&reporter, *ends.peer.ip()).as_ref().and_then(mac_of) else {
        return Err(refuse(StatusCode::NOT_FOUND, "there is no such boot", None));
    };
    let first = inventory.lines().into_iter().next().unwrap_or_default();
    adoptions.done(mac, inventory).map_err(failed)?;
    timeline.says_of_itself(&name_of(mac), &format!("says what it is: {first}"));
    Ok(StatusCode::NO_CONTENT)
}
