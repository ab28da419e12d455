//! Certificates, keys and other secrets of a cluster. kdiy generates them on this computer, keeps
//! them in the cluster's directory (0600), and renews them only when necessary, so that files
//! rendered from them stay the same from run to run.

pub mod identity;
pub mod issue;
pub mod keys;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::RngExt as _;
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};

use crate::bundle::Secrets;
use crate::config::ClusterConfig;
use crate::playbook::format::KUBELET_BOOTSTRAP;
use crate::state::atomic;
use crate::state::record::Fingerprints;
use crate::support::failure::{Failure, Result};
use crate::topology::{Machine, Topology};
use identity::{Authority, IDENTITIES, Identity, Names};
use issue::{Pair, Wanted};

/// What machines' kubeconfigs call the cluster.
pub const CLUSTER: &str = "cluster";

const LOOSE: &str = "secrets.json";
const SERVICE_ACCOUNT: &str = "service-account.key";

/// What a machine shows instead of a certificate while it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    pub machine: String,
    /// Six characters; public.
    pub id: String,
    /// Sixteen characters.
    pub secret: String,
}

impl BootstrapToken {
    fn new(machine: &Machine) -> Self {
        Self { machine: machine.name.clone(), id: word(6), secret: word(16) }
    }
}

/// Secrets that are not certificates: [`LOOSE`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Loose {
    /// Key of the secretbox provider, 32 bytes in base64.
    encryption_key: String,
}

/// What becomes of secrets that had to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// They are written to the directory.
    Made,
    /// Nothing is written; they are forgotten with the [`Pki`]. For looking at what would be.
    Existing,
}

#[derive(Debug)]
pub struct Pki {
    authorities: BTreeMap<Authority, Pair>,
    /// By identity, and machine where each has its own.
    leaves: BTreeMap<(&'static str, Option<String>), Pair>,
    service_account: KeyPair,
    loose: Loose,
    /// Made anew each time, and kept nowhere: only a machine that is to join is given its own.
    tokens: Vec<BootstrapToken>,
}

/// One line of the expiry table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Expiry {
    pub identity: String,
    pub machine: Option<String>,
    /// Seconds of Unix time.
    pub not_after: i64,
}

impl Pki {
    /// Reads what is there, makes what is missing, and makes anew what no longer fits the
    /// topology or is about to expire. For a cluster that exists, [`keys::check`] comes first: what
    /// it looks at must not be made anew.
    pub fn open(
        directory: &Path,
        topology: &Topology,
        config: &ClusterConfig,
        keeping: Keeping,
    ) -> Result<Self> {
        let store = Store { directory: directory.to_owned(), keeping };
        if keeping == Keeping::Made {
            atomic::private_directory(directory)?;
        }
        let mut authorities = BTreeMap::new();
        for authority in Authority::ALL {
            let file = format!("{}-ca", authority.as_str());
            let pair = match store.pair(&file)? {
                Some(pair) => pair,
                None => {
                    let name = format!("{}-{}-ca", topology.cluster, authority.as_str());
                    let pair = issue::authority(&name).map_err(|e| unmakeable(&file, e))?;
                    store.write_pair(&file, &pair)?;
                    pair
                }
            };
            authorities.insert(authority, pair);
        }
        let mut leaves = BTreeMap::new();
        for identity in IDENTITIES {
            let owners: Vec<Option<&Machine>> = if identity.per_machine {
                topology.machines.iter().map(Some).collect()
            } else {
                vec![None]
            };
            for machine in owners {
                let wanted = wanted(identity, machine, topology, config);
                let pair = store.leaf(&wanted, machine, &authorities[&identity.authority])?;
                leaves.insert((identity.name, machine.map(|m| m.name.clone())), pair);
            }
        }
        Ok(Self {
            authorities,
            leaves,
            service_account: store.service_account()?,
            loose: store.loose()?,
            tokens: topology.machines.iter().map(BootstrapToken::new).collect(),
        })
    }

    /// Deletes what was made for one machine alone. What is not there is no error.
    pub fn forget(directory: &Path, machine: &str) -> Result<()> {
        let store = Store { directory: directory.to_owned(), keeping: Keeping::Made };
        for identity in IDENTITIES.iter().filter(|identity| identity.per_machine) {
            for kind in ["crt", "key"] {
                store.delete(&format!("{}@{machine}.{kind}", identity.name))?;
            }
        }
        Ok(())
    }

    /// Of what is made once for the cluster.
    pub fn fingerprints(&self) -> Fingerprints {
        keys::fingerprints(self.authorities.iter(), &self.service_account, &self.loose)
    }

    pub fn authority_pair(&self, authority: Authority) -> &Pair {
        &self.authorities[&authority]
    }

    /// The pair of an identity, for one machine where each has its own.
    pub fn pair(&self, name: &str, machine: Option<&Machine>) -> Result<&Pair> {
        let identity = identity::identity(name).ok_or_else(|| {
            let known: Vec<&str> = IDENTITIES.iter().map(|identity| identity.name).collect();
            Failure::input(format!("the identity `{name}` does not exist"))
                .hint(format!("known are {}", known.join(", ")))
        })?;
        let owner = machine.filter(|_| identity.per_machine).map(|machine| machine.name.clone());
        self.leaves
            .get(&(identity.name, owner))
            .ok_or_else(|| Failure::bug(format!("no certificate for {name}")))
    }

    /// With which a machine may join while this [`Pki`] is open.
    pub fn bootstrap_token(&self, machine: &Machine) -> Result<&BootstrapToken> {
        let mut tokens = self.tokens.iter();
        tokens
            .find(|token| token.machine == machine.name)
            .ok_or_else(|| Failure::bug("no bootstrap token").on(&machine.name))
    }

    /// All that nobody may read in a log: private keys and tokens.
    pub fn secrets(&self) -> Vec<String> {
        let pairs = self.authorities.values().chain(self.leaves.values());
        let keys = pairs.map(|pair| pair.key.clone());
        let tokens = self.tokens.iter().map(|token| token.secret.clone());
        keys.chain([self.service_account.serialize_pem()])
            .chain(tokens)
            .chain([self.loose.encryption_key.clone()])
            .collect()
    }

    /// Every leaf and authority with its end.
    pub fn expiries(&self) -> Vec<Expiry> {
        let of_authorities = self
            .authorities
            .iter()
            .map(|(authority, pair)| (format!("{}-ca", authority.as_str()), None, pair));
        let of_leaves = self
            .leaves
            .iter()
            .map(|((name, machine), pair)| ((*name).to_owned(), machine.clone(), pair));
        of_authorities
            .chain(of_leaves)
            .filter_map(|(identity, machine, pair)| {
                Some(Expiry { identity, machine, not_after: issue::expiry(&pair.certificate)? })
            })
            .collect()
    }

    /// A kubeconfig with everything in it.
    pub fn kubeconfig_for(
        &self,
        cluster: &str,
        server: &str,
        user: &str,
        machine: Option<&Machine>,
    ) -> Result<String> {
        let pair = self.pair(user, machine)?;
        let certificate = BASE64.encode(&pair.certificate);
        let credentials = Credentials::Certificate { certificate, key: BASE64.encode(&pair.key) };
        kubeconfig(cluster, server, user, &self.believed(), &credentials)
    }

    /// The certificate that clients of the api believe, in base64.
    fn believed(&self) -> String {
        BASE64.encode(&self.authorities[&Authority::Kubernetes].certificate)
    }
}

/// How a client shows the api who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// PEM in base64.
    Certificate {
        certificate: String,
        key: String,
    },
    Token(String),
}

/// A kubeconfig with everything in it; `authority` is a certificate in PEM in base64.
pub fn kubeconfig(
    cluster: &str,
    server: &str,
    user: &str,
    authority: &str,
    credentials: &Credentials,
) -> Result<String> {
    let context = format!("{user}@{cluster}");
    let credentials = match credentials {
        Credentials::Certificate { certificate, key } => serde_json::json!({
            "client-certificate-data": certificate,
            "client-key-data": key,
        }),
        Credentials::Token(token) => serde_json::json!({ "token": token }),
    };
    let document = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": cluster,
            "cluster": {"server": server, "certificate-authority-data": authority},
        }],
        "users": [{"name": context, "user": credentials}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": context}}],
        "current-context": context,
    });
    serde_saphyr::to_string(&document).map_err(|error| Failure::bug("a kubeconfig").because(error))
}

/// How Secrets are encrypted before they go to etcd; `key` is 32 bytes in base64.
pub fn encryption_config(key: &str) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
         - resources: [secrets]\n  providers:\n  - secretbox:\n      keys:\n      \
         - name: key1\n        secret: {key}\n  - identity: {{}}\n"
    )
}

impl Secrets for Pki {
    fn certificate(&self, identity: &str, machine: &Machine) -> Result<String> {
        Ok(self.pair(identity, Some(machine))?.certificate.clone())
    }

    fn key(&self, identity: &str, machine: &Machine) -> Result<String> {
        Ok(self.pair(identity, Some(machine))?.key.clone())
    }

    fn kubeconfig(&self, identity: &str, machine: &Machine, server: &str) -> Result<String> {
        if identity != KUBELET_BOOTSTRAP {
            return self.kubeconfig_for(CLUSTER, server, identity, Some(machine));
        }
        let BootstrapToken { id, secret, .. } = self.bootstrap_token(machine)?;
        let credentials = Credentials::Token(format!("{id}.{secret}"));
        kubeconfig(CLUSTER, server, identity, &self.believed(), &credentials)
    }

    fn authority(&self, name: &str) -> Result<String> {
        let of = |authority: Authority| &self.authorities[&authority];
        let text = match name {
            "kubernetes.crt" => &of(Authority::Kubernetes).certificate,
            "kubernetes.key" => &of(Authority::Kubernetes).key,
            "etcd.crt" => &of(Authority::Etcd).certificate,
            "etcd.key" => &of(Authority::Etcd).key,
            "front-proxy.crt" => &of(Authority::FrontProxy).certificate,
            "front-proxy.key" => &of(Authority::FrontProxy).key,
            "service-account.key" => return Ok(self.service_account.serialize_pem()),
            "service-account.pub" => return Ok(self.service_account.public_key_pem()),
            "encryption-config" => return Ok(encryption_config(&self.loose.encryption_key)),
            _ => return Err(Failure::input(format!("the authority file `{name}` does not exist"))),
        };
        Ok(text.clone())
    }
}

/// What a certificate of an identity has to say.
pub fn wanted<'a>(
    identity: &'a Identity,
    machine: Option<&Machine>,
    topology: &Topology,
    config: &ClusterConfig,
) -> Wanted<'a> {
    let mut dns = Vec::new();
    let mut addresses: Vec<IpAddr> = Vec::new();
    if identity.names != Names::None {
        dns.extend(machine.map(|machine| machine.name.clone()));
        dns.push("localhost".into());
        addresses.extend(machine.map(|machine| IpAddr::from(machine.address)));
        addresses.push(IpAddr::from([127, 0, 0, 1]));
    }
    if identity.names == Names::ApiServer {
        let service = "kubernetes.default.svc";
        dns.extend(["kubernetes".into(), "kubernetes.default".into(), service.into()]);
        dns.push(format!("{service}.{}", config.network.dns_domain));
        addresses.push(topology.api_service.into());
        addresses.extend(topology.vip.map(IpAddr::from));
        match topology.endpoint.host.parse::<IpAddr>() {
            Ok(address) if !addresses.contains(&address) => addresses.push(address),
            Ok(_) => {}
            Err(_) => dns.push(topology.endpoint.host.clone()),
        }
    }
    Wanted { identity, common_name: identity.subject(machine), dns, addresses }
}

/// The files of a [`Pki`].
struct Store {
    directory: PathBuf,
    keeping: Keeping,
}

impl Store {
    fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    fn read(&self, file: &str) -> Result<Option<String>> {
        let path = self.path(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(Failure::host(format!("cannot read {}", path.display())).because(error))
            }
        }
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        if self.keeping == Keeping::Existing {
            return Ok(());
        }
        atomic::write(&self.path(file), text.as_bytes(), 0o600)
    }

    /// The key is written first, so a certificate always has one.
    fn write_pair(&self, file: &str, pair: &Pair) -> Result<()> {
        self.write(&format!("{file}.key"), &pair.key)?;
        self.write(&format!("{file}.crt"), &pair.certificate)
    }

    fn pair(&self, file: &str) -> Result<Option<Pair>> {
        let certificate = self.read(&format!("{file}.crt"))?;
        let key = self.read(&format!("{file}.key"))?;
        Ok(certificate.zip(key).map(|(certificate, key)| Pair { certificate, key }))
    }

    fn leaf(
        &self,
        wanted: &Wanted<'_>,
        machine: Option<&Machine>,
        authority: &Pair,
    ) -> Result<Pair> {
        let file = match machine {
            Some(machine) => format!("{}@{}", wanted.identity.name, machine.name),
            None => wanted.identity.name.to_owned(),
        };
        if let Some(pair) = self.pair(&file)?
            && issue::still_good(&pair, wanted, authority)
        {
            return Ok(pair);
        }
        let pair = issue::leaf(wanted, authority).map_err(|error| unmakeable(&file, error))?;
        self.write_pair(&file, &pair)?;
        Ok(pair)
    }

    fn service_account(&self) -> Result<KeyPair> {
        if let Some(text) = self.read(SERVICE_ACCOUNT)? {
            return KeyPair::from_pem(&text).map_err(|error| {
                let path = self.path(SERVICE_ACCOUNT);
                Failure::host(format!("{} is not a private key", path.display())).because(error)
            });
        }
        let key = KeyPair::generate().map_err(|error| unmakeable(SERVICE_ACCOUNT, error))?;
        self.write(SERVICE_ACCOUNT, &key.serialize_pem())?;
        Ok(key)
    }

    fn delete(&self, file: &str) -> Result<()> {
        let path = self.path(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::host(format!("cannot remove {}", path.display())).because(error))
            }
            _ => Ok(()),
        }
    }

    fn kept_loose(&self) -> Result<Option<Loose>> {
        let Some(text) = self.read(LOOSE)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Failure::host(format!("{} is damaged", self.path(LOOSE).display())).because(error)
        })
    }

    fn write_loose(&self, loose: &Loose) -> Result<()> {
        let text = serde_json::to_string_pretty(loose)
            .map_err(|error| Failure::bug(LOOSE).because(error))?;
        self.write(LOOSE, &text)
    }

    fn loose(&self) -> Result<Loose> {
        if let Some(loose) = self.kept_loose()? {
            return Ok(loose);
        }
        let loose = Loose { encryption_key: BASE64.encode(rand::random::<[u8; 32]>()) };
        self.write_loose(&loose)?;
        Ok(loose)
    }
}

/// Random lower-case letters and digits, as bootstrap tokens are made of.
fn word(length: usize) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

fn unmakeable(file: &str, error: rcgen::Error) -> Failure {
    Failure::bug(format!("cannot create the certificate {file}")).because(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open(directory: &Path, config: &ClusterConfig) -> (Pki, Topology) {
        let topology = Topology::build(config, "192.168.56.0/24".parse().unwrap()).unwrap();
        (Pki::open(directory, &topology, config, Keeping::Made).unwrap(), topology)
    }

    fn openssl(arguments: &[&str]) -> std::process::Output {
        std::process::Command::new("openssl").args(arguments).output().unwrap()
    }

    #[test]
    fn openssl_accepts_every_chain_and_every_file_is_private() {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path(), &ClusterConfig::default());
        for identity in IDENTITIES {
            let owner = if identity.per_machine { "@kdiy-master-2" } else { "" };
            let leaf = directory.path().join(format!("{}{owner}.crt", identity.name));
            let ca = directory.path().join(format!("{}-ca.crt", identity.authority.as_str()));
            let output =
                openssl(&["verify", "-CAfile", ca.to_str().unwrap(), leaf.to_str().unwrap()]);
            assert!(output.status.success(), "{}: {output:?}", identity.name);
        }
        for entry in fs::read_dir(directory.path()).unwrap().flatten() {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", entry.path().display());
        }
    }

    /// A NAT address, which several machines may share, is not among them.
    #[test]
    fn certificates_name_no_address_but_those_of_the_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let (_, topology) = open(directory.path(), &ClusterConfig::default());
        let mut known: Vec<String> =
            topology.machines.iter().map(|machine| machine.address.to_string()).collect();
        known.extend(topology.vip.map(|vip| vip.to_string()));
        known.extend([topology.api_service.to_string(), "127.0.0.1".into()]);
        let mut seen = 0;
        for identity in IDENTITIES {
            let owner = if identity.per_machine { "@kdiy-master-2" } else { "" };
            let leaf = directory.path().join(format!("{}{owner}.crt", identity.name));
            let show = ["x509", "-noout", "-ext", "subjectAltName", "-in", leaf.to_str().unwrap()];
            let text = String::from_utf8(openssl(&show).stdout).unwrap();
            for address in text.split("IP Address:").skip(1) {
                let address = address.split(',').next().unwrap().trim();
                assert!(known.iter().any(|it| it == address), "{}: {address}", identity.name);
                seen += 1;
            }
        }
        assert!(seen > 5, "{seen} addresses");
    }

    #[test]
    fn the_same_directory_gives_the_same_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let config = ClusterConfig::default();
        let (first, topology) = open(directory.path(), &config);
        let (second, _) = open(directory.path(), &config);
        let machine = &topology.machines[0];
        assert_eq!(first.pair("apiserver", Some(machine)), second.pair("apiserver", Some(machine)));
        assert_eq!(
            first.authority("encryption-config").unwrap(),
            second.authority("encryption-config").unwrap()
        );
        assert_ne!(first.bootstrap_token(machine), second.bootstrap_token(machine));
    }

    #[test]
    fn nothing_of_a_removed_machine_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let config = ClusterConfig::default();
        open(directory.path(), &config);
        let files = || {
            let entries = fs::read_dir(directory.path()).unwrap().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let count = files().len();
        Pki::forget(directory.path(), "kdiy-worker-2").unwrap();
        Pki::forget(directory.path(), "kdiy-worker-2").unwrap();
        assert!(files().iter().all(|file| !file.contains("worker-2")), "{:?}", files());
        let own = IDENTITIES.iter().filter(|identity| identity.per_machine).count();
        assert_eq!(files().len(), count - 2 * own);
    }

    #[test]
    fn a_new_virtual_address_renews_only_certificates_that_contain_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = ClusterConfig::default();
        let (first, topology) = open(directory.path(), &config);
        config.load_balancer.vip = Some("192.168.56.99".parse().unwrap());
        let (second, _) = open(directory.path(), &config);
        let machine = Some(&topology.machines[0]);
        assert_ne!(first.pair("apiserver", machine), second.pair("apiserver", machine));
        assert_eq!(first.pair("etcd-peer", machine), second.pair("etcd-peer", machine));
        assert_eq!(
            first.authority("kubernetes.crt").unwrap(),
            second.authority("kubernetes.crt").unwrap()
        );
    }

    #[test]
    fn a_certificate_of_another_authority_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let config = ClusterConfig::default();
        let (pki, topology) = open(directory.path(), &config);
        let machine = Some(&topology.machines[0]);
        let foreign = issue::authority("foreign").unwrap();
        let identity = identity::identity("apiserver").unwrap();
        let wanted = wanted(identity, machine, &topology, &config);
        let pair = pki.pair("apiserver", machine).unwrap();
        assert!(issue::still_good(pair, &wanted, pki.authority_pair(Authority::Kubernetes)));
        assert!(!issue::still_good(pair, &wanted, &foreign));
    }

    #[test]
    fn an_unknown_identity_lists_the_known_ones() {
        let directory = tempfile::tempdir().unwrap();
        let (pki, _) = open(directory.path(), &ClusterConfig::default());
        let failure = pki.pair("apisever", None).unwrap_err().to_string();
        assert!(failure.contains("apisever") && failure.contains("apiserver-etcd-client"));
    }
}
