//! What nodes let in beside what their parts need.

use std::collections::{BTreeMap, BTreeSet};

use super::super::written;
use super::{Firewall, From, Name, Open, Rigour, Role, Rules, Traffic};

impl Rules<'_> {
    pub(super) fn firewall(
        &mut self,
        section: &written::FirewallSection,
        roles: &BTreeMap<String, Role>,
        nodes: &BTreeMap<String, written::NodeSection>,
    ) -> Firewall {
        let all = nodes;
        let ssh = self.sources(&["firewall", "ssh"], section.ssh.as_deref());
        let (roles, nodes): (Vec<&str>, Vec<&str>) =
            (roles.keys().map(String::as_str).collect(), nodes.keys().map(String::as_str).collect());
        let mut open = BTreeMap::new();
        for (name, section) in &section.open {
            let key = |last: &'static str| ["firewall", "open", name, last];
            let own = self.name(&["firewall", "open", name], name);
            let mut traffic = Vec::new();
            for (index, text) in section.ports.iter().enumerate() {
                let index = index.to_string();
                let at = [&key("ports")[..], &[&index]].concat();
                let parsed = self.parse::<Traffic>(&at, text);
                if parsed.is_some_and(Traffic::is_of_the_swarm) {
                    let message = format!("`{text}` has a port of the Swarm's own, for its members alone");
                    let problem =
                        self.source.problem(&at, message).help("leave it out: the Swarm's members are let in already");
                    self.problems.push(match self.rigour {
                        Rigour::New => problem,
                        Rigour::Kept => problem.warning(),
                    });
                }
                traffic.extend(parsed);
            }
            if section.ports.is_empty() {
                self.wrong(&key("ports"), "it opens no port").help =
                    Some("write `ports = [\"9100/tcp\"]`, or remove the section".into());
            }
            let from = self.sources(&key("from"), section.from.as_deref());
            let roles = self.known(&key("roles"), "role", &section.roles, &roles);
            for (index, name) in section.nodes.iter().enumerate() {
                if all.get(name).is_some_and(|node| node.boot.is_some()) {
                    let index = index.to_string();
                    let message = format!("`{name}` boots another system, which gets no firewall of bramble's");
                    self.wrong(&[&key("nodes")[..], &[&index]].concat(), message).help =
                        Some("leave it out, and open the port in that system".into());
                }
            }
            let nodes = self.known(&key("nodes"), "node", &section.nodes, &nodes);
            if let Some(own) = own {
                open.insert(own, Open { traffic, from, roles, nodes });
            }
        }
        Firewall { enabled: section.enabled.unwrap_or(true), ssh, open }
    }

    fn sources(&mut self, key: &[&str], written: Option<&[String]>) -> Vec<From> {
        let Some(written) = written else { return vec![From::Anywhere] };
        if written.is_empty() {
            self.wrong(key, "nobody is let in").help =
                Some("name who may come, such as [\"192.168.1.0/24\"]; leave it out for \"anywhere\"".into());
        }
        let mut found = Vec::new();
        for (index, text) in written.iter().enumerate() {
            let index = index.to_string();
            match text.parse::<From>() {
                Ok(source) => found.push(source),
                Err(error) => {
                    let near = super::super::problem::near_miss(text, &["anywhere", "nodes"]);
                    let problem = self.wrong(&[key, &[&index]].concat(), format!("`{text}`: {error}"));
                    problem.help = near.map(|near| format!("did you mean `{near}`?"));
                }
            }
        }
        found
    }

    /// The names of a list that are there.
    fn known(&mut self, key: &[&str], what: &str, written: &[String], known: &[&str]) -> BTreeSet<Name> {
        let mut found = BTreeSet::new();
        for (index, name) in written.iter().enumerate() {
            let index = index.to_string();
            let key = [key, &[&index]].concat();
            if !known.contains(&name.as_str()) {
                let problem = self.source.problem(&key, format!("there is no {what} `{name}`")).near(name, known);
                self.problems.push(problem);
            } else if let Ok(name) = name.parse() {
                // Where it is no name, that is said where it is written.
                found.insert(name);
            }
        }
        found
    }
}
