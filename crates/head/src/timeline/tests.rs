use super::*;
use bramble_model::names::{BootTag, Mac};
use bramble_model::timeline::Stopped;

impl Track {
    fn happens(&mut self, at: Millis, what: &What) {
        self.happen(&Event { number: at, at, node: None, what: what.clone() });
    }
}

fn boot() -> Vec<What> {
    let asked = What::Asked { mac: Mac([0; 6]), firmware: "UEFI x64 PXE".into() };
    vec![
        What::PowerOn,
        asked.clone(),
        What::TftpSent { file: "ipxe.efi".into(), bytes: 1 },
        asked,
        What::ScriptServed { boot: BootTag("b".into()), set: "s".into() },
        What::Fetching { file: "kernel".into(), bytes: 1 },
        What::Stage1 { step: "root".into(), percent: Some(60) },
        What::Stage1 { step: "switch-root".into(), percent: None },
        What::Connected,
        What::Engine { state: "joining".into(), up: false },
        What::Ready,
    ]
}

#[test]
fn a_boot_passes_its_phases_in_order() {
    let mut track = Track::default();
    for (at, what) in boot().iter().enumerate() {
        track.happens(at as Millis, what);
    }
    let phases: Vec<Phase> = track.times.iter().map(|(phase, _)| *phase).collect();
    assert_eq!(phases, Phase::WAY);
}

#[test]
fn a_machine_that_asks_again_has_started_again() {
    let mut track = Track::default();
    for (at, what) in boot().iter().chain(&boot()[1..6]).enumerate() {
        track.happens(at as Millis, what);
    }
    assert_eq!((track.phase, track.times[0]), (Phase::Kernel, (Phase::Firmware, 11)));
    assert!(track.connected, "someone asks in its name; its connection tells when it has ended");
    track.happens(99, &What::Disconnected { reason: "silent".into() });
    assert!(!track.connected);
}

#[test]
fn a_machine_that_only_fetches_its_script_has_started_again() {
    let mut track = Track::default();
    for (at, what) in boot().iter().chain(&boot()[4..6]).enumerate() {
        track.happens(at as Millis, what);
    }
    assert_eq!((track.phase, track.times[0]), (Phase::Kernel, (Phase::Loader, 11)));
}

#[test]
fn a_panic_of_whoever_looks_at_a_node_ends_no_timeline() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
    let place = std::path::Path::new("/nowhere");
    let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n[roles.r]\nengine = \"none\"\n\
        [nodes.w1]\nmac = \"52:54:00:00:00:01\"\nrole = \"r\"\n";
    let cluster = Cluster::parse(place, &place.join("bramble.toml"), text).expect("valid");
    let timeline = Timeline::open(store, &cluster, 0).expect("opens");
    let w1: Name = "w1".parse().expect("a name");
    std::thread::scope(|scope| {
        let connection = scope.spawn(|| timeline.learn(&w1, |_| panic!("a connection's")));
        connection.join().expect_err("it panics");
    });
    timeline.add(Some(&w1), What::Connected);
    assert_eq!(timeline.look(&w1, |track| track.connected), Some(true));
}

#[test]
fn a_clock_that_is_behind_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
    let place = std::path::Path::new("/nowhere");
    let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n";
    let cluster = Cluster::parse(place, &place.join("bramble.toml"), text).expect("valid");
    let event = |at| Event { number: 1, at, node: None, what: What::Ready };
    keep_events(&store, &[event(now())], &BTreeSet::new()).expect("stored");
    assert_eq!(Timeline::open(store.clone(), &cluster, 0).expect("opens").clock_problem(), None);
    keep_events(&store, &[event(now() + 400 * DAY + DAY / 2)], &BTreeSet::new()).expect("stored");
    let problem = Timeline::open(store, &cluster, 0).expect("opens").clock_problem().expect("a problem");
    assert!(problem.contains("400 days behind"), "{problem}");
}

#[test]
fn old_events_are_dropped_and_numbers_go_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
    let event = |number| Event { number, at: 0, node: None, what: What::Ready };
    keep_events(&store, &[event(1), event(2), event(3)], &BTreeSet::from([1])).expect("stored");
    let kept = store.blocking().read_all::<Events>().expect("read").readable;
    assert_eq!(kept.into_keys().collect::<Vec<_>>(), [2, 3]);
    assert_eq!(last_number(&store).expect("read"), 3);
}

#[test]
fn a_failure_is_forgotten_when_the_node_goes_on() {
    let mut track = Track::default();
    track.happens(0, &What::Failed { reason: "no link".into(), retry_in_seconds: 1, failure: None });
    assert_eq!(track.failure, Some(Said { reason: "no link".into(), kind: None }));
    track.happens(1, &What::Stage1 { step: "root".into(), percent: Some(0) });
    assert_eq!(track.failure, None);
}

fn two_nodes(store: Store) -> Timeline {
    let place = std::path::Path::new("/nowhere");
    let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n[roles.r]\nengine = \"none\"\n\
        [nodes.w1]\nmac = \"52:54:00:00:00:01\"\nrole = \"r\"\n[nodes.w2]\nmac = \"52:54:00:00:00:02\"\nrole = \"r\"\n";
    let cluster = Cluster::parse(place, &place.join("bramble.toml"), text).expect("valid");
    Timeline::open(store, &cluster, 0).expect("opens")
}

/// The ring of 20,000 events was everyone's: in a minute of one node's words, all others' were gone, and 20,000 of the
/// longest were hundreds of megabytes.
#[test]
fn a_node_that_says_a_million_things_fills_nothing_and_silences_nobody() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
    let timeline = two_nodes(store.clone());
    let [w1, w2]: [Name; 2] = ["w1", "w2"].map(|name| name.parse().expect("a name"));
    let begin = now();
    let said = |what: What, at| timeline.say(Voice::of(&what), Some(&w2), what, at);
    boot().into_iter().for_each(|what| said(what, begin));
    let quiet = timeline.of(&w2, usize::MAX);
    let reason = "\u{1b}[2J\u{202e}".repeat(200);
    let mut kept = 0;
    for number in 0..1_000_000 {
        let at = begin + number;
        let failed = What::Failed { reason: reason.clone(), retry_in_seconds: number, failure: None };
        timeline.say(Voice::Machine, Some(&w1), failed, at);
        // A store that takes nothing for long has no more to take afterwards.
        if number % 250_000 == 0 {
            timeline.tell_what_was_not_kept(at);
            timeline.flush();
        }
        kept = kept.max(timeline.inner().kept.cost());
    }
    timeline.tell_what_was_not_kept(begin + 2_000_000);
    timeline.flush();
    assert!(kept <= kept::OF_ONE + 100 * kept::LEAST, "{kept} bytes");
    assert_eq!(timeline.of(&w2, usize::MAX), quiet, "another's words are all there");
    let own = timeline.of(&w1, usize::MAX);
    let told: u64 = own
        .iter()
        .filter_map(|event| match &event.what {
            What::Note { text } => {
                text.strip_suffix(" more events were not kept: 60 a minute are")?.parse::<u64>().ok()
            }
            _ => None,
        })
        .sum();
    assert!((900_000..1_000_000).contains(&told), "{told} are told, and as few events: {}", own.len());
    assert!(own.len() < 1000, "{}", own.len());
    let track = timeline.study(&w1, |track| track.clone());
    assert!(track.recent_bytes <= RECENT_BYTES && track.recent.len() <= RECENT);
    assert_eq!(track.recent_bytes, track.recent.iter().map(Event::weight).sum::<usize>());
    // On disk there is what is kept, and nothing else.
    let stored = store.blocking().read_all::<Events>().expect("read").readable;
    let in_memory: Vec<u64> = timeline.after(0, usize::MAX).iter().map(|event| event.number).collect();
    assert_eq!(stored.into_keys().collect::<Vec<_>>(), in_memory);
    // Where it is, is known all the same.
    timeline.say(Voice::Machine, Some(&w1), What::Ready, begin + 999_999);
    assert_eq!(timeline.look(&w1, |track| track.phase), Some(Phase::Ready));
}

#[test]
fn what_a_former_head_kept_is_clean_when_it_is_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
    let w1: Name = "w1".parse().expect("a name");
    let what = What::Note { text: "a\u{1b}]0;x\u{7}\nb".into() };
    keep_events(&store, &[Event { number: 1, at: 1, node: Some(w1.clone()), what }], &BTreeSet::new()).expect("stored");
    let timeline = two_nodes(store);
    assert_eq!(timeline.of(&w1, 9)[0].what, What::Note { text: "a\u{fffd}]0;x\u{fffd} b".into() });
}

proptest::proptest! {
    #[test]
    fn no_event_has_more_than_plain_lines(text in ".{0,40}|[\u{0}-\u{9f}\u{2028}-\u{202e}]{0,3000}", number: u64) {
        let note = || text.clone();
        for what in [
            What::Note { text: note() },
            What::Offered { file: note() },
            What::TftpStopped {
                file: note(), at: number, of: number, block: 512, agreed: true, reason: Stopped::GaveUp(note()),
            },
            What::Failed { reason: note(), retry_in_seconds: number, failure: Some(note().as_str().into()) },
            What::Waits { fingerprint: note(), reason: note(), digits: true },
            What::Engine { state: note(), up: true },
            What::Stage1 { step: note().as_str().into(), percent: None },
            What::Fetching { file: note().as_str().into(), bytes: number },
            What::Asked { mac: Mac([0; 6]), firmware: note().as_str().into() },
        ] {
            let what = what.plain();
            let sentence = what.sentence();
            proptest::prop_assert!(sentence.chars().all(bramble_model::said::plain::is_plain), "{sentence:?}");
            proptest::prop_assert!(sentence.len() < 2500);
            proptest::prop_assert_eq!(what.clone().plain(), what);
        }
    }
}
