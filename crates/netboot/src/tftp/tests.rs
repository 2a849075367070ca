#![expect(clippy::octal_escapes, reason = "packets end words with NUL, and digits follow")]

use super::*;
use proptest::prelude::*;

fn request(options: &[(&str, &str)]) -> ReadRequest {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ReadRequest { file: "ipxe.efi".into(), options }
}

fn memory(bytes: &[u8]) -> Content {
    Content::Memory(bytes.into())
}

/// A client that loses packets as `losses` says, and what it has received in the end.
fn receive(file: &[u8], request: &ReadRequest, mut losses: impl Iterator<Item = bool>) -> Option<Vec<u8>> {
    let mut now = Instant::now();
    let (mut transfer, mut step) = Transfer::start(memory(file), request, LARGEST_WINDOW, now);
    let block = transfer.block;
    let mut got = Vec::new();
    let mut next = 1_u16;
    loop {
        let packets = match step {
            Step::Over(End::Sent { .. }) => return Some(got),
            Step::Over(_) => return None,
            Step::Wait => Vec::new(),
            Step::Send => transfer.packets().map(<[u8]>::to_vec).collect(),
        };
        let mut answer = None;
        for packet in packets {
            if losses.next().unwrap_or(false) {
                continue;
            }
            match &packet[..] {
                [0, 6, ..] => answer = Some(0),
                [0, 3, high, low, data @ ..] => {
                    if u16::from_be_bytes([*high, *low]) == next {
                        assert!(data.len() <= block);
                        got.extend_from_slice(data);
                        next = next.wrapping_add(1);
                    }
                    answer = Some(next.wrapping_sub(1));
                }
                other => panic!("unexpected packet {other:?}"),
            }
        }
        step = match answer.filter(|_| !losses.next().unwrap_or(false)) {
            Some(number) => {
                let [high, low] = number.to_be_bytes();
                match transfer.packet(&[0, 4, high, low], now) {
                    Step::Wait => {
                        now = transfer.deadline();
                        transfer.timed_out(now)
                    }
                    step => step,
                }
            }
            None => {
                now = transfer.deadline();
                transfer.timed_out(now)
            }
        };
    }
}

#[test]
fn a_request_of_edk2_is_read() {
    let packet = b"\0\x01ipxe.efi\0octet\0tsize\00\0blksize\01468\0windowsize\04\0";
    let read = parse_request(packet).expect("well-formed");
    assert_eq!(read.file, "ipxe.efi");
    assert_eq!(read.options.len(), 3);
}

#[test]
fn options_are_clamped_to_what_a_wire_carries() {
    let (transfer, step) = Transfer::start(
        memory(&[0; 10]),
        &request(&[("blksize", "9000"), ("windowsize", "1000")]),
        LARGEST_WINDOW,
        Instant::now(),
    );
    assert_eq!((transfer.block, transfer.window), (1468, 64));
    assert_eq!(step, Step::Send);
    assert_eq!(transfer.packets().collect::<Vec<_>>(), [b"\0\x06blksize\01468\0windowsize\064\0"]);
}

#[test]
fn writing_and_paths_that_leave_the_root_are_refused() {
    assert_eq!(parse_request(b"\0\x02a\0octet\0"), Err(Some(Refusal::IllegalOperation)));
    for path in ["../etc/passwd", "a/../../b", "..\\boot", "%2e%2e/passwd", "", "/"] {
        let packet = [b"\0\x01", path.as_bytes(), b"\0octet\0"].concat();
        assert_eq!(parse_request(&packet), Err(Some(Refusal::AccessViolation)), "{path}");
    }
    let absolute = parse_request(b"\0\x01//tftp/./ipxe.efi\0octet\0").expect("inside");
    assert_eq!(absolute.file, "tftp/ipxe.efi");
}

#[test]
fn raspberry_pi_3_a_duplicate_ack_never_sends_data_again() {
    let now = Instant::now();
    let (mut transfer, _) = Transfer::start(memory(&[7; 2000]), &request(&[]), LARGEST_WINDOW, now);
    assert!(matches!(transfer.packet(&[0, 4, 0, 1], now), Step::Send));
    assert_eq!(transfer.packet(&[0, 4, 0, 1], now), Step::Wait);
}

#[test]
fn a_client_that_aborts_ends_the_transfer() {
    let now = Instant::now();
    let (mut transfer, _) = Transfer::start(memory(&[7; 2000]), &request(&[("tsize", "0")]), LARGEST_WINDOW, now);
    assert!(matches!(transfer.packet(b"\0\x05\0\x08User aborted\0", now), Step::Over(End::Aborted { .. })));
}

/// Everything that this transfer sends to a client that is not there, and when it surrenders.
fn to_nobody(options: &[(&str, &str)]) -> (Vec<usize>, Duration) {
    let begun = Instant::now();
    let (mut transfer, mut step) = Transfer::start(memory(&[7; 1 << 20]), &request(options), LARGEST_WINDOW, begun);
    let mut sent = Vec::new();
    loop {
        match step {
            Step::Send => sent.extend(transfer.packets().map(<[u8]>::len)),
            Step::Wait => {}
            Step::Over(End::Silent { at: 0, agreed: false, .. }) => return (sent, transfer.deadline() - begun),
            Step::Over(end) => panic!("{end:?}"),
        }
        step = transfer.timed_out(transfer.deadline());
    }
}

/// A window of 64 blocks went out a dozen times within 20 s, to whomever the request named.
#[test]
fn whoever_a_request_is_made_up_with_gets_one_packet_a_few_times() {
    for options in [&[][..], &[("blksize", "1468"), ("windowsize", "64")], &[("timeout", "255")], &[("timeout", "9")]] {
        let (sent, surrendered) = to_nobody(options);
        assert_eq!(sent.len(), FIRST_TRIES as usize, "{options:?}");
        assert!(sent.iter().all(|bytes| *bytes <= 4 + 512), "{options:?}: {sent:?}");
        assert!(surrendered < Duration::from_secs(4), "{options:?}: {surrendered:?}");
    }
}

/// It kept its place for 255 s between two looks, and longer with each answer.
#[test]
fn a_timeout_of_minutes_is_not_granted_and_one_of_seconds_holds_from_the_first_answer_on() {
    let now = Instant::now();
    let start = |seconds| Transfer::start(memory(&[7; 2000]), &request(&[("timeout", seconds)]), LARGEST_WINDOW, now);
    let (transfer, _) = start("255");
    assert_eq!(transfer.bytes()[..2], [0, 3], "no option is left to acknowledge: the first block");
    let (mut uboot, _) = start("5");
    assert_eq!(uboot.packets().collect::<Vec<_>>(), [b"\0\x06timeout\05\0"]);
    assert_eq!(uboot.deadline(), now + FIRST_WAIT);
    assert_eq!(uboot.packet(&[0, 4, 0, 0], now), Step::Send);
    assert_eq!(uboot.deadline(), now + Duration::from_secs(5));
    let mut deadline = uboot.deadline();
    while uboot.timed_out(deadline) == Step::Send {
        deadline = uboot.deadline();
    }
    assert!(deadline <= now + GONE + Duration::from_secs(LONGEST_TIMEOUT), "silence ends it all the same");
}

/// An answer every nineteen seconds kept a place for days.
#[test]
fn a_client_that_only_keeps_its_place_loses_it() {
    let mut now = Instant::now();
    let begun = now;
    let (mut transfer, _) = Transfer::start(memory(&[7; 1 << 20]), &request(&[]), LARGEST_WINDOW, now);
    let mut blocks = 0_u16;
    let end = loop {
        now += Duration::from_secs(19);
        blocks += 1;
        let [high, low] = blocks.to_be_bytes();
        if let Step::Over(end) = transfer.packet(&[0, 4, high, low], now) {
            break end;
        }
    };
    assert!(matches!(end, End::Slow { .. }), "{end:?}");
    assert!(now - begun < Duration::from_secs(60));
}

/// Lock step over a wire that loses a fifth of what goes both ways, in the smallest blocks that firmware asks for.
#[test]
fn a_raspberry_pi_on_a_bad_wire_is_not_too_slow() {
    let mut losses = (0_u32..).map(|number| number.wrapping_mul(2_654_435_761) >> 16).map(|dice| dice % 100 < 10);
    let file = vec![7; 300_000];
    let (mut now, mut next) = (Instant::now(), 1_u16);
    let (mut transfer, mut step) = Transfer::start(memory(&file), &request(&[]), LARGEST_WINDOW, now);
    while next < 580 {
        let lost = step == Step::Send && losses.next().unwrap_or(false) || losses.next().unwrap_or(false);
        step = if lost {
            now = transfer.deadline();
            transfer.timed_out(now)
        } else {
            let [high, low] = next.to_be_bytes();
            next += 1;
            transfer.packet(&[0, 4, high, low], now)
        };
        assert_eq!(step, Step::Send, "block {next}");
    }
}

#[test]
fn a_clients_own_words_are_short() {
    let now = Instant::now();
    let (mut transfer, _) = Transfer::start(memory(&[7; 2000]), &request(&[]), LARGEST_WINDOW, now);
    let packet = [b"\0\x05\0\0", &[b'x'; 1400][..]].concat();
    let Step::Over(End::Aborted { reason, .. }) = transfer.packet(&packet, now) else { panic!("it ended it") };
    assert_eq!(reason.len(), LONGEST_REASON);
}

#[test]
fn a_file_on_disk_arrives_as_one_in_memory_does() {
    use std::io::Write;
    let bytes: Vec<u8> = (0..5000_u32).map(|at| (at % 251) as u8).collect();
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&bytes).expect("written");
    let content = Content::File { file: Arc::new(file), size: 5000 };
    let now = Instant::now();
    let (mut transfer, _) = Transfer::start(content, &request(&[]), LARGEST_WINDOW, now);
    let mut got = Vec::new();
    for block in 1..=10_u16 {
        got.extend(transfer.packets().flat_map(|packet| packet[4..].to_vec()));
        let [high, low] = block.to_be_bytes();
        let _ = transfer.packet(&[0, 4, high, low], now);
    }
    assert_eq!(got, bytes);
}

#[test]
fn block_numbers_wrap() {
    let file: Vec<u8> = (0..70_000_u32 * 8).map(|at| (at / 8 % 251) as u8).collect();
    let got = receive(&file, &request(&[("blksize", "8"), ("windowsize", "64")]), std::iter::empty());
    assert!(got.as_deref() == Some(&file[..]));
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(packet: Vec<u8>) {
        let _ = parse_request(&packet);
        let _ = parse_request(&[b"\0\x01", &packet[..]].concat());
        let (mut transfer, _) = Transfer::start(memory(&[0; 3000]), &request(&[("windowsize", "8")]), LARGEST_WINDOW, Instant::now());
        let _ = transfer.packet(&packet, Instant::now());
        let _ = transfer.packet(&[b"\0\x04", &packet[..]].concat(), Instant::now());
    }

    /// Whatever a client that is not there is made to say, one packet of the smallest block goes out at a time until it
    /// has acknowledged the right thing.
    #[test]
    fn no_window_leaves_before_the_first_acknowledgement(
        options in prop::collection::vec(("(blksize|windowsize|timeout|tsize)", "[0-9]{1,5}"), 0..4),
        said in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..6)), 0..20),
    ) {
        let options: Vec<(&str, &str)> = options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut now = Instant::now();
        let (mut transfer, mut step) = Transfer::start(memory(&[7; 9000]), &request(&options), LARGEST_WINDOW, now);
        for packet in said {
            if transfer.is_proven() {
                break;
            }
            if step == Step::Send {
                prop_assert!(transfer.bytes().len() <= 4 + 512);
            }
            step = match packet {
                Some(packet) => transfer.packet(&packet, now),
                None => {
                    now = transfer.deadline();
                    transfer.timed_out(now)
                }
            };
        }
    }

    #[test]
    fn a_file_arrives_whole_however_packets_are_lost(
        file in prop::collection::vec(any::<u8>(), 0..5000),
        block in 8..600_u32,
        window in 1..10_u32,
        losses in prop::collection::vec(prop::bool::weighted(0.2), 0..60),
    ) {
        let (block, window) = (block.to_string(), window.to_string());
        let request = request(&[("blksize", &block), ("windowsize", &window)]);
        if let Some(got) = receive(&file, &request, losses.into_iter()) {
            prop_assert_eq!(got, file);
        }
    }
}
