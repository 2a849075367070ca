//! What DHCP and TFTP turn away, as a person and a monitoring system are told of it: a flood on the wire, or a setting
//! that is too tight.

use bramble_netboot::away::{Away, Count, Counts};

/// Seconds for which the last one is a problem.
const PRESENT: u64 = 300;

/// What is being turned away at present, at `now` in seconds since the epoch.
pub(crate) fn problems(counts: &Counts, now: u64) -> Vec<String> {
    let all = counts.all().into_iter();
    let present = all.filter(|(_, count)| count.times > 0 && now.saturating_sub(count.last) < PRESENT);
    present.map(|(away, count)| sentence(away, &count)).collect()
}

fn sentence(away: Away, Count { times, who, .. }: &Count) -> String {
    let (what, then) = match away {
        Away::Share => (
            "DHCP gave machines that the repository does not have no address",
            "nodes get theirs. Either somebody makes up cards, or `pool` is too small for this wire's machines",
        ),
        Away::Exhausted => (
            "DHCP had no address for a node",
            "enlarge `pool`, or give nodes a fixed `address`: it has to hold every card that is declared without one",
        ),
        Away::Relay => (
            "DHCP did not answer what came by a relay that its subnet does not name",
            "where it is yours, add it to `relays` of `[network.subnets.NAME]` (of `[network]` for the head's own wire), \
             apply that, and start the head again",
        ),
        Away::Waiting => (
            "DHCP left machines unanswered, since too many answers waited for the disk",
            "they ask again. Either somebody floods the wire, or the disk is very slow",
        ),
        Away::Address => (
            "TFTP was asked for more by one address than a machine asks for",
            "look for what floods the wire from there, or in that address's name",
        ),
        Away::Strangers => (
            "TFTP was asked for more by machines that DHCP does not know as nodes than is served to such",
            "nodes go first. Look for what floods the wire",
        ),
        Away::Full => ("TFTP has as many transfers as it serves at once", "machines ask again"),
    };
    let times = if *times == 1 { "once".to_owned() } else { format!("{times} times") };
    format!("{what} ({times} since the head started, the last {who}): {then}")
}

#[cfg(test)]
mod tests {
    use bramble_netboot::away::Turned;

    use super::*;

    #[test]
    fn a_flood_is_a_problem_while_it_lasts_and_says_what_to_look_for() {
        let counts = Counts::default();
        assert_eq!(problems(&counts, 1000), Vec::<String>::new());
        for (number, away) in Away::ALL.into_iter().enumerate() {
            for _ in 0..=number {
                counts.add(Turned { away, who: "10.77.0.9:2070".into() }, 1000);
            }
        }
        insta::assert_snapshot!(problems(&counts, 1000 + PRESENT - 1).join("\n"));
        assert_eq!(problems(&counts, 1000 + PRESENT), Vec::<String>::new());
    }
}
