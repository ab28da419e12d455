//! Requests that kdiy must refuse, each one change away from a valid one.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::json;

use super::*;
use crate::config::ClusterConfig;

/// The keys of an honest machine, and of somebody else.
static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());
static OTHER_KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());

const WORKER: &str = "system:node:kdiy-worker-1";
const MASTER: &str = "system:node:kdiy-master-1";

const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const CN: &[u8] = &[0x55, 0x04, 0x03];
const O: &[u8] = &[0x55, 0x04, 0x0a];
const OU: &[u8] = &[0x55, 0x04, 0x0b];
const SAN: &[u8] = &[0x55, 0x1d, 0x11];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
const CHALLENGE_PASSWORD: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x07];
/// `ecdsa-with-SHA256`, with the tag and the length.
const ECDSA: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
    let mut bytes = vec![tag];
    match length {
        [0, short] if short < 0x80 => bytes.push(short),
        [0, one] => bytes.extend([0x81, one]),
        two => bytes.extend([&[0x82][..], &two].concat()),
    }
    bytes.extend(contents);
    bytes
}

fn attribute(kind: &[u8], tag: u8, text: &str) -> Vec<u8> {
    tlv(0x30, &[tlv(0x06, kind), tlv(tag, text.as_bytes())].concat())
}

/// One element of a subject.
fn name(kind: &[u8], text: &str) -> Vec<u8> {
    tlv(0x31, &attribute(kind, UTF8, text))
}

fn extension(kind: &[u8], value: &[u8]) -> Vec<u8> {
    tlv(0x30, &[tlv(0x06, kind), tlv(0x04, value)].concat())
}

fn critical(kind: &[u8], value: &[u8]) -> Vec<u8> {
    tlv(0x30, &[tlv(0x06, kind), tlv(0x01, &[0xff]), tlv(0x04, value)].concat())
}

/// `[1]` is a mail address, `[2]` a host name, `[6]` a URI, `[7]` an address.
fn names(list: &[(u8, &[u8])]) -> Vec<u8> {
    let names: Vec<u8> = list.iter().flat_map(|(tag, name)| tlv(0x80 | tag, name)).collect();
    tlv(0x30, &names)
}

fn own_names() -> Vec<u8> {
    names(&[(2, b"kdiy-worker-1"), (7, &[192, 168, 56, 51])])
}

fn extension_request(extensions: &[Vec<u8>]) -> Vec<u8> {
    let values = tlv(0x31, &tlv(0x30, &extensions.concat()));
    tlv(0x30, &[tlv(0x06, EXTENSION_REQUEST), values].concat())
}

/// A request before it is put together.
struct Draft {
    signer: &'static str,
    user: &'static str,
    groups: Vec<&'static str>,
    usages: Vec<&'static str>,
    seconds: Option<i32>,
    version: u8,
    subject: Vec<Vec<u8>>,
    attributes: Vec<Vec<u8>>,
    /// After the last field of what is signed, and after everything.
    more: Vec<u8>,
    trailing: Vec<u8>,
    key: &'static LazyLock<KeyPair>,
    signed_by: &'static LazyLock<KeyPair>,
    encode: fn(&str) -> String,
}

impl Draft {
    fn client() -> Self {
        Self {
            signer: CLIENT_SIGNER,
            user: "system:bootstrap:aaaaaa",
            groups: vec!["system:bootstrappers", tokens::GROUP, "system:authenticated"],
            usages: vec!["digital signature", "client auth"],
            seconds: None,
            version: 0,
            subject: vec![name(O, NODE_GROUP), name(CN, WORKER)],
            attributes: Vec::new(),
            more: Vec::new(),
            trailing: Vec::new(),
            key: &KEY,
            signed_by: &KEY,
            encode: str::to_owned,
        }
    }

    fn serving() -> Self {
        Self {
            signer: SERVING_SIGNER,
            user: WORKER,
            groups: vec![NODE_GROUP, "system:authenticated"],
            usages: vec!["digital signature", "server auth"],
            attributes: vec![extension_request(&[extension(SAN, &own_names())])],
            ..Self::client()
        }
    }

    fn der(&self) -> Vec<u8> {
        let info = tlv(
            0x30,
            &[
                tlv(0x02, &[self.version]),
                tlv(0x30, &self.subject.concat()),
                self.key.subject_public_key_info(),
                tlv(0xa0, &self.attributes.concat()),
                self.more.clone(),
            ]
            .concat(),
        );
        let signature = [vec![0], self.signed_by.sign(&info).unwrap()].concat();
        let request = tlv(0x30, &[info, tlv(0x30, ECDSA), tlv(0x03, &signature)].concat());
        [request, self.trailing.clone()].concat()
    }

    fn csr(&self) -> CertificateSigningRequest {
        let pem = (self.encode)(&armoured(&self.der()));
        serde_json::from_value(json!({"metadata": {"name": "csr-1", "uid": "u1"}, "spec": {
            "request": BASE64.encode(pem),
            "signerName": self.signer,
            "username": self.user,
            "groups": self.groups,
            "usages": self.usages,
            "expirationSeconds": self.seconds,
        }}))
        .unwrap()
    }
}

pub(super) fn armoured(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    )
}

fn decision(csr: &CertificateSigningRequest) -> Decision {
    let network = "192.168.56.0/24".parse().unwrap();
    let topology = Topology::build(&ClusterConfig::default(), network).unwrap();
    let owners = [("aaaaaa", "kdiy-worker-1"), ("bbbbbb", "kdiy-worker-2")];
    let owners = owners.map(|(id, machine)| (id.to_owned(), machine.to_owned())).into();
    decide(csr, &topology, &owners)
}

fn made(draft: Draft, change: impl Fn(&mut Draft)) -> Decision {
    let mut draft = draft;
    change(&mut draft);
    decision(&draft.csr())
}

fn approved(serving: bool) -> Decision {
    Decision::Approve { machine: "kdiy-worker-1".into(), serving }
}

type Change = fn(&mut Draft);
/// What is forged, of which request, and how.
type Forgery = (&'static str, fn() -> Draft, Change);

#[test]
fn requests_of_kubelets_are_approved() {
    let variants: &[(&str, Change)] = &[
        ("as it is", |_| {}),
        ("the name before the group", |d| d.subject.reverse()),
        ("strings as Go writes them", |d| {
            let printable = |kind, text| tlv(0x31, &attribute(kind, PRINTABLE, text));
            d.subject = vec![printable(O, NODE_GROUP), printable(CN, WORKER)];
        }),
        ("a key for RSA would", |d| d.usages.push("key encipherment")),
        ("usages in another order", |d| d.usages.reverse()),
        ("for a day", |d| d.seconds = Some(86_400)),
    ];
    for (what, change) in variants {
        assert_eq!(made(Draft::client(), change), approved(false), "client: {what}");
        assert_eq!(made(Draft::serving(), change), approved(true), "serving: {what}");
    }
    let critical = |d: &mut Draft| {
        d.attributes = vec![extension_request(&[critical(SAN, &own_names())])];
    };
    assert_eq!(made(Draft::serving(), critical), approved(true));
    let reversed = |d: &mut Draft| {
        let reversed = names(&[(7, &[192, 168, 56, 51]), (2, b"kdiy-worker-1")]);
        d.attributes = vec![extension_request(&[extension(SAN, &reversed)])];
    };
    assert_eq!(made(Draft::serving(), reversed), approved(true));
}

/// As `kdiy-node-bootstrap` makes it.
#[test]
fn requests_of_openssl_are_approved() {
    let directory = tempfile::tempdir().unwrap();
    let openssl = |arguments: &[&str]| {
        let mut command = std::process::Command::new("openssl");
        let output = command.args(arguments).current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key"]);
    let subject = format!("/O={NODE_GROUP}/CN={WORKER}");
    openssl(&["req", "-new", "-key", "key", "-subj", &subject, "-out", "request"]);
    let pem = std::fs::read(directory.path().join("request")).unwrap();
    let mut csr = Draft::client().csr();
    csr.spec.request.0 = pem;
    assert_eq!(decision(&csr), approved(false));
}

/// The first two were proved on clusters of an older kdiy, which approved them.
const FORGERIES: &[Forgery] = &[
    ("two common names, of which Go takes the last", Draft::client, |d| {
        d.subject.push(name(CN, MASTER));
    }),
    ("two requests for extensions, which Go merges", Draft::serving, |d| {
        let usage = critical(KEY_USAGE, &[0x03, 0x02, 0x07, 0x80]);
        let foreign = names(&[(2, b"kubernetes.default.svc"), (7, &[192, 168, 56, 10])]);
        d.attributes =
            vec![extension_request(&[usage]), extension_request(&[extension(SAN, &foreign)])];
    }),
    ("two common names in one set", Draft::client, |d| {
        let both = [attribute(CN, UTF8, WORKER), attribute(CN, UTF8, MASTER)].concat();
        d.subject = vec![name(O, NODE_GROUP), tlv(0x31, &both)];
    }),
    ("group and name in one set", Draft::client, |d| {
        let both = [attribute(CN, UTF8, WORKER), attribute(O, UTF8, NODE_GROUP)].concat();
        d.subject = vec![tlv(0x31, &both)];
    }),
    ("two common names that are the same", Draft::client, |d| d.subject.push(name(CN, WORKER))),
    ("an empty common name before the right one", Draft::client, |d| {
        d.subject.insert(0, name(CN, ""));
    }),
    ("an empty set in the subject", Draft::client, |d| d.subject.push(tlv(0x31, &[]))),
    ("two groups", Draft::client, |d| d.subject.push(name(O, "system:masters"))),
    ("another group", Draft::client, |d| d.subject[0] = name(O, "system:masters")),
    ("no group", Draft::client, |d| {
        d.subject.remove(0);
    }),
    ("no name", Draft::client, |d| d.subject.truncate(1)),
    ("a unit beside the group", Draft::client, |d| d.subject.push(name(OU, "masters"))),
    ("the group as a unit", Draft::client, |d| d.subject[0] = name(OU, NODE_GROUP)),
    ("a name in UTF-16", Draft::client, |d| {
        let wide: Vec<u8> = WORKER.bytes().flat_map(|byte| [0, byte]).collect();
        let kind = tlv(0x06, CN);
        d.subject[1] = tlv(0x31, &tlv(0x30, &[kind, tlv(0x1e, &wide)].concat()));
    }),
    ("a name with a zero at its end", Draft::client, |d| {
        d.subject[1] = name(CN, "system:node:kdiy-worker-1\0");
    }),
    ("a name with a letter that only looks alike", Draft::client, |d| {
        d.subject[1] = name(CN, "system:node:kdiy-w\u{43e}rker-1");
    }),
    ("a name in capitals", Draft::client, |d| d.subject[1] = name(CN, "system:node:KDIY-WORKER-1")),
    ("a name with a space before it", Draft::client, |d| {
        d.subject[1] = name(CN, " system:node:kdiy-worker-1");
    }),
    ("something after the name in its attribute", Draft::client, |d| {
        let more = [tlv(0x06, CN), tlv(UTF8, WORKER.as_bytes()), tlv(UTF8, MASTER.as_bytes())];
        d.subject[1] = tlv(0x31, &tlv(0x30, &more.concat()));
    }),
    ("the name of another machine", Draft::client, |d| d.subject[1] = name(CN, MASTER)),
    ("a name that is no machine's", Draft::client, |d| {
        d.subject[1] = name(CN, "system:node:stranger");
    }),
    ("the administrator's name", Draft::client, |d| d.subject[1] = name(CN, "kdiy-admin")),
    ("names for a client", Draft::client, |d| {
        d.attributes = vec![extension_request(&[extension(SAN, &own_names())])];
    }),
    ("an authority's rights", Draft::client, |d| {
        let authority = critical(BASIC_CONSTRAINTS, &[0x30, 0x03, 0x01, 0x01, 0xff]);
        d.attributes = vec![extension_request(&[authority])];
    }),
    ("an empty request for extensions", Draft::client, |d| {
        d.attributes = vec![extension_request(&[])];
    }),
    ("a password", Draft::client, |d| {
        let value = tlv(0x31, &tlv(UTF8, b"password"));
        d.attributes = vec![tlv(0x30, &[tlv(0x06, CHALLENGE_PASSWORD), value].concat())];
    }),
    ("the token of another machine", Draft::client, |d| d.user = "system:bootstrap:bbbbbb"),
    ("a token that kdiy did not make", Draft::client, |d| d.user = "system:bootstrap:cccccc"),
    ("a token's name without its group", Draft::client, |d| {
        d.groups = vec!["system:authenticated"]
    }),
    ("an administrator instead of a token", Draft::client, |d| d.user = "kdiy-admin"),
    ("another node instead of a token", Draft::client, |d| {
        d.user = MASTER;
        d.groups = vec![NODE_GROUP];
    }),
    ("a usage more", Draft::client, |d| d.usages.push("server auth")),
    ("any usage", Draft::client, |d| d.usages.push("any")),
    ("an authority's usage", Draft::client, |d| d.usages = vec!["cert sign", "client auth"]),
    ("a usage twice", Draft::client, |d| d.usages.push("client auth")),
    ("no usage", Draft::client, |d| d.usages.clear()),
    ("more than a year", Draft::client, |d| d.seconds = Some(LONGEST_SECONDS + 1)),
    ("another version", Draft::client, |d| d.version = 2),
    ("a key of somebody else", Draft::client, |d| d.key = &OTHER_KEY),
    ("something after the request", Draft::client, |d| d.trailing = vec![0x05, 0x00]),
    ("something after the attributes", Draft::client, |d| d.more = tlv(0xa0, &[])),
    ("two PEM blocks", Draft::client, |d| d.encode = |pem| pem.repeat(2)),
    ("text before the PEM block", Draft::client, |d| d.encode = |pem| format!("Subject:\n{pem}")),
    ("text after the PEM block", Draft::client, |d| d.encode = |pem| format!("{pem}\n")),
    ("another kind of PEM block", Draft::client, |d| {
        d.encode = |pem| pem.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST");
    }),
    ("a header in the PEM block", Draft::client, |d| {
        d.encode = |pem| pem.replacen("-----\n", "-----\nProc-Type: 4\n\n", 1);
    }),
    ("DER without PEM", Draft::client, |d| d.encode = |_| "MIIB".into()),
    ("no names for a server", Draft::serving, |d| d.attributes.clear()),
    ("an empty list of names", Draft::serving, |d| {
        d.attributes = vec![extension_request(&[extension(SAN, &names(&[]))])];
    }),
    ("a host name more", Draft::serving, |d| {
        let more = names(&[
            (2, b"kdiy-worker-1"),
            (2, b"kubernetes.default.svc"),
            (7, &[192, 168, 56, 51]),
        ]);
        d.attributes = vec![extension_request(&[extension(SAN, &more)])];
    }),
    ("an address more", Draft::serving, |d| {
        let more =
            names(&[(2, b"kdiy-worker-1"), (7, &[192, 168, 56, 51]), (7, &[192, 168, 56, 10])]);
        d.attributes = vec![extension_request(&[extension(SAN, &more)])];
    }),
    ("the address of another machine", Draft::serving, |d| {
        let other = names(&[(2, b"kdiy-worker-1"), (7, &[192, 168, 56, 11])]);
        d.attributes = vec![extension_request(&[extension(SAN, &other)])];
    }),
    ("an address without the name", Draft::serving, |d| {
        let alone = names(&[(7, &[192, 168, 56, 51])]);
        d.attributes = vec![extension_request(&[extension(SAN, &alone)])];
    }),
    ("a name without the address", Draft::serving, |d| {
        let alone = names(&[(2, b"kdiy-worker-1")]);
        d.attributes = vec![extension_request(&[extension(SAN, &alone)])];
    }),
    ("a wildcard", Draft::serving, |d| {
        let wild = names(&[(2, b"*"), (7, &[192, 168, 56, 51])]);
        d.attributes = vec![extension_request(&[extension(SAN, &wild)])];
    }),
    ("an address of IPv6", Draft::serving, |d| {
        let long = names(&[(2, b"kdiy-worker-1"), (7, &[0; 16])]);
        d.attributes = vec![extension_request(&[extension(SAN, &long)])];
    }),
    ("a mail address", Draft::serving, |d| {
        let mail =
            names(&[(2, b"kdiy-worker-1"), (7, &[192, 168, 56, 51]), (1, b"root@kdiy-master-1")]);
        d.attributes = vec![extension_request(&[extension(SAN, &mail)])];
    }),
    ("a URI", Draft::serving, |d| {
        let uri =
            names(&[(2, b"kdiy-worker-1"), (7, &[192, 168, 56, 51]), (6, b"https://kubernetes")]);
        d.attributes = vec![extension_request(&[extension(SAN, &uri)])];
    }),
    ("two lists of names in one request", Draft::serving, |d| {
        let foreign = names(&[(2, b"kubernetes")]);
        let lists = [extension(SAN, &own_names()), extension(SAN, &foreign)];
        d.attributes = vec![extension_request(&lists)];
    }),
    ("an extension beside the names", Draft::serving, |d| {
        let usage = critical(KEY_USAGE, &[0x03, 0x02, 0x02, 0x04]);
        d.attributes = vec![extension_request(&[extension(SAN, &own_names()), usage])];
    }),
    ("two values in one attribute", Draft::serving, |d| {
        let list = |value: &[u8]| tlv(0x30, &extension(SAN, value));
        let values = [list(&own_names()), list(&names(&[(2, b"kubernetes")]))].concat();
        let attribute = [tlv(0x06, EXTENSION_REQUEST), tlv(0x31, &values)].concat();
        d.attributes = vec![tlv(0x30, &attribute)];
    }),
    ("something after the names", Draft::serving, |d| {
        let value = [own_names(), names(&[(2, b"kubernetes")])].concat();
        d.attributes = vec![extension_request(&[extension(SAN, &value)])];
    }),
    ("a length in a longer form", Draft::serving, |d| {
        let names = own_names();
        let length = u8::try_from(names.len() - 2).unwrap();
        let value = [&[0x30, 0x81, length], &names[2..]].concat();
        d.attributes = vec![extension_request(&[extension(SAN, &value)])];
    }),
    ("a token instead of a node", Draft::serving, |d| d.user = "system:bootstrap:aaaaaa"),
    ("another node", Draft::serving, |d| d.user = "system:node:kdiy-worker-2"),
    ("a node's name without its group", Draft::serving, |d| {
        d.groups = vec!["system:authenticated"]
    }),
    ("a client's usage", Draft::serving, |d| d.usages = vec!["digital signature", "client auth"]),
    ("another group for a server", Draft::serving, |d| d.subject[0] = name(O, "system:masters")),
];

#[test]
fn forgeries_are_refused() {
    for (what, draft, change) in FORGERIES {
        let decision = made(draft(), change);
        assert!(matches!(decision, Decision::Refuse(_)), "{what}: {decision:?}");
    }
    // What docs/security.md says.
    assert_eq!(FORGERIES.len(), 68);
}

/// Each byte of a good request in turn: the signature breaks, and nothing is seen in it that the
/// honest one does not say.
#[test]
fn no_byte_of_a_request_can_be_changed() {
    let honest = Draft::serving().der();
    for position in 0..honest.len() {
        let mut changed = honest.clone();
        changed[position] ^= 1;
        let mut csr = Draft::serving().csr();
        csr.spec.request.0 = armoured(&changed).into_bytes();
        let decision = decision(&csr);
        assert!(matches!(decision, Decision::Refuse(_)), "byte {position}: {decision:?}");
    }
}

#[test]
fn other_signers_and_renewals_are_left_alone() {
    let other = |d: &mut Draft| d.signer = "example.com/own";
    assert_eq!(made(Draft::serving(), other), Decision::NotOurs);
    let damaged = |d: &mut Draft| {
        d.signer = "example.com/own";
        d.encode = |_| String::new();
    };
    assert_eq!(made(Draft::serving(), damaged), Decision::NotOurs);
    let renewal = |d: &mut Draft| {
        d.user = WORKER;
        d.groups = vec![NODE_GROUP];
    };
    assert_eq!(made(Draft::client(), renewal), Decision::NotOurs);
}

mod issued {
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, SanType};

    use super::*;
    use crate::kubernetes::csr::issued::Issued;
    use crate::pki::issue;

    /// What the controller-manager makes of an honest request for a client, unless it is changed.
    fn issued(change: impl Fn(&mut CertificateParams), key: &KeyPair) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, NODE_GROUP);
        params.distinguished_name.push(DnType::CommonName, WORKER);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let authority = issue::authority("test").unwrap();
        let signing = KeyPair::from_pem(&authority.key).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&authority.certificate, signing).unwrap();
        let pem = params.signed_by(key, &issuer).unwrap().pem();
        let mut csr = Draft::client().csr();
        csr.status = serde_json::from_value(json!({
            "conditions": [{"type": "Approved", "status": "True", "reason": REASON}],
            "certificate": BASE64.encode(pem),
        }))
        .unwrap();
        assert!(was_approved_here(&csr));
        Issued::of(&csr)
    }

    #[test]
    fn a_certificate_matches_its_approved_request_or_stops_the_run() {
        assert_eq!(issued(|_| {}, &KEY), Issued::AsApproved);
        let others: [fn(&mut CertificateParams); 5] = [
            |p| p.distinguished_name.push(DnType::CommonName, MASTER),
            |p| p.distinguished_name.push(DnType::OrganizationName, "system:masters"),
            |p| p.subject_alt_names.push(SanType::DnsName("kubernetes".try_into().unwrap())),
            |p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
            |p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
        ];
        for (number, change) in others.into_iter().enumerate() {
            let issued = issued(change, &KEY);
            assert!(matches!(issued, Issued::Otherwise(_)), "{number}: {issued:?}");
        }
        assert!(matches!(issued(|_| {}, &OTHER_KEY), Issued::Otherwise(_)));
    }

    #[test]
    fn requests_that_an_older_kdiy_approved_are_checked_too() {
        let mut draft = Draft::client();
        draft.subject.push(name(CN, MASTER));
        let mut csr = draft.csr();
        csr.status = serde_json::from_value(json!({"certificate": BASE64.encode("x")})).unwrap();
        assert!(matches!(Issued::of(&csr), Issued::Otherwise(_)));
        csr.status = serde_json::from_value(json!({})).unwrap();
        assert_eq!(Issued::of(&csr), Issued::NotYet);
    }
}

mod asking {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use http::Method;
    use kube::client::Body;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_approval_that_does_not_get_through_is_tried_again() {
        let config = ClusterConfig { masters: 1, workers: 1, ..Default::default() };
        let topology = Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap();
        let csr = serde_json::to_value(Draft::serving().csr()).unwrap();
        let approvals = Arc::new(AtomicU32::new(0));
        let count = approvals.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (status, answer) = match *request.method() {
                Method::PATCH if count.fetch_add(1, Ordering::Relaxed) == 0 => {
                    (504, json!({"code": 504}))
                }
                Method::PATCH => (200, csr.clone()),
                // There is nothing of an older kdiy to take away, and no token.
                Method::DELETE => (404, json!({"code": 404})),
                _ if request.uri().path().ends_with("/secrets") => {
                    (200, json!({"metadata": {}, "items": []}))
                }
                _ if request.uri().path().ends_with("/healthz") => {
                    // The kubelet has to wait for its certificate.
                    (if count.load(Ordering::Relaxed) > 1 { 200 } else { 503 }, json!({}))
                }
                _ => (200, json!({"metadata": {}, "items": [csr.clone()]})),
            };
            let answer = http::Response::builder()
                .status(status)
                .body(Body::from(answer.to_string().into_bytes()));
            async move { answer }
        });
        let (events, _reader) = Events::channel();
        let client = Client::new(service, "default");
        let changes = approve(&client, &topology, &events, 1).await.unwrap();
        assert_eq!(approvals.load(Ordering::Relaxed), 2);
        assert_eq!(changes, ["approved the serving certificate of kdiy-worker-1"]);
    }
}
