//! Secrets out of what is kept: the end of a command's output, with every known secret value blotted out.
//!
//! What counts as a secret: every value of the Secrets concerned, line by line where it has several, as it is and in base64
//! (as `kubectl get secret` prints it, or wrapped at 76 columns as `base64` does). Not masked: values under four bytes,
//! which would blot out everything, and keys that say who, not how: `username`, `user`, `ca.crt`, `tls.crt`. An encoding
//! that a command makes up itself cannot be known.

use base64::Engine as _;

/// How much of the end of an output is kept, in bytes.
pub const KEEP: usize = 8 << 10;
/// Shorter values are not masked.
const SHORTEST: usize = 4;
/// Shorter lines of a value of several lines are not masked.
const SHORTEST_LINE: usize = 8;
/// No needle is longer; longer values are cut into pieces of this length, each of them a needle.
const LONGEST: usize = 1 << 10;
/// Keys of Secrets whose values are no secrets.
const PUBLIC_KEYS: &[&str] = &["username", "user", "ca.crt", "tls.crt"];
/// What stands in the place of a secret.
const BLOT: &str = "***";

/// The secret values known.
#[derive(Clone, Default)]
pub struct Masks {
    needles: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Masks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masks").field("needles", &self.needles.len()).finish()
    }
}

impl Masks {
    /// Adds one key of a Secret.
    pub fn add(&mut self, key: &str, value: &[u8]) {
        if PUBLIC_KEYS.contains(&key) {
            return;
        }
        let whole = value.trim_ascii();
        let lines: Vec<&[u8]> = whole.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).collect();
        let shortest = if lines.len() > 1 { SHORTEST_LINE } else { SHORTEST };
        for line in lines.into_iter().filter(|l| l.len() >= shortest) {
            self.needle(line);
        }
        if whole.len() < SHORTEST {
            return;
        }
        // As it is stored (with its last newline) and as people pipe it (without).
        for form in [value, whole] {
            for encoded in [base64::prelude::BASE64_STANDARD.encode(form), base64::prelude::BASE64_URL_SAFE.encode(form)] {
                let encoded = encoded.trim_end_matches('=').as_bytes();
                // A last row of a few letters is masked with the row before it.
                let rows = encoded.len().div_ceil(76);
                let last = (rows.saturating_sub(1) * 76).min(encoded.len());
                for row in encoded.chunks(76).filter(|row| row.len() >= SHORTEST_LINE || rows == 1) {
                    self.needle(row);
                }
                if rows > 1 && encoded.len() - last < SHORTEST_LINE {
                    self.needle(&encoded[last - 76..]);
                }
            }
        }
    }

    fn needle(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(LONGEST).filter(|p| p.len() >= SHORTEST) {
            if !self.needles.iter().any(|n| n == piece) {
                self.needles.push(piece.to_vec());
            }
        }
    }

    /// Where secrets are, merged and in order.
    fn spans(&self, hay: &[u8]) -> Vec<(usize, usize)> {
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for needle in &self.needles {
            let first = needle[0];
            let mut at = 0;
            while let Some(next) = hay[at..].iter().position(|b| *b == first) {
                at += next;
                if hay[at..].starts_with(needle) {
                    spans.push((at, at + needle.len()));
                }
                at += 1;
            }
        }
        spans.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (from, to) in spans {
            match merged.last_mut() {
                Some((_, end)) if from <= *end => *end = (*end).max(to),
                _ => merged.push((from, to)),
            }
        }
        merged
    }

    /// A whole text with the secrets blotted out.
    pub fn text(&self, text: &str) -> String {
        self.show(text.as_bytes(), 0)
    }

    fn show(&self, hay: &[u8], from: usize) -> String {
        let mut shown = Vec::with_capacity(hay.len() - from);
        let mut at = from;
        for (start, end) in self.spans(hay) {
            if end <= at {
                continue;
            }
            shown.extend_from_slice(&hay[at..start.max(at)]);
            shown.extend_from_slice(BLOT.as_bytes());
            at = end;
        }
        shown.extend_from_slice(&hay[at..]);
        // What is kept is shown on terminals and in reports: no escape sequences.
        String::from_utf8_lossy(&shown).chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
    }
}

/// The end of an output, gathered within a bound.
#[derive(Debug, Default)]
pub(super) struct Tail {
    window: Vec<u8>,
    dropped: u64,
}

impl Tail {
    /// Adds what came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.window.extend_from_slice(bytes);
        // Room for a secret that lies across the beginning of what is kept; cut seldom, so that it stays linear.
        if self.window.len() > 4 * (KEEP + LONGEST) {
            let surplus = self.window.len() - (KEEP + LONGEST);
            self.window.drain(..surplus);
            self.dropped += surplus as u64;
        }
    }

    /// The last [`KEEP`] bytes with the secrets blotted out, after a line that says how much came before.
    pub(super) fn show(&self, masks: &Masks) -> String {
        // A secret of which only the end is in the window ends within the first LONGEST bytes, and those are not shown
        // when anything was dropped.
        let hidden = if self.dropped > 0 { LONGEST } else { 0 };
        let from = self.window.len().saturating_sub(KEEP).max(hidden.min(self.window.len()));
        let text = masks.show(&self.window, from);
        let before = self.dropped + from as u64;
        if before == 0 { text } else { format!("… {before} bytes before\n{text}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(values: &[(&str, &str)]) -> Masks {
        let mut masks = Masks::default();
        for (key, value) in values {
            masks.add(key, value.as_bytes());
        }
        masks
    }

    #[test]
    fn values_lines_and_base64_are_blotted_out() {
        let m = masks(&[
            ("password", "hunter22\n"),
            ("username", "checkout"),
            ("conf", "[global]\nrepo1-cipher-pass=abcdefgh\nx"),
            ("pin", "123"),
        ]);
        assert_eq!(m.text("checkout:hunter22@db hunter2 123"), "checkout:***@db hunter2 123");
        assert_eq!(m.text("repo1-cipher-pass=abcdefgh"), "***");
        // `kubectl get secret -o yaml` and `printf %s … | base64`.
        assert_eq!(m.text("password: aHVudGVyMjIK"), "password: ***");
        assert_eq!(m.text("aHVudGVyMjI="), "***=");
    }

    #[test]
    fn overlapping_secrets_leave_nothing_between() {
        let m = masks(&[("a", "abcdef"), ("b", "defghi"), ("c", "cdefg")]);
        assert_eq!(m.text("<abcdefghi>"), "<***>");
        assert_eq!(m.text("<abcdef><defghi>"), "<***><***>");
    }

    #[test]
    fn a_long_value_is_blotted_out_wrapped_or_not() {
        let value: String = (0..100).map(|n| char::from(b'a' + n % 26)).collect();
        let m = masks(&[("key", &value)]);
        let encoded = base64::prelude::BASE64_STANDARD.encode(&value);
        let wrapped = format!("{}\n{}", &encoded[..76], &encoded[76..]);
        assert_eq!(m.text(&encoded).replace('=', ""), "***");
        assert_eq!(m.text(&wrapped).replace('=', ""), "***\n***");
    }

    #[test]
    fn only_the_end_is_kept_and_no_piece_of_a_secret_with_it() {
        let secret = "s3cret-".repeat(20);
        let m = masks(&[("password", &secret)]);
        // The secret lies across every possible beginning of what is kept.
        for shift in 0..secret.len() + 20 {
            let mut tail = Tail::default();
            for _ in 0..12 {
                tail.push(&vec![b'x'; 4096]);
                tail.push(secret.as_bytes());
            }
            tail.push(&vec![b'y'; KEEP - shift]);
            let shown = tail.show(&m);
            assert!(!shown.contains("3cret"), "{shift}: {shown:.300}");
            assert!(shown.starts_with("… ") && shown.len() <= KEEP + 60);
        }
    }

    #[test]
    fn a_piece_of_a_secret_at_the_windows_edge_is_not_shown() {
        let secret = "0123456789abcdef".repeat(60);
        let m = masks(&[("key", &secret)]);
        let mut tail = Tail::default();
        for _ in 0..200 {
            tail.push(secret.as_bytes());
            tail.push(b"\n");
        }
        assert!(!tail.show(&m).contains("0123456789"), "{:.300}", tail.show(&m));
    }

    #[test]
    fn escape_sequences_do_not_get_through() {
        assert_eq!(Masks::default().text("a\u{1b}[2Jb\r\nc\td"), "a[2Jb\nc\td");
    }
}
