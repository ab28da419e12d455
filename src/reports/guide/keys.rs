//! Keys and certificates by hand, with openssl: the same identities that [`crate::pki`] makes.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::bundle::script::quote;
use crate::config::ClusterConfig;
use crate::pki::identity::{Authority, IDENTITIES, Identity, Usage};
use crate::pki::{issue, wanted};
use crate::reports::guide::secret_placeholders::{PKI, pair, token};
use crate::topology::{Group, Machine, Topology};

/// What both openssl commands want to be told, and no more.
const SETTINGS: &str = "[req]\ndistinguished_name = name\n[name]\n[authority]\n\
    basicConstraints = critical, CA:TRUE, pathlen:0\n\
    keyUsage = critical, digitalSignature, keyCertSign, cRLSign\n\
    subjectKeyIdentifier = hash\n";

/// The authorities, each with a key of its own.
pub fn authorities(topology: &Topology) -> String {
    let mut lines =
        vec![format!("mkdir -p {PKI}"), format!("cat >{PKI}/openssl.cnf <<'END'\n{SETTINGS}END")];
    for authority in Authority::ALL {
        let name = authority.as_str();
        let subject = quote(&format!("/CN={}-{name}-ca", topology.cluster));
        let days = issue::AUTHORITY_LIFETIME.whole_days();
        lines.push(format!(
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {PKI}/{name}-ca.key\n\
             openssl req -x509 -config {PKI}/openssl.cnf -extensions authority -days {days} \\\n  \
             -subj {subject} -key {PKI}/{name}-ca.key -out {PKI}/{name}-ca.crt"
        ));
    }
    lines.join("\n")
}

/// Certificates for the identities whose files (`pki/NAME.crt`) are in `needed`.
pub fn certificates(
    topology: &Topology,
    config: &ClusterConfig,
    needed: &BTreeSet<String>,
) -> String {
    let days = issue::LEAF_LIFETIME.whole_days();
    let mut lines = vec![format!(
        "# file, authority, subject, usage, names\n\
         certificate() {{\n  \
         openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out \"$1.key\"\n  \
         echo 'keyUsage = critical, digitalSignature' >{PKI}/extensions\n  \
         echo \"extendedKeyUsage = $4\" >>{PKI}/extensions\n  \
         [ -z \"${{5-}}\" ] || echo \"subjectAltName = $5\" >>{PKI}/extensions\n  \
         openssl req -new -config {PKI}/openssl.cnf -subj \"$3\" -key \"$1.key\" |\n    \
         openssl x509 -req -CA \"{PKI}/$2-ca.crt\" -CAkey \"{PKI}/$2-ca.key\" -days {days} \\\n      \
         -set_serial \"0x$(openssl rand -hex 16)\" -extfile {PKI}/extensions -out \"$1.crt\"\n\
         }}"
    )];
    for identity in IDENTITIES {
        let owners: Vec<Option<&Machine>> = match identity.per_machine {
            true => topology.machines.iter().map(Some).collect(),
            false => vec![None],
        };
        let owners =
            owners.into_iter().filter(|machine| needed.contains(&pair(identity, *machine)));
        let calls: Vec<String> =
            owners.map(|machine| call(identity, machine, topology, config)).collect();
        if !calls.is_empty() {
            lines.push(format!("# {}\n{}", identity.what, calls.join("\n")));
        }
    }
    lines.join("\n")
}

fn call(
    identity: &Identity,
    machine: Option<&Machine>,
    topology: &Topology,
    config: &ClusterConfig,
) -> String {
    let wanted = wanted(identity, machine, topology, config);
    let organization = identity.organization.map(|name| format!("/O={name}")).unwrap_or_default();
    let dns = wanted.dns.iter().map(|name| format!("DNS:{name}"));
    let addresses = wanted.addresses.iter().map(|address| format!("IP:{address}"));
    let names: Vec<String> = dns.chain(addresses).collect();
    let usage = match identity.usage {
        Usage::Server => "serverAuth",
        Usage::Client => "clientAuth",
        Usage::Both => "serverAuth,clientAuth",
    };
    let mut call = format!(
        "certificate {} {} {} {usage}",
        quote(&pair(identity, machine)),
        identity.authority.as_str(),
        quote(&format!("{organization}/CN={}", wanted.common_name)),
    );
    if !names.is_empty() {
        let _ = write!(call, " \\\n  {}", quote(&names.join(",")));
    }
    call
}

/// The keys that are no certificates: for tokens of pods, for Secrets in etcd, and a token for
/// each node to join with.
pub fn others(topology: &Topology) -> String {
    let mut lines = vec![
        format!(
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 \\\n  \
             -out {PKI}/service-account.key\n\
             openssl pkey -in {PKI}/service-account.key -pubout -out {PKI}/service-account.pub"
        ),
        format!("openssl rand -base64 32 >{PKI}/encryption-key"),
        // Digits would do as well, but YAML could take them for a number.
        "letters() { LC_ALL=C tr -dc a-z </dev/urandom | head -c \"$1\"; }".to_owned(),
    ];
    lines.extend(topology.group(Group::Nodes).into_iter().map(|machine| {
        let file = quote(&token(machine));
        format!("echo \"$(letters 6).$(letters 16)\" >{file}")
    }));
    lines.join("\n")
}
