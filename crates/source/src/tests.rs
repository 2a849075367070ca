use proptest::prelude::*;

use super::*;
use crate::settings::Transport;

#[test]
fn the_status_is_the_last_answers() {
    let trace = "12:00 http.c:1  <= Recv header: HTTP/1.1 401 Unauthorized\n\
                 12:00 http.c:1  <= Recv header: WWW-Authenticate: Basic\n\
                 12:00 http.c:1  <= Recv header: HTTP/1.1 301 Moved Permanently\n\
                 12:00 http.c:1  <= Recv header: location: https://elsewhere/x\n";
    assert_eq!(answered(trace), (Some(301), Some("https://elsewhere/x".to_owned())));
    assert_eq!(answered("nothing"), (None, None));
}

#[test]
fn addresses_are_taken_as_git_takes_them() {
    let transport = |text: &str| text.parse::<Url>().map(|url| url.transport);
    let ssh = |user: Option<&str>, host: &str, port| Transport::Ssh {
        user: user.map(str::to_owned),
        host: host.to_owned(),
        port,
    };
    assert_eq!(transport("git@host:me/it.git"), Ok(ssh(Some("git"), "host", 22)));
    assert_eq!(transport("ssh://git@[::1]:2222/it"), Ok(ssh(Some("git"), "::1", 2222)));
    assert_eq!(transport("file:///a/b"), Ok(Transport::Local("/a/b".into())));
    let http = Transport::Http { secure: true, user: None, host: "host".to_owned() };
    assert_eq!(transport("https://host:8443/it.git"), Ok(http));
}

#[test]
fn addresses_that_are_orders_are_refused() {
    let wrong = [
        "",
        "-u",
        "--upload-pack=touch /x",
        "ext::sh -c x",
        "ssh://-oProxyCommand=x/y",
        "-oProxyCommand=x:y",
        "host:-x",
        "git@-x:y",
        "https://-x/y",
        "ftp://host/x",
        "relative/path",
        "https://host/a b",
        "ssh://u@h:port/x",
        "git://host/x",
    ];
    for text in wrong {
        assert!(text.parse::<Url>().is_err(), "{text}");
    }
}

#[test]
fn a_password_in_an_address_is_refused_and_not_repeated() {
    let error = "https://me:hunter2@host/it".parse::<Url>().expect_err("refused");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

#[test]
fn a_token_does_not_travel_in_the_clear() {
    let settings = |git: &str| Settings {
        git: git.parse().expect("an address"),
        branch: "main".parse().expect("a branch"),
        path: Inside::default(),
        signers: Vec::new(),
        credentials: Credentials::TokenFile("/t".into()),
    };
    assert!(settings("http://host/x").check().is_err());
    assert!(settings("git@host:x").check().is_err());
    assert!(settings("http://127.0.0.1:80/x").check().is_ok());
    assert!(settings("https://host/x").check().is_ok());
}

#[test]
fn branches_folders_signers_and_commits_are_looked_at() {
    for text in ["-x", "a..b", "a b", "", "a/", "x.lock", "@", "a@{1}", "refs:x", ".x", "a//b"] {
        assert!(text.parse::<Branch>().is_err(), "{text}");
    }
    for text in ["/etc", "../x", "a/../b", "a//b", ".git/x", "a\nb", "/"] {
        assert!(text.parse::<Inside>().is_err(), "{text}");
    }
    assert_eq!("clusters/home/".parse::<Inside>().expect("a folder").to_string(), "clusters/home");
    let fingerprint = "0123456789ABCDEF0123456789ABCDEF01234567".parse::<Signer>().expect_err("no key");
    assert!(fingerprint.wrong.contains("fingerprint"), "{fingerprint}");
    for text in ["abc", "HEAD", "0123456789abcdef", &"A".repeat(40)] {
        assert!(text.parse::<Commit>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_setting_becomes_an_option(text in "[-a-z:/@.\\[\\]=%0-9 ]{0,30}") {
        if let Ok(url) = text.parse::<Url>() {
            prop_assert!(!url.as_str().starts_with('-'));
            if let Transport::Ssh { user, host, .. } = &url.transport {
                prop_assert!(!host.starts_with('-') && !user.as_deref().unwrap_or("").starts_with('-'));
            }
        }
        if let Ok(branch) = text.parse::<Branch>() {
            prop_assert!(!branch.as_str().starts_with('-') && !branch.as_str().contains(':'));
        }
    }
}
