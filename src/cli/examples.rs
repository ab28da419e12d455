//! Examples for the help of each command. Each line is a command that is taken as it stands, and
//! after two blanks what it does.

pub const UP: &str = "\
Examples:
  kdiy up                               3 masters, 2 workers
  kdiy up --masters 1 --workers 1       the smallest that teaches something
  kdiy up --config homelab.yaml         as the file says
  kdiy up --etcd external --lb dedicated:2
  kdiy up --mirror /srv/releases        without the internet
  kdiy up --timings                     and draw where the time went
The same command goes on after an interruption and repairs what was changed by hand. So does `kdiy up`
alone: without a cluster file, a cluster that was begun keeps what it was made with.";

pub const DESTROY: &str = "\
Examples:
  kdiy destroy                          shows what goes, and asks
  kdiy destroy --name homelab --yes";

pub const VERIFY: &str = "\
Examples:
  kdiy verify                           the gates, and a day in the life of a cluster
  kdiy verify --deep                    and how Kubernetes is to behave
  kdiy verify --deep --report out       out/report.md, out/report.json, out/junit.xml
Everything is tried in namespaces kdiy-verify-*, which are removed afterwards, also after Ctrl-C.
Exit code: 0 all passed, 1 something failed, 130 stopped";

pub const DRILL: &str = "\
Examples:
  kdiy drill list                       what can be broken, and why that should be survived
  kdiy drill etcd-leader                kill the etcd leader
  kdiy drill scheduler --graceful       stop the active scheduler instead of killing it
  kdiy drill all --yes --report drills.md
  kdiy drill master --beyond-quorum     lose the quorum, and get it back
  kdiy drill --undo                     mend what a kdiy that was killed left broken
What was broken is mended also after Ctrl-C, and by the machine itself when kdiy is gone.";

pub const INIT: &str = "\
Examples:
  kdiy init                             asks
  kdiy init --purpose learning --yes    asks nothing
  kdiy init --may-fail 2 --workers 3 --etcd external --lb dedicated:2
  kdiy init homelab.yaml --host master:me@10.0.0.11 --host worker:me@10.0.0.12";

pub const DOCTOR: &str = "\
Examples:
  kdiy doctor
  kdiy doctor --fix                     installs what the package manager can
  kdiy doctor --output json";

pub const CONFIG: &str = "\
Examples:
  kdiy config init                      a commented cluster.yaml
  kdiy config show --masters 5          what `up` would take
  kdiy config schema                    for editors";

pub const CONFIG_INIT: &str = "\
Examples:
  kdiy config init
  kdiy config init homelab.yaml --force";

pub const CONFIG_SCHEMA: &str = "\
Examples:
  kdiy config schema                    of the cluster file
  kdiy config schema --playbook         of playbooks of your own";

pub const CONFIG_SHOW: &str = "\
Examples:
  kdiy config show
  kdiy config show --config homelab.yaml --masters 5";

pub const KUBECONFIG: &str = "\
Examples:
  kdiy kubeconfig                       print it
  kdiy kubeconfig --merge               then plain kubectl works";

pub const KUBECTL: &str = "\
Examples:
  kdiy kubectl -- get nodes -o wide
  kdiy kubectl --name homelab -- get pods --all-namespaces";

pub const SSH: &str = "\
Examples:
  kdiy ssh master-1
  kdiy ssh master-1 -- systemctl status etcd";

pub const TIMINGS: &str = "\
Examples:
  kdiy timings                          the critical path of the last run
  kdiy timings --html timings.html      all of it, as a picture
  kdiy timings 20260131                 of an earlier run";

pub const LIST: &str = "\
Examples:
  kdiy list
  kdiy list --output json";

pub const LOGS: &str = "\
Examples:
  kdiy logs                             which logs there are
  kdiy logs master-1 --lines 200
  kdiy logs vagrant";

pub const COMPLETIONS: &str = "\
Examples:
  kdiy completions bash                 > /etc/bash_completion.d/kdiy
  kdiy completions zsh                  > a directory of $fpath, as _kdiy
  kdiy completions fish                 > ~/.config/fish/completions/kdiy.fish";

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory, Parser};

    use crate::cli::Cli;

    fn each<'a>(command: &'a Command, see: &mut impl FnMut(&'a Command)) {
        see(command);
        // `help` has all the others below it once more.
        let shown = |it: &&Command| !it.is_hide_set() && it.get_name() != "help";
        command.get_subcommands().filter(shown).for_each(|it| each(it, see));
    }

    #[test]
    fn every_command_has_examples_and_each_is_taken_as_it_stands() {
        let mut cli = Cli::command();
        cli.build();
        let mut without = Vec::new();
        let mut refused = Vec::new();
        each(&cli, &mut |command| {
            let help = command.clone().render_long_help().to_string();
            let mut examples = help
                .lines()
                .filter_map(|line| line.strip_prefix("  "))
                .filter(|line| line.starts_with("kdiy "))
                .peekable();
            if examples.peek().is_none() {
                without.push(command.get_name());
            }
            for example in examples {
                let words = example.split("  ").next().unwrap_or_default();
                let words = words.split(" | ").next().unwrap_or_default().split_whitespace();
                if let Err(error) = Cli::try_parse_from(words) {
                    refused.push(format!("{example}: {error}"));
                }
            }
        });
        assert!(without.is_empty(), "no examples: {without:?}");
        assert!(refused.is_empty(), "{refused:#?}");
    }
}
