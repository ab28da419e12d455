//! Finds the machine at fault. The machine that reports a failure is often not the broken one, so
//! kdiy first tests the connections between all machines: the route, the port, whether both sides
//! accept each other's certificates, and the clocks.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::cluster_context::ClusterContext;
use crate::gates::{Gate, Verdict};
use crate::topology::{API_PORT, ETCD_PEER_PORT, Machine};
use crate::transport::clock_skew::{self, Clock, MOST_SKEW, SAY_TIME};

pub struct Culprit {
    pub machine: String,
    /// A sentence.
    pub why: String,
}

/// What a machine meets at a port of another.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meeting {
    Answers,
    /// No connection, and why, as far as the machine's routes and neighbours tell.
    Silent(String),
    /// A connection, but one of the two does not take the other's certificate.
    Distrust(String),
}

/// What a machine says of all, in their order; `None` when it did not say anything.
type Row<'a> = (&'a Machine, Option<Vec<Meeting>>);

pub async fn culprit(
    gate: &dyn Gate,
    context: &ClusterContext,
    verdict: &Verdict,
) -> Option<Culprit> {
    let by_evidence = || {
        let mut red: BTreeMap<&str, usize> = BTreeMap::new();
        for evidence in verdict.evidence.iter().filter(|evidence| !evidence.ok) {
            *red.entry(evidence.machine.as_deref()?).or_default() += 1;
        }
        let (machine, count) = red.into_iter().max_by_key(|(_, count)| *count)?;
        Some(Culprit {
            machine: machine.to_owned(),
            why: format!("most of the failed checks are on {machine} ({count})"),
        })
    };
    let Some(port) = gate.port() else { return by_evidence() };
    let (group, _) = gate.watches();
    let targets = context.topology.group(group);
    let addresses: Vec<Ipv4Addr> = targets.iter().map(|target| target.address).collect();
    let script = script(&addresses, port, context.seconds(2));
    let clocks: BTreeMap<&str, Clock> =
        targets.iter().map(|target| (target.name.as_str(), Clock::default())).collect();
    let answers = context
        .hear(
            group,
            |_| script.clone(),
            |machine, line| {
                if let Some(clock) = clocks.get(machine.name.as_str()) {
                    clock.hear(line);
                }
            },
        )
        .await;
    let rows: Vec<Row> = answers
        .iter()
        .map(|(machine, answer)| (*machine, answer.as_ref().ok().map(|text| row(&addresses, text))))
        .collect();
    let offsets = clocks.into_iter().filter_map(|(name, clock)| Some((name, clock.offset()?)));
    silent(&rows)
        .map(|culprit| in_its_words(culprit, &answers))
        .or_else(|| off_time(offsets.collect()))
        .or_else(|| judge(&rows, port))
        .or_else(by_evidence)
}

/// How a client of a port proves who it is and whom it believes: what the machines' own components
/// are given. `None` where TLS is not what is spoken.
fn credentials(port: u16) -> Option<&'static str> {
    match port {
        ETCD_PEER_PORT => Some(
            "--cacert /etc/etcd/pki/ca.crt --cert /etc/etcd/pki/peer.crt --key /etc/etcd/pki/peer.key",
        ),
        API_PORT | KUBELET_PORT => Some("--cacert /etc/kubernetes/pki/ca.crt"),
        _ => None,
    }
}

const KUBELET_PORT: u16 = 10250;

/// For each address a line: itself, curl's exit code, how the neighbour is known, the route, and
/// curl's words. All are asked at the same time.
fn script(addresses: &[Ipv4Addr], port: u16, seconds: u32) -> String {
    let list: Vec<String> = addresses.iter().map(Ipv4Addr::to_string).collect();
    // Without TLS curl need not be answered in HTTP: whoever says anything is there.
    let (scheme, credentials) = match credentials(port) {
        Some(credentials) => ("https", credentials),
        None => ("telnet", ""),
    };
    format!(
        r#"{SAY_TIME}
meet() {{
  said=$(curl --noproxy '*' --silent --show-error --output /dev/null --connect-timeout {seconds} --max-time {most} \
    {credentials} "{scheme}://$1:{port}/" 2>&1 </dev/null)
  code=$?
  route=$(ip -4 route get "$1" 2>&1 | head -n 1 | tr '\t' ' ')
  neighbour=$(ip -4 neigh show to "$1" 2>/dev/null | awk '{{print $NF; exit}}')
  printf 'met\t%s\t%s\t%s\t%s\t%s\n' "$1" "$code" "${{neighbour:--}}" "$route" "$(printf %s "$said" | tr '\n\t' '  ')"
}}
for address in {list}; do meet "$address" & done
wait
{SAY_TIME}"#,
        most = seconds * 2,
        list = list.join(" "),
    )
}

fn row(addresses: &[Ipv4Addr], text: &str) -> Vec<Meeting> {
    let lines: BTreeMap<Ipv4Addr, Meeting> = text.lines().filter_map(meeting).collect();
    let missing = || Meeting::Silent("it was not asked".into());
    addresses.iter().map(|address| lines.get(address).cloned().unwrap_or_else(missing)).collect()
}

fn meeting(line: &str) -> Option<(Ipv4Addr, Meeting)> {
    let mut fields = line.strip_prefix("met\t")?.split('\t');
    let address = fields.next()?.parse().ok()?;
    let (code, neighbour, route) = (fields.next()?, fields.next()?, fields.next()?);
    let said = fields.next().unwrap_or_default().trim();
    Some((address, judge_meeting(code, neighbour, route, said)))
}

/// Exit codes as in curl(1): 7 could not connect, 28 too slow, 35 and 56 the TLS handshake or what
/// followed broke, 58 to 60 certificates.
fn judge_meeting(code: &str, neighbour: &str, route: &str, said: &str) -> Meeting {
    // After a connection it may be slow, or wait for what telnet does not say.
    let connected =
        code == "28" && !said.contains("onnection time") && !said.contains("Failed to connect");
    match code {
        "7" | "28" if !connected => Meeting::Silent(why_silent(code, neighbour, route)),
        // With TLS 1.3 the client has ended its handshake when the server refuses its certificate.
        "35" | "56" | "58" | "59" | "60" | "77" => Meeting::Distrust(words(said)),
        // 127: there is no curl; nothing is known.
        _ => Meeting::Answers,
    }
}

fn why_silent(code: &str, neighbour: &str, route: &str) -> String {
    let unreachable = ["unreachable", "blackhole", "prohibit"];
    if let Some(kind) = unreachable.iter().find(|kind| route.contains(*kind)) {
        return format!("its route is {kind}: {route}");
    }
    if ["FAILED", "INCOMPLETE"].contains(&neighbour) {
        return "no machine on the network answers ARP for that address".into();
    }
    if code == "7" { "refused".into() } else { "no answer".into() }
}

/// `curl: (60) SSL certificate problem: certificate has expired More details here: …`
fn words(said: &str) -> String {
    let said = said.split(" More details").next().unwrap_or_default();
    let said = said.strip_prefix("curl: ").unwrap_or(said);
    said.split_once(") ").map_or(said, |(_, words)| words).to_owned()
}

/// A machine that did not answer may be well: the way to ask it may be what is broken.
fn in_its_words(culprit: Culprit, answers: &[(&Machine, Result<String, String>)]) -> Culprit {
    let mut asked = answers.iter().filter(|(machine, _)| machine.name == culprit.machine);
    match asked.next() {
        Some((machine, Err(reason))) => Culprit {
            why: format!(
                "{} did not answer when kdiy tested its connections: {reason}",
                machine.name
            ),
            ..culprit
        },
        _ => culprit,
    }
}

fn silent(rows: &[Row]) -> Option<Culprit> {
    let (machine, _) = rows.iter().find(|(_, row)| row.is_none())?;
    Some(Culprit {
        machine: machine.name.clone(),
        why: format!("{} no longer answers over SSH", machine.name),
    })
}

fn off_time(offsets: Vec<(&str, f64)>) -> Option<Culprit> {
    // Of two that differ nobody knows which is right.
    if offsets.len() < 3 {
        return None;
    }
    let median = clock_skew::median(offsets.iter().map(|(_, offset)| *offset))?;
    let skew = |offset: f64| offset - median;
    let (name, offset) =
        offsets.into_iter().max_by(|a, b| skew(a.1).abs().total_cmp(&skew(b.1).abs()))?;
    (skew(offset).abs() > MOST_SKEW).then(|| Culprit {
        machine: name.to_owned(),
        why: format!(
            "the clock of {name} is {:.0} s {} the others': leases and certificates depend on it",
            skew(offset).abs(),
            if skew(offset) > 0.0 { "ahead of" } else { "behind" }
        ),
    })
}

fn judge(rows: &[Row], port: u16) -> Option<Culprit> {
    let is_silent = |meeting: &Meeting| matches!(meeting, Meeting::Silent(_));
    let cell = |from: usize, to: usize| rows[from].1.as_ref().and_then(|row| row.get(to));
    let all = 0..rows.len();
    for to in all.clone() {
        let name = &rows[to].0.name;
        let others: Vec<&Meeting> =
            all.clone().filter(|from| *from != to).filter_map(|from| cell(from, to)).collect();
        let Some(itself) = cell(to, to) else { continue };
        let blame = |why: String| Some(Culprit { machine: name.clone(), why });
        if is_silent(itself) && others.iter().all(|meeting| is_silent(meeting)) {
            return blame(format!(
                "no machine reaches port {port} of {name}, not even {name} itself"
            ));
        }
        if others.is_empty() {
            continue;
        }
        if !is_silent(itself) && others.iter().all(|meeting| is_silent(meeting)) {
            let reached = all.clone().filter(|at| *at != to).filter_map(|at| cell(to, at));
            let reaches = reached.filter(|meeting| !is_silent(meeting)).count();
            return blame(match others.first() {
                Some(Meeting::Silent(why)) if reaches == 0 => {
                    format!(
                        "{name} and the others cannot reach each other ({why}): check the network \
                        of {name}"
                    )
                }
                _ => format!(
                    "port {port} of {name} answers on the machine itself, but no other machine \
                    reaches it: check its firewall"
                ),
            });
        }
        if let Meeting::Distrust(words) = itself
            && others.iter().all(|meeting| matches!(meeting, Meeting::Distrust(_)))
        {
            return blame(format!(
                "no machine accepts the certificate of {name} at port {port}: {words}"
            ));
        }
    }
    distrustful(rows, port).or_else(|| apart(rows, port))
}

/// A machine that takes nobody's certificate, or whose own is taken by nobody.
fn distrustful(rows: &[Row], port: u16) -> Option<Culprit> {
    rows.iter().find_map(|(machine, row)| {
        let row = row.as_ref()?;
        let words: Vec<&String> = row
            .iter()
            .filter_map(|meeting| match meeting {
                Meeting::Distrust(words) => Some(words),
                _ => None,
            })
            .collect();
        let name = &machine.name;
        (words.len() > 1 && words.len() == row.len()).then(|| Culprit {
            machine: name.clone(),
            why: format!(
                "{name} and every machine at port {port} refuse each other's certificates: {}",
                words[0]
            ),
        })
    })
}

/// Two machines between which something is, though others reach both. The one that most pairs have
/// in common is named first.
fn apart(rows: &[Row], port: u16) -> Option<Culprit> {
    let mut pairs = Vec::new();
    let mut count = vec![0_usize; rows.len()];
    for (from, (_, row)) in rows.iter().enumerate() {
        for (to, meeting) in row.iter().flatten().enumerate() {
            let why = match meeting {
                Meeting::Answers => continue,
                Meeting::Silent(why) | Meeting::Distrust(why) => why,
            };
            if to < rows.len() {
                pairs.push((from, to, why));
                count[from] += 1;
                count[to] += 1;
            }
        }
    }
    let (from, to, why) = *pairs.first()?;
    let most = count.iter().max()?;
    let at = count.iter().position(|it| it == most)?;
    let name = |at: usize| &rows[at].0.name;
    Some(Culprit {
        machine: name(at).clone(),
        why: format!(
            "{} cannot reach port {port} of {} ({why}), but others can: check the firewalls and \
            routes between the two",
            name(from),
            name(to)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;
    use crate::topology::{Group, Topology};

    fn topology() -> Topology {
        Topology::build(&ClusterConfig::default(), "10.0.0.0/24".parse().unwrap()).unwrap()
    }

    /// Of three masters what each meets at each: `y`es, `s`ilence, `d`istrust.
    fn blamed(rows: [Option<&str>; 3]) -> Option<(String, String)> {
        let topology = topology();
        let meeting = |letter: char| match letter {
            'y' => Meeting::Answers,
            's' => Meeting::Silent("no answer".into()),
            _ => Meeting::Distrust("certificate has expired".into()),
        };
        let masters = topology.group(Group::Masters);
        let rows: Vec<Row> = masters
            .into_iter()
            .zip(rows)
            .map(|(machine, row)| (machine, row.map(|row| row.chars().map(meeting).collect())))
            .collect();
        silent(&rows).or_else(|| judge(&rows, 2380)).map(|culprit| (culprit.machine, culprit.why))
    }

    #[test]
    fn a_machine_that_no_other_reaches_is_at_fault() {
        let (machine, why) = blamed([Some("yys"), Some("yys"), Some("yys")]).unwrap();
        assert_eq!(machine, "kdiy-master-3");
        assert!(why.contains("not even kdiy-master"), "{why}");
    }

    #[test]
    fn a_firewall_a_stopped_service_and_a_broken_network_are_distinguished() {
        let (machine, why) = blamed([Some("yys"), Some("yys"), Some("yyy")]).unwrap();
        assert_eq!(machine, "kdiy-master-3");
        assert!(why.contains("firewall"), "{why}");
        let (machine, why) = blamed([Some("yys"), Some("yys"), Some("ssy")]).unwrap();
        assert_eq!(machine, "kdiy-master-3");
        assert!(why.contains("check the network"), "{why}");
    }

    #[test]
    fn two_machines_that_cannot_reach_each_other_are_both_named() {
        let (_, why) = blamed([Some("yyy"), Some("yys"), Some("ysy")]).unwrap();
        assert!(why.contains("kdiy-master-2 cannot reach") && why.contains("kdiy-master-3"));
        let (_, why) = blamed([Some("ysy"), Some("yyy"), Some("yyy")]).unwrap();
        assert!(why.contains("kdiy-master-1 cannot reach port 2380 of kdiy-master-2"), "{why}");
    }

    #[test]
    fn a_refused_certificate_and_a_wrong_authority_are_distinguished() {
        let (machine, why) = blamed([Some("ydy"), Some("ydy"), Some("ydy")]).unwrap();
        assert_eq!(machine, "kdiy-master-2");
        assert!(
            why.contains("no machine accepts the certificate") && why.contains("expired"),
            "{why}"
        );
        let (machine, why) = blamed([Some("yyy"), Some("ddd"), Some("yyy")]).unwrap();
        assert_eq!(machine, "kdiy-master-2");
        assert!(why.contains("each other's certificates"), "{why}");
    }

    #[test]
    fn a_machine_without_ssh_is_named_first_and_a_full_mesh_names_none() {
        assert_eq!(blamed([Some("yyy"), None, Some("yyy")]).unwrap().0, "kdiy-master-2");
        assert!(blamed([Some("yyy"); 3]).is_none());
    }

    #[test]
    fn a_wrong_clock_is_named_if_at_least_three_clocks_are_known() {
        let named = |offsets: &[(&'static str, f64)]| {
            off_time(offsets.to_vec()).map(|culprit| (culprit.machine, culprit.why))
        };
        let (machine, why) = named(&[("a", 0.1), ("b", -90.0), ("c", 0.0)]).unwrap();
        assert_eq!(machine, "b");
        assert!(why.contains("90 s behind"), "{why}");
        assert!(named(&[("a", 0.1), ("b", -1.0), ("c", 0.0)]).is_none());
        assert!(named(&[("a", 0.1), ("b", -90.0)]).is_none());
    }

    #[test]
    fn errors_of_curl_and_the_kernel_are_parsed() {
        let judged = |code, neighbour, route, said| judge_meeting(code, neighbour, route, said);
        assert_eq!(judged("0", "REACHABLE", "10.0.0.2 dev eth1", ""), Meeting::Answers);
        let refused = "curl: (7) Failed to connect to 10.0.0.2 port 2380: Connection refused";
        assert_eq!(judged("7", "-", "x", refused), Meeting::Silent("refused".into()));
        let late = "curl: (28) Connection timed out after 2001 milliseconds";
        assert_eq!(judged("28", "STALE", "x", late), Meeting::Silent("no answer".into()));
        assert!(
            matches!(judged("28", "FAILED", "x", late), Meeting::Silent(why) if why.contains("ARP"))
        );
        let route = "RTNETLINK answers: Network is unreachable";
        assert!(
            matches!(judged("7", "-", route, "x"), Meeting::Silent(why) if why.contains("route"))
        );
        let old =
            "curl: (60) SSL certificate problem: certificate has expired More details here: x";
        let words = "SSL certificate problem: certificate has expired";
        assert_eq!(judged("60", "STALE", "x", old), Meeting::Distrust(words.into()));
        let slow = "curl: (28) Operation timed out after 4000 milliseconds with 0 bytes received";
        assert_eq!(judged("28", "STALE", "x", slow), Meeting::Answers);
    }

    #[test]
    fn the_script_runs_and_reports_a_closed_port() {
        let local = Ipv4Addr::LOCALHOST;
        for port in [1, ETCD_PEER_PORT] {
            let script = script(&[local], port, 1);
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.lines().any(|line| line.starts_with("time=")), "{text}");
            assert!(text.lines().any(|line| line.starts_with("met\t127.0.0.1\t")), "{text}");
            let row = row(&[local], &text);
            assert!(port != 1 || row == [Meeting::Silent("refused".into())], "{row:?}: {text}");
        }
    }
}
