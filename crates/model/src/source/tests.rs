use proptest::prelude::*;

use super::*;

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
    let http = Transport::Http { secure: true, host: "host".to_owned() };
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
        "ssh://u@h:70000/x",
        "ssh://u@h:0/x",
        "ssh://u@h:+22/x",
        "https://h:70000/x",
        "ssh://u@h",
        "u@:x",
        "u@[::1:x",
        "u@ho$t:x",
        "git://host/x",
    ];
    for text in wrong {
        assert!(text.parse::<Url>().is_err(), "{text}");
    }
}

#[test]
fn a_password_in_an_address_is_refused_and_not_repeated() {
    for address in [
        "https://me:hunter2@host/it",
        "https://hunter2@host/it",
        "https://me:'hunter2@host/it",
        "https://me:/hunter2@host/it",
        "HTTPS://me:hunter2@host/it",
        "ftp://hunter2@host/it",
        "ssh://git:hunter2@host/it",
        "git:hunter2 @host:it",
    ] {
        let error = address.parse::<Url>().expect_err("refused");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn branches_folders_and_signers_are_looked_at() {
    for text in ["-x", "a..b", "a b", "", "a/", "x.lock", "x.lock/y", "@", "HEAD", "a@{1}", "refs:x", ".x", "a//b"] {
        assert!(text.parse::<Branch>().is_err(), "{text}");
    }
    for text in ["../x", "a/../b", "a//b", ".git/x", "a\nb"] {
        assert!(text.parse::<Inside>().is_err(), "{text}");
    }
    for text in ["clusters/home", "clusters/home/", "/clusters/home"] {
        assert_eq!(text.parse::<Inside>().expect("a folder").to_string(), "clusters/home");
    }
    let fingerprint = "0123456789ABCDEF0123456789ABCDEF01234567".parse::<Signer>().expect_err("no key");
    assert!(fingerprint.wrong.contains("fingerprint"), "{fingerprint}");
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
