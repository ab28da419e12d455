//! The summary of `up`: the cluster, how many machines may fail, and what to do next.

use std::fmt::Write as _;
use std::time::Duration;

use owo_colors::OwoColorize;
use serde::Serialize;

use crate::support::failure::in_cluster;
use crate::support::printable::counted;
use crate::topology::Quorum;
use crate::ui::duration;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub cluster: String,
    pub endpoint: String,
    pub kubernetes: String,
    pub etcd: String,
    pub nodes: usize,
    pub etcd_quorum: Quorum,
    pub masters: Quorum,
    pub kubeconfig: String,
    /// Tasks that changed something.
    pub changed: u32,
    pub elapsed_ms: u64,
    pub etcd_leader: Option<String>,
    /// Step and how long its slowest task took, slowest first.
    pub slowest: Vec<(String, u64)>,
}

impl Summary {
    pub fn render(&self) -> String {
        let mut text = String::new();
        let took = duration(Duration::from_millis(self.elapsed_ms));
        let heading = if self.changed == 0 {
            format!("{} is as it should be; nothing was changed", self.cluster)
        } else {
            format!("{} is up", self.cluster)
        };
        let _ = writeln!(text, "\n{} {} {}", "✔".green(), heading.bold(), took.dimmed());
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "  {} {value}", format!("{name:<11}").dimmed());
        };
        row("api", self.endpoint.clone());
        row("nodes", format!("{}, Kubernetes {}", self.nodes, self.kubernetes));
        row("masters", tolerance("master", self.masters));
        row("etcd", format!("{}; {}", self.etcd, tolerance("member", self.etcd_quorum)));
        if let Some(leader) = &self.etcd_leader {
            row("leader", leader.clone());
        }
        row("kubeconfig", self.kubeconfig.clone());
        if self.changed > 0 {
            let slowest: Vec<String> = self
                .slowest
                .iter()
                .map(|(step, ms)| format!("{step} {}", duration(Duration::from_millis(*ms))))
                .collect();
            row("slowest", slowest.join(" · "));
        }
        row("next", in_cluster("kdiy kubectl -- get nodes", &self.cluster));
        text
    }
}

/// `3 members: quorum 2, 1 may fail`.
fn tolerance(what: &str, quorum: Quorum) -> String {
    let members = quorum.members;
    let may_fail = match quorum.tolerance() {
        0 => "none may fail".to_owned(),
        count => format!("{count} may fail"),
    };
    format!("{}: quorum {}, {may_fail}", counted(members, what), quorum.needed())
}
