//! Octets in JSON: written as base64, read as base64 or as the array of numbers that earlier versions wrote.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(octets: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&STANDARD.encode(octets))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    from.deserialize_any(Octets)
}

struct Octets;

impl<'de> Visitor<'de> for Octets {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("octets in base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
        STANDARD.decode(text).map_err(|_| E::custom("this is not base64"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Vec<u8>, A::Error> {
        let mut octets = Vec::new();
        while let Some(octet) = numbers.next_element()? {
            octets.push(octet);
        }
        Ok(octets)
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::KeyId;
    use crate::snapshot::{DkimKey, KeyAlgorithm};

    #[test]
    fn octets_are_written_as_base64_and_read_in_both_forms() {
        let key = DkimKey {
            id: KeyId(1),
            selector: "s".into(),
            algorithm: KeyAlgorithm::RsaSha256,
            sealed_private_key: vec![0, 1, 254, 255],
            public_key: "p".into(),
            stage: Default::default(),
            since_ms: 0,
        };
        let text = serde_json::to_string(&key).unwrap();
        assert!(text.contains("\"AAH+/w==\""), "{text}");
        assert_eq!(serde_json::from_str::<DkimKey>(&text).unwrap(), key);
        let earlier = text.replace("\"AAH+/w==\"", "[0,1,254,255]");
        assert_eq!(serde_json::from_str::<DkimKey>(&earlier).unwrap(), key);
        for wrong in ["\"AAH+/w\"", "[256]", "[-1]", "{}", "7"] {
            let broken = text.replace("\"AAH+/w==\"", wrong);
            assert!(serde_json::from_str::<DkimKey>(&broken).is_err(), "{wrong}");
        }
    }
}
