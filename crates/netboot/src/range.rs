//! `Range: bytes=…` of an HTTP request (RFC 9110, section 14).

/// What to send of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it, with 200.
    Whole,
    /// `length` bytes from `start`, with 206.
    Range { start: u64, length: u64 },
    /// Nothing, with 416.
    Unsatisfiable,
}

/// What a `Range` header asks of a file of `size` bytes. A header that is malformed, in another
/// unit, or for several ranges is ignored, as the RFC allows: the client then gets it all.
pub fn part(header: Option<&str>, size: u64) -> Part {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return Part::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Part::Whole };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first, last) {
        ("", suffix) => match number(suffix) {
            None => Part::Whole,
            Some(0) => Part::Unsatisfiable,
            Some(_) if size == 0 => Part::Unsatisfiable,
            Some(length) => {
                let length = length.min(size);
                Part::Range { start: size - length, length }
            }
        },
        (first, last) => match (number(first), last, number(last)) {
            (Some(start), "", _) => from(start, u64::MAX, size),
            (Some(start), _, Some(end)) if start <= end => from(start, end, size),
            _ => Part::Whole,
        },
    }
}

fn from(start: u64, end: u64, size: u64) -> Part {
    if start >= size {
        return Part::Unsatisfiable;
    }
    Part::Range { start, length: end.min(size - 1) - start + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc() {
        let range = |start, length| Part::Range { start, length };
        assert_eq!(part(Some("bytes=0-499"), 10_000), range(0, 500));
        assert_eq!(part(Some("bytes=9500-"), 10_000), range(9500, 500));
        assert_eq!(part(Some("bytes=-500"), 10_000), range(9500, 500));
        assert_eq!(part(Some("bytes=9900-20000"), 10_000), range(9900, 100));
        assert_eq!(part(Some("bytes=10000-"), 10_000), Part::Unsatisfiable);
        assert_eq!(part(Some("bytes=0-0,-1"), 10_000), Part::Whole);
        assert_eq!(part(Some("lines=1-2"), 10_000), Part::Whole);
        assert_eq!(part(Some("bytes=5-2"), 10_000), Part::Whole);
        assert_eq!(part(None, 10_000), Part::Whole);
    }

    proptest! {
        #[test]
        fn a_part_never_leaves_the_file(header: String, size: u64) {
            for header in [header.clone(), format!("bytes={header}")] {
                if let Part::Range { start, length } = part(Some(&header), size) {
                    prop_assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= size));
                }
            }
        }

        #[test]
        fn two_halves_make_the_whole(size in 1..u64::MAX, cut: u64) {
            let cut = cut % size;
            let head = part(Some(&format!("bytes=0-{cut}")), size);
            prop_assert_eq!(head, Part::Range { start: 0, length: cut + 1 });
            if cut + 1 < size {
                let tail = part(Some(&format!("bytes={}-", cut + 1)), size);
                prop_assert_eq!(tail, Part::Range { start: cut + 1, length: size - cut - 1 });
            }
        }
    }
}
