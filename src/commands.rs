//! One file a verb.

pub mod cis;
pub mod config;
pub mod demo;
pub mod destroy;
pub mod doctor;
pub mod drill;
pub mod explain;
pub mod guide;
pub mod help;
pub mod init;
pub mod kubeconfig;
pub mod kubectl;
pub mod list;
pub mod logs;
pub mod plan;
pub mod preflight;
pub mod remove;
mod run_context;
pub mod ssh;
pub mod start;
pub mod status;
pub mod stop;
pub mod timings;
pub mod up;
pub mod verify;

use crate::cli::{
    Cis, Cli, Command, Destroy, Drill, Explain, Kubeconfig, Logs, Passed, Remove, Ssh, Start,
    Status, Stop, Timings, Verify,
};
use crate::config::flags::UpFlags;
use crate::config::parse;
use crate::operations::request;
use crate::support::failure::Result;
use crate::topology::{Machine, Topology};
use crate::ui::Ui;

/// The exit code.
pub async fn run(cli: Cli, ui: Ui) -> Result<u8> {
    let cluster = cluster(&cli.command);
    carry_out(cli, ui).await.map_err(|failure| match cluster {
        Some(name) => failure.in_cluster(&name),
        None => failure,
    })
}

/// The name of the cluster that a command is about.
fn cluster(command: &Command) -> Option<String> {
    let flags: &UpFlags = match command {
        Command::Up(it) => &it.flags,
        Command::Plan(it) => &it.flags,
        Command::Demo(it) => &it.flags,
        Command::Preflight(it) => &it.flags,
        Command::Guide(it) => &it.flags,
        Command::Start(Start { which, .. })
        | Command::Stop(Stop { which, .. })
        | Command::Remove(Remove { which, .. })
        | Command::Destroy(Destroy { which, .. })
        | Command::Status(Status { which, .. })
        | Command::Drill(Drill { which, .. })
        | Command::Verify(Verify { which, .. })
        | Command::Kubeconfig(Kubeconfig { which, .. })
        | Command::Kubectl(Passed { which, .. })
        | Command::Cis(Cis { which, .. })
        | Command::Ssh(Ssh { which, .. })
        | Command::Explain(Explain { which, .. })
        | Command::Timings(Timings { which, .. })
        | Command::Logs(Logs { which, .. }) => return Some(which.name.clone()),
        _ => return None,
    };
    let named = flags.name.clone();
    named.or_else(|| {
        request::file(flags).and_then(|file| parse::read(file).ok()).map(|file| file.name)
    })
}

async fn carry_out(cli: Cli, ui: Ui) -> Result<u8> {
    match cli.command {
        Command::Up(arguments) => up::run(*arguments, cli.playbooks.as_deref(), ui).await,
        Command::Plan(arguments) => plan::run(*arguments, cli.playbooks.as_deref(), ui).await,
        Command::Start(arguments) => start::run(arguments, cli.playbooks.as_deref(), ui).await,
        Command::Stop(arguments) => stop::run(arguments, cli.playbooks.as_deref(), ui).await,
        Command::Remove(arguments) => remove::run(arguments, cli.playbooks.as_deref(), ui).await,
        Command::Explain(arguments) => explain::run(&arguments, cli.playbooks.as_deref(), ui),
        Command::Guide(arguments) => guide::run(*arguments, cli.playbooks.as_deref(), ui).await,
        Command::Destroy(arguments) => destroy::run(arguments, ui).await,
        Command::Status(arguments) => status::run(arguments, cli.playbooks.as_deref(), ui).await,
        Command::Init(arguments) => init::run(*arguments, ui).await,
        Command::Doctor(arguments) => doctor::run(arguments, ui).await,
        Command::Drill(arguments) => drill::run(arguments, cli.playbooks.as_deref(), ui).await,
        Command::Verify(arguments) => verify::run(arguments, cli.playbooks.as_deref(), ui).await,
        Command::Config(command) => config::run(command, ui),
        Command::Kubeconfig(arguments) => kubeconfig::run(arguments, ui),
        Command::Kubectl(arguments) => kubectl::run(arguments, cli.playbooks.as_deref(), ui).await,
        Command::Ssh(arguments) => ssh::run(arguments).await,
        Command::Preflight(arguments) => preflight::run(*arguments, ui).await,
        Command::Timings(arguments) => timings::run(arguments, ui),
        Command::Cis(arguments) => cis::run(arguments, cli.playbooks.as_deref(), ui).await,
        Command::List => list::run(ui).await,
        Command::Logs(arguments) => logs::run(arguments, ui),
        Command::Completions { shell } => help::completions(shell, ui),
        Command::Man { directory } => help::man(&directory, ui),
        Command::Demo(arguments) => demo::run(*arguments, cli.playbooks.as_deref(), ui).await,
    }
}

/// The machines that were named, each once; all, when none was.
fn chosen<'a>(topology: &'a Topology, names: &[String]) -> Result<Vec<&'a Machine>> {
    let named: Vec<&Machine> =
        names.iter().map(|name| topology.named(name)).collect::<Result<_>>()?;
    let machines = topology.machines.iter();
    Ok(machines.filter(|machine| named.is_empty() || named.contains(machine)).collect())
}
