//! The mail that functions are measured with by themselves, and the key that signs it: the same for `limit` and `hot`.

use postrail_schema::ids::KeyId;
use postrail_schema::snapshot::{DkimKey, KeyAlgorithm};

/// A header section, with its empty line.
pub const HEADER: &str = "From: <news@bench.test>\r\nTo: <m1@d1.bench.test>\r\nSubject: Mail number 1\r\n\
    Date: Fri, 20 Nov 2026 12:00:00 +0000\r\nMessage-ID: <bench.1@bench.test>\r\nMIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=us-ascii\r\n\r\n";
/// A line of a body, which canonicalisation leaves as it is.
pub const LINE: &str = "The quick brown fox jumps over the lazy dog, and the mail goes out in time.\r\n";

/// Whole lines that fit into a mail of `bytes` octets behind [`HEADER`].
pub fn lines(bytes: usize) -> usize {
    bytes.saturating_sub(HEADER.len()) / LINE.len()
}

/// A mail of `bytes` octets, or up to two less.
pub fn mail(bytes: usize) -> String {
    let lines = lines(bytes);
    let rest = bytes.saturating_sub(HEADER.len() + lines * LINE.len());
    let mut mail = format!("{HEADER}{}", LINE.repeat(lines));
    if rest > 2 {
        mail.push_str(&LINE[..rest - 2]);
        mail.push_str("\r\n");
    }
    mail
}

/// A key as a plan of signatures needs it: without its private part.
pub fn dkim_key() -> DkimKey {
    DkimKey {
        id: KeyId(1),
        selector: "bench".into(),
        algorithm: KeyAlgorithm::RsaSha256,
        sealed_private_key: Vec::new(),
        public_key: String::new(),
        stage: Default::default(),
        since_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_has_its_size() {
        for bytes in [1_000, 10_240, 10_241] {
            let mail = mail(bytes);
            assert!(mail.len() <= bytes && mail.len() + 2 >= bytes && mail.ends_with("\r\n"), "{}", mail.len());
        }
    }
}
