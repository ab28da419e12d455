//! `kdiy doctor [--fix]`: checks this computer, and installs what is missing.

use std::collections::BTreeMap;
use std::process::Stdio;

use owo_colors::OwoColorize;
use tokio::process::Command;

use crate::cli::Doctor;
use crate::providers::host;
use crate::reports::doctor::packages::{Manager, Package};
use crate::reports::doctor::{self, Check, State};
use crate::support::failure::{Failure, Result};
use crate::ui::{Ui, table};

/// What is essential is missing.
const MISSING: u8 = 1;

pub async fn run(arguments: Doctor, ui: Ui) -> Result<u8> {
    let mut checks = doctor::examine().await?;
    if arguments.fix && fix(&checks, arguments.yes, ui).await? {
        checks = doctor::examine().await?;
    }
    ui.result(&render(&checks), &checks);
    let missing = checks.iter().any(|check| check.state == State::Missing);
    Ok(if missing { MISSING } else { 0 })
}

fn render(checks: &[Check]) -> String {
    let rows = checks.iter().map(|check| {
        let mark = match check.state {
            State::Fine => "✔".green().to_string(),
            State::Advice => "!".yellow().to_string(),
            State::Missing => "✘".red().to_string(),
        };
        [mark, check.name.clone(), check.saw.clone(), check.mend.clone().unwrap_or_default()]
    });
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let verdict = match count(State::Missing) {
        0 => "this computer can create clusters",
        _ => "this computer cannot create a cluster yet",
    };
    format!(
        "{}\n\n{verdict}: {} fine, {} to consider, {} missing",
        table(["", "what", "found", "fix"], rows),
        count(State::Fine),
        count(State::Advice),
        count(State::Missing)
    )
}

/// Installs what would make a cluster possible. Whether something was installed.
async fn fix(checks: &[Check], yes: bool, ui: Ui) -> Result<bool> {
    let Some(manager) = Manager::of_this_computer() else {
        return Err(Failure::host("kdiy knows no package manager of this computer")
            .hint("kdiy supports apt, dnf and Homebrew; install what is missing by hand"));
    };
    let commands: BTreeMap<Package, Vec<&str>> = wanted(checks)
        .into_iter()
        .filter_map(|package| Some((package, manager.install(package)?)))
        .collect();
    if commands.is_empty() {
        ui.note("the package manager has nothing to install");
        return Ok(false);
    }
    let commands: Vec<Vec<&str>> = commands
        .into_values()
        .map(|command| match manager.needs_root() && host::present("sudo") && !is_root() {
            true => [vec!["sudo"], command].concat(),
            false => command,
        })
        .collect();
    let lines: Vec<String> = commands.iter().map(|command| command.join(" ")).collect();
    ui.note(&format!("kdiy will run:\n  {}", lines.join("\n  ")));
    ui.confirm("run these commands?", yes)?;
    for command in &commands {
        install(command).await?;
    }
    Ok(true)
}

/// What is essential; and of the providers, where none is ready, the one that costs least.
fn wanted(checks: &[Check]) -> Vec<Package> {
    let missing = checks.iter().filter(|check| check.state == State::Missing);
    let mut packages: Vec<Package> = missing.filter_map(|check| check.package).collect();
    let no_provider = checks.iter().any(|it| it.name == "a provider" && it.state == State::Missing);
    if no_provider {
        let offered = |package| checks.iter().any(|check| check.package == Some(package));
        let choices = [Package::Libvirt, Package::Docker, Package::Virtualbox];
        let able = |package: &Package| {
            let manager = Manager::of_this_computer();
            offered(*package) && manager.is_some_and(|it| it.install(*package).is_some())
        };
        packages.extend(choices.into_iter().find(able));
    }
    packages
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// What it says goes to standard error; standard output is for the result.
async fn install(command: &[&str]) -> Result<()> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| Failure::bug("there is no command to run"))?;
    let status = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::inherit())
        .stdout(std::io::stderr())
        .status()
        .await
        .map_err(|error| Failure::host(format!("cannot run {program}")).because(error))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::host(format!("`{}` failed", command.join(" ")))
            .cause(status.to_string())
            .hint("its output is above; with apt, try `apt-get update` first")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, state: State, package: Option<Package>) -> Check {
        let (saw, mend) = ("found".to_owned(), None);
        Check { name: name.into(), state, saw, mend, package }
    }

    #[test]
    fn missing_packages_are_installed_and_advice_is_not() {
        let checks = [
            check("vagrant", State::Missing, Some(Package::Vagrant)),
            check("a provider", State::Fine, None),
            check("provider libvirt", State::Advice, Some(Package::Libvirt)),
        ];
        assert_eq!(wanted(&checks), [Package::Vagrant]);
    }
}
