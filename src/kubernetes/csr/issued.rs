//! Checks that an issued certificate matches the approved request.

use std::net::Ipv4Addr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::kubernetes::csr::request::{Asked, Request};
use crate::kubernetes::csr::{CLIENT_SIGNER, SERVING_SIGNER};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Issued {
    NotYet,
    AsApproved,
    /// How it differs.
    Otherwise(String),
}

impl Issued {
    /// Of a request that was approved.
    pub(super) fn of(csr: &CertificateSigningRequest) -> Self {
        let status = csr.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        if conditions.into_iter().flatten().any(|condition| condition.type_ == "Failed") {
            // It was refused after all, and nothing was issued; its sender asks anew.
            return Self::AsApproved;
        }
        let Some(certificate) = status.and_then(|status| status.certificate.as_ref()) else {
            return Self::NotYet;
        };
        let asked = match Request::read(csr) {
            Ok(request) => request.asked,
            Err(error) => return Self::Otherwise(format!("its request is not valid: {error}")),
        };
        match difference(&certificate.0, &asked, &csr.spec.signer_name) {
            None => Self::AsApproved,
            Some(difference) => Self::Otherwise(difference),
        }
    }
}

fn difference(pem: &[u8], asked: &Asked, signer: &str) -> Option<String> {
    let Some(found) = Found::in_pem(pem) else {
        return Some("cannot parse the issued certificate".into());
    };
    let wanted = Found {
        subject: sorted(vec![
            format!("O={}", asked.organization),
            format!("CN={}", asked.common_name),
        ]),
        names: sorted(
            asked
                .dns
                .iter()
                .cloned()
                .chain(asked.addresses.iter().map(ToString::to_string))
                .collect(),
        ),
        for_clients: signer == CLIENT_SIGNER,
        for_servers: signer == SERVING_SIGNER,
        for_more: false,
        public_key: asked.public_key.clone(),
    };
    if found == wanted {
        return None;
    }
    let tell = |of: &Found| {
        let names = [of.subject.join(", "), of.names.join(", ")];
        names.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
    };
    Some(format!(
        "the issued certificate is for {}; kdiy approved one for {}",
        tell(&found),
        tell(&wanted)
    ))
}

/// What a certificate is good for.
#[derive(PartialEq, Eq)]
struct Found {
    /// `CN=…`, `O=…`; whatever else there is, too.
    subject: Vec<String>,
    names: Vec<String>,
    for_clients: bool,
    for_servers: bool,
    /// Something that no node's certificate is good for.
    for_more: bool,
    public_key: Vec<u8>,
}

impl Found {
    fn in_pem(pem: &[u8]) -> Option<Self> {
        let blocks = pem::parse_many(pem).ok()?;
        let [block] = blocks.as_slice() else { return None };
        let (rest, certificate) = X509Certificate::from_der(block.contents()).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let mut subject = Vec::new();
        for attribute in certificate.subject().iter_attributes() {
            let kind = attribute.attr_type();
            let kind = match kind {
                kind if *kind == x509_parser::oid_registry::OID_X509_COMMON_NAME => "CN".into(),
                kind if *kind == x509_parser::oid_registry::OID_X509_ORGANIZATION_NAME => {
                    "O".into()
                }
                kind => kind.to_id_string(),
            };
            subject.push(format!("{kind}={}", attribute.as_str().ok()?));
        }
        let mut names = Vec::new();
        let listed = certificate.subject_alternative_name().ok()?;
        for name in listed.iter().flat_map(|extension| &extension.value.general_names) {
            names.push(match name {
                GeneralName::DNSName(name) => (*name).to_owned(),
                GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                    Ok(address) => Ipv4Addr::from(address).to_string(),
                    Err(_) => hex::encode(bytes),
                },
                other => other.to_string(),
            });
        }
        let usage = certificate.extended_key_usage().ok()??.value;
        let more = usage.any
            || usage.code_signing
            || usage.email_protection
            || usage.time_stamping
            || usage.ocsp_signing
            || !usage.other.is_empty();
        Some(Self {
            subject: sorted(subject),
            names: sorted(names),
            for_clients: usage.client_auth,
            for_servers: usage.server_auth,
            for_more: more || certificate.is_ca(),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}
