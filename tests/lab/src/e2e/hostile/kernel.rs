//! What the kernel does: rules, routes and settings that something else removes, programs that live
//! and do nothing, and packets that claim the virtual address.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::e2e::cluster::Cluster;
use crate::e2e::{MASTERS, WORKERS};
use crate::host;
use crate::stage::Check;

const NAMESPACE: &str = "lab-forger";
const MANIFEST: &str = "e2e/hello.yaml";
const ADVERTS: &str = include_str!("../../../e2e/advert.pl");
/// The kernel fills in the pod's own.
const ANY_POD: &str = "0.0.0.0";
/// As long as the attack that took the address from kdiy as it was before.
const ATTACK: Duration = Duration::from_secs(10);
/// A look every five seconds, a second one, and what the restart of a service takes.
const RESTORED_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

pub(super) fn checks<'a>(cluster: &Cluster<'a>) -> Vec<Check<'a>> {
    let on = |name, check: fn(&Cluster) -> Result<String>| {
        let cluster = cluster.clone();
        Check::new(name, move || check(&cluster))
    };
    vec![
        on("forged adverts do not move the virtual address", adverts_are_refused),
        on("a load balancer that hangs is started anew", hung_programs_come_back),
        on("flushed rules come back by themselves", flushed_rules_come_back),
        on("a later sysctl file does not last, and is drift", settings_come_back),
        on("neighbours do not reach pods by their addresses", pods_are_behind_services),
    ]
}

/// The virtual address, without the port.
fn virtual_address(cluster: &Cluster) -> Result<String> {
    let endpoint = cluster.endpoint()?;
    let host = endpoint.trim_start_matches("https://").split(':').next();
    Ok(host.context("an endpoint without a host")?.to_owned())
}

fn masters(cluster: &Cluster) -> Vec<String> {
    (1..=MASTERS).map(|number| cluster.machine(&format!("master-{number}"))).collect()
}

fn address(cluster: &Cluster, machine: &str) -> Result<String> {
    let node = cluster.get(&["node", machine])?;
    let addresses = node["status"]["addresses"].as_array().context("no addresses")?;
    let own = addresses.iter().find(|it| it["type"] == "InternalIP").context("no InternalIP")?;
    Ok(own["address"].as_str().context("no address")?.to_owned())
}

fn holders(cluster: &Cluster, vip: &str) -> Result<Vec<String>> {
    let look = format!("! ip -o -4 addr show | grep -q ' {vip}/' || echo holds");
    let mut holders = Vec::new();
    for master in masters(cluster) {
        if !cluster.on(&master, &look)?.is_empty() {
            holders.push(master);
        }
    }
    Ok(holders)
}

/// A pod on every machine, masters too; the process that holds its network namespace, by machine.
fn pods(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let manifest = std::fs::read_to_string(crate::package().join(MANIFEST))?;
    let file = cluster.directory().join("forger.yaml");
    std::fs::write(&file, manifest.replace("lab-e2e", NAMESPACE))?;
    cluster.kubectl(&["apply", "-f", &file.to_string_lossy()])?;
    let wait = ["rollout", "status", "daemonset/hello", "-n", NAMESPACE, "--timeout=120s"];
    cluster.kubectl(&wait)?;
    let find = format!(
        "/usr/local/bin/crictl inspectp -o go-template --template '{{{{.info.pid}}}}' \
         $(/usr/local/bin/crictl pods -q --state Ready --namespace {NAMESPACE})"
    );
    let mut pods = BTreeMap::new();
    for machine in cluster.machines()? {
        let pid = cluster.on(&machine, &find)?.trim().to_owned();
        ensure!(pid.parse::<u32>().is_ok(), "{machine}: no pod's process: {pid}");
        pods.insert(machine, pid);
    }
    Ok(pods)
}

fn without_pods(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=true"]).map(drop)
}

/// From ordinary pods on a worker and on two masters, and from root on a worker; and what becomes of
/// writes meanwhile.
fn adverts_are_refused(cluster: &Cluster) -> Result<String> {
    let vip = virtual_address(cluster)?;
    let pods = pods(cluster)?;
    let outcome = attack(cluster, &vip, &pods);
    without_pods(cluster)?;
    outcome
}

fn attack(cluster: &Cluster, vip: &str, pods: &BTreeMap<String, String>) -> Result<String> {
    let before = holders(cluster, vip)?;
    ensure!(before.len() == 1, "held by {before:?} to begin with");
    let masters = masters(cluster);
    let peers: Vec<String> =
        masters.iter().map(|it| address(cluster, it)).collect::<Result<_>>()?;
    let router_id: u8 = vip.rsplit('.').next().and_then(|it| it.parse().ok()).unwrap_or(1);
    let worker = cluster.machine("worker-1");
    let own = address(cluster, &worker)?;
    let inside = |machine: &String| format!("nsenter -t {} -n ", pods[machine]);
    let attackers = [
        (worker.clone(), String::new(), own.clone(), own),
        // In the name of a master.
        (worker.clone(), inside(&worker), peers[0].clone(), peers[0].clone()),
        // Who gets there, gets there with its master's address.
        (masters[0].clone(), inside(&masters[0]), ANY_POD.to_owned(), peers[0].clone()),
        (masters[1].clone(), inside(&masters[1]), ANY_POD.to_owned(), peers[1].clone()),
    ];
    let seconds = ATTACK.as_secs();
    let (sent, written) = thread::scope(|scope| {
        let peers = &peers;
        let adverts: Vec<_> = attackers
            .into_iter()
            .map(|(machine, inside, source, seen_as)| {
                scope.spawn(move || {
                    let arguments = format!(
                        "{source} {seen_as} {vip} {router_id} {seconds} {}",
                        peers.join(" ")
                    );
                    let script = format!("{inside}perl - {arguments} <<'END'\n{ADVERTS}\nEND\n");
                    let sent = cluster.on(&machine, &script)?;
                    Ok::<u32, anyhow::Error>(sent.trim().parse()?)
                })
            })
            .collect();
        let written = writes(cluster, vip);
        let adverts = adverts.into_iter().map(|it| it.join().unwrap_or_else(|_| Ok(0)));
        (adverts.collect::<Result<Vec<u32>>>(), written)
    });
    let (sent, (written, failed)) = (sent?, written?);
    ensure!(sent.iter().all(|sent| *sent > 50), "hardly any advert was sent: {sent:?}");
    let after = holders(cluster, vip)?;
    ensure!(after == before, "{before:?} held the address, and then {after:?}");
    ensure!(failed == 0, "{failed} of {} writes failed", written + failed);
    let total: u32 = sent.iter().sum();
    Ok(format!("{total} adverts from 4 places; 0 of {written} writes failed"))
}

/// How many went well and how many did not, through the virtual address, as a kubelet, for as long as
/// an attack.
fn writes(cluster: &Cluster, vip: &str) -> Result<(u32, u32)> {
    let worker = cluster.machine(&format!("worker-{WORKERS}"));
    let port = cluster.endpoint()?.rsplit(':').next().context("no port")?.to_owned();
    let url = format!(
        "https://{vip}:{port}/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{worker}"
    );
    let script = format!(
        r#"end=$(($(date +%s) + {seconds})) well=0 ill=0
while [ "$(date +%s)" -lt "$end" ]; do
  if curl --silent --fail --noproxy '*' --output /dev/null --max-time 3 \
    --cacert /etc/kubernetes/pki/ca.crt --cert /var/lib/kubelet/pki/kubelet-client-current.pem \
    --request PATCH --header 'Content-Type: application/merge-patch+json' \
    --data '{{"metadata": {{"annotations": {{"lab/write": "'$well'"}}}}}}' {url}
  then well=$((well + 1)); else ill=$((ill + 1)); fi
done
echo "$well $ill""#,
        seconds = ATTACK.as_secs()
    );
    let said = cluster.on(&worker, &script)?;
    let (well, ill) = said.trim().split_once(' ').with_context(|| format!("said {said}"))?;
    Ok((well.parse()?, ill.parse()?))
}

/// Polls until `script` on the machine succeeds; how long that took.
fn until(cluster: &Cluster, machine: &str, script: &str) -> Result<Duration> {
    let began = Instant::now();
    while cluster.on(machine, script).is_err() {
        if began.elapsed() > RESTORED_WITHIN {
            bail!("{machine}: still not so after {} s: {script}", RESTORED_WITHIN.as_secs());
        }
        thread::sleep(PAUSE);
    }
    Ok(began.elapsed())
}

/// Stops the worker process of each on the machine that holds the address: systemd sees both alive.
fn hung_programs_come_back(cluster: &Cluster) -> Result<String> {
    let vip = virtual_address(cluster)?;
    let mut told = Vec::new();
    for program in ["keepalived", "haproxy"] {
        let holders = holders(cluster, &vip)?;
        let holder = holders.first().context("nobody holds the address")?;
        let stopped = cluster
            .on(holder, &format!("pid=$(pgrep {program} | tail -1); kill -STOP $pid; echo $pid"))?;
        let pid = stopped.trim();
        let well = format!("! kill -0 {pid} 2>/dev/null && systemctl is-active --quiet {program}");
        let back = until(cluster, holder, &well);
        // Whatever was seen, the checks that follow want it back.
        cluster.on(holder, &format!("kill -CONT {pid} 2>/dev/null; true"))?;
        told.push(format!("{program} after {} s", back?.as_secs()));
    }
    let began = Instant::now();
    while holders(cluster, &vip)?.len() != 1 {
        ensure!(began.elapsed() < RESTORED_WITHIN, "{vip} is on {:?}", holders(cluster, &vip)?);
        thread::sleep(PAUSE);
    }
    Ok(told.join(", "))
}

fn flushed_rules_come_back(cluster: &Cluster) -> Result<String> {
    let worker = cluster.machine("worker-1");
    cluster.on(&worker, "nft flush ruleset")?;
    let back = until(
        cluster,
        &worker,
        "nft list chain ip kube-proxy services && nft list chain ip kdiy postrouting && \
         nft list chain inet kdiy forward",
    )?;
    Ok(format!("after {} s", back.as_secs()))
}

/// Plan's exit code and what it says.
fn plan(cluster: &Cluster) -> Result<(Option<i32>, String)> {
    let output = cluster.wanted("plan", MASTERS, WORKERS).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// As a hardening guide would have it.
fn settings_come_back(cluster: &Cluster) -> Result<String> {
    const FILE: &str = "/etc/sysctl.d/99-lab-hardening.conf";
    let worker = cluster.machine("worker-1");
    let forwards = "grep -q 1 /proc/sys/net/ipv4/ip_forward";
    cluster.on(&worker, &format!("echo net.ipv4.ip_forward=0 >{FILE}; sysctl --system"))?;
    let back = until(cluster, &worker, forwards);
    cluster.on(&worker, "systemctl stop kdiy-reconcile; sysctl --system")?;
    let planned = plan(cluster);
    cluster.on(&worker, &format!("rm {FILE}"))?;
    let repaired = cluster.up(MASTERS, WORKERS);
    let forwards_again = cluster.on(&worker, forwards);
    let (code, text) = planned?;
    ensure!(
        code == Some(2) && text.contains("apply the kernel settings"),
        "plan ended with {code:?} and said {text}"
    );
    repaired?;
    forwards_again.context("up did not restore the setting")?;
    Ok(format!("after {} s; where nothing restores it, plan names it and up does", back?.as_secs()))
}

/// A container on the machines' network with a route to pods by way of a master, which routes.
fn pods_are_behind_services(cluster: &Cluster) -> Result<String> {
    pods(cluster)?;
    let outcome = ask_from_beside(cluster);
    without_pods(cluster)?;
    outcome
}

fn ask_from_beside(cluster: &Cluster) -> Result<String> {
    let pods = cluster.get(&["pods", "-n", NAMESPACE])?;
    let worker = cluster.machine("worker-1");
    let items = pods["items"].as_array().context("no pods")?;
    let pod = items.iter().find(|it| it["spec"]["nodeName"] == worker.as_str());
    let ip = pod.and_then(|it| it["status"]["podIP"].as_str()).context("no pod on the worker")?;
    let service = cluster.get(&["service", "hello", "-n", NAMESPACE])?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("there is no NodePort")?;
    let router = address(cluster, &cluster.machine("master-1"))?;
    let ask = |url: String| {
        format!(
            "curl -s --noproxy '*' --max-time 4 -o /dev/null -w '%{{http_code}} ' {url} || true"
        )
    };
    let script = format!(
        "ip route add {ip}/32 via {router}; {}; {}",
        ask(format!("http://{ip}:8080/")),
        ask(format!("http://{}:{port}/", address(cluster, &worker)?))
    );
    let network = format!("kdiy-{}", cluster.name());
    let heard = host::ask(
        cluster
            .docker()
            .args(["run", "--rm", "--network", &network, "--cap-add", "NET_ADMIN"])
            .args(["--entrypoint", "/bin/sh", &cluster.lab().image, "-c", &script]),
    )?;
    ensure!(heard.trim() == "000 200", "a pod's address and a NodePort answered {heard}");
    Ok("a pod's address answers nothing, a NodePort does".to_owned())
}
