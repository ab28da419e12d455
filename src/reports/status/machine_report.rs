//! The status of one machine: the script that collects it, and its parser.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use crate::etcd::etcdctl::{self, CURL};
use crate::gates::load_balancer::{STATS, backend};
use crate::pki::issue;
use crate::reports::status::{
    ApiServer, Backend, Certificate, Heard, LoadBalancer, Member, System,
};
use crate::topology::{API_PORT, Group, Machine, Topology};

/// Of one request on the machine itself; a component that takes longer is not well.
const SECONDS: u32 = 2;
const MEMBERS: &str = "https://127.0.0.1:2379/v3/cluster/member/list";
const SECONDS_A_DAY: i64 = 24 * 60 * 60;

#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Which may not be the machine's name.
    pub host_name: Option<String>,
    pub system: Option<System>,
    pub etcd: Option<Heard<Member>>,
    pub api_server: Option<ApiServer>,
    pub load_balancer: Option<LoadBalancer>,
    pub certificates: Vec<Certificate>,
}

/// Asks everything at the same time, so that what hangs does not hold up the rest.
///
/// etcd is asked through its JSON gateway: one request is a fraction of starting `etcdctl`, and
/// its alarm list would be a write (etcd 3.6, `EtcdServer.Alarm`), while the status names alarms.
pub fn script(topology: &Topology, machine: &Machine) -> String {
    let seconds = format!("$(({SECONDS} * ${{KDIY_SLOW:-1}}))");
    let curl = format!("curl --noproxy '*' --silent --show-error --max-time {seconds}");
    let mut parts = vec![system(), certificates()];
    if topology.is_in(machine, Group::Etcd) {
        let options = format!("--show-error --max-time {seconds}");
        parts.push(format!(
            "echo @etcd; {CURL}/v3/maintenance/status {MEMBERS} {options} --data '{{}}' --write-out '\\n'"
        ));
        parts.push(format!("echo @fsync; {}", etcdctl::mean_fsync(&options)));
    }
    if topology.is_in(machine, Group::Masters) {
        parts.push(format!(
            "echo @readyz; {curl} --cacert /etc/kubernetes/pki/ca.crt --write-out '\\n%{{http_code}}\\n' \
             'https://127.0.0.1:{API_PORT}/readyz?verbose'"
        ));
    }
    if topology.is_in(machine, Group::LoadBalancers) {
        let holds = topology.vip.map_or(String::new(), |vip| {
            format!("echo @holds; ip -o -4 addr show | grep -F ' {vip}/'; ")
        });
        parts.push(format!("{holds}echo @stats; {curl} '{STATS}'"));
    }
    let mut text = "d=$(mktemp -d) || exit 1\ntrap 'rm -rf \"$d\"' EXIT\n".to_owned();
    for (number, part) in parts.iter().enumerate() {
        text.push_str(&format!("{{ {part}\n}} >\"$d/{number:02}\" 2>&1 &\n"));
    }
    text.push_str("wait\ncat \"$d\"/*\n");
    text
}

/// A container's `/proc/uptime` is its host's; the first process is as old as the machine.
fn system() -> String {
    "echo @host; uname -n; echo @system; echo \"uptime=$(ps -o etimes= -p 1)\"; echo \"load=$(cut -d' ' -f1 /proc/loadavg)\"; \
     echo \"cpus=$(nproc)\"; awk '/^MemTotal:/ {print \"memory=\" $2} /^MemAvailable:/ {print \"available=\" $2}' /proc/meminfo; \
     df -Pk / | awk 'NR == 2 {sub(\"%\", \"\", $5); print \"disk=\" $5}'"
        .into()
}

/// Certificates only: the kubelet keeps its key in the same file.
fn certificates() -> String {
    "for f in /etc/etcd/pki/*.crt /etc/kubernetes/pki/*.crt /var/lib/kubelet/pki/kubelet-*-current.pem; do \
     [ -f \"$f\" ] && set -- \"$@\" \"$f\"; done; \
     [ $# -gt 0 ] && awk 'FNR == 1 {print \"@certificate \" FILENAME} /BEGIN CERTIFICATE/, /END CERTIFICATE/' \"$@\"; \
     for f in /etc/kubernetes/*.kubeconfig; do [ -f \"$f\" ] && \
     awk '/client-certificate-data:/ {print \"@kubeconfig \" FILENAME; print $2}' \"$f\"; done"
        .into()
}

/// Reads what [`script`] printed. What makes no sense is as good as not answered.
pub fn parse(topology: &Topology, machine: &Machine, text: &str, now: Timestamp) -> Answer {
    let sections = etcdctl::sections(text);
    let section = |name: &str| sections.get(name).map(String::as_str).unwrap_or_default();
    let within = |group| topology.is_in(machine, group);
    let mut certificates: Vec<Certificate> =
        sections.iter().filter_map(|(name, body)| certificate(name, body, now)).collect();
    certificates.sort_by_key(|certificate| certificate.days_left);
    Answer {
        host_name: Some(section("host").trim().to_owned()).filter(|host| !host.is_empty()),
        system: parse_system(section("system")),
        etcd: within(Group::Etcd).then(|| parse_etcd(section("etcd"), section("fsync"))),
        api_server: within(Group::Masters).then(|| parse_readyz(section("readyz"))),
        load_balancer: within(Group::LoadBalancers).then(|| LoadBalancer {
            holds_virtual_address: !section("holds").is_empty(),
            backends: parse_backends(topology, section("stats")),
        }),
        certificates,
    }
}

fn parse_system(text: &str) -> Option<System> {
    let field = |name: &str| {
        let mut fields = text.lines().filter_map(|line| line.split_once('='));
        fields.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
    };
    Some(System {
        uptime_seconds: field("uptime")?.parse().ok()?,
        load: field("load")?.parse().ok()?,
        cpus: field("cpus")?.parse().ok()?,
        memory_mebibytes: field("memory")?.parse::<u64>().ok()? / 1024,
        memory_available_mebibytes: field("available")?.parse::<u64>().ok()? / 1024,
        disk_used_percent: field("disk")?.parse().ok()?,
    })
}

/// The gateway's JSON has 64-bit numbers as text, and leaves out what is zero or false.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemberStatus {
    header: Header,
    #[serde(default, deserialize_with = "number")]
    leader: u64,
    #[serde(default, deserialize_with = "number")]
    raft_term: u64,
    #[serde(default, deserialize_with = "number")]
    raft_index: u64,
    #[serde(default, deserialize_with = "number")]
    db_size: u64,
    #[serde(default)]
    is_learner: bool,
    #[serde(default)]
    errors: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Header {
    #[serde(deserialize_with = "number")]
    member_id: u64,
}

#[derive(Debug, Deserialize)]
struct Members {
    members: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    /// Empty until the member has started for the first time.
    #[serde(default)]
    name: String,
    #[serde(default)]
    is_learner: bool,
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn parse_etcd(text: &str, fsync: &str) -> Heard<Member> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let status: MemberStatus = match serde_json::from_str(first) {
        Ok(status) => status,
        Err(_) if first.starts_with("curl:") => return Heard::Error(first.to_owned()),
        Err(_) => return Heard::Error("the member does not report its status".into()),
    };
    let Ok(Members { members }) = serde_json::from_str(second) else {
        return Heard::Error("the member does not report its members".into());
    };
    let voters = members.into_iter().filter(|member| !member.is_learner);
    Heard::Answer(Member {
        id: status.header.member_id,
        leader: status.leader,
        learner: status.is_learner,
        term: status.raft_term,
        raft_index: status.raft_index,
        lag: 0,
        database_bytes: status.db_size,
        errors: status.errors.iter().map(|error| error.trim().to_owned()).collect(),
        fsync_ms: fsync.trim().parse().ok(),
        voters: voters.map(|member| member.name).collect(),
    })
}

/// The body with a line for each part, then the status code.
fn parse_readyz(text: &str) -> ApiServer {
    let code = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
    if code == "200" {
        return ApiServer { ready: true, failing: Vec::new() };
    }
    let mut failing: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("[-]"))
        .map(|part| part.split([' ', ':']).next().unwrap_or(part).to_owned())
        .collect();
    if failing.is_empty() {
        let curl = text.lines().find(|line| line.starts_with("curl:"));
        failing.push(curl.map_or_else(|| format!("answered {code}"), str::to_owned));
    }
    ApiServer { ready: false, failing }
}

fn parse_backends(topology: &Topology, stats: &str) -> Vec<Backend> {
    let masters = topology.group(Group::Masters).into_iter();
    masters
        .map(|master| {
            let (status, check) = backend(stats, &master.name).unwrap_or(("not listed", ""));
            Backend {
                machine: master.name.clone(),
                up: status.starts_with("UP"),
                saw: format!("{status} {check}").trim().to_owned(),
            }
        })
        .collect()
}

fn certificate(name: &str, body: &str, now: Timestamp) -> Option<Certificate> {
    let (kind, path) = name.split_once(' ')?;
    let pem = match kind {
        "certificate" => body.to_owned(),
        "kubeconfig" => {
            let bytes = BASE64.decode(body.trim().trim_matches('"')).ok()?;
            String::from_utf8(bytes).ok()?
        }
        _ => return None,
    };
    let seconds = issue::expiry(&pem)? - now.as_second();
    Some(Certificate { path: path.to_owned(), days_left: seconds.div_euclid(SECONDS_A_DAY) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;

    fn cluster() -> Topology {
        let network = "192.168.56.0/24".parse().unwrap();
        Topology::build(&ClusterConfig::default(), network).unwrap()
    }

    fn read(text: &str) -> Answer {
        let topology = cluster();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        parse(&topology, topology.machine("kdiy-master-1").unwrap(), text, now)
    }

    /// As the gateway of etcd 3.6.14 prints it.
    const ETCD: &str = "@etcd\n{\"header\":{\"cluster_id\":\"7\",\"member_id\":\"14841639068965178418\",\
        \"revision\":\"812\",\"raft_term\":\"2\"},\"version\":\"3.6.14\",\"dbSize\":\"2142208\",\
        \"leader\":\"5\",\"raftIndex\":\"930\",\"raftTerm\":\"2\",\"raftAppliedIndex\":\"930\",\
        \"errors\":[\"memberID:5 alarm:NOSPACE \"]}\n{\"header\":{\"cluster_id\":\"7\"},\"members\":[\
        {\"ID\":\"5\",\"name\":\"kdiy-master-2\"},{\"ID\":\"6\",\"name\":\"new\",\"isLearner\":true}]}\n\
        @fsync\n1.25\n";

    #[test]
    fn a_member_says_its_leader_its_alarms_and_who_votes() {
        let Some(Heard::Answer(member)) = read(ETCD).etcd else { panic!("no member") };
        assert_eq!((member.id, member.leader, member.term), (14_841_639_068_965_178_418, 5, 2));
        assert_eq!(member.errors, ["memberID:5 alarm:NOSPACE"]);
        assert_eq!(member.voters, ["kdiy-master-2"]);
        assert_eq!(member.fsync_ms, Some(1.25));
    }

    #[test]
    fn a_missing_answer_has_a_reason() {
        let refused = "curl: (7) Failed to connect to 127.0.0.1 port 2379";
        let answer = read(&format!("@etcd\n{refused}\n@readyz\ncurl: (28) timed out\n\n000\n"));
        assert_eq!(answer.etcd, Some(Heard::Error(refused.into())));
        let api = answer.api_server.unwrap();
        assert_eq!((api.ready, api.failing), (false, vec!["curl: (28) timed out".to_owned()]));
        assert!(!answer.load_balancer.unwrap().backends.iter().any(|backend| backend.up));
    }

    #[test]
    fn failing_parts_of_readyz_are_named() {
        let ready = read("@readyz\n[+]ping ok\nreadyz check passed\n\n200\n").api_server.unwrap();
        assert!(ready.ready);
        let text = "@readyz\n[+]ping ok\n[-]etcd failed: reason withheld\n[-]informer-sync failed\n\n500\n";
        assert_eq!(read(text).api_server.unwrap().failing, ["etcd", "informer-sync"]);
    }

    #[test]
    fn certificates_of_files_and_kubeconfigs_are_dated() {
        let pair = issue::authority("x").unwrap();
        let data = BASE64.encode(&pair.certificate);
        let text = format!(
            "@certificate /etc/a.crt\n{}@kubeconfig /etc/b.kubeconfig\n{data}\n@certificate /c\n",
            pair.certificate
        );
        // An hour later, so that whole days do not hang on fractions of a second.
        let now = Timestamp::from_second(Timestamp::now().as_second() + 3600).unwrap();
        let topology = cluster();
        let answer = parse(&topology, &topology.machines[0], &text, now);
        let seen: Vec<_> =
            answer.certificates.iter().map(|it| (it.path.as_str(), it.days_left)).collect();
        assert_eq!(seen, [("/etc/a.crt", 3649), ("/etc/b.kubeconfig", 3649)]);
    }

    #[test]
    fn the_script_runs_here_and_tells_of_this_computer() {
        let topology = cluster();
        let script = script(&topology, topology.machine("kdiy-worker-1").unwrap());
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let system = read(&text).system.unwrap_or_else(|| panic!("{text}"));
        assert!(system.memory_mebibytes > 0 && system.cpus > 0, "{system:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_answer_breaks_the_reader(text in "(?s)(@(system|etcd|readyz|stats|certificate a|kubeconfig b)\n.*\n)*") {
            let _ = read(&text);
        }
    }
}
