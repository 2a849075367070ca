//! A second Compose file that labels every service of the first, and has its networks encrypted where the repository
//! asks for it.
//!
//! `docker stack deploy` merges files itself, so the workload's own file reaches Docker as it was
//! written.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Error;

#[derive(Deserialize)]
struct Compose {
    version: Option<serde_json::Value>,
    services: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    networks: Option<BTreeMap<String, Option<serde_json::Map<String, serde_json::Value>>>>,
}

/// The network that services are on which name none.
const DEFAULT: &str = "default";

impl Compose {
    /// The networks that Docker makes for the file, whole, and encrypted: those of another driver, and of somebody else, are
    /// left out. Whole, since whoever merges two files may take the second one's for all of it.
    fn encrypted(&self) -> BTreeMap<&str, serde_json::Value> {
        let none = serde_json::Map::new();
        let written = self.networks.iter().flatten();
        let written = written.map(|(name, network)| (name.as_str(), network.as_ref().unwrap_or(&none)));
        let mut all: BTreeMap<&str, _> = [(DEFAULT, &none)].into_iter().chain(written).collect();
        all.retain(|_, network| {
            let is_own = network.get("external").is_none_or(|external| external.is_null() || *external == false);
            is_own && network.get("driver").and_then(|driver| driver.as_str()).is_none_or(|driver| driver == "overlay")
        });
        let with = |network: &serde_json::Map<String, serde_json::Value>| {
            let mut network = network.clone();
            let mut options =
                network.get("driver_opts").and_then(|options| options.as_object()).cloned().unwrap_or_default();
            options.insert("encrypted".into(), "true".into());
            network.insert("driver".into(), "overlay".into());
            network.insert("driver_opts".into(), options.into());
            network.into()
        };
        all.into_iter().map(|(name, network)| (name, with(network))).collect()
    }
}

/// The overlay that adds `labels` to the deployment of every service in `file`, and has its networks `encrypted`. JSON is
/// YAML.
pub(super) fn overlay(file: &str, labels: &[(&str, &str)], encrypted: bool) -> Result<String, Error> {
    let compose: Compose = serde_saphyr::from_str(file).map_err(|error| Error::Workload(error.to_string()))?;
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    let services: BTreeMap<_, _> =
        compose.services.keys().map(|name| (name, serde_json::json!({ "deploy": { "labels": labels } }))).collect();
    let mut overlay = serde_json::json!({ "services": services });
    if encrypted {
        overlay["networks"] = serde_json::json!(compose.encrypted());
    }
    if let Some(version) = compose.version {
        // Docker refuses to merge files of different versions.
        overlay["version"] = version;
    }
    Ok(overlay.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_labelled() {
        let file = "version: '3.8'\nservices:\n  web:\n    image: a\n  db: { image: b }\n";
        let overlay = overlay(file, &[("bramble.generation", "7")], false).expect("well-formed");
        let read: serde_json::Value = serde_json::from_str(&overlay).expect("JSON");
        assert_eq!(read["services"]["db"]["deploy"]["labels"]["bramble.generation"], "7");
        assert_eq!(read["services"]["web"]["deploy"]["labels"]["bramble.generation"], "7");
        assert_eq!(read["version"], "3.8");
        assert!(read.get("networks").is_none());
    }

    #[test]
    fn every_network_that_docker_makes_is_encrypted_and_no_other_is_touched() {
        let file = "services: { web: { image: a } }\nnetworks:\n  front:\n  back: { attachable: true, driver_opts: { a: b } }\n  \
                    host: { external: true }\n  lan: { driver: macvlan }\n";
        let overlay = overlay(file, &[], true).expect("well-formed");
        let read: serde_json::Value = serde_json::from_str(&overlay).expect("JSON");
        assert_eq!(
            read["networks"],
            serde_json::json!({
                "default": { "driver": "overlay", "driver_opts": { "encrypted": "true" } },
                "front": { "driver": "overlay", "driver_opts": { "encrypted": "true" } },
                "back": { "attachable": true, "driver": "overlay", "driver_opts": { "a": "b", "encrypted": "true" } },
            })
        );
    }

    #[test]
    fn a_file_that_is_not_compose_is_refused() {
        overlay("just a text", &[], false).expect_err("no services");
    }
}
