//! Parses what `etcdctl -w json` prints about members.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Deserialize;

macro_rules! command {
    ($dial:literal, $command:literal) => {
        concat!(
            "/usr/local/bin/etcdctl --cacert /etc/etcd/pki/ca.crt --cert /etc/etcd/pki/client.crt \
             --key /etc/etcd/pki/client.key --dial-timeout ",
            $dial,
            " --command-timeout ",
            $command
        )
    };
}

/// On an etcd machine, as root. `$KDIY_SLOW` is `slowMachines`, in scripts that kdiy runs.
pub const ETCDCTL: &str = command!("$((2 * ${KDIY_SLOW:-1}))s", "$((5 * ${KDIY_SLOW:-1}))s");
/// The same for people: in no shell of theirs is anything expanded, and a snapshot has its time.
pub const ETCDCTL_BY_HAND: &str = command!("5s", "60s");
/// Asks this machine's member over HTTP, never by a proxy; a path goes straight behind it.
pub const CURL: &str = "curl --noproxy '*' -s --max-time $((5 * ${KDIY_SLOW:-1})) \
    --cacert /etc/etcd/pki/ca.crt --cert /etc/etcd/pki/client.crt --key /etc/etcd/pki/client.key \
    https://127.0.0.1:2379";

/// Prints the mean time of a write to this machine's write-ahead log since its member started, in
/// ms. `options` are curl's.
pub fn mean_fsync(options: &str) -> String {
    format!(
        "{CURL}/metrics {options} | awk '/^etcd_disk_wal_fsync_duration_seconds_sum/ {{s=$2}} \
         /^etcd_disk_wal_fsync_duration_seconds_count/ {{if ($2 > 0) print s/$2*1000}}'"
    )
}

/// One member's own state. It needs no quorum to tell.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    pub header: Header,
    pub leader: u64,
    #[serde(rename = "raftTerm")]
    pub term: u64,
    /// Of the program that runs: `3.6.14`.
    #[serde(default)]
    pub version: String,
    #[serde(default, rename = "isLearner")]
    pub learner: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Header {
    pub cluster_id: u64,
    pub member_id: u64,
}

/// A member as the others know it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    #[serde(rename = "ID")]
    pub id: u64,
    /// Empty for one that was added later, until it has started for the first time.
    #[serde(default)]
    pub name: String,
    #[serde(default, rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// Empty until the member has started for the first time.
    #[serde(default, rename = "clientURLs")]
    pub client_urls: Vec<String>,
    /// Follows, but has no vote.
    #[serde(default, rename = "isLearner")]
    pub learner: bool,
}

impl Member {
    /// Whether the others reach it at this address.
    pub fn is_at(&self, address: Ipv4Addr) -> bool {
        let address = address.to_string();
        self.peer_urls.iter().any(|url| host(url) == address)
    }

    /// Every host that it gives to peers and clients.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.peer_urls.iter().chain(&self.client_urls).map(|url| host(url))
    }
}

fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.rsplit_once(':').map_or(rest, |(host, _)| host)
}

/// Reads `etcdctl endpoint status` of one endpoint.
pub fn status(text: &str) -> Result<Status, String> {
    #[derive(Deserialize)]
    struct Endpoint {
        #[serde(rename = "Status")]
        status: Status,
    }
    let endpoints: Vec<Endpoint> = decode("status", text)?;
    Ok(endpoints.into_iter().next().ok_or("no status")?.status)
}

/// Reads `etcdctl member list`.
pub fn members(text: &str) -> Result<Vec<Member>, String> {
    #[derive(Deserialize)]
    struct Members {
        members: Vec<Member>,
    }
    decode("members", text).map(|list: Members| list.members)
}

/// What etcd calls an operator for; it stays until somebody takes it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// A database has reached its quota: nothing can be written.
    NoSpace,
    /// A database differs from the others.
    Corrupt,
    Other,
}

impl Alarm {
    /// As etcd calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
            Self::Other => "unknown",
        }
    }
}

/// Reads `etcdctl alarm list`: the alarm of each member that has raised one.
pub fn alarms(text: &str) -> Result<Vec<Alarm>, String> {
    #[derive(Deserialize)]
    struct Alarms {
        #[serde(default)]
        alarms: Vec<Raised>,
    }
    #[derive(Deserialize)]
    struct Raised {
        /// Of etcd's `AlarmType`; 0, which is none, is left out.
        #[serde(default)]
        alarm: serde_json::Value,
    }
    let alarm = |raised: Raised| match (raised.alarm.as_u64(), raised.alarm.as_str()) {
        (Some(1), _) | (_, Some("NOSPACE")) => Alarm::NoSpace,
        (Some(2), _) | (_, Some("CORRUPT")) => Alarm::Corrupt,
        _ => Alarm::Other,
    };
    decode("alarms", text).map(|list: Alarms| list.alarms.into_iter().map(alarm).collect())
}

/// Several commands' output in one text, each after a line `@name`.
pub fn sections(text: &str) -> BTreeMap<&str, String> {
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = "";
    for line in text.lines() {
        match line.strip_prefix('@') {
            Some(name) => current = name,
            None => {
                let section = sections.entry(current).or_default();
                section.push_str(line);
                section.push('\n');
            }
        }
    }
    sections
}

fn decode<'a, T: Deserialize<'a>>(name: &str, text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|_| match text.trim() {
        "" => format!("no {name}: the member does not answer"),
        _ => format!("cannot parse etcdctl's {name}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_was_added_but_never_started_is_known_by_its_address() {
        // As etcdctl 3.6.14 prints it.
        let text = "{\"header\":{\"cluster_id\":7},\"members\":[\
                    {\"ID\":1,\"name\":\"a\",\"peerURLs\":[\"https://10.0.0.1:2380\"],\
                    \"clientURLs\":[\"https://10.0.0.1:2379\"]},\
                    {\"ID\":2,\"peerURLs\":[\"https://10.0.0.12:2380\"],\"isLearner\":true}]}";
        let members = members(text).unwrap();
        assert!(members[1].learner && members[1].name.is_empty());
        let at = |address: &str| {
            let address = address.parse().unwrap();
            members.iter().find(|member| member.is_at(address)).map(|member| member.id)
        };
        assert_eq!(at("10.0.0.1"), Some(1));
        assert_eq!(at("10.0.0.12"), Some(2));
        assert_eq!(at("10.0.0.2"), None);
        assert_eq!(members[0].hosts().collect::<Vec<_>>(), ["10.0.0.1", "10.0.0.1"]);
    }

    #[test]
    fn alarms_are_known_by_name() {
        // As etcdctl 3.6.14 prints them.
        let text = r#"{"header":{"cluster_id":7},"alarms":[{"memberID":1,"alarm":1},{"memberID":2,"alarm":2}]}"#;
        assert_eq!(alarms(text).unwrap(), [Alarm::NoSpace, Alarm::Corrupt]);
        assert!(alarms(r#"{"header":{}}"#).unwrap().is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_answer_breaks_the_readers(text in "(?s).*") {
            for section in sections(&text).values() {
                let _ = (status(section), members(section), alarms(section));
            }
        }
    }
}
