//! Every identity that has a certificate, as a table.

use serde::Serialize;

use crate::topology::Machine;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authority {
    Kubernetes,
    Etcd,
    FrontProxy,
}

impl Authority {
    pub const ALL: [Self; 3] = [Self::Kubernetes, Self::Etcd, Self::FrontProxy];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Etcd => "etcd",
            Self::FrontProxy => "front-proxy",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Usage {
    Server,
    Client,
    /// etcd's own certificates: its members are each other's clients.
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Names {
    /// A client is known by its subject alone.
    None,
    /// The machine's name and address, `localhost` and 127.0.0.1.
    Machine,
    /// Those, and every name and address by which clients reach the api.
    ApiServer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub name: &'static str,
    pub authority: Authority,
    /// Subject CN. Empty: the machine's name.
    pub common_name: &'static str,
    /// Subject O, which Kubernetes takes for a group.
    pub organization: Option<&'static str>,
    pub usage: Usage,
    pub names: Names,
    /// Each machine has its own; otherwise there is one for the cluster.
    pub per_machine: bool,
    /// Who this is and what it may do, in a sentence.
    pub what: &'static str,
}

const fn server(
    name: &'static str,
    authority: Authority,
    names: Names,
    what: &'static str,
) -> Identity {
    Identity {
        name,
        authority,
        common_name: "",
        organization: None,
        usage: Usage::Server,
        names,
        per_machine: true,
        what,
    }
}

const fn client(
    name: &'static str,
    authority: Authority,
    common_name: &'static str,
    what: &'static str,
) -> Identity {
    Identity {
        name,
        authority,
        common_name,
        organization: None,
        usage: Usage::Client,
        names: Names::None,
        per_machine: true,
        what,
    }
}

/// Subjects that begin with `system:` are the ones that Kubernetes binds roles to by default
/// (Kubernetes docs, "Using RBAC Authorization", core component roles).
pub const IDENTITIES: &[Identity] = &[
    Identity {
        usage: Usage::Both,
        ..server("etcd-server", Authority::Etcd, Names::Machine, "an etcd member, for its clients")
    },
    Identity {
        usage: Usage::Both,
        ..server("etcd-peer", Authority::Etcd, Names::Machine, "an etcd member, for its peers")
    },
    client(
        "etcd-client",
        Authority::Etcd,
        "kdiy-etcd-client",
        "root on an etcd machine, for etcdctl",
    ),
    client(
        "apiserver-etcd-client",
        Authority::Etcd,
        "kube-apiserver-etcd-client",
        "a kube-apiserver, for etcd; no other component of Kubernetes uses etcd",
    ),
    server(
        "apiserver",
        Authority::Kubernetes,
        Names::ApiServer,
        "a kube-apiserver, for all clients",
    ),
    client(
        "apiserver-kubelet-client",
        Authority::Kubernetes,
        "kube-apiserver-kubelet-client",
        "a kube-apiserver, for kubelets: logs, exec, port-forward",
    ),
    client(
        "controller-manager",
        Authority::Kubernetes,
        "system:kube-controller-manager",
        "a kube-controller-manager, for its API server",
    ),
    server(
        "controller-manager-server",
        Authority::Kubernetes,
        Names::Machine,
        "a kube-controller-manager, for clients that read its health and metrics",
    ),
    client(
        "scheduler",
        Authority::Kubernetes,
        "system:kube-scheduler",
        "a kube-scheduler, for its API server",
    ),
    server(
        "scheduler-server",
        Authority::Kubernetes,
        Names::Machine,
        "a kube-scheduler, for clients that read its health and metrics",
    ),
    client(
        "kube-proxy",
        Authority::Kubernetes,
        "system:kube-proxy",
        "a kube-proxy, for the API: reads Services and their endpoints",
    ),
    client(
        "flannel",
        Authority::Kubernetes,
        "kdiy-flannel",
        "a flanneld, for the API: reads Nodes and writes its own annotations",
    ),
    Identity {
        organization: Some("kdiy:cluster-admins"),
        per_machine: false,
        ..client(
            "admin",
            Authority::Kubernetes,
            "kdiy-admin",
            "you: cluster-admin through a binding that can be deleted",
        )
    },
    Identity {
        organization: Some("system:masters"),
        per_machine: false,
        ..client(
            "bootstrap-admin",
            Authority::Kubernetes,
            "kdiy-bootstrap",
            "`kdiy up`, on this computer only: bypasses all authorization, to create and repair \
            the bindings",
        )
    },
    client(
        "front-proxy-client",
        Authority::FrontProxy,
        "front-proxy-client",
        "a kube-apiserver, for aggregated API servers, on behalf of its own clients",
    ),
];

pub fn identity(name: &str) -> Option<&'static Identity> {
    IDENTITIES.iter().find(|identity| identity.name == name)
}

impl Identity {
    pub fn subject(&self, machine: Option<&Machine>) -> String {
        match machine {
            Some(machine) if self.common_name.is_empty() => machine.name.clone(),
            _ => self.common_name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &str = include_str!("../../docs/security.md");

    fn table() -> String {
        let mut text = "| identity | who it is, to whom | subject | signed by | one for |\n\
                        |---|---|---|---|---|\n"
            .to_owned();
        for identity in IDENTITIES {
            let name = match identity.common_name {
                "" => "its machine's name",
                name => &format!("`{name}`"),
            };
            let group = identity.organization.map(|group| format!(", in `{group}`"));
            let owner = if identity.per_machine { "each machine" } else { "the cluster" };
            text.push_str(&format!(
                "| {} | {} | {name}{} | {} | {owner} |\n",
                identity.name,
                identity.what,
                group.unwrap_or_default(),
                identity.authority.as_str(),
            ));
        }
        text
    }

    #[test]
    fn the_docs_have_the_table_as_it_is() {
        let table = table();
        assert!(DOCS.contains(&table), "docs/security.md should hold:\n{table}");
    }
}
