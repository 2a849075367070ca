//! What the store in `tests-data`, which commit 5b09a28 wrote, holds: one of everything. And one of every record that
//! came later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bramble_boot::Failure;
use bramble_model::api::{Role, Seen};
use bramble_model::audit::{self, Link, Position, Refused, Step};
use bramble_model::boot_set::{Floor, GivenSet};
use bramble_model::digits::Draw;
use bramble_model::hands::Data;
use bramble_model::inventory::{Adoption, Card, Disk, Inventory};
use bramble_model::names::{BootId, BootTag, ClusterId, Digest, Mac, Name};
use bramble_model::repository::Source;
use bramble_model::snapshot::{Entry, Revision, Snapshot};
use bramble_model::timeline::{Event, Stopped, What};
use bramble_netboot::dhcp::Lease;
use bramble_plan::admission::waiting::{Asks, Waiting};
use bramble_plan::admission::{Admitted, By, Cause, Kept, Machine, Record};
use bramble_plan::chain::Chain;
use bramble_plan::hand_off::{Asked, By as HandedBy};
use bramble_plan::source::{Newest, Obstacle};
use bramble_plan::{admission, hand_off, swarm};

use crate::access::audit::copy::Progress;
use crate::access::oidc::Membership;
use crate::access::people::{Token, User};
use crate::access::sessions::Session;
use crate::loops::source::newest::{Against, Branch, Found};
use crate::places::Place;
use crate::snapshots::record::{Applied, Held, Pointer, Stored};

const CLUSTER: &str = "kq3vp0m1yq5w7r2ds8hbn4xej";

pub(crate) fn cluster() -> ClusterId {
    CLUSTER.parse().expect("an id")
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

pub(crate) fn mac(last: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, last])
}

fn boot(number: u8, cause: Cause) -> admission::Boot {
    admission::Boot {
        id: BootId(format!("{number:032x}")),
        nonce: Some(Digest([number; 32])),
        report: None,
        set: Digest([0x77; 32]),
        at: 1_764_000_000_000 + u64::from(number),
        cause,
        card: None,
        by_datagram: false,
    }
}

fn admitted(number: u8, set: Option<Digest>) -> Option<Admitted> {
    let (nonce, admission::Boot { id: boot, .. }) = (Digest([number; 32]), boot(number, Cause::Lost));
    Some(Admitted { boot, nonce, set, fingerprint: "0123456789abcdef0123456789abcdef".into() })
}

pub(crate) fn leases() -> Vec<Lease> {
    vec![
        Lease { address: [10, 77, 0, 100].into(), mac: mac(1), until: 1_764_003_600, quarantined: false },
        Lease { address: [10, 77, 0, 101].into(), mac: mac(2), until: 1_764_007_200, quarantined: true },
    ]
}

/// As what commit 5b09a28 wrote is read.
pub(crate) fn admissions() -> Vec<(Name, admission::Record)> {
    let waits = Record {
        served: [boot(2, Cause::Unknown)].into(),
        expected_until: Some(1_764_001_800_000),
        approved: ["fedcba9876543210fedcba9876543210".into()].into(),
        ..Record::default()
    };
    vec![
        (name("m1"), Record { admitted: admitted(1, Some(Digest([0x77; 32]))), is_here: true, ..Record::default() }),
        (name("w1"), waits),
        (name("w2"), Record { expected_until: Some(1_764_001_900_000), ..Record::default() }),
    ]
}

/// What came with identities.
pub(crate) fn identities() -> Vec<(Name, admission::Record)> {
    let kept = |by| {
        let kept = Some(Kept { fingerprint: "0123456789abcdef0123456789abcdef".into(), by });
        Record { admitted: admitted(3, None), kept, ..Record::default() }
    };
    let machine = Machine { cards: [mac(1), mac(2)].into(), board: Some("4c4c4544-0042".into()) };
    let causes = [Cause::SwitchedOn, Cause::Lost, Cause::Here, Cause::Unknown];
    let card = Some(mac(1));
    let served =
        causes.into_iter().zip(4..).map(|(cause, number)| admission::Boot { card, ..boot(number, cause) }).collect();
    vec![
        (name("i1"), Record { served, is_here: true, ..kept(By::Tpm { endorsement: Digest([0x66; 32]) }) }),
        (name("i2"), kept(By::Disk { machine })),
        (name("i3"), kept(By::Disk { machine: Machine { board: None, ..Machine::default() } })),
        (name("i4"), kept(By::Variable)),
    ]
}

/// What came with the digits: a key that waits, one whose digits were mistyped, and a board that was to be power-cycled.
pub(crate) fn waiting_keys() -> Vec<(Name, Waiting)> {
    let ca = Digest([0x55; 32]);
    let mut waiting = Waiting::default();
    let at = 1_764_000_000_000;
    for (number, shows_digits) in [(1, true), (2, true), (3, false)] {
        let key = format!("{number:032x}");
        let handed = admission::Boot { card: Some(mac(1)), ..boot(number, Cause::Unknown) };
        let asks = Asks {
            fingerprint: &key,
            boot: Some(&handed),
            id: &handed.id,
            address: [10, 77, 0, number].into(),
            card: (number == 1).then_some(mac(1)),
            shows_digits,
            claimed_beside: None,
        };
        waiting.asks(&asks, Draw { nonce: Digest([number; 32]), ca }, at);
        if number == 1 {
            let other = (0..)
                .map(|n| format!("{n:06}").parse().expect("digits"))
                .find(|digits| waiting.clone().types(*digits, at).is_err());
            waiting.types(other.expect("most do not fit"), at).expect_err("mistyped");
            waiting.press(at);
        }
    }
    vec![(name("c2"), waiting)]
}

/// What came with claims.
pub(crate) fn claims() -> Vec<(Name, admission::Record)> {
    let unclaimed = admission::Boot { nonce: None, ..boot(8, Cause::Lost) };
    let report = Some(Digest([0x99; 32]));
    let claimed = admission::Boot { report, card: Some(mac(1)), by_datagram: true, ..boot(9, Cause::Lost) };
    vec![(name("c1"), Record { served: [unclaimed, claimed].into(), ..Record::default() })]
}

pub(crate) fn hand_offs() -> Vec<(Name, hand_off::Record)> {
    use hand_off::Stage;
    let record = |state, times| hand_off::Record {
        profile: Some(name("debian")),
        state,
        boot: Some(BootId("00ff".into())),
        asked: None,
        before: VecDeque::new(),
        times,
    };
    vec![
        (name("d1"), record(Stage::Due, 0)),
        (name("d2"), record(Stage::Handed, 2)),
        (name("d3"), record(Stage::Installed, 1)),
    ]
}

/// What came with places on the wire.
pub(crate) fn hand_offs_by_place() -> Vec<(Name, hand_off::Record)> {
    let [(_, record), ..] = &hand_offs()[..] else { panic!("there are some") };
    let before: VecDeque<BootId> = [BootId("00fe".into())].into();
    let asked = |by| {
        let (asked, before) = (Some(Asked { at: 1_764_000_000_000, by }), before.clone());
        hand_off::Record { asked, before, ..record.clone() }
    };
    let by = [("p1", HandedBy::Card), ("p2", HandedBy::Relayed), ("p3", HandedBy::Pixiecore)];
    by.into_iter().map(|(node, by)| (name(node), asked(by))).collect()
}

pub(crate) fn chains() -> Vec<(Name, Chain)> {
    vec![(name("m1"), Chain::Plain), (name("w1"), Chain::Signed)]
}

pub(crate) fn seen() -> Vec<Seen> {
    let seen = |last, vendor: Option<&str>, uuid: Option<&str>| Seen {
        mac: mac(last),
        vendor: vendor.map(str::to_owned),
        firmware: "UEFI x64 PXE".into(),
        uuid: uuid.map(str::to_owned),
        first: 1_764_000_000_000,
        last: 1_764_000_009_000,
        times: 3,
    };
    vec![seen(0x51, None, None), seen(0x52, Some("Dell Inc."), Some("4c4c4544-0042-3510-8051-b4c04f503732"))]
}

pub(crate) fn adoptions() -> Vec<(Mac, Adoption)> {
    let inventory = Inventory {
        machine: "Dell Inc. OptiPlex 7050".into(),
        serial: "1ABC".into(),
        firmware: "UEFI, Dell Inc. 1.2".into(),
        architecture: "amd64".into(),
        processor: "Intel(R) Core(TM) i5-6500".into(),
        cpus: 4,
        memory: 8 << 30,
        disks: vec![Disk {
            name: "sda".into(),
            model: "Samsung 860".into(),
            serial: "S3Z".into(),
            size: 500_107_862_016,
            holds: vec!["gpt".into(), "ext4 on sda2".into()],
        }],
        cards: vec![Card { name: "eno1".into(), mac: mac(0x53), driver: "e1000e".into(), speed: Some(1000) }],
        temperature: Some(41),
    };
    vec![
        (mac(0x51), Adoption::Asked { until: 1_764_001_800_000 }),
        (mac(0x52), Adoption::Booting { until: 1_764_001_800_001 }),
        (mac(0x53), Adoption::Done { at: 1_764_000_500_000, inventory: Box::new(inventory) }),
    ]
}

pub(crate) fn users() -> Vec<(String, User)> {
    let user = |role| User {
        hash: "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$H2wG6yHqL9Zs3lqk7mQ0m3o1mJk2uKxk0Yp3sJQqPvE"
            .into(),
        role,
        since: 1_763_000_000_000,
    };
    vec![("ann".into(), user(Some(Role::Operator))), ("bob@home".into(), user(Some(Role::Viewer)))]
}

pub(crate) fn sessions() -> Vec<(String, Session)> {
    let session = |user: &str, role| Session {
        user: user.into(),
        role,
        csrf: "77aa".into(),
        until: 1_764_043_200_000,
        since: 0,
        from: None,
        membership: None,
    };
    vec![
        (Digest([1; 32]).to_string(), session("ann", None)),
        (Digest([2; 32]).to_string(), session("carl", Some(Role::Viewer))),
    ]
}

pub(crate) fn tokens() -> Vec<(String, Token)> {
    let token = |name: &str, role, until| Token { name: name.into(), role, since: 1_763_500_000_000, until };
    vec![
        (Digest([3; 32]).to_string(), token("ci", Role::Viewer, Some(1_766_000_000_000))),
        (Digest([4; 32]).to_string(), token("robot", Role::Operator, None)),
    ]
}

pub(crate) fn events() -> Vec<Event> {
    let tag = || BootTag("0123456789ab".into());
    let all = vec![
        (Some("m1"), What::PowerOn),
        (Some("m1"), What::Asked { mac: mac(1), firmware: "UEFI x64 PXE".into() }),
        (None, What::SeenUnknown { mac: mac(0x51), firmware: "BIOS PXE".into() }),
        (Some("m1"), What::Leased { address: [10, 77, 0, 100].into() }),
        (Some("m1"), What::TftpSent { file: "ipxe.efi".into(), bytes: 1_044_480 }),
        (Some("m1"), What::ScriptServed { boot: tag(), set: "777777777777".into() }),
        (Some("m1"), What::Fetching { file: "kernel".into(), bytes: 9_000_000 }),
        (Some("m1"), What::Stage1 { step: "root".into(), percent: Some(60) }),
        (Some("m1"), What::Stage1 { step: "switch-root".into(), percent: None }),
        (Some("m1"), What::Admitted { fingerprint: "0123456789abcdef0123456789abcdef".into() }),
        (Some("m1"), What::Connected),
        (Some("m1"), What::Engine { state: "joining".into(), up: false }),
        (Some("m1"), What::Ready),
        (Some("w1"), What::Failed { reason: "no link".into(), retry_in_seconds: 5, failure: None }),
        (Some("m1"), What::Disconnected { reason: "silent".into() }),
        (None, What::Note { text: "a backup was made".into() }),
    ];
    let numbered = (11..).zip(all);
    numbered
        .map(|(number, (node, what))| Event { number, at: 1_764_000_000_000 + number, node: node.map(name), what })
        .collect()
}

/// One of each kind, in the order of the kinds: a kind without one is not compiled, and one that is no such kind fails.
macro_rules! one_of_each {
    ($($kind:pat => $($one:expr),+;)+) => {{
        let each = vec![$($({
            let one = $one;
            assert!(matches!(one, $kind), "{one:?} is of another kind");
            one
        }),+),+];
        each.iter().for_each(|one| match one {
            $($kind => {})+
        });
        each
    }};
}

/// One of every kind of events, also of those that the store of 5b09a28 has not.
pub(crate) fn every_event() -> Vec<Event> {
    let tag = || BootTag("0123456789ab".into());
    let stopped = |reason| What::TftpStopped {
        file: "ipxe.efi".into(),
        at: 512,
        of: 1_044_480,
        block: 1468,
        agreed: true,
        reason,
    };
    let all = one_of_each! {
        What::PowerOn => What::PowerOn;
        What::PowerOff => What::PowerOff;
        What::Asked { .. } => What::Asked { mac: mac(1), firmware: "UEFI x64 PXE".into() };
        What::SeenUnknown { .. } => What::SeenUnknown { mac: mac(0x51), firmware: "GRUB".into() };
        What::Offered { .. } => What::Offered { file: "ipxe.efi".into() };
        What::HeardLate { .. } => What::HeardLate { seconds: 40 };
        What::Chose { .. } => What::Chose { server: [10, 77, 0, 254].into() };
        What::Leased { .. } => What::Leased { address: [10, 77, 0, 100].into() };
        What::AskedBootServer => What::AskedBootServer;
        What::LookedForHead { .. } => What::LookedForHead { address: [10, 77, 0, 1].into() };
        What::NoLoader { .. } => What::NoLoader { firmware: "UEFI x64 PXE".into() };
        What::TftpSent { .. } => What::TftpSent { file: "ipxe.efi".into(), bytes: 1_044_480 };
        What::HttpSent { .. } => What::HttpSent { file: "ipxe.efi".into(), bytes: 1_044_480 };
        What::TftpMissing { .. } => What::TftpMissing { file: "pxelinux.0".into() };
        What::TftpStopped { .. } => stopped(Stopped::Silent), stopped(Stopped::GaveUp("no room".into()));
        What::ScriptServed { .. } => What::ScriptServed { boot: tag(), set: "777777777777".into() };
        What::Fetching { .. } => What::Fetching { file: "kernel".into(), bytes: 9_000_000 };
        What::Card { .. } => What::Card { pci: "8086:15b8".into() };
        What::HandedOff { .. } => What::HandedOff { profile: name("debian") };
        What::BootsDisk => What::BootsDisk;
        What::Installed => What::Installed;
        What::Stage1 { .. } => What::Stage1 { step: "root".into(), percent: Some(60) };
        What::Failed { .. } =>
            What::Failed { reason: "no link".into(), retry_in_seconds: 5, failure: None },
            What::Failed { reason: "no link".into(), retry_in_seconds: 5, failure: Some(Failure::NoLink) };
        What::Admitted { .. } => What::Admitted { fingerprint: "0123456789abcdef0123456789abcdef".into() };
        What::Refused { .. } => What::Refused { reason: "this node is not in the repository".into() };
        What::Waits { .. } =>
            What::Waits {
                fingerprint: "0123456789abcdef0123456789abcdef".into(),
                reason: "it is new".into(),
                digits: false,
            };
        What::TlsFailed { .. } => What::TlsFailed { reason: "certificate expired".into(), clock: true };
        What::Connected => What::Connected;
        What::Disconnected { .. } => What::Disconnected { reason: "silent".into() };
        What::Engine { .. } => What::Engine { state: "joining".into(), up: false };
        What::Ready => What::Ready;
        What::Note { .. } => What::Note { text: "a backup was made".into() };
        What::OtherRelease { .. } => What::OtherRelease { reason: "it speaks versions 3 to 4, and this head 1 to 2".into() };
        What::NotGiven { .. } => What::NotGiven { reason: "another card's place".into() };
    };
    let numbered = (101..).zip(all);
    numbered
        .map(|(number, what)| Event { number, at: 1_764_000_000_000 + number, node: Some(name("m1")), what })
        .collect()
}

/// As form 1 had them.
pub(crate) fn audit_of_form_1() -> Vec<Link> {
    let entry = |number, who: &str, what: &str, result: &str| Link {
        number,
        at: 1_764_000_100_000 + number,
        before: None,
        step: Step::Did { who: who.into(), from: "10.77.0.2".into(), what: what.into(), result: result.into() },
    };
    vec![entry(1, "ann", "POST /v1/nodes/w1/power \"on\"", "done"), entry(2, "token ci", "POST /v1/backup", "begun")]
}

/// After those.
pub(crate) fn chained() -> (audit::Chain, Vec<Link>) {
    let mut chain = audit::Chain::new(3);
    let begun = audit_of_form_1().remove(1).step;
    let steps = [begun, Step::Ended { of: 3, result: "failed: 507 Insufficient Storage".into() }];
    let links = steps.map(|step| {
        let link = chain.next(1_764_000_200_000, step);
        chain.takes(&link);
        link
    });
    (chain, links.into())
}

pub(crate) fn refusals() -> Vec<(u64, Refused)> {
    let refused = Refused {
        number: 7,
        first: 1_764_000_300_000,
        last: 1_764_000_400_000,
        times: 123,
        door: "https".into(),
        route: "log in".into(),
        who: "ann".into(),
        from: "2001:db8::9".into(),
        place: "2001:db8:0:0::/64".into(),
        what: "log in".into(),
        result: "refused: the name or the password is wrong".into(),
        stamp: 12,
    };
    vec![(7, refused)]
}

pub(crate) fn copied() -> Vec<(String, Progress)> {
    let at = Position { link: 4, refusal: 12 };
    vec![("file".into(), Progress { to: "/var/log/bramble-audit.log".into(), at, lost: 3, begins: None })]
}

/// With what came to sessions.
pub(crate) fn newer_sessions() -> Vec<(String, Session)> {
    let (_, old) = sessions().remove(1);
    let membership = Membership {
        issuer: "https://id.home.arpa".into(),
        mail: Some("carl@example.org".into()),
        groups: BTreeSet::from(["admins".to_owned()]),
    };
    let session =
        Session { since: 1_764_000_000_000, from: Some("10.77.0.9".into()), membership: Some(membership), ..old };
    vec![(Digest([5; 32]).to_string(), session)]
}

fn revision() -> Revision {
    Revision {
        commit: Some("3f2a91c04d5e3f2a91c04d5e3f2a91c04d5e0000".into()),
        dirty: true,
        author: Some("Ann <ann@home.arpa>".into()),
        subject: Some("More of web".into()),
        at: Some(1_764_100_000_000),
    }
}

pub(crate) fn snapshots() -> Vec<(Digest, Stored)> {
    let entries = [
        ("bramble.toml", Entry::File { digest: Digest([0x11; 32]), size: 300, executable: false }),
        ("overlay", Entry::Folder),
        ("overlay/run", Entry::File { digest: Digest([0x12; 32]), size: 70_000, executable: true }),
        ("overlay/zone", Entry::Link { target: "/etc/localtime".into() }),
    ];
    let snapshot = Snapshot { entries: entries.into_iter().map(|(path, entry)| (path.into(), entry)).collect() };
    let empty = Snapshot { entries: BTreeMap::new() };
    let entries = one_of_each! {
        Entry::Folder => Entry::Folder;
        Entry::File { .. } => Entry::File { digest: Digest([0x11; 32]), size: 300, executable: false };
        Entry::Link { .. } => Entry::Link { target: "../elsewhere".into() };
        Entry::Unread { .. } => Entry::Unread { why: "Permission denied (os error 13)".into() };
    };
    let each = Snapshot { entries: (1..).map(|number| format!("file {number}")).zip(entries).collect() };
    vec![
        (Digest([0x21; 32]), Stored { snapshot, revision: revision(), at: 1_764_100_001_000 }),
        (Digest([0x22; 32]), Stored { snapshot: empty, revision: Revision::default(), at: 1_764_100_002_000 }),
        (Digest([0x23; 32]), Stored { snapshot: each, revision: Revision::default(), at: 1_764_100_003_000 }),
    ]
}

pub(crate) fn contents() -> Vec<(Digest, Data)> {
    vec![(Digest([0x11; 32]), Data(b"[cluster]\nname = \"house\"\n\0\xff".to_vec()))]
}

pub(crate) fn pointers() -> Vec<(String, Pointer)> {
    let held = Held { since: 1_764_100_003_000, by: "ann".into(), reason: "a person said so".into() };
    let pointer = |held| Pointer { digest: Digest([0x21; 32]), at: 1_764_100_001_000, by: "git".into(), held };
    // The head has one; this is one of each shape.
    vec![("current".into(), pointer(Some(held))), ("other".into(), pointer(None))]
}

pub(crate) fn history() -> Vec<(u64, Applied)> {
    let applied = |by: &str, revision, changed: &[&str], holds: Option<&str>| Applied {
        digest: Digest([0x21; 32]),
        revision,
        at: 1_764_100_001_000,
        by: by.into(),
        changed: changed.iter().map(|&sentence| sentence.into()).collect(),
        holds: holds.map(str::to_owned),
        removed: BTreeSet::new(),
    };
    vec![
        (1, applied("the head's own folder", Revision::default(), &["as it was when the head started"], None)),
        (2, applied("ann", revision(), &["web.yaml changes"], Some("a snapshot was applied by hand"))),
    ]
}

pub(crate) fn begun_with() -> Vec<(String, Source)> {
    let source = Source {
        git: "https://git.home.arpa/ann/home.git".into(),
        branch: "main".into(),
        every: 30,
        path: "clusters/home".into(),
        signers: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAnn".into()],
        token_file: Some("/etc/bramble/token".into()),
    };
    vec![("source".into(), source)]
}

pub(crate) fn newest_commits() -> Vec<(String, Found)> {
    let commit = "3f2a91c04d5e".repeat(3) + "0000";
    let against = Against {
        followed: Some(Branch {
            git: "git@git.home.arpa:home.git".into(),
            branch: "main".into(),
            path: "clusters/home".into(),
        }),
        current: Some(Digest([7; 32])),
        commit: Some(commit.replace('3', "4")),
    };
    let braked = Obstacle::Braked(vec!["it lets 9 of 9 nodes go".into(), "it renames the cluster".into()]);
    let unfit = Obstacle::Unfit("commit 3f2a91c04d5e: bramble.toml, line 3, it says nothing".into());
    let found = |obstacle, against| Found { newest: Newest { commit: commit.clone(), obstacle }, against };
    vec![("newest".into(), found(braked, against)), ("newest-2".into(), found(unfit, Against::default()))]
}

/// What was remembered of the Swarm before its CA was pinned, and its token rotated.
pub(crate) fn engines() -> Vec<(String, swarm::Record)> {
    use swarm::{ManagerToken, Memory, Record};
    let full = Record {
        memory: Memory::Swarm { cluster: cluster() },
        managers: BTreeSet::new(),
        ca: None,
        token: ManagerToken::Out,
        former: BTreeSet::from(["an-older-one".parse().expect("an id")]),
        without: Some(BTreeSet::from([name("m2"), name("m3")])),
    };
    // The head has one, of the Swarm; this is one of each shape.
    vec![
        ("swarm".into(), full),
        ("swarm-2".into(), Record::new(Memory::Never)),
        ("swarm-3".into(), Record { token: ManagerToken::Out, ..Record::new(Memory::Lost) }),
        ("swarm-4".into(), Record::new(Memory::Begun { node: name("m1") })),
    ]
}

/// What came with the pin.
pub(crate) fn pinned() -> Vec<(String, swarm::Record)> {
    let with = |token| swarm::Record {
        managers: BTreeSet::from([name("m1"), name("w4")]),
        ca: Some(Digest([0xca; 32])),
        token,
        ..engines().remove(0).1
    };
    vec![("swarm-5".into(), with(swarm::ManagerToken::Kept)), ("swarm-6".into(), with(swarm::ManagerToken::Out))]
}

pub(crate) fn given_sets() -> Vec<(String, GivenSet)> {
    vec![("amd64".into(), GivenSet { set: Digest([0x77; 32]), since: 1_764_000_000_000 })]
}

pub(crate) fn places() -> Vec<(Name, Place)> {
    vec![(name("m1"), Place { address: [10, 77, 0, 11].into() })]
}

pub(crate) fn ready_with() -> Vec<(Name, Vec<Digest>)> {
    vec![(name("m1"), vec![Digest([0x66; 32]), Digest([0x77; 32])])]
}

pub(crate) fn floor() -> Vec<(String, Floor)> {
    let floor = Floor { floor: 1_764_500_001, set: Some(Digest([0x66; 32])), at: 1_764_600_000_000 };
    vec![("cluster".into(), floor)]
}
