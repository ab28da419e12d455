//! Arguments. No logic.

mod examples;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::flags::{EtcdFlag, HostFlag, LbFlag, UpFlags};
use crate::config::{Cni, ProviderChoice};
use crate::reports::preview::graph::Notation;
use crate::ui::Format;

/// Build a highly available Kubernetes cluster the hard way, and show every step.
///
/// Examples:
///   kdiy up                            3 masters, 2 workers
///   kdiy up --masters 1 --workers 1    the smallest cluster worth learning on
///   kdiy kubectl -- get nodes
///   kdiy destroy
#[derive(Debug, Parser)]
#[command(name = "kdiy", version, long_version = env!("KDIY_VERSION"), verbatim_doc_comment)]
pub struct Cli {
    /// Output format
    #[arg(long, global = true, value_enum, default_value_t)]
    pub output: Format,
    /// Also print the output of the commands that run on the machines
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// Directory of playbooks that override the built-in ones
    #[arg(long, global = true, value_name = "DIR")]
    pub playbooks: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or repair the cluster
    #[command(after_help = examples::UP)]
    Up(Box<Up>),
    Plan(Box<Plan>),
    Start(Start),
    Stop(Stop),
    Remove(Remove),
    Explain(Explain),
    Guide(Box<Guide>),
    /// Remove the cluster and everything that kdiy created for it
    #[command(after_help = examples::DESTROY)]
    Destroy(Destroy),
    /// Show the health of machines, etcd, the API, leases, Nodes, DNS and certificates, and drift
    #[command(after_help = STATUS_HELP)]
    Status(Status),
    /// Interview you about the cluster you want and write a commented cluster file
    #[command(after_help = examples::INIT)]
    Init(Box<Init>),
    /// Check this computer, and show the command that installs what is missing
    #[command(after_help = examples::DOCTOR)]
    Doctor(Doctor),
    /// Cause a failure on purpose, measure the recovery, and repair it
    #[command(after_help = examples::DRILL)]
    Drill(Drill),
    /// Run every gate again, and test what users do with a cluster
    #[command(after_help = examples::VERIFY)]
    Verify(Verify),
    /// Write a cluster file, print its schema, or print the settings in effect
    #[command(subcommand, after_help = examples::CONFIG)]
    Config(Config),
    /// Print the kubeconfig, or merge it into your own
    #[command(after_help = examples::KUBECONFIG)]
    Kubeconfig(Kubeconfig),
    /// Run kubectl against the cluster
    #[command(after_help = examples::KUBECTL)]
    Kubectl(Passed),
    /// Log in to a machine over SSH, or run a command on it
    #[command(after_help = examples::SSH)]
    Ssh(Ssh),
    Preflight(Box<Preflight>),
    /// Show how long the steps of a run took, and its critical path
    #[command(after_help = examples::TIMINGS)]
    Timings(Timings),
    /// Check the running cluster against the CIS Kubernetes Benchmark
    ///
    /// Checks the flags of running processes, files and their modes, the kubelets' settings in
    /// effect, and what the API allows and refuses. Changes nothing. Exits with 1 if a check fails
    /// that is not waived; each waiver is shown with its reason.
    #[command(after_help = CIS_EXAMPLES)]
    Cis(Cis),
    /// List the clusters that this computer manages
    #[command(after_help = examples::LIST)]
    List,
    /// Show a machine's log
    #[command(after_help = examples::LOGS)]
    Logs(Logs),
    /// Print the completion script of a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write a man page for each command
    #[command(hide = true)]
    Man {
        directory: PathBuf,
    },
    /// Show the display of a simulated `up`
    #[command(hide = true)]
    Demo(Box<Demo>),
}

const PARALLEL: u16 = 32;

#[derive(Debug, clap::Args)]
pub struct Up {
    #[command(flatten)]
    pub flags: UpFlags,
    /// How many steps may change machines at the same time
    #[arg(long, value_name = "N", default_value_t = PARALLEL)]
    pub parallel: u16,
    /// Run only these steps, separated by commas; `machines` creates machines and installs nothing
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Restart etcd and API servers even if the cluster loses its quorum or its API
    #[arg(long)]
    pub beyond_quorum: bool,
    /// Write a timeline of the run as one HTML page [default FILE: kdiy-timings.html]
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "kdiy-timings.html"
    )]
    pub timings: Option<PathBuf>,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
}

impl Up {
    /// The arguments of a run whose cluster is not described by flags.
    pub fn again() -> Self {
        Self {
            flags: UpFlags::default(),
            parallel: PARALLEL,
            only: Vec::new(),
            beyond_quorum: false,
            timings: None,
            yes: true,
        }
    }
}

/// Show what `up` would change, and why; changes nothing
///
/// Takes the flags of `up`. If the cluster exists, `plan` reads the state of its machines; if it
/// does not, `plan` shows the whole installation. Exits with 2 when `up` would change something,
/// with 0 when nothing would change.
///
/// Examples:
///   kdiy plan                                what the next `up` would change
///   kdiy plan --masters 1 --workers 1 --full  a whole installation, with the content of every file
///   kdiy plan --show etcd                    the files and the script of one step
///   kdiy plan --graph mermaid                the dependencies between steps
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Plan {
    #[command(flatten)]
    pub flags: UpFlags,
    /// Print the steps and their dependencies as a graph
    #[arg(long, value_enum, conflicts_with_all = ["show", "full"])]
    pub graph: Option<Notation>,
    /// Print the files and the script of one step, as each machine gets them
    #[arg(long, value_name = "STEP", conflicts_with = "full")]
    pub show: Option<String>,
    /// Show each machine separately, with the content of new files
    #[arg(long)]
    pub full: bool,
}

/// Explain a step of the installation, or how a part of the cluster works
///
/// Uses the machines of the cluster with this name, or an example if there is none. Each text has
/// the commands that do the same by hand, and an exercise that breaks something.
///
/// Examples:
///   kdiy explain                   list the topics and the steps
///   kdiy explain quorum            which machines of this cluster may fail
///   kdiy explain etcd              every file and flag of a step, and why
///   kdiy explain etcd --markdown   the same as Markdown
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Explain {
    #[command(flatten)]
    pub which: Which,
    /// A topic or a step; without it, kdiy lists them
    #[arg(value_name = "TOPIC|STEP")]
    pub what: Option<String>,
    /// Print Markdown even on a terminal
    #[arg(long)]
    pub markdown: bool,
}

/// Write a runbook that builds this cluster by hand
///
/// One document with every file, every command in order, every check, and the reasons. You can
/// follow it without kdiy. It contains no secret: you generate your own keys. Takes the flags of
/// `up`.
///
/// Examples:
///   kdiy guide --masters 3 --workers 2 --out by-hand.md
///   kdiy guide --html --out by-hand.html
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Guide {
    #[command(flatten)]
    pub flags: UpFlags,
    /// Write one self-contained HTML page instead of Markdown
    #[arg(long)]
    pub html: bool,
    /// Write the guide to this file instead of printing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Check whether existing machines can become the cluster; changes nothing
///
/// Examples:
///   kdiy preflight                      the machines of ./cluster.yaml
///   kdiy preflight --config homelab.yaml --output json
///
/// Exit status: 0 when there is no problem, 1 when there is one.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Preflight {
    #[command(flatten)]
    pub flags: UpFlags,
}

#[derive(Debug, clap::Args)]
pub struct Which {
    /// Name of the cluster
    #[arg(long, default_value = "kdiy")]
    pub name: String,
}

/// Power on machines, and check the cluster with every gate
///
/// Changes nothing on the machines: systemd starts the cluster's units.
///
/// Examples:
///   kdiy start              the whole cluster
///   kdiy start worker-2     one machine
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Start {
    #[command(flatten)]
    pub which: Which,
    /// Only these machines, with or without the cluster's name: kdiy-worker-1 or worker-1
    pub machines: Vec<String>,
}

/// Shut down machines in an order that loses no data
///
/// Shuts down workers first and etcd last. If you name machines, kdiy shuts them down only if the
/// others keep the quorum and the API.
///
/// Examples:
///   kdiy stop               the whole cluster
///   kdiy stop worker-2      one machine
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Stop {
    #[command(flatten)]
    pub which: Which,
    /// Only these machines, with or without the cluster's name: kdiy-worker-1 or worker-1
    pub machines: Vec<String>,
    /// Shut them down even if the cluster loses its quorum or its API
    #[arg(long)]
    pub beyond_quorum: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
}

/// Drain a worker, remove it from the cluster, and delete its machine
///
/// The other workers keep their names, addresses and pod networks. `kdiy up --workers N` adds
/// workers.
///
/// Examples:
///   kdiy remove worker-2           worker-3 keeps its name
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Remove {
    #[command(flatten)]
    pub which: Which,
    /// The worker, with or without the cluster's name: kdiy-worker-3 or worker-3
    pub machine: String,
    /// Remove it even if data is lost: pods without a controller, volumes on its disk. An existing
    /// machine that does not answer stays as it is
    #[arg(long)]
    pub force: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, clap::Args)]
pub struct Destroy {
    #[command(flatten)]
    pub which: Which,
    /// Leave an existing machine that does not answer as it is; may be repeated
    #[arg(long, value_name = "MACHINE")]
    pub forget: Vec<String>,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
}

const STATUS_HELP: &str = "\
Exit code: 0 healthy, 3 degraded, 4 down (1: the check itself failed)

Examples:
  kdiy status
  kdiy status --watch                            live, until q or Ctrl-C
  kdiy --output json status | jq .etcd.mayLoseNow";

#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    pub which: Which,
    /// Refresh continuously, full-screen on a terminal
    #[arg(long, short)]
    pub watch: bool,
    /// Seconds between the starts of two refreshes
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub every: u64,
}

#[derive(Debug, clap::Args)]
pub struct Drill {
    #[command(flatten)]
    pub which: Which,
    /// The drill: a name that `kdiy drill list` shows, or `all`
    #[arg(required_unless_present = "undo", conflicts_with = "undo")]
    pub drill: Option<String>,
    /// Repair what an interrupted drill left broken
    #[arg(long)]
    pub undo: bool,
    /// The machine to break, if the drill allows a choice
    #[arg(long, value_name = "MACHINE", conflicts_with = "undo")]
    pub on: Option<String>,
    /// Stop the program cleanly instead of killing it
    #[arg(long, conflicts_with = "undo")]
    pub graceful: bool,
    /// Break one more than the cluster tolerates, and watch the loss of the quorum
    #[arg(long, conflicts_with = "undo")]
    pub beyond_quorum: bool,
    /// Also write the report to this file, as Markdown
    #[arg(long, value_name = "FILE", conflicts_with = "undo")]
    pub report: Option<PathBuf>,
    /// Skip the countdown; given twice, also skip the question about --beyond-quorum
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub yes: u8,
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    pub which: Which,
    /// Also test Jobs, StatefulSets, quotas, RBAC and other features of Kubernetes
    #[arg(long)]
    pub deep: bool,
    /// Write a report: one file (.md, .json or .xml), or all three into a directory
    #[arg(long, value_name = "PATH")]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Write a commented cluster file
    #[command(after_help = examples::CONFIG_INIT)]
    Init {
        #[arg(default_value = "cluster.yaml")]
        path: PathBuf,
        /// Overwrite an existing file
        #[arg(long)]
        force: bool,
    },
    /// Print the JSON schema of the cluster file, for editors
    #[command(after_help = examples::CONFIG_SCHEMA)]
    Schema {
        /// Print the schema of playbooks instead
        #[arg(long)]
        playbook: bool,
    },
    /// Print the cluster file with all defaults and flags applied
    #[command(after_help = examples::CONFIG_SHOW)]
    Show(Box<UpFlags>),
}

#[derive(Debug, clap::Args)]
pub struct Kubeconfig {
    #[command(flatten)]
    pub which: Which,
    /// Merge it into ~/.kube/config ($KUBECONFIG) instead of printing it
    #[arg(long)]
    pub merge: bool,
}

#[derive(Debug, clap::Args)]
pub struct Passed {
    #[command(flatten)]
    pub which: Which,
    /// kubectl's own arguments, after --
    #[arg(last = true)]
    pub arguments: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Ssh {
    #[command(flatten)]
    pub which: Which,
    /// The machine, with or without the cluster's name: kdiy-master-1 or master-1
    pub machine: String,
    /// The command, after --
    #[arg(last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Timings {
    #[command(flatten)]
    pub which: Which,
    /// The run, as the beginning of its journal's name [default: the last run that changed something]
    pub run: Option<String>,
    /// Write a timeline as one HTML page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

const CIS_EXAMPLES: &str = "\
Examples:
  kdiy cis                   failed and waived checks, and those to do by hand
  kdiy cis --all             passed checks as well
  kdiy --output json cis     for scripts";

#[derive(Debug, clap::Args)]
pub struct Cis {
    #[command(flatten)]
    pub which: Which,
    /// Also show the checks that pass
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, clap::Args)]
pub struct Logs {
    #[command(flatten)]
    pub which: Which,
    /// The machine, with or without the cluster's name, or `vagrant`; without it, kdiy lists the logs
    pub machine: Option<String>,
    /// How many lines to show, from the end
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    pub lines: usize,
}

/// Each question has a flag; kdiy does not ask what a flag answers.
#[derive(Debug, clap::Args)]
pub struct Init {
    /// The file to write
    #[arg(default_value = crate::operations::request::DEFAULT_FILE)]
    pub path: PathBuf,
    /// What the cluster is for; sets the defaults of the other questions
    #[arg(long, value_enum)]
    pub purpose: Option<Purpose>,
    /// What creates the machines
    #[arg(long, value_enum)]
    pub provider: Option<ProviderChoice>,
    /// An existing machine, as ROLE:[USER@]ADDRESS; may be repeated
    #[arg(long, value_name = "HOST", conflicts_with_all = ["may_fail", "workers"])]
    pub host: Vec<HostFlag>,
    /// How many masters may fail at the same time: 0 to 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=3))]
    pub may_fail: Option<u32>,
    /// Number of workers
    #[arg(long, value_name = "M")]
    pub workers: Option<u32>,
    /// etcd on the masters or on separate machines: stacked, external or external:N
    #[arg(long, value_name = "TOPOLOGY")]
    pub etcd: Option<EtcdFlag>,
    /// Load balancer of the API: stacked, dedicated, dedicated:N, external:HOST:PORT or none
    #[arg(long, value_name = "MODE")]
    pub lb: Option<LbFlag>,
    /// Storage for volumes
    #[arg(long, value_enum)]
    pub storage: Option<Storage>,
    /// Pod network
    #[arg(long, value_enum)]
    pub cni: Option<Cni>,
    /// Name of the cluster
    #[arg(long)]
    pub name: Option<String>,
    /// Overwrite an existing file
    #[arg(long)]
    pub force: bool,
    /// Ask nothing, and use the defaults of the purpose
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Purpose {
    Learning,
    Homelab,
    Serious,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Storage {
    LocalPath,
    None,
}

#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Install what is missing with the package manager, after asking
    #[arg(long)]
    pub fix: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, clap::Args)]
pub struct Demo {
    #[command(flatten)]
    pub flags: UpFlags,
    /// Speed, as a multiple of real time
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub faster: f64,
}
