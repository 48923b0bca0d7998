//! The examples of RFC 6376 and RFC 8463, and a verifier that reads the field as it was written.

use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

use super::*;

/// The message of RFC 8463 appendix A.
const HEADER: &str = "From: Joe SixPack <joe@football.example.com>\r\n\
    To: Suzie Q <suzie@shopping.example.net>\r\n\
    Subject: Is dinner ready?\r\n\
    Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
    Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n";
const BODY: &str = "Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
const SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

fn message(header: &str, body: &str) -> FinalMessage {
    FinalMessage { header: header.to_owned().into(), body: body.to_owned().into(), ..FinalMessage::default() }
}

fn key(id: u32, algorithm: KeyAlgorithm) -> DkimKey {
    DkimKey {
        id: KeyId(id),
        selector: format!("s{id}"),
        algorithm,
        sealed_private_key: Vec::new(),
        public_key: String::new(),
        stage: Default::default(),
        since_ms: 0,
    }
}

fn relaxed(body: &str) -> String {
    let mut out = Vec::new();
    canonical_body(body.as_bytes(), |bytes| out.extend_from_slice(bytes));
    String::from_utf8(out).unwrap()
}

/// The text of RFC 6376 section 3.4.4, step by step.
fn relaxed_slowly(body: &str) -> String {
    let mut lines: Vec<String> = body
        .split("\r\n")
        .map(|line| {
            let mut out = String::new();
            for c in line.trim_end_matches([' ', '\t']).chars() {
                match c {
                    ' ' | '\t' if out.ends_with(' ') => {}
                    '\t' => out.push(' '),
                    c => out.push(c),
                }
            }
            out
        })
        .collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

#[test]
fn the_examples_of_rfc_6376_are_canonicalised() {
    let mut out = Vec::new();
    for field in fields(b"A: X\r\nB : Y\t\r\n\tZ  \r\n") {
        canonical_field(field.name, field.value, &mut out);
    }
    assert_eq!(out, b"a:X\r\nb:Y Z\r\n");
    assert_eq!(relaxed(" C \r\nD \t E\r\n\r\n\r\n"), " C\r\nD E\r\n");
}

#[test]
fn bodies_are_canonicalised() {
    for (body, expected) in [
        ("", ""),
        ("\r\n\r\n", ""),
        (" \t\r\n \r\n", ""),
        ("a", "a\r\n"),
        ("a \t", "a\r\n"),
        ("a\r\n\r\nb\r\n \r\n", "a\r\n\r\nb\r\n"),
        ("\t\ta  b \t c\r\n", " a b c\r\n"),
        (" \t \r\na", "\r\na\r\n"),
        ("a \r b", "a \r b\r\n"),
    ] {
        assert_eq!(relaxed(body), expected, "{body:?}");
        assert_eq!(relaxed(body), relaxed_slowly(body), "{body:?}");
    }
    assert_eq!(STANDARD.encode(body_hash(b"").0), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
}

#[test]
fn the_signature_of_rfc_8463_verifies_over_our_canonical_form() {
    assert_eq!(STANDARD.encode(body_hash(BODY.as_bytes()).0), "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");
    let mut canonical = Vec::new();
    for name in ["from", "to", "subject", "date", "message-id"] {
        let all: Vec<_> = fields(HEADER.as_bytes()).collect();
        let field = all.iter().find(|field| field.is(name)).unwrap();
        canonical_field(name.as_bytes(), field.value, &mut canonical);
    }
    let unsigned = " v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n \
        q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;\r\n \
        bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=";
    canonical_field(b"DKIM-Signature", unsigned.as_bytes(), &mut canonical);
    canonical.truncate(canonical.len() - 2);
    let signature = "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==";
    let hash = digest(&SHA256, &canonical);
    UnparsedPublicKey::new(&ED25519, STANDARD.decode(PUBLIC).unwrap())
        .verify(hash.as_ref(), &STANDARD.decode(signature).unwrap())
        .unwrap();
}

/// Checks one DKIM-Signature field as a verifier does: from its own text.
fn verifies(field: &str, header: &str, check: impl Fn(&[u8], &[u8]) -> bool) -> bool {
    let (_, value) = field.split_once(':').unwrap();
    let tag = |name: &str| -> String {
        let tags = value.split(';').filter_map(|tag| tag.split_once('='));
        let found = tags.into_iter().find(|(have, _)| have.trim() == name).map(|(_, value)| value.to_owned());
        found.unwrap_or_default().split_ascii_whitespace().collect()
    };
    let mut left: Vec<_> = fields(header.as_bytes()).collect();
    let mut canonical = Vec::new();
    for name in tag("h").split(':') {
        if let Some(at) = left.iter().rposition(|field| field.is(name)) {
            let field = left.remove(at);
            canonical_field(field.name, field.value, &mut canonical);
        }
    }
    let unsigned = &value[..value.rfind("b=").unwrap() + 2];
    canonical_field(b"dkim-signature", unsigned.as_bytes(), &mut canonical);
    canonical.truncate(canonical.len() - 2);
    check(&canonical, &STANDARD.decode(tag("b")).unwrap())
}

#[test]
fn both_algorithms_sign_what_a_verifier_reads() {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let edwards = Ed25519KeyPair::from_seed_unchecked(&STANDARD.decode(SEED).unwrap()).unwrap();
    let keys = [key(1, KeyAlgorithm::RsaSha256), key(2, KeyAlgorithm::Ed25519Sha256)];
    let header = format!("To: second@x\r\n{HEADER}");
    let plan = plan(&message(&header, BODY), "football.example.com", &keys, Timestamp::from_unix_ms(1_528_637_909_000));
    let requests: Vec<_> = plan.requests().collect();
    assert_eq!(requests.iter().map(|request| request.key.0).collect::<Vec<_>>(), [1, 2]);
    let mut rsa_signature = vec![0; rsa.public_modulus_len()];
    let rsa_digest = aws_lc_rs::digest::Digest::import_less_safe(&requests[0].digest, &SHA256).unwrap();
    rsa.sign_digest(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &rsa_digest, &mut rsa_signature).unwrap();
    let signatures = vec![rsa_signature, edwards.sign(&requests[1].digest).as_ref().to_vec()];
    let text = String::from_utf8(plan.finish(signatures).to_vec()).unwrap();
    assert!(text.split("\r\n").all(|line| line.len() <= 78), "{text}");
    let signed: Vec<_> = fields(text.as_bytes()).map(|field| std::str::from_utf8(field.raw).unwrap()).collect();
    assert_eq!(signed.len(), 2);
    let rsa_public = rsa.public_key().as_ref().to_vec();
    assert!(verifies(signed[0], &header, |data, signature| {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &rsa_public).verify(data, signature).is_ok()
    }));
    let check = |data: &[u8], signature: &[u8]| {
        let hash = digest(&SHA256, data);
        UnparsedPublicKey::new(&ED25519, edwards.public_key().as_ref()).verify(hash.as_ref(), signature).is_ok()
    };
    assert!(verifies(signed[1], &header, check));
    for added in ["From: x@y\r\n", "To: x@y\r\n", "Reply-To: x@y\r\n", "Subject: other\r\n", "Cc: x@y\r\n"] {
        assert!(!verifies(signed[1], &format!("{added}{header}"), check), "{added} must break the signature");
    }
}

#[test]
fn every_occurrence_is_listed_and_one_more() {
    let header = "From: a\r\nTo: b\r\nTo: c\r\nReceived: d\r\nList-Unsubscribe: <e>\r\nX-Other: f\r\n\r\n";
    let (names, canonical) = select(header.as_bytes());
    let count = |name: &str| names.iter().filter(|have| **have == name).count();
    for (name, times) in [
        ("From", 2),
        ("To", 3),
        ("Cc", 1),
        ("Reply-To", 1),
        ("List-Unsubscribe", 2),
        ("References", 0),
        ("Received", 0),
    ] {
        assert_eq!(count(name), times, "{name}");
    }
    assert_eq!(canonical, b"from:a\r\nto:c\r\nto:b\r\nlist-unsubscribe:<e>\r\n");
}

#[test]
fn a_known_body_hash_gives_the_same_plan() {
    let keys = [key(1, KeyAlgorithm::RsaSha256)];
    let (given, at) = (message(HEADER, BODY), Timestamp::from_unix_ms(1));
    let known = plan_with(&given, [("x.example", &keys[..])], at, body_hash(BODY.as_bytes()));
    assert!(known.requests().eq(plan(&given, "x.example", &keys, at).requests()));
    assert_eq!(plan(&given, "x.example", &[], at).finish(vec![]), Bytes::new());
}

#[test]
fn a_second_domain_signs_the_same_and_not_the_signature_of_the_first() {
    let (own, platform) = ([key(1, KeyAlgorithm::RsaSha256)], [key(2, KeyAlgorithm::Ed25519Sha256)]);
    let (given, at) = (message(HEADER, BODY), Timestamp::from_unix_ms(1));
    let both = [("x.example", &own[..]), ("platform.example", &platform[..])];
    let both = plan_with(&given, both, at, body_hash(BODY.as_bytes()));
    let alone = plan(&given, "platform.example", &platform, at);
    assert_eq!(both.requests().last(), alone.requests().last());
    let fields = String::from_utf8(both.finish(vec![b"1".to_vec(), b"2".to_vec()]).to_vec()).unwrap();
    let at = |domain: &str| fields.find(&format!("d={domain};")).unwrap();
    assert!(at("x.example") < at("platform.example"), "{fields}");
}

proptest::proptest! {
    #[test]
    fn fast_and_slow_canonical_forms_agree(parts in proptest::collection::vec("a| |\t|  |\r\n|\r|b|\r\n\r\n", 0..40)) {
        let body = parts.concat();
        proptest::prop_assert_eq!(relaxed(&body), relaxed_slowly(&body));
    }

    #[test]
    fn hostile_messages_never_panic(header in proptest::collection::vec(proptest::num::u8::ANY, 0..200), body in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let given = FinalMessage { header: header.into(), body: body.into(), ..FinalMessage::default() };
        plan(&given, "x.example", &[key(1, KeyAlgorithm::RsaSha256)], Timestamp::default());
    }
}
