//! Arguments. No logic.

mod examples;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::flags::{EtcdFlag, HostFlag, LbFlag, UpFlags};
use crate::config::{Cni, ProviderChoice};
use crate::reports::preview::graph::Notation;
use crate::ui::Format;

/// A highly available Kubernetes cluster, the hard way and in the open.
///
/// Examples:
///   kdiy up                            3 masters, 2 workers
///   kdiy up --masters 1 --workers 1    the smallest that teaches something
///   kdiy kubectl -- get nodes
///   kdiy destroy
#[derive(Debug, Parser)]
#[command(name = "kdiy", version, verbatim_doc_comment)]
pub struct Cli {
    /// How to say what happens
    #[arg(long, global = true, value_enum, default_value_t)]
    pub output: Format,
    /// Show the machines' own output as well
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// Playbooks laid over the built-in ones
    #[arg(long, global = true, value_name = "DIR")]
    pub playbooks: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the cluster, or make it right again
    #[command(after_help = examples::UP)]
    Up(Box<Up>),
    Plan(Box<Plan>),
    Start(Start),
    Stop(Stop),
    Remove(Remove),
    Explain(Explain),
    Guide(Box<Guide>),
    /// Take the cluster away without a trace
    #[command(after_help = examples::DESTROY)]
    Destroy(Destroy),
    /// How the cluster is: machines, etcd, api, leases, nodes, DNS, certificates, drift
    #[command(after_help = STATUS_HELP)]
    Status(Status),
    /// Ask what one should ask before building a cluster, and write a commented cluster file
    #[command(after_help = examples::INIT)]
    Init(Box<Init>),
    /// Look at this computer: what is missing, and the command that mends it
    #[command(after_help = examples::DOCTOR)]
    Doctor(Doctor),
    /// Break something on purpose, measure what comes of it, and mend it
    #[command(after_help = examples::DRILL)]
    Drill(Drill),
    /// Prove the whole cluster again, and try out what people do with one
    #[command(after_help = examples::VERIFY)]
    Verify(Verify),
    /// The cluster file: write one, its schema, what is in force
    #[command(subcommand, after_help = examples::CONFIG)]
    Config(Config),
    /// Print the kubeconfig, or merge it into yours
    #[command(after_help = examples::KUBECONFIG)]
    Kubeconfig(Kubeconfig),
    /// Run kubectl against the cluster
    #[command(after_help = examples::KUBECTL)]
    Kubectl(Passed),
    /// Log in to a machine, or run a command there
    #[command(after_help = examples::SSH)]
    Ssh(Ssh),
    Preflight(Box<Preflight>),
    /// Where the time of a run went
    #[command(after_help = examples::TIMINGS)]
    Timings(Timings),
    /// Hold the live cluster against the CIS Kubernetes Benchmark
    ///
    /// Looks at the flags of running processes, at files and their modes, at the kubelets' settings
    /// in force and at what the api allows and refuses. Changes nothing. Ends with 1 when something
    /// fails that is not waived; each waiver is shown with its reason.
    #[command(after_help = CIS_EXAMPLES)]
    Cis(Cis),
    /// The clusters of this computer
    #[command(after_help = examples::LIST)]
    List,
    /// What a machine said while kdiy worked on it
    #[command(after_help = examples::LOGS)]
    Logs(Logs),
    /// Print the completions of a shell
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
    /// Play the display of an `up` that does not happen
    #[command(hide = true)]
    Demo(Box<Demo>),
}

const PARALLEL: u16 = 32;

#[derive(Debug, clap::Args)]
pub struct Up {
    #[command(flatten)]
    pub flags: UpFlags,
    /// Steps that change machines at the same time
    #[arg(long, value_name = "N", default_value_t = PARALLEL)]
    pub parallel: u16,
    /// Only these steps, with commas between them; `machines` makes machines and installs nothing
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Restart etcd and api-servers even where the cluster cannot spare them
    #[arg(long)]
    pub beyond_quorum: bool,
    /// Draw where the time went, as one HTML page [default FILE: kdiy-timings.html]
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "kdiy-timings.html"
    )]
    pub timings: Option<PathBuf>,
    /// Do not ask
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

/// Show what `up` would do, and why; changes nothing
///
/// Takes the flags of `up`. A cluster that was never begun is drawn on paper; one that was begun
/// is looked at. Ends with 2 when there is something to do, with 0 when there is nothing.
///
/// Examples:
///   kdiy plan                                what the next `up` would change
///   kdiy plan --masters 1 --workers 1 --full  a whole install, with what is in every file
///   kdiy plan --show etcd                    the files and the script of one step
///   kdiy plan --graph mermaid                what waits for what
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Plan {
    #[command(flatten)]
    pub flags: UpFlags,
    /// Print the steps and what they wait for as a graph
    #[arg(long, value_enum, conflicts_with_all = ["show", "full"])]
    pub graph: Option<Notation>,
    /// Print the files and the script of one step as they go to each machine
    #[arg(long, value_name = "STEP", conflicts_with = "full")]
    pub show: Option<String>,
    /// Each machine on its own, with what is in new files
    #[arg(long)]
    pub full: bool,
}

/// Explain a step of the install, or how a part of the cluster works
///
/// Told with the machines of the cluster of this name, or with an example when there is none.
/// Each has the commands that do it by hand, and something to break.
///
/// Examples:
///   kdiy explain                   what can be explained
///   kdiy explain quorum            which machines of this cluster may fail
///   kdiy explain etcd              every file and flag of a step, and why
///   kdiy explain etcd --markdown   the same, to keep
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Explain {
    #[command(flatten)]
    pub which: Which,
    /// A topic or a step; without one, the list of them
    #[arg(value_name = "TOPIC|STEP")]
    pub what: Option<String>,
    /// Markdown, also on a terminal
    #[arg(long)]
    pub markdown: bool,
}

/// Write the runbook: the whole cluster by hand, for this cluster's machines
///
/// One document with every file, every command in order, every check, and the reasons. It needs
/// no kdiy and holds no secret: you make keys of your own. Takes the flags of `up`.
///
/// Examples:
///   kdiy guide --masters 3 --workers 2 --out by-hand.md
///   kdiy guide --html --out by-hand.html
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Guide {
    #[command(flatten)]
    pub flags: UpFlags,
    /// One HTML document that needs nothing else, instead of Markdown
    #[arg(long)]
    pub html: bool,
    /// Write it there instead of printing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Look whether machines that exist can become the cluster; changes nothing.
///
/// Examples:
///   kdiy preflight                      the machines of ./cluster.yaml
///   kdiy preflight --config homelab.yaml --output json
///
/// Exit status: 0 when nothing is in the way, 1 when something is.
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

/// Switch machines on, and prove the cluster again
///
/// Changes nothing on the machines: what was installed starts by itself.
///
/// Examples:
///   kdiy start              the whole cluster
///   kdiy start worker-2     one machine
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Start {
    #[command(flatten)]
    pub which: Which,
    /// Only these, with or without the cluster's name: kdiy-worker-1 or worker-1
    pub machines: Vec<String>,
}

/// Switch machines off, so that nothing is lost
///
/// Workers go first and etcd last. Some machines of a cluster are switched off only if the others
/// can do without them.
///
/// Examples:
///   kdiy stop               the whole cluster
///   kdiy stop worker-2      one machine
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Stop {
    #[command(flatten)]
    pub which: Which,
    /// Only these, with or without the cluster's name: kdiy-worker-1 or worker-1
    pub machines: Vec<String>,
    /// Also if the cluster stops answering without them
    #[arg(long)]
    pub beyond_quorum: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Take a worker out of the cluster, and its machine away
///
/// Its pods are moved to other machines first. The others keep their names, addresses and pods'
/// networks. `kdiy up --workers N` adds workers.
///
/// Examples:
///   kdiy remove worker-2           of a cluster with three workers; worker-3 stays worker-3
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Remove {
    #[command(flatten)]
    pub which: Which,
    /// With or without the cluster's name: kdiy-worker-3 or worker-3
    pub machine: String,
    /// Also when something is lost with it: pods that nobody starts anew, volumes on its disk; and a
    /// machine that exists without kdiy and no longer answers is left as it is
    #[arg(long)]
    pub force: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, clap::Args)]
pub struct Destroy {
    #[command(flatten)]
    pub which: Which,
    /// Give up on a machine that exists without kdiy and no longer answers; may be repeated
    #[arg(long, value_name = "MACHINE")]
    pub forget: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

const STATUS_HELP: &str = "\
Exit code: 0 healthy, 3 degraded, 4 down (1: it could not be looked at)

Examples:
  kdiy status
  kdiy status --watch                            live, until q or Ctrl-C
  kdiy --output json status | jq .etcd.mayLoseNow";

#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    pub which: Which,
    /// Keep looking, on a screen of its own; without a terminal one look after the other
    #[arg(long, short)]
    pub watch: bool,
    /// Seconds between the beginnings of two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub every: u64,
}

#[derive(Debug, clap::Args)]
pub struct Drill {
    #[command(flatten)]
    pub which: Which,
    /// What to break: a name that `kdiy drill list` shows, or `all`
    #[arg(required_unless_present = "undo", conflicts_with = "undo")]
    pub drill: Option<String>,
    /// Mend what an earlier drill left broken
    #[arg(long)]
    pub undo: bool,
    /// The machine to hit, where there is a choice
    #[arg(long, value_name = "MACHINE", conflicts_with = "undo")]
    pub on: Option<String>,
    /// Stop it cleanly instead of killing it
    #[arg(long, conflicts_with = "undo")]
    pub graceful: bool,
    /// Break one more than the cluster can lose, to see what that looks like
    #[arg(long, conflicts_with = "undo")]
    pub beyond_quorum: bool,
    /// Write the report to this file as well, as Markdown
    #[arg(long, value_name = "FILE", conflicts_with = "undo")]
    pub report: Option<PathBuf>,
    /// Do not count down; given twice, do not ask about --beyond-quorum either
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub yes: u8,
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    pub which: Which,
    /// Also the behaviour that Kubernetes promises: Jobs, StatefulSets, quotas, RBAC and more
    #[arg(long)]
    pub deep: bool,
    /// Write a report: all forms into a directory, or one by its ending .md, .json or .xml
    #[arg(long, value_name = "PATH")]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Write a commented cluster file to start from
    #[command(after_help = examples::CONFIG_INIT)]
    Init {
        #[arg(default_value = "cluster.yaml")]
        path: PathBuf,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Print the JSON schema of the cluster file, for editors
    #[command(after_help = examples::CONFIG_SCHEMA)]
    Schema {
        /// Of playbooks instead
        #[arg(long)]
        playbook: bool,
    },
    /// Print the cluster file with every default and flag in it
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
    /// The run: the beginning of its journal's name [default: the last one that did something]
    pub run: Option<String>,
    /// Draw it as one HTML page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

const CIS_EXAMPLES: &str = "\
Examples:
  kdiy cis                   what fails, what is waived and why, what is left to you
  kdiy cis --all             what passes as well
  kdiy --output json cis     for a script";

#[derive(Debug, clap::Args)]
pub struct Cis {
    #[command(flatten)]
    pub which: Which,
    /// Show what passes as well
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, clap::Args)]
pub struct Logs {
    #[command(flatten)]
    pub which: Which,
    /// The machine, with or without the cluster's name, or `vagrant`; absent: list the logs
    pub machine: Option<String>,
    /// How many of the last lines
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    pub lines: usize,
}

/// Each question of the wizard has its flag; what is given is not asked.
#[derive(Debug, clap::Args)]
pub struct Init {
    /// The file to write
    #[arg(default_value = crate::operations::request::DEFAULT_FILE)]
    pub path: PathBuf,
    /// What the cluster is for; decides what is proposed for the rest
    #[arg(long, value_enum)]
    pub purpose: Option<Purpose>,
    /// Where machines come from
    #[arg(long, value_enum)]
    pub provider: Option<ProviderChoice>,
    /// A machine that exists, as ROLE:[USER@]ADDRESS; once for each
    #[arg(long, value_name = "HOST", conflicts_with_all = ["may_fail", "workers"])]
    pub host: Vec<HostFlag>,
    /// How many masters may fail at the same time: 0 to 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=3))]
    pub may_fail: Option<u32>,
    /// Machines that run workloads only
    #[arg(long, value_name = "M")]
    pub workers: Option<u32>,
    /// etcd on the masters or on machines of its own: stacked, external or external:N
    #[arg(long, value_name = "TOPOLOGY")]
    pub etcd: Option<EtcdFlag>,
    /// In front of the api-servers: stacked, dedicated, dedicated:N, external:HOST:PORT or none
    #[arg(long, value_name = "MODE")]
    pub lb: Option<LbFlag>,
    /// Where volumes live
    #[arg(long, value_enum)]
    pub storage: Option<Storage>,
    /// How pods of different machines reach each other
    #[arg(long, value_enum)]
    pub cni: Option<Cni>,
    /// Name of the cluster
    #[arg(long)]
    pub name: Option<String>,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    /// Ask nothing: take what the purpose proposes
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
    /// Install what the package manager can, after asking
    #[arg(long)]
    pub fix: bool,
    /// Do not ask
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
    /// How many times as fast as life
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub faster: f64,
}
