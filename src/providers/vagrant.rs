//! Driving Vagrant, and the providers that make virtual machines with it.

pub mod check;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::config::{ClusterConfig, ProviderChoice};
use crate::playbook::template::Templates;
use crate::providers::{Finding, Provider, Resource, host, ssh_keys};
use crate::state::ledger::{Ledger, ResourceKind};
use crate::state::{StateDir, atomic, lock};
use crate::support::event::Events;
use crate::support::failure::{Failure, Result};
use crate::topology::{Machine, Topology, architecture};
use crate::transport::target::{Root, SshTarget};

const VAGRANTFILE: &str = include_str!("../../vagrant/Vagrantfile.hbs");
const BOXES: &str = include_str!("../../vagrant/boxes.yaml");

/// A Vagrant that a killed run left at work ends within this: it may still be fetching a box.
const LEFT_ENDS_WITHIN: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(250);
const TAIL: usize = 20;

/// A directory with a Vagrantfile.
pub struct Vagrant {
    state: StateDir,
    pub provider: &'static str,
}

impl Vagrant {
    pub fn new(provider: &'static str, state: &StateDir) -> Self {
        Self { state: state.clone(), provider }
    }

    /// Writes the Vagrantfile for a topology. `extra` are the provider's own variables.
    pub fn write(&self, topology: &Topology, config: &ClusterConfig, extra: Value) -> Result<()> {
        let text = render(self.provider, topology, config, extra)?;
        atomic::private_directory(&self.state.vagrant())?;
        atomic::write(&self.state.vagrant().join("Vagrantfile"), text.as_bytes(), 0o600)
    }

    pub fn written(&self) -> bool {
        self.state.vagrant().join("Vagrantfile").exists()
    }

    /// Vagrant knows a machine by this file.
    pub fn knows(&self, machine: &str) -> bool {
        self.machine_directory(machine).join("id").exists()
    }

    pub fn machine_directory(&self, machine: &str) -> PathBuf {
        self.state.vagrant().join(".vagrant/machines").join(machine).join(self.provider)
    }

    fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let directory = self.state.vagrant();
        let mut variables = vec![
            ("VAGRANT_CWD", directory.clone()),
            ("VAGRANT_DOTFILE_PATH", directory.join(".vagrant")),
            ("VAGRANT_CHECKPOINT_DISABLE", "1".into()),
        ];
        if self.provider == "docker" {
            // Containers need neither boxes nor plugins, and so leave nothing in ~/.vagrant.d.
            variables.push(("VAGRANT_HOME", directory.join("home")));
            variables.push(("VAGRANT_NO_PLUGINS", "1".into()));
        }
        variables
    }

    /// Tells Vagrant about a machine that it made and forgot: it was cut off in between.
    pub fn adopt(&self, machine: &str, id: &str) -> Result<()> {
        let directory = self.machine_directory(machine);
        atomic::private_directory(&directory)?;
        atomic::write(&directory.join("id"), id.as_bytes(), 0o600)
    }

    /// Waits until no Vagrant is at work here. One outlives a kdiy that is killed, and goes on to
    /// make the machines that it was told to make.
    pub async fn alone(&self, events: &Events, task: &str) -> Result<File> {
        atomic::private_directory(&self.state.vagrant())?;
        alone(&self.state.vagrant().join("at-work"), LEFT_ENDS_WITHIN, events, task).await
    }

    /// The opposite of [`Vagrant::adopt`].
    pub fn forget(&self, machine: &str) -> Result<()> {
        let id = self.machine_directory(machine).join("id");
        match std::fs::remove_file(&id) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::host(format!("cannot remove {}", id.display())).because(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether a machine has power, as its provider says. One that is late to answer may be on.
    async fn has_power(&self, machine: &str, events: &Events, task: &str) -> Result<bool> {
        let lines = self.told("--machine-readable", &["status", machine], events, task).await?;
        power(&lines, machine).ok_or_else(|| {
            Failure::host(format!("vagrant does not report whether {machine} is on"))
                .tail(lines)
                .log(self.state.machine_log("vagrant"))
        })
    }

    /// Runs Vagrant to its end. Its output goes to the log, line by line to the events, and its
    /// last lines into the failure.
    pub async fn run(&self, arguments: &[&str], events: &Events, task: &str) -> Result<()> {
        // Without it Vagrant draws bars, which in a log are one endless line.
        self.told("--no-tty", arguments, events, task).await.map(drop)
    }

    /// The last lines, at most [`TAIL`], of what Vagrant says, in one of the ways that it knows: of
    /// several that it is given, it takes one.
    async fn told(
        &self,
        way: &str,
        arguments: &[&str],
        events: &Events,
        task: &str,
    ) -> Result<Vec<String>> {
        let at_work = self.alone(events, task).await?;
        let log_path = self.state.machine_log("vagrant");
        let mut log =
            tokio::fs::OpenOptions::new().create(true).append(true).open(&log_path).await.map_err(
                |error| {
                    Failure::host(format!("cannot write {}", log_path.display())).because(error)
                },
            )?;
        let mut child = Command::new("vagrant")
            .arg(way)
            .args(arguments)
            .current_dir(self.state.vagrant())
            .envs(self.environment())
            .env_remove("VAGRANT_NO_PARALLEL")
            .env_remove("VAGRANT_VAGRANTFILE")
            // An empty file, whose lock is Vagrant's for as long as it has it open.
            .stdin(Stdio::from(at_work))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for kdiy, which lets Vagrant finish.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                Failure::host("cannot run vagrant")
                    .because(error)
                    .hint("install it: apt-get install vagrant, or developer.hashicorp.com/vagrant")
            })?;
        let mut tail: Vec<String> = Vec::new();
        let mut out = child.stdout.take().map(|stream| BufReader::new(stream).lines());
        let mut err = child.stderr.take().map(|stream| BufReader::new(stream).lines());
        while out.is_some() || err.is_some() {
            let line = tokio::select! {
                line = next(&mut out), if out.is_some() => line,
                line = next(&mut err), if err.is_some() => line,
            };
            let Some(line) = line else { continue };
            // A log that cannot be written must not stop what it is about.
            let _ = log.write_all(format!("{line}\n").as_bytes()).await;
            let line = line.trim_start_matches("==> ").trim();
            if !line.is_empty() {
                events.progress(task, line);
                tail.push(line.to_owned());
                if tail.len() > TAIL {
                    tail.remove(0);
                }
            }
        }
        let status = child
            .wait()
            .await
            .map_err(|error| Failure::host("lost the vagrant process").because(error))?;
        if status.success() {
            return Ok(tail);
        }
        Err(Failure::host(format!("vagrant {} failed", arguments.join(" ")))
            .tail(tail)
            .log(log_path)
            .hint("run the same command again; it keeps the machines that exist"))
    }
}

/// Reads `vagrant status --machine-readable`: time, machine, "state", and its short name, which is
/// the provider's. Of these, a machine that is on has one of two.
fn power(lines: &[String], machine: &str) -> Option<bool> {
    let state = lines.iter().find_map(|line| {
        let mut fields = line.split(',').skip(1);
        let is_asked = fields.next()? == machine && fields.next()? == "state";
        is_asked.then(|| fields.next()).flatten()
    })?;
    Some(matches!(state, "running" | "paused"))
}

/// The lock of this file, as soon as whoever has it lets go.
async fn alone(path: &Path, limit: Duration, events: &Events, task: &str) -> Result<File> {
    let failed =
        |error| Failure::host(format!("cannot use the lock {}", path.display())).because(error);
    let file = lock::open(path).map_err(failed)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if began.elapsed() >= limit => {
                return Err(Failure::host("Vagrant is still running for a run that was killed")
                    .cause(format!("{} s have passed", limit.as_secs()))
                    .hint("wait until it is done, or find and stop it: pgrep -af vagrant"));
            }
            Err(TryLockError::WouldBlock) => {
                events.progress(task, "waiting for the Vagrant of a run that was killed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

type Lines<T> = tokio::io::Lines<BufReader<T>>;

/// The next line; at the end of the stream the stream is dropped.
async fn next<T: tokio::io::AsyncRead + Unpin>(stream: &mut Option<Lines<T>>) -> Option<String> {
    let line = match stream {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => None,
    };
    if line.is_none() {
        *stream = None;
    }
    line
}

fn render(
    provider: &'static str,
    topology: &Topology,
    config: &ClusterConfig,
    extra: Value,
) -> Result<String> {
    let mut context = json!({
        "cluster": topology.cluster,
        "machines": topology.machines,
        "netmask": topology.machine_network.netmask(),
        "network": network_name(topology),
        // Vagrant's own default is 300 s; emulated machines take minutes.
        "bootTimeout": 300 * config.slow_machines,
        // Long enough for units that take their 90 s (DefaultTimeoutStopSec) to stop.
        "haltTimeout": 100 * config.slow_machines,
        "box": "",
        "image": "",
        "createArgs": [],
        "privateKey": "",
        "emulated": false,
    });
    for known in ["docker", "virtualbox", "libvirt", "vmware_desktop", "parallels"] {
        context[known] = (known == provider).into();
    }
    if let (Value::Object(context), Value::Object(extra)) = (&mut context, extra) {
        context.extend(extra);
    }
    Templates::new().render("vagrant/Vagrantfile.hbs", VAGRANTFILE, &context)
}

/// As Vagrant and the cluster file spell it.
pub const fn spelled(choice: ProviderChoice) -> &'static str {
    match choice {
        ProviderChoice::Auto => "auto",
        ProviderChoice::Libvirt => "libvirt",
        ProviderChoice::Virtualbox => "virtualbox",
        ProviderChoice::VmwareDesktop => "vmware_desktop",
        ProviderChoice::Parallels => "parallels",
        ProviderChoice::Docker => "docker",
        ProviderChoice::Existing => "existing",
    }
}

/// For providers whose networks have names of our choosing.
pub fn network_name(topology: &Topology) -> String {
    format!("kdiy-{}", topology.cluster)
}

/// Real virtual machines.
pub struct Virtual {
    vagrant: Vagrant,
    choice: ProviderChoice,
    config: ClusterConfig,
    state: StateDir,
}

impl Virtual {
    pub fn new(choice: ProviderChoice, config: &ClusterConfig, state: &StateDir) -> Self {
        Self {
            vagrant: Vagrant::new(spelled(choice), state),
            choice,
            config: config.clone(),
            state: state.clone(),
        }
    }

    /// Removes what Vagrant left, with the provider's own tool.
    async fn remove(&self, owned: &Resource) -> Result<()> {
        let mut last = Ok(());
        for command in self.removal(&owned.id, owned.what) {
            let [program, arguments @ ..] = command.as_slice() else { continue };
            // Stopping fails on what does not run, which is no reason to keep it.
            last = host::ask(program, arguments).await.map(drop);
        }
        last
    }

    /// The commands that stop a thing and then remove it; none where only Vagrant can.
    fn removal<'a>(&self, id: &'a str, what: ResourceKind) -> Vec<Vec<&'a str>> {
        let virsh = |arguments: &[&'a str]| [&VIRSH, arguments, &[id]].concat();
        match self.choice {
            ProviderChoice::Libvirt if what == ResourceKind::Network => {
                vec![virsh(&["net-destroy"]), virsh(&["net-undefine"])]
            }
            ProviderChoice::Libvirt => vec![
                virsh(&["destroy"]),
                virsh(&[
                    "undefine",
                    "--remove-all-storage",
                    "--managed-save",
                    "--snapshots-metadata",
                    "--nvram",
                ]),
            ],
            ProviderChoice::Virtualbox => vec![
                vec!["VBoxManage", "controlvm", id, "poweroff"],
                vec!["VBoxManage", "unregistervm", id, "--delete"],
            ],
            ProviderChoice::Parallels => {
                vec![vec!["prlctl", "stop", id, "--kill"], vec!["prlctl", "delete", id]]
            }
            // vmrun knows a machine by its file only, which lies in Vagrant's directory.
            _ => Vec::new(),
        }
    }

    async fn listed(&self) -> Result<Listed> {
        let machines = match self.choice {
            ProviderChoice::Virtualbox => host::ask("VBoxManage", &["list", "vms"]).await?,
            ProviderChoice::VmwareDesktop => host::ask("vmrun", &["list"]).await?,
            ProviderChoice::Parallels => host::ask("prlctl", &["list", "--all"]).await?,
            _ => virsh(&["list", "--all", "--name"]).await?,
        };
        let networks = match self.choice {
            ProviderChoice::Libvirt => virsh(&["net-list", "--all", "--name"]).await?,
            _ => String::new(),
        };
        Ok(Listed { machines, networks })
    }

    fn vagrant_box(&self) -> Result<String> {
        if let Some(own) = &self.config.machines.r#box {
            return Ok(own.clone());
        }
        default_box(self.vagrant.provider, architecture::HERE)
    }
}

/// The box that is known to exist for a provider, as Vagrant spells it.
pub fn default_box(provider: &str, arch: &str) -> Result<String> {
    let boxes: std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>> =
        serde_saphyr::from_str(BOXES)
            .map_err(|error| Failure::bug("vagrant/boxes.yaml").because(error))?;
    boxes.get(provider).and_then(|by_arch| by_arch.get(arch)).cloned().ok_or_else(|| {
        Failure::host(format!("kdiy knows no box for {provider} on {arch}"))
            .hint("set one with machines.box (--box), or use another provider")
    })
}

#[async_trait]
impl Provider for Virtual {
    fn name(&self) -> &'static str {
        self.vagrant.provider
    }

    async fn check_host(&self, topology: &Topology) -> Vec<Finding> {
        self.findings(topology).await
    }

    fn makes(&self, topology: &Topology) -> Vec<Resource> {
        let machines = topology
            .machines
            .iter()
            .map(|machine| Resource { what: ResourceKind::Machine, id: machine.name.clone() });
        // The others name their networks themselves, or share them.
        let network = (self.choice == ProviderChoice::Libvirt)
            .then(|| Resource { what: ResourceKind::Network, id: network_name(topology) });
        machines.chain(network).collect()
    }

    async fn up(
        &self,
        topology: &Topology,
        wanted: &[&Machine],
        events: &Events,
        task: &str,
    ) -> Result<Vec<String>> {
        drop(self.vagrant.alone(events, task).await?);
        let emulated = host::emulated(self.choice);
        let extra = json!({"box": self.vagrant_box()?, "emulated": emulated});
        self.vagrant.write(topology, &self.config, extra)?;
        let (there, new): (Vec<&Machine>, Vec<&Machine>) =
            wanted.iter().partition(|machine| self.vagrant.knows(&machine.name));
        let addresses: Vec<_> = new.iter().map(|machine| machine.address).collect();
        ssh_keys::forget(&self.state, &addresses).await?;
        let off = silent(&there).await;
        let mut touched: Vec<String> =
            new.iter().map(|machine| format!("created {}", machine.name)).collect();
        touched.extend(off.iter().map(|machine| format!("started {}", machine.name)));
        if touched.is_empty() {
            return Ok(touched);
        }
        let mut arguments = vec!["up", "--provider", self.vagrant.provider];
        arguments.extend(new.iter().chain(&off).map(|machine| machine.name.as_str()));
        self.vagrant.run(&arguments, events, task).await?;
        Ok(touched)
    }

    async fn stop(&self, machine: &Machine, events: &Events, task: &str) -> Result<Vec<String>> {
        if !self.vagrant.knows(&machine.name)
            || !(host::answers(machine.address).await
                || self.vagrant.has_power(&machine.name, events, task).await?)
        {
            return Ok(Vec::new());
        }
        self.vagrant.run(&["halt", &machine.name], events, task).await?;
        if self.vagrant.has_power(&machine.name, events, task).await? {
            return Err(
                Failure::host("vagrant halt succeeded, but it is still on").on(&machine.name)
            );
        }
        Ok(vec![format!("stopped {}", machine.name)])
    }

    fn ssh_target(&self, topology: &Topology, machine: &str) -> Result<SshTarget> {
        let mut target = direct(topology, machine, &self.state, self.config.slow_machines)?;
        target.keys = vec![self.vagrant.machine_directory(machine).join("private_key")];
        Ok(target)
    }

    async fn power_off(&self, machine: &str, events: &Events) -> Result<()> {
        self.vagrant.run(&["halt", "--force", machine], events, "power").await
    }

    async fn power_on(&self, machine: &str, events: &Events) -> Result<()> {
        self.vagrant.run(&["up", "--no-provision", machine], events, "power").await
    }

    async fn remove(
        &self,
        _: &Topology,
        machine: &Machine,
        events: &Events,
        task: &str,
    ) -> Result<()> {
        self.vagrant.run(&["destroy", "--force", &machine.name], events, task).await
    }

    async fn destroy(&self, _: &Topology, ledger: &Ledger, events: &Events) -> Result<()> {
        if self.vagrant.written()
            && !ledger.entries().is_empty()
            && let Err(failure) = self.vagrant.run(&["destroy", "--force"], events, "destroy").await
        {
            events.note(format!("continuing without Vagrant: {}", failure.what));
        }
        for owned in self.leftovers(ledger).await? {
            self.remove(&owned).await?;
        }
        Ok(())
    }

    async fn leftovers(&self, ledger: &Ledger) -> Result<Vec<Resource>> {
        let listed = self.listed().await?;
        Ok(ledger
            .entries()
            .iter()
            .filter(|entry| listed.has(entry.what, &entry.id))
            .map(|entry| Resource { what: entry.what, id: entry.id.clone() })
            .collect())
    }
}

/// What a provider has, as it lists it.
struct Listed {
    machines: String,
    networks: String,
}

impl Listed {
    fn has(&self, what: ResourceKind, id: &str) -> bool {
        match what {
            ResourceKind::Machine => lists(&self.machines, id),
            ResourceKind::Network => lists(&self.networks, id),
            ResourceKind::Host | ResourceKind::Image | ResourceKind::Kubeconfig => false,
        }
    }
}

const VIRSH: [&str; 4] = ["virsh", "-q", "-c", "qemu:///system"];

async fn virsh(arguments: &[&str]) -> Result<String> {
    let [program, options @ ..] = VIRSH;
    host::ask(program, &[&options, arguments].concat()).await
}

/// Whether a provider's list has this very name: alone on its line, in quotes, as a column, or as
/// a part of a path. `kdiy-worker-1` is not in a list that has `kdiy-worker-10`.
fn lists(listed: &str, name: &str) -> bool {
    listed
        .split(|letter: char| letter.is_whitespace() || matches!(letter, '"' | '/'))
        .any(|word| word == name || word.strip_suffix(".vmx") == Some(name))
}

/// Those that do not answer.
async fn silent<'a>(machines: &[&'a Machine]) -> Vec<&'a Machine> {
    let asked = machines
        .iter()
        .map(|machine| async move { (!host::answers(machine.address).await).then_some(*machine) });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// Of the machines that Vagrant makes (sshd_config(5), `Port`).
const SSH_PORT: u16 = 22;

/// Straight to the machine's address on the cluster network.
pub fn direct(
    topology: &Topology,
    machine: &str,
    state: &StateDir,
    slow_machines: u32,
) -> Result<SshTarget> {
    let address = topology
        .machine(machine)
        .map(|machine| machine.address)
        .ok_or_else(|| Failure::input(format!("there is no machine {machine}")))?;
    Ok(SshTarget {
        machine: machine.to_owned(),
        host: address.to_string(),
        port: None,
        user: Some("vagrant".into()),
        keys: vec![ssh_keys::private(state)],
        known_hosts: Some(ssh_keys::known_hosts(state)),
        accept_new_host_key: true,
        config_file: Some(ssh_keys::settings(state)),
        jump: None,
        knock_at: Some((address, SSH_PORT).into()),
        slow_machines,
        root: Root::Sudo,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_has_a_vagrantfile_and_a_box() {
        let config = ClusterConfig::default();
        let topology = Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap();
        for provider in ["virtualbox", "libvirt", "vmware_desktop", "parallels"] {
            let vagrant_box =
                default_box(provider, "amd64").or_else(|_| default_box(provider, "arm64")).unwrap();
            let text = render(provider, &topology, &config, json!({"box": vagrant_box})).unwrap();
            assert!(text.contains(&format!("node.vm.provider \"{provider}\"")), "{text}");
            assert!(text.contains("192.168.56.13"), "{text}");
            assert!(!text.contains("provider \"docker\""), "{text}");
        }
    }

    #[tokio::test]
    async fn a_vagrant_that_outlived_its_run_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("at-work");
        let (events, _reader) = Events::channel();
        let alone = |limit| alone(&path, limit, &events, "make");
        let at_work = alone(Duration::ZERO).await.unwrap();
        let mut left = Command::new("sleep").arg("1").stdin(Stdio::from(at_work)).spawn().unwrap();
        let late = alone(Duration::ZERO).await.unwrap_err();
        assert!(late.what.contains("still running"), "{late}");
        alone(LEFT_ENDS_WITHIN).await.unwrap();
        assert!(left.try_wait().unwrap().is_some(), "it was not waited for");
    }

    #[test]
    fn a_machine_is_on_when_its_provider_says_so() {
        let say = |state: &str| {
            [
                "1764400000,m-1,metadata,provider,libvirt".to_owned(),
                "1764400000,m-1,provider-name,libvirt".into(),
                format!("1764400000,m-1,state,{state}"),
                format!("1764400000,m-1,state-human-short,{state}"),
            ]
        };
        assert_eq!(power(&say("running"), "m-1"), Some(true));
        assert_eq!(power(&say("paused"), "m-1"), Some(true));
        // libvirt's, VirtualBox's, and one of both.
        for off in ["shutoff", "poweroff", "not_created"] {
            assert_eq!(power(&say(off), "m-1"), Some(false), "{off}");
        }
        assert_eq!(power(&say("running"), "m-2"), None);
    }

    #[test]
    fn a_name_is_not_found_in_a_longer_one() {
        assert!(!lists("kdiy-worker-10\n", "kdiy-worker-1"));
        assert!(lists("\"kdiy-worker-1\" {a-b-c}\n", "kdiy-worker-1"));
        assert!(lists(" kdiy-worker-1 \n", "kdiy-worker-1"));
    }

    #[test]
    fn a_box_cannot_bring_ruby_code() {
        let config = ClusterConfig::default();
        let topology = Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap();
        let render = |name: &str| render("libvirt", &topology, &config, json!({"box": name}));
        let text = render("x'; `id` #{1} \\").unwrap();
        assert!(text.contains(r"config.vm.box = 'x\'; `id` #{1} \\'"), "{text}");
        assert!(render("x\nsystem('id')").is_err());
    }

    /// A real libvirt, with a machine that only runs its firmware.
    #[tokio::test]
    #[ignore = "needs libvirt and qemu"]
    async fn domains_and_networks_are_removed_without_vagrant() {
        let directory = tempfile::tempdir().unwrap();
        let define = async |command: &str, start: &str, name: &str, xml: &str| {
            let file = directory.path().join(name);
            std::fs::write(&file, xml).unwrap();
            virsh(&[command, &file.display().to_string()]).await.unwrap();
            virsh(&[start, name]).await.unwrap();
        };
        let network = "<network><name>kdiy-vtest</name>\
            <ip address='192.168.62.1' netmask='255.255.255.0'/></network>";
        define("net-define", "net-start", "kdiy-vtest", network).await;
        let domain = "<domain type='qemu'><name>vtest-master-1</name>\
            <memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>";
        define("define", "start", "vtest-master-1", domain).await;

        let config = ClusterConfig { name: "vtest".into(), masters: 1, ..Default::default() };
        let topology = Topology::build(&config, "192.168.62.0/24".parse().unwrap()).unwrap();
        let state = StateDir::of("vtest").unwrap();
        let libvirt = Virtual::new(ProviderChoice::Libvirt, &config, &state);
        let mut ledger = Ledger::open(directory.path()).unwrap();
        for owned in libvirt.makes(&topology) {
            ledger.add("libvirt", owned.what, &[owned.id]).unwrap();
        }
        assert_eq!(libvirt.leftovers(&ledger).await.unwrap().len(), 2);
        for _ in 0..2 {
            libvirt.destroy(&topology, &ledger, &Events::channel().0).await.unwrap();
            assert_eq!(libvirt.leftovers(&ledger).await.unwrap(), []);
        }
    }

    /// Providers whose tool or plugin is not here are read as far as Vagrant goes without them.
    #[test]
    #[ignore = "needs Vagrant with vagrant-libvirt, libvirt, and a Docker engine"]
    fn vagrant_accepts_every_vagrantfile() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        std::fs::write(&key, "").unwrap();
        let config = ClusterConfig::default();
        let topology = Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap();
        for provider in ["docker", "libvirt", "virtualbox", "vmware_desktop", "parallels"] {
            let extra = json!({
                "box": "a/b", "image": "a", "privateKey": key, "createArgs": ["-v", "/x"],
                "emulated": true,
            });
            let text = render(provider, &topology, &config, extra).unwrap();
            std::fs::write(directory.path().join("Vagrantfile"), text).unwrap();
            let mut vagrant = std::process::Command::new("vagrant");
            vagrant.arg("validate").env("VAGRANT_CWD", directory.path());
            match provider {
                "docker" | "libvirt" => vagrant.env("VAGRANT_DEFAULT_PROVIDER", provider),
                _ => vagrant.arg("--ignore-provider"),
            };
            let output = vagrant.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{provider}: {said}");
        }
    }
}
