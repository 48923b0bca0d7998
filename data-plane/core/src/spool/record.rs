//! Typed records: tag, need, length, value. The inside of a job frame.
//!
//! ```text
//! 0  u8 tag
//! 1  u8 need: 1 a reader that does not know the tag must refuse the frame, 0 it skips the record
//! 2  u32 octets of the value
//! 6  value
//! ```

use super::DecodeError;

pub(super) const RECORD_HEADER_BYTES: usize = 6;

/// What a reader does with a tag that it does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    Optional = 0,
    Required = 1,
}

/// Appends records to one buffer.
pub(super) struct RecordWriter {
    bytes: Vec<u8>,
}

/// Appends one record whose value `write` appends.
pub(super) fn put_record(bytes: &mut Vec<u8>, tag: u8, need: Need, write: impl FnOnce(&mut Vec<u8>)) {
    bytes.extend_from_slice(&[tag, need as u8, 0, 0, 0, 0]);
    let start = bytes.len();
    write(bytes);
    let octets = u32::try_from(bytes.len() - start).expect("a job is far smaller than 4 GiB");
    bytes[start - 4..start].copy_from_slice(&octets.to_le_bytes());
}

impl RecordWriter {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    /// Goes on behind records written before.
    pub(super) const fn continue_in(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// One whole record.
    pub(super) fn put(&mut self, tag: u8, need: Need, value: &[u8]) {
        self.put_with(tag, need, |bytes| bytes.extend_from_slice(value));
    }

    /// A record whose value `write` appends.
    pub(super) fn put_with(&mut self, tag: u8, need: Need, write: impl FnOnce(&mut Vec<u8>)) {
        put_record(&mut self.bytes, tag, need, write);
    }

    /// Takes back everything behind the first `bytes` octets.
    pub(super) fn truncate(&mut self, bytes: usize) {
        self.bytes.truncate(bytes);
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) tag: u8,
    required: bool,
    pub(super) value: &'a [u8],
}

impl<'a> Record<'a> {
    /// For a tag that the reader does not know.
    pub(super) fn skip(&self) -> Result<(), DecodeError> {
        if self.required { Err(DecodeError::UnknownRecord { tag: self.tag }) } else { Ok(()) }
    }

    /// Octets of the record with its header.
    pub(super) const fn bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.value.len()
    }

    pub(super) fn fields(&self) -> Fields<'a> {
        Fields { rest: self.value }
    }

    pub(super) fn text(&self) -> Result<String, DecodeError> {
        text(self.value)
    }
}

/// The records of a buffer.
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let mut fields = Fields { rest: std::mem::take(&mut self.rest) };
        let record = fields.record();
        if record.is_ok() {
            self.rest = fields.rest;
        }
        Some(record)
    }
}

/// Fixed fields one after the other, within a value.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn record(&mut self) -> Result<Record<'a>, DecodeError> {
        let header: [u8; RECORD_HEADER_BYTES] = self.array()?;
        let octets = u32::from_le_bytes([header[2], header[3], header[4], header[5]]);
        Ok(Record { tag: header[0], required: header[1] != Need::Optional as u8, value: self.take(octets as usize)? })
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], DecodeError> {
        let (value, rest) = self.rest.split_at_checked(bytes).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(value)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let value = self.take(N)?;
        Ok(std::array::from_fn(|at| value[at]))
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, DecodeError> {
        self.array().map(u128::from_le_bytes)
    }

    /// Text with its length in 16 bits before it.
    pub(super) fn short_text(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.u16()?;
        let value = self.take(bytes.into())?;
        std::str::from_utf8(value).map_err(|_| DecodeError::Text)
    }

    /// What was not taken yet.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Appends text with its length in 16 bits before it; intake bounds every such text far below that.
pub(super) fn put_short_text(bytes: &mut Vec<u8>, text: &str) {
    let octets = u16::try_from(text.len()).expect("intake bounds short texts");
    bytes.extend_from_slice(&octets.to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

pub(super) fn text(value: &[u8]) -> Result<String, DecodeError> {
    std::str::from_utf8(value).map(str::to_owned).map_err(|_| DecodeError::Text)
}
