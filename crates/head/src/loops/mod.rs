//! One driver for everything that is kept true. A controller says what is declared, what is to see, and how a
//! step is done; its planner decides; the driver waits, asks and starts.
//!
//! ```text
//!          ┌─ a new snapshot · changed facts · a step's end · the earliest "until" · a person's "try again"
//!          ▼
//!   ┌─▶ observe (beside the steps) ─▶ plan (pure) ─▶ start what is due, one step a subject ─▶ publish a section ─┐
//!   │         └─ cannot be read: no plan, and the section says what could not be learnt                          │
//!   └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! What was seen before a step ended is not planned from after it: the plan would do the step again.

pub(crate) mod all;
mod backups;
mod leaving;
mod rotation;
mod sets;
pub(crate) mod source;
mod strangers;
pub(crate) mod swarm;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_model::desired::{Awaited, Foreseen};
use bramble_model::section::{Risk, Section, Told};
use bramble_model::subject::Subject;
use bramble_model::timeline::Millis;
use bramble_plan::contract::{self, Outcome, Plan, Planned, Planner, Retry, Unknown};
use bramble_plan::driver::Driver;
use bramble_system::{locked, now};
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::changes::Changes;
use crate::snapshots::Current;
use crate::timeline::Timeline;

/// The longest that looking may take: what hangs longer is said to be unreadable.
const LOOK: Duration = Duration::from_secs(40);
/// However often it is woken, a loop begins to look no more often than this.
const BREATH: Duration = Duration::from_millis(20);

type Declared<C> = <<C as Controller>::Planner as Planner>::Declared;
type Observed<C> = <<C as Controller>::Planner as Planner>::Observed;
type Seen<C> = Result<(Declared<C>, Observed<C>), Unknown>;
type PlanOf<C> = Plan<<<C as Controller>::Planner as Planner>::Step, <<C as Controller>::Planner as Planner>::Seen>;
type StepOf<C> = Planned<<<C as Controller>::Planner as Planner>::Step, <<C as Controller>::Planner as Planner>::Seen>;

/// One thing that is kept true.
pub(crate) trait Controller: Send + Sync + 'static {
    type Planner: Planner<
            Declared: Send + Sync,
            Observed: Send + Sync,
            Step: Display + Send + Sync + 'static,
            Seen: Send + Sync + 'static,
        > + Default
        + Send
        + Sync;

    /// What its section is called.
    const NAME: &'static str;

    fn declared(&self, current: &Current) -> Declared<Self>;

    /// All that there is to see of what is declared.
    fn observe(&self, declared: &Declared<Self>) -> impl Future<Output = Result<Observed<Self>, Unknown>> + Send;

    /// The loop has seen this, or could not: for what others are shown of it. What is seen for a preview is not told.
    fn saw(&self, _seen: Result<&Observed<Self>, &Unknown>) {}

    /// Why no plan is made of what is declared, though it was seen.
    fn doubt(&self) -> Option<String> {
        None
    }

    /// Does a step. It may be asked again for what is done already, and says so then.
    fn perform(&self, planned: StepOf<Self>) -> impl Future<Output = Outcome> + Send;

    /// What wakes it beside a new snapshot, a step's end and the time. Each loop has receivers of its own.
    fn wakes(&self) -> Vec<watch::Receiver<u64>> {
        Vec::new()
    }

    /// How often it looks though nobody woke it, where all is at rest and where it is not.
    fn looks(&self) -> (Duration, Duration);
}

/// What every loop says of itself, and what a person says to them.
#[derive(Default)]
pub(crate) struct Sections {
    sections: Mutex<BTreeMap<&'static str, Section>>,
    retries: Mutex<Vec<Subject>>,
    asked: Changes,
}

impl Sections {
    pub(crate) fn all(&self) -> Vec<Section> {
        locked(&self.sections).values().cloned().collect()
    }

    fn publish(&self, name: &'static str, section: Section) {
        locked(&self.sections).insert(name, section);
    }

    /// A person says that what failed for this subject may be tried again; `false` where nothing has.
    pub(crate) fn retry(&self, subject: &Subject) -> bool {
        let has_failed = |section: &Section| section.failed.iter().any(|failure| failure.subject == *subject);
        if !self.all().iter().any(has_failed) {
            return false;
        }
        let mut retries = locked(&self.retries);
        if !retries.contains(subject) {
            retries.push(subject.clone());
        }
        drop(retries);
        self.asked.tell();
        true
    }

    /// What a person said of subjects that failed in this loop.
    fn asked_of(&self, driver: &mut Driver, now: Millis) {
        locked(&self.retries).retain(|subject| !driver.retry(subject, now));
    }
}

/// The parts of the head that every loop has.
pub(crate) struct Shared {
    pub(crate) sections: Arc<Sections>,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) current: watch::Receiver<Option<Arc<Current>>>,
}

/// Steps that run, and whose they are.
struct Running {
    tasks: JoinSet<Outcome>,
    subjects: HashMap<Id, Subject>,
}

impl Running {
    fn start<F: Future<Output = Outcome> + Send + 'static>(&mut self, subject: Subject, step: F) -> AbortHandle {
        let handle = self.tasks.spawn(step);
        self.subjects.insert(handle.id(), subject);
        handle
    }

    /// The next that ends. A step that panics has failed: the loop goes on.
    async fn next(&mut self) -> Option<(Subject, Outcome)> {
        let (id, outcome) = match self.tasks.join_next_with_id().await? {
            Ok(ended) => ended,
            Err(error) => {
                let reason = format!("an error of bramble's own: {error}");
                (error.id(), Outcome::Failed { reason, retry: Retry::BackOff })
            }
        };
        Some((self.subjects.remove(&id).expect("every task has a subject"), outcome))
    }
}

/// Keeps one thing true until `stop`.
pub(crate) async fn run<C: Controller>(controller: Arc<C>, shared: Shared, stop: CancellationToken) {
    let Shared { sections, timeline, mut current } = shared;
    let mut driver = Driver::new(C::NAME);
    let mut running = Running { tasks: JoinSet::new(), subjects: HashMap::new() };
    let mut wakes = controller.wakes();
    let mut asked = sections.asked.receiver();
    // The ends of steps that were known when the present look began.
    let mut ends = 0_u64;
    let mut look: Option<Looking<C>> = None;
    let mut due = true;
    let mut began = tokio::time::Instant::now() - BREATH;
    while !stop.is_cancelled() {
        if due && look.is_none() {
            let snapshot = current.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                due = false;
                // When it begins to look, and not when it is told to.
                began = tokio::time::Instant::now().max(began + BREATH);
                look = Some(Looking::begin(Arc::clone(&controller), snapshot, ends, began));
            }
        }
        let wait = pause(&driver, controller.looks());
        let looking = look.is_some();
        tokio::select! {
            () = stop.cancelled() => break,
            changed = current.changed() => if changed.is_err() { break } else { due = true },
            () = woken(&mut wakes) => due = true,
            _ = asked.changed() => {
                sections.asked_of(&mut driver, now());
                due = true;
            }
            () = tokio::time::sleep(wait), if !looking && !due => due = true,
            Some((subject, outcome)) = running.next(), if !running.tasks.is_empty() => {
                tell_end(&timeline, &driver, &subject, &outcome);
                driver.ended(&subject, outcome, now(), rand::random());
                ends += 1;
                due = true;
                sections.publish(C::NAME, driver.section());
            }
            seen = Looking::end(&mut look), if looking => {
                controller.saw(seen.result.as_ref().map(|(_, observed)| observed));
                if seen.ends != ends || current.has_changed().unwrap_or(true) {
                    // Something has ended or changed since it was looked: what was seen is of before.
                    due = true;
                    continue;
                }
                let at = now();
                let certain = seen.result.and_then(|seen| controller.doubt().map_or(Ok(seen), |why| Err(Unknown(why))));
                match certain.and_then(|(declared, observed)| plan_of::<C>(&declared, &observed, at)) {
                    Err(Unknown(reason)) => driver.cannot_see(reason, at),
                    Ok(plan) => {
                        for planned in driver.take(&seen.revision, plan, at) {
                            tell_begin(&timeline, &planned);
                            let (subject, controller) = (planned.subject.clone(), Arc::clone(&controller));
                            running.start(subject, async move { controller.perform(planned).await });
                        }
                    }
                }
                sections.publish(C::NAME, driver.section());
            }
        }
    }
    // What still runs is asked of agents; they finish it, and the next head observes the result.
    running.tasks.abort_all();
}

/// The plan of what was seen. A planner that panics makes none, and the loop goes on: what it panics at may pass, or a
/// person changes it, and boots are served all the while.
fn plan_of<C: Controller>(declared: &Declared<C>, observed: &Observed<C>, at: Millis) -> Result<PlanOf<C>, Unknown> {
    let plan = catch_unwind(AssertUnwindSafe(|| C::Planner::default().plan(declared, observed, at)));
    plan.map_err(|_| Unknown("no plan can be made of it: an error of bramble's own, which the journal has".into()))
}

/// How long to wait for the next look, where nobody wakes the loop.
fn pause(driver: &Driver, (resting, busy): (Duration, Duration)) -> Duration {
    let usual = if driver.rests() { resting } else { busy };
    let until = driver.deadline().map(|at| Duration::from_millis(at.saturating_sub(now()).max(1)));
    until.map_or(usual, |until| until.min(usual))
}

/// Until one of these tells. Cancelled, it has taken nothing from any of them.
async fn woken(wakes: &mut [watch::Receiver<u64>]) {
    if wakes.is_empty() {
        // Nobody can wake it: only a snapshot, a step or the time.
        return std::future::pending().await;
    }
    let changes = wakes.iter_mut().map(|wake| {
        Box::pin(async move {
            if wake.changed().await.is_err() {
                // Whoever told is gone.
                std::future::pending::<()>().await;
            }
        })
    });
    futures_util::future::select_all(changes).await;
}

/// A look that is under way.
struct Looking<C: Controller> {
    task: tokio::task::JoinHandle<Seen<C>>,
    ends: u64,
    revision: String,
}

/// What a look saw.
struct Sight<C: Controller> {
    result: Seen<C>,
    ends: u64,
    revision: String,
}

impl<C: Controller> Looking<C> {
    fn begin(controller: Arc<C>, snapshot: Arc<Current>, ends: u64, not_before: tokio::time::Instant) -> Self {
        let revision = snapshot.digest.to_string();
        let task = tokio::spawn(async move {
            tokio::time::sleep_until(not_before).await;
            let declared = controller.declared(&snapshot);
            let observed = seen(&*controller, &declared).await?;
            Ok((declared, observed))
        });
        Looking { task, ends, revision }
    }

    /// Waits for the look's end, and takes it away. May be dropped and called again.
    async fn end(look: &mut Option<Self>) -> Sight<C> {
        let Some(under_way) = look else { return std::future::pending().await };
        let result = (&mut under_way.task).await;
        let result = result.unwrap_or_else(|error| Err(Unknown(format!("an error of bramble's own: {error}"))));
        let mut look = look.take().expect("it was there");
        Sight { result, ends: look.ends, revision: std::mem::take(&mut look.revision) }
    }
}

impl<C: Controller> Drop for Looking<C> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn tell_begin<S: Display, Seen>(timeline: &Timeline, planned: &Planned<S, Seen>) {
    let Planned { subject, reason, step, .. } = planned;
    match subject.as_node() {
        Some(node) => timeline.note_of(node, &format!("{step}: {reason}")),
        None => timeline.note(&format!("{subject} {step}: {reason}")),
    }
}

/// A failure is an event; the same one again is not: the section counts it.
fn tell_end(timeline: &Timeline, driver: &Driver, subject: &Subject, outcome: &Outcome) {
    let Outcome::Failed { reason, .. } = outcome else { return };
    let section = driver.section();
    if section.failed.iter().any(|failure| failure.subject == *subject && failure.reason == *reason) {
        return;
    }
    let step = section.busy.iter().find(|busy| busy.subject == *subject).map_or("", |busy| &busy.step);
    match subject.as_node() {
        Some(node) => timeline.note_of(node, &format!("{step}: failed: {reason}")),
        None => timeline.note(&format!("{subject} {step}: failed: {reason}")),
    }
}

/// All that there is to see, or why that cannot be said in time.
async fn seen<C: Controller>(controller: &C, declared: &Declared<C>) -> Result<Observed<C>, Unknown> {
    let observed = tokio::time::timeout(LOOK, controller.observe(declared)).await;
    observed.unwrap_or_else(|_| Err(Unknown(format!("nothing was learnt within {} s", LOOK.as_secs()))))
}

/// What a loop would do with a snapshot, by its own planner, from what is to see now.
async fn foresee<C: Controller>(controller: &C, next: &Current) -> Foreseen {
    let name = C::NAME.to_owned();
    let declared = controller.declared(next);
    match seen(controller, &declared).await {
        Err(Unknown(reason)) => Foreseen { name, unknown: Some(reason), steps: Vec::new(), waits: Vec::new() },
        Ok(observed) => {
            let plan = contract::foresee(&C::Planner::default(), &declared, observed, now());
            let waits = plan.waits.into_iter().map(|wait| Awaited {
                subject: wait.subject,
                reason: wait.reason,
                ends: wait.ends,
            });
            let steps = plan.steps.iter().map(Planned::told).collect();
            Foreseen { name, unknown: None, steps, waits: waits.collect() }
        }
    }
}

/// Says what loops would destroy: the one that follows git asks the others.
pub(crate) trait Foresight: Send + Sync {
    /// The steps that destroy something with this snapshot, and do not with the current one.
    fn destroyed<'a>(&'a self, current: &'a Current, next: &'a Current) -> BoxFuture<'a, Result<Vec<Told>, Unknown>>;
}

/// What a loop would destroy because of another snapshot. Where that declares what the current one declares, it is not
/// even looked.
async fn destroyed<C>(controller: &C, current: &Current, next: &Current) -> Result<Vec<Told>, Unknown>
where
    C: Controller<Planner: Planner<Declared: PartialEq>>,
{
    let (before, after) = (controller.declared(current), controller.declared(next));
    if before == after {
        return Ok(Vec::new());
    }
    let observed =
        seen(controller, &after).await.map_err(|Unknown(reason)| Unknown(format!("{}: {reason}", C::NAME)))?;
    let at = now();
    let destroyed = |declared: &Declared<C>| -> Vec<Told> {
        let steps = contract::foresee(&C::Planner::default(), declared, observed.clone(), at).steps;
        steps.iter().filter(|planned| matches!(planned.risk, Risk::Destroys { .. })).map(Planned::told).collect()
    };
    let mut all = destroyed(&after);
    if !all.is_empty() {
        let anyway = destroyed(&before);
        all.retain(|step| !anyway.contains(step));
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
