//! Message content as it arrives by DATA or BDAT: dots unstuffed, line ends and lengths checked, size bounded.
//!
//! Input is scanned for CR and LF only, and copied in whole runs: a line edge that needs no change costs no copy of its
//! own.
//!
//! Invariants worth naming:
//! - only CRLF `.` CRLF, or `.` CRLF at the very beginning, ends DATA (RFC 5321 4.1.1.4): LF `.` LF and its kin are
//!   content, and content with a bare CR or LF has a defect;
//! - content with a defect is dropped at once and the rest of it only counted;
//! - how the input is cut decides nothing: of several defects the first counts, and before any of them that it is too big,
//!   as it would have been said at MAIL to who tells the size.

use postrail_schema::limits::MESSAGE_LINE_BYTES_MAX;

/// Why content cannot be taken: that it is too big, or else the first defect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Defect {
    BareCr,
    BareLf,
    LineTooLong,
    TooBig,
}

/// Collects content.
#[derive(Debug)]
pub(super) struct ContentReader {
    content: Vec<u8>,
    bytes_max: usize,
    /// DATA: dots are stuffed and end the content.
    dots: bool,
    edge: Edge,
    /// Octets of the line so far, without its end.
    line_bytes: usize,
    /// All octets taken, also dropped ones.
    taken_bytes: u64,
    /// Octets of the content so far, also dropped ones.
    content_bytes: usize,
    defect: Option<Defect>,
}

/// Where the reader is within a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Edge {
    /// At the beginning of the content or after CRLF.
    Start,
    /// After a dot at the start.
    Dot,
    /// After dot and CR at the start.
    DotCr,
    Within,
    /// After a CR within a line.
    Cr,
}

impl ContentReader {
    /// A reader for DATA. `size` is the client's estimate in octets.
    pub(super) fn data(bytes_max: usize, size: Option<u64>) -> Self {
        Self::new(bytes_max, size, true)
    }

    /// A reader for BDAT chunks.
    pub(super) fn chunks(bytes_max: usize, size: Option<u64>) -> Self {
        Self::new(bytes_max, size, false)
    }

    fn new(bytes_max: usize, size: Option<u64>, dots: bool) -> Self {
        let estimate = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        Self {
            content: Vec::with_capacity(estimate.clamp(CAPACITY_BYTES_MIN, CAPACITY_BYTES_MAX).min(bytes_max)),
            bytes_max,
            dots,
            edge: Edge::Start,
            line_bytes: 0,
            taken_bytes: 0,
            content_bytes: 0,
            defect: None,
        }
    }

    /// Octets held.
    pub(super) const fn buffered_bytes(&self) -> usize {
        self.content.len()
    }

    /// All octets taken so far.
    pub(super) const fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    pub(super) const fn defect(&self) -> Option<Defect> {
        self.defect
    }

    /// Takes octets from the front of `input`. Returns how many, and whether they end the content (never for chunks).
    pub(super) fn push(&mut self, input: &[u8]) -> (usize, bool) {
        let (at, ended) = self.scan(input);
        self.taken_bytes += at as u64;
        (at, ended)
    }

    fn scan(&mut self, input: &[u8]) -> (usize, bool) {
        let mut at = 0;
        // First octet that is content and not copied yet.
        let mut from = 0;
        while let Some(&octet) = input.get(at) {
            match self.edge {
                Edge::Start if octet == b'.' && self.dots => {
                    self.keep(&input[from..at]);
                    at += 1;
                    from = at;
                    self.edge = Edge::Dot;
                }
                Edge::Dot if octet == b'\r' => {
                    at += 1;
                    from = at;
                    self.edge = Edge::DotCr;
                }
                Edge::DotCr if octet == b'\n' => return (at + 1, true),
                Edge::DotCr => {
                    self.spoil(Defect::BareCr);
                    self.edge = Edge::Within;
                }
                Edge::Cr if octet == b'\n' => {
                    at += 1;
                    self.end_line();
                    self.edge = Edge::Start;
                }
                Edge::Cr => {
                    self.spoil(Defect::BareCr);
                    self.edge = Edge::Within;
                }
                Edge::Start | Edge::Dot | Edge::Within => at += self.scan_line(&input[at..]),
            }
        }
        self.keep(&input[from..at]);
        (at, false)
    }

    /// Goes to the next CR or LF, or to the end. Returns how many octets are passed.
    fn scan_line(&mut self, input: &[u8]) -> usize {
        self.edge = Edge::Within;
        let Some(end) = memchr::memchr2(b'\r', b'\n', input) else {
            self.line_bytes += input.len();
            return input.len();
        };
        self.line_bytes += end;
        if input[end] == b'\r' {
            self.edge = Edge::Cr;
        } else {
            // The next line does not count as one: a dot there neither ends the content nor is taken away.
            self.spoil(Defect::BareLf);
            self.end_line();
        }
        end + 1
    }

    fn end_line(&mut self) {
        if self.line_bytes > MESSAGE_LINE_BYTES_MAX {
            self.spoil(Defect::LineTooLong);
        }
        self.line_bytes = 0;
    }

    fn keep(&mut self, octets: &[u8]) {
        self.content_bytes = self.content_bytes.saturating_add(octets.len());
        if self.content_bytes > self.bytes_max {
            self.spoil(Defect::TooBig);
        } else if self.defect.is_none() {
            self.content.extend_from_slice(octets);
        }
    }

    fn spoil(&mut self, defect: Defect) {
        if self.defect.is_none() || defect == Defect::TooBig {
            self.defect = Some(defect);
            self.content = Vec::new();
        }
    }

    /// The content, CRLF at its end.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, Defect> {
        if self.edge == Edge::Cr {
            self.spoil(Defect::BareCr);
        }
        let unfinished_line = self.line_bytes > 0;
        self.end_line();
        if unfinished_line && self.edge == Edge::Within {
            self.keep(b"\r\n");
        }
        match self.defect {
            Some(defect) => Err(defect),
            None => Ok(self.content),
        }
    }
}

/// Octets reserved before the first arrives, however large the client says the message is.
const CAPACITY_BYTES_MAX: usize = 1024 * 1024;
const CAPACITY_BYTES_MIN: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Content by DATA cut into pieces of `cut` octets, and how many octets were taken.
    fn data(input: &[u8], cut: usize) -> (Option<Result<Vec<u8>, Defect>>, usize) {
        let mut reader = ContentReader::data(10_000, None);
        let mut at = 0;
        while at < input.len() {
            let (taken, ended) = reader.push(&input[at..input.len().min(at + cut)]);
            at += taken;
            if ended {
                return (Some(reader.finish()), at);
            }
        }
        (None, at)
    }

    #[test]
    fn dots_are_unstuffed_and_end_the_content() {
        for (input, content) in [
            (".\r\n", ""),
            ("a\r\n.\r\n", "a\r\n"),
            ("..\r\n.\r\n", ".\r\n"),
            ("..a\r\n.b\r\n...\r\n\r\n.\r\n", ".a\r\nb\r\n..\r\n\r\n"),
            ("a.\r\n.\r\n", "a.\r\n"),
        ] {
            for cut in 1..=input.len() {
                assert_eq!(data(input.as_bytes(), cut), (Some(Ok(content.into())), input.len()), "{input:?} by {cut}");
            }
        }
    }

    #[test]
    fn only_crlf_dot_crlf_ends_data() {
        for (input, defect) in [
            ("a\n.\n", Defect::BareLf),
            ("a\n.\r\n", Defect::BareLf),
            ("a\r\n.\n", Defect::BareLf),
            ("a\r.\r\n", Defect::BareCr),
            ("a\r.\r", Defect::BareCr),
            ("a\r\n.\r", Defect::BareCr),
            ("a\r\r\nb", Defect::BareCr),
            (".\rx", Defect::BareCr),
        ] {
            let whole = format!("{input}b\r\n.\r\nQUIT\r\n");
            for cut in 1..=whole.len() {
                let (end, at) = data(whole.as_bytes(), cut);
                assert_eq!((end, at), (Some(Err(defect)), whole.len() - 6), "{input:?} by {cut}");
            }
        }
    }

    #[test]
    fn long_lines_and_large_content_are_defects() {
        let line = "x".repeat(MESSAGE_LINE_BYTES_MAX);
        assert!(matches!(data(format!("{line}\r\n.\r\n").as_bytes(), 7).0, Some(Ok(_))));
        assert_eq!(data(format!("{line}x\r\n.\r\n").as_bytes(), 7).0, Some(Err(Defect::LineTooLong)));
        assert_eq!(data(format!("{}.\r\n", "x\r\n".repeat(4_000)).as_bytes(), 7).0, Some(Err(Defect::TooBig)));
    }

    #[test]
    fn that_content_is_too_big_is_told_before_what_else_is_wrong_with_it() {
        let long = "x".repeat(10_001);
        let lines = "x\r\n".repeat(4_000);
        for input in [
            format!("{long}\r\n.\r\n"),
            format!("a\nb\r\n{lines}.\r\n"),
            format!("{lines}a\rb\r\n.\r\n"),
            format!("{long}\n.\r\n{lines}.\r\n"),
        ] {
            for cut in [1, 7, 999, 10_000, input.len()] {
                let (end, at) = data(input.as_bytes(), cut);
                assert_eq!((end, at), (Some(Err(Defect::TooBig)), input.len()), "by {cut}");
            }
        }
    }

    #[test]
    fn chunks_keep_their_dots_and_get_a_last_line_end() {
        for (input, content) in
            [("", Ok("")), (".\r\n..", Ok(".\r\n..\r\n")), ("a\r\n", Ok("a\r\n")), ("a\r", Err(Defect::BareCr))]
        {
            let mut reader = ContentReader::chunks(100, None);
            for octet in input.as_bytes() {
                assert_eq!(reader.push(std::slice::from_ref(octet)), (1, false));
            }
            assert_eq!(reader.finish(), content.map(Into::into), "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn the_cut_changes_nothing(input in "[.ab\r\n]{0,60}", cut in 1_usize..20) {
            prop_assert_eq!(data(input.as_bytes(), cut), data(input.as_bytes(), 1));
        }

        #[test]
        fn stuffed_lines_come_back(lines in proptest::collection::vec("[.a-z]{0,12}", 0..20), cut in 1_usize..40) {
            let content: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let dot = |line: &String| if line.starts_with('.') { "." } else { "" };
            let wire: String = lines.iter().map(|line| format!("{}{line}\r\n", dot(line))).collect();
            let (end, _) = data(format!("{wire}.\r\n").as_bytes(), cut);
            prop_assert_eq!(end, Some(Ok(content.into_bytes())));
        }

        #[test]
        fn any_octets_stay_within_bounds(pieces: Vec<Vec<u8>>, max in 0_usize..200) {
            let mut reader = ContentReader::data(max, Some(u64::MAX));
            for piece in &pieces {
                let (taken, ended) = reader.push(piece);
                prop_assert!(taken <= piece.len() && reader.buffered_bytes() <= max);
                if ended {
                    break;
                }
            }
        }
    }
}
