//! Keys of the cluster that are missing on this computer, or are not its own; and keys that are used
//! for what they were not made for.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::e2e::cluster::Cluster;
use crate::e2e::{MASTERS, WORKERS};
use crate::stage::Check;

/// Files whose loss or change would be rolled out to every machine.
const KEPT: &str = "sha256sum /etc/kubernetes/encryption.yaml /etc/kubernetes/pki/ca.crt \
    /etc/kubernetes/pki/apiserver-service-account.key /etc/etcd/pki/ca.crt";

pub(super) fn checks<'a>(cluster: &Cluster<'a>) -> Vec<Check<'a>> {
    let with = |run: fn(&Cluster) -> Result<String>| {
        let cluster = cluster.clone();
        move || run(&cluster)
    };
    vec![
        Check::new("a key that is missing stops everything", with(missing_keys_stop)),
        Check::new("a key that is another one stops everything", with(foreign_keys_stop)),
        Check::new("a client of etcd is no member", with(clients_are_no_members)),
        Check::new("haproxy knows api-servers by name", with(servers_are_known_by_name)),
    ]
}

fn missing_keys_stop(cluster: &Cluster) -> Result<String> {
    let files = ["secrets.json", "kubernetes-ca.key", "service-account.key"];
    let before = on_machines(cluster)?;
    for file in files {
        let path = cluster.home().join("pki").join(file);
        let kept = path.with_extension("kept");
        fs::rename(&path, &kept)?;
        let said = refusals(cluster);
        let made = path.exists();
        fs::rename(&kept, &path)?;
        for said in said? {
            ensure!(said.contains(file) && said.contains("is missing"), "{file}: {said}");
        }
        ensure!(!made, "{file} was made anew");
    }
    ensure!(on_machines(cluster)? == before, "a machine has another key");
    Ok(format!("{}: up and plan refuse, and nothing is made", files.join(", ")))
}

/// Of a cluster whose record knows nothing of its keys, as an older kdiy left it: the machines do.
fn foreign_keys_stop(cluster: &Cluster) -> Result<String> {
    let secrets = cluster.home().join("pki/secrets.json");
    let record = cluster.home().join("cluster.json");
    let (own_secrets, own_record) = (fs::read_to_string(&secrets)?, fs::read_to_string(&record)?);
    let before = on_machines(cluster)?;
    let mut other: Value = serde_json::from_str(&own_secrets)?;
    other["encryptionKey"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into();
    fs::write(&secrets, other.to_string())?;
    let known = refusals(cluster);
    let mut unknowing: Value = serde_json::from_str(&own_record)?;
    unknowing.as_object_mut().context("no record")?.remove("keys");
    fs::write(&record, unknowing.to_string())?;
    let unknown = refusals(cluster);
    fs::write(&secrets, &own_secrets)?;
    fs::write(&record, &own_record)?;
    for said in known? {
        ensure!(said.contains("secrets.json differs from"), "{said}");
    }
    for said in unknown? {
        ensure!(said.contains("/etc/kubernetes/encryption.yaml"), "{said}");
    }
    ensure!(on_machines(cluster)? == before, "a machine has another key");
    let again = cluster.up_again()?;
    ensure!(again.changed().is_empty(), "then up changed {}", again.changed().join(", "));
    Ok("this computer notices, and without its record the machines do".into())
}

/// Members and clients are signed by one authority. On the port of members only members are heard.
fn clients_are_no_members(cluster: &Cluster) -> Result<String> {
    let master = cluster.machine("master-1");
    let ask = |certificate: &str| -> Result<String> {
        let code = cluster.on(
            &master,
            &format!(
                r#"address=$(sed -n 's/.*--listen-peer-urls=\([^ ]*\).*/\1/p' /etc/systemd/system/etcd.service)
                curl -s --http1.1 -o /dev/null -w '%{{http_code}}' --max-time 5 --cacert /etc/etcd/pki/ca.crt \
                  --cert {certificate}.crt --key {certificate}.key "$address/version" || :"#
            ),
        )?;
        Ok(code.trim().to_owned())
    };
    let member = ask("/etc/etcd/pki/peer")?;
    ensure!(member == "200", "a member hears {member} from another");
    let clients = ["/etc/etcd/pki/client", "/etc/kubernetes/pki/apiserver-etcd-client"];
    for client in clients {
        let heard = ask(client)?;
        ensure!(heard == "000", "{client} is heard as a member: {heard}");
    }
    Ok(format!("{} certificates of the same authority are cut off", clients.len()))
}

/// haproxy itself, for a few seconds, with a configuration that expects another master where one is:
/// so it is when somebody has taken an API server's address, who has a certificate of the cluster.
fn servers_are_known_by_name(cluster: &Cluster) -> Result<String> {
    let (master, other) = (cluster.machine("master-1"), cluster.machine("master-2"));
    let script = format!(
        r"cd $(mktemp -d)
        awk -v RS= -v ORS='\n\n' '!/(^|\n)frontend/' /etc/haproxy/haproxy.cfg |
          sed -e '/^  stats socket/d' -e 's/verifyhost {master}$/verifyhost {other}/' >configuration
        printf 'frontend unused\n  bind 127.0.0.1:17443\n  default_backend apiservers\n' >>configuration
        timeout 8 haproxy -db -f configuration 2>&1 | grep -o 'apiservers/[^ ]* is DOWN' || :"
    );
    let said = cluster.on(&master, &script)?;
    ensure!(said.contains(&format!("/{master} is DOWN")), "{master} passes for {other}: {said}");
    ensure!(!said.contains(&format!("/{other} is DOWN")), "who is who it should be: {said}");
    Ok(format!("{master} does not pass for {other}"))
}

/// What `up` and `plan` say, both of which must fail.
fn refusals(cluster: &Cluster) -> Result<Vec<String>> {
    let plan = cluster.wanted("plan", MASTERS, WORKERS);
    let mut all = Vec::new();
    for mut kdiy in [cluster.up_command(MASTERS, WORKERS), plan] {
        let output = Command::output(&mut kdiy)?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.code() == Some(1), "it ended with {}: {said}", output.status);
        all.push(said);
    }
    Ok(all)
}

fn on_machines(cluster: &Cluster) -> Result<Vec<String>> {
    (1..=MASTERS)
        .map(|number| cluster.on(&cluster.machine(&format!("master-{number}")), KEPT))
        .collect()
}
