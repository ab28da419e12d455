//! Parses a request for a node's certificate so strictly that the signer cannot read it
//! differently.
//!
//! Go, the language of Kubernetes, uses the last of several common names, and merges the extensions
//! of all `extensionRequest` attributes. This parser accepts exactly one of each.

use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::kubernetes::csr::der::{self, DerError, Reader};

/// As RFC 7468 writes it, and as OpenSSL and Go do.
const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----\n";
const END: &str = "-----END CERTIFICATE REQUEST-----\n";

/// Object identifiers as DER encodes them: `2.5.4.3`, `2.5.4.10` and `2.5.29.17` (RFC 5280), and
/// `1.2.840.113549.1.9.14` (RFC 2985).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];

/// `[0]` around the attributes (RFC 2986, 4.1).
const ATTRIBUTES: u8 = 0xa0;
/// `[2]` and `[7]` of `GeneralName` (RFC 5280, 4.2.1.6).
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// What a request says, with whom the api-server took for its sender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub signer: String,
    pub user: String,
    pub groups: Vec<String>,
    pub usages: Vec<String>,
    /// How long the certificate is to hold, where the request says so.
    pub seconds: Option<i32>,
    pub asked: Asked,
}

/// What is to be certified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    pub common_name: String,
    pub organization: String,
    pub dns: Vec<String>,
    pub addresses: Vec<Ipv4Addr>,
    /// `SubjectPublicKeyInfo`, in DER.
    pub public_key: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("it is not one PEM block of the type CERTIFICATE REQUEST, and nothing else")]
    Pem,
    #[error(transparent)]
    Der(#[from] DerError),
    #[error("its version is not that of PKCS #10")]
    Version,
    #[error("its subject must be one organization (O) and one common name (CN), as plain text")]
    Subject,
    #[error("it has an attribute that is not a request for extensions, or several that are")]
    Attributes,
    #[error("it asks for an extension that is not a list of names, or for several")]
    Extensions,
    #[error("it asks for a name that is neither a host name nor an IPv4 address")]
    Name,
    #[error("it is not signed with the key that it is for")]
    Signature,
}

impl Request {
    pub fn read(csr: &CertificateSigningRequest) -> Result<Self, RequestError> {
        let spec = &csr.spec;
        Ok(Self {
            signer: spec.signer_name.clone(),
            user: spec.username.clone().unwrap_or_default(),
            groups: spec.groups.clone().unwrap_or_default(),
            usages: spec.usages.clone().unwrap_or_default(),
            seconds: spec.expiration_seconds,
            asked: Asked::from_pem(&spec.request.0)?,
        })
    }
}

impl Asked {
    /// What is asked for, whoever signed it.
    pub fn unsigned(pem: &[u8]) -> Result<Self, RequestError> {
        Self::from_der(&unwrap(pem).ok_or(RequestError::Pem)?)
    }

    pub fn from_pem(pem: &[u8]) -> Result<Self, RequestError> {
        let der = unwrap(pem).ok_or(RequestError::Pem)?;
        let asked = Self::from_der(&der)?;
        let (_, parsed) =
            X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Signature)?;
        parsed.verify_signature().map_err(|_| RequestError::Signature)?;
        Ok(asked)
    }

    /// Apart from the signature.
    fn from_der(der: &[u8]) -> Result<Self, RequestError> {
        let mut file = Reader::new(der, "the request");
        let mut signed = file.enter(der::SEQUENCE, "the request")?;
        file.end()?;
        let mut info = signed.enter(der::SEQUENCE, "what the request is about")?;
        let mut algorithm = signed.enter(der::SEQUENCE, "the signature's algorithm")?;
        algorithm.bytes(der::OBJECT_IDENTIFIER)?;
        // RSA has parameters, which are none (RFC 4055, 5).
        if !algorithm.is_empty() && !algorithm.bytes(der::NULL)?.is_empty() {
            return Err(RequestError::Signature);
        }
        algorithm.end()?;
        let signature = signed.bytes(der::BIT_STRING)?;
        signed.end()?;
        // It consists of whole bytes.
        if signature.first() != Some(&0) {
            return Err(RequestError::Signature);
        }
        if info.bytes(der::INTEGER)? != [0] {
            return Err(RequestError::Version);
        }
        let mut asked = Self::default();
        asked.subject(info.enter(der::SEQUENCE, "the subject")?)?;
        let (tag, _, public_key) = info.any()?;
        if tag != der::SEQUENCE {
            return Err(DerError::Malformed("the public key").into());
        }
        asked.public_key = public_key.to_vec();
        asked.attributes(info.enter(ATTRIBUTES, "the list of attributes")?)?;
        info.end()?;
        Ok(asked)
    }

    fn subject(&mut self, mut names: Reader<'_>) -> Result<(), RequestError> {
        while !names.is_empty() {
            let mut set = names.enter(der::SET, "the subject")?;
            let mut name = set.enter(der::SEQUENCE, "the subject")?;
            let field = match name.bytes(der::OBJECT_IDENTIFIER)? {
                COMMON_NAME => &mut self.common_name,
                ORGANIZATION => &mut self.organization,
                _ => return Err(RequestError::Subject),
            };
            let (tag, text, _) = name.any()?;
            let is_text = matches!(tag, der::UTF8_STRING | der::PRINTABLE_STRING);
            let text = str::from_utf8(text).map_err(|_| RequestError::Subject)?;
            // A second one of a kind, or a second one in the same set.
            let is_only = field.is_empty() && set.is_empty();
            if !is_text || text.is_empty() || !text.is_ascii() || !is_only {
                return Err(RequestError::Subject);
            }
            text.clone_into(field);
            name.end()?;
        }
        if self.common_name.is_empty() || self.organization.is_empty() {
            return Err(RequestError::Subject);
        }
        Ok(())
    }

    fn attributes(&mut self, mut attributes: Reader<'_>) -> Result<(), RequestError> {
        if attributes.is_empty() {
            return Ok(());
        }
        let mut attribute = attributes.enter(der::SEQUENCE, "an attribute")?;
        let kind = attribute.bytes(der::OBJECT_IDENTIFIER)?;
        if kind != EXTENSION_REQUEST || !attributes.is_empty() {
            return Err(RequestError::Attributes);
        }
        let mut values = attribute.enter(der::SET, "the request for extensions")?;
        attribute.end()?;
        let mut extensions = values.enter(der::SEQUENCE, "the list of extensions")?;
        values.end()?;
        let mut extension = extensions.enter(der::SEQUENCE, "an extension")?;
        let kind = extension.bytes(der::OBJECT_IDENTIFIER)?;
        if kind != SUBJECT_ALTERNATIVE_NAME || !extensions.is_empty() {
            return Err(RequestError::Extensions);
        }
        let (mut tag, mut value, _) = extension.any()?;
        // It may be critical; that it is not is never written (X.690, 11.5).
        if (tag, value) == (der::BOOLEAN, &[0xff]) {
            (tag, value, _) = extension.any()?;
        }
        extension.end()?;
        if tag != der::OCTET_STRING {
            return Err(RequestError::Extensions);
        }
        self.names(value)
    }

    fn names(&mut self, value: &[u8]) -> Result<(), RequestError> {
        let mut value = Reader::new(value, "the list of names");
        let mut names = value.enter(der::SEQUENCE, "the list of names")?;
        value.end()?;
        // An empty one is no list of names (RFC 5280, 4.2.1.6).
        if names.is_empty() {
            return Err(RequestError::Name);
        }
        while !names.is_empty() {
            let (tag, name, _) = names.any()?;
            match (tag, str::from_utf8(name), <[u8; 4]>::try_from(name)) {
                (DNS_NAME, Ok(name), _) if name.is_ascii() => self.dns.push(name.to_owned()),
                (IP_ADDRESS, _, Ok(address)) => self.addresses.push(address.into()),
                _ => return Err(RequestError::Name),
            }
        }
        Ok(())
    }
}

/// The bytes in a PEM block, where nothing stands before, in or after it that may be read otherwise.
fn unwrap(pem: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(pem).ok()?;
    let lines = text.strip_prefix(BEGIN)?.strip_suffix(END)?;
    BASE64.decode(lines.replace('\n', "")).ok()
}
