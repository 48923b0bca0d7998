//! The mails of a load: addresses that carry their number, and content of a chosen size.
//!
//! Invariants worth naming: everything follows from the numbers alone, so that two runs send the same mails; numbers have
//! nine digits, so that all mails of one size have one length; lines never start with a dot, so that nothing needs
//! stuffing; bodies are parts of one text that is made once, so that a mail costs a header's copy.

use super::draw::Draw;
use crate::clock;
use crate::sink::ID_HEADER;

/// One line of every body.
const LINE: &str = "The quick brown fox jumps over the lazy dog, and the mail goes out in time.\r\n";
/// Fills a body to its size, and ends the data: a part from some place to its end is a line and `.`.
const TAIL: &str = concat!(
    "What is left of the size is filled by the end of this line: its length is what counts, and",
    " not what it says\r\n.\r\n"
);
/// The end of data in [`TAIL`].
const END: usize = ".\r\n".len();
/// Digits of a number.
const DIGITS: usize = 9;

/// What tells the draws of one mail apart.
const SALT_SIZE: u64 = 1;
const SALT_DOMAIN: u64 = 2;
const SALT_RECIPIENTS: u64 = 3;

/// The recipients of one mail or job: every `stride`th number from `first` to `last`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers {
    pub first: u64,
    pub count: u64,
    pub stride: u64,
}

impl Numbers {
    /// All of them, ascending.
    pub fn iter(self) -> impl Iterator<Item = u64> {
        (0..self.count).map(move |index| self.first + index * self.stride)
    }

    /// The last one.
    pub fn last(self) -> u64 {
        self.first + self.count.saturating_sub(1) * self.stride
    }
}

/// Makes messages.
pub struct Composer {
    sender: String,
    /// What follows the number in an address, `@` first.
    domains: Vec<String>,
    by_popularity: Draw,
    sizes: Draw,
    recipients: Draw,
    date: String,
    body: String,
    /// The body's lines as they stand in a JSON string.
    json_body: String,
}

/// What a composer makes its mails by.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Envelope and header sender.
    pub sender: String,
    /// Recipient domains.
    pub domains: Vec<String>,
    /// Draws a domain's index.
    pub by_popularity: Draw,
    /// Octets of a message, header and body.
    pub sizes: Draw,
    /// Recipients of a mail or job.
    pub recipients: Draw,
}

impl Mix {
    /// Mails of one recipient from `sender` to `domains`, all alike popular.
    pub fn new(sender: &str, domains: Vec<String>, sizes: Draw) -> Self {
        let last = u32::try_from(domains.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let by_popularity = Draw::even(0, last);
        Self { sender: sender.into(), domains, by_popularity, sizes, recipients: Draw::Fixed(1) }
    }
}

impl Composer {
    /// # Panics
    /// `mix` has no domain.
    pub fn new(mix: Mix) -> Self {
        assert!(!mix.domains.is_empty(), "mail needs a recipient domain");
        let lines = mix.sizes.max() as usize / LINE.len() + 1;
        Self {
            sender: mix.sender,
            domains: mix.domains.iter().map(|domain| format!("@{domain}")).collect(),
            by_popularity: mix.by_popularity,
            recipients: mix.recipients,
            date: clock::now_rfc5322(),
            body: LINE.repeat(lines),
            json_body: json_line().repeat(lines),
            sizes: mix.sizes,
        }
    }

    /// The envelope's and the header's sender.
    pub fn sender(&self) -> &str {
        &self.sender
    }

    /// The address of recipient `number`.
    pub fn recipient(&self, number: u64) -> String {
        let mut address = Vec::new();
        self.push_recipient(number, &mut address);
        String::from_utf8_lossy(&address).into_owned()
    }

    /// Appends the address of recipient `number`.
    pub(super) fn push_recipient(&self, number: u64, to: &mut Vec<u8>) {
        to.push(b'm');
        push_number(number, to);
        let index = self.by_popularity.at(number, SALT_DOMAIN) as usize;
        to.extend_from_slice(self.domains[index.min(self.domains.len() - 1)].as_bytes());
    }

    /// The size of mail `number`, octets.
    pub fn size(&self, number: u64) -> usize {
        self.sizes.at(number, SALT_SIZE) as usize
    }

    /// How many recipients the `index`th mail or job has, at least one.
    pub(super) fn recipients(&self, index: u64) -> u64 {
        u64::from(self.recipients.at(index, SALT_RECIPIENTS).max(1))
    }

    /// The message for `numbers`: its header goes into `head`; gives the two parts of the body, the second of which ends
    /// the data. Header and body have [`Self::size`] octets together, or a little more than the header where that is
    /// larger.
    pub(super) fn message<'a>(&'a self, numbers: Numbers, head: &mut Vec<u8>) -> [&'a [u8]; 2] {
        head.clear();
        let mut text = |text: &str| head.extend_from_slice(text.as_bytes());
        text("Date: ");
        text(&self.date);
        text("\r\nFrom: <");
        text(&self.sender);
        text(">\r\nTo: <");
        self.push_recipient(numbers.first, head);
        head.extend_from_slice(b">\r\nSubject: Mail number ");
        push_number(numbers.first, head);
        head.extend_from_slice(b"\r\nMessage-ID: <bench.");
        push_number(numbers.first, head);
        head.extend_from_slice(self.domains[0].as_bytes());
        head.extend_from_slice(b">\r\n");
        head.extend_from_slice(ID_HEADER.as_bytes());
        head.extend_from_slice(b": ");
        push_number(numbers.first, head);
        head.push(b'-');
        push_number(numbers.last(), head);
        head.extend_from_slice(b"\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n");
        self.body(self.size(numbers.first).saturating_sub(head.len()))
    }

    /// A body of `size` octets and the end of data. The smallest one is an empty line.
    fn body(&self, size: usize) -> [&[u8]; 2] {
        let size = size.max(2);
        let mut lines = (size / LINE.len()).min(self.body.len() / LINE.len());
        if size - lines * LINE.len() == 1 {
            // A line of one octet is none: the last two are one longer line.
            lines -= 1;
        }
        let rest = (size - lines * LINE.len()).min(TAIL.len() - END);
        let tail = if rest == 0 { &TAIL[TAIL.len() - END..] } else { &TAIL[TAIL.len() - END - rest..] };
        [&self.body.as_bytes()[..lines * LINE.len()], tail.as_bytes()]
    }

    /// Whole lines, at most `octets` of them (one at least), as they stand within a JSON string.
    pub(super) fn json_lines(&self, octets: usize) -> &str {
        let lines = (octets / LINE.len()).clamp(1, self.body.len() / LINE.len());
        &self.json_body[..lines * json_line().len()]
    }
}

/// [`LINE`] as it stands within a JSON string.
fn json_line() -> String {
    LINE.replace("\r\n", "\\r\\n")
}

/// Appends `number` with [`DIGITS`] digits, or with as many as it takes.
pub(super) fn push_number(number: u64, to: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut left = number;
    let mut at = digits.len();
    while left > 0 || at > digits.len() - DIGITS {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    to.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composer(sizes: Draw) -> Composer {
        let domains = (0..20).map(|index| format!("d{index}.demo.test")).collect();
        Composer::new(Mix::new("news@a.test", domains, sizes))
    }

    fn whole(composer: &Composer, number: u64) -> String {
        let mut head = Vec::new();
        let [lines, tail] = composer.message(Numbers { first: number, count: 1, stride: 1 }, &mut head);
        String::from_utf8([head.as_slice(), lines, tail].concat()).expect("ASCII")
    }

    #[test]
    fn messages_have_their_size_to_the_octet_at_every_remainder() {
        for size in 1_000..1_200 {
            let text = whole(&composer(Draw::Fixed(size)), 7);
            assert_eq!(text.len(), size as usize + END, "{text}");
            assert!(text.ends_with("\r\n.\r\n"), "{text}");
            let body = &text[..text.len() - END];
            assert!(!body.contains("\r\r") && body.matches('\r').count() == body.matches('\n').count());
        }
    }

    #[test]
    fn only_the_end_of_data_is_a_line_with_a_single_dot() {
        for size in 900..1_100 {
            let text = whole(&composer(Draw::Fixed(size)), 7);
            assert_eq!(text.find("\r\n.\r\n"), Some(text.len() - 5), "{text}");
        }
    }

    #[test]
    fn a_size_below_the_header_is_the_header_and_an_empty_line() {
        let text = whole(&composer(Draw::Fixed(1)), 7);
        assert!(text.ends_with("\r\n\r\n\r\n.\r\n"), "{text:?}");
    }

    #[test]
    fn a_recipients_address_carries_its_number() {
        let address = composer(Draw::Fixed(1_000)).recipient(41);
        assert!(address.starts_with("m000000041@d") && address.ends_with(".demo.test"), "{address}");
        let mut text = Vec::new();
        push_number(12_345_678_901, &mut text);
        assert_eq!(text, b"12345678901");
    }

    #[test]
    fn strided_numbers_keep_to_their_lane() {
        let numbers = Numbers { first: 1, count: 3, stride: 2 };
        assert_eq!((numbers.iter().collect::<Vec<_>>(), numbers.last()), (vec![1, 3, 5], 5));
    }
}
