//! The mails of a load: addresses that carry their number, and content of a chosen size.
//!
//! Invariants worth naming: everything follows from the number alone, so that two runs send the same mails; lines have
//! 76 octets and never start with a dot, so that nothing needs stuffing.

use std::fmt::Write;

use super::Sizes;
use crate::sink::ID_HEADER;

const LINE: &str = "The quick brown fox jumps over the lazy dog, and the mail goes out in time.\r\n";

/// Makes messages.
pub struct Composer {
    sender: String,
    /// Recipients are spread over the domains `d0` to `d<n-1>` of this zone.
    zone: String,
    domains: u64,
    sizes: Sizes,
    filler: String,
}

impl Composer {
    /// Mails from `sender` to `domains` domains below `zone`, of `sizes` octets.
    pub fn new(sender: &str, zone: &str, domains: u64, sizes: Sizes) -> Self {
        let filler = LINE.repeat(sizes.end() / LINE.len() + 1);
        Self { sender: sender.into(), zone: zone.into(), domains: domains.max(1), sizes, filler }
    }

    /// The envelope's and the header's sender.
    pub fn sender(&self) -> &str {
        &self.sender
    }

    /// The address of recipient `number`.
    pub fn recipient(&self, number: u64) -> String {
        format!("m{number}@d{}.{}", number % self.domains, self.zone)
    }

    /// The size of mail `number`, octets.
    pub fn size(&self, number: u64) -> usize {
        let span = (self.sizes.end() - self.sizes.start()) as u64 + 1;
        self.sizes.start() + usize::try_from(spread(number) % span).unwrap_or(0)
    }

    /// Whole lines, at most `bytes` octets of them.
    pub fn lines(&self, bytes: usize) -> &str {
        &self.filler[..(bytes / LINE.len() * LINE.len()).min(self.filler.len())]
    }

    /// The message for recipient `number`, about [`Self::size`] octets, with CRLF at its end.
    pub fn message(&self, number: u64) -> String {
        let size = self.size(number);
        let mut message = String::with_capacity(size + LINE.len());
        let recipient = self.recipient(number);
        write!(
            message,
            "From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: Mail number {number}\r\n\
             Message-ID: <bench.{number}@{zone}>\r\n{ID_HEADER}: {number}-{number}\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\r\n",
            sender = self.sender,
            zone = self.zone,
        )
        .expect("writing to a String does not fail");
        message.push_str(self.lines(size.saturating_sub(message.len())));
        message
    }
}

/// A fixed shuffle of 64 bits (the finalizer of splitmix64).
fn spread(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fill_their_range_and_messages_keep_to_them() {
        let composer = Composer::new("news@a.test", "demo.test", 20, 1_000..=50_000);
        let sizes: Vec<_> = (0..2_000).map(|number| composer.size(number)).collect();
        assert!(sizes.iter().all(|size| (1_000..=50_000).contains(size)));
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((23_000..28_000).contains(&mean), "{mean}");
        for number in 0..50 {
            let message = composer.message(number);
            assert!(message.len() <= composer.size(number) && message.len() + LINE.len() >= composer.size(number));
            assert!(message.ends_with("\r\n") && !message.contains("\r\n."));
        }
    }

    #[test]
    fn a_recipients_address_carries_its_number() {
        let composer = Composer::new("news@a.test", "demo.test", 20, 1_000..=1_000);
        assert_eq!(composer.recipient(41), "m41@d1.demo.test");
    }
}
