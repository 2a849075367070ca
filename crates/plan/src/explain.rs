//! `bramble why`: the root cause of a machine that does not come up, from what was seen of it.
//!
//! Each step of a boot leaves a trace on the wire. The cause lies between the last trace that is
//! there and the first that is missing:
//!
//! ```text
//! asks ─▶ offered ─▶ address taken ─▶ looks for the head (ARP) ─▶ 4011 ─▶ TFTP ─▶ script ─▶ kernel ─▶ stage 1 ─▶ agent
//! ```

use bramble_boot::{Asker, Cpu, Failure, File, Firmware, Loader};
use bramble_model::agent::Health;
use bramble_model::api::Explanation;
use bramble_model::engine::{EngineKind, EngineState};
use bramble_model::names::Mac;
use bramble_model::repository::Dhcp;
use bramble_model::section::{self, Waiting};
use bramble_model::timeline::{Event, Millis, Phase, Stopped, What};

use crate::engine::Advice;
use crate::lead;
use crate::ready::first_waiting;
use crate::swarm;

/// All that is known of one node.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    pub now: Millis,
    /// There is a boot set that it could boot.
    pub has_set: bool,
    pub dhcp: &'a Dhcp,
    pub macs: &'a [Mac],
    pub phase: Phase,
    /// When it entered the phase; 0 for never.
    pub since: Millis,
    /// Percent of the root that is there, in stage 1.
    pub percent: Option<u8>,
    /// The reason it gave itself for not going on: a sentence, and of which kind, where it said that.
    pub failure: Option<(&'a str, Option<&'a Failure>)>,
    pub connected: bool,
    pub health: Option<&'a Health>,
    /// What the head waits for with this node.
    pub waiting: Option<&'a Waiting>,
    /// What the head did for this node and failed.
    pub failed: Option<&'a section::Failure>,
    /// What is wrong with the engine as a whole, where the node has a part in it.
    pub engine: Option<&'a str>,
    /// Runs another system, which has no agent.
    pub foreign: bool,
    /// What happened in the present boot, oldest first.
    pub events: &'a [Event],
    /// The last thing that ever happened to it.
    pub last: Option<&'a What>,
}

/// What a person does about this engine.
fn advice(kind: EngineKind) -> Advice {
    match kind {
        EngineKind::Swarm => swarm::ADVICE,
    }
}

/// Bytes free in `/var` below which an engine begins to fail.
const LITTLE_DISK: u64 = 256 << 20;
/// Bytes of free memory below which the kernel begins to kill.
const LITTLE_MEMORY: u64 = 48 << 20;
/// Seconds after which a step of firmware or loader that did not come is missed.
const MISSED: u64 = 15;
/// Blocks that a TFTP client counts to when its counter does not wrap.
const COUNTED: u64 = 65_535;

/// How long a phase takes on slow but healthy hardware, in seconds. Longer is worth a remark.
fn usual(phase: Phase) -> u64 {
    match phase {
        Phase::Off | Phase::Ready => u64::MAX,
        // Servers test their memory; switch ports that run spanning tree block for up to 50 s.
        Phase::Firmware => 180,
        Phase::Loader | Phase::Kernel => 60,
        Phase::Root | Phase::System => 120,
        Phase::Agent => 30,
        Phase::Engine => 120,
    }
}

/// Name, cause and advice.
type Cause = (&'static str, String, Option<&'static str>);

fn cause(name: &'static str, cause: impl Into<String>, advice: &'static str) -> Cause {
    (name, cause.into(), Some(advice))
}

/// Waiting is right.
fn waits(name: &'static str, cause: impl Into<String>) -> Cause {
    (name, cause.into(), None)
}

/// The instruction set of a UEFI.
fn uefi(asker: &Asker) -> Option<Cpu> {
    match asker.firmware()? {
        Firmware::Uefi(cpu) | Firmware::UefiHttp(cpu) => Some(cpu),
        _ => None,
    }
}

fn is_uefi(asker: &Asker) -> bool {
    uefi(asker).is_some()
}

/// What stage 1 says itself. One of before there were kinds says only the sentence.
fn stage_1_failed(said: String, kind: Option<&Failure>) -> Cause {
    match kind {
        Some(Failure::Digest) => cause(
            "digest-mismatch",
            said,
            "the file on the head is damaged: `bramble image build` makes it anew; it boots by itself then",
        ),
        Some(Failure::NoMemory) => {
            cause("out-of-memory", said, "the root lives in its memory: it needs more of it, or a data partition")
        }
        Some(Failure::NoDriver) => {
            cause("no-driver", said, "the driver belongs to Debian's kernel, or into `image.packages`")
        }
        Some(Failure::Fetch) => {
            cause("layer-fetch-stalls", said, "it goes on where it stopped when the line is back: cable, switch, head")
        }
        Some(Failure::Claim) => cause(
            "boot-not-given",
            said,
            "it boots all the same, and a key that it keeps lets it in; without one, switch it on again, and where that goes on, another machine uses its MAC address or its boot",
        ),
        Some(Failure::Expired) => cause(
            "boot-set-expired",
            said,
            "`bramble image sign SET` signs it again, `bramble image build` makes a newer one; where its clock is ahead, set that, or sign with `--days 0`; it boots by itself then",
        ),
        Some(Failure::Forbidden) => cause(
            "boot-set-forbidden",
            said,
            "`bramble image build` makes another one, and where this one is good after all, `bramble image sign SET` signs it anew",
        ),
        Some(Failure::Data) => cause(
            "data-partition",
            said,
            "it runs without; put its disk in and boot it again, or write down which partition is its own: `lsblk -o NAME,PARTUUID` on it, and `data` of its node in bramble.toml",
        ),
        Some(Failure::Arguments | Failure::NoLink | Failure::Signature | Failure::Machine | Failure::Other(_))
        | None => cause("stage1-failed", said, "it tries again by itself; the sentence names what to put right"),
    }
}

/// Names the cause.
pub fn explain(evidence: &Evidence<'_>) -> Explanation {
    let (name, cause, advice) = evidence.cause();
    Explanation { name: name.into(), cause, advice: advice.map(str::to_owned), seconds: evidence.seconds() }
}

impl Evidence<'_> {
    fn seconds(&self) -> u64 {
        self.now.saturating_sub(self.since) / 1000
    }

    fn late(&self) -> bool {
        self.seconds() > usual(self.phase)
    }

    fn ago(&self, at: Millis) -> u64 {
        self.now.saturating_sub(at) / 1000
    }

    fn any(&self, test: impl Fn(&What) -> bool) -> bool {
        self.events.iter().any(|event| test(&event.what))
    }

    fn count(&self, test: impl Fn(&What) -> bool) -> usize {
        self.events.iter().filter(|event| test(&event.what)).count()
    }

    fn cause(&self) -> Cause {
        if let Some(cause) = self.of_another_release() {
            return cause;
        }
        match self.phase {
            Phase::Off | Phase::Firmware | Phase::Loader => self.on_the_wire(),
            Phase::Kernel => self.kernel(),
            Phase::Root => self.root(),
            Phase::System => self.system(),
            Phase::Agent | Phase::Engine | Phase::Ready => self.engine(),
        }
    }

    /// The firmware that asked first, and when. `loader` asks for iPXE, which firmware started.
    fn asked(&self, loader: bool) -> Option<(&Asker, Millis)> {
        let is_loader = |asker: &Asker| matches!(asker.firmware(), Some(Firmware::Ipxe(_)));
        let mut asked = self.events.iter().filter_map(|event| match &event.what {
            What::Asked { firmware, .. } if is_loader(firmware) == loader => Some((firmware, event.at)),
            _ => None,
        });
        // The first of this boot: how long it has been trying.
        asked.next()
    }

    /// From the first packet to the boot script.
    fn on_the_wire(&self) -> Cause {
        let firmware = self.asked(false);
        let ipxe = self.asked(true);
        if let Some(cause) = self.transfers(firmware.map(|(asker, _)| asker)) {
            return cause;
        }
        if self.any(|what| matches!(what, What::ScriptServed { .. })) {
            return if self.late() {
                cause(
                    "script-not-followed",
                    "it has its boot script and does not fetch the kernel",
                    "see its console: the loader writes there what it cannot do",
                )
            } else {
                waits("loader-starts", "its loader is starting")
            };
        }
        let Some((asker, since)) = ipxe.or(firmware) else { return self.unheard() };
        if let Some(What::NoLoader { firmware }) = self.last_of(|what| matches!(what, What::NoLoader { .. })) {
            return cause(
                "no-loader",
                format!("nothing here boots {firmware}"),
                "switch its firmware to 64-bit UEFI or BIOS; for arm64, the boot set has to have loaders for it",
            );
        }
        if self.ago(since) < MISSED {
            return waits("firmware-starts", format!("its firmware ({asker}) is starting"));
        }
        let sent = |what: &What| matches!(what, What::TftpSent { .. } | What::HttpSent { .. });
        if ipxe.is_none()
            && let Some(What::TftpSent { file, .. } | What::HttpSent { file, .. }) = self.last_of(sent)
        {
            return cause(
                "loader-silent",
                format!("it has its loader ({file}), and the loader does not ask for its boot script"),
                if is_uefi(asker) {
                    "see its console. Either the loader has no driver for the network card, or the firmware starts signed programs only (Secure Boot): then it is given signed ones when it asks again"
                } else {
                    "see its console; a loader without a driver for the network card stays silent"
                },
            );
        }
        self.offers(asker)
    }

    /// It asks, and does not fetch.
    fn offers(&self, asker: &Asker) -> Cause {
        let over_http = matches!(asker.firmware(), Some(Firmware::Ipxe(_) | Firmware::UefiHttp(_)));
        // What was seen since this firmware or loader first asked.
        let begin = self
            .events
            .iter()
            .position(|event| matches!(&event.what, What::Asked { firmware: asked, .. } if asked == asker));
        let since = &self.events[begin.unwrap_or(0)..];
        let any = |test: fn(&What) -> bool| since.iter().any(|event| test(&event.what));
        let heard_late = self.events.iter().find_map(|event| match event.what {
            What::HeardLate { seconds } => Some(seconds),
            _ => None,
        });
        let chose = since.iter().rev().find_map(|event| match event.what {
            What::Chose { server } => Some(server),
            _ => None,
        });
        if let (Dhcp::Full(_), Some(rival)) = (self.dhcp, chose) {
            return cause(
                "rival-dhcp-server",
                format!(
                    "it takes its address from another DHCP server on this wire, {rival}, which says nothing of what to boot"
                ),
                "switch that server off, or set `network.dhcp = \"proxy\"` and let it hand out the addresses",
            );
        }
        let looked = any(|what| matches!(what, What::LookedForHead { .. }));
        let asked_4011 = any(|what| matches!(what, What::AskedBootServer));
        let leased = any(|what| matches!(what, What::Leased { .. }));
        let goes_to_4011 = matches!(asker.firmware(), Some(Firmware::Uefi(_)));
        if over_http && let Some(cause) = self.not_given() {
            return cause;
        }
        if over_http && (leased || looked) {
            return cause(
                "http-blocked",
                format!("{asker} has an address and the URL of its boot file, and no request arrives over HTTP"),
                "let TCP port 7080 (`network.http_port`) into the head: its firewall, or one between",
            );
        }
        if matches!(self.dhcp, Dhcp::Proxy) && looked && !asked_4011 && goes_to_4011 {
            return cause(
                "boot-server-port-unreachable",
                "it accepted the offer and looks for the head, and nothing of it arrives at UDP port 4011",
                "let UDP port 4011 into the head: its firewall, or one between",
            );
        }
        if matches!(self.dhcp, Dhcp::Router) && !looked {
            return cause(
                "router-names-no-boot-file",
                format!(
                    "{asker} asks for an address, and then for nothing here: the router does not tell it what to boot"
                ),
                "put what `bramble router-recipe` prints into the router, or use `dhcp = \"proxy\"`",
            );
        }
        if asked_4011 || leased || looked {
            return cause(
                "tftp-blocked",
                "it has an address and the name of its boot file, and no request arrives over TFTP",
                "let UDP port 69 into the head, and its answers from high ports out: its firewall, or one between",
            );
        }
        if let Some(router) = chose {
            return cause(
                "offers-never-merged",
                format!(
                    "it took its address from {router} and forgot the boot file that bramble offered: this firmware does not put two offers together"
                ),
                "put the boot file into the router's own offer (`bramble router-recipe`), or use full DHCP",
            );
        }
        if let Some(seconds) = heard_late {
            return cause(
                "spanning-tree-delay",
                format!(
                    "it had been asking for {seconds} s before its first request arrived: the switch port was blocked by spanning tree, and the firmware gave up"
                ),
                "set the switch port to edge (portfast), or switch spanning tree off there",
            );
        }
        cause(
            "offer-without-request",
            "it was offered a boot file and has not answered the offer",
            "does the offer reach it? a switch that filters DHCP (DHCP snooping), or another server whose offer it prefers",
        )
    }

    /// What UEFI says of a program that it does not start: nothing, and it asks again.
    fn refused_program(&self, file: &str) -> Option<Cause> {
        let sent = |what: &What| matches!(what, What::TftpSent { file: sent, .. } | What::HttpSent { file: sent, .. } if sent == file);
        let at = self.events.iter().rposition(|event| sent(&event.what))?;
        let asked = |event: &Event| match &event.what {
            What::Asked { firmware, .. } => Some(is_uefi(firmware)),
            _ => None,
        };
        // A loader that runs asks as itself.
        if self.events[at..].iter().find_map(asked) != Some(true) {
            return None;
        }
        match Loader::named(file)? {
            Loader::Ipxe(_) => Some(cause(
                "secure-boot",
                format!(
                    "it fetched {file} and did not start it: its firmware starts signed programs only (Secure Boot)"
                ),
                "it is given Debian's signed loaders when it asks again: switch it on again if it does not by itself, or set `secure_boot = true` for it",
            )),
            Loader::Shim(_) => Some(cause(
                "signed-loader-refused",
                format!(
                    "it fetched Debian's signed loader ({file}) and did not start it: its firmware does not know Microsoft's key for other systems' loaders"
                ),
                "allow the \"Microsoft 3rd-party UEFI CA\" in its firmware, or switch Secure Boot off there",
            )),
            Loader::Grub(_) => Some(cause(
                "signed-loader-refused",
                format!(
                    "{file} did not start or could not reach the head: shim refuses what was revoked since it was signed"
                ),
                "build the boot set with `bramble image build --refresh`, for Debian's present loaders",
            )),
            Loader::IpxeBios | Loader::MokManager(_) => None,
        }
    }

    /// What TFTP transfers say.
    fn transfers(&self, asker: Option<&Asker>) -> Option<Cause> {
        let sent = |what: &What| matches!(what, What::TftpSent { .. } | What::HttpSent { .. });
        if let Some(What::TftpSent { file, .. } | What::HttpSent { file, .. }) = self.last_of(sent) {
            if let Some(cause) = self.refused_program(file) {
                return Some(cause);
            }
            let fits = match (asker, Loader::named(file)) {
                (Some(asker), Some(Loader::IpxeBios)) => asker.firmware() == Some(Firmware::Bios),
                (Some(asker), Some(Loader::Ipxe(cpu))) => uefi(asker) == Some(cpu),
                _ => true,
            };
            if !fits {
                return Some(cause(
                    "wrong-architecture-file",
                    format!(
                        "it fetched {file}, which {} cannot start: someone else told it that name",
                        asker.map_or_else(|| "its firmware".into(), Asker::to_string)
                    ),
                    "the router's own boot file wins over bramble's: remove it there, or make it as `bramble router-recipe` prints",
                ));
            }
            let loops = self.count(|what| matches!(what, What::TftpSent { file: again, .. } if again == file));
            if loops >= 3 && !self.any(|what| matches!(what, What::ScriptServed { .. })) {
                return Some(cause(
                    "loader-loop",
                    format!("it has loaded {file} {loops} times: the loader is told to load itself again"),
                    "a boot file in the router's own offer reaches iPXE, too: make the router's rules as `bramble router-recipe` prints",
                ));
            }
        }
        let stopped = self.last_of(|what| matches!(what, What::TftpStopped { .. } | What::TftpSent { .. }))?;
        let What::TftpStopped { file, at, of, block, agreed, reason } = stopped else { return None };
        let block = u64::from(*block);
        if *of > COUNTED * block && (COUNTED - 2..=COUNTED + 2).contains(&(at / block)) {
            return Some(cause(
                "block-counter-wrap",
                format!("{file} stopped after {COUNTED} blocks of {block} bytes: its firmware cannot count further"),
                "update its EEPROM (2025-09 or later), or keep the file below 96 MB",
            ));
        }
        if *reason != Stopped::Silent {
            return None;
        }
        Some(if *at == 0 && *agreed && block > 512 {
            cause(
                "mtu-too-small",
                format!(
                    "small packets reach it and full ones do not: {file} stops at its first block of {block} bytes"
                ),
                "something between has a smaller MTU than 1500: a tunnel, a VLAN or a Wi-Fi bridge",
            )
        } else if *at == 0 {
            cause(
                "tftp-blocked",
                format!("it asks for {file} over TFTP, and no answer reaches it"),
                "let UDP port 69 into the head, and its answers from high ports out: its firewall, or one between",
            )
        } else {
            cause(
                "transfer-broke-off",
                format!("{file} stopped at {at} of {of} bytes"),
                "cable, switch or power: it tries again by itself where its firmware does",
            )
        })
    }

    fn last_of(&self, test: impl Fn(&What) -> bool) -> Option<&What> {
        self.events.iter().rev().map(|event| &event.what).find(|what| test(what))
    }

    /// Someone asks for its boot, and was not given it since it last had one.
    fn not_given(&self) -> Option<Cause> {
        let last = self.last_of(|what| matches!(what, What::NotGiven { .. } | What::ScriptServed { .. }))?;
        let What::NotGiven { reason } = last else { return None };
        Some(cause(
            "boot-not-given",
            format!("its boot was not given: {reason}"),
            "where that is the machine, its DHCP has to reach the head: on the same wire, or by a relay that sends it here, too; else someone uses its MAC address",
        ))
    }

    /// Nothing was heard of it since it was switched on.
    fn unheard(&self) -> Cause {
        if let Some(cause) = self.not_given() {
            return cause;
        }
        if !self.has_set && !self.foreign {
            return cause(
                "no-boot-set",
                "there is no boot set that it could boot",
                "run `bramble image build`, then `bramble up`",
            );
        }
        if self.phase == Phase::Firmware && !self.late() {
            return waits("firmware-starts", "its firmware is starting");
        }
        let last = self.last.filter(|last| !matches!(last, What::PowerOn | What::PowerOff));
        let last = last.map(|last| format!("; the last thing seen of it was: {}", last.sentence())).unwrap_or_default();
        let nothing = "nothing has been heard of it: neither a DHCP request nor a fetch came from its MAC addresses";
        if self.macs.iter().any(|mac| mac.may_be_raspberry_pi()) {
            return cause(
                "pi-without-network-boot",
                format!(
                    "{nothing}{last}. It is a Raspberry Pi, whose boot order has no network as it leaves the factory"
                ),
                "set BOOT_ORDER=0xf21 in its EEPROM (`rpi-eeprom-config`, or the imager's \"network boot\" card), and check power and cable",
            );
        }
        cause(
            "no-packet",
            format!("{nothing}{last}"),
            "switch it on (`bramble power on`), set its firmware to boot from the network, and check cable and MAC in bramble.toml",
        )
    }

    fn kernel(&self) -> Cause {
        if self.foreign {
            return waits("handed-over", "it was given its other system; what that does is not seen from here");
        }
        if !self.late() {
            return waits("kernel-starts", "kernel and initrd are on their way");
        }
        if !self.any(|what| matches!(what, What::Fetching { file: File::Initrd, .. })) {
            return cause(
                "kernel-fetch-stalls",
                "it began to fetch its kernel and never asked for the initrd",
                "see its console; the line between is slow or loses packets",
            );
        }
        let card = self.last_of(|what| matches!(what, What::Card { .. }));
        let card = match card {
            Some(What::Card { pci }) => format!(" with PCI id {pci}"),
            _ => String::new(),
        };
        cause(
            "stage1-silent",
            format!(
                "kernel and initrd were fetched, and nothing has been heard since: the kernel does not start, or has no driver for its network card{card}"
            ),
            "see its console: stage 1 writes there what it lacks; the driver belongs to Debian's kernel, or into `image.packages`",
        )
    }

    fn root(&self) -> Cause {
        if let Some((reason, kind)) = self.failure {
            return stage_1_failed(format!("stage 1 says: {reason}"), kind);
        }
        let quiet = self.events.last().map_or(0, |event| self.ago(event.at));
        match self.percent {
            Some(percent) if percent < 100 && quiet > 60 => cause(
                "layer-fetch-stalls",
                format!("stage 1 has {percent} % of the root, and nothing more for {quiet} s"),
                "it goes on where it stopped when the line is back: cable, switch, head",
            ),
            Some(percent) if self.late() => cause(
                "layer-fetch-slow",
                format!("stage 1 has {percent} % of the root"),
                "the line is slow, or the head is busy",
            ),
            Some(percent) => waits("root-arrives", format!("stage 1 has {percent} % of the root")),
            None if self.late() => cause(
                "stage1-stuck",
                "stage 1 spoke once and has not said more",
                "see its console; the network went away after its first report",
            ),
            None => waits("stage1-starts", "stage 1 brings up drivers and network"),
        }
    }

    fn system(&self) -> Cause {
        if let Some(cause) = self.refused() {
            return cause;
        }
        if let Some(What::TlsFailed { reason, clock }) = self.last_of(|what| matches!(what, What::TlsFailed { .. })) {
            return if *clock {
                cause(
                    "clock-off",
                    format!(
                        "its clock or the head's is too far off: a certificate is not valid at that time ({reason})"
                    ),
                    "set the head's clock, and give the nodes time servers that they reach (`cluster.time_servers`)",
                )
            } else {
                cause(
                    "tls-refused",
                    format!("its agent and the head do not trust each other ({reason})"),
                    "its image was built for another head, or before this one's CA was rotated: `bramble image build` where \
                     the image is of before, and start it again",
                )
            };
        }
        if self.late() {
            return cause(
                "agent-silent",
                "systemd started, and the agent has not come",
                "see its console; `systemctl --failed` on the node names the unit",
            );
        }
        waits("system-starts", "systemd is starting")
    }

    /// Its agent came, whatever else was seen of this boot, and was not understood.
    fn of_another_release(&self) -> Option<Cause> {
        let counts =
            |what: &What| matches!(what, What::OtherRelease { .. } | What::Connected | What::ScriptServed { .. });
        let Some(What::OtherRelease { reason }) = self.last_of(counts) else { return None };
        Some(cause(
            "other-release",
            reason.clone(),
            "upgrade the older of the two: start this head with the newer program, or build images with this head's (`bramble image build`) and boot the node again",
        ))
    }

    fn refused(&self) -> Option<Cause> {
        match self.last_of(|what| matches!(what, What::Refused { .. } | What::Waits { .. } | What::Admitted { .. }))? {
            What::Waits { fingerprint, reason, digits } => Some(cause(
                "admission-pending",
                format!(
                    "it waits to be let in with key {fingerprint}: {reason}{}",
                    self.data().map_or_else(String::new, |data| format!("; {data}"))
                ),
                match digits {
                    true => {
                        "`bramble node approve NODE DIGITS`, with the six digits that its console shows; where it has no screen, `bramble node approve --press NODE`; `bramble node approve` lists all that wait"
                    }
                    false => "compare the key with the one on its console, then `bramble node approve NODE KEY`",
                },
            )),
            What::Refused { reason } => Some(cause(
                "admission-refused",
                format!("it is not let in: {reason}"),
                "is there a second machine with its MAC address?",
            )),
            _ => None,
        }
    }

    /// What is wrong with its data partition in this boot.
    fn data(&self) -> Option<&str> {
        let of_data = |what: &What| matches!(what, What::Failed { failure: Some(Failure::Data), .. });
        match self.last_of(of_data)? {
            What::Failed { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// What a person does about the engine that this node has told of.
    fn advice(&self) -> Advice {
        let kind = self.health.and_then(|health| health.engines.kinds().next());
        kind.map_or(Advice::OF_ANY, advice)
    }

    fn engine(&self) -> Cause {
        if let Some(cause) = self.refused() {
            return cause;
        }
        if let Some(refuses) = self.health.and_then(|health| health.refuses) {
            return cause("lead-refused", refuses.to_string(), lead::ADVICE);
        }
        if let Some(health) = self.health {
            if let Some(free) = health.disk_available.filter(|free| *free < LITTLE_DISK) {
                return cause(
                    "disk-full",
                    format!(
                        "{} MB are free where its engine keeps its data: it cannot keep images and logs",
                        free >> 20
                    ),
                    self.advice().full_disk,
                );
            }
            if health.memory_available < LITTLE_MEMORY || health.killed_for_memory > 0 {
                let killed = match health.killed_for_memory {
                    0 => String::new(),
                    times => format!(", and its kernel has killed {times} processes for want of it"),
                };
                return cause(
                    "out-of-memory",
                    format!("{} MB of its memory are free{killed}", health.memory_available >> 20),
                    "limit its workloads' memory, move them to other nodes, or give it more",
                );
            }
        }
        if let (Phase::Ready, true, Some(problem)) = (self.phase, self.connected, self.engine) {
            return cause("engine-unreadable", problem.to_owned(), "`bramble status` says who brings it back");
        }
        if let (Phase::Ready, true, Some(reason)) = (self.phase, self.connected, self.data()) {
            return stage_1_failed(format!("stage 1 says: {reason}"), Some(&Failure::Data));
        }
        if self.phase == Phase::Ready {
            return if self.foreign && !self.connected {
                waits("boots-disk", "it was told to boot its disk; what that does is not seen from here")
            } else if self.connected {
                waits("ready", "nothing: it is ready")
            } else {
                cause(
                    "connection-lost",
                    "its agent's connection is lost",
                    "its power, its cable or its switch; it comes back by itself when it can",
                )
            };
        }
        let engine = match self.health.and_then(|health| first_waiting(&health.engines)) {
            Some(EngineState::Starting { waiting_for }) => format!("the engine waits for {waiting_for}"),
            Some(EngineState::Alone) => "the engine is up and has not joined yet".into(),
            Some(EngineState::Member { reachable: false, .. }) => {
                "the engine waits for a majority of its managers".into()
            }
            Some(_) | None => "the agent is connected and the engine has not reported".into(),
        };
        if let Some(failed) = self.failed {
            return cause("engine-refuses", format!("{engine}; {}", failed.reason), self.advice().refuses);
        }
        if let Some(problem) = self.engine {
            return cause(
                "engine-unreadable",
                format!("{engine}; {problem}"),
                "`bramble status` says who brings it back",
            );
        }
        let reason = self.waiting.map(|waiting| format!("{engine}; {}", waiting.reason)).unwrap_or(engine);
        if self.late() {
            return cause("engine-late", reason, "`bramble status` shows what the engine waits for");
        }
        waits("engine-joins", reason)
    }
}

#[cfg(test)]
mod tests;
