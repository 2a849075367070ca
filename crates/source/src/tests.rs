use super::*;

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
fn only_a_full_name_is_a_commit() {
    for text in ["abc", "HEAD", "0123456789abcdef", &"A".repeat(40)] {
        assert!(text.parse::<Commit>().is_err(), "{text}");
    }
}
