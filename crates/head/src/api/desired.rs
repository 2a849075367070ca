//! Desired state over the API: `/v1/snapshots`, `/v1/contents`, `/v1/plan`, `/v1/history`.

use std::io::Read;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use bramble_model::desired::{
    self, Apply, Contents, Foreseen, Line, Offer, Offered, Preview, Question, SourceKey, Synced,
};
use bramble_model::names::Digest;
use bramble_model::repository::Source;
use bramble_model::snapshot::{Revision, SMALL};
use bramble_plan::source::CORRECT;
use bramble_system::now;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::access::Actor;
use crate::desired::Desired;
use crate::loops::all::Loops;
use crate::loops::source::Following;
use crate::readable::Readable;
use crate::refusal::{Asked, Path, Refusal, failed, refuse, unfit};
use crate::snapshots::{Current, Follow, Held, Refused, Snapshots};

/// Lines of the history in one answer.
const LINES: usize = 200;

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let (status, help) = match &refused {
            Refused::Unknown(_) => (StatusCode::NOT_FOUND, Some("`bramble history` lists what the head has")),
            Refused::Ambiguous(_) => (StatusCode::CONFLICT, Some("write more of its digits")),
            Refused::Problems(_) => {
                return unfit(
                    bramble_system::sentence(&refused),
                    Some("correct it and apply again; nothing has changed"),
                );
            }
            Refused::Unfit(reason) => return unfit(reason, Some(CORRECT)),
            Refused::Unsound => return unfit(bramble_system::sentence(&refused), None),
            Refused::Missing(_) | Refused::Gone(_) => {
                (StatusCode::CONFLICT, Some("`bramble apply` from the folder sends them"))
            }
            Refused::Held => (StatusCode::CONFLICT, Some("`bramble sync` follows it again")),
            Refused::Overtaken(_) => {
                (StatusCode::CONFLICT, Some("give the command again: it shows what would change now"))
            }
            Refused::Head(error) => return failed(error),
        };
        refuse(status, bramble_system::sentence(&refused), help)
    }
}

/// Runs what reads and writes files beside the requests of others.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Refusal::from),
        Err(error) => {
            tracing::error!(%error, "a request failed with an error of bramble's own");
            Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, "an error of bramble's own; see the head's log", None))
        }
    }
}

/// `POST /v1/snapshots`: takes a candidate, and says which of its contents have to come.
pub(crate) async fn offer(
    State(snapshots): State<Arc<Snapshots>>,
    Asked(offer): Asked<Offer>,
) -> Result<Json<Offered>, Refusal> {
    let Offer { snapshot, revision } = offer;
    let (digest, missing) = beside(move || snapshots.offer(snapshot, bounded(revision))).await?;
    Ok(Json(Offered { digest, missing }))
}

/// What someone says of a revision, as far as it is shown.
fn bounded(revision: Revision) -> Revision {
    let short =
        |text: Option<String>| text.map(|text| text.chars().filter(|c| !c.is_control()).take(200).collect::<String>());
    let commit = revision.commit.filter(|commit| commit.len() <= 64 && commit.bytes().all(|c| c.is_ascii_hexdigit()));
    Revision { commit, author: short(revision.author), subject: short(revision.subject), ..revision }
}

/// `POST /v1/contents`: small files.
pub(crate) async fn contents(
    State(snapshots): State<Arc<Snapshots>>,
    Asked(Contents { contents }): Asked<Contents>,
) -> Result<StatusCode, Refusal> {
    for content in contents {
        if content.0.len() as u64 > SMALL {
            let help = "`PUT /v1/contents/DIGEST` takes it";
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "a file is too long for this request", Some(help)));
        }
        if !snapshots.take_small(&content.0) {
            let help = "apply what was sent, or a smaller repository";
            return Err(refuse(StatusCode::INSUFFICIENT_STORAGE, "too much waits to be applied", Some(help)));
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

/// A request's body, read by a thread that writes it to disk.
struct Incoming {
    pieces: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece,
                None => return Ok(0),
            }
        }
        let length = self.rest.len().min(out.len());
        out[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

/// `PUT /v1/contents/DIGEST`: a file that goes to the shelf, as it comes.
pub(crate) async fn content(
    State(snapshots): State<Arc<Snapshots>>,
    Path(digest): Path<Digest>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let (send, pieces) = mpsc::channel::<Bytes>(8);
    let taking =
        tokio::task::spawn_blocking(move || snapshots.take_large(&digest, Incoming { pieces, rest: Bytes::new() }));
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece =
            piece.map_err(|error| refuse(StatusCode::BAD_REQUEST, format!("the file broke off: {error}"), None))?;
        if send.send(piece).await.is_err() {
            break;
        }
    }
    drop(send);
    match taking.await {
        Ok(Ok(())) => Ok(StatusCode::NO_CONTENT),
        Ok(Err(error)) => {
            Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, bramble_system::sentence(&error), error.help().as_deref()))
        }
        Err(error) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None)),
    }
}

/// Why the current snapshot is made current once more, where a person has to say so.
fn once_more(snapshots: &Snapshots, following: &Following, current: &Current) -> Option<String> {
    let waits = || "the files are those of the current snapshot, of a commit that waits for a person".to_owned();
    let in_doubt = snapshots.in_doubt().map(|_| "it took the place of a snapshot that cannot be had, and stays".into());
    in_doubt.or_else(|| following.waits_with(snapshots, &current.revision).then(waits))
}

/// What would happen with this snapshot.
async fn preview(
    snapshots: &Snapshots,
    desired: Arc<Desired>,
    following: &Following,
    loops: &Loops,
    next: Arc<Current>,
) -> Result<Preview, Refusal> {
    let current = snapshots.current().map(|current| current.digest);
    let is_current = current == Some(next.digest);
    let once_more = if is_current { once_more(snapshots, following, &next) } else { None };
    let current = current.filter(|_| once_more.is_none());
    let weighed = Arc::clone(&next);
    let (changed, brake) = beside(move || Ok(desired.weigh_named(&weighed))).await?;
    let changed = match once_more {
        Some(why) => vec![why],
        None if is_current => Vec::new(),
        None => changed,
    };
    let loops: Vec<Foreseen> = loops.foresee(&next).await;
    Ok(Preview { snapshot: next.digest, revision: next.revision.clone(), current, changed, brake, loops })
}

/// The snapshot that a word names, also of a commit that was fetched and passed over; of one that does not check, what is
/// wrong with it.
fn named(snapshots: &Snapshots, following: &Following, word: &str) -> Result<Current, Refused> {
    match (snapshots.find(word), following.unfit(snapshots, word)) {
        (Err(Refused::Unknown(_)), Some(reason)) => Err(Refused::Unfit(reason)),
        (Err(Refused::Unknown(_)), None) => following.fetched(snapshots, word),
        (found, _) => found,
    }
}

/// `POST /v1/plan`: what would happen with a snapshot that the head has, or with the current one.
pub(crate) async fn plan(
    State(snapshots): State<Arc<Snapshots>>,
    State(desired): State<Arc<Desired>>,
    State(following): State<Arc<Following>>,
    State(loops): State<Arc<Loops>>,
    Asked(question): Asked<Question>,
) -> Result<Json<Preview>, Refusal> {
    let next = match question.revision {
        Some(word) => {
            let (snapshots, following) = (Arc::clone(&snapshots), Arc::clone(&following));
            Arc::new(beside(move || named(&snapshots, &following, &word)).await?)
        }
        None => snapshots.current().ok_or_else(|| {
            refuse(StatusCode::CONFLICT, "no snapshot is current yet", Some("`bramble apply` makes one current"))
        })?,
    };
    Ok(Json(preview(&snapshots, desired, &following, &loops, next).await?))
}

/// `POST /v1/snapshots/REVISION/apply`: makes it current.
pub(crate) async fn apply(
    State(snapshots): State<Arc<Snapshots>>,
    State(desired): State<Arc<Desired>>,
    State(following): State<Arc<Following>>,
    Extension(actor): Extension<Actor>,
    Path(word): Path<String>,
    Asked(wish): Asked<Apply>,
) -> Result<Json<desired::Desired>, Refusal> {
    let applying = Arc::clone(&desired);
    beside(move || {
        let next = named(&snapshots, &following, &word)?;
        let is_current = snapshots.current().is_some_and(|current| current.digest == next.digest);
        if is_current && once_more(&snapshots, &following, &next).is_none() {
            // Nothing changes but what it is called.
            return if next.revision.dirty { Ok(()) } else { Ok(snapshots.revise(next)?) };
        }
        let follow = match wish.rollback {
            _ if !snapshots.follows(&next) => Follow::Free,
            true => Follow::Held("an earlier snapshot was made current".into()),
            // It is what following would have made current.
            false if following.waits_with(&snapshots, &next.revision) => Follow::AsBefore,
            false => Follow::Held("a snapshot was applied by hand".into()),
        };
        applying.apply(next, wish.expects.map(Some), &actor.name, follow).map(drop)
    })
    .await?;
    let gone = || refuse(StatusCode::INTERNAL_SERVER_ERROR, "no snapshot is current", None);
    desired.status().map(Json).ok_or_else(gone)
}

/// `GET /v1/history`
pub(crate) async fn history(State(snapshots): State<Arc<Snapshots>>) -> Result<Readable<Line>, Refusal> {
    let lines = beside(move || {
        let kept = snapshots.kept()?;
        let mut current = snapshots.current();
        Ok(snapshots.history(LINES)?.map(|applied| {
            // Its newest line is the current one, and another commit may have said the same since.
            let is_it = current.take_if(|current| current.digest == applied.digest);
            Line {
                snapshot: applied.digest,
                at: applied.at,
                by: applied.by,
                changed: applied.changed,
                kept: kept.contains(&applied.digest),
                current: is_it.is_some(),
                revision: is_it.map_or(applied.revision, |current| current.revision.clone()),
            }
        }))
    });
    lines.await
}

/// `POST /v1/source/hold`: the head stays with its present snapshot.
pub(crate) async fn hold(
    State(snapshots): State<Arc<Snapshots>>,
    Extension(actor): Extension<Actor>,
) -> Result<StatusCode, Refusal> {
    followed(&snapshots)?;
    let held = Held { since: now(), by: actor.name, reason: "a person said so".into() };
    beside(move || Ok(snapshots.hold(Some(&held))?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/source/sync`: the repository is looked at now, and followed from now on.
pub(crate) async fn sync(
    State(snapshots): State<Arc<Snapshots>>,
    State(desired): State<Arc<Desired>>,
    State(following): State<Arc<Following>>,
) -> Result<Json<Synced>, Refusal> {
    followed(&snapshots)?;
    let followed = following.sync(&snapshots).await.map_err(failed)?;
    let unfit = followed.unfit().map(|(_, reason)| (reason.to_owned(), CORRECT.to_owned()));
    Ok(Json(Synced {
        desired: desired.status(),
        unfit: followed.problem.is_none() && unfit.is_some(),
        braked: followed.braked().map(|(commit, reasons)| (commit.to_owned(), reasons.to_vec())),
        problem: followed.problem.or(unfit).map(|(problem, help)| format!("{problem}: {help}")),
        stopped: snapshots.current().map_or_else(Vec::new, |current| stopped(&current)),
    }))
}

/// Workloads that a snapshot stops by what is wrong in their own files, each as a sentence.
pub(crate) fn stopped(current: &Current) -> Vec<String> {
    let told = |(name, problem)| format!("workload {name} stays as it is until its files are corrected: {problem}");
    current.sick().map(told).collect()
}

/// `POST /v1/source/forget-host`: the server's host key is pinned anew at the next look.
pub(crate) async fn forget_host(
    State(snapshots): State<Arc<Snapshots>>,
    State(following): State<Arc<Following>>,
) -> Result<StatusCode, Refusal> {
    forget_of(following, followed(&snapshots)?).await
}

/// Forgets the pinned host key of this repository's server.
pub(crate) async fn forget_of(following: Arc<Following>, source: Source) -> Result<StatusCode, Refusal> {
    let forgotten = of_git(StatusCode::INTERNAL_SERVER_ERROR, move || following.forget_host(&source));
    forgotten.await.map(|()| StatusCode::NO_CONTENT)
}

/// What is asked of git's folder, beside what else is served; `refused` is the status of an answer that says why not.
async fn of_git<T: Send + 'static>(
    refused: StatusCode,
    work: impl FnOnce() -> Result<T, bramble_source::Problem> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(problem)) => Err(refuse(refused, bramble_system::sentence(&problem), Some(problem.help()))),
        Err(error) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None)),
    }
}

/// The repository that the head follows.
fn followed(snapshots: &Snapshots) -> Result<Source, Refusal> {
    let help = "`[source] git = \"…\"` in bramble.toml names one";
    let source = snapshots.source().map_err(failed)?;
    source.ok_or_else(|| refuse(StatusCode::CONFLICT, "this head follows no git repository", Some(help)))
}

/// `GET /v1/source/key`: what a private repository's server has to know of this head, and what this head knows of it.
pub(crate) async fn key(
    State(snapshots): State<Arc<Snapshots>>,
    State(following): State<Arc<Following>>,
) -> Result<Json<SourceKey>, Refusal> {
    key_towards(following, snapshots.source().map_err(failed)?).await
}

/// The key, and the host key that is pinned of this repository's server.
pub(crate) async fn key_towards(following: Arc<Following>, source: Option<Source>) -> Result<Json<SourceKey>, Refusal> {
    let (public, host) = of_git(StatusCode::BAD_GATEWAY, move || following.key(source.as_ref())).await?;
    Ok(Json(SourceKey { public, host }))
}
