//! What Docker lists of a Swarm, as the head knows it.

use std::collections::HashMap;

use bollard::models::{Node, NodeState, ServiceServiceStatus, Task, TaskState};
use bramble_model::agent::swarm::{Label, Member, Replica, Service};
use bramble_model::names::{ClusterId, MemberId};

use super::{Error, GENERATION, WORKLOAD};

/// The id of a Swarm, as Docker writes it.
pub(super) fn cluster(swarm: &bollard::models::Swarm) -> Result<ClusterId, Error> {
    swarm.id.as_deref().and_then(|id| id.parse().ok()).ok_or(Error::Incomplete("the Swarm's id"))
}

/// A member. One without an id could not be told from another.
pub(super) fn member(node: Node) -> Result<Member, Error> {
    Ok(Member {
        id: node.id.as_deref().and_then(|id| id.parse().ok()).ok_or(Error::Incomplete("a member's id"))?,
        hostname: node.description.and_then(|node| node.hostname).unwrap_or_default().into(),
        manager: node.manager_status.is_some(),
        up: node.status.and_then(|status| status.state) != Some(NodeState::DOWN),
    })
}

/// What a service's label says of its content. Anyone can write one with `docker service update --label-add`: what no
/// head wrote is another generation, and the listing of all the others goes on.
pub(super) fn generation(labels: &HashMap<String, String>) -> Option<Label> {
    labels.get(GENERATION).cloned().map(Label::from)
}

/// A service, with its own of these tasks.
pub(super) fn service(service: bollard::models::Service, tasks: &[Task]) -> Result<Service, Error> {
    let spec = service.spec.unwrap_or_default();
    let labels = spec.labels.unwrap_or_default();
    let ServiceServiceStatus { running_tasks, desired_tasks, .. } = service.service_status.unwrap_or_default();
    let id = service.id.unwrap_or_default();
    let ports = service.endpoint.and_then(|endpoint| endpoint.ports).unwrap_or_default();
    let own = tasks.iter().filter(|task| task.service_id.as_ref() == Some(&id));
    let wanted = own.filter(|task| task.desired_state.is_none_or(|wanted| wanted == TaskState::RUNNING));
    Ok(Service {
        generation: generation(&labels),
        workload: labels.get(WORKLOAD).map(|workload| workload.as_str().into()),
        name: spec.name.unwrap_or_default().into(),
        wanted: desired_tasks.and_then(|count| count.try_into().ok()).unwrap_or(0),
        running: running_tasks.and_then(|count| count.try_into().ok()).unwrap_or(0),
        ports: ports.iter().filter_map(|port| port.published_port?.try_into().ok()).collect(),
        replicas: wanted.map(replica).collect::<Result<_, _>>()?,
    })
}

/// Until the Swarm has found a node for it, its task names none.
fn replica(task: &Task) -> Result<Replica, Error> {
    let id = |id: &str| id.parse::<MemberId>().map_err(|_| Error::Incomplete("the id of a task's node"));
    let status = task.status.clone().unwrap_or_default();
    Ok(Replica {
        node_id: task.node_id.as_deref().filter(|id| !id.is_empty()).map(id).transpose()?,
        state: status.state.map(|state| state.to_string().into()).unwrap_or_default(),
        error: status.err.filter(|error| !error.is_empty()).map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(said: serde_json::Value) -> T {
        serde_json::from_value(said).expect("as Docker says it")
    }

    /// A label is anyone's to write, and a replica that waits for a node has none.
    #[test]
    fn a_service_is_listed_whatever_its_label_says() {
        let tasks: Vec<Task> = read(json!([
            { "ServiceID": "s", "NodeID": "", "Status": { "State": "pending" } },
            { "ServiceID": "s", "NodeID": "k8v1", "Status": { "State": "running" } },
            { "ServiceID": "another", "NodeID": "k8v1" },
        ]));
        for (label, generation) in [
            (json!({ GENERATION: "1f0a" }), Some(Label::Generation("1f0a".parse().expect("a generation")))),
            (json!({ GENERATION: "by hand: v2" }), Some(Label::Other("by hand: v2".into()))),
            (json!({}), None),
        ] {
            let said = read(json!({ "ID": "s", "Spec": { "Name": "web_x", "Labels": label } }));
            let listed = service(said, &tasks).expect("whatever the label");
            assert_eq!((listed.name.as_str(), listed.generation), ("web_x", generation));
            let nodes: Vec<_> = listed.replicas.iter().map(|replica| replica.node_id.as_ref()).collect();
            assert_eq!(nodes, [None, Some(&"k8v1".parse().expect("an id"))]);
        }
    }

    /// The head would take an empty id for one, and have it removed.
    #[test]
    fn what_has_no_id_is_not_listed_under_an_empty_one() {
        for id in [json!(null), json!(""), json!("the old one")] {
            assert!(member(read(json!({ "ID": id }))).is_err(), "{id}");
            assert!(cluster(&read(json!({ "ID": id }))).is_err(), "{id}");
        }
    }
}
