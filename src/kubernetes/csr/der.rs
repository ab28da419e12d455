//! A DER reader that accounts for every byte.
//!
//! The signer parses a request with another parser than the approver. If one of them skips
//! something, they may see different requests; so this reader skips nothing.

/// Tags of ITU-T X.690, with the class and whether they are constructed.
pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const PRINTABLE_STRING: u8 = 0x13;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// The bits of a tag that say that its number follows in further bytes.
const LONG_TAG: u8 = 0x1f;

/// The contents of one element, of which what was read is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    left: &'a [u8],
    /// What the contents are, for errors.
    what: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DerError {
    #[error("{0} is truncated, or not encoded in DER")]
    Malformed(&'static str),
    #[error("{0} has too many parts")]
    Surplus(&'static str),
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { left: bytes, what }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The next element, whatever it is: its tag, its contents, and both with the length.
    pub(super) fn any(&mut self) -> Result<(u8, &'a [u8], &'a [u8]), DerError> {
        let malformed = DerError::Malformed(self.what);
        let (&[tag, first], rest) = self.left.split_first_chunk::<2>().ok_or(malformed)?;
        if tag & LONG_TAG == LONG_TAG {
            return Err(malformed);
        }
        let (length, rest) = length(first, rest).ok_or(malformed)?;
        let (contents, after) = rest.split_at_checked(length).ok_or(malformed)?;
        let whole = &self.left[..self.left.len() - after.len()];
        self.left = after;
        Ok((tag, contents, whole))
    }

    /// The contents of the next element, which has to have this tag.
    pub(super) fn bytes(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        match self.any()? {
            (found, contents, _) if found == tag => Ok(contents),
            _ => Err(DerError::Malformed(self.what)),
        }
    }

    /// The next element, which has to have this tag, to be read further as `what`.
    pub(super) fn enter(&mut self, tag: u8, what: &'static str) -> Result<Self, DerError> {
        Ok(Self { left: self.bytes(tag)?, what })
    }

    pub(super) const fn end(self) -> Result<(), DerError> {
        if self.is_empty() { Ok(()) } else { Err(DerError::Surplus(self.what)) }
    }
}

/// A length in its shortest form, the only one that DER has, and what follows it.
fn length(first: u8, rest: &[u8]) -> Option<(usize, &[u8])> {
    const LONG_FORM: u8 = 0x80;
    if first < LONG_FORM {
        return Some((first.into(), rest));
    }
    let (bytes, rest) = rest.split_at_checked(usize::from(first - LONG_FORM))?;
    let length = match *bytes {
        [one] if one >= LONG_FORM => one.into(),
        [high, low] if high > 0 => usize::from(high) << 8 | usize::from(low),
        // A request of 64 KiB and more is no kubelet's.
        _ => return None,
    };
    Some((length, rest))
}
