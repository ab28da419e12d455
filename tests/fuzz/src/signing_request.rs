//! Requests for certificates, as anybody may send them who has a node's certificate or a token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kdiy::kubernetes::csr::request::Asked;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----\n";
const END: &str = "-----END CERTIFICATE REQUEST-----\n";

/// A request is refused, or another parser finds exactly the names in it that this one does, once
/// each. Who signed it is not looked at: a fuzzer has no key.
pub fn holds(text: &str) -> Result<(), String> {
    let asked = Asked::unsigned(text.as_bytes()).map_err(|error| error.to_string())?;
    let der = der(text).expect("it was read as PEM");
    assert_eq!(Asked::unsigned(pem(&der).as_bytes()).as_ref(), Ok(&asked));
    let (rest, other) = X509CertificationRequest::from_der(&der).map_err(|it| it.to_string())?;
    assert!(rest.is_empty(), "something follows the request");
    let info = &other.certification_request_info;
    let mut common_names = info.subject.iter_common_name().filter_map(|name| name.as_str().ok());
    assert_eq!(common_names.next(), Some(asked.common_name.as_str()));
    assert_eq!(common_names.next(), None);
    let mut groups = info.subject.iter_organization().filter_map(|name| name.as_str().ok());
    assert_eq!(groups.next(), Some(asked.organization.as_str()));
    assert_eq!(groups.next(), None);
    assert_eq!(info.subject.iter_attributes().count(), 2);
    assert_eq!(info.subject_pki.raw, asked.public_key);
    let (mut dns, mut addresses, mut extensions) = (Vec::new(), Vec::new(), 0);
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() else {
            panic!("{attribute:?}");
        };
        for extension in &request.extensions {
            extensions += 1;
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension()
            else {
                panic!("{extension:?}");
            };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => addresses.push(bytes.to_vec()),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert!(extensions <= 1, "{extensions} extensions");
    assert_eq!(dns, asked.dns);
    let octets: Vec<_> = asked.addresses.iter().map(|it| it.octets().to_vec()).collect();
    assert_eq!(addresses, octets);
    Ok(())
}

/// What is in a PEM block; for mutations, which reach nothing through base64.
pub fn der(text: &str) -> Option<Vec<u8>> {
    let lines = text.strip_prefix(BEGIN)?.strip_suffix(END)?;
    BASE64.decode(lines.replace('\n', "")).ok()
}

pub fn pem(der: &[u8]) -> String {
    format!("{BEGIN}{}\n{END}", BASE64.encode(der))
}
