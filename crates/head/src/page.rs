//! The status page: nodes, their timelines, workloads, machines seen. Plain HTML that renews
//! itself; it reads what the API reads.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use bramble_model::api::{NodeStatus, Role, Status, WaitingKey};
use bramble_model::section::Ends;
use bramble_model::timeline::{Event, Millis, Phase};
use maud::{Markup, html};

use crate::access::{Actor, Door, Who};
use crate::frame::frame;
use crate::overview::Overview;
use crate::timeline::Timeline;

/// Seconds after which a page with news renews itself.
const RENEWED: Option<u32> = Some(3);
/// Events shown of one node.
const EVENTS: usize = 200;

pub(crate) async fn overview(
    State(overview): State<Arc<Overview>>,
    Extension(door): Extension<Door>,
    Extension(who): Extension<Who>,
) -> Html<String> {
    let door = match (door, &who.0) {
        (Door::Tls(_), Some(Actor { csrf: Some(csrf), name, role, .. })) => Reader::Known { name, role: *role, csrf },
        (Door::Tls(_), _) => Reader::Anyone,
        _ => Reader::Elsewhere,
    };
    Html(render_overview(&overview.status().await, &door).into_string())
}

/// Who reads the page.
enum Reader<'a> {
    /// Someone who logged in; `csrf` is what the page's forms bring along.
    Known { name: &'a str, role: Role, csrf: &'a str },
    /// Someone who may log in.
    Anyone,
    /// Someone who came where nobody can log in.
    Elsewhere,
}

pub(crate) async fn node(
    State(overview): State<Arc<Overview>>,
    State(timeline): State<Arc<Timeline>>,
    Path(node): Path<String>,
) -> Response {
    let status = overview.status().await;
    let Some(found) = status.nodes.iter().find(|known| known.name.as_str() == node) else {
        return (StatusCode::NOT_FOUND, "there is no such node\n").into_response();
    };
    let events = timeline.of(&found.name, EVENTS);
    Html(render_node(&status, found, &events).into_string()).into_response()
}

fn render_overview(status: &Status, reader: &Reader<'_>) -> Markup {
    let ready = status.nodes.iter().filter(|node| node.phase == Phase::Ready && node.connected).count();
    frame(
        &format!("{} · {ready}/{} ready", status.cluster, status.nodes.len()),
        RENEWED,
        html! {
            header {
                h1 { (status.cluster) }
                p { (ready) " of " (status.nodes.len()) " nodes ready · boot set "
                    @match &status.set { Some(set) => { code { (set.short()) } }, None => { "not built yet" } } }
                @match reader {
                    Reader::Known { name, role, csrf } => form.who method="post" action="/logout" {
                        (name) ", " (role.as_str()) " "
                        input type="hidden" name="csrf" value=(csrf);
                        button { "Log out" }
                    },
                    Reader::Anyone => p.who { a href="/login" { "Log in" } },
                    Reader::Elsewhere => {},
                }
            }
            main {
                @for problem in &status.problems { p.problem role="alert" { (problem) } }
                h2 { "Nodes" }
                table {
                    thead { tr { th { "Node" } th { "Role" } th { "State" } th { "Boot" } th { "Last" } } }
                    tbody { @for node in &status.nodes { (row(status, node)) } }
                }
                h2 { "Workloads" }
                @if status.workloads.is_empty() { p.quiet { "The repository has none." } }
                @else {
                    table {
                        thead { tr { th { "Workload" } th { "Service" } th { "Replicas" } th { "Ports" } th { "State" } } }
                        tbody { @for workload in &status.workloads {
                            @if workload.services.is_empty() { tr { td { (workload.name) } td {} td { "–" } td {} td { (workload.state(status.at)) } } }
                            @for service in &workload.services {
                                tr {
                                    td { (workload.name) }
                                    td { (service.name) }
                                    td { (service.running) " of " (service.wanted) }
                                    td { @for port in &service.ports { (port) " " } }
                                    td { (workload.state(status.at)) }
                                }
                            }
                        } }
                    }
                }
                @if status.nodes.iter().any(|node| !node.waiting.is_empty()) {
                    h2 { "Waiting to be let in" }
                    table {
                        thead { tr { th { "Node" } th { "Asks from" } th { "Key" } th { "For" } th { "To let it in" } } }
                        tbody { @for node in &status.nodes {
                            @for key in &node.waiting { tr {
                                td { (node.name) } td { (key.address) } td { code { (key.fingerprint) } }
                                td { (duration(status.at, key.since)) } td { (to_let_in(node, key, reader)) }
                            } }
                        } }
                    }
                    p.quiet { "What lets a machine in is on its own console; a board without a screen: " code { "bramble node approve --press NODE" } }
                }
                @if status.failed().next().is_some() {
                    h2 { "Failed" }
                    ul { @for failure in status.failed() {
                        li { b { (failure.subject) } " " (failure.step) ": " (failure.reason) " · for " (duration(status.at, failure.since))
                            @match failure.again {
                                Some(again) => { ", tried again in " (duration(again, status.at)) },
                                None => { ", and waits for a person" },
                            } }
                    } }
                }
                @if status.waiting().next().is_some() {
                    h2 { "Waiting for" }
                    ul { @for waiting in status.waiting() {
                        li { b { (waiting.subject) } ": " (waiting.reason) " · for " (duration(status.at, waiting.since))
                            @match &waiting.ends {
                                Ends::At(until) => { ", until " (duration(*until, status.at)) " from now" },
                                Ends::ByItself => {},
                                Ends::Person(act) => { br; span.quiet { (act) } },
                            } }
                    } }
                }
                @if !status.seen.is_empty() {
                    h2 { "Seen, not in the repository" }
                    p.quiet { code { "bramble adopt MAC" } " has one say what it is, and writes its part of bramble.toml." }
                    table {
                        thead { tr { th { "MAC" } th { "Vendor" } th { "Firmware" } th { "UUID" } th { "Times" } th { "Last" } } }
                        tbody { @for seen in &status.seen { tr {
                            td { code { (seen.mac) } }
                            td { (seen.vendor.as_deref().unwrap_or_default()) }
                            td { (seen.firmware) }
                            td { @if let Some(uuid) = &seen.uuid { code { (uuid) } } }
                            td { (seen.times) }
                            td { (duration(status.at, seen.last)) " ago" }
                        } } }
                    }
                }
            }
        },
    )
}

/// How a person lets in one key: by what the machine's console shows, which this page does not.
fn to_let_in(node: &NodeStatus, key: &WaitingKey, reader: &Reader<'_>) -> Markup {
    let operator = match reader {
        Reader::Known { role: Role::Operator, csrf, .. } => Some(*csrf),
        _ => None,
    };
    let action = format!("/nodes/{}/approve", node.name);
    html! {
        @match (operator, key.is_spent, key.shows_digits) {
            (_, true, _) => { "Other digits were typed: start it again" },
            (Some(csrf), false, true) => form method="post" action=(action) {
                input type="hidden" name="csrf" value=(csrf);
                input name="digits" inputmode="numeric" autocomplete="off" size="8" required placeholder="digits" aria-label="The six digits on its console";
                button { "Let it in" }
            },
            (Some(csrf), false, false) => form method="post" action=(action) {
                input type="hidden" name="csrf" value=(csrf);
                input type="hidden" name="fingerprint" value=(key.fingerprint);
                button { "Its console shows this key: let it in" }
            },
            (None, false, true) => code { "bramble node approve " (node.name) " DIGITS" },
            (None, false, false) => code { "bramble node approve " (node.name) " " (key.fingerprint) },
        }
    }
}

fn row(status: &Status, node: &NodeStatus) -> Markup {
    html! {
        tr class=(if node.why.advice.is_some() { "failed" } else { node.phase.as_str() }) {
            td { a href=(format!("/nodes/{}", node.name)) { (node.name) } }
            td { (node.role) }
            td { span.state { (node.phase.as_str()) @if let (Phase::Root, Some(percent)) = (node.phase, node.percent) { " " (percent) " %" } }
                 @if node.phase == Phase::Ready && !node.connected { " (connection lost)" }
                 span.quiet { " " (duration(status.at, node.since)) } }
            td { (bar(status, node)) }
            td { @match (&node.why.advice, &node.last) {
                (Some(_), _) => { b { (node.why.cause) } },
                (None, Some(last)) => { (last) },
                (None, None) => { span.quiet { "never heard of" } },
            } }
        }
    }
}

/// The present boot as a row of phases, each as wide as it took.
fn bar(status: &Status, node: &NodeStatus) -> Markup {
    let Some((_, start)) = node.times.first() else { return html! {} };
    let end = node.times.iter().find(|(phase, _)| *phase == Phase::Ready).map_or(status.at, |(_, at)| *at);
    let whole = end.saturating_sub(*start).max(1);
    let ends = node.times.iter().skip(1).map(|(_, at)| *at).chain([end]);
    html! {
        div.bar { @for ((phase, at), until) in node.times.iter().zip(ends) {
            @let width = until.saturating_sub(*at) * 1000 / whole;
            @if *phase != Phase::Ready && width > 0 {
                span class=(phase.as_str()) style=(format!("flex-grow:{width}"))
                    title=(format!("{} {:.1} s", phase.as_str(), seconds(until, *at))) {}
            }
        } }
        span.quiet { (format!("{:.1} s", seconds(end, *start))) }
    }
}

fn render_node(status: &Status, node: &NodeStatus, events: &[Event]) -> Markup {
    let why = &node.why;
    frame(
        &format!("{} · {}", node.name, node.phase.as_str()),
        RENEWED,
        html! {
            header { h1 { a href="/" { (status.cluster) } " / " (node.name) } p { (node.role) " · " (node.phase.as_str()) " for " (why.seconds) " s" } }
            main {
                p { b { "It waits for: " } (why.cause) }
                @if let Some(advice) = &why.advice { p { b { "What to do: " } (advice) } }
                (bar(status, node))
                @if let Some(facts) = &node.facts {
                    h2 { "Machine" }
                    dl {
                        dt { "Kernel" } dd { (facts.kernel) " " (facts.architecture) }
                        dt { "CPUs" } dd { (facts.cpus) }
                        dt { "Memory" } dd { (facts.memory >> 20) " MiB" }
                        dt { "Address" } dd { (facts.address) }
                        @if let Some(known_by) = node.known_by { dt { "Known by" } dd { (known_by) } }
                        dt { "Boot set" } dd { code { (facts.set.get(..12).unwrap_or(&facts.set)) } }
                        @if let Some(health) = &node.health {
                            dt { "Free memory" } dd { (health.memory_available >> 20) " MiB" }
                            dt { "Agent" } dd { (health.agent_resident >> 20) " MiB resident" }
                        }
                    }
                }
                h2 { "Timeline" }
                table { tbody { @for event in events { tr {
                    td.quiet { (format!("{:.1} s ago", seconds(status.at, event.at))) }
                    td { (event.what.sentence()) }
                } } } }
            }
        },
    )
}

fn seconds(later: Millis, earlier: Millis) -> f64 {
    later.saturating_sub(earlier) as f64 / 1000.0
}

fn duration(later: Millis, earlier: Millis) -> String {
    if earlier == 0 {
        return String::new();
    }
    match later.saturating_sub(earlier) / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use bramble_testing::{HOSTILE, obeyed, poisoned};

    use super::*;
    use crate::frame::STYLE;
    use bramble_model::api::{Explanation, Seen};
    use bramble_model::names::{Digest, Mac, Name};
    use bramble_model::section::{Failure, Section, Waiting};
    use bramble_model::subject::Subject;
    use bramble_model::timeline::What;

    fn status() -> Status {
        let name = |text: &str| text.parse::<Name>().expect("a name");
        let node = |text: &str, phase, failure: Option<&str>| NodeStatus {
            name: name(text),
            macs: vec![Mac([2, 0, 0, 0, 0, 2])],
            role: name("worker"),
            phase,
            since: 90_000,
            percent: Some(60),
            last: Some("stage 1: root 60 %".into()),
            failure: failure.map(str::to_owned),
            pending: None,
            waiting: Vec::new(),
            known_by: None,
            connected: phase == Phase::Ready,
            set: None,
            facts: None,
            health: None,
            boot: None,
            why: Explanation {
                name: "root-arrives".into(),
                cause: "stage 1 has 60 % of the root".into(),
                advice: None,
                seconds: 10,
            },
            times: vec![(Phase::Firmware, 60_000), (Phase::Loader, 70_000), (Phase::Root, 80_000)],
        };
        Status {
            cluster: name("lab"),
            ca: "ab".repeat(32),
            at: 100_000,
            set: Some(Digest([7; 32])),
            head_resident: 0,
            nodes: vec![node("w1", Phase::Root, None), node("w2", Phase::Root, Some("no link <script>"))],
            workloads: Vec::new(),
            seen: vec![Seen {
                mac: Mac([2, 0, 0, 0, 0, 1]),
                vendor: Some("QEMU virtual machine".into()),
                firmware: "BIOS PXE".into(),
                uuid: None,
                first: 1,
                last: 95_000,
                times: 3,
            }],
            problems: vec!["the disk is full".into()],
            desired: None,
            follows_git: false,
            loops: vec![Section {
                name: "swarm".into(),
                waits: vec![Waiting {
                    subject: Subject::node(&name("m1")),
                    reason: "it is away".into(),
                    ends: Ends::Person("switch m1 on".into()),
                    since: 50_000,
                }],
                failed: vec![Failure {
                    subject: Subject::node(&name("w1")),
                    step: "joins the Swarm".into(),
                    reason: "no route to host".into(),
                    times: 2,
                    since: 60_000,
                    again: Some(110_000),
                }],
                ..Section::default()
            }],
        }
    }

    #[test]
    fn the_overview() {
        let text = render_overview(&status(), &Reader::Elsewhere).into_string().replace(STYLE, "");
        assert!(!text.contains("<script>"), "what a node says is text, not markup");
        insta::assert_snapshot!(text.replace("><", ">\n<"));
    }

    /// As if all that anyone can say had come through everything before.
    #[test]
    fn nothing_of_a_hostile_status_gets_through_the_pages() {
        let mut sample = status();
        sample.nodes[0].last = Some("asked".into());
        sample.nodes[0].waiting = vec![WaitingKey {
            fingerprint: "ab".into(),
            address: [10, 0, 0, 3].into(),
            since: 1,
            last: 2,
            shows_digits: true,
            is_spent: false,
        }];
        sample.seen[0].uuid = Some("4c4c".into());
        let (hostile, count) = poisoned(&sample);
        assert!(count > 15, "{count}");
        let fails = What::Failed { reason: HOSTILE.into(), retry_in_seconds: 1, failure: None };
        let event = Event { number: 1, at: 99_000, node: None, what: fails };
        let operator = Reader::Known { name: HOSTILE, role: Role::Operator, csrf: "ab" };
        let pages = [
            render_overview(&hostile, &Reader::Elsewhere),
            render_overview(&hostile, &operator),
            render_node(&hostile, &hostile.nodes[0], &[event]),
        ];
        for page in pages {
            let text = page.into_string();
            assert_eq!(obeyed(&text), None, "{text:?}");
            assert!(!text.contains("<script>") && text.contains("owned"), "it is text");
        }
    }

    #[test]
    fn a_node() {
        let status = status();
        let event = Event { number: 1, at: 99_000, node: None, what: What::Ready };
        let text = render_node(&status, &status.nodes[0], &[event]).into_string().replace(STYLE, "");
        insta::assert_snapshot!(text.replace("><", ">\n<"));
    }
}
