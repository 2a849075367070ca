use bramble_model::engine::{ByEngine, EngineKind};
use bramble_model::names::{BootTag, Name};
use bramble_model::subject::Subject;

use super::*;

const NOW: Millis = 10_000_000;
const M1: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

/// A node whose events happened at these seconds before now.
struct Case {
    dhcp: Dhcp,
    mac: Mac,
    phase: Phase,
    events: Vec<Event>,
    percent: Option<u8>,
    failure: Option<(&'static str, Option<Failure>)>,
    health: Option<Health>,
    failed: Option<section::Failure>,
    engine: Option<&'static str>,
    foreign: bool,
    last: Option<What>,
}

impl Case {
    fn new(phase: Phase, events: Vec<(u64, What)>) -> Self {
        let events = events.into_iter().enumerate();
        let events =
            events.map(|(number, (ago, what))| Event { number: number as u64, at: NOW - ago * 1000, node: None, what });
        Case {
            dhcp: Dhcp::Proxy,
            mac: M1,
            phase,
            events: events.collect(),
            percent: None,
            failure: None,
            health: None,
            failed: None,
            engine: None,
            foreign: false,
            last: None,
        }
    }

    fn why(&self) -> Explanation {
        explain(&Evidence {
            now: NOW,
            has_set: true,
            dhcp: &self.dhcp,
            macs: &[self.mac],
            phase: self.phase,
            since: self.events.first().map_or(0, |event| event.at),
            percent: self.percent,
            failure: self.failure.as_ref().map(|(said, kind)| (*said, kind.as_ref())),
            connected: self.health.is_some(),
            health: self.health.as_ref(),
            waiting: None,
            failed: self.failed.as_ref(),
            engine: self.engine,
            foreign: self.foreign,
            events: &self.events,
            last: self.last.as_ref(),
        })
    }

    /// The name of its cause; one that is a fault says what to do.
    #[track_caller]
    fn is(&self, name: &str) -> Explanation {
        let why = self.why();
        assert_eq!(why.name, name, "{}", why.cause);
        assert!(why.advice.is_some(), "{name} says what to do");
        why
    }
}

fn asked(firmware: &str) -> What {
    What::Asked { mac: M1, firmware: firmware.into() }
}

fn offered(file: &str) -> What {
    What::Offered { file: file.into() }
}

fn sent(file: &str) -> What {
    What::TftpSent { file: file.into(), bytes: 1 }
}

fn router() -> What {
    What::Chose { server: [192, 168, 1, 1].into() }
}

fn looked() -> What {
    What::LookedForHead { address: [192, 168, 1, 50].into() }
}

fn stopped(at: u64, of: u64, block: u32, agreed: bool) -> What {
    What::TftpStopped { file: "kernel.img".into(), at, of, block, agreed, reason: Stopped::Silent }
}

fn script() -> What {
    What::ScriptServed { boot: BootTag("b".into()), set: "s".into() }
}

fn fetching(file: &str) -> What {
    What::Fetching { file: file.into(), bytes: 1 }
}

fn full() -> Dhcp {
    Dhcp::Full(Vec::new())
}

fn health() -> Health {
    Health {
        busy: 0,
        load: 0.0,
        temperature: None,
        uptime: 100,
        memory_available: 1 << 30,
        disk_available: Some(8 << 30),
        killed_for_memory: 0,
        agent_resident: 0,
        engines: [(EngineKind::Swarm, EngineState::Alone)].into_iter().collect(),
        refuses: None,
    }
}

#[test]
fn no_packet_at_all_and_the_last_thing_seen() {
    let mut case = Case::new(Phase::Firmware, vec![(200, What::PowerOn)]);
    case.last = Some(What::Disconnected { reason: "it is silent".into() });
    assert!(case.is("no-packet").cause.ends_with("the last thing seen of it was: agent disconnected: it is silent"));
    case.events[0].at = NOW - 20_000;
    assert_eq!(case.why().name, "firmware-starts");
}

#[test]
fn a_raspberry_pi_without_network_in_its_boot_order() {
    let mut case = Case::new(Phase::Firmware, vec![(200, What::PowerOn)]);
    case.mac = Mac([0xdc, 0xa6, 0x32, 1, 2, 3]);
    assert!(case.is("pi-without-network-boot").advice.is_some_and(|advice| advice.contains("0xf21")));
}

#[test]
fn an_offer_and_no_request() {
    Case::new(Phase::Firmware, vec![(40, asked("BIOS PXE")), (40, offered("undionly.kpxe"))])
        .is("offer-without-request");
}

#[test]
fn a_firmware_that_is_just_asking_is_left_alone() {
    let case = Case::new(Phase::Firmware, vec![(4, asked("BIOS PXE")), (4, offered("undionly.kpxe"))]);
    assert_eq!((case.why().name.as_str(), case.why().advice), ("firmware-starts", None));
}

#[test]
fn two_offers_that_are_never_merged() {
    let events = vec![(40, asked("UEFI x64 PXE")), (40, offered("ipxe.efi")), (38, router())];
    assert!(Case::new(Phase::Firmware, events).is("offers-never-merged").cause.contains("192.168.1.1"));
}

#[test]
fn port_4011_that_cannot_be_reached() {
    let events = vec![(40, asked("UEFI x64 PXE")), (40, offered("ipxe.efi")), (38, router()), (38, looked())];
    Case::new(Phase::Firmware, events).is("boot-server-port-unreachable");
}

#[test]
fn a_rival_dhcp_server() {
    let mut case =
        Case::new(Phase::Firmware, vec![(40, asked("BIOS PXE")), (40, offered("undionly.kpxe")), (38, router())]);
    case.dhcp = full();
    case.is("rival-dhcp-server");
}

#[test]
fn a_file_for_another_architecture() {
    let events = vec![(40, asked("UEFI x64 PXE")), (30, sent("undionly.kpxe"))];
    Case::new(Phase::Loader, events).is("wrong-architecture-file");
}

#[test]
fn a_firmware_that_nothing_boots() {
    let what = What::NoLoader { firmware: Firmware::Uefi(Cpu::I386).into() };
    Case::new(Phase::Firmware, vec![(40, asked("UEFI i386 PXE")), (40, what)]).is("no-loader");
}

#[test]
fn a_loader_that_loads_itself() {
    let round = |ago| [(ago, asked("BIOS PXE")), (ago - 1, sent("undionly.kpxe"))];
    Case::new(Phase::Loader, [round(90), round(60), round(30)].concat()).is("loader-loop");
}

#[test]
fn tftp_that_is_blocked_on_its_way_in_and_on_its_way_out() {
    let before = vec![(40, asked("BIOS PXE")), (40, offered("undionly.kpxe")), (38, router()), (38, looked())];
    Case::new(Phase::Firmware, before.clone()).is("tftp-blocked");
    let answers_lost = [before, vec![(20, stopped(0, 100_000, 1456, false))]].concat();
    Case::new(Phase::Firmware, answers_lost).is("tftp-blocked");
    let mut case = Case::new(
        Phase::Firmware,
        vec![(40, asked("BIOS PXE")), (38, What::Leased { address: [10, 77, 0, 20].into() })],
    );
    case.dhcp = full();
    case.is("tftp-blocked");
}

#[test]
fn http_that_is_blocked() {
    let events = vec![
        (60, asked("BIOS PXE")),
        (58, sent("undionly.kpxe")),
        (40, asked("iPXE")),
        (40, offered("http://10.77.0.1:7080/boot/script/52:54:00:00:00:01")),
        (38, looked()),
    ];
    Case::new(Phase::Loader, events).is("http-blocked");
}

/// The machine itself, whose DHCP does not reach the head, or someone who says to be it.
#[test]
fn a_boot_that_is_given_to_nobody() {
    let refused = || What::NotGiven { reason: "it was asked for from 10.77.0.66, and nobody was heard".into() };
    let why = Case::new(Phase::Off, vec![(9, refused())]).is("boot-not-given");
    assert!(why.cause.contains("10.77.0.66"), "{}", why.cause);
    let events = vec![(60, asked("iPXE")), (58, looked()), (50, refused())];
    Case::new(Phase::Loader, events).is("boot-not-given");
    let served = What::ScriptServed { boot: BootTag("b".into()), set: "s".into() };
    Case::new(Phase::Loader, vec![(90, asked("iPXE")), (89, refused()), (80, served)]).is("script-not-followed");
}

#[test]
fn a_router_that_does_not_say_what_to_boot() {
    let mut case = Case::new(Phase::Firmware, vec![(40, asked("BIOS PXE"))]);
    case.dhcp = Dhcp::Router;
    assert!(case.is("router-names-no-boot-file").advice.is_some_and(|advice| advice.contains("router-recipe")));
}

#[test]
fn a_loader_that_never_asks() {
    Case::new(Phase::Loader, vec![(60, asked("BIOS PXE")), (58, sent("undionly.kpxe"))]).is("loader-silent");
}

#[test]
fn a_block_counter_that_does_not_wrap() {
    let events = vec![(40, asked("Raspberry Pi EEPROM")), (30, stopped(65_535 * 1468, 120_000_000, 1468, true))];
    Case::new(Phase::Loader, events).is("block-counter-wrap");
}

#[test]
fn an_mtu_that_is_too_small() {
    let events = vec![(40, asked("UEFI x64 PXE")), (20, stopped(0, 1_000_000, 1468, true))];
    Case::new(Phase::Firmware, events).is("mtu-too-small");
}

#[test]
fn a_switch_port_that_spanning_tree_blocks() {
    let events = vec![(40, asked("BIOS PXE")), (40, What::HeardLate { seconds: 32 }), (40, offered("undionly.kpxe"))];
    Case::new(Phase::Firmware, events).is("spanning-tree-delay");
}

#[test]
fn a_silent_stage_1_names_the_network_card() {
    let card = What::Card { pci: "10ec:8125".into() };
    let case = Case::new(Phase::Kernel, vec![(90, fetching("kernel")), (90, card), (80, fetching("initrd"))]);
    assert!(case.is("stage1-silent").cause.contains("10ec:8125"));
}

#[test]
fn a_layer_that_stalls() {
    let step = What::Stage1 { step: bramble_boot::Step::Root, percent: Some(40) };
    let mut case = Case::new(Phase::Root, vec![(90, step)]);
    case.percent = Some(40);
    assert!(case.is("layer-fetch-stalls").cause.contains("40 %"));
}

/// Its disk is broken, or was left out: it runs, and nobody would look.
#[test]
fn a_node_that_runs_without_its_data_partition_says_so_for_as_long_as_it_does() {
    let said = "the data partition 0fc63daf-8483-4772-8e79-3d69d8477de4 of this node is not used: it is on no disk";
    let without = failed(said, Some(Failure::Data));
    let mut case = Case::new(Phase::Ready, vec![(50, without.clone()), (5, What::Ready)]);
    case.health = Some(health());
    assert!(case.is("data-partition").cause.contains(said));
    let waits = What::Waits { fingerprint: "0123".into(), reason: "another key".into(), digits: false };
    let case = Case::new(Phase::Agent, vec![(50, without), (5, waits)]);
    let why = case.is("admission-pending").cause;
    assert!(why.contains("another key") && why.contains(said), "{why}");
}

#[test]
fn what_stage_1_says_itself_has_a_name() {
    for (kind, name) in [
        (Failure::Digest, "digest-mismatch"),
        (Failure::Claim, "boot-not-given"),
        (Failure::Fetch, "layer-fetch-stalls"),
        (Failure::NoMemory, "out-of-memory"),
        (Failure::NoDriver, "no-driver"),
        (Failure::NoLink, "stage1-failed"),
        (Failure::Signature, "stage1-failed"),
        (Failure::Expired, "boot-set-expired"),
        (Failure::Forbidden, "boot-set-forbidden"),
        (Failure::Data, "data-partition"),
        (Failure::Other("gremlins".into()), "stage1-failed"),
    ] {
        let said = "what it says is for people";
        let mut case = Case::new(Phase::Root, vec![(5, failed(said, Some(kind.clone())))]);
        case.failure = Some((said, Some(kind)));
        assert!(case.is(name).cause.contains(said));
    }
}

fn failed(reason: &str, failure: Option<Failure>) -> What {
    What::Failed { reason: reason.into(), retry_in_seconds: 1, failure }
}

/// Sentences that once decided, in another wording or in a report that does not say its kind.
#[test]
fn no_sentence_decides_a_cause() {
    for said in [
        "layer `site` from the head is not the one that the manifest names (digest 0…, expected 1…)",
        "cannot fetch layer `root` past byte 7: connection reset",
        "cannot write the layer: No space left on device (os error 28)",
        "no driver of this initrd brought up the network card 52:54:00:00:00:01",
    ] {
        for (kind, name) in [(None, "stage1-failed"), (Some(Failure::NoDriver), "no-driver")] {
            let mut case = Case::new(Phase::Root, vec![(5, failed(said, kind.clone()))]);
            case.failure = Some((said, kind));
            case.is(name);
        }
    }
    let what = What::TlsFailed { reason: "the certificate has expired".into(), clock: false };
    Case::new(Phase::System, vec![(10, what)]).is("tls-refused");
}

/// It was said to be starting, for as long as its agent came and was sent away.
#[test]
fn an_agent_of_another_release() {
    let script = || What::ScriptServed { boot: BootTag("b1".into()), set: "s1".into() };
    let other = || What::OtherRelease { reason: "its agent is of another release".into() };
    for phase in [Phase::Loader, Phase::System, Phase::Ready] {
        Case::new(phase, vec![(9, script()), (5, other())]).is("other-release");
    }
    assert_eq!(Case::new(Phase::Loader, vec![(9, other()), (5, script())]).why().name, "loader-starts");
}

#[test]
fn a_clock_that_is_too_far_off() {
    let what = What::TlsFailed { reason: "received fatal alert: CertificateExpired".into(), clock: true };
    Case::new(Phase::System, vec![(10, what)]).is("clock-off");
    let what = What::TlsFailed { reason: "received fatal alert: UnknownCA".into(), clock: false };
    Case::new(Phase::System, vec![(10, what)]).is("tls-refused");
}

#[test]
fn an_admission_that_waits_for_an_operator() {
    let reason = "nobody switched this node on: `bramble node approve` lets it in".into();
    Case::new(Phase::System, vec![(10, What::Waits { fingerprint: "9f86".into(), reason, digits: true })])
        .is("admission-pending");
    let reason = "the nonce of this boot has been used".into();
    Case::new(Phase::System, vec![(10, What::Refused { reason })]).is("admission-refused");
}

#[test]
fn an_engine_that_refuses_to_join() {
    let mut case = Case::new(Phase::Engine, vec![(20, What::Connected)]);
    case.health = Some(health());
    case.failed = Some(section::Failure {
        subject: Subject::node(&"m1".parse().expect("a name")),
        step: "joins the Swarm".into(),
        reason: "invalid join token".into(),
        times: 1,
        since: NOW - 5000,
        again: Some(NOW + 5000),
    });
    let told = case.is("engine-refuses");
    assert!(told.cause.contains("invalid join token") && told.advice.is_some_and(|advice| advice.contains("docker")));
    // Docker's own commands are no help with another engine, nor where none has told of itself.
    case.health = Some(Health { engines: ByEngine::default(), ..health() });
    assert!(case.is("engine-refuses").advice.is_some_and(|advice| !advice.contains("docker")));
    case.health = Some(Health { disk_available: Some(0), engines: ByEngine::default(), ..health() });
    assert!(case.is("disk-full").advice.is_some_and(|advice| !advice.contains("docker")));
}

/// Fault 15 of the ground: the manager that was left over was ready, and `why` said "nothing".
#[test]
fn a_ready_manager_of_a_swarm_without_a_leader() {
    let mut case = Case::new(Phase::Ready, vec![(500, What::Ready)]);
    case.health = Some(health());
    case.engine = Some("Swarm s cannot be read, for 60 s: no leader");
    assert!(case.is("engine-unreadable").cause.contains("no leader"));
}

#[test]
fn a_full_disk_and_memory_that_ran_out() {
    let mut case = Case::new(Phase::Ready, vec![(500, What::Ready)]);
    for free in [0, 1 << 20] {
        case.health = Some(Health { disk_available: Some(free), ..health() });
        case.is("disk-full");
    }
    case.health = Some(Health { disk_available: None, ..health() });
    assert_eq!(case.why().name, "ready", "what cannot be asked is not full");
    case.health = Some(Health { memory_available: 10 << 20, ..health() });
    case.is("out-of-memory");
    case.health = Some(Health { killed_for_memory: 2, ..health() });
    case.is("out-of-memory");
    case.health = Some(health());
    assert_eq!(case.why().name, "ready");
}

#[test]
fn another_system_is_not_missed() {
    let profile: Name = "debian".parse().expect("a name");
    let mut case = Case::new(Phase::Kernel, vec![(5000, script()), (5000, What::HandedOff { profile })]);
    case.foreign = true;
    assert_eq!((case.why().name.as_str(), case.why().advice), ("handed-over", None));
}

#[test]
fn every_phase_has_its_sentence_in_time_and_late() {
    let mut text = String::new();
    for phase in std::iter::once(Phase::Off).chain(Phase::WAY) {
        for seconds in [5, 500] {
            let Explanation { name, cause, advice, .. } = Case::new(phase, vec![(seconds, What::PowerOn)]).why();
            text += &format!("{} for {seconds} s: {name}: {cause}\n", phase.as_str());
            if let Some(advice) = advice {
                text += &format!("    {advice}\n");
            }
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_firmware_that_starts_signed_programs_only() {
    let mut events = vec![(90, asked("UEFI x64 PXE")), (80, sent("ipxe.efi")), (60, asked("UEFI x64 HTTP"))];
    Case::new(Phase::Loader, events.clone()).is("secure-boot");
    let shim = What::HttpSent { file: "shimx64.efi".into(), bytes: 900_000 };
    events.extend([(50, shim), (30, asked("UEFI x64 PXE"))]);
    Case::new(Phase::Loader, events).is("signed-loader-refused");
}

/// It was shown as one whose engine waits for the head.
#[test]
fn a_node_that_refuses_this_heads_lead_says_so_whatever_its_engine_does() {
    let refuses = bramble_model::agent::Refuses { life: 100, obeys: 200 };
    for phase in [Phase::Agent, Phase::Engine, Phase::Ready] {
        let mut case = Case::new(phase, vec![(5, What::Connected)]);
        case.health = Some(Health { refuses: Some(refuses), disk_available: Some(0), ..health() });
        assert_eq!(case.is("lead-refused").cause, refuses.to_string());
    }
}
