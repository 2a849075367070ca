//! A second Compose file that labels every service of the first.
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
}

/// The overlay that adds `labels` to the deployment of every service in `file`. JSON is YAML.
pub(super) fn labels(file: &str, labels: &[(&str, &str)]) -> Result<String, Error> {
    let compose: Compose = serde_saphyr::from_str(file).map_err(|error| Error::Workload(error.to_string()))?;
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    let services: BTreeMap<_, _> =
        compose.services.keys().map(|name| (name, serde_json::json!({ "deploy": { "labels": labels } }))).collect();
    let mut overlay = serde_json::json!({ "services": services });
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
        let overlay = labels(file, &[("bramble.generation", "7")]).expect("well-formed");
        let read: serde_json::Value = serde_json::from_str(&overlay).expect("JSON");
        assert_eq!(read["services"]["db"]["deploy"]["labels"]["bramble.generation"], "7");
        assert_eq!(read["services"]["web"]["deploy"]["labels"]["bramble.generation"], "7");
        assert_eq!(read["version"], "3.8");
    }

    #[test]
    fn a_file_that_is_not_compose_is_refused() {
        labels("just a text", &[]).expect_err("no services");
    }
}
