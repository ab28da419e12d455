//! Who may do what: each identity is used as an attacker would use it who got hold of it, and each
//! refusal stands beside the same request by somebody who may.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tempfile::TempDir;

use super::cluster::Cluster;
use super::{MASTERS, WORKERS};
use crate::host;

const NAMESPACE: &str = "lab-identity";
const SECRET: &str = "bait";
/// What nobody but its owner may read, in plain text and nowhere else.
const BAIT: &str = "correct-horse-battery-staple";
const REQUEST: &str = "lab-impostor";
/// A kubelet fetches the secrets of a pod when it starts it.
const MOUNTED: &str = "e2e/bait.yaml";

/// What comes back when nobody listens to the caller: TLS or the connection itself failed.
const CUT_OFF: &str = "000";

/// A way to ask the api, as curl's arguments.
enum Who {
    Nobody,
    Certificate(PathBuf, PathBuf),
    /// A token, and the file that holds it for curl: arguments can be seen by everybody.
    Token(PathBuf),
}

pub fn prepare(cluster: &Cluster) -> Result<String> {
    let manifest = crate::package().join(MOUNTED);
    cluster.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    let wait = ["rollout", "status", "deployment/reader", "-n", NAMESPACE, "--timeout=120s"];
    cluster.kubectl(&wait)?;
    Ok(format!("a pod on {} mounts a secret", cluster.machine("worker-1")))
}

pub fn tidy(cluster: &Cluster) -> Result<String> {
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    Ok(String::new())
}

/// Each kubelet uses the certificate that it has now, on its own machine.
pub fn kubelets_see_only_what_their_pods_need(cluster: &Cluster) -> Result<String> {
    let (own, other) = (cluster.machine("worker-1"), cluster.machine("worker-2"));
    let secret = secret_path();
    let list = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    let node = |name: &str| format!("/api/v1/nodes/{name}");
    let endpoint = endpoint(cluster)?;
    let patch = "-X PATCH -H 'Content-Type: application/merge-patch+json' \
                 -d '{\"metadata\":{\"labels\":{\"lab/taken\":\"yes\"}}}'";
    let cases = [
        (&own, "", secret.as_str(), "200"),
        (&other, "", secret.as_str(), "403"),
        (&other, "", list.as_str(), "403"),
        (&own, "", "/api/v1/secrets", "403"),
        (&own, "", &node(&own), "200"),
        (&own, "", &node(&other), "403"),
        (&own, patch, &node(&other), "403"),
    ];
    for (machine, more, path, wanted) in &cases {
        let script = format!(
            "curl -s -o /dev/null -w '%{{http_code}}' --max-time 10 {more} \
             --cacert /etc/kubernetes/pki/ca.crt \
             --cert /var/lib/kubelet/pki/kubelet-client-current.pem {endpoint}{path}"
        );
        let saw = cluster.on(machine, &script)?;
        ensure!(saw.trim() == *wanted, "{machine}: {path} answered {saw}, not {wanted}");
    }
    Ok(format!("{} requests", cases.len()))
}

pub fn etcd_wants_a_certificate_of_its_own(cluster: &Cluster) -> Result<String> {
    let master = cluster.machine("master-1");
    let ask = |certificate: &str| -> Result<String> {
        let code = cluster.on(
            &master,
            &format!(
                "curl -s -o /dev/null -w '%{{http_code}}' --max-time 5 \
                 --cacert /etc/etcd/pki/ca.crt {certificate} https://127.0.0.1:2379/health || :"
            ),
        )?;
        Ok(code.trim().to_owned())
    };
    let own = ask("--cert /etc/etcd/pki/client.crt --key /etc/etcd/pki/client.key")?;
    ensure!(own == "200", "with its certificate a client hears {own}");
    let kubernetes = "/etc/kubernetes/pki/apiserver-kubelet-client";
    for (who, certificate) in [
        ("nobody", String::new()),
        ("a client of Kubernetes", format!("--cert {kubernetes}.crt --key {kubernetes}.key")),
    ] {
        let saw = ask(&certificate)?;
        ensure!(saw == CUT_OFF, "{who} hears {saw} from etcd");
    }
    Ok("no certificate, and one of Kubernetes' own authority".into())
}

pub fn anonymous_hears_of_health_alone(cluster: &Cluster) -> Result<String> {
    let pki = Pki::of(cluster);
    for path in ["/livez", "/readyz", "/healthz"] {
        let saw = pki.ask(cluster, &Who::Nobody, path)?;
        ensure!(saw == "200", "{path} answers {saw} to nobody");
    }
    let others = [
        "/",
        "/api",
        "/apis",
        "/api/v1/secrets",
        "/api/v1/nodes",
        "/version",
        "/metrics",
        "/openapi/v2",
        "/livez/etcd",
        "/api/v1/namespaces/kube-public/configmaps/cluster-info",
    ];
    for path in others {
        let saw = pki.ask(cluster, &Who::Nobody, path)?;
        ensure!(saw == "401", "{path} answers {saw} to nobody, not 401");
    }
    Ok(format!("3 paths of health, {} others", others.len()))
}

pub fn secrets_are_ciphertext_in_etcd(cluster: &Cluster) -> Result<String> {
    let read = cluster.get(&["secret", SECRET, "-n", NAMESPACE])?;
    ensure!(read["data"].is_object(), "the api does not show the secret: {read}");
    let raw = cluster.on(
        &cluster.machine("master-2"),
        &format!(
            "etcdctl --cacert /etc/etcd/pki/ca.crt --cert /etc/etcd/pki/client.crt \
             --key /etc/etcd/pki/client.key get --print-value-only \
             /registry/secrets/{NAMESPACE}/{SECRET} | tr -c '[:print:]' '.'"
        ),
    )?;
    ensure!(!raw.is_empty(), "etcd has no such key");
    ensure!(raw.starts_with("k8s:enc:secretbox:v1:key1:"), "in etcd it begins {:.40}", raw);
    ensure!(!raw.contains(BAIT), "etcd holds the secret in plain text");
    Ok("k8s:enc:secretbox:v1:key1".into())
}

/// Certificates that say that they are the administrator's.
pub fn foreign_and_expired_certificates_are_refused(cluster: &Cluster) -> Result<String> {
    let pki = Pki::of(cluster);
    let forge = Forge::new()?;
    let nodes = "/api/v1/nodes";
    let good = pki.ask(cluster, &forge.certificate("good", &pki.authority(), 1)?, nodes)?;
    ensure!(good == "200", "a good certificate of this making hears {good}");
    let expired = pki.ask(cluster, &forge.certificate("expired", &pki.authority(), -1)?, nodes)?;
    ensure!(expired == "401", "an expired certificate hears {expired}");
    let foreign =
        pki.ask(cluster, &forge.certificate("foreign", &forge.authority()?, 1)?, nodes)?;
    ensure!(foreign == "401", "a certificate of another authority hears {foreign}");
    let etcd = pki.directory.join("etcd-ca");
    let other = pki.ask(cluster, &forge.certificate("etcd", &etcd, 1)?, nodes)?;
    ensure!(other == "401", "a certificate of etcd's authority hears {other}");
    Ok("a good one is taken".into())
}

pub fn identities_without_need_cannot_read_secrets(cluster: &Cluster) -> Result<String> {
    let pki = Pki::of(cluster);
    let master = cluster.machine("master-1");
    let secret = secret_path();
    let admin = pki.ask(cluster, &pki.certificate("admin", None), &secret)?;
    ensure!(admin == "200", "the administrator hears {admin}");
    let others = ["kube-proxy", "scheduler", "flannel", "apiserver-kubelet-client"];
    for name in others {
        let who = pki.certificate(name, Some(&master));
        for path in [secret.as_str(), "/api/v1/secrets"] {
            let saw = pki.ask(cluster, &who, path)?;
            ensure!(saw == "403", "{name} hears {saw} at {path}");
        }
    }
    Ok(others.join(", "))
}

pub fn a_bootstrap_token_is_for_asking_alone(cluster: &Cluster) -> Result<String> {
    let pki = Pki::of(cluster);
    let directory = tempfile::tempdir()?;
    let who = token(cluster, directory.path(), &cluster.machine("worker-1"))?;
    for path in [secret_path().as_str(), "/api/v1/secrets", "/api/v1/nodes", "/api/v1/pods"] {
        let saw = pki.ask(cluster, &who, path)?;
        ensure!(saw == "403", "a bootstrap token hears {saw} at {path}");
    }
    let machine = cluster.machine("worker-1");
    let (code, _) = pki.request(cluster, &who, &machine, "lab-dry", true)?;
    ensure!(code == "201", "a bootstrap token that asks for a certificate hears {code}");
    Ok("it may ask for a certificate".into())
}

/// With the token of one worker, the name of the other; then kdiy is asked to judge.
pub fn an_impostor_gets_no_certificate(cluster: &Cluster) -> Result<String> {
    let pki = Pki::of(cluster);
    let directory = tempfile::tempdir()?;
    let who = token(cluster, directory.path(), &cluster.machine("worker-1"))?;
    let (code, body) = pki.request(cluster, &who, &cluster.machine("worker-2"), REQUEST, false)?;
    ensure!(code == "201", "the request itself was refused with {code}: {body}");
    let run = cluster.up(MASTERS, WORKERS)?;
    let warned = run
        .of_kind("warning")
        .any(|event| event["message"].as_str().is_some_and(|text| text.contains(REQUEST)));
    let request = cluster.get(&["certificatesigningrequest", REQUEST])?;
    cluster.kubectl(&["delete", "certificatesigningrequest", REQUEST])?;
    ensure!(warned, "kdiy did not say that it refused it");
    ensure!(request["status"]["certificate"].is_null(), "it was given: {}", request["status"]);
    ensure!(request["status"]["conditions"].is_null(), "judged: {}", request["status"]);
    Ok("left open, with a warning".into())
}

/// Lets a machine join, as `up` does while one has no certificate; the next `up` takes it back.
pub(super) fn admit(cluster: &Cluster, machine: &str) -> Result<String> {
    let (id, secret) = ("lab000", "0123456789abcdef");
    let hour = host::ask(Command::new("date").args(["-u", "-d", "+1 hour", "+%FT%TZ"]))?;
    let document = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": format!("bootstrap-token-{id}"),
            "namespace": "kube-system",
            "labels": {"kdiy/machine": machine},
        },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": id,
            "token-secret": secret,
            "expiration": hour.trim(),
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:kdiy",
        },
    });
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("token.json");
    fs::write(&file, document.to_string())?;
    cluster.kubectl(&["apply", "-f", &file.to_string_lossy()])?;
    Ok(format!("{id}.{secret}"))
}

fn token(cluster: &Cluster, directory: &Path, machine: &str) -> Result<Who> {
    let file = directory.join("authorization");
    fs::write(&file, format!("Authorization: Bearer {}", admit(cluster, machine)?))?;
    Ok(Who::Token(file))
}

fn secret_path() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}")
}

fn endpoint(cluster: &Cluster) -> Result<String> {
    let view = ["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"];
    cluster.kubectl(&view)
}

/// The cluster's secrets, as whoever has this computer has them.
struct Pki {
    directory: PathBuf,
}

impl Pki {
    fn of(cluster: &Cluster) -> Self {
        Self { directory: cluster.home().join("pki") }
    }

    /// Without its ending.
    fn authority(&self) -> PathBuf {
        self.directory.join("kubernetes-ca")
    }

    fn certificate(&self, identity: &str, machine: Option<&str>) -> Who {
        let name = match machine {
            Some(machine) => format!("{identity}@{machine}"),
            None => identity.to_owned(),
        };
        let file = |ending: &str| self.directory.join(format!("{name}.{ending}"));
        Who::Certificate(file("crt"), file("key"))
    }

    /// The status of the answer.
    fn ask(&self, cluster: &Cluster, who: &Who, path: &str) -> Result<String> {
        let url = format!("{}{path}", endpoint(cluster)?);
        let output = self.curl(who).args(["-o", "/dev/null", &url]).output()?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The status and the body of a request for a kubelet's client certificate.
    fn request(
        &self,
        cluster: &Cluster,
        who: &Who,
        machine: &str,
        name: &str,
        dry: bool,
    ) -> Result<(String, String)> {
        let forge = Forge::new()?;
        let request =
            forge.signing_request(&format!("/O=system:nodes/CN=system:node:{machine}"))?;
        let document = json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": {
                "request": request,
                "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["digital signature", "client auth"],
            },
        });
        let dry = if dry { "?dryRun=All" } else { "" };
        let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        let url = format!("{}{path}{dry}", endpoint(cluster)?);
        let mut curl = self
            .curl(who)
            .args(["-H", "Content-Type: application/json", "--data-binary", "@-", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        curl.stdin.take().context("no stdin")?.write_all(document.to_string().as_bytes())?;
        let text = String::from_utf8(curl.wait_with_output()?.stdout)?;
        let (body, code) = text.split_at(text.len().saturating_sub(3));
        Ok((code.to_owned(), body.to_owned()))
    }

    fn curl(&self, who: &Who) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "10", "-w", "%{http_code}", "--cacert"])
            .arg(self.authority().with_extension("crt"));
        match who {
            Who::Nobody => {}
            Who::Certificate(certificate, key) => {
                curl.arg("--cert").arg(certificate).arg("--key").arg(key);
            }
            Who::Token(file) => {
                curl.arg("-H").arg(format!("@{}", file.display()));
            }
        }
        curl
    }
}

/// Makes certificates that kdiy would not.
struct Forge {
    directory: TempDir,
}

impl Forge {
    fn new() -> Result<Self> {
        let forge = Self { directory: tempfile::tempdir()? };
        forge.openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key"])?;
        Ok(forge)
    }

    /// Of the administrator, signed by `authority` (without its ending), for so many days.
    fn certificate(&self, name: &str, authority: &Path, days: i32) -> Result<Who> {
        let admin = "/O=kdiy:cluster-admins/CN=kdiy-admin";
        self.openssl(&["req", "-new", "-key", "key", "-subj", admin, "-out", "request"])?;
        fs::write(self.path("usage"), "extendedKeyUsage=clientAuth\n")?;
        let out = format!("{name}.crt");
        let (ca, key) = (authority.with_extension("crt"), authority.with_extension("key"));
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            "request",
            "-CA",
            &ca.to_string_lossy(),
            "-CAkey",
            &key.to_string_lossy(),
            "-CAcreateserial",
            "-CAserial",
            "serial",
            "-days",
            &days.to_string(),
            "-extfile",
            "usage",
            "-out",
            &out,
        ])?;
        Ok(Who::Certificate(self.path(&out), self.path("key")))
    }

    /// An authority that nobody here knows, with the name of the one that they do.
    fn authority(&self) -> Result<PathBuf> {
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
            "-days",
            "1",
            "-subj",
            "/CN=lab-e2e-kubernetes-ca",
        ])?;
        Ok(self.path("ca"))
    }

    /// As the api takes it: PEM, in base64.
    fn signing_request(&self, subject: &str) -> Result<String> {
        self.openssl(&["req", "-new", "-key", "key", "-subj", subject, "-out", "request"])?;
        let output = Command::new("base64").arg("-w0").arg(self.path("request")).output()?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        let output =
            Command::new("openssl").current_dir(self.directory.path()).args(arguments).output()?;
        if !output.status.success() {
            bail!("openssl {}: {}", arguments[0], host::tail(&output.stderr, 5));
        }
        Ok(())
    }
}
