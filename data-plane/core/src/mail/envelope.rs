//! The envelope of one transaction: both paths with the parameters of RFC 5321, 6152, 6531 and 3461.

use super::Address;

/// MAIL FROM: an address, or the null reverse path of a report (RFC 5321 4.5.5).
pub type ReversePath = Option<Address>;

/// BODY= (RFC 6152).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BodyType {
    #[default]
    SevenBit,
    EightBitMime,
}

/// RET= (RFC 3461 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DsnReturn {
    Full,
    Headers,
}

/// NOTIFY= (RFC 3461 4.1). The default, no parameter, means failure and perhaps delay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Notify {
    #[default]
    Unspecified,
    Never,
    /// At least one of the three.
    On {
        success: bool,
        failure: bool,
        delay: bool,
    },
}

impl Notify {
    /// Whether a final failure is reported to the reverse path.
    pub const fn on_failure(self) -> bool {
        matches!(self, Self::Unspecified | Self::On { failure: true, .. })
    }

    /// Whether a relay to a host without DSN is reported (RFC 3461 5.2.2, action `relayed`).
    pub const fn on_success(self) -> bool {
        matches!(self, Self::On { success: true, .. })
    }

    /// As one byte, for frames: 0 unspecified, 1 never, else 2 with bits 4 (success), 8 (failure), 16 (delay).
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::Never => 1,
            Self::On { success, failure, delay } => {
                2 | (success as u8) << 2 | (failure as u8) << 3 | (delay as u8) << 4
            }
        }
    }

    /// The inverse of [`Self::to_byte`].
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Unspecified),
            1 => Some(Self::Never),
            _ if byte & 3 == 2 && byte < 32 => {
                Some(Self::On { success: byte & 4 != 0, failure: byte & 8 != 0, delay: byte & 16 != 0 })
            }
            _ => None,
        }
    }
}

/// RCPT TO with its parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardPath {
    pub address: Address,
    pub notify: Notify,
    /// ORCPT= as given, still xtext (`rfc822;bob@example.org`).
    pub orcpt: Option<String>,
}

/// Both paths and the parameters of MAIL FROM.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Envelope {
    pub reverse_path: ReversePath,
    pub body: BodyType,
    /// SMTPUTF8 was given (RFC 6531).
    pub smtp_utf8: bool,
    pub ret: Option<DsnReturn>,
    /// ENVID= as given, still xtext.
    pub envid: Option<String>,
    pub recipients: Vec<ForwardPath>,
}
