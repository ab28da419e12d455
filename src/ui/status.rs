//! A [`Status`] on one screen, as lines of toned text: the terminal paints them once, the live
//! view again and again.

use std::time::Duration;

use owo_colors::OwoColorize;

use crate::reports::status::{Health, Heard, Machine, Member, Status};
use crate::support::printable::counted;
use crate::ui::duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Dim,
    Bold,
    Good,
    Doubtful,
    Bad,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub text: String,
    pub tone: Tone,
}

pub type Line = Vec<Span>;

/// Columns from which there is room for what is good to know only.
const WIDE: usize = 110;
/// Between two columns.
const GAP: usize = 2;
/// etcd's advice for the 99th percentile (etcd docs, "Hardware recommendations"); a mean above it
/// is well past that.
const SLOW_FSYNC_MS: f64 = 10.0;

/// Coloured, for [`crate::ui::Ui::result`].
pub fn text(status: &Status, columns: usize) -> String {
    let painted = lines(status, columns).into_iter();
    let painted: Vec<String> = painted.map(|line| line.iter().map(paint).collect()).collect();
    painted.join("\n")
}

fn paint(span: &Span) -> String {
    let text = &span.text;
    match span.tone {
        Tone::Plain => text.clone(),
        Tone::Dim => text.dimmed().to_string(),
        Tone::Bold => text.bold().to_string(),
        Tone::Good => text.green().to_string(),
        Tone::Doubtful => text.yellow().to_string(),
        Tone::Bad => text.red().to_string(),
    }
}

/// No line is wider than `columns`.
pub fn lines(status: &Status, columns: usize) -> Vec<Line> {
    let wide = columns >= WIDE;
    let mut lines = vec![heading(status), Vec::new()];
    lines.extend(table(machines(status, wide)));
    lines.push(Vec::new());
    lines.extend(table(members(status)));
    lines.push(Vec::new());
    lines.extend(table(facts(status)));
    let mut lines: Vec<Line> = lines.into_iter().map(|line| fitted(line, columns)).collect();
    if !status.problems.is_empty() {
        lines.push(Vec::new());
        lines.extend(problems(status, columns));
    }
    lines
}

fn span(text: impl Into<String>, tone: Tone) -> Span {
    Span { text: text.into(), tone }
}

fn plain(text: impl Into<String>) -> Span {
    span(text, Tone::Plain)
}

fn dim(text: impl Into<String>) -> Span {
    span(text, Tone::Dim)
}

/// Stands for what was not heard.
fn unknown() -> Span {
    dim("–")
}

fn heading(status: &Status) -> Line {
    let (sign, tone) = match status.health {
        Health::Healthy => ("✔", Tone::Good),
        Health::Degraded => ("!", Tone::Doubtful),
        Health::Down => ("✘", Tone::Bad),
    };
    vec![
        span(format!("{sign} {} is {}", status.cluster, status.health.as_str()), tone),
        dim(format!(
            "  Kubernetes {} · {} · checked {}",
            status.kubernetes,
            status.endpoint.url,
            duration(Duration::from_millis(status.elapsed_ms)),
        )),
    ]
}

fn machines(status: &Status, wide: bool) -> Vec<Line> {
    let mut head: Vec<&str> = vec!["MACHINE"];
    if wide {
        head.push("ADDRESS");
    }
    head.extend(["UP", "LOAD", "MEMORY", "DISK", "NODE", "API", "BALANCER"]);
    if wide {
        head.extend(["KUBELET", "CERTIFICATES", "DRIFT"]);
    }
    let mut rows = vec![head.into_iter().map(dim).collect()];
    rows.extend(status.machines.iter().map(|machine| {
        let mut row = vec![span(&machine.name, Tone::Bold)];
        if wide {
            row.push(plain(machine.address.to_string()));
        }
        row.extend(system(machine));
        row.extend([node(machine), api_server(machine), balancer(machine)]);
        if wide {
            let version = machine.node.as_ref().map(|node| plain(&node.version));
            row.extend([version.unwrap_or_else(unknown), certificate(machine), drift(machine)]);
        }
        row
    }));
    rows
}

fn system(machine: &Machine) -> [Span; 4] {
    let Some(system) = &machine.system else {
        let up = match machine.unreachable {
            Some(_) => span("no answer", Tone::Bad),
            None => unknown(),
        };
        return [up, unknown(), unknown(), unknown()];
    };
    let used = system.memory_mebibytes.saturating_sub(system.memory_available_mebibytes);
    let gibibytes = |mebibytes: u64| mebibytes as f64 / 1024.0;
    [
        plain(uptime(system.uptime_seconds)),
        plain(format!("{:.1}", system.load)),
        plain(format!("{:.1}/{:.1}G", gibibytes(used), gibibytes(system.memory_mebibytes))),
        plain(format!("{} %", system.disk_used_percent)),
    ]
}

fn node(machine: &Machine) -> Span {
    match &machine.node {
        None => unknown(),
        Some(node) if !node.ready => span("NotReady", Tone::Bad),
        Some(node) if node.cordoned => span("cordoned", Tone::Doubtful),
        Some(_) => span("Ready", Tone::Good),
    }
}

fn api_server(machine: &Machine) -> Span {
    match &machine.api_server {
        None => unknown(),
        Some(api) if api.ready => span("ready", Tone::Good),
        Some(_) => span("not ready", Tone::Bad),
    }
}

fn balancer(machine: &Machine) -> Span {
    let Some(balancer) = &machine.load_balancer else { return unknown() };
    let up = balancer.backends.iter().filter(|backend| backend.up).count();
    let tone = if up == balancer.backends.len() { Tone::Good } else { Tone::Doubtful };
    let holds = if balancer.holds_virtual_address { " VIP" } else { "" };
    span(format!("{up}/{} up{holds}", balancer.backends.len()), tone)
}

fn certificate(machine: &Machine) -> Span {
    machine
        .certificates
        .first()
        .map_or_else(unknown, |certificate| plain(format!("{} days", certificate.days_left)))
}

fn drift(machine: &Machine) -> Span {
    match (machine.drift.len(), &machine.unreachable) {
        (_, Some(_)) => unknown(),
        (0, None) => span("none", Tone::Good),
        (count, None) => span(counted(count, "step"), Tone::Doubtful),
    }
}

fn members(status: &Status) -> Vec<Line> {
    let head = ["ETCD", "ROLE", "TERM", "INDEX", "LAG", "DATABASE", "FSYNC"];
    let mut rows: Vec<Line> = vec![head.into_iter().map(dim).collect()];
    for machine in &status.machines {
        let name = span(&machine.name, Tone::Bold);
        match &machine.etcd {
            Some(Heard::Answer(member)) => rows.push([vec![name], about_member(member)].concat()),
            Some(Heard::Error(_)) => rows.push(vec![name, span("no answer", Tone::Bad)]),
            None => {}
        }
    }
    rows
}

fn about_member(member: &Member) -> Line {
    let role = match member.leader {
        _ if member.learner => span("learner", Tone::Doubtful),
        0 => span("no leader", Tone::Bad),
        leader if leader == member.id => span("leader", Tone::Good),
        _ => plain("follower"),
    };
    let fsync = member.fsync_ms.map_or_else(unknown, |ms| {
        let tone = if ms > SLOW_FSYNC_MS { Tone::Doubtful } else { Tone::Plain };
        span(format!("{ms:.1} ms"), tone)
    });
    vec![
        role,
        plain(member.term.to_string()),
        plain(member.raft_index.to_string()),
        plain(member.lag.to_string()),
        plain(format!("{:.1} MiB", member.database_bytes as f64 / 1_048_576.0)),
        fsync,
    ]
}

fn facts(status: &Status) -> Vec<Line> {
    let mut rows = vec![vec![dim("quorum"), quorum(status)]];
    if let Some(vip) = &status.virtual_address {
        let holder = match vip.holders.as_slice() {
            [one] => plain(format!("{} is on {one}", vip.address)),
            [] => span(format!("no machine holds {}", vip.address), Tone::Doubtful),
            many => span(format!("{} is on {}", vip.address, many.join(", ")), Tone::Bad),
        };
        rows.push(vec![dim("address"), holder]);
    }
    for lease in status.leases.iter().flatten() {
        let held = match (&lease.holder, lease.renewed_ms_ago) {
            (Some(holder), Some(age)) => {
                let tone = if age > lease.duration_ms { Tone::Bad } else { Tone::Plain };
                let age = age as f64 / 1000.0;
                span(format!("held by {holder}, renewed {age:.1} s ago"), tone)
            }
            _ => span("no holder", Tone::Bad),
        };
        rows.push(vec![dim(&lease.name), held]);
    }
    if let Some(dns) = &status.dns {
        let good = dns.error.is_none() && dns.ready == dns.endpoints && dns.ready > 0;
        let answered = match (dns.answered_ms, &dns.error) {
            (_, Some(error)) => error.clone(),
            (Some(ms), None) => format!("answered from every node in {ms} ms"),
            (None, None) => "no node answered the check".into(),
        };
        let tone = if good { Tone::Plain } else { Tone::Doubtful };
        let text = format!("{} of {} ready, {answered}", dns.ready, dns.endpoints);
        rows.push(vec![dim("CoreDNS"), span(text, tone)]);
    }
    let soonest = status
        .machines
        .iter()
        .flat_map(|machine| machine.certificates.iter().map(move |it| (&machine.name, it)))
        .min_by_key(|(_, certificate)| certificate.days_left);
    if let Some((machine, certificate)) = soonest {
        let days = certificate.days_left;
        let text = format!("the first expires in {days} days: {} on {machine}", certificate.path);
        rows.push(vec![dim("certificates"), plain(text)]);
    }
    let steps = status.machines.iter().map(|machine| machine.drift.len()).sum();
    rows.push(vec![
        dim("drift"),
        match steps {
            0 => plain("none on the machines that answer"),
            steps => span(
                format!(
                    "{}; `kdiy plan` shows them, `kdiy up` repairs them",
                    counted(steps, "step")
                ),
                Tone::Doubtful,
            ),
        },
    ]);
    rows
}

/// `3 members, quorum 2, may lose 1`, or what is left of that, first, for what comes last may not
/// fit on the screen: `2 of 3 members agree, quorum 2, 0 may fail; 1 when whole`.
fn quorum(status: &Status) -> Span {
    let etcd = &status.etcd;
    let members = counted(etcd.members as usize, "member");
    if etcd.in_quorum == etcd.members {
        return plain(format!("{members}, quorum {}, {} may fail", etcd.quorum, etcd.tolerance));
    }
    let now = format!(
        "{} of {members} agree, quorum {}, {} may fail; {} when complete",
        etcd.in_quorum, etcd.quorum, etcd.may_lose_now, etcd.tolerance
    );
    span(now, if etcd.in_quorum < etcd.quorum { Tone::Bad } else { Tone::Doubtful })
}

/// Each on as many lines as it takes.
fn problems(status: &Status, columns: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    for problem in &status.problems {
        let tone = if problem.health == Health::Down { Tone::Bad } else { Tone::Doubtful };
        let place = problem.machine.as_deref().unwrap_or(&status.cluster);
        let text = format!("{place}: {}", problem.what);
        for (number, part) in wrapped(&text, columns.saturating_sub(GAP)).into_iter().enumerate() {
            let sign = if number == 0 { "✘ " } else { "  " };
            lines.push(vec![span(sign, tone), plain(part)]);
        }
    }
    lines
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, _) => format!("{hours} h {minutes:02}"),
        _ => format!("{days} d {hours:02} h"),
    }
}

/// Pads cells so that columns line up.
fn table(rows: Vec<Line>) -> Vec<Line> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let padded = rows.iter().map(|row| {
        let last = row.len().saturating_sub(1);
        let cells = row.iter().zip(&widths).enumerate();
        cells
            .map(|(number, (cell, width))| {
                let width = if number == last { 0 } else { width + GAP };
                span(format!("{:width$}", cell.text), cell.tone)
            })
            .collect()
    });
    padded.collect()
}

/// Cuts a line that is too long, and shows that it was.
fn fitted(line: Line, columns: usize) -> Line {
    let length: usize = line.iter().map(|span| span.text.chars().count()).sum();
    if length <= columns {
        return line;
    }
    let mut room = columns.saturating_sub(1);
    let mut cut: Line = Vec::new();
    for cell in line {
        let text: String = cell.text.chars().take(room).collect();
        room -= text.chars().count();
        cut.push(span(text, cell.tone));
    }
    cut.push(dim("…"));
    cut
}

/// Breaks text between words, and inside one that is longer than a line.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines: Vec<String> = Vec::new();
    let mut room = 0;
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for (number, part) in letters.chunks(columns).enumerate() {
            let needed = part.len() + 1;
            match lines.last_mut() {
                Some(line) if number == 0 && needed <= room => {
                    line.push(' ');
                    line.extend(part);
                    room -= needed;
                }
                _ => {
                    lines.push(part.iter().collect());
                    room = columns - part.len();
                }
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::reports::status::{Endpoint, Etcd, Problem};
    use crate::topology::Role;

    fn degraded() -> Status {
        let machine = |name: &str, unreachable: Option<&str>| Machine {
            name: name.into(),
            role: Role::Master,
            address: "192.168.56.11".parse().unwrap(),
            unreachable: unreachable.map(str::to_owned),
            system: None,
            etcd: None,
            etcd_data_lost: None,
            api_server: None,
            load_balancer: None,
            node: None,
            certificates: Vec::new(),
            drift: Vec::new(),
        };
        Status {
            cluster: "kdiy".into(),
            at: Timestamp::UNIX_EPOCH,
            elapsed_ms: 840,
            health: Health::Degraded,
            problems: vec![Problem {
                health: Health::Degraded,
                machine: Some("kdiy-master-2".into()),
                what: "unreachable: connect to host 192.168.56.12 port 22: No route to host, \
                       which is what a machine that is off looks like from here"
                    .into(),
            }],
            kubernetes: "1.36.4".into(),
            endpoint: Endpoint {
                url: "https://192.168.56.10:8443".into(),
                ready: true,
                error: None,
            },
            etcd: Etcd { members: 3, quorum: 2, tolerance: 1, in_quorum: 2, ..Etcd::default() },
            virtual_address: None,
            leases: None,
            dns: None,
            machines: vec![machine("kdiy-master-1", None), machine("kdiy-master-2", Some("off"))],
        }
    }

    fn unpainted(status: &Status, columns: usize) -> Vec<String> {
        let lines = lines(status, columns).into_iter();
        lines.map(|line| line.into_iter().map(|span| span.text).collect()).collect()
    }

    #[test]
    fn the_screen_fits_any_width_and_keeps_problems() {
        for columns in [40, 80, 200] {
            let lines = unpainted(&degraded(), columns);
            for line in &lines {
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
            let screen = lines.join("\n");
            for part in ["kdiy is degraded", "no answer", "2 of 3 members", "route", "here"] {
                assert!(screen.contains(part), "{columns}: {part} is missing in\n{screen}");
            }
        }
    }

    #[test]
    fn a_reduced_tolerance_is_shown() {
        let screen = unpainted(&degraded(), 80).join("\n");
        assert!(screen.contains("2 of 3 members agree, quorum 2, 0 may fail;"), "{screen}");
    }

    #[test]
    fn words_that_fit_are_not_broken() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrapped("", 4), [""; 0]);
    }
}
