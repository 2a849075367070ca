//! The rules of `[access]`, `[backup]` and `[audit]`.

use super::*;

impl Rules<'_> {
    pub(super) fn access(&mut self, access: &written::AccessSection) -> Access {
        Access { public: access.public, oidc: access.oidc.as_ref().and_then(|oidc| self.oidc(oidc)) }
    }

    pub(super) fn backup(&mut self, backup: &written::BackupSection) -> Option<Backup> {
        if backup.folder.is_empty() {
            self.wrong(&["backup", "folder"], "is empty").help = Some("name a folder on another disk".into());
            return None;
        }
        let recipients = self.recipients(&backup.recipients);
        for (key, value) in [("every_hours", backup.every_hours), ("days", backup.days)] {
            if value == Some(0) {
                self.wrong(&["backup", key], "has to be 1 at least");
            }
        }
        Some(Backup {
            folder: self.places.home.join(&backup.folder),
            recipients,
            every_hours: backup.every_hours.unwrap_or(24),
            keep: backup.keep.unwrap_or(14),
            days: backup.days.unwrap_or(90),
        })
    }

    fn recipients(&mut self, written: &[String]) -> Vec<Recipient> {
        if written.is_empty() {
            let key: &[&str] = &["backup", "recipients"];
            let message = "backups hold the cluster's keys, and are encrypted to whom this names";
            let problem = self.source.problem(key, message).help(recipient::HELP);
            self.problems.push(match self.rigour {
                Rigour::New => problem,
                Rigour::Kept => problem.warning(),
            });
        }
        let mut found = Vec::new();
        for (at, text) in written.iter().enumerate() {
            let key = ["backup", "recipients", &at.to_string()].map(str::to_owned);
            let key: Vec<&str> = key.iter().map(String::as_str).collect();
            match text.parse::<Recipient>() {
                Ok(recipient) if found.contains(&recipient) => {
                    self.wrong(&key, format!("`{text}` is written twice")).help = Some("remove one of the two".into());
                }
                Ok(recipient) => found.push(recipient),
                // Not what was written: it may be a private key.
                Err(wrong) => self.wrong(&key, wrong.to_string()).help = wrong.help().map(str::to_owned),
            }
        }
        found
    }

    /// The fingerprint of a CA, as `bramble status` shows it.
    pub(super) fn ca(&mut self, text: &str) -> Option<Digest> {
        let plain: String = text.chars().filter(|c| *c != ':').collect();
        let parsed = plain.parse().ok();
        if parsed.is_none() {
            self.wrong(
                &["cluster", "ca"],
                format!("`{text}`: expected SHA-256 of the CA's certificate, 64 hex digits"),
            )
            .help = Some("`bramble status` shows it on the head".into());
        }
        parsed
    }

    pub(super) fn audit(&mut self, audit: &written::AuditSection) -> AuditCopies {
        let file = audit.file.as_deref().map(PathBuf::from);
        if let Some(path) = file.as_ref().filter(|path| !path.is_absolute() || path.file_name().is_none()) {
            let shown = path.display();
            self.wrong(&["audit", "file"], format!("`{shown}`: expected the path of a file that begins with /")).help =
                Some("name a file on the head, best of another disk: \"/var/log/bramble-audit.log\"".into());
        }
        AuditCopies { file, syslog: audit.syslog.as_deref().and_then(|text| self.syslog(text)) }
    }

    fn syslog(&mut self, text: &str) -> Option<Syslog> {
        if text.starts_with('/') {
            return Some(Syslog::Socket(text.into()));
        }
        let known = text.strip_prefix("udp://").and_then(|rest| {
            let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((host, port)) => (host.parse::<std::net::Ipv6Addr>().ok()?.to_string(), port),
                None => match rest.split_once(':') {
                    Some((host, _)) => (host.to_owned(), &rest[host.len()..]),
                    None => (rest.to_owned(), ""),
                },
            };
            let plain = |c: char| c.is_ascii_alphanumeric() || "-.:".contains(c);
            // RFC 5426, section 3.3.
            let port =
                if port.is_empty() { 514 } else { port.strip_prefix(':')?.parse().ok().filter(|port| *port > 0)? };
            (!host.is_empty() && host.len() <= 253 && host.chars().all(plain)).then_some(Syslog::Udp { host, port })
        });
        if known.is_none() {
            self.wrong(
                &["audit", "syslog"],
                format!("`{text}`: expected \"udp://HOST:PORT\" or the path of a socket"),
            )
            .help = Some("\"udp://log.home.arpa:514\", or \"/dev/log\" for the head's own".into());
        }
        known
    }

    fn oidc(&mut self, oidc: &written::OidcSection) -> Option<Oidc> {
        let key = |last: &'static str| ["access", "oidc", last];
        let before = self.problems.len();
        let issuer = oidc.issuer.trim_end_matches('/').to_owned();
        // Without TLS only to this machine itself (as RFC 8252, section 8.3, has it for loopback addresses).
        let loopback = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
        if !issuer.starts_with("https://") && !loopback.iter().any(|start| issuer.starts_with(start)) {
            self.wrong(&key("issuer"), format!("`{issuer}`: expected a URL that begins with https://"));
        }
        if oidc.client_id.is_empty() {
            self.wrong(&key("client_id"), "is empty").help =
                Some("the provider shows it where this head was registered".into());
        }
        if oidc.operators.is_empty() && oidc.viewers.is_empty() {
            self.wrong(&key("operators"), "nobody could log in").help =
                Some("name mail addresses or \"group:NAME\" in `operators` or `viewers`".into());
        }
        for (list, entries) in [("operators", &oidc.operators), ("viewers", &oidc.viewers)] {
            for (index, entry) in entries.iter().enumerate() {
                let everyone = entry == "*" && list == "viewers";
                let group = entry.strip_prefix("group:").is_some_and(|name| !name.is_empty());
                let mail = entry.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
                if !everyone && !group && !mail {
                    let index = index.to_string();
                    self.wrong(
                        &["access", "oidc", list, &index],
                        format!("`{entry}`: expected a mail address or \"group:NAME\""),
                    );
                }
            }
        }
        let mut file = |last: &'static str, path: &Option<String>| {
            // Secrets lie where the person wants them: beside the repository, or in /etc.
            let path = self.places.home.join(path.as_deref()?);
            if !path.is_file() {
                self.wrong(&key(last), format!("`{}` is no file", path.display()));
            }
            Some(path)
        };
        let client_secret_file = file("client_secret_file", &oidc.client_secret_file);
        let ca = file("ca", &oidc.ca);
        (self.problems.len() == before).then(|| Oidc {
            issuer,
            client_id: oidc.client_id.clone(),
            client_secret_file,
            ca,
            url: oidc.url.as_ref().map(|url| url.trim_end_matches('/').to_owned()),
            operators: oidc.operators.clone(),
            viewers: oidc.viewers.clone(),
        })
    }
}
