//! Real machines by real Vagrant: made, mended, and gone without a trace.
//!
//! Needs Vagrant, a Docker engine (DOCKER_HOST), a machine image (KDIY_TEST_IMAGE) and a
//! directory for state (KDIY_STATE): `cargo test --test machines -- --ignored --nocapture`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kdiy::config::{ClusterConfig, ProviderChoice};
use kdiy::providers::{self, Provider, ssh_keys};
use kdiy::state::StateDir;
use kdiy::state::ledger::Ledger;
use kdiy::support::event::Events;
use kdiy::topology::Topology;
use kdiy::transport::target::SshTarget;

const NAME: &str = "kdiytest";
const NETWORK: &str = "192.168.58.0/24";

fn image() -> String {
    std::env::var("KDIY_TEST_IMAGE").expect("KDIY_TEST_IMAGE")
}

#[expect(clippy::print_stderr, reason = "a test that measures tells what it measured")]
fn report(what: &str, began: Instant) {
    eprintln!("{:6.2}s {what}", began.elapsed().as_secs_f64());
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// What the command says; an error until the machine answers.
fn ssh(target: &SshTarget, command: &str) -> Result<String, String> {
    let output = Command::new("ssh")
        .args(["-F".as_ref(), target.config_file.as_ref().unwrap().as_os_str()])
        .args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"])
        .args(["-o", &option("UserKnownHostsFile", target.known_hosts.as_ref().unwrap())])
        .args(["-i".as_ref(), target.keys[0].as_os_str()])
        .args(["-l", target.user.as_ref().unwrap(), &target.host, command])
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

async fn every_machine_answers(provider: &dyn Provider, topology: &Topology) {
    for machine in &topology.machines {
        let target = provider.ssh_target(topology, &machine.name).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match ssh(&target, "hostname; sudo -n id -u; ip -4 -o addr show") {
                Ok(said) => {
                    assert!(said.starts_with(&format!("{}\n0\n", machine.name)), "{said}");
                    assert!(said.contains(&format!("inet {}/24", machine.address)), "{said}");
                    break;
                }
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", machine.name),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn docker(arguments: &[&str]) {
    assert!(Command::new("docker").args(arguments).output().unwrap().status.success());
}

async fn up(provider: &dyn Provider, topology: &Topology, what: &str) -> Vec<String> {
    let began = Instant::now();
    let wanted: Vec<_> = topology.machines.iter().collect();
    let touched = provider.up(topology, &wanted, &Events::channel().0, "test").await;
    report(&format!("{what}: vagrant is done"), began);
    let touched = touched.unwrap_or_else(|failure| panic!("{failure}"));
    every_machine_answers(provider, topology).await;
    report(&format!("{what}: every machine answered a command, one after the other"), began);
    touched
}

#[tokio::test]
#[ignore = "needs Vagrant, a Docker engine and a machine image"]
async fn containers_are_made_mended_and_gone_without_a_trace() {
    let mut config = ClusterConfig {
        name: NAME.into(),
        provider: ProviderChoice::Docker,
        ..ClusterConfig::default()
    };
    config.machines.image = Some(image());
    let topology = Topology::build(&config, NETWORK.parse().unwrap()).unwrap();
    let state = StateDir::of(NAME).unwrap();
    state.create().unwrap();
    ssh_keys::ensure(&state, false).await.unwrap();
    let provider = providers::provider(&config, &state).await.unwrap();
    let provider = provider.as_ref();
    assert_eq!(provider.check_host(&topology).await, []);
    let mut ledger = Ledger::open(state.root()).unwrap();
    for owned in provider.makes(&topology) {
        ledger.add("docker", owned.what, &[owned.id]).unwrap();
    }

    assert_eq!(up(provider, &topology, "up").await.len(), 5);
    assert_eq!(up(provider, &topology, "up with nothing to do").await, Vec::<String>::new());

    // As a user may leave it, and as a run that was killed at an unlucky moment does: a container
    // that was made and never ran, and one that Vagrant does not know.
    docker(&["rm", "-f", "-v", "kdiytest-master-2"]);
    let label = format!("dev.kdiy.state={}", state.root().display());
    let never_ran = ["create", "--name", "kdiytest-master-2", "--label", &label];
    docker(&[&never_ran[..], &["--entrypoint", "x", &image()]].concat());
    docker(&["stop", "-t", "5", "kdiytest-worker-1"]);
    let id = ".vagrant/machines/kdiytest-worker-1/docker/id";
    std::fs::remove_file(state.vagrant().join(id)).unwrap();
    assert_eq!(
        up(provider, &topology, "up that mends two machines").await,
        ["made kdiytest-master-2", "started kdiytest-worker-1"]
    );

    // Vagrant's own memory of the machines is not needed to remove them.
    std::fs::remove_dir_all(state.vagrant()).unwrap();
    for what in ["destroy", "destroy with nothing left"] {
        let began = Instant::now();
        provider.destroy(&topology, &ledger, &Events::channel().0).await.unwrap();
        report(what, began);
        assert_eq!(provider.leftovers(&ledger).await.unwrap(), []);
    }
    std::fs::remove_dir_all(state.root()).unwrap();
}
