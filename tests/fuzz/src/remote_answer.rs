//! What comes from machines and servers: every reader gets every text, whoever it was meant for.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jiff::Timestamp;
use kdiy::bundle::observe;
use kdiy::bundle::script::Line;
use kdiy::config::{ClusterConfig, LoadBalancerMode};
use kdiy::etcd::etcdctl;
use kdiy::gates::wait;
use kdiy::kubernetes::apply;
use kdiy::reports::preflight::{self, Report};
use kdiy::reports::status::{
    Endpoint, Health, Heard, Machine, Member, Status, assess, dns, machine_report,
};
use kdiy::topology::{Topology, check, facts};
use kdiy::ui;

/// As few machines as have every part: a master that balances as well, and a worker.
static TOPOLOGY: LazyLock<Topology> = LazyLock::new(|| {
    let mut config = ClusterConfig { masters: 1, workers: 1, ..ClusterConfig::default() };
    config.load_balancer.mode = LoadBalancerMode::Stacked;
    Topology::build(&config, check::placeholder()).unwrap()
});

/// Of terminals on which a status is shown: hardly any, and the usual.
const COLUMNS: [usize; 2] = [1, 80];

/// Nothing panics, whatever is answered; and what is made of it can be shown.
pub fn holds(text: &str) {
    surveyed(text);
    shown(&status(text));
    looked_over(text);
    for section in etcdctl::sections(text).values() {
        let _ = (etcdctl::status(section), etcdctl::members(section), etcdctl::alarms(section));
    }
    for line in text.lines() {
        let _ = Line::parse(line);
    }
    let _ = dns::read(text.as_bytes());
    let _ = apply::parse("addon", text).map_err(|failure| failure.to_string());
    let _ = wait::running_times(text);
}

fn surveyed(text: &str) {
    let machine = &TOPOLOGY.machines[0];
    let _ =
        facts::parse(&machine.name, machine.address, text).map_err(|failure| failure.to_string());
    for (path, file) in observe::parse(text).files {
        assert!(file.mode.len() >= 4, "{path}: {}", file.mode);
    }
}

/// Every machine says the same.
fn status(text: &str) -> Status {
    // 2027, when certificates of the seeds are still good.
    let now = Timestamp::constant(1_800_000_000, 0);
    let machines: Vec<Machine> = TOPOLOGY
        .machines
        .iter()
        .map(|machine| {
            let answer = machine_report::parse(&TOPOLOGY, machine, text, now);
            Machine {
                name: machine.name.clone(),
                role: machine.role,
                address: machine.address,
                unreachable: None,
                system: answer.system,
                etcd: answer.etcd,
                etcd_data_lost: None,
                api_server: answer.api_server,
                load_balancer: answer.load_balancer,
                node: None,
                certificates: answer.certificates,
                drift: Vec::new(),
            }
        })
        .collect();
    let heard: Vec<(&str, &Heard<Member>)> =
        machines.iter().filter_map(|it| Some((&*it.name, it.etcd.as_ref()?))).collect();
    let etcd = assess::etcd(TOPOLOGY.etcd_quorum().members, &heard);
    let endpoint = Endpoint { url: TOPOLOGY.endpoint.url(), ready: true, error: None };
    Status {
        cluster: TOPOLOGY.cluster.clone(),
        at: now,
        elapsed_ms: 0,
        health: Health::Healthy,
        problems: Vec::new(),
        kubernetes: ClusterConfig::default().kubernetes,
        endpoint,
        etcd,
        virtual_address: None,
        leases: None,
        dns: None,
        machines,
    }
}

fn shown(status: &Status) {
    let status = Status { problems: assess::problems(status), ..status.clone() };
    for columns in COLUMNS {
        drop(ui::status::text(&status, columns));
    }
    serde_json::to_string(&status).unwrap();
}

fn looked_over(text: &str) {
    let Some(answer) = preflight::Answer::parse(text, Some(0.0)) else { return };
    let answers = vec![Ok(answer); TOPOLOGY.machines.len()];
    let report = Report::of(&TOPOLOGY, &answers, &BTreeSet::new());
    drop(ui::preflight::render(&report, answers.len()));
}
