//! `bramble login`, `logout`, `user` and `token`

use std::io::{IsTerminal as _, Write as _, stdin, stdout};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bramble_model::api::{Login, Role, UserChange};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

use crate::client::{Client, problem};
use crate::exit::Exit;
use crate::heads::{self, KnownHead};
use crate::place::Place;
use crate::screen::{self, ago};

/// The terminal without echo. Dropped, it is as it was, on a new line.
struct Unechoed(Termios);

impl Unechoed {
    fn set() -> Result<Self> {
        let before = tcgetattr(stdin()).context("cannot ask on the terminal")?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Now, &modes).context("cannot change the terminal")?;
        Ok(Unechoed(before))
    }
}

impl Drop for Unechoed {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
        eprintln!();
    }
}

/// A line of the standard input, read in a thread of its own: such a read cannot be interrupted.
async fn line() -> Result<String> {
    let (send, read) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = send.send(stdin().read_line(&mut line).map(|_| line));
    });
    let line = read.await.context("nobody reads the standard input")?.context("cannot read the standard input")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks on the terminal.
async fn ask(question: &str) -> Result<String> {
    print!("{question}");
    stdout().flush()?;
    line().await
}

/// Reads a secret: without echo from a terminal, else the first line of the standard input.
pub async fn secret(question: &str) -> Result<String> {
    if !stdin().is_terminal() {
        return line().await;
    }
    let _unechoed = Unechoed::set()?;
    eprint!("{question}");
    line().await
}

/// The CA of whoever answers there.
async fn ask_ca(url: &str) -> Result<String> {
    let stream = heads::connect_to_anyone(url).await.with_context(|| format!("cannot reach {url}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/v1/ca.pem").header("host", "head").body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await.with_context(|| format!("{url} does not answer"))?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    if !status.is_success() {
        return Err(problem(status, &body));
    }
    String::from_utf8(body.to_vec()).context("the head's CA is malformed")
}

/// Why nobody logs in by the CA that takes the first one's place. Nobody has compared the first one.
fn signs_not_yet(url: &str, wanted: &str, first: &str) -> String {
    format!(
        "the CA of the head at {url} is being rotated: {wanted} takes the place of {first}, and until the end of that the \
         other one signs: compare it with `bramble ca show` on the head, and give that one with --ca"
    )
}

/// Logs in at a head elsewhere.
pub async fn login(address: &str, user: Option<String>, token: bool, fingerprint: Option<String>) -> Result<Exit> {
    let url = heads::url(address)?;
    let (ca, is_known) = match heads::find(&url) {
        Ok(known) => match heads::connect(&known).await {
            // It was rotated, or that is another head: whoever asks compares it as for one that is not known.
            Err(error) if error.is::<heads::OtherCa>() => {
                println!("The head at {url} had CA {} when you used it last.", heads::fingerprint(&known.ca)?);
                (ask_ca(&url).await?, false)
            }
            // Whatever else it is, whoever logs in hears it.
            Ok(_) | Err(_) => (known.ca, true),
        },
        Err(_) => (ask_ca(&url).await?, false),
    };
    let is = heads::fingerprint(&ca)?;
    let mut compared = is.clone();
    match fingerprint {
        Some(wanted) => {
            let wanted: String = wanted.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_lowercase();
            if !heads::fingerprints(&ca)?.contains(&wanted) {
                bail!("the head at {url} has CA {is}, and not {wanted}: it is another one, or someone is in between");
            }
            if !is_known && wanted != is {
                bail!("{}", signs_not_yet(&url, &wanted, &is));
            }
            compared = wanted;
        }
        None if is_known => {}
        None if stdin().is_terminal() => {
            let question =
                format!("The head at {url} has CA {is}.\nThe same as `bramble status` shows on the head? [yes/no] ");
            if ask(&question).await?.trim() != "yes" {
                bail!("not logged in");
            }
        }
        None => bail!(
            "the head at {url} is not known yet: give its CA's fingerprint with --ca (`bramble status` on the head shows it)"
        ),
    }
    // Whoever answered may have named more than one: what nobody has compared is asked for again, over a connection that
    // the one that was has verified.
    let ca = if is_known { ca } else { heads::only(&ca, &compared)?.context("the head's CA is malformed")? };
    let mut known = KnownHead { url: url.clone(), ca, user: String::new(), token: String::new(), until: None };
    if token {
        known.token = secret("Token: ").await?;
        let me = Client::remote(known.clone()).me().await?;
        known.user = me.name;
    } else {
        let user = match user {
            Some(user) => user,
            None => ask("Name: ").await?.trim().to_owned(),
        };
        let password = secret("Password: ").await?;
        let logged_in = Client::remote(known.clone()).log_in(&Login { user, password }).await?;
        known.user = logged_in.user;
        known.token = logged_in.token;
        known.until = Some(logged_in.until);
    }
    println!("logged in at {url} as {}", known.user);
    heads::keep(known)?;
    Ok(Exit::Done)
}

/// Ends the session and forgets it.
pub async fn logout(address: Option<String>) -> Result<Exit> {
    let url = match address {
        Some(address) => heads::url(&address)?,
        None => {
            let mut urls = heads::urls()?;
            match urls.len() {
                1 => urls.remove(0),
                0 => bail!("nobody is logged in"),
                _ => bail!("several heads are known ({}): `bramble logout HEAD` says which", urls.join(", ")),
            }
        }
    };
    let Some(known) = heads::forget(&url)? else { bail!("nobody is logged in at {url}") };
    // A token of a program stays good until it is removed; a session ends here.
    if known.until.is_some()
        && let Err(error) = Client::remote(known).log_out().await
    {
        eprintln!("the head could not be told, and the session ends by itself: {error}");
    }
    println!("logged out at {url}");
    Ok(Exit::Done)
}

/// Makes a user, or changes one.
pub async fn put_user(name: &str, role: Option<Role>, password: bool, place: &Place) -> Result<Exit> {
    let client = Client::of(place)?;
    let known = client.users().await?.iter().any(|user| user.name == name);
    let password = if password || !known {
        let first = secret(&format!("Password for {name}: ")).await?;
        if stdin().is_terminal() && secret("Again: ").await? != first {
            bail!("the two passwords differ");
        }
        Some(first)
    } else {
        None
    };
    client.change_user(name, &UserChange { password, role }).await?;
    println!("{name} {}", if known { "is changed" } else { "may log in" });
    Ok(Exit::Done)
}

pub async fn remove_user(name: &str, place: &Place) -> Result<Exit> {
    Client::of(place)?.remove_user(name).await?;
    println!("{name} is removed, and logged out everywhere");
    Ok(Exit::Done)
}

fn since(at: u64) -> String {
    ago(Duration::from_millis(bramble_system::now().saturating_sub(at)))
}

pub async fn users(place: &Place, json: bool) -> Result<Exit> {
    let users = Client::of(place)?.users().await?;
    if json {
        screen::json(&users)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> =
        users.iter().map(|user| vec![user.name.clone(), user.role.as_str().into(), since(user.since)]).collect();
    print!("{}", screen::table(&["USER", "ROLE", "SINCE"], &rows));
    Ok(Exit::Done)
}

pub async fn add_token(name: &str, role: Role, days: Option<u32>, place: &Place) -> Result<Exit> {
    let token = Client::of(place)?.add_token(name, role, days).await?;
    eprintln!("this is shown once:");
    println!("{token}");
    Ok(Exit::Done)
}

pub async fn remove_token(name: &str, place: &Place) -> Result<Exit> {
    Client::of(place)?.remove_token(name).await?;
    println!("{name} is good for nothing any more");
    Ok(Exit::Done)
}

pub async fn tokens(place: &Place, json: bool) -> Result<Exit> {
    let tokens = Client::of(place)?.tokens().await?;
    if json {
        screen::json(&tokens)?;
        return Ok(Exit::Done);
    }
    let now = bramble_system::now();
    let until = |until: Option<u64>| match until {
        None => "it is removed".into(),
        Some(until) if until <= now => "over".into(),
        Some(until) => format!("{} days", (until - now).div_ceil(24 * 3600 * 1000)),
    };
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| vec![token.name.clone(), token.role.as_str().into(), since(token.since), until(token.until)])
        .collect();
    print!("{}", screen::table(&["TOKEN", "ROLE", "SINCE", "GOOD FOR"], &rows));
    Ok(Exit::Done)
}
