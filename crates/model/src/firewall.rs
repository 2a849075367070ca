//! What a node lets in: made of what the repository declares (`bramble_plan::firewall`), said to the node over TLS, and
//! written for nft(8) here.
//!
//! ```text
//! bramble.toml ─▶ plan::firewall ─▶ Firewall ── node document ──▶ agent ─▶ Rules::script ─▶ nft
//! ```
//! All is in a table of its own. What Docker and others have in theirs is left alone; a packet has to pass both.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::names::{Name, NotAName};

/// What a node is told of its firewall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Firewall {
    /// Everything is let in.
    Off,
    On(Rules),
    /// In a way that this program does not know: what there is stays.
    #[serde(other)]
    Unknown,
}

/// What is let in beside what every node needs. The default is that, and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Where the cluster's nodes are.
    pub nodes: BTreeSet<Ipv4Addr>,
    /// Where those are that have a part in the Swarm.
    pub swarm: BTreeSet<Ipv4Addr>,
    pub openings: Vec<Opening>,
}

/// One thing that is let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// For whom: a comment of its rules.
    pub name: Name,
    /// What of it this program does not know opens nothing.
    #[serde(deserialize_with = "known")]
    pub traffic: Vec<Traffic>,
    /// From where; from nowhere else.
    #[serde(deserialize_with = "known")]
    pub from: Vec<Source>,
}

/// What can be read of a list of words, the rest left out.
fn known<'de, D: Deserializer<'de>, T: FromStr>(from: D) -> Result<Vec<T>, D::Error> {
    let words = Vec::<String>::deserialize(from)?;
    Ok(words.iter().filter_map(|word| word.parse().ok()).collect())
}

/// Ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub const fn one(port: u16) -> Self {
        Ports { first: port, last: port }
    }
}

/// A kind of packets, written `22/tcp`, `60000-61000/udp` or `esp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub enum Traffic {
    Tcp(Ports),
    Udp(Ports),
    /// What IPsec makes of encrypted packets.
    Esp,
}

/// Where packets come from, written `anywhere`, `nodes`, `swarm`, or as an address or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub enum Source {
    Anywhere,
    Nodes,
    Swarm,
    Network { address: IpAddr, prefix: u8 },
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ports { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl FromStr for Ports {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
            let port = digits.then(|| text.parse().ok()).flatten().filter(|port: &u16| *port > 0);
            port.ok_or_else(|| NotAName(format!("`{text}` is no port: expected 1 to 65535")))
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first > last {
            return Err(NotAName(format!("the ports end ({last}) before they begin ({first})")));
        }
        Ok(Ports { first, last })
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Traffic::Tcp(ports) => write!(f, "{ports}/tcp"),
            Traffic::Udp(ports) => write!(f, "{ports}/udp"),
            Traffic::Esp => f.write_str("esp"),
        }
    }
}

impl FromStr for Traffic {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        match text.split_once('/') {
            Some((ports, "tcp")) => ports.parse().map(Traffic::Tcp),
            Some((ports, "udp")) => ports.parse().map(Traffic::Udp),
            None if text == "esp" => Ok(Traffic::Esp),
            _ => Err(NotAName("expected a port or a range with its protocol, such as \"22/tcp\"".into())),
        }
    }
}

impl From<Traffic> for String {
    fn from(traffic: Traffic) -> Self {
        traffic.to_string()
    }
}

/// The first address of the network that `address` is in.
fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(own) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(own) & mask))
        }
        IpAddr::V6(own) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(own) & mask).into())
        }
    }
}

fn longest(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Anywhere => f.write_str("anywhere"),
            Source::Nodes => f.write_str("nodes"),
            Source::Swarm => f.write_str("swarm"),
            Source::Network { address, prefix } if *prefix == longest(*address) => write!(f, "{address}"),
            Source::Network { address, prefix } => write!(f, "{address}/{prefix}"),
        }
    }
}

impl FromStr for Source {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        match text {
            "anywhere" => return Ok(Source::Anywhere),
            "nodes" => return Ok(Source::Nodes),
            "swarm" => return Ok(Source::Swarm),
            _ => {}
        }
        let wrong =
            || NotAName("expected \"anywhere\", \"nodes\", an address or a network, such as \"192.168.1.0/24\"".into());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= longest(address)).ok_or_else(wrong)?,
            None => longest(address),
        };
        let first = network(address, prefix);
        if first != address {
            return Err(NotAName(format!("it has bits set behind its prefix; did you mean `{first}/{prefix}`?")));
        }
        Ok(Source::Network { address, prefix })
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

/// The table's name.
pub const TABLE: &str = "inet bramble";

/// Overlay networks and gossip of a Swarm, over UDP, and its managers and gossip, over TCP.
const SWARM_UDP: [u16; 2] = [4789, 7946];
const SWARM_TCP: [u16; 2] = [2377, 7946];

/// What every node needs: its own programs, answers, errors of the network, its neighbours (RFC 4890, section 4.4), and its
/// address. A flow of datagrams is an answer for as long as it goes on, and those of a Swarm never end: who is no member any
/// more is none of them. A Swarm speaks IPv4 alone.
const ALWAYS: [&str; 7] = [
    "iifname \"lo\" accept",
    "udp dport { 4789, 7946 } ip saddr != @swarm drop",
    "udp dport { 4789, 7946 } meta nfproto ipv6 drop",
    "ct state established,related accept",
    "icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } accept",
    "icmpv6 type { echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem, \
     mld-listener-query, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept",
    "udp sport 67 udp dport 68 accept comment \"dhcp\"",
];

/// What no container says to another node: its address becomes that of its node, which is a member's. Docker's own packets
/// are sent, not forwarded. What Docker has readdressed goes to a container of this node, by the port that it has in there.
const FORWARDED: [&str; 3] =
    ["ct status dnat accept", "udp dport { 4789, 7946 } drop", "tcp dport { 2377, 7946 } drop"];

impl Traffic {
    /// Whether a port of the Swarm's own is in it, which lets in members alone: 2377/tcp, 7946 and 4789/udp.
    pub fn is_of_the_swarm(self) -> bool {
        let has = |ports: Ports, own: [u16; 2]| own.iter().any(|port| (ports.first..=ports.last).contains(port));
        match self {
            Traffic::Tcp(ports) => has(ports, SWARM_TCP),
            Traffic::Udp(ports) => has(ports, SWARM_UDP),
            Traffic::Esp => false,
        }
    }

    /// The packets, as nft matches them.
    fn matching(self) -> String {
        match self {
            Traffic::Tcp(ports) => format!("tcp dport {ports}"),
            Traffic::Udp(ports) => format!("udp dport {ports}"),
            Traffic::Esp => "meta l4proto esp".into(),
        }
    }
}

impl Source {
    /// Whether all that comes from `other` comes from here, as far as that can be told without knowing where nodes are.
    pub fn covers(self, other: Source) -> bool {
        match (self, other) {
            (Source::Anywhere, _) | (Source::Nodes, Source::Swarm) => true,
            (Source::Network { address, prefix }, Source::Network { address: inner, prefix: longer }) => {
                longer >= prefix && network(inner, prefix) == address
            }
            (own, other) => own == other,
        }
    }

    /// The packets, as nft matches them, with a space behind where there is something to match.
    fn matching(self) -> String {
        match self {
            Source::Anywhere => String::new(),
            Source::Nodes => "ip saddr @nodes ".into(),
            Source::Swarm => "ip saddr @swarm ".into(),
            Source::Network { address: IpAddr::V4(_), .. } => format!("ip saddr {self} "),
            Source::Network { address: IpAddr::V6(_), .. } => format!("ip6 saddr {self} "),
        }
    }
}

fn set(name: &str, addresses: &BTreeSet<Ipv4Addr>) -> String {
    let elements: Vec<String> = addresses.iter().map(Ipv4Addr::to_string).collect();
    let elements = match elements.as_slice() {
        [] => String::new(),
        some => format!("\t\telements = {{ {} }}\n", some.join(", ")),
    };
    format!("\tset {name} {{\n\t\ttype ipv4_addr\n{elements}\t}}\n")
}

impl Rules {
    /// What `nft -f` is given: one transaction, which takes the place of the table as it is, and can be given again.
    ///
    /// The chains come before those of iptables (priority `filter`). To accept here lets the packet on to them; to drop it
    /// is final. What is forwarded is Docker's affair, but for the Swarm's own ports.
    pub fn script(&self) -> String {
        let mut script = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
        script += &set("nodes", &self.nodes);
        script += &set("swarm", &self.swarm);
        script += "\tchain input {\n\t\ttype filter hook input priority filter - 10; policy drop;\n";
        for rule in ALWAYS {
            script += &format!("\t\t{rule}\n");
        }
        for Opening { name, traffic, from } in &self.openings {
            for (traffic, from) in traffic.iter().flat_map(|traffic| from.iter().map(move |from| (traffic, from))) {
                let (matching, from) = (traffic.matching(), from.matching());
                writeln!(script, "\t\t{from}{matching} accept comment \"{name}\"").expect("a String takes it");
            }
        }
        script += "\t}\n\tchain forward {\n\t\ttype filter hook forward priority filter - 10; policy accept;\n";
        for rule in FORWARDED {
            script += &format!("\t\t{rule}\n");
        }
        script += "\t}\n}\n";
        script
    }
}

/// What takes the table away, where there is one.
pub fn off() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn before_a_node_is_let_in_nothing_is_let_in_but_what_booting_needs() {
        insta::assert_snapshot!(Rules::default().script());
    }

    #[test]
    fn what_is_no_traffic_or_no_source_is_said() {
        for (wrong, said) in [
            ("22", "expected a port or a range with its protocol"),
            ("22/sctp", "expected a port or a range"),
            ("0/tcp", "`0` is no port"),
            ("70000/tcp", "`70000` is no port"),
            ("+22/tcp", "`+22` is no port"),
            ("9-8/udp", "the ports end (8) before they begin (9)"),
            ("22/tcp accept; drop", "expected a port"),
        ] {
            let error = wrong.parse::<Traffic>().expect_err(wrong);
            assert!(error.0.contains(said), "{wrong}: {error}");
        }
        for (wrong, said) in [
            ("10.0.0.1/8", "did you mean `10.0.0.0/8`?"),
            ("fd00::1/8", "did you mean `fd00::/8`?"),
            ("10.0.0.0/33", "expected \"anywhere\""),
            ("node", "expected \"anywhere\", \"nodes\""),
            ("0.0.0.0/0 accept", "expected"),
        ] {
            let error = wrong.parse::<Source>().expect_err(wrong);
            assert!(error.0.contains(said), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_source_covers_what_is_in_it() {
        let covers = |outer: &str, inner: &str| {
            outer.parse::<Source>().expect(outer).covers(inner.parse::<Source>().expect(inner))
        };
        for (outer, inner) in [
            ("anywhere", "nodes"),
            ("anywhere", "::/0"),
            ("nodes", "swarm"),
            ("10.0.0.0/8", "10.77.0.0/16"),
            ("10.77.0.1", "10.77.0.1/32"),
            ("::/0", "fd00::/8"),
        ] {
            assert!(covers(outer, inner), "{outer} {inner}");
            assert!(outer.starts_with("10.77.0.1") || !covers(inner, outer), "{inner} {outer}");
        }
        for (outer, inner) in
            [("10.0.0.0/8", "11.0.0.0/8"), ("0.0.0.0/0", "::/0"), ("::/0", "10.0.0.1"), ("nodes", "10.0.0.1")]
        {
            assert!(!covers(outer, inner) && !covers(inner, outer), "{outer} {inner}");
        }
    }

    #[test]
    fn ports_of_the_swarm_are_found_in_ranges_too() {
        let is = |text: &str| text.parse::<Traffic>().expect(text).is_of_the_swarm();
        for own in ["2377/tcp", "7946/tcp", "7946/udp", "4789/udp", "4000-5000/udp", "1-65535/tcp"] {
            assert!(is(own), "{own}");
        }
        for other in ["2377/udp", "4789/tcp", "7947-65535/tcp", "4790-7945/udp", "esp"] {
            assert!(!is(other), "{other}");
        }
    }

    /// A head of a later release may say more. What is not known never makes an opening wider.
    #[test]
    fn what_a_later_head_says_opens_nothing_that_is_not_known() {
        let text = r#"{"is":"on","nodes":[],"swarm":[],"new":1,
            "openings":[{"name":"a","traffic":["22/tcp","7/quic"],"from":["moon","10.0.0.0/8"]},
                        {"name":"b","traffic":["23/tcp"],"from":["moon"]}]}"#;
        let Ok(Firewall::On(rules)) = serde_json::from_str::<Firewall>(text) else { panic!("not read") };
        let script = rules.script();
        assert!(script.contains("ip saddr 10.0.0.0/8 tcp dport 22 accept comment \"a\"\n"), "{script}");
        assert!(!script.contains("\"b\""), "{script}");
        let unknown = serde_json::from_str::<Firewall>(r#"{"is":"ebpf","program":"x"}"#).expect("readable");
        assert_eq!(unknown, Firewall::Unknown);
    }

    fn source() -> impl Strategy<Value = Source> {
        let networks = (any::<IpAddr>(), 0..=128_u8).prop_map(|(address, prefix)| {
            let prefix = prefix.min(longest(address));
            Source::Network { address: network(address, prefix), prefix }
        });
        prop_oneof![Just(Source::Anywhere), Just(Source::Nodes), Just(Source::Swarm), networks]
    }

    fn traffic() -> impl Strategy<Value = Traffic> {
        let ports = (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| Ports { first: a.min(b), last: a.max(b) });
        prop_oneof![ports.clone().prop_map(Traffic::Tcp), ports.prop_map(Traffic::Udp), Just(Traffic::Esp)]
    }

    proptest! {
        #[test]
        fn words_survive_their_text(source in source(), traffic in traffic()) {
            prop_assert_eq!(source.to_string().parse::<Source>(), Ok(source));
            prop_assert_eq!(traffic.to_string().parse::<Traffic>(), Ok(traffic));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text: String) {
            let _ = (text.parse::<Source>(), text.parse::<Traffic>());
            let quoted = serde_json::to_string(&text).expect("text");
            let _ = serde_json::from_str::<Firewall>(&quoted);
        }

        /// Whatever the head says: no word of it ends a rule and begins another one.
        #[test]
        fn rules_survive_the_wire_and_are_one_line_each(
            openings in prop::collection::vec(
                ("[a-z0-9]{1,9}", prop::collection::vec(traffic(), 0..4), prop::collection::vec(source(), 0..4)), 0..6),
            nodes: BTreeSet<Ipv4Addr>,
        ) {
            let opening = |(name, traffic, from): (String, _, _)| Opening { name: name.parse().expect("a name"), traffic, from };
            let openings: Vec<Opening> = openings.into_iter().map(opening).collect();
            let number: usize = openings.iter().map(|opening| opening.traffic.len() * opening.from.len()).sum();
            let firewall = Firewall::On(Rules { nodes, swarm: BTreeSet::new(), openings });
            let told = serde_json::to_string(&firewall).expect("plain data");
            let Ok(Firewall::On(rules)) = serde_json::from_str(&told) else { panic!("not read: {told}") };
            prop_assert_eq!(&Firewall::On(rules.clone()), &firewall);
            let script = rules.script();
            let accepts = script.lines().filter(|line| line.contains(" accept") && !line.contains("policy")).count();
            prop_assert_eq!(accepts, ALWAYS.iter().chain(&FORWARDED).filter(|rule| rule.contains(" accept")).count() + number);
        }
    }
}
