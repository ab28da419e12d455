//! What the program says to input that cannot be: a clear error, the right exit code, and nothing
//! changed. The programs that it calls are made up here, so that this computer does not matter.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use ipnet::Ipv4Net;
use kdiy::config::{ClusterConfig, ProviderChoice};
use kdiy::pki::{Keeping, Pki};
use kdiy::session::ResolvedCluster;
use kdiy::state::Record;
use kdiy::state::lock::Lock;
use kdiy::topology::Topology;
use tempfile::TempDir;

/// A user with a state, a cache and a working directory of its own, and no program in the search
/// path but those that a test makes.
struct User {
    home: TempDir,
}

impl User {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        for directory in ["bin", "state", "work"] {
            fs::create_dir(home.path().join(directory)).unwrap();
        }
        Self { home }
    }

    /// With Vagrant and a Docker engine that answers and knows no container.
    fn with_docker() -> Self {
        Self::with(&[("vagrant", ""), ("docker", "")])
    }

    /// With Vagrant, its plugin, and a libvirt that answers.
    fn with_libvirt() -> Self {
        Self::with(&[("vagrant", "echo vagrant-libvirt"), ("virsh", "")])
    }

    /// With an OpenSSH client and these programs.
    fn with(programs: &[(&str, &str)]) -> Self {
        let user = Self::new();
        for (name, script) in [("ssh", ""), ("ssh-keygen", "")].iter().chain(programs) {
            user.program(name, script);
        }
        user
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn file(&self, text: &str) {
        fs::write(self.path("work/cluster.yaml"), text).unwrap();
    }

    fn kdiy(&self, arguments: &[&str]) -> Command {
        let mut kdiy = Command::cargo_bin("kdiy").unwrap();
        kdiy.env_clear()
            .current_dir(self.path("work"))
            .env("HOME", self.home.path())
            .env("PATH", self.path("bin"))
            .env("KDIY_STATE", self.path("state"))
            .env("KDIY_CACHE", self.path("cache"))
            .args(arguments);
        kdiy
    }

    /// What is in the state directory: everything's mode, and what the files hold.
    fn state(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut seen = BTreeMap::new();
        look(&self.path("state"), &mut seen);
        seen
    }

    /// Runs the program, which must end with an error that says all of `parts`, and must leave
    /// the state as it was.
    fn is_refused(&self, arguments: &[&str], parts: &[&str]) {
        let before = self.state();
        let run = self.kdiy(arguments).assert().code(1);
        let said = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        for part in parts {
            assert!(said.contains(part), "{arguments:?}: no `{part}` in\n{said}");
        }
        assert!(run.get_output().stdout.is_empty(), "{arguments:?}: an error is no result");
        assert_eq!(self.state(), before, "{arguments:?} changed the state");
    }

    /// As an earlier `up` left it.
    fn made(&self, config: &ClusterConfig) -> PathBuf {
        let root = self.path("state").join(&config.name);
        for directory in ["ssh", "vagrant", "logs", "runs"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for directory in [".", "ssh", "vagrant", "logs", "runs"] {
            let closed = fs::Permissions::from_mode(0o700);
            fs::set_permissions(root.join(directory), closed).unwrap();
        }
        let site = "192.168.56.0/24".parse::<Ipv4Net>().unwrap().into();
        let topology = Topology::at(&site, config).unwrap();
        let pki = Pki::open(&root.join("pki"), &topology, config, Keeping::Made).unwrap();
        let record = Record {
            id: "0".repeat(32),
            kdiy: "0.1.0".into(),
            site,
            config: config.clone(),
            complete: true,
            had_data: false,
            machine_architectures: Default::default(),
            playbooks: None,
            keys: pki.fingerprints(),
            proven_kubernetes: None,
        };
        fs::write(root.join("cluster.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        root
    }
}

fn look(at: &Path, seen: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        if path.is_dir() {
            look(&path, seen);
            seen.insert(path, (mode, Vec::new()));
        } else {
            let bytes = fs::read(&path).unwrap();
            seen.insert(path, (mode, bytes));
        }
    }
}

#[test]
fn counts_that_make_no_quorum_are_refused() {
    let user = User::with_docker();
    for (arguments, parts) in [
        (
            &["--masters", "4"][..],
            &["masters: 4 is even", "4 tolerate the failure of 1", "exactly as 3 do"][..],
        ),
        (&["--masters", "2"], &["masters: 2 is even", "use 1 or 3"]),
        (&["--masters", "0"], &["masters: a cluster needs at least one"]),
        (&["--masters", "-3"], &["--masters: -3 is not a number of machines"]),
        (&["--masters", "9"], &["masters: 9 is too many", "7 tolerate 3"]),
        (&["--masters", "99999999999"], &["--masters: 99999999999 is not a number of machines"]),
        (&["--workers", "-1"], &["--workers: -1 is not a number of machines"]),
        (&["--workers", "100000"], &["workers: 100000 is too many"]),
        (&["--etcd", "external:1"], &["etcd.members: 1 is not possible", "3, 5 or 7"]),
        (
            &["--etcd", "external:2"],
            &["etcd.members: 2 is not possible", "2 tolerate the failure of 0"],
        ),
        (&["--etcd", "external:4"], &["etcd.members: 4 is not possible"]),
        (&["--lb", "dedicated:3"], &["loadBalancer.machines: 3 is not possible"]),
        (&["--lb", "none"], &["loadBalancer.mode: none would send all clients to one"]),
    ] {
        user.is_refused(&[&["up"], arguments].concat(), parts);
    }
}

#[test]
fn a_file_that_says_what_cannot_be_is_refused() {
    let user = User::with_docker();
    let lease = "controlPlane: {leaderElection: ";
    for (file, parts) in [
        (
            "network: {pods: 10.96.0.0/12}".to_owned(),
            &["network.pods: 10.96.0.0/12 overlaps network.services 10.96.0.0/16"][..],
        ),
        (
            "network: {pods: 192.168.56.0/22, machines: 192.168.56.0/24}".to_owned(),
            &["network.pods: 192.168.56.0/22 overlaps network.machines"],
        ),
        (
            "network: {pods: 10.244.0.0/23}".to_owned(),
            &["network.pods: 10.244.0.0/23 is too small for 5 nodes", "each node gets a /24"],
        ),
        ("network: {services: 10.96.0.0/28}".to_owned(), &["network.services: /28 is too small"]),
        ("network: {services: 11.0.0.0/8}".to_owned(), &["network.services: /8 is too large"]),
        (
            "network: {machines: 192.168.56.0/26}".to_owned(),
            &["network.machines: 192.168.56.0/26 is too small"],
        ),
        (
            "{provider: virtualbox, network: {machines: 10.9.0.0/24}}".to_owned(),
            &["VirtualBox does not allow 10.9.0.0/24", "192.168.56.0/21"],
        ),
        (
            "{loadBalancer: {vip: 192.168.57.11}, network: {machines: 192.168.57.0/24}}".to_owned(),
            &["loadBalancer.vip: 192.168.57.11 is the address of kdiy-master-1"],
        ),
        (
            format!("{lease}{{leaseDuration: 10s}}}}"),
            &["controlPlane.leaderElection.leaseDuration: 10s is not longer than renewDeadline \
                10s"],
        ),
        (
            format!("{lease}{{retryPeriod: 9s}}}}"),
            &["renewDeadline: 10s is not longer than 1.2 × retryPeriod 9s"],
        ),
        (
            "etcd: {electionTimeout: 300ms}".to_owned(),
            &["etcd.electionTimeout: 300ms does not fit heartbeatInterval 100ms"],
        ),
        ("mastres: 3".to_owned(), &["unknown field `mastres`", "did you mean `masters`?"]),
        ("masters: three".to_owned(), &["cluster.yaml is not a cluster file"]),
        ("kubernetes: 1.20.2".to_owned(), &["kubernetes: 1.20.2 is not supported", "1.36"]),
        (
            "kubernetes: v1.36.4".to_owned(),
            &["`v1.36.4` is not a version", "without the v: 1.36.4"],
        ),
        ("name: Home_Lab".to_owned(), &["name: `Home_Lab` is not valid in a host name"]),
        ("provider: existing".to_owned(), &["hosts: the list is empty"]),
        ("addons: [http://a.b/c.yaml]".to_owned(), &["manifests over https only"]),
        ("masters: 2\nworkers: 999".to_owned(), &["masters: 2 is even", "workers: 999"]),
    ] {
        user.file(&file);
        user.is_refused(&["up"], parts);
    }
}

/// The network that kdiy chooses is held against the file as one that the file names.
#[test]
fn what_does_not_fit_the_chosen_network_is_refused() {
    let user = User::with_docker();
    for (file, part) in [
        (
            "loadBalancer: {vip: 192.168.56.51}",
            "loadBalancer.vip: 192.168.56.51 is the address of kdiy-worker-1",
        ),
        ("loadBalancer: {vip: 10.1.1.1}", "10.1.1.1 is not in the machines' network"),
        ("network: {pods: 192.168.0.0/16}", "network.pods: 192.168.0.0/16 overlaps"),
    ] {
        user.file(file);
        user.is_refused(&["up", "--provider", "docker"], &[part]);
    }
}

#[test]
fn a_cluster_file_that_is_not_there_is_named() {
    let user = User::with_docker();
    user.is_refused(
        &["up", "--config", "absent.yaml"],
        &["cannot read the cluster file absent.yaml", "No such file", "kdiy config init"],
    );
}

#[test]
fn a_mirror_that_lacks_files_is_refused_with_all_of_them() {
    let user = User::with_docker();
    let mirror = user.path("mirror");
    fs::create_dir(&mirror).unwrap();
    let mirror = mirror.to_str().unwrap();
    user.is_refused(
        &["up", "--provider", "docker", "--mirror", mirror],
        &["artifacts.mirror: it lacks", "kube-apiserver", "etcd-v3", "complete the mirror"],
    );
    user.is_refused(
        &["up", "--provider", "docker", "--mirror", "nowhere"],
        &["artifacts.mirror: nowhere is not a directory"],
    );
}

#[test]
fn a_wrong_digest_stops_everything_before_a_machine_is_made() {
    let user = User::with_docker();
    let mut config = ClusterConfig::default();
    let mirror = user.path("mirror");
    fs::create_dir(&mirror).unwrap();
    config.artifacts.mirror = Some(mirror.to_str().unwrap().to_owned());
    let site = "192.168.56.0/24".parse::<Ipv4Net>().unwrap().into();
    for item in ResolvedCluster::of(config, None).unwrap().items(&site).unwrap() {
        let file = mirror.join(item.url.trim_start_matches("https://"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "not what was released").unwrap();
    }
    // At the default's virtual address another cluster may answer.
    user.file("network: {machines: 10.213.77.0/24}");
    user.is_refused(
        &["up", "--provider", "docker", "--mirror", mirror.to_str().unwrap()],
        &["is not what was released", "expected sha256", "--digests"],
    );
}

#[test]
fn a_missing_vagrant_or_provider_is_named_with_what_installs_it() {
    let bare = User::with(&[]);
    let vagrant = ["Vagrant is not installed", "apt-get install vagrant"];
    bare.is_refused(&["up", "--provider", "docker"], &vagrant);
    bare.is_refused(&["up"], &[&["this computer cannot create machines"], &vagrant[..]].concat());

    let user = User::with(&[("vagrant", "")]);
    for (provider, program) in [
        ("docker", "docker is not installed"),
        ("libvirt", "virsh is not installed"),
        ("virtualbox", "VBoxManage is not installed"),
        ("vmware_desktop", "vmrun is not installed"),
        ("parallels", "prlctl is not installed"),
    ] {
        user.is_refused(&["up", "--provider", provider], &[program, "hint: "]);
    }
    user.program("docker", "echo Cannot connect to the Docker daemon >&2; exit 1");
    user.is_refused(
        &["up", "--provider", "docker"],
        &["Cannot connect to the Docker daemon", "start the Docker engine"],
    );
    user.program("virsh", "");
    user.is_refused(&["up", "--provider", "libvirt"], &["vagrant plugin install vagrant-libvirt"]);
}

#[test]
fn a_missing_ssh_client_is_named_before_anything_is_made() {
    let user = User::with_docker();
    fs::remove_file(user.path("bin/ssh-keygen")).unwrap();
    user.is_refused(
        &["up", "--provider", "docker"],
        &["the OpenSSH client is not installed", "apt-get install openssh-client"],
    );
}

#[test]
fn a_computer_that_cannot_carry_the_machines_is_refused() {
    let user = User::with_libvirt();
    user.file("machines: {worker: {cpus: 2, memoryMebibytes: 100000000}}");
    user.is_refused(
        &["up", "--provider", "libvirt"],
        &["the machines need 200006144 MiB of memory", "use fewer or smaller machines"],
    );
    let user = User::with_docker();
    user.program("df", "echo Header; echo /dev/sda 9 9 2048000 9% /");
    user.is_refused(
        &["up", "--provider", "docker"],
        &["of disk; 2000 MiB are free", "free disk space, or use fewer machines"],
    );
}

#[test]
fn a_virtual_address_that_answers_already_is_refused() {
    let user = User::with_docker();
    user.program("ping", "");
    user.is_refused(
        &["up", "--provider", "docker"],
        &["loadBalancer.vip: something already answers at 192.168.56.10"],
    );
}

#[test]
fn a_network_that_this_computer_has_elsewhere_is_refused() {
    let user = User::with_docker();
    user.program("ip", "echo 10.0.0.0/8 dev vpn0 scope link");
    user.file("network: {machines: 10.9.0.0/24}");
    user.is_refused(
        &["up", "--provider", "docker"],
        &["network.machines: 10.9.0.0/24 overlaps 10.0.0.0/8", "vpn0"],
    );
}

#[test]
fn a_second_up_is_refused_while_one_runs() {
    let user = User::with_docker();
    let root = user.made(&ClusterConfig::default());
    let _running = Lock::take(&root.join("lock"), "up").unwrap();
    let process = format!("process {}", std::process::id());
    let parts = ["another kdiy is already working on this cluster", "`kdiy up`", &process];
    user.is_refused(&["up", "--provider", "auto"], &parts);
    user.is_refused(&["destroy", "--yes"], &parts);
}

#[test]
fn another_topology_under_the_same_name_is_refused() {
    let user = User::with_docker();
    user.made(&ClusterConfig::default());
    user.is_refused(
        &["up", "--masters", "1", "--lb", "dedicated"],
        &[
            "the cluster kdiy already exists with another topology",
            "masters: was 3, now 1",
            "loadBalancer.mode: was stacked, now dedicated",
            "kdiy destroy --name kdiy",
        ],
    );
}

#[test]
fn without_a_file_a_cluster_stays_what_it_was_made_with() {
    let user = User::with_docker();
    let made = ClusterConfig {
        provider: ProviderChoice::Docker,
        masters: 1,
        slow_machines: 2,
        ..ClusterConfig::default()
    };
    user.made(&made);
    let shown = |arguments: &[&str]| -> serde_json::Value {
        let run = user.kdiy(&["config", "show", "--output", "json"]).args(arguments).assert();
        serde_json::from_slice(&run.success().get_output().stdout).unwrap()
    };
    let shape = |arguments: &[&str]| {
        let config = shown(arguments);
        ["provider", "masters", "workers", "slowMachines"].map(|key| config[key].to_string())
    };
    assert_eq!(shape(&[]), ["\"docker\"", "1", "2", "2"]);
    assert_eq!(shape(&["--workers", "3"]), ["\"docker\"", "1", "3", "2"]);
    assert_eq!(shape(&["--name", "other"]), ["\"auto\"", "3", "2", "1"]);
    user.file("masters: 1\n");
    assert_eq!(shape(&[]), ["\"docker\"", "1", "2", "1"]);
}

#[test]
fn whether_masters_take_pods_stays_as_it_was_when_a_cluster_was_made() {
    let shown = |user: &User, arguments: &[&str]| -> serde_json::Value {
        let run = user.kdiy(&["config", "show", "--output", "json"]).args(arguments).assert();
        let config: serde_json::Value =
            serde_json::from_slice(&run.success().get_output().stdout).unwrap();
        config["controlPlane"]["schedulable"].clone()
    };
    let user = User::with_docker();
    assert_eq!(shown(&user, &[]), false);
    assert_eq!(shown(&user, &["--workers", "0"]), true);
    user.made(&ClusterConfig { workers: 0, ..ClusterConfig::default() });
    assert_eq!(shown(&user, &["--workers", "1"]), true, "a first worker comes");
    user.file("workers: 1\n");
    assert_eq!(shown(&user, &[]), true, "a first worker comes, by the file");
    user.file("workers: 1\ncontrolPlane: {schedulable: false}\n");
    assert_eq!(shown(&user, &[]), false, "what is said counts");
}

/// Neither is a new one made, nor anything else done.
#[test]
fn a_cluster_without_its_keys_is_left_as_it_is() {
    let user = User::with_docker();
    let docker = ClusterConfig { provider: ProviderChoice::Docker, ..ClusterConfig::default() };
    let root = user.made(&docker);
    let file = root.join("pki/secrets.json");
    let secrets = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let provider = ["--provider", "docker"];
    let remove = ["remove", "worker-1", "--yes"];
    for arguments in [&[&["up"], &provider[..]].concat()[..], &["plan"], &remove] {
        user.is_refused(arguments, &["secrets.json is missing", "/etc/kubernetes/encryption.yaml"]);
    }
    fs::write(&file, secrets).unwrap();
    fs::copy(root.join("pki/etcd-ca.key"), root.join("pki/kubernetes-ca.key")).unwrap();
    user.is_refused(&["plan"], &["kubernetes-ca.key differs from", "every master has both"]);
}

#[test]
fn only_workers_are_taken_out() {
    let user = User::with_docker();
    user.made(&ClusterConfig::default());
    user.is_refused(&["up", "--workers", "1"], &["workers: was 2, now 1", "`kdiy remove`"]);
    user.is_refused(&["remove", "master-3", "--yes"], &["kdiy-master-3 is not a worker"]);
    user.is_refused(&["remove", "worker-3", "--yes"], &["there is no machine worker-3"]);
}

#[test]
fn commands_on_a_cluster_that_is_not_there_say_which_there_are() {
    let user = User::with_docker();
    let missing = "this computer has no cluster kdiy";
    user.is_refused(&["kubectl", "--", "get", "nodes"], &[missing, "`kdiy up` creates one"]);
    user.made(&ClusterConfig { name: "homelab".into(), ..ClusterConfig::default() });
    for arguments in [&["kubeconfig"][..], &["kubeconfig", "--merge"], &["ssh", "master-1"]] {
        user.is_refused(arguments, &[missing, "the clusters are homelab; set --name"]);
    }
    user.is_refused(
        &["ssh", "--name", "homelab", "mastre-1"],
        &["there is no machine mastre-1", "did you mean `homelab-master-1`?"],
    );
}

#[test]
fn a_cluster_keeps_its_version_where_the_file_names_none() {
    let user = User::with_docker();
    user.made(&ClusterConfig { kubernetes: "1.35.4".into(), ..ClusterConfig::default() });
    let shown = |file: &str| {
        fs::write(user.path("work/cluster.yaml"), file).unwrap();
        let run = user.kdiy(&["config", "show", "--output", "json"]).assert().success();
        let config: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
        config["kubernetes"].as_str().unwrap().to_owned()
    };
    assert_eq!(shown("workers: 1\n"), "1.35.4");
    assert_eq!(shown("kubernetes: 1.36.4\n"), "1.36.4");
}

#[test]
fn playbooks_are_not_left_out_because_nobody_named_them() {
    let user = User::with_docker();
    let root = user.made(&ClusterConfig::default());
    let mut record: Record =
        serde_json::from_slice(&fs::read(root.join("cluster.json")).unwrap()).unwrap();
    let mine = user.path("work/mine");
    record.playbooks = Some(mine.clone());
    fs::write(root.join("cluster.json"), serde_json::to_vec(&record).unwrap()).unwrap();
    let gone =
        format!("was created with the playbooks in {}, which does not exist", mine.display());
    for arguments in [&["plan"][..], &["up"], &["status"], &["kubectl"], &["verify"]] {
        user.is_refused(arguments, &[&gone, "--playbooks none"]);
    }
    fs::create_dir_all(mine.join("75-mine")).unwrap();
    let book = "title: Mine\nwhy: w\nsteps:\n- {name: mine, title: t, why: w, on: all}\n";
    fs::write(mine.join("75-mine/playbook.yaml"), book).unwrap();
    let listed = |arguments: &[&str]| {
        let run = user.kdiy(arguments).assert().success();
        String::from_utf8_lossy(&run.get_output().stdout).contains("mine")
    };
    assert!(listed(&["explain"]));
    assert!(!listed(&["explain", "--playbooks", "none"]));
}

#[test]
fn a_users_own_kubeconfig_stays_what_it_is() {
    let user = User::with_docker();
    let root = user.made(&ClusterConfig { name: "bug".into(), ..ClusterConfig::default() });
    let own = "clusters:\n- name: bug\n  cluster: {server: 'https://10.0.0.2:6443', \
               certificate-authority-data: QUJD}\nusers:\n- name: admin@bug\n  user: \
               {client-key-data: REVG}\ncontexts: []\ncurrent-context: admin@bug\n";
    fs::write(root.join("kubeconfig"), own).unwrap();
    // Kept elsewhere, with comments, and an entry of this name for another cluster.
    let theirs = "# my own comment\nclusters:\n- name: bug\n  cluster: {server: \
                  \"https://10.0.0.9:6443\"}\nusers:\n- name: old\n  user: {token: t}\n\
                  contexts:\n- name: old\n  context: {cluster: bug, user: old}\n\
                  current-context: old\n";
    for directory in ["dotfiles", ".kube"] {
        fs::create_dir(user.path(directory)).unwrap();
    }
    fs::write(user.path("dotfiles/config"), theirs).unwrap();
    std::os::unix::fs::symlink("../dotfiles/config", user.path(".kube/config")).unwrap();
    let merge = ["kubeconfig", "--name", "bug", "--merge"];
    let run = user.kdiy(&merge).assert().success();
    let said = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(said.contains("names this one kdiy-bug there"), "{said}");
    assert!(fs::symlink_metadata(user.path(".kube/config")).unwrap().is_symlink());
    let merged = fs::read_to_string(user.path("dotfiles/config")).unwrap();
    for line in theirs.lines().filter(|line| !line.starts_with("current-context")) {
        assert!(merged.lines().any(|other| other == line), "`{line}` is gone from\n{merged}");
    }
    assert!(merged.contains("current-context: admin@kdiy-bug"), "{merged}");
    user.kdiy(&merge).assert().success();
    assert_eq!(fs::read_to_string(user.path("dotfiles/config")).unwrap(), merged);

    // A relative path is one from here, whatever directory `destroy` is run in.
    user.kdiy(&merge).env("KUBECONFIG", "missing:mine").assert().success();
    let ledger = fs::read_to_string(root.join("ledger.json")).unwrap();
    assert!(ledger.contains(&user.path("work/mine").display().to_string()), "{ledger}");
}

#[test]
fn a_password_is_kept_from_the_programs_that_are_started() {
    let user = User::with(&[]);
    user.program("ssh", "export -p >\"$HOME/environment\"");
    let mut doctor = user.kdiy(&["doctor"]);
    let run =
        doctor.env("KDIY_SUDO_PASSWORD", "hunter22").env("XDG_RUNTIME_DIR", user.path("work"));
    run.output().unwrap();
    let environment = fs::read_to_string(user.path("environment")).unwrap();
    assert!(environment.contains("PATH") && !environment.contains("hunter22"), "{environment}");
    let left = fs::read_dir(user.path("work")).unwrap().count();
    assert_eq!(left, 0, "the password is left in a file");
}

#[test]
fn without_somebody_to_ask_destroy_removes_nothing() {
    let user = User::with_docker();
    let root = user.made(&ClusterConfig::default());
    // The lock is taken before the question; its file is all that comes to be.
    fs::write(root.join("lock"), "").unwrap();
    fs::set_permissions(root.join("lock"), fs::Permissions::from_mode(0o600)).unwrap();
    user.is_refused(&["destroy"], &["kdiy has no terminal to ask for confirmation", "--yes"]);
}

/// The ledger of a cluster of machines that existed before.
const HOSTS: &str = r#"[{"what": "host", "id": "nuc1", "provider": "existing", "since": "2026-01-01T00:00:00Z"},
    {"what": "host", "id": "pi1", "provider": "existing", "since": "2026-01-01T00:00:00Z"}]"#;

#[test]
fn without_a_record_destroy_keeps_what_still_leads_to_machines() {
    for record in [None, Some("{\"kdiy\": ")] {
        let user = User::with_docker();
        let root = user.made(&ClusterConfig::default());
        fs::write(root.join("ledger.json"), HOSTS).unwrap();
        fs::write(root.join("lock"), "").unwrap();
        fs::set_permissions(root.join("lock"), fs::Permissions::from_mode(0o600)).unwrap();
        match record {
            Some(text) => fs::write(root.join("cluster.json"), text).unwrap(),
            None => fs::remove_file(root.join("cluster.json")).unwrap(),
        }
        let forget = "kdiy destroy --name kdiy --forget nuc1 --forget pi1";
        user.is_refused(&["destroy", "--yes"], &["how to reach nuc1, pi1", "backup", forget]);
        // What it says can be done as it stands.
        let words: Vec<&str> = forget.split(' ').skip(1).chain(["--yes"]).collect();
        user.kdiy(&words).assert().success();
        assert!(!root.exists());
    }
}

#[test]
fn keys_whose_machines_nobody_knows_are_kept() {
    let user = User::with_docker();
    let root = user.made(&ClusterConfig::default());
    for file in ["lock", "cluster.json"] {
        fs::write(root.join(file), "").unwrap();
        fs::set_permissions(root.join(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    user.is_refused(&["destroy", "--yes"], &["has the keys of a cluster", "backup", "rm -r"]);
    // Nothing was ever made.
    fs::remove_dir_all(root.join("pki")).unwrap();
    user.kdiy(&["destroy", "--yes"]).assert().success();
    assert!(!root.exists());
}

#[test]
fn machines_of_docker_are_found_without_record_and_ledger() {
    let user = User::with_docker();
    let root = user.made(&ClusterConfig::default());
    fs::remove_file(root.join("cluster.json")).unwrap();
    let gone = user.path("gone");
    user.program(
        "docker",
        &format!(
            "case \"$*\" in
              'ps -aq --filter label=dev.kdiy.state={state}') [ -e {gone} ] || echo 1 ;;
              'ps -a --no-trunc --filter'*) [ -e {gone} ] || printf 'kdiy-master-1\\trunning\\t1\\n' ;;
              'rm --force --volumes kdiy-master-1') : >{gone} ;;
              'network ls --filter'*) echo kdiy-kdiy ;;
              'network rm kdiy-kdiy') : >{gone}-network ;;
            esac",
            state = root.display(),
            gone = gone.display(),
        ),
    );
    user.kdiy(&["destroy", "--yes"]).assert().success();
    assert!(gone.exists() && user.path("gone-network").exists() && !root.exists());
}

#[test]
fn an_existing_cluster_file_is_not_overwritten() {
    let user = User::new();
    user.file("masters: 1\n");
    user.is_refused(&["config", "init"], &["cluster.yaml already exists", "--force"]);
    assert_eq!(fs::read_to_string(user.path("work/cluster.yaml")).unwrap(), "masters: 1\n");
}

#[test]
fn errors_are_json_where_json_is_asked_for() {
    let user = User::with_docker();
    let run = user.kdiy(&["up", "--masters", "4", "--output", "json"]).assert().code(1);
    let document: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert_eq!(document["error"]["kind"], "input");
    assert_eq!(document["error"]["what"], "masters: 4 is even");
    assert!(document["error"]["hints"][0].as_str().unwrap().contains("quorum"), "{document}");
}

#[test]
fn arguments_that_are_none_are_refused_with_what_was_meant() {
    let user = User::new();
    for (arguments, part) in [
        (&["destory"][..], "'destroy'"),
        (&["up", "--mastres", "3"], "'--masters'"),
        (&["up", "--etcd", "externl"], "write stacked, external or external:N"),
        (&["up", "--provider", "dokcer"], "'docker'"),
    ] {
        let run = user.kdiy(arguments).assert().code(2);
        let said = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(said.contains(part), "{arguments:?}: no `{part}` in\n{said}");
    }
    assert!(user.state().is_empty());
}

#[test]
fn plan_of_a_cluster_never_begun_shows_it_whole_and_changes_nothing() {
    let user = User::with_docker();
    let flags = ["plan", "--provider", "docker", "--masters", "1", "--workers", "1"];
    let output = user.kdiy(&flags).assert().code(2).get_output().stdout.clone();
    let text = String::from_utf8(output).unwrap();
    for part in ["create kdiy-master-1", "etcd.service", "2 machines", "nothing was changed"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert!(user.state().is_empty(), "{:?}", user.state().keys());
    assert!(!user.path("cache").exists());
}

#[test]
fn plan_in_another_directory_says_that_it_is_about_a_new_cluster() {
    let user = User::with_docker();
    let provider = ProviderChoice::Docker;
    let flags = ["plan", "--provider", "docker", "--masters", "1", "--workers", "0"];
    let said = |arguments: &[&str]| {
        let run = user.kdiy(arguments).assert().code(2);
        String::from_utf8(run.get_output().stderr.clone()).unwrap()
    };
    assert!(!said(&flags).contains("has no cluster.yaml"));
    let config = ClusterConfig { name: "home".into(), provider, masters: 1, ..Default::default() };
    user.made(&config);
    let noted = said(&flags);
    for part in ["has no cluster.yaml", "a new cluster, kdiy", "the clusters home", "--name"] {
        assert!(noted.contains(part), "no `{part}` in {noted}");
    }
    assert!(!said(&[&flags[..], &["--name", "kdiy"]].concat()).contains("has no cluster.yaml"));
}

#[test]
fn plan_of_machines_that_do_not_answer_says_so_and_changes_nothing() {
    let user = User::with_docker();
    let provider = ProviderChoice::Docker;
    user.made(&ClusterConfig { provider, masters: 1, workers: 0, ..ClusterConfig::default() });
    let before = user.state();
    let output = user
        .kdiy(&["plan", "--provider", "docker", "--masters", "1", "--workers", "0"])
        .assert()
        .code(2)
        .get_output()
        .stdout
        .clone();
    let text = String::from_utf8(output).unwrap();
    assert!(text.contains("kdiy-master-1  does not answer"), "{text}");
    assert_eq!(user.state(), before);
}

#[test]
fn plan_of_an_unknown_step_names_the_one_that_was_meant() {
    let user = User::with_docker();
    let arguments = ["plan", "--provider", "docker", "--show", "etdc"];
    user.is_refused(&arguments, &["no step `etdc`", "did you mean `etcd`?"]);
}

#[test]
fn init_writes_what_its_flags_say_and_asks_nothing_without_a_terminal() {
    let user = User::with_docker();
    let run = user
        .kdiy(&["init", "--purpose", "serious", "--lb", "dedicated:2", "--storage", "none"])
        .assert()
        .success();
    let text = fs::read_to_string(user.path("work/cluster.yaml")).unwrap();
    for part in ["masters: 5", "  mode: dedicated", "addons: []", "# Machines that run workloads"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    let said = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    assert!(said.contains("wrote cluster.yaml; check the file, then run: kdiy up"), "{said}");
    user.kdiy(&["config", "show"]).assert().success();
    user.is_refused(&["init", "--yes"], &["cluster.yaml already exists", "--force"]);
    user.kdiy(&["init", "--yes", "--force"]).assert().success();
    let text = fs::read_to_string(user.path("work/cluster.yaml")).unwrap();
    assert!(text.contains("masters: 3\n"), "{text}");
}

#[test]
fn init_takes_machines_that_exist_and_refuses_what_makes_no_cluster() {
    let user = User::with_docker();
    let hosts = |user: &User, roles: &[&str]| {
        let hosts = roles.iter().enumerate();
        let flags = hosts.flat_map(|(n, role)| ["--host".into(), format!("{role}:me@10.0.0.{n}")]);
        user.kdiy(&["init", "home.yaml"]).args(flags.collect::<Vec<String>>()).assert()
    };
    let refused = hosts(&user, &["master", "master"]).code(1);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("masters: 2 is even"), "{said}");
    assert!(!user.path("work/home.yaml").exists());
    hosts(&user, &["master", "worker"]).success();
    let text = fs::read_to_string(user.path("work/home.yaml")).unwrap();
    for part in [
        "provider: existing",
        "masters: 1",
        "workers: 1",
        "- {role: worker, address: \"10.0.0.1\", ssh: {user: me}}",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn doctor_says_what_is_missing_and_ends_with_an_error_then() {
    let bare = User::with(&[]);
    let run = bare.kdiy(&["doctor", "--output", "json"]).assert().code(1);
    let checks: Vec<serde_json::Value> = serde_json::from_slice(&run.get_output().stdout).unwrap();
    let state = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        check.unwrap_or_else(|| panic!("no {name}"))["state"].as_str().unwrap()
    };
    assert_eq!(
        (state("vagrant"), state("a provider"), state("ssh")),
        ("missing", "missing", "fine")
    );
    let all_mended = checks.iter().all(|it| it["state"] == "fine" || it["mend"].is_string());
    assert!(all_mended, "{checks:?}");

    let user = User::with_docker();
    user.program("vagrant", "echo Vagrant 2.4.9");
    // Two containers: one of a cluster that is there, one whose state directory is gone.
    let root = user.made(&ClusterConfig::default());
    let listed = format!("kdiy-master-1\\t{}\\nold-master-1\\t/gone/old\\n", root.display());
    user.program("docker", &format!("case \"$*\" in *ps*) printf '{listed}';; esac"));
    let run = user.kdiy(&["doctor"]).assert().success();
    let said = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    for part in ["2.4.9", "docker rm -f -v old-master-1", "can create clusters"] {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
    assert!(!said.contains("rm -f -v kdiy-master-1"), "{said}");
}

#[test]
fn doctor_mends_with_the_package_manager_after_asking() {
    let user = User::with(&[]);
    let note = user.path("installed");
    user.program("apt-get", &format!("echo \"$*\" >> {}", note.display()));
    user.is_refused(
        &["doctor", "--fix"],
        &["apt-get install -y vagrant", "kdiy has no terminal to ask for confirmation"],
    );
    assert!(!note.exists());
    user.kdiy(&["doctor", "--fix", "--yes"]).assert().code(1);
    let installed = fs::read_to_string(&note).unwrap();
    assert!(installed.contains("install -y vagrant\n"), "{installed}");
    assert!(installed.contains("vagrant-libvirt"), "the first provider: {installed}");
}

#[test]
fn clusters_and_logs_are_listed() {
    let user = User::with_docker();
    let nothing = user.kdiy(&["list"]).assert().success();
    assert!(
        String::from_utf8_lossy(&nothing.get_output().stdout)
            .contains("this computer manages no cluster")
    );
    let root = user.made(&ClusterConfig::default());
    fs::write(root.join("logs/kdiy-master-1.log"), "one\ntwo\nthree\n").unwrap();
    let run = user.kdiy(&["list", "--output", "json"]).assert().success();
    let listed: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert_eq!(listed[0]["name"], "kdiy");
    assert_eq!(listed[0]["machines"], 5);
    assert_eq!(listed[0]["api"], "https://192.168.56.10:8443");
    user.kdiy(&["logs", "master-1", "-n", "2"]).assert().success().stdout("two\nthree\n");
    user.is_refused(&["logs", "master-2"], &["kdiy-master-2 has no log yet"]);
}

#[test]
fn shells_and_man_get_what_they_want() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish"] {
        let run = user.kdiy(&["completions", shell]).assert().success();
        let script = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
        assert!(script.contains("kubeconfig"), "{shell}: {script}");
    }
    user.kdiy(&["man", "pages"]).assert().success();
    let page = fs::read_to_string(user.path("work/pages/kdiy-up.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("masters"), "{page}");
    assert!(!user.path("work/pages/kdiy-demo.1").exists(), "hidden commands have no page");
}

#[test]
fn the_display_plays_without_making_anything() {
    let user = User::new();
    let run = user.kdiy(&["demo", "--faster", "1000"]).assert().success();
    let said = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(said.contains("✔ etcd: 1 check passed"), "{said}");
    assert!(said.contains("kdiy created nothing"), "{said}");
    assert!(user.state().is_empty());
}

#[test]
fn only_an_unknown_step_is_refused_before_anything_is_made() {
    let user = User::with_docker();
    let arguments = ["up", "--provider", "docker", "--only", "machines,etdc"];
    user.is_refused(&arguments, &["no step `etdc`", "did you mean `etcd`?"]);
}

#[test]
fn explain_of_something_unknown_names_what_was_meant() {
    let user = User::new();
    user.is_refused(&["explain", "qorum"], &["no topic or step `qorum`", "did you mean `quorum`?"]);
    let said = user.kdiy(&["explain", "quorum"]).assert().success().get_output().stdout.clone();
    assert!(String::from_utf8(said).unwrap().contains("kdiy-master-3"));
}

#[test]
fn the_guide_changes_nothing_and_holds_no_secret() {
    let user = User::with_docker();
    let arguments = ["guide", "--provider", "docker", "--out", "guide.html", "--html"];
    user.kdiy(&arguments).assert().success();
    let guide = fs::read_to_string(user.path("work/guide.html")).unwrap();
    assert!(guide.contains("<h2") && guide.contains("openssl req -x509"));
    assert!(!guide.contains("PRIVATE KEY"));
    assert!(user.state().is_empty(), "{:?}", user.state().keys());
}
