//! What a workload's Compose file has to be before an engine is given it: services, with the shapes that every engine
//! expects of their keys. The rest is the engine's to judge.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Error;
use serde_saphyr::budget::BudgetBreach;

use crate::firewall::{Ports, Traffic};

/// What is wrong with a file, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// What a value can be. A key without a value is as one that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    List,
    Mapping,
}

/// Keys of a service, what each can be, and how it is written (the Compose specification, section "services").
const KEYS: [(&str, &[Shape], &str); 9] = [
    ("image", &[Shape::Text], "`image: nginx:1.29`"),
    ("command", &[Shape::Text, Shape::List], "`command: [\"serve\", \"--port\", \"80\"]`"),
    ("entrypoint", &[Shape::Text, Shape::List], "`entrypoint: [\"/run.sh\"]`"),
    ("environment", &[Shape::Mapping, Shape::List], "`environment: { NAME: \"value\" }`"),
    ("labels", &[Shape::Mapping, Shape::List], "`labels: { NAME: \"value\" }`"),
    ("ports", &[Shape::List], "`ports: [\"80:80\"]`"),
    ("volumes", &[Shape::List], "`volumes: [\"data:/data\"]`"),
    ("networks", &[Shape::List, Shape::Mapping], "`networks: [\"front\"]`"),
    ("deploy", &[Shape::Mapping], "`deploy: { replicas: 2 }`"),
];

#[derive(Deserialize)]
struct Compose {
    services: Option<Value>,
    volumes: Option<Value>,
    networks: Option<Value>,
    configs: Option<Value>,
    secrets: Option<Value>,
    include: Option<Value>,
}

/// Keys of a service that another file is read for, or a folder. A workload is one file: nothing else of it comes to the
/// node that deploys it.
const OF_OTHER_FILES: [(&str, &str); 3] = [
    ("env_file", "write its lines below `environment:`"),
    ("extends", "write out what it extends; `&NAME` and `<<: *NAME` say a part twice in one file"),
    (
        "build",
        "build the image elsewhere and name it: `image: NAME:TAG`; `image.containers` of bramble.toml brings archives",
    ),
];

/// Whether a key has a value.
fn is_said(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}

/// What names another file, or a folder to build from.
fn names_other_files(compose: &Compose, services: &serde_json::Map<String, Value>) -> Result<(), Wrong> {
    let wrong = |key: String, help: &str| {
        let message = format!("`{key}`: it names another file, and a workload is one file");
        Err(Wrong { message, help: Some(help.to_owned()) })
    };
    if is_said(compose.include.as_ref()) {
        return wrong("include".into(), "write out what it includes, or make it a workload of its own");
    }
    for (name, service) in services {
        for (key, help) in OF_OTHER_FILES {
            // The engine passes over `build` where there is an image.
            let is_needed = key != "build" || !is_said(service.get("image"));
            if is_needed && is_said(service.get(key)) {
                return wrong(format!("services.{name}.{key}"), help);
            }
        }
    }
    for (section, values) in [("configs", &compose.configs), ("secrets", &compose.secrets)] {
        let Some(Value::Object(values)) = values else { continue };
        if let Some(name) = values.iter().find_map(|(name, value)| is_said(value.get("file")).then_some(name)) {
            let help =
                "make it on a manager (`docker config create`, `docker secret create`) and write `external: true`";
            return wrong(format!("{section}.{name}.file"), help);
        }
    }
    Ok(())
}

/// What a file runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// Services, by their names in the file.
    pub(super) services: BTreeSet<String>,
    /// It names volumes.
    pub(super) holds_data: bool,
    /// What its services keep their data in, as `data of db`.
    pub(super) volumes: BTreeSet<String>,
    /// The ports that it publishes by their numbers.
    pub(super) published: BTreeSet<Traffic>,
    /// Services on the host's own network.
    pub(super) on_the_host: BTreeSet<String>,
}

/// A port, or several, as a number or a text.
fn ports(value: &Value) -> Option<Ports> {
    match value {
        Value::Number(number) => number.to_string().parse().ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn traffic(ports: Ports, protocol: &str) -> Option<Traffic> {
    match protocol {
        "tcp" => Some(Traffic::Tcp(ports)),
        "udp" => Some(Traffic::Udp(ports)),
        _ => None,
    }
}

/// What an entry of `ports` publishes (the Compose specification, section "ports"). None where Docker chooses the port, or
/// a variable says it.
fn published(entry: &Value) -> Option<Traffic> {
    match entry {
        Value::String(short) => {
            let (ports, protocol) = short.split_once('/').unwrap_or((short, "tcp"));
            // An address of the host may stand before, and the container's port stands last.
            let (before, _) = ports.rsplit_once(':')?;
            let own = before.rsplit_once(':').map_or(before, |(_, own)| own);
            traffic(own.parse().ok()?, protocol)
        }
        Value::Object(long) => {
            let protocol = long.get("protocol").and_then(Value::as_str).unwrap_or("tcp");
            traffic(ports(long.get("published")?)?, protocol)
        }
        _ => None,
    }
}

/// The networks of a file that are the host's own.
fn networks_of_the_host(networks: Option<&Value>) -> BTreeSet<&str> {
    let all = networks.and_then(Value::as_object).into_iter().flatten();
    let is_the_host = |(key, network): &(&String, &Value)| {
        let external = network.get("external");
        // A name in `external` is the older way to write it.
        let name = network.get("name").or_else(|| external.and_then(|external| external.get("name")));
        let is_external = external.is_some_and(|external| *external != Value::Bool(false) && !external.is_null());
        is_external && name.and_then(Value::as_str).unwrap_or(key.as_str()) == "host"
    };
    all.filter(is_the_host).map(|(key, _)| key.as_str()).collect()
}

/// Whether a service is on one of these networks.
fn is_on(service: &Value, networks: &BTreeSet<&str>) -> bool {
    match service.get("networks") {
        Some(Value::Array(own)) => own.iter().filter_map(Value::as_str).any(|name| networks.contains(name)),
        Some(Value::Object(own)) => own.keys().any(|name| networks.contains(name.as_str())),
        _ => false,
    }
}

/// What data is in that a service has below `volumes`, by its source, or by its place where it has none of its own.
fn data_in(volume: &Value) -> Option<String> {
    match volume {
        Value::String(short) => short.split(':').next().map(str::to_owned),
        Value::Object(long) if long.get("type").and_then(Value::as_str) == Some("tmpfs") => None,
        Value::Object(long) => {
            let keys = ["source", "src", "target", "dst", "destination"];
            keys.iter().find_map(|key| Some(long.get(*key)?.as_str()?.to_owned()))
        }
        _ => None,
    }
}

/// What a file runs.
///
/// # Errors
/// What is wrong with it, by the key of the service.
pub(super) fn runs(text: &str) -> Result<Runs, Wrong> {
    let wrong = |message: String, help: &str| Wrong { message, help: Some(help.to_owned()) };
    let top = "write `services:`, and below it each service by its name, with its `image`";
    let compose: Compose =
        serde_saphyr::from_str(text).map_err(|error| match serde_saphyr::from_str::<Value>(text) {
            Ok(whole) if !whole.is_object() => wrong(
                format!("it is not a Compose file: expected a mapping with `services`, and it is {}", said(&whole)),
                top,
            ),
            _ => unreadable(&error),
        })?;
    let services = match &compose.services {
        Some(Value::Object(services)) if services.is_empty() => {
            return Err(Wrong { message: "the Compose file has no services".into(), help: None });
        }
        Some(Value::Object(services)) => services,
        None | Some(Value::Null) => return Err(wrong("the Compose file has no `services`".into(), top)),
        Some(other) => {
            return Err(wrong(format!("`services`: expected services by their names, and it is {}", said(other)), top));
        }
    };
    for (name, service) in services {
        let Value::Object(service) = service else {
            let message =
                format!("`services.{name}`: expected a mapping with the service's keys, and it is {}", said(service));
            return Err(wrong(message, "write its keys below its name, such as `image: nginx:1.29`"));
        };
        for (key, shapes, example) in KEYS {
            let Some(value) = service.get(key) else { continue };
            if !value.is_null() && !shapes.iter().any(|shape| shape.is_of(value)) {
                let expected: Vec<&str> = shapes.iter().map(|shape| shape.as_str()).collect();
                let message =
                    format!("`services.{name}.{key}`: expected {}, and it is {}", expected.join(" or "), said(value));
                return Err(wrong(message, &format!("write it as {example}")));
            }
        }
    }
    names_other_files(&compose, services)?;
    let holds_data =
        is_said(compose.volumes.as_ref()) || services.values().any(|service| is_said(service.get("volumes")));
    let volumes = services.iter().flat_map(|(name, service)| {
        let volumes = service.get("volumes").and_then(Value::as_array).into_iter().flatten();
        volumes.filter_map(data_in).map(move |volume| format!("{volume} of {name}"))
    });
    let entries = services.values().filter_map(|service| service.get("ports")?.as_array()).flatten();
    let host = networks_of_the_host(compose.networks.as_ref());
    let on_the_host = services.iter().filter(|(_, service)| is_on(service, &host)).map(|(name, _)| name.clone());
    Ok(Runs {
        services: services.keys().cloned().collect(),
        holds_data,
        volumes: volumes.collect(),
        published: entries.filter_map(published).collect(),
        on_the_host: on_the_host.collect(),
    })
}

/// What is wrong with a text that cannot be read as YAML, with its line.
fn unreadable(error: &Error) -> Wrong {
    let mut cause = error.without_snippet();
    while let Error::AliasError { error, .. } = cause {
        cause = error.without_snippet();
    }
    let (problem, help) = match cause {
        Error::MultipleDocuments { .. } => (
            "a second document begins after `---`, and a workload is one".to_owned(),
            "put each document into a file and a workload of its own",
        ),
        Error::UnknownAnchor { .. } => (
            "an alias (`*NAME`) stands for what no `&NAME` before it names".to_owned(),
            "write `&NAME` at what it stands for, further up in the same file; or write that out",
        ),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            ("an alias (`*NAME`) stands for a part that it is in itself".to_owned(), "write out what it stands for")
        }
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::Budget {
            breach:
                BudgetBreach::Aliases { .. }
                | BudgetBreach::Anchors { .. }
                | BudgetBreach::AliasAnchorRatio { .. }
                | BudgetBreach::MergeKeys { .. }
                | BudgetBreach::RecordedAnchorEvents { .. }
                | BudgetBreach::RecordedAnchorBytes { .. },
            ..
        } => (
            "aliases (`*NAME`) and merges (`<<`) make more of it than bramble reads".to_owned(),
            "write out what they stand for, where it is used",
        ),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            ("it is nested deeper than bramble reads".to_owned(), "nest less: no key of a service needs that")
        }
        Error::Budget { .. } => (
            "it is longer than bramble reads, with what its aliases (`*NAME`) stand for".to_owned(),
            "use fewer aliases, or divide it into several files, a workload each",
        ),
        Error::MergeValueNotMapOrSeqOfMaps { .. } => (
            "`<<` takes in mappings, and this is none".to_owned(),
            "write `<<: *NAME`, and `&NAME` at a mapping further up",
        ),
        Error::NonFiniteFloat { value, .. } => {
            (format!("`{value}` is no number that an engine takes"), "write a number, or a text in quotes")
        }
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().map_or_else(|| "a key".to_owned(), |key| format!("`{key}`"));
            (format!("{key} is written twice"), "give one of the two another name, or remove it")
        }
        Error::Eof { .. } => ("it ends in the middle".to_owned(), "complete the file"),
        // The parser's own words on what is no YAML.
        Error::ExternalMessage { msg, .. } => (msg.clone(), "correct that line of the file"),
        _ => ("what is written here cannot be read".to_owned(), "correct that line of the file"),
    };
    let place = error.location().map(|at| format!("line {} column {}: ", at.line(), at.column()));
    let message = format!("it is not a Compose file: {}{problem}", place.unwrap_or_default());
    Wrong { message, help: Some(help.to_owned()) }
}

impl Shape {
    fn as_str(self) -> &'static str {
        match self {
            Shape::Text => "a text",
            Shape::List => "a list",
            Shape::Mapping => "a mapping",
        }
    }

    fn is_of(self, value: &Value) -> bool {
        match self {
            Shape::Text => value.is_string(),
            Shape::List => value.is_array(),
            Shape::Mapping => value.is_object(),
        }
    }
}

/// A value, as a person calls it.
fn said(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_by_the_key_and_what_is_expected() {
        let lines = (1..10).map(|n| format!("  s{n}: &s{n} [{}]\n", vec![format!("*s{}", n - 1); 10].join(", ")));
        let bomb = format!("services:\n  s0: &s0 [a]\n{}", lines.collect::<String>());
        let files = [
            "",
            "just a text",
            "- a\n- list\n",
            "version: '3'\n",
            "services:\n",
            "services: web\n",
            "services: [web]\n",
            "services: {}\n",
            "services:\n  web: nginx\n",
            "services:\n  web:\n",
            "services:\n  web:\n    image: [a]\n",
            "services:\n  web:\n    image: 3\n",
            "services:\n  web:\n    image: a\n    ports: 80\n",
            "services:\n  web:\n    image: a\n  db:\n    image: b\n    environment: A=b\n",
            "services:\n  web:\n    deploy: [a]\n",
            "services:\n  web:\n\timage: a\n",
            "services: [\n",
            "services: {",
            "services:\n  web: \"\n",
            "services:\n  web:\n    image: a\n---\nservices:\n  db:\n    image: b\n",
            "services:\n  web:\n    image: a\n---\n- b\n",
            "services:\n  web: *other\n",
            "services:\n  web:\n    image: a\n    env_file: ./web.env\n",
            "services:\n  web:\n    image: a\n    env_file: [a.env, { path: b.env, required: false }]\n",
            "services:\n  web:\n    extends: { file: base.yaml, service: web }\n",
            "services:\n  web:\n    build: .\n",
            "include: [other.yaml]\nservices:\n  web:\n    image: a\n",
            "services:\n  web:\n    image: a\nconfigs:\n  c:\n    file: ./c.conf\n",
            "services:\n  web:\n    image: a\nsecrets:\n  s: { file: ./s }\n",
            "services:\n  web: &web\n    deploy: *web\n",
            "services:\n  web:\n    image: a\n    image: b\n",
            "services:\n  web:\n    <<: 3\n",
            "services:\n  web:\n    deploy: { replicas: .inf }\n",
            "services:\n  web:\n    image: !!binary '?'\n",
            &bomb,
            &format!("services: {}", "[".repeat(100)),
            &format!("services: [{}]", "1,".repeat(300_000)),
        ];
        let told = files.map(|file| {
            let Wrong { message, help } = runs(file).expect_err(file);
            let file: String = file.chars().take(120).collect();
            format!("{file:?}\n  {message}\n  {}\n", help.unwrap_or_default())
        });
        let told = told.concat();
        for word in ["struct", "invalid type", "serde", "Option", "budget", "from_", "policy", "breach"] {
            assert!(!told.contains(word), "{told}");
        }
        insta::assert_snapshot!(told);
    }

    #[test]
    fn what_people_write_is_taken() {
        for (file, services, holds_data, volumes) in [
            (
                "services:\n  web:\n    image: a\n    command:\n    ports: [80]\n",
                ["web"].as_slice(),
                false,
                [].as_slice(),
            ),
            (
                "x-more: &more\n  image: a\nservices:\n  web:\n    <<: *more\n    networks: { front: {} }\n  db: *more\n",
                &["db", "web"],
                false,
                &[],
            ),
            (
                "services:\n  db:\n    image: a\n    environment: [A=b]\n    volumes: ['d:/d']\nvolumes:\n  d:\n",
                &["db"],
                true,
                &["d of db"],
            ),
            (
                "services:\n  db:\n    volumes: [{ type: bind, source: /s, target: /t }, { target: /t }, { type: tmpfs, target: /x }, 3]\n",
                &["db"],
                true,
                &["/s of db", "/t of db"],
            ),
            ("services:\n  web:\n    image: a\n    labels: { a: 1 }\nvolumes: {}\n", &["web"], true, &[]),
            (
                "services:\n  web:\n    image: a\n    env_file:\n    build: .\nsecrets:\n  s: { external: true }\nconfigs:\n",
                &["web"],
                false,
                &[],
            ),
        ] {
            let [services, volumes] = [services, volumes].map(|all| all.iter().map(|&name| name.to_owned()).collect());
            assert_eq!(runs(file), Ok(Runs { services, holds_data, volumes, ..Runs::default() }), "{file}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = runs(&text);
        }
    }

    #[test]
    fn ports_that_are_published_are_found_however_they_are_written() {
        let file = r#"
services:
  web:
    image: a
    ports: ["80:8080", "127.0.0.1:81:81/udp", "[::1]:82:82", "3000-3005:3000-3005", "9000", "${PORT}:7", 80, null]
  db:
    image: b
    ports:
      - { target: 5432, published: 5432, protocol: tcp, mode: host }
      - { target: 53, published: "53", protocol: udp }
      - { target: 7 }
      - { target: 7, published: 70000 }
"#;
        let runs = runs(file).expect("well-formed");
        let published: Vec<String> = runs.published.iter().map(Traffic::to_string).collect();
        assert_eq!(published, ["80/tcp", "82/tcp", "3000-3005/tcp", "5432/tcp", "53/udp", "81/udp"]);
    }

    #[test]
    fn a_service_on_the_hosts_own_network_is_found() {
        for (networks, is) in [
            ("{ host: { external: true } }", true),
            ("{ outside: { external: true, name: host } }", true),
            ("{ outside: { external: { name: host } } }", true),
            ("{ host: { driver: overlay } }", false),
            ("{ outside: { external: true } }", false),
            ("", false),
        ] {
            let name = if networks.contains("outside") { "outside" } else { "host" };
            for own in [format!("[{name}]"), format!("{{ {name}: {{}} }}")] {
                let file = format!(
                    "services:\n  a: {{ image: a, networks: {own} }}\n  b: {{ image: b }}\nnetworks: {networks}\n"
                );
                let found = runs(&file).expect("well-formed").on_the_host;
                assert_eq!(
                    found.iter().map(String::as_str).collect::<Vec<_>>(),
                    if is { vec!["a"] } else { vec![] },
                    "{file}"
                );
            }
        }
    }
}
