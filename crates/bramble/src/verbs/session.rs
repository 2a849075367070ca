//! `bramble session`: who is logged in, and the end of it.

use std::time::Duration;

use anyhow::Result;
use bramble_model::api::SessionStatus;

use crate::client::{Client, in_path};
use crate::exit::Exit;
use crate::place::Place;
use crate::screen::{self, ago};

pub async fn list(user: Option<&str>, place: &Place, json: bool) -> Result<Exit> {
    let query = user.map_or_else(String::new, |user| format!("?user={}", in_path(user)));
    let sessions: Vec<SessionStatus> = Client::of(place)?.get(&format!("/v1/sessions{query}")).await?;
    if json {
        screen::json(&sessions)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = sessions.iter().map(|session| row(session, bramble_system::now())).collect();
    print!("{}", screen::table(&["SESSION", "USER", "ROLE", "SINCE", "FROM", "GOOD FOR"], &rows));
    Ok(Exit::Done)
}

fn row(session: &SessionStatus, now: u64) -> Vec<String> {
    let user = if session.elsewhere { format!("{} (of another service)", session.user) } else { session.user.clone() };
    let since = match session.since {
        0 => "–".into(),
        since => ago(Duration::from_millis(now.saturating_sub(since))),
    };
    let left = session.until.saturating_sub(now).div_ceil(3600 * 1000);
    let left = if left > 48 { format!("{} days", left / 24) } else { format!("{left} h") };
    let own = if session.own { ", and is this one" } else { "" };
    let from = session.from.clone().unwrap_or_else(|| "–".into());
    vec![session.id.clone(), user, session.role.as_str().into(), since, from, format!("{left}{own}")]
}

/// Ends a session, and with it whatever runs in its name.
pub async fn remove(id: &str, place: &Place) -> Result<Exit> {
    Client::of(place)?.delete(&format!("/v1/sessions/{}", in_path(id))).await?;
    println!("{id} is over, and what ran in its name has ended");
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use bramble_model::api::Role;

    use super::*;

    #[test]
    fn a_session_says_since_when_and_for_how_long() {
        let session = SessionStatus {
            id: "0123456789ab".into(),
            user: "ann".into(),
            role: Role::Operator,
            since: 1000,
            until: 30 * 24 * 3600 * 1000,
            from: Some("10.77.0.9".into()),
            elsewhere: false,
            own: true,
        };
        let told = ["0123456789ab", "ann", "operator", "1 s ago", "10.77.0.9", "30 days, and is this one"];
        assert_eq!(row(&session, 2000), told);
        let old = SessionStatus { since: 0, until: 3_600_000, from: None, elsewhere: true, own: false, ..session };
        assert_eq!(row(&old, 1)[1..], ["ann (of another service)", "operator", "–", "–", "1 h"]);
    }
}
