//! Generates keys and certificates, and reads existing ones.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::pki::identity::{Identity, Usage};

/// Certificates begin to hold this long before they are made, for machines whose clock is slow.
const BACKDATED: Duration = Duration::minutes(5);
pub const AUTHORITY_LIFETIME: Duration = Duration::days(3650);
pub const LEAF_LIFETIME: Duration = Duration::days(365);
/// A leaf of whose time less than this part is left is made anew.
const RENEWED_WITH_LEFT: i32 = 3;

/// A certificate and its private key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// What a leaf has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    pub identity: &'a Identity,
    pub common_name: String,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

pub fn authority(common_name: &str) -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    lasting(&mut params, AUTHORITY_LIFETIME);
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

pub fn leaf(wanted: &Wanted<'_>, authority: &Pair) -> Result<Pair, rcgen::Error> {
    let issuer =
        Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(wanted.dns.clone())?;
    params.subject_alt_names.extend(wanted.addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name.push(DnType::CommonName, wanted.common_name.as_str());
    if let Some(organization) = wanted.identity.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match wanted.identity.usage {
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Both => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
    };
    params.use_authority_key_identifier_extension = true;
    lasting(&mut params, LEAF_LIFETIME);
    // Who believes the authority no more believes nothing that it signed.
    let authority_ends = expiry(&authority.certificate)
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    params.not_after = authority_ends.map_or(params.not_after, |ends| ends.min(params.not_after));
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn lasting(params: &mut CertificateParams, lifetime: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + lifetime;
}

/// Whether an existing certificate still says what is wanted, is signed by this authority and
/// will hold for a while.
pub fn still_good(pair: &Pair, wanted: &Wanted<'_>, authority: &Pair) -> bool {
    inspect(pair, wanted, authority).unwrap_or(false)
}

fn inspect(pair: &Pair, wanted: &Wanted<'_>, authority: &Pair) -> Option<bool> {
    let issuer_pem = pem::parse(&authority.certificate).ok()?;
    let (_, issuer) = X509Certificate::from_der(issuer_pem.contents()).ok()?;
    let leaf_pem = pem::parse(&pair.certificate).ok()?;
    let (_, leaf) = X509Certificate::from_der(leaf_pem.contents()).ok()?;
    let key = KeyPair::from_pem(&pair.key).ok()?;
    let names = leaf.subject_alternative_name().ok()?;
    let (mut dns, mut addresses) = (Vec::new(), Vec::new());
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => addresses.push(address(bytes)?),
            _ => return Some(false),
        }
    }
    let common_name = leaf.subject().iter_common_name().next()?.as_str().ok()?;
    let organization =
        leaf.subject().iter_organization().next().and_then(|value| value.as_str().ok());
    let ends = leaf.validity().not_after.to_datetime();
    let lifetime = ends - leaf.validity().not_before.to_datetime();
    Some(
        leaf.verify_signature(Some(issuer.public_key())).is_ok()
            && leaf.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
            && common_name == wanted.common_name
            && organization == wanted.identity.organization
            && dns == wanted.dns
            && addresses == wanted.addresses
            && ends - lifetime / RENEWED_WITH_LEFT > OffsetDateTime::now_utc(),
    )
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// When a certificate ends, in seconds of Unix time.
pub fn expiry(certificate: &str) -> Option<i64> {
    let pem = pem::parse(certificate).ok()?;
    let (_, parsed) = X509Certificate::from_der(pem.contents()).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::identity;

    fn wanted() -> Wanted<'static> {
        Wanted {
            identity: identity::identity("scheduler").unwrap(),
            common_name: "system:kube-scheduler".into(),
            dns: Vec::new(),
            addresses: Vec::new(),
        }
    }

    /// A leaf that holds from so many days ago until so many days from now.
    fn aged(authority: &Pair, past: i64, left: i64) -> Pair {
        let issuer = KeyPair::from_pem(&authority.key).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&authority.certificate, issuer).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "system:kube-scheduler");
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(past);
        params.not_after = now + Duration::days(left);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    #[test]
    fn a_certificate_is_renewed_once_two_thirds_of_its_time_are_over() {
        let authority = authority("test").unwrap();
        for (past, left, is_good) in
            [(0, 365, true), (240, 125, true), (247, 118, false), (19, 11, true), (21, 9, false)]
        {
            let pair = aged(&authority, past, left);
            assert_eq!(still_good(&pair, &wanted(), &authority), is_good, "{past} of {left} days");
        }
    }

    #[test]
    fn no_certificate_outlives_its_authority() {
        let long = authority("test").unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "old");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        lasting(&mut params, Duration::days(100));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let short = Pair { certificate, key: key.serialize_pem() };
        let end = |authority: &Pair| expiry(&leaf(&wanted(), authority).unwrap().certificate);
        assert_eq!(end(&short), expiry(&short.certificate));
        assert!(end(&long) < expiry(&long.certificate));
    }
}
