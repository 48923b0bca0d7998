//! The AUTH exchange (RFC 4954) for PLAIN (RFC 4616) and LOGIN: from challenges and base64 lines to a username and a
//! secret.
//!
//! Deliberately absent: the check of the secret, and mechanisms for which the server would have to keep it readable.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postrail_schema::limits::USERNAME_BYTES_MAX;
use zeroize::Zeroizing;

use super::Mechanism;
use crate::base::Secret;
use crate::smtp::Reply;

/// Where an exchange is: which line is awaited.
#[derive(Debug)]
pub(super) enum Exchange {
    Plain,
    LoginUsername,
    LoginSecret { username: String },
}

/// What follows a line of the client.
#[derive(Debug)]
pub(super) enum Step {
    /// Send 334 with this text and wait.
    Challenge(Exchange, &'static str),
    Credentials {
        mechanism: Mechanism,
        username: String,
        secret: Secret,
    },
}

/// Why an exchange ended without credentials.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AuthError {
    Cancelled,
    Encoding,
    Form,
    AuthorizationIdentity,
}

impl AuthError {
    pub(super) fn reply(self) -> Reply {
        match self {
            Self::Cancelled => Reply::enhanced(501, 7, 0, "Authentication cancelled"),
            Self::Encoding => Reply::enhanced(501, 5, 2, "The response is not base64"),
            Self::Form => Reply::enhanced(501, 5, 2, "The response does not hold a username and a secret"),
            Self::AuthorizationIdentity => Reply::enhanced(
                535,
                7,
                8,
                "Acting for another user is not possible: leave the authorization identity out",
            ),
        }
    }
}

/// Begins an exchange. `initial` is the initial response, still base64; `=` is the empty one (RFC 4954 section 4).
pub(super) fn begin(mechanism: Mechanism, initial: Option<&str>) -> Result<Step, AuthError> {
    let exchange = match mechanism {
        Mechanism::Plain => Exchange::Plain,
        Mechanism::Login => Exchange::LoginUsername,
    };
    match (initial, exchange) {
        (None, Exchange::Plain) => Ok(Step::Challenge(Exchange::Plain, "")),
        (None, exchange) => Ok(Step::Challenge(exchange, "VXNlcm5hbWU6")),
        (Some("="), exchange) => exchange.next(""),
        (Some(initial), exchange) => exchange.next(initial),
    }
}

impl Exchange {
    /// Takes a line of the client, without CRLF.
    pub(super) fn next(self, line: &str) -> Result<Step, AuthError> {
        if line == "*" {
            return Err(AuthError::Cancelled);
        }
        let octets = Zeroizing::new(STANDARD.decode(line).map_err(|_| AuthError::Encoding)?);
        match self {
            Self::Plain => plain(&octets),
            Self::LoginUsername => {
                Ok(Step::Challenge(Self::LoginSecret { username: username(&octets)? }, "UGFzc3dvcmQ6"))
            }
            Self::LoginSecret { .. } if octets.is_empty() => Err(AuthError::Form),
            Self::LoginSecret { username } => {
                Ok(Step::Credentials { mechanism: Mechanism::Login, username, secret: Secret::new(octets.to_vec()) })
            }
        }
    }
}

/// `[authzid] NUL authcid NUL secret`.
fn plain(octets: &[u8]) -> Result<Step, AuthError> {
    let mut parts = octets.split(|&octet| octet == 0);
    let (Some(authzid), Some(authcid), Some(secret), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(AuthError::Form);
    };
    let username = username(authcid)?;
    if secret.is_empty() {
        return Err(AuthError::Form);
    }
    if !authzid.is_empty() && authzid != authcid {
        return Err(AuthError::AuthorizationIdentity);
    }
    Ok(Step::Credentials { mechanism: Mechanism::Plain, username, secret: Secret::new(secret.to_vec()) })
}

fn username(octets: &[u8]) -> Result<String, AuthError> {
    let text = std::str::from_utf8(octets).map_err(|_| AuthError::Form)?;
    if text.is_empty() || text.len() > USERNAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(AuthError::Form);
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn credentials(step: Result<Step, AuthError>) -> (String, Vec<u8>) {
        match step {
            Ok(Step::Credentials { username, secret, .. }) => (username, secret.expose().to_vec()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn plain_gives_username_and_secret() {
        for (text, username) in [("\0bob\0pw", "bob"), ("bob\0bob\0pw", "bob"), ("\0j\u{fc}rgen\0pw", "j\u{fc}rgen")] {
            let step = begin(Mechanism::Plain, Some(&STANDARD.encode(text)));
            assert_eq!(credentials(step), (username.to_owned(), b"pw".to_vec()), "{text:?}");
        }
    }

    #[test]
    fn malformed_plain_responses_say_why() {
        for (text, error) in [
            (&b""[..], AuthError::Form),
            (b"bob", AuthError::Form),
            (b"\0bob", AuthError::Form),
            (b"\0bob\0", AuthError::Form),
            (b"\0\0pw", AuthError::Form),
            (b"\0bob\0p\0w", AuthError::Form),
            (b"\0bo\nb\0pw", AuthError::Form),
            (b"\0bo\xff\0pw", AuthError::Form),
            (b"eve\0bob\0pw", AuthError::AuthorizationIdentity),
        ] {
            let error_found = begin(Mechanism::Plain, Some(&STANDARD.encode(text))).unwrap_err();
            assert_eq!(error_found, error, "{text:?}");
        }
        assert_eq!(begin(Mechanism::Plain, Some("=")).unwrap_err(), AuthError::Form);
        assert_eq!(begin(Mechanism::Plain, Some("%%")).unwrap_err(), AuthError::Encoding);
    }

    #[test]
    fn login_asks_twice_and_can_be_cancelled() {
        let Ok(Step::Challenge(exchange, "VXNlcm5hbWU6")) = begin(Mechanism::Login, None) else { panic!() };
        let Ok(Step::Challenge(exchange, "UGFzc3dvcmQ6")) = exchange.next("Ym9i") else { panic!() };
        assert_eq!(credentials(exchange.next("cHc=")), ("bob".to_owned(), b"pw".to_vec()));
        let Ok(Step::Challenge(exchange, "UGFzc3dvcmQ6")) = begin(Mechanism::Login, Some("Ym9i")) else { panic!() };
        assert_eq!(exchange.next("*").unwrap_err(), AuthError::Cancelled);
    }

    proptest! {
        #[test]
        fn any_line_is_taken_without_a_panic(octets: Vec<u8>, text: String) {
            let _ = begin(Mechanism::Plain, Some(&STANDARD.encode(&octets)));
            let _ = begin(Mechanism::Login, Some(&text));
            let _ = Exchange::LoginSecret { username: String::new() }.next(&text);
        }
    }
}
