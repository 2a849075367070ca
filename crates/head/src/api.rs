//! What the API answers: the status, events, and what operators change on nodes.

pub(crate) mod adopt;
pub(crate) mod ca;
pub(crate) mod desired;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Redirect, Response};
use bramble_model::agent::SignedTime;
use bramble_model::api::{Approval, Approved, Events, Expected, KnownHosts, PowerAction, Status, Switched};
use bramble_model::digits::NoDigits;
use bramble_model::engine::{EngineKind, EngineState};
use bramble_model::names::{ClusterId, Digest, Name};
use bramble_model::repository::Cluster;
use bramble_model::subject::Subject;
use bramble_model::timeline::{Event, What};
use bramble_plan::admission::waiting::NotThese;
use bramble_plan::swarm::Record;
use bramble_system::now;
use futures_util::Stream;
use serde::Deserialize;

use crate::agents::Agents;
use crate::boots::Boots;
use crate::ca::Authority;
use crate::host_ca::HostAuthority;
use crate::loops::Sections;
use crate::overview::Overview;
use crate::power::{NotSwitched, Power};
use crate::refusal::{Asked, Path, Query, Refusal, failed, refuse};
use crate::snapshots::Snapshots;
use crate::swarm::Swarm;
use crate::timeline::Timeline;

/// The API's own description, OpenAPI 3.1.
pub(crate) const OPENAPI: &str = include_str!("../../../docs/openapi.json");
/// Events in one answer.
const MOST: usize = 2000;
/// How long a question for newer events waits for one, before it is answered with none.
const LONGEST_WAIT: Duration = Duration::from_secs(25);

pub(crate) async fn status(State(overview): State<Arc<Overview>>) -> Json<Status> {
    Json(overview.status().await)
}

#[derive(Deserialize)]
pub(crate) struct After {
    #[serde(default)]
    after: u64,
    /// Seconds to wait for an event, where there is none yet.
    #[serde(default)]
    wait: u64,
}

pub(crate) async fn events(
    State(timeline): State<Arc<Timeline>>,
    Query(After { after, wait }): Query<After>,
) -> Json<Events> {
    let mut newest = timeline.newest();
    if wait > 0 {
        let limit = Duration::from_secs(wait).min(LONGEST_WAIT);
        // Late means none: the answer is then empty.
        let _ = tokio::time::timeout(limit, newest.wait_for(|newest| *newest > after)).await;
    }
    let events = timeline.after(after, MOST);
    let next = events.last().map_or(after, |event| event.number);
    Json(Events { events, next })
}

/// `GET /v1/stream?after=N`: events as they happen (server-sent events, WHATWG HTML section 9.2); each has
/// its number as `id`, so that a browser that comes back goes on where it was.
pub(crate) async fn stream(
    State(timeline): State<Arc<Timeline>>,
    Query(After { after, .. }): Query<After>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let newest = timeline.newest();
    let none: Vec<Event> = Vec::new();
    let start = (last.unwrap_or(after), newest, none.into_iter(), timeline);
    let events = futures_util::stream::unfold(start, async |(mut after, mut newest, mut page, timeline)| {
        loop {
            if let Some(event) = page.next() {
                let told = sse::Event::default().id(event.number.to_string());
                let told = told.json_data(&event).expect("events are plain data");
                after = event.number;
                return Some((Ok(told), (after, newest, page, timeline)));
            }
            // The head ends: so does the stream.
            newest.wait_for(|newest| *newest > after).await.ok()?;
            page = timeline.after(after, MOST).into_iter();
        }
    });
    Sse::new(events).keep_alive(sse::KeepAlive::default())
}

/// `GET /v1/ca.pem`: the head's CA, to be compared by its fingerprint before it is trusted; while it is rotated, the next
/// one after it.
pub(crate) async fn ca_pem(State(authority): State<Arc<Authority>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/x-pem-file")], authority.pem())
}

/// `GET /v1/ssh/known-hosts`: by which line of a file of known hosts SSH knows every node; none where nodes have no SSH.
pub(crate) async fn known_hosts(
    State(snapshots): State<Arc<Snapshots>>,
    State(hosts): State<Arc<HostAuthority>>,
) -> Result<Json<KnownHosts>, Refusal> {
    let cluster = snapshots.cluster();
    if cluster.ssh_keys.is_empty() {
        return Ok(Json(KnownHosts { line: None }));
    }
    let help = "`bramble restore` brings the key back from a backup; without one, remove `.bramble/keys/ssh-host.key`, \
                start the head again, and have everyone take the new line";
    let refused = |why: String| refuse(StatusCode::SERVICE_UNAVAILABLE, why, Some(help));
    hosts.known_hosts(&cluster).map(|line| Json(KnownHosts { line: Some(line) })).map_err(refused)
}

pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

/// The node that a path names.
fn named(cluster: &Cluster, node: &str) -> Result<Name, Refusal> {
    let known = node.parse::<Name>().ok().filter(|name| cluster.nodes.contains_key(name));
    let names: Vec<&str> = cluster.nodes.keys().map(Name::as_str).collect();
    let help = format!("nodes of this cluster: {}", names.join(", "));
    known.ok_or_else(|| refuse(StatusCode::NOT_FOUND, format!("there is no node `{node}`"), Some(&help)))
}

/// Switches a node; switched on, its next boot is expected.
pub(crate) async fn power(
    State(snapshots): State<Arc<Snapshots>>,
    State(power): State<Arc<Power>>,
    Path(node): Path<String>,
    Asked(action): Asked<PowerAction>,
) -> Result<Json<Switched>, Refusal> {
    let node = named(&snapshots.cluster(), &node)?;
    power.switch(&node, action).await.map(Json).map_err(|not| match not {
        NotSwitched::Gone => refuse(StatusCode::NOT_FOUND, format!("`{node}` has just left the repository"), None),
        NotSwitched::Driver(error) => refuse(StatusCode::BAD_GATEWAY, bramble_system::sentence(&error), None),
        NotSwitched::Head(error) => failed(error),
    })
}

/// A person switches a node on that the head cannot.
pub(crate) async fn expect(
    State(snapshots): State<Arc<Snapshots>>,
    State(power): State<Arc<Power>>,
    State(timeline): State<Arc<Timeline>>,
    Path(node): Path<String>,
) -> Result<Json<Expected>, Refusal> {
    let node = named(&snapshots.cluster(), &node)?;
    let until = power.expect(&node, bramble_system::now()).map_err(failed)?;
    timeline.note_of(&node, "expected: a person switches it on");
    Ok(Json(Expected { until }))
}

/// A foreign node is to be given its profile again.
pub(crate) async fn reinstall(
    State(snapshots): State<Arc<Snapshots>>,
    State(boots): State<Arc<Boots>>,
    State(timeline): State<Arc<Timeline>>,
    Path(node): Path<String>,
) -> Result<StatusCode, Refusal> {
    let cluster = snapshots.cluster();
    let node = named(&cluster, &node)?;
    if cluster.nodes.get(&node).is_none_or(|node| node.boot.is_none()) {
        let help = "it boots bramble's own system anew at each start";
        return Err(refuse(StatusCode::CONFLICT, format!("`{node}` has no `boot` in bramble.toml"), Some(help)));
    }
    boots.install_again(&node).map_err(failed)?;
    timeline.add(Some(&node), What::Note { text: "is to be installed again at its next boot".into() });
    Ok(StatusCode::NO_CONTENT)
}

/// Lets in whom a person knows in one of three ways.
fn let_in(cluster: &Cluster, agents: &Agents, node: &str, approval: &Approval) -> Result<Approved, Refusal> {
    let node = named(cluster, node)?;
    match approval {
        Approval { fingerprint: Some(fingerprint), digits: None, press: false } => {
            let fingerprint = key_in(fingerprint)?;
            agents.approve(&node, &fingerprint).map_err(failed)?;
            Ok(Approved { fingerprint: Some(fingerprint), until: None })
        }
        Approval { fingerprint: None, digits: Some(digits), press: false } => {
            let typed = digits.parse().map_err(|error: NoDigits| {
                let help = "where its console shows 32, the key itself is approved: `fingerprint`";
                refuse(StatusCode::BAD_REQUEST, format!("`{digits}` are no digits of a key: {error}"), Some(help))
            })?;
            match agents.approve_shown(&node, typed).map_err(failed)? {
                Ok(fingerprint) => Ok(Approved { fingerprint: Some(fingerprint), until: None }),
                Err(why) => Err(not_these(&node, why)),
            }
        }
        Approval { fingerprint: None, digits: None, press: true } => {
            match agents.approve_pressed(&node).map_err(failed)? {
                Ok(until) => Ok(Approved { fingerprint: None, until: Some(until) }),
                Err(relay) => {
                    let help =
                        "`bramble node approve` lists its key, and lets it in by that or by the digits on its console";
                    let error = format!(
                        "`{node}` is behind the DHCP relay {relay}, where nobody sees whose card an address is of: no press can \
                     tell its board from another one"
                    );
                    Err(refuse(StatusCode::CONFLICT, error, Some(help)))
                }
            }
        }
        _ => {
            let help = "`digits`, as the machine's console shows them, `fingerprint`, or `press`";
            Err(refuse(StatusCode::BAD_REQUEST, "an approval names one of three", Some(help)))
        }
    }
}

fn not_these(node: &Name, why: NotThese) -> Refusal {
    match why {
        NotThese::NobodyShows => {
            let help = "`bramble node approve` lists who waits; an agent asks every 15 s, and shows its digits then";
            refuse(StatusCode::CONFLICT, format!("no machine that waits for `{node}` shows digits"), Some(help))
        }
        NotThese::Wrong { used_up } => {
            let help = "start its machine again and type what its console shows then: there is one try for each";
            let error =
                format!("none of those that wait for `{node}` has these digits, and {used_up} may not be tried again");
            refuse(StatusCode::CONFLICT, error, Some(help))
        }
        NotThese::Twice => {
            let help = "start its machine again, and look who else asks in its name: `bramble node approve`";
            let error = format!("two machines that wait for `{node}` have these digits, and neither is let in");
            refuse(StatusCode::CONFLICT, error, Some(help))
        }
    }
}

/// The fingerprint of a key, as a person writes it.
fn key_in(fingerprint: &str) -> Result<String, Refusal> {
    let fingerprint = fingerprint.trim().to_ascii_lowercase();
    if fingerprint.len() != 32 || !fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let help = "32 hexadecimal digits, as the machine's console shows them";
        return Err(refuse(StatusCode::BAD_REQUEST, format!("`{fingerprint}` is no key"), Some(help)));
    }
    Ok(fingerprint)
}

/// Lets in the machine that an operator knows.
pub(crate) async fn approve(
    State(snapshots): State<Arc<Snapshots>>,
    State(agents): State<Arc<Agents>>,
    Path(node): Path<String>,
    Asked(approval): Asked<Approval>,
) -> Result<Response, Refusal> {
    let approved = let_in(&snapshots.cluster(), &agents, &node, &approval)?;
    // Whoever names a key may be of a release before, which reads no answer.
    Ok(match approval.fingerprint {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => Json(approved).into_response(),
    })
}

/// The same, by the status page's button.
pub(crate) async fn approve_on_page(
    State(snapshots): State<Arc<Snapshots>>,
    State(agents): State<Arc<Agents>>,
    Path(node): Path<String>,
    Form(approval): Form<Approval>,
) -> Result<Redirect, Refusal> {
    let_in(&snapshots.cluster(), &agents, &node, &approval)?;
    Ok(Redirect::to("/"))
}

/// Ends what a node was given: it is let in again as one that was never here.
pub(crate) async fn revoke(
    State(snapshots): State<Arc<Snapshots>>,
    State(agents): State<Arc<Agents>>,
    State(timeline): State<Arc<Timeline>>,
    Path(node): Path<String>,
) -> Result<StatusCode, Refusal> {
    let node = named(&snapshots.cluster(), &node)?;
    agents.revoke(&node).map_err(failed)?;
    timeline.add(Some(&node), What::Note { text: "an operator revoked its certificate".into() });
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/retry`: what failed for this subject may be tried again now.
pub(crate) async fn retry(
    State(sections): State<Arc<Sections>>,
    Asked(subject): Asked<Subject>,
) -> Result<StatusCode, Refusal> {
    if sections.retry(&subject) {
        return Ok(StatusCode::NO_CONTENT);
    }
    let help = "`bramble status` lists what failed";
    Err(refuse(StatusCode::NOT_FOUND, format!("nothing has failed for {subject}"), Some(help)))
}

/// `POST /v1/engines/swarm/start`
#[derive(Deserialize)]
pub(crate) struct StartAnew {
    /// Managers whose state is given up.
    without: Vec<String>,
}

/// A new Swarm may be begun, whatever these managers may hold: a person's word, where the head cannot know.
pub(crate) async fn start_swarm(
    State(snapshots): State<Arc<Snapshots>>,
    State(agents): State<Arc<Agents>>,
    State(swarm): State<Arc<Swarm>>,
    Asked(wish): Asked<StartAnew>,
) -> Result<StatusCode, Refusal> {
    let cluster = snapshots.cluster();
    // One that has left the repository may hold the state, too.
    let managers = swarm.remembered().map_err(failed)?.managers;
    let known = |name: &String| match name.parse::<Name>() {
        Ok(name) if managers.contains(&name) => Ok(name),
        _ => named(&cluster, name),
    };
    let without = wish.without.iter().map(known).collect::<Result<BTreeSet<_>, _>>()?;
    let changed = swarm.remember(|record| record.without = Some(without.clone()));
    changed.map_err(failed)?;
    agents.changed.tell();
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/engines/swarm/give-up`
#[derive(Deserialize)]
pub(crate) struct GiveUp {
    /// As it was typed: what is no id is answered with where to find one.
    cluster: String,
}

/// Nodes that remember this Swarm may be made to leave it, data and all.
pub(crate) async fn give_up_swarm(
    State(snapshots): State<Arc<Snapshots>>,
    State(timeline): State<Arc<Timeline>>,
    State(agents): State<Arc<Agents>>,
    State(swarm): State<Arc<Swarm>>,
    Asked(wish): Asked<GiveUp>,
) -> Result<StatusCode, Refusal> {
    let Ok(given_up) = wish.cluster.parse::<ClusterId>() else {
        let help = "`bramble status` names it: 25 letters and digits";
        return Err(refuse(StatusCode::BAD_REQUEST, "that is no id of a Swarm", Some(help)));
    };
    let cluster = snapshots.cluster();
    let members = cluster.nodes.keys().filter_map(|name| {
        let holds = timeline.look(name, |track| {
            let health = track.health.as_ref().filter(|_| track.connected)?;
            match health.engine(EngineKind::Swarm) {
                EngineState::Member { cluster, .. } => Some(cluster.clone()),
                EngineState::None | EngineState::Starting { .. } | EngineState::Alone => None,
            }
        });
        Some((holds.flatten()?, name.clone()))
    });
    let members: Vec<(ClusterId, Name)> = members.collect();
    let changed = swarm.remember(|record| {
        nobody_holds(&given_up, &members, record).map_or_else(
            || {
                record.give_up(&given_up);
                Ok(())
            },
            Err,
        )
    });
    if let Err(help) = changed.map_err(failed)? {
        let error = format!("nobody is known to hold Swarm {given_up}");
        return Err(refuse(StatusCode::NOT_FOUND, error, Some(&help)));
    }
    agents.changed.tell();
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/engines/swarm/trust`
#[derive(Deserialize)]
pub(crate) struct TrustCa {
    /// As it was typed.
    ca: String,
}

/// The Swarm's CA was rotated by a person, and is this now: join tokens of another one reach no node.
pub(crate) async fn trust_swarm(
    State(agents): State<Arc<Agents>>,
    State(swarm): State<Arc<Swarm>>,
    Asked(wish): Asked<TrustCa>,
) -> Result<StatusCode, Refusal> {
    let Ok(ca) = wish.ca.parse::<Digest>() else {
        let help = "`bramble status` has the digest that a manager says: 64 hex digits";
        return Err(refuse(StatusCode::BAD_REQUEST, "that is no digest of a CA's certificate", Some(help)));
    };
    if !swarm.remember(|record| record.trust(ca)).map_err(failed)? {
        let help = "the CA of a new one is pinned by itself";
        return Err(refuse(StatusCode::NOT_FOUND, "this head remembers no Swarm", Some(help)));
    }
    agents.changed.tell();
    Ok(StatusCode::NO_CONTENT)
}

/// What is held instead, where neither a node that is connected nor the head's own record has this Swarm. One that was
/// given up before may be given up again.
fn nobody_holds(cluster: &ClusterId, members: &[(ClusterId, Name)], record: &Record) -> Option<String> {
    let remembered = record.cluster();
    if members.iter().any(|(held, _)| held == cluster) || remembered == Some(cluster) || record.former.contains(cluster)
    {
        return None;
    }
    let mut held: BTreeMap<&ClusterId, Vec<&str>> = BTreeMap::new();
    members.iter().for_each(|(cluster, name)| held.entry(cluster).or_default().push(name.as_str()));
    if let Some(remembered) = remembered {
        held.entry(remembered).or_default().push("the head's own record");
    }
    let held: Vec<String> = held.iter().map(|(cluster, by)| format!("{cluster} ({})", by.join(", "))).collect();
    let held = if held.is_empty() { "no Swarm is held".into() } else { format!("held are {}", held.join("; ")) };
    Some(format!("{held}; what a node holds that is off is known when it is on"))
}

/// `GET /v1/time/CHALLENGE`: the head's time, signed, for a node whose clock is too far off for TLS.
pub(crate) async fn time(
    State(authority): State<Arc<Authority>>,
    Path(challenge): Path<String>,
) -> Result<Json<SignedTime>, Refusal> {
    if !SignedTime::is_challenge(&challenge) {
        let help = "32 hexadecimal digits, never used before";
        return Err(refuse(StatusCode::BAD_REQUEST, "not a challenge", Some(help)));
    }
    let at = now();
    let signature = authority.sign_time(&challenge, at);
    Ok(Json(SignedTime { at, signature: signature.map_err(failed)? }))
}

#[cfg(test)]
mod tests {
    use bramble_plan::swarm::Memory;

    use super::*;

    #[test]
    fn a_swarm_that_nobody_holds_is_not_given_up_and_what_is_held_is_said() {
        let name = |text: &str| text.parse::<Name>().expect("a name");
        let id = |text: &str| text.parse::<ClusterId>().expect("an id");
        let mut record = Record::new(Memory::Swarm { cluster: id("ours") });
        record.former.insert(id("old"));
        let members = [(id("ours"), name("m1")), (id("theirs"), name("w1")), (id("ours"), name("w2"))];
        for known in ["ours", "theirs", "old"] {
            assert_eq!(nobody_holds(&id(known), &members, &record), None, "{known}");
        }
        let help = nobody_holds(&id("typo"), &members, &record).expect("nobody");
        assert!(help.starts_with("held are ours (m1, w2, the head's own record); theirs (w1); "), "{help}");
        let help = nobody_holds(&id("ours"), &[], &Record::new(Memory::Never)).expect("nobody");
        assert!(help.starts_with("no Swarm is held"), "{help}");
        // Its managers are gone for good, and the head waits for a person's word.
        assert_eq!(nobody_holds(&id("ours"), &[], &record), None);
    }
}
