//! Text of others as it may be shown: nothing in it moves a cursor, turns the order of what stands beside it, or hides.
//!
//! What breaks a line becomes a space, and any other character that is not shown becomes `U+FFFD`, so that whoever reads
//! sees that something was there. Text that is too long ends in `…`.

/// What stands in the place of a character that was taken out.
pub const TAKEN_OUT: char = char::REPLACEMENT_CHARACTER;
/// What text ends in that was cut.
pub const CUT: char = '…';
/// Marks that may stand on one letter. More of them grow over the lines above and below.
const MOST_MARKS: usize = 4;

/// Characters that are not seen themselves and change what is: Unicode's `Default_Ignorable_Code_Point`, the separators of
/// lines and paragraphs, what turns the direction of text, and what is no character.
fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Marks that are drawn on the letter before them, of the blocks that have nothing else.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

/// Whether it may stand in a line for people.
pub fn is_plain(c: char) -> bool {
    !c.is_control() && !is_hidden(c)
}

/// Shows one character after another.
#[derive(Default)]
struct Shown {
    marks: usize,
}

impl Shown {
    fn next(&mut self, c: char) -> char {
        if is_mark(c) {
            self.marks += 1;
            if self.marks <= MOST_MARKS {
                return c;
            }
        }
        self.marks = 0;
        match c {
            '\t'..='\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => ' ',
            c if is_mark(c) || !is_plain(c) => TAKEN_OUT,
            c => c,
        }
    }
}

/// As one line of at most so many bytes, which are at least those of [`CUT`].
pub fn line(text: &str, most: usize) -> String {
    let (mut line, mut shown, mut fits) = (String::new(), Shown::default(), 0);
    for c in text.chars() {
        let c = shown.next(c);
        if line.len() + c.len_utf8() > most {
            line.truncate(fits);
            line.push(CUT);
            break;
        }
        line.push(c);
        if line.len() + CUT.len_utf8() <= most {
            fits = line.len();
        }
    }
    line
}

/// All of it, with its newlines and tabs.
pub fn lines(text: &str) -> String {
    let mut shown = Shown::default();
    let mut letters = text.chars().peekable();
    let mut plain = String::with_capacity(text.len());
    while let Some(c) = letters.next() {
        match c {
            '\r' if letters.peek() == Some(&'\n') => {}
            '\n' | '\t' => plain.push(c),
            c => plain.push(shown.next(c)),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_taken_out_and_is_seen_to_be() {
        assert_eq!(line("a\u{1b}[2Jb\u{9b}31mc\u{7}", 99), "a\u{fffd}[2Jb\u{fffd}31mc\u{fffd}");
        assert_eq!(line("no\nnode\r\tis\u{2028}ready", 99), "no node  is ready");
        assert_eq!(line("m1\u{202e}1m\u{2066}\u{200f}\u{61c}", 99), "m1\u{fffd}1m\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(line("m\u{200b}1\u{feff}", 99), "m\u{fffd}1\u{fffd}");
        assert_eq!(line("Größe: 5 µm, 日本, é", 99), "Größe: 5 µm, 日本, é");
        assert_eq!(line(&format!("o{}k", "\u{301}".repeat(400)), 9999).matches('\u{301}').count(), 320);
        assert_eq!(lines("a\r\nb\tc\rd\u{1b}]0;x\u{7}\n"), "a\nb\tc d\u{fffd}]0;x\u{fffd}\n");
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        assert_eq!((line("12345", 5), line("123456", 5)), ("12345".into(), "12…".into()));
        assert_eq!(line("ääää", 7), "ää…");
        assert_eq!(line("123456", 3), "…");
    }

    proptest! {
        #[test]
        fn any_text_is_plain_and_bounded_and_stays_so(text: String, most in 3..200_usize) {
            let once = line(&text, most);
            prop_assert!(once.len() <= most && once.chars().all(is_plain), "{once:?}");
            prop_assert_eq!(line(&once, most), once);
            let whole = lines(&text);
            prop_assert!(whole.chars().all(|c| is_plain(c) || matches!(c, '\n' | '\t')), "{whole:?}");
            prop_assert_eq!(lines(&whole), whole);
        }
    }
}
