//! Each lease has exactly one holder that renews it, and controllers and scheduler work.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::cluster_context::ClusterContext;
use crate::gates::running::{self, Program};
use crate::gates::{Gate, Verdict};
use crate::playbook::format::GateName;
use crate::support::failure::chain;
use crate::support::time_scale::Unscaled;
use crate::topology::Group;

pub struct Controllers;

/// Where the leases are.
pub const NAMESPACE: &str = "kube-system";
/// Of the components of which one works and the others wait.
pub const LEASES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
const PROGRAMS: [Program; 2] =
    [("kube-controller-manager.service", "kubernetes"), ("kube-scheduler.service", "kubernetes")];
const TRIAL: &str = "kdiy-gate";
/// Multiplied by `slowMachines`: to be asked is work, too.
const PAUSE: Unscaled = Unscaled::from_millis(100);

#[async_trait]
impl Gate for Controllers {
    fn name(&self) -> GateName {
        GateName::Controllers
    }

    fn watches(&self) -> (Group, &'static [&'static str]) {
        (Group::Masters, &["kube-controller-manager.service", "kube-scheduler.service"])
    }

    fn port(&self) -> Option<u16> {
        None
    }

    async fn probe(&self, context: &ClusterContext) -> Verdict {
        let mut verdict = Verdict::default();
        let Some(client) = context.client(&mut verdict).await else { return verdict };
        let leases = futures::future::join_all(LEASES.map(|name| watch(&client, name, context)));
        let names = HostNames::ask(context);
        let (leases, worked, names) = tokio::join!(leases, trial(&client, context), names);
        for (name, seen) in LEASES.iter().zip(leases) {
            record_lease(&mut verdict, name, seen, &names, context);
        }
        let (created, scheduled) = worked;
        verdict.record(
            None,
            "a ReplicaSet gets its pod (controller-manager)",
            "a pod",
            created.clone().unwrap_or_else(|error| error),
            created.is_ok(),
        );
        verdict.record(
            None,
            "the scheduler makes a decision about the pod",
            "a decision",
            scheduled.clone().unwrap_or_else(|error| error),
            scheduled.is_ok(),
        );
        if verdict.passed() {
            running::record(&mut verdict, context, Group::Masters, &PROGRAMS).await;
        }
        verdict
    }
}

/// A lease at two moments between which its holder must have renewed it.
struct Seen {
    before: LeaseSpec,
    after: LeaseSpec,
}

async fn watch(client: &Client, name: &str, context: &ClusterContext) -> Result<Seen, String> {
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let read = || async {
        let lease = api.get(name).await.map_err(|error| chain(&error))?;
        lease.spec.ok_or_else(|| "no holder".to_owned())
    };
    let before = read().await?;
    let retry = context.config.control_plane.leader_election.retry_period.get();
    // One period and a half: a holder that is alive has renewed once by then.
    let patience = retry * context.config.slow_machines * 3 / 2;
    let began = Instant::now();
    loop {
        tokio::time::sleep(PAUSE * context.config.slow_machines).await;
        let after = read().await?;
        if after.renew_time != before.renew_time || began.elapsed() > patience {
            return Ok(Seen { before, after });
        }
    }
}

/// Machines by their host names, by which leases know them. On machines that existed before, a
/// host name may differ from the machine's name in the cluster file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostNames(BTreeMap<String, String>);

impl HostNames {
    pub async fn ask(context: &ClusterContext) -> Self {
        let answers = context.ask(Group::Masters, |_| "uname -n".into()).await;
        answers
            .into_iter()
            .map(|(machine, said)| {
                // One that does not answer is looked for by its name in the cluster.
                let host = said.ok().map(|said| said.trim().to_owned());
                let host = host.filter(|host| !host.is_empty());
                (host.unwrap_or_else(|| machine.name.clone()), machine.name.clone())
            })
            .collect()
    }

    /// The machine that holds a lease: client-go's identity is the host name, an underscore and a
    /// random part.
    pub fn holder(&self, identity: &str) -> Option<&str> {
        let host = identity.split('_').next().unwrap_or_default();
        self.0.get(host).map(String::as_str)
    }

    /// The same, or the host name where it is none of a known machine; `None` for a lease that
    /// was given back.
    pub fn holder_or_host(&self, identity: &str) -> Option<String> {
        let host = identity.split('_').next().filter(|host| !host.is_empty())?;
        Some(self.holder(identity).unwrap_or(host).to_owned())
    }
}

/// Pairs of a host name and the machine's name.
impl FromIterator<(String, String)> for HostNames {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

fn record_lease(
    verdict: &mut Verdict,
    name: &str,
    seen: Result<Seen, String>,
    names: &HostNames,
    context: &ClusterContext,
) {
    let Seen { before, after } = match seen {
        Ok(seen) => seen,
        Err(error) => {
            verdict.record(None, format!("the lease {name}"), "one", error, false);
            return;
        }
    };
    let holder = after.holder_identity.clone().unwrap_or_default();
    let machine = names.holder(&holder);
    let known = machine.is_some();
    verdict.record(machine, format!("holder of {name}"), "one of the masters", holder, known);
    let wanted = context.config.control_plane.leader_election.lease_duration.get().as_secs()
        * u64::from(context.config.slow_machines);
    let duration = after.lease_duration_seconds.unwrap_or_default();
    verdict.record(
        machine,
        format!("duration of {name}"),
        format!("{wanted} s"),
        format!("{duration} s"),
        u64::try_from(duration).is_ok_and(|duration| duration == wanted),
    );
    let renewed = after.renew_time != before.renew_time;
    let same = after.holder_identity == before.holder_identity;
    verdict.record(
        machine,
        format!("renewal of {name}"),
        "renewed by the same holder during the check",
        match (renewed, same) {
            (true, true) => "renewed",
            (true, false) => "taken over by another holder",
            (false, _) => "not renewed",
        },
        renewed && same,
    );
}

/// A replica set whose pod fits nowhere: the pod's existence is the controller-manager's work,
/// the word that it fits nowhere is the scheduler's. No node is needed.
async fn trial(
    client: &Client,
    context: &ClusterContext,
) -> (Result<String, String>, Result<String, String>) {
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), NAMESPACE);
    let labels = json!({"app.kubernetes.io/name": TRIAL});
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": TRIAL},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {"kdiy.dev/gate": "nowhere"},
                    "automountServiceAccountToken": false,
                    "containers": [{"name": "pause", "image": context.images.get("pause")}],
                },
            },
        },
    });
    let params = PatchParams::apply(TRIAL).force();
    let applied = sets.patch(TRIAL, &params, &Patch::Apply(&set)).await;
    let result = match applied {
        Ok(_) => observe(client, context).await,
        Err(error) => {
            let error = chain(&error);
            (Err(error.clone()), Err(error))
        }
    };
    // What stays behind is adopted by the next look.
    let _ = sets.delete(TRIAL, &DeleteParams::background()).await;
    result
}

async fn observe(
    client: &Client,
    context: &ClusterContext,
) -> (Result<String, String>, Result<String, String>) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mine = ListParams::default().labels(&format!("app.kubernetes.io/name={TRIAL}"));
    let patience = Duration::from_secs(5) * context.config.slow_machines;
    let began = Instant::now();
    let mut created = Err("no pod".to_owned());
    while began.elapsed() < patience {
        let listed = pods.list(&mine).await.map(|list| list.items).unwrap_or_default();
        for pod in &listed {
            created = Ok("a pod".to_owned());
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            let decided =
                conditions.into_iter().flatten().any(|condition| condition.type_ == "PodScheduled");
            if decided {
                return (created, Ok("a decision".to_owned()));
            }
        }
        tokio::time::sleep(PAUSE * context.config.slow_machines).await;
    }
    (created, Err("none".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_by_a_machine_whatever_its_host_name_is() {
        let pairs = [("pve-7", "master-1"), ("master-2", "master-2")];
        let names: HostNames =
            pairs.map(|(host, name)| (host.to_owned(), name.to_owned())).into_iter().collect();
        assert_eq!(names.holder("pve-7_1c4a"), Some("master-1"));
        assert_eq!(names.holder_or_host("master-2_9f"), Some("master-2".into()));
        // Of a machine that was removed, say.
        assert_eq!(names.holder("old_9f"), None);
        assert_eq!(names.holder_or_host("old_9f"), Some("old".into()));
        assert_eq!(names.holder_or_host(""), None);
    }
}
