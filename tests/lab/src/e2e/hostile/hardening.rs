//! What a component that somebody has taken over could do to its machine.

use anyhow::{Context, Result, ensure};

use crate::e2e::cluster::Cluster;
use crate::stage::Check;

/// Most that `systemd-analyze security` may say of a unit, in tenths, and whether its processes
/// gain no privileges. What is started by containerd inherits all that containerd is kept from, and
/// the kubelet's mounts have to be seen by pods: these two can be kept from little.
const EXPOSURES: &[(&str, u32, bool)] = &[
    ("etcd", 15, true),
    ("kube-apiserver", 15, true),
    ("kube-controller-manager", 15, true),
    ("kube-scheduler", 15, true),
    ("haproxy", 30, true),
    ("keepalived", 34, true),
    ("kube-proxy", 25, true),
    ("kdiy-pod-network", 20, true),
    ("kdiy-pods", 17, true),
    ("kubelet", 86, false),
    ("containerd", 96, false),
];

pub(super) fn checks<'a>(cluster: &Cluster<'a>) -> Vec<Check<'a>> {
    let cluster = cluster.clone();
    vec![Check::new("every unit that can bear it is in a sandbox", move || {
        units_are_in_sandboxes(&cluster)
    })]
}

fn units_are_in_sandboxes(cluster: &Cluster) -> Result<String> {
    let mut worst = Vec::new();
    for (unit, most, gains_nothing) in EXPOSURES {
        let mut seen = Vec::new();
        for machine in cluster.machines()? {
            let Some((exposure, status)) = exposure(cluster, &machine, unit)? else { continue };
            ensure!(exposure <= *most, "{machine}: {unit} is exposed by {exposure} tenths");
            // The process may be older than the unit's file.
            let in_force = status.is_empty() || status.contains("NoNewPrivs:\t1");
            ensure!(in_force || !gains_nothing, "{machine}: {unit} runs outside of it: {status}");
            seen.push(exposure);
        }
        let most = seen.iter().max().with_context(|| format!("{unit} runs nowhere"))?;
        worst.push(format!("{unit} {}.{}", most / 10, most % 10));
    }
    Ok(worst.join(", "))
}

/// In tenths, with the process's lines of `/proc/PID/status`, where there is one; `None` where the
/// unit does not run.
fn exposure(cluster: &Cluster, machine: &str, unit: &str) -> Result<Option<(u32, String)>> {
    let script = format!(
        "systemctl is-active --quiet {unit}.service || exit 0
         systemd-analyze security --no-pager {unit}.service 2>/dev/null | grep -a 'Overall exposure'
         pid=$(systemctl show --property MainPID --value {unit}.service)
         [ \"$pid\" = 0 ] || grep NoNewPrivs /proc/$pid/status"
    );
    let text = cluster.on(machine, &script)?;
    let Some((overall, status)) = text.split_once('\n') else { return Ok(None) };
    // `→ Overall exposure level for etcd.service: 1.5 OK :-)`
    let figure = overall.rsplit(": ").next().and_then(|rest| rest.split_whitespace().next());
    let tenths =
        figure.map(|figure| figure.replace('.', "")).and_then(|digits| digits.parse().ok());
    let tenths = tenths.with_context(|| format!("{machine}: no exposure of {unit}: {overall}"))?;
    Ok(Some((tenths, status.to_owned())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_figures_are_those_of_the_docs() {
        let page = crate::repository().join("docs/security.md");
        let page = fs::read_to_string(page).unwrap();
        for (unit, most, _) in EXPOSURES {
            let figure = format!("| {}.{} |", most / 10, most % 10);
            // Another table on the page has rows of the same names.
            let start = format!("| {unit} |");
            let mut rows = page.lines().filter(|line| line.starts_with(&start));
            assert!(rows.any(|row| row.contains(&figure)), "{unit}: no row has {figure}");
        }
    }
}
