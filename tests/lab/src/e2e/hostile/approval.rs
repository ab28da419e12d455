//! Requests for node certificates that kdiy must not approve, sent by root on a worker with what
//! is to be had there: the kubelet's certificate, and the token of a machine that is to join.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::e2e::cluster::Cluster;
use crate::e2e::{MASTERS, WORKERS, identity};
use crate::host;
use crate::stage::Check;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT: u8 = 0x06;
const UTF8: u8 = 0x0c;
const OCTETS: u8 = 0x04;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

pub(super) fn checks<'a>(cluster: &Cluster<'a>) -> Vec<Check<'a>> {
    let with = |run: fn(&Cluster) -> Result<String>| {
        let cluster = cluster.clone();
        move || run(&cluster)
    };
    vec![
        Check::new("no forged request gets a certificate", with(forgeries_get_nothing)),
        Check::new("a node without its certificate joins anew", with(a_node_joins_anew)),
    ]
}

/// One request: its name, who is to sign it, what it says, and the usages that belong to it.
struct Forgery {
    name: &'static str,
    signer: &'static str,
    der: Vec<u8>,
}

fn forgeries_get_nothing(cluster: &Cluster) -> Result<String> {
    let (worker, master) = (cluster.machine("worker-1"), cluster.machine("master-1"));
    let address = address(cluster, &worker)?;
    let user = format!("system:node:{worker}");
    let one = |name: &str| vec![group(), common_name(name)];
    let virtual_address = cluster.endpoint()?;
    let virtual_address = host_of(&virtual_address)?;
    let own = [(2, worker.as_bytes()), (7, &address[..])];
    let foreign = [(2, &b"kubernetes.default.svc"[..]), (7, &virtual_address[..])];
    let usage = extension(KEY_USAGE, &[0x03, 0x02, 0x07, 0x80]);
    let forgeries = vec![
        Forgery {
            name: "lab-two-names",
            signer: CLIENT,
            der: request(
                &[group(), common_name(&user), common_name(&format!("system:node:{master}"))],
                &[],
            )?,
        },
        Forgery {
            name: "lab-another-machine",
            signer: CLIENT,
            der: request(&one(&format!("system:node:{master}")), &[])?,
        },
        Forgery {
            name: "lab-two-extension-requests",
            signer: SERVING,
            der: request(&one(&user), &[extensions(&[usage]), names(&foreign)])?,
        },
        Forgery {
            name: "lab-foreign-names",
            signer: SERVING,
            der: request(&one(&user), &[names(&foreign)])?,
        },
        Forgery {
            name: "lab-one-name-more",
            signer: SERVING,
            der: request(&one(&user), &[names(&[own[0], own[1], foreign[0]])])?,
        },
    ];
    let token = identity::admit(cluster, &worker)?;
    for forgery in &forgeries {
        send(cluster, &worker, &token, forgery)?;
    }
    let run = cluster.up(MASTERS, WORKERS)?;
    let warned: BTreeSet<&str> = run
        .of_kind("warning")
        .filter_map(|event| event["message"].as_str())
        .flat_map(|text| forgeries.iter().map(|it| it.name).filter(|name| text.contains(*name)))
        .collect();
    for Forgery { name, .. } in &forgeries {
        let request = cluster.get(&["certificatesigningrequest", name])?;
        cluster.kubectl(&["delete", "certificatesigningrequest", name])?;
        ensure!(warned.contains(name), "kdiy did not say that it refused {name}");
        ensure!(request["status"] == json!({}), "{name} was decided: {}", request["status"]);
    }
    ensure!(tokens(cluster)? == 0, "the token was not taken back");
    Ok(format!("{} requests, each with a warning, and no certificate", forgeries.len()))
}

/// The exercise of `node-certificates`: also what a machine does whose certificate has ended.
fn a_node_joins_anew(cluster: &Cluster) -> Result<String> {
    let worker = cluster.machine("worker-2");
    let serial = "openssl x509 -noout -serial -in /var/lib/kubelet/pki/kubelet-client-current.pem";
    let before = cluster.on(&worker, serial)?;
    cluster.on(
        &worker,
        "rm -r /var/lib/kubelet/pki; systemctl restart --no-block kubelet; sleep 3; \
         ! systemctl is-active --quiet kubelet",
    )?;
    let run = cluster.up(MASTERS, WORKERS)?;
    let after = cluster.on(&worker, serial)?;
    ensure!(before != after, "it still has the certificate that it had");
    let left = cluster.on(&worker, "ls /run/kdiy-bootstrap.kubeconfig 2>/dev/null || :")?;
    ensure!(left.trim().is_empty(), "the token is still on the machine");
    ensure!(tokens(cluster)? == 0, "the token is still in the api");
    let again = cluster.up_again()?;
    let changed = again.changed();
    ensure!(changed.is_empty(), "a second up changed {}", changed.join(", "));
    Ok(format!("in {} s; its token is gone", run.elapsed_seconds()?))
}

fn tokens(cluster: &Cluster) -> Result<usize> {
    let selected = "--field-selector=type=bootstrap.kubernetes.io/token";
    let secrets = cluster.get(&["secrets", "--namespace", "kube-system", selected])?;
    Ok(secrets["items"].as_array().context("no list of secrets")?.len())
}

/// The request as the worker sends it: for a client with the token, for a server as its kubelet.
fn send(cluster: &Cluster, worker: &str, token: &str, forgery: &Forgery) -> Result<()> {
    let Forgery { name, signer, der } = forgery;
    let as_client = *signer == CLIENT;
    let usage = if as_client { "client auth" } else { "server auth" };
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {"request": "REQUEST", "signerName": signer, "usages": ["digital signature", usage]},
    });
    let who = if as_client {
        format!("--header 'Authorization: Bearer {token}'")
    } else {
        "--cert /var/lib/kubelet/pki/kubelet-client-current.pem".to_owned()
    };
    let mut hexadecimal = String::new();
    for byte in der {
        hexadecimal.push_str(&format!("\\{byte:03o}"));
    }
    let script = format!(
        "pem=$({{ echo '-----BEGIN CERTIFICATE REQUEST-----'; printf '{hexadecimal}' | base64 -w 64; \
         echo '-----END CERTIFICATE REQUEST-----'; }} | base64 -w 0)
         printf '%s' '{body}' | sed \"s|REQUEST|$pem|\" | curl -s -o /dev/null -w '%{{http_code}}' \
         --max-time 10 --cacert /etc/kubernetes/pki/ca.crt {who} -H 'Content-Type: application/json' \
         --data-binary @- {}{REQUESTS}",
        cluster.endpoint()?
    );
    let code = cluster.on(worker, &script)?;
    ensure!(code.trim() == "201", "{name} was not taken: {code}");
    Ok(())
}

fn address(cluster: &Cluster, machine: &str) -> Result<[u8; 4]> {
    let node: Value = cluster.get(&["node", machine])?;
    let addresses = node["status"]["addresses"].as_array().context("no addresses")?;
    let internal = addresses.iter().find(|it| it["type"] == "InternalIP");
    let address = internal.and_then(|it| it["address"].as_str()).context("no address")?;
    Ok(address.parse::<std::net::Ipv4Addr>()?.octets())
}

fn host_of(url: &str) -> Result<[u8; 4]> {
    let host = url.trim_start_matches("https://").split(':').next().unwrap_or_default();
    Ok(host.parse::<std::net::Ipv4Addr>()?.octets())
}

fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    match u16::try_from(contents.len()).unwrap_or(u16::MAX).to_be_bytes() {
        [0, short] if short < 0x80 => bytes.push(short),
        [0, one] => bytes.extend([0x81, one]),
        [high, low] => bytes.extend([0x82, high, low]),
    }
    bytes.extend(contents);
    bytes
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(SEQUENCE, &parts.concat())
}

fn group() -> Vec<u8> {
    named(ORGANIZATION, "system:nodes")
}

fn common_name(name: &str) -> Vec<u8> {
    named(COMMON_NAME, name)
}

fn named(kind: &[u8], text: &str) -> Vec<u8> {
    element(SET, &sequence(&[element(OBJECT, kind), element(UTF8, text.as_bytes())]))
}

fn extension(kind: &[u8], value: &[u8]) -> Vec<u8> {
    sequence(&[element(OBJECT, kind), element(OCTETS, value)])
}

/// An attribute that asks for extensions.
fn extensions(list: &[Vec<u8>]) -> Vec<u8> {
    sequence(&[element(OBJECT, EXTENSION_REQUEST), element(SET, &sequence(list))])
}

/// Such an attribute with host names (2) and addresses (7).
fn names(list: &[(u8, &[u8])]) -> Vec<u8> {
    let names: Vec<Vec<u8>> = list.iter().map(|(kind, name)| element(0x80 | kind, name)).collect();
    extensions(&[extension(NAMES, &sequence(&names))])
}

/// Signed with a key that is forgotten: nobody is to have the certificate.
fn request(subject: &[Vec<u8>], attributes: &[Vec<u8>]) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let openssl = |arguments: &[&str]| {
        host::ask(Command::new("openssl").args(arguments).current_dir(directory.path())).map(drop)
    };
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key"])?;
    openssl(&["pkey", "-in", "key", "-pubout", "-outform", "DER", "-out", "public"])?;
    let version = element(0x02, &[0]);
    let attributes = element(0xa0, &attributes.concat());
    let info = sequence(&[version, sequence(subject), fs::read(path("public"))?, attributes]);
    fs::write(path("info"), &info)?;
    openssl(&["dgst", "-sha256", "-sign", "key", "-out", "signature", "info"])?;
    let signature = [vec![0], fs::read(path("signature"))?].concat();
    let algorithm = sequence(&[element(OBJECT, ECDSA_WITH_SHA256)]);
    Ok(sequence(&[info, algorithm, element(0x03, &signature)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssl_reads_a_forged_request_and_finds_it_signed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("request");
        let subject = [group(), common_name("system:node:a"), common_name("system:node:b")];
        fs::write(&file, request(&subject, &[names(&[(2, b"kubernetes")])]).unwrap()).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-inform", "DER", "-verify", "-noout", "-text", "-in"]).arg(&file);
        let text = host::ask(&mut openssl).unwrap();
        assert!(text.contains("system:node:a") && text.contains("DNS:kubernetes"), "{text}");
    }
}
