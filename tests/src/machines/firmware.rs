//! A machine with a firmware, and what happens when it is switched on.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use bramble_model::names::Mac;

use super::dhcp::{ACK, Answer, DISCOVER, INFORM, NAK, OFFER, Question, REQUEST};
use super::fetch::{self, Fetched};
use super::persona::{BootServer, Dhcp, Need, Persona, Reads, Way};
use super::stack::Stack;
use super::wire::{Dice, Trouble, Wire};

/// How the way of a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// A kernel was started with these arguments.
    Kernel { cmdline: String },
    /// It left network boot for its disk.
    Disk,
    /// Another program was started: its file.
    Program { file: String },
    /// It has an address and wanted no more.
    Address(Ipv4Addr),
    /// It gave up, as its screen would say.
    GaveUp(String),
}

/// What a machine did.
#[derive(Debug)]
pub struct Boot {
    /// What it fetched, in order: `tftp NAME` and `http NAME`.
    pub files: Vec<String>,
    pub ended: Ended,
    /// Its packets and decisions, with times.
    pub log: Vec<String>,
    /// When each step was done, since power-on.
    pub steps: Vec<(&'static str, Duration)>,
}

/// What DHCP led to.
struct Configured {
    file: String,
    server: Ipv4Addr,
}

/// A machine that is on.
struct Machine<'a> {
    persona: &'a Persona,
    loaders: &'a BTreeMap<String, Persona>,
    mac: Mac,
    stack: Stack,
    dice: Dice,
    /// Power-on, and the beginning of this round of its boot order.
    since: Instant,
    began: Instant,
    files: Vec<String>,
    log: Vec<String>,
    steps: Vec<(&'static str, Duration)>,
}

/// Switches a machine on, and follows it to its kernel or its end.
pub fn power_on(
    wire: &Wire,
    name: &str,
    persona: &Persona,
    loaders: &BTreeMap<String, Persona>,
    trouble: Trouble,
    seed: u64,
) -> Boot {
    let mut dice = Dice(seed | 1);
    let mac = persona.mac(name);
    let stack = Stack::new(wire.plug(mac, trouble, dice.roll()), dice.roll());
    let mut machine = Machine {
        persona,
        loaders,
        mac,
        stack,
        dice,
        since: Instant::now(),
        began: Instant::now(),
        files: Vec::new(),
        log: Vec::new(),
        steps: Vec::new(),
    };
    let mut ended = Ended::GaveUp("it was never on".into());
    for round in 0..persona.rounds {
        machine.began = Instant::now();
        ended = machine.run().unwrap_or_else(Ended::GaveUp);
        let Ended::GaveUp(reason) = &ended else { break };
        if round + 1 < persona.rounds {
            machine.say(format!("{reason}; its boot order begins again"));
        }
    }
    // A second card has its own plug.
    let ended = match (persona.second_mac(name), &ended) {
        (Some(second), Ended::Program { file }) => {
            let file = file.clone();
            machine.mac = second;
            let seed = machine.dice.roll();
            // By now its port is open.
            let trouble = Trouble { silent: Duration::ZERO, ..trouble };
            machine.stack = Stack::new(wire.plug(second, trouble, seed), seed);
            machine.start(&file).unwrap_or_else(Ended::GaveUp)
        }
        _ => ended,
    };
    machine.say(format!("ended: {ended:?}"));
    Boot { files: machine.files, ended, log: machine.log, steps: machine.steps }
}

type Step<T> = Result<T, String>;

impl Machine<'_> {
    fn say(&mut self, text: impl Into<String>) {
        self.log.push(format!("{:7.3}  {}", self.since.elapsed().as_secs_f64(), text.into()));
    }

    fn step(&mut self, name: &'static str) {
        self.steps.push((name, self.since.elapsed()));
    }

    fn run(&mut self) -> Step<Ended> {
        let persona = self.persona;
        match persona.way {
            Way::Phone => {
                self.configure(&persona.dhcp.clone())?;
                Ok(Ended::Address(self.stack.address()))
            }
            Way::Pxe => {
                let found = self.configure(&persona.dhcp.clone())?;
                if found.file.is_empty() {
                    return Err("PXE-E53: no boot filename received".into());
                }
                let program = self.tftp(found.server, &found.file)?.ok_or("PXE-T01: file not found")?;
                self.step("loader");
                self.load(&found.file, &program)
            }
            Way::HttpBoot => {
                let found = self.configure(&persona.dhcp.clone())?;
                if !found.file.starts_with("http://") {
                    return Err(format!("`{}` is no URL", found.file));
                }
                let program = self.http(&found.file)?.ok_or("the server has no such file")?;
                self.load(&found.file, &program)
            }
            Way::Ipxe => self.ipxe(&persona.dhcp.clone()),
            Way::PiEeprom => {
                let found = self.configure(&persona.dhcp.clone())?;
                self.pi(found.server)
            }
            Way::PiRom => {
                let found = self.configure(&persona.dhcp.clone())?;
                self.tftp(found.server, "bootcode.bin")?.ok_or("bootcode.bin is not there")?;
                let found = self.configure(&persona.dhcp.clone())?;
                self.pi(found.server)
            }
            Way::UBoot => self.uboot(),
        }
    }

    /// What it has loaded starts, where it is for this machine.
    fn load(&mut self, file: &str, program: &[u8]) -> Step<Ended> {
        let uefi =
            self.persona.way == Way::HttpBoot || self.persona.dhcp.architecture.is_some_and(|number| number != 0);
        // The PE header (Microsoft PE/COFF, section 3.3): where it is, and for which machine.
        let pe = program.get(..2) == Some(b"MZ");
        if uefi != pe {
            return Err(format!("{file} is not for this firmware"));
        }
        if pe {
            let at = program.get(0x3c..0x40).map_or(0, |at| u32::from_le_bytes([at[0], at[1], at[2], at[3]]) as usize);
            let machine = program.get(at + 4..at + 6).map(|two| u16::from_le_bytes([two[0], two[1]]));
            let own = match self.persona.cpu.as_str() {
                "arm64" => 0xaa64,
                "i386" => 0x014c,
                _ => 0x8664,
            };
            if machine != Some(own) {
                return Err(format!("{file} is for machine {machine:x?}, this one is {own:x}"));
            }
        }
        if self.persona.two_cards {
            return Ok(Ended::Program { file: file.to_owned() });
        }
        self.start(file)
    }

    /// A loader that was loaded runs.
    fn start(&mut self, file: &str) -> Step<Ended> {
        let name = file.rsplit('/').next().unwrap_or_default();
        if !name.contains("ipxe") && !name.contains("undionly") {
            return Ok(Ended::Program { file: file.to_owned() });
        }
        let becomes = self.persona.becomes.clone().ok_or("the persona says nothing of the loader it becomes")?;
        self.say(format!("{name} starts as {becomes}"));
        let loader = self.loaders.get(&becomes).unwrap_or_else(|| panic!("there is no loader {becomes}"));
        let mut dhcp = loader.dhcp.clone();
        // It says what machine it runs on.
        dhcp.architecture = dhcp.architecture.and(self.persona.dhcp.architecture);
        if dhcp.class.is_some() {
            let number = self.persona.dhcp.architecture.unwrap_or(0);
            dhcp.class = Some(format!("PXEClient:Arch:{number:05}:UNDI:003010"));
        }
        self.ipxe(&dhcp)
    }

    // ── DHCP ──────────────────────────────────────────────────────────────────────────────────────

    fn question(&mut self, dhcp: &Dhcp, kind: u8, xid: u32) -> Question {
        message(dhcp, kind, xid, self.mac, self.began.elapsed().as_secs() as u16)
    }

    /// Gets an address and a boot file.
    fn configure(&mut self, dhcp: &Dhcp) -> Step<Configured> {
        self.stack.configure(Ipv4Addr::UNSPECIFIED, 0, None);
        for wait in dhcp.waits.clone() {
            let xid = self.dice.roll() as u32;
            let question = self.question(dhcp, DISCOVER, xid).bytes();
            self.say("DISCOVER");
            self.stack.broadcast_dhcp(&question);
            let offers = self.offers(dhcp, xid, wait);
            let Some((own, boot)) = self.choose(dhcp, &offers) else { continue };
            let leased = if dhcp.sends_request { self.request(dhcp, xid, &own)? } else { Some(own.clone()) };
            let Some(leased) = leased else { continue };
            let prefix = leased.address(1).map_or(24, |mask| u32::from(mask).leading_ones() as u8);
            self.stack.configure(leased.yiaddr, prefix, leased.address(3));
            self.say(format!("has address {}/{prefix}", leased.yiaddr));
            self.step("address");
            let Some(boot) = boot else { return Ok(Configured { file: String::new(), server: Ipv4Addr::UNSPECIFIED }) };
            // An acknowledgement of the same server has the last word.
            let boot = if boot.address(54) == leased.address(54) && leased.boots() { leased.clone() } else { boot };
            return self.boot_server(dhcp, boot);
        }
        Err("PXE-E51: no DHCP or proxyDHCP offers were received".into())
    }

    /// Offers until `wait` is over, or until it has what it needs and has collected long enough.
    fn offers(&mut self, dhcp: &Dhcp, xid: u32, wait: f64) -> Vec<Answer> {
        let sent = Instant::now();
        let mut deadline = sent + Duration::from_secs_f64(wait);
        let mut offers: Vec<Answer> = Vec::new();
        while let Some(bytes) = self.stack.receive_dhcp(deadline) {
            let Some(offer) = Answer::read(&bytes, self.mac) else { continue };
            if offer.xid != xid || offer.kind != OFFER {
                continue;
            }
            if sent.elapsed() < Duration::from_millis(dhcp.deaf_for) {
                self.say("an offer came too fast and was missed");
                continue;
            }
            self.say(format!(
                "OFFER from {:?}: address {}, file {:?}/{:?}, next server {}",
                offer.address(54),
                offer.yiaddr,
                offer.file,
                offer.text(67),
                offer.siaddr
            ));
            offers.push(offer);
            if self.choose(dhcp, &offers).is_some_and(|(_, boot)| boot.is_some()) {
                deadline = deadline.min(Instant::now() + Duration::from_secs_f64(dhcp.collects));
            }
        }
        offers
    }

    /// The offer whose address it takes, and the one that says what to boot.
    fn choose(&mut self, dhcp: &Dhcp, offers: &[Answer]) -> Option<(Answer, Option<Answer>)> {
        let addresses: Vec<&Answer> = offers.iter().filter(|offer| !offer.yiaddr.is_unspecified()).collect();
        let boots: Vec<&Answer> = offers
            .iter()
            .filter(|offer| offer.boots() && dhcp.needs.iter().all(|need| is_met(*need, offer, dhcp)))
            .collect();
        let own = addresses.iter().find(|offer| boots.iter().any(|boot| std::ptr::eq(*boot, **offer)));
        let own = own.or_else(|| addresses.first())?;
        let boot = if boots.iter().any(|boot| std::ptr::eq(*boot, *own)) {
            Some((*own).clone())
        } else if dhcp.merges {
            boots.first().map(|boot| (*boot).clone())
        } else {
            None
        };
        Some(((*own).clone(), boot))
    }

    /// Takes the offered address. `None` where the server does not answer.
    fn request(&mut self, dhcp: &Dhcp, xid: u32, offer: &Answer) -> Step<Option<Answer>> {
        let mut question = self.question(dhcp, REQUEST, xid);
        question.options.push((50, offer.yiaddr.octets().to_vec()));
        if let Some(server) = offer.options.get(&54) {
            question.options.push((54, server.clone()));
        }
        let bytes = question.bytes();
        for wait in [1.0, 2.0, 4.0, 8.0] {
            self.say(format!("REQUEST {}", offer.yiaddr));
            self.stack.broadcast_dhcp(&bytes);
            let deadline = Instant::now() + Duration::from_secs_f64(wait);
            while let Some(bytes) = self.stack.receive_dhcp(deadline) {
                let Some(answer) = Answer::read(&bytes, self.mac) else { continue };
                if answer.xid != xid || answer.address(54) != offer.address(54) {
                    continue;
                }
                match answer.kind {
                    ACK => return Ok(Some(answer)),
                    // Another machine was quicker: ask anew (RFC 2131, section 3.1).
                    NAK => {
                        self.say("NAK");
                        return Ok(None);
                    }
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// Asks port 4011 where this firmware does, and reads the boot file's name.
    fn boot_server(&mut self, dhcp: &Dhcp, mut boot: Answer) -> Step<Configured> {
        let is_proxy = boot.yiaddr.is_unspecified();
        let told = discovery_control(&boot) & 8 != 0;
        let asks = match dhcp.boot_server {
            BootServer::Never => false,
            BootServer::UnlessTold => is_proxy && !told,
            BootServer::Always => is_proxy,
        };
        let server = boot.address(54).unwrap_or(boot.siaddr);
        if asks {
            boot = self.ask_boot_server(dhcp, server)?;
        }
        let file = match dhcp.reads {
            Reads::Header => boot.file.clone(),
            Reads::Option => boot.text(67),
            Reads::Either if boot.options.contains_key(&67) => boot.text(67),
            Reads::Either => boot.file.clone(),
        };
        let named = boot.text(66).parse().ok();
        let next = Some(boot.siaddr).filter(|address| !address.is_unspecified());
        let pi = matches!(self.persona.way, Way::PiRom | Way::PiEeprom);
        // A Pi reads option 66, else the server that offered; others the header first.
        let from = if pi { named.or(Some(server)) } else { next.or(named).or(Some(server)) };
        Ok(Configured { file, server: from.unwrap_or(Ipv4Addr::UNSPECIFIED) })
    }

    fn ask_boot_server(&mut self, dhcp: &Dhcp, server: Ipv4Addr) -> Step<Answer> {
        let xid = self.dice.roll() as u32;
        let kind = if dhcp.boot_server_by_inform { INFORM } else { REQUEST };
        let mut question = self.question(dhcp, kind, xid);
        question.ciaddr = self.stack.address();
        question.options.push((54, server.octets().to_vec()));
        let bytes = question.bytes();
        let udp = self.stack.udp(Some(68));
        for wait in [1.0, 2.0, 3.0, 4.0] {
            self.say(format!("asks {server} at port 4011"));
            self.stack.send(&udp, SocketAddrV4::new(server, 4011), &bytes);
            let deadline = Instant::now() + Duration::from_secs_f64(wait);
            while let Some((_, bytes)) = self.stack.receive(&udp, deadline) {
                if let Some(answer) =
                    Answer::read(&bytes, self.mac).filter(|answer| answer.xid == xid && answer.kind == ACK)
                {
                    self.stack.close(udp);
                    self.say(format!("ACK from port 4011: {:?}", answer.text(67)));
                    return Ok(answer);
                }
            }
        }
        self.stack.close(udp);
        Err("PXE-E55: ProxyDHCP service did not reply to request on port 4011".into())
    }

    // ── Files ─────────────────────────────────────────────────────────────────────────────────────

    /// A file over TFTP; `None` where there is none.
    fn tftp(&mut self, server: Ipv4Addr, path: &str) -> Step<Option<Vec<u8>>> {
        let how = self.persona.tftp.clone();
        match fetch::tftp(&mut self.stack, server, path, &how) {
            Fetched::File(bytes) => {
                self.say(format!("tftp {path}: {} bytes", bytes.len()));
                self.files.push(format!("tftp {path}"));
                Ok(Some(bytes))
            }
            Fetched::Missing => {
                self.say(format!("tftp {path}: not found"));
                Ok(None)
            }
            Fetched::Failed(reason) => Err(format!("PXE-E32: {reason}")),
        }
    }

    /// Kernel or initrd, of which only the arrival counts.
    fn payload(&mut self, url: &str) -> Step<bool> {
        let size = fetch::http_size(&mut self.stack, url)?;
        self.say(format!("{url}: {size} bytes"));
        self.files.push(format!("http {}", short(url)));
        Ok(true)
    }

    /// A file over HTTP; `None` where there is none.
    fn http(&mut self, url: &str) -> Step<Option<Vec<u8>>> {
        match fetch::http(&mut self.stack, url) {
            Fetched::File(bytes) => {
                self.say(format!("{url}: {} bytes", bytes.len()));
                self.files.push(format!("http {}", short(url)));
                Ok(Some(bytes))
            }
            Fetched::Missing => {
                self.say(format!("{url}: not found"));
                Ok(None)
            }
            Fetched::Failed(reason) => Err(reason),
        }
    }

    // ── iPXE ──────────────────────────────────────────────────────────────────────────────────────

    fn ipxe(&mut self, dhcp: &Dhcp) -> Step<Ended> {
        let found = self.configure(dhcp)?;
        if !found.file.starts_with("http://") {
            // A loader that is given itself again would load itself for ever.
            return Err(format!("iPXE was given `{}`, not a script", found.file));
        }
        // Settings are filled in in a boot file's name as well.
        let mut url = self.expand(&found.file);
        // Scripts that chain to scripts.
        for _ in 0..20 {
            let script = self.http(&url)?.ok_or("the script is not there")?;
            self.step("script");
            match self.script(&String::from_utf8_lossy(&script))? {
                Next::Chain(next) => url = next,
                Next::Ended(ended) => return Ok(ended),
            }
        }
        Err("iPXE chains without end".into())
    }

    /// Runs an iPXE script (<https://ipxe.org/cmd>, <https://ipxe.org/scripting>).
    fn script(&mut self, text: &str) -> Step<Next> {
        if !text.starts_with("#!ipxe") {
            return Err("iPXE: exec format error".into());
        }
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let mut kernel: Option<String> = None;
        let (mut at, mut turns) = (0, 0);
        while let Some(line) = lines.get(at) {
            at += 1;
            turns += 1;
            if turns > 500 {
                return Err("the script runs without end".into());
            }
            if line.starts_with('#') || line.starts_with(':') || line.is_empty() {
                continue;
            }
            let line = self.expand(line);
            let (command, or_else) = line.split_once("||").unwrap_or((&line, ""));
            let (command, and_then) = command.split_once("&&").unwrap_or((command, ""));
            let words: Vec<&str> = command.split_whitespace().collect();
            self.say(format!("iPXE: {}", command.trim()));
            let mut good = true;
            match words[..] {
                ["imgfree"] | ["echo", ..] => {}
                ["sleep", seconds] => std::thread::sleep(Duration::from_secs(seconds.parse().unwrap_or(1))),
                ["kernel", url, ref arguments @ ..] => {
                    good = self.payload(url)?;
                    kernel = good.then(|| arguments.join(" "));
                }
                ["initrd", "--name", _, url] | ["initrd", url] => good = self.payload(url)?,
                ["boot"] => match kernel.take() {
                    Some(cmdline) => {
                        self.step("kernel");
                        return Ok(Next::Ended(Ended::Kernel { cmdline }));
                    }
                    None => good = false,
                },
                ["chain", "--replace", url] => return Ok(Next::Chain(url.to_owned())),
                ["chain", url] => {
                    good = self.http(url)?.is_some();
                    if good {
                        return Ok(Next::Ended(Ended::Program { file: url.to_owned() }));
                    }
                }
                ["iseq", left, right] => good = left == right,
                ["goto", label] => at = label_of(&lines, label)?,
                ["exit", ..] | ["sanboot", ..] => return Ok(Next::Ended(Ended::Disk)),
                _ => return Err(format!("iPXE: unknown command `{command}`")),
            }
            let follow = if good { and_then } else { or_else };
            match follow.split_whitespace().collect::<Vec<_>>()[..] {
                [] if good || line.contains("||") => {}
                [] => return Err(format!("iPXE: `{command}` failed")),
                ["goto", label] => at = label_of(&lines, label)?,
                ["sanboot", ..] | ["exit", ..] => return Ok(Next::Ended(Ended::Disk)),
                _ => return Err(format!("iPXE: unknown command `{follow}`")),
            }
        }
        Err("the script ended without booting".into())
    }

    /// Puts in iPXE's settings.
    fn expand(&self, line: &str) -> String {
        let mac = self.mac.to_string();
        let address = self.stack.address().to_string();
        let bios = self.persona.dhcp.architecture.unwrap_or(0) == 0;
        let values = [
            ("netX/mac:hexhyp", mac.replace(':', "-")),
            ("netX/mac", mac),
            ("netX/ip", address),
            ("netX/netmask", "255.255.255.0".into()),
            ("netX/gateway", String::new()),
            ("netX/dns", String::new()),
            ("netX/busid:hexraw", "01808610d3".into()),
            ("platform", if bios { "pcbios" } else { "efi" }.into()),
            ("buildarch", if self.persona.cpu == "arm64" { "arm64" } else { "x86_64" }.into()),
        ];
        let mut line = line.to_owned();
        for (name, value) in values {
            line = line.replace(&format!("${{{name}}}"), &value);
        }
        line
    }

    // ── Raspberry Pi ──────────────────────────────────────────────────────────────────────────────

    fn pi(&mut self, server: Ipv4Addr) -> Step<Ended> {
        let pi = self.persona.pi.clone().ok_or("the persona says nothing of the board")?;
        let path = |name: &str| if pi.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", pi.prefix) };
        let wanted = |machine: &mut Self, names: &[String]| -> Step<()> {
            for name in names {
                let optional = name.starts_with('-');
                let name = name.trim_start_matches('-');
                if machine.tftp(server, &path(name))?.is_none() && !optional {
                    return Err(format!("{name} is not there"));
                }
            }
            Ok(())
        };
        wanted(self, &pi.before)?;
        let config = self.tftp(server, &path("config.txt"))?.ok_or("config.txt is not there")?;
        let config = String::from_utf8_lossy(&config).into_owned();
        let value = |key: &str| {
            config
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(['=', ' ']))
                .map(|value| value.trim().to_owned())
        };
        wanted(self, &pi.after)?;
        let cmdline = self.tftp(server, &path("cmdline.txt"))?.ok_or("cmdline.txt is not there")?;
        let kernel = value("kernel").ok_or("config.txt names no kernel")?;
        self.tftp(server, &path(&kernel))?.ok_or("the kernel is not there")?;
        if let Some(initrd) = value("initramfs") {
            let name = initrd.split_whitespace().next().unwrap_or_default().to_owned();
            self.tftp(server, &path(&name))?.ok_or("the initrd is not there")?;
        }
        Ok(Ended::Kernel { cmdline: String::from_utf8_lossy(&cmdline).trim().to_owned() })
    }

    // ── U-Boot ────────────────────────────────────────────────────────────────────────────────────

    /// `dhcp; pxe get; pxe boot` (U-Boot's doc/README.pxe).
    fn uboot(&mut self) -> Step<Ended> {
        let found = self.configure(&self.persona.dhcp.clone())?;
        let folder = found.file.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let mac = self.mac.to_string().replace(':', "-");
        let address = u32::from(self.stack.address());
        let mut names = vec![format!("01-{mac}")];
        names.extend((1..=8).rev().map(|digits| format!("{address:08X}")[..digits].to_owned()));
        names.extend(["default-arm-bcm283x", "default-arm", "default"].map(str::to_owned));
        let mut menu = None;
        for name in names {
            menu = self.tftp(found.server, &format!("{folder}pxelinux.cfg/{name}"))?;
            if menu.is_some() {
                break;
            }
        }
        let menu = menu.ok_or("Config file not found")?;
        let menu = String::from_utf8_lossy(&menu).into_owned();
        let value = |key: &str| {
            menu.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(' ')).map(str::to_owned)
        };
        let kernel = value("LINUX").ok_or("the menu names no kernel")?;
        self.tftp(found.server, &format!("{folder}{kernel}"))?.ok_or("the kernel is not there")?;
        if let Some(initrd) = value("INITRD") {
            self.tftp(found.server, &format!("{folder}{initrd}"))?.ok_or("the initrd is not there")?;
        }
        let cmdline = value("APPEND").unwrap_or_default();
        let cmdline =
            cmdline.replace("${ipaddr}", &self.stack.address().to_string()).replace("${netmask}", "255.255.255.0");
        Ok(Ended::Kernel { cmdline: cmdline.replace("${gatewayip}", "").replace("${dnsip}", "") })
    }
}

/// A message as this firmware writes it.
pub fn message(dhcp: &Dhcp, kind: u8, xid: u32, mac: Mac, seconds: u16) -> Question {
    let request = kind == REQUEST;
    let mut options = vec![(53, vec![kind])];
    if let Some(class) = dhcp.class.as_ref().filter(|_| !(request && dhcp.request_lacks_class)) {
        options.push((60, class.as_bytes().to_vec()));
    }
    if let Some(number) = dhcp.architecture {
        options.push((93, number.to_be_bytes().to_vec()));
        options.push((94, vec![1, 3, 16]));
    }
    if let Some(uuid) = &dhcp.uuid {
        options.push((97, unhex(uuid)));
    }
    if let Some(class) = &dhcp.user_class {
        let length = dhcp.user_class_has_length.then_some(class.len() as u8);
        options.push((77, length.into_iter().chain(class.bytes()).collect()));
    }
    for (code, value) in &dhcp.options {
        options.push((code.parse().expect("a number"), unhex(value)));
    }
    options.push((55, vec![1, 3, 6, 12, 15, 17, 43, 54, 60, 66, 67, 97, 128, 175]));
    options.push((57, 1500_u16.to_be_bytes().to_vec()));
    Question {
        xid,
        mac,
        seconds,
        broadcast: dhcp.broadcast,
        ciaddr: Ipv4Addr::UNSPECIFIED,
        options,
        padded: request && dhcp.request_is_padded,
    }
}

/// Where a script leads.
enum Next {
    Chain(String),
    Ended(Ended),
}

fn label_of(lines: &[&str], label: &str) -> Step<usize> {
    let wanted = format!(":{label}");
    lines.iter().position(|line| *line == wanted).ok_or(format!("iPXE: no label `{label}`"))
}

/// Sub-option 6 of option 43.
fn discovery_control(offer: &Answer) -> u8 {
    let mut rest = offer.options.get(&43).map(Vec::as_slice).unwrap_or_default();
    while let [code, length, after @ ..] = rest {
        match (code, after.get(..usize::from(*length))) {
            (6, Some([value, ..])) => return *value,
            (255, _) | (_, None) => return 0,
            _ => rest = &after[usize::from(*length)..],
        }
    }
    0
}

/// Whether an offer has what a firmware needs. A router's own offer with a file and no option 60 is no
/// offer of PXE but of BOOTP (RFC 951), which every network boot firmware takes as it is.
fn is_met(need: Need, offer: &Answer, dhcp: &Dhcp) -> bool {
    let plain = !offer.yiaddr.is_unspecified() && !offer.options.contains_key(&60);
    let of_pxe = [Need::DiscoveryControl, Need::NoOption43, Need::ClassPxe, Need::Uuid].contains(&need);
    (plain && of_pxe) || has(need, offer, dhcp)
}

fn has(need: Need, offer: &Answer, dhcp: &Dhcp) -> bool {
    let vendor = offer.options.get(&43).map(Vec::as_slice).unwrap_or_default();
    let text = |text: &[u8]| vendor.windows(text.len()).any(|part| part == text);
    match need {
        Need::DiscoveryControl => discovery_control(offer) & 8 != 0,
        Need::NoOption43 => vendor.is_empty(),
        Need::PiText => text(b"Raspberry Pi Boot"),
        Need::PiTextWithBlanks => text(b"Raspberry Pi Boot   "),
        Need::ClassPxe => offer.text(60).starts_with("PXEClient"),
        Need::ClassHttp => offer.text(60).starts_with("HTTPClient"),
        Need::ServerIdentifier => offer.options.contains_key(&54),
        Need::Siaddr => !offer.siaddr.is_unspecified(),
        Need::TftpServerName => !offer.text(66).is_empty(),
        Need::Uuid => offer.options.get(&97) == dhcp.uuid.as_ref().map(|uuid| unhex(uuid)).as_ref(),
        Need::ThreeHundredBytes => offer.length >= 300,
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
    digits.chunks(2).map(byte).collect()
}

/// What a URL means, without what changes from boot to boot.
fn short(url: &str) -> String {
    let path = fetch::parse_url(url).map_or(url.to_owned(), |(_, path)| path);
    if path.starts_with("/boot/script/") {
        return "script".into();
    }
    if let Some(name) = path.split_once("name=").map(|(_, name)| name.split('&').next().unwrap_or_default()) {
        return name.to_owned();
    }
    let path = path.split('?').next().unwrap_or_default();
    path.trim_start_matches("/boot/").to_owned()
}
