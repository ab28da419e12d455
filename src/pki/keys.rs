//! Keys that the cluster needs: the CAs, the key that signs pods' tokens and the key that encrypts
//! Secrets. kdiy generates them once. If one is missing, damaged or belongs to another cluster, a
//! new one would lock out every node or make every Secret unreadable, so kdiy stops.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{KeyPair, PublicKeyData as _};
use time::OffsetDateTime;

use crate::bundle::key::{of_certificate, of_key, of_public_key};
use crate::bundle::sha256;
use crate::pki::identity::Authority;
use crate::pki::issue::Pair;
use crate::pki::{LOOSE, Loose, SERVICE_ACCOUNT};
use crate::state::record::Fingerprints;
use crate::support::failure::{Failure, Result};

const ENCRYPTION_KEY: &str = "encryption-key";
/// Something that is wrong with one of them.
struct Problem {
    file: String,
    what: String,
    remedy: &'static str,
}

/// An error that names every file in `directory` that a cluster cannot do without and that is
/// missing, damaged or another one than `known`. A cluster of an older kdiy has nothing known: its
/// keys are believed once all are there.
pub fn check(directory: &Path, known: &Fingerprints) -> Result<()> {
    let mut problems = Vec::new();
    for authority in Authority::ALL {
        let name = format!("{}-ca", authority.as_str());
        problems.extend(authority_problem(directory, authority, known.0.get(&name)));
    }
    let service_account = fingerprint_of_file(directory, SERVICE_ACCOUNT, of_key);
    problems.extend(differs(service_account, known.0.get(SERVICE_ACCOUNT)).map(|what| Problem {
        file: SERVICE_ACCOUNT.into(),
        what,
        remedy: "every master has it: /etc/kubernetes/pki/apiserver-service-account.key",
    }));
    let encryption = fingerprint_of_file(directory, LOOSE, |text| {
        let loose: Loose = serde_json::from_str(text).ok()?;
        let bytes = BASE64.decode(&loose.encryption_key).ok()?;
        (bytes.len() == 32).then(|| sha256(loose.encryption_key.as_bytes()))
    });
    problems.extend(differs(encryption, known.0.get(ENCRYPTION_KEY)).map(|what| Problem {
        file: LOOSE.into(),
        what,
        remedy: "every master has the key in it (encryptionKey): /etc/kubernetes/encryption.yaml",
    }));
    if problems.is_empty() {
        return Ok(());
    }
    let list = problems.iter().map(|Problem { file, what, .. }| format!("{file} {what}"));
    let failure = Failure::host("keys that the cluster needs are missing or have changed")
        .tail(list.collect())
        .hint(format!(
            "nothing was changed; restore them from your copy of {}",
            directory.display()
        ));
    let mut remedies: Vec<&str> = problems.iter().map(|problem| problem.remedy).collect();
    remedies.dedup();
    Err(remedies.into_iter().fold(failure, Failure::hint))
}

/// Of what [`check`] looks at. `loose` is [`LOOSE`].
pub(super) fn fingerprints<'a>(
    authorities: impl Iterator<Item = (&'a Authority, &'a Pair)>,
    service_account: &KeyPair,
    loose: &Loose,
) -> Fingerprints {
    let of_authorities = authorities.filter_map(|(authority, pair)| {
        Some((format!("{}-ca", authority.as_str()), of_certificate(&pair.certificate)?))
    });
    let others = [
        (SERVICE_ACCOUNT.to_owned(), of_public_key(&service_account.subject_public_key_info())),
        (ENCRYPTION_KEY.to_owned(), sha256(loose.encryption_key.as_bytes())),
    ];
    Fingerprints(of_authorities.chain(others).collect())
}

fn authority_problem(
    directory: &Path,
    authority: Authority,
    known: Option<&String>,
) -> Option<Problem> {
    let name = format!("{}-ca", authority.as_str());
    let remedy = match authority {
        Authority::Kubernetes => {
            "every master has both files: /etc/kubernetes/pki/ca.crt and ca.key"
        }
        Authority::Etcd => {
            "members have the certificate (/etc/etcd/pki/ca.crt), but no machine has the key"
        }
        Authority::FrontProxy => {
            "masters have the certificate (/etc/kubernetes/pki/front-proxy-ca.crt), but no machine \
            has the key"
        }
    };
    let problem = |ending: &str, what: String| {
        Some(Problem { file: format!("{name}.{ending}"), what, remedy })
    };
    let certificate = fingerprint_of_file(directory, &format!("{name}.crt"), of_certificate);
    let fingerprint = certificate.clone().ok();
    if let Some(what) = differs(certificate, known) {
        return problem("crt", what);
    }
    let key = fingerprint_of_file(directory, &format!("{name}.key"), of_key);
    if let Some(what) = differs(key, fingerprint.as_ref()) {
        return problem("key", what);
    }
    let text = std::fs::read_to_string(directory.join(format!("{name}.crt"))).ok()?;
    let ends = crate::pki::issue::expiry(&text)?;
    if ends <= OffsetDateTime::now_utc().unix_timestamp() {
        let hint = "has expired: no certificate that it signed is valid any more";
        return problem("crt", hint.into());
    }
    None
}

/// Why it is none, where it is none.
fn fingerprint_of_file(
    directory: &Path,
    file: &str,
    read: impl Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let text =
        std::fs::read_to_string(directory.join(file)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "is missing".to_owned(),
            _ => format!("cannot be read: {error}"),
        })?;
    read(&text).ok_or_else(|| "is damaged".to_owned())
}

fn differs(found: Result<String, String>, known: Option<&String>) -> Option<String> {
    match found {
        Err(what) => Some(what),
        Ok(found) if known.is_some_and(|known| *known != found) => {
            Some("differs from the one that the cluster was created with".into())
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::ClusterConfig;
    use crate::pki::{Keeping, Pki};
    use crate::topology::Topology;

    /// A cluster's keys, and what is remembered of them.
    fn made() -> (tempfile::TempDir, Fingerprints) {
        let directory = tempfile::tempdir().unwrap();
        let config = ClusterConfig { masters: 1, workers: 0, ..Default::default() };
        let topology = Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap();
        let pki = Pki::open(directory.path(), &topology, &config, Keeping::Made).unwrap();
        (directory, pki.fingerprints())
    }

    const FILES: [&str; 8] = [
        "kubernetes-ca.crt",
        "kubernetes-ca.key",
        "etcd-ca.crt",
        "etcd-ca.key",
        "front-proxy-ca.crt",
        "front-proxy-ca.key",
        SERVICE_ACCOUNT,
        LOOSE,
    ];

    #[test]
    fn every_key_that_is_missing_damaged_or_foreign_is_named() {
        let (directory, known) = made();
        let (other, _) = made();
        check(directory.path(), &known).unwrap();
        check(directory.path(), &Fingerprints::default()).unwrap();
        assert_eq!(known.0.len(), 5);
        for file in FILES {
            let path = directory.path().join(file);
            let text = fs::read_to_string(&path).unwrap();
            fs::remove_file(&path).unwrap();
            // Also for a cluster of an older kdiy, of which nothing is known.
            for known in [&known, &Fingerprints::default()] {
                let said = check(directory.path(), known).unwrap_err().to_string();
                assert!(said.contains(&format!("{file} is missing")), "{said}");
            }
            fs::write(&path, "{}").unwrap();
            let said = check(directory.path(), &known).unwrap_err().to_string();
            assert!(said.contains(&format!("{file} is damaged")), "{said}");
            fs::copy(other.path().join(file), &path).unwrap();
            let said = check(directory.path(), &known).unwrap_err().to_string();
            assert!(said.contains(&format!("{file} differs from")), "{said}");
            assert!(said.contains("nothing was changed"), "{said}");
            fs::write(&path, text).unwrap();
            check(directory.path(), &known).unwrap();
        }
    }

    #[test]
    fn a_certificate_is_not_accepted_as_its_key() {
        let (directory, known) = made();
        let path = |file: &str| directory.path().join(file);
        fs::copy(path("etcd-ca.crt"), path("etcd-ca.key")).unwrap();
        assert!(check(directory.path(), &known).is_err());
    }
}
