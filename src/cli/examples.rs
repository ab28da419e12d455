//! Examples in the help of each command. Each line is a command that must parse, two blanks, and
//! what it does.

pub const UP: &str = "\
Examples:
  kdiy up                               3 masters, 2 workers
  kdiy up --masters 1 --workers 1       the smallest cluster worth learning on
  kdiy up --config homelab.yaml         the cluster that this file describes
  kdiy up --etcd external --lb dedicated:2
  kdiy up --mirror /srv/releases        without the internet
  kdiy up --timings                     also write a timeline of the run
Run the same command again to resume after an interruption, or to repair what somebody changed by
hand. Without a cluster file, `kdiy up` keeps the settings that the cluster was created with.";

pub const DESTROY: &str = "\
Examples:
  kdiy destroy                          lists what it removes, and asks
  kdiy destroy --name homelab --yes";

pub const VERIFY: &str = "\
Examples:
  kdiy verify                           the gates, and a smoke test
  kdiy verify --deep                    also tests of Kubernetes' features
  kdiy verify --deep --report out       out/report.md, out/report.json, out/junit.xml
The tests run in namespaces kdiy-verify-*, which kdiy removes afterwards, even after Ctrl-C.
Exit code: 0 all passed, 1 something failed, 130 interrupted";

pub const DRILL: &str = "\
Examples:
  kdiy drill list                       the drills, and why a cluster should survive each one
  kdiy drill etcd-leader                kill the etcd leader
  kdiy drill scheduler --graceful       stop the active scheduler instead of killing it
  kdiy drill all --yes --report drills.md
  kdiy drill master --beyond-quorum     lose the quorum, and restore it
  kdiy drill --undo                     repair what an interrupted drill left broken
kdiy repairs the failure even after Ctrl-C; if kdiy is killed, the machine repairs it by itself.";

pub const INIT: &str = "\
Examples:
  kdiy init                             asks every question
  kdiy init --purpose learning --yes    asks nothing
  kdiy init --may-fail 2 --workers 3 --etcd external --lb dedicated:2
  kdiy init homelab.yaml --host master:me@10.0.0.11 --host worker:me@10.0.0.12";

pub const DOCTOR: &str = "\
Examples:
  kdiy doctor
  kdiy doctor --fix                     installs what is missing with the package manager
  kdiy doctor --output json";

pub const CONFIG: &str = "\
Examples:
  kdiy config init                      writes a commented cluster.yaml
  kdiy config show --masters 5          the settings that `up` would use
  kdiy config schema                    the JSON schema, for editors";

pub const CONFIG_INIT: &str = "\
Examples:
  kdiy config init
  kdiy config init homelab.yaml --force";

pub const CONFIG_SCHEMA: &str = "\
Examples:
  kdiy config schema                    the schema of the cluster file
  kdiy config schema --playbook         the schema of playbooks";

pub const CONFIG_SHOW: &str = "\
Examples:
  kdiy config show
  kdiy config show --config homelab.yaml --masters 5";

pub const KUBECONFIG: &str = "\
Examples:
  kdiy kubeconfig                       prints it
  kdiy kubeconfig --merge               lets plain kubectl use the cluster";

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
  kdiy timings --html timings.html      a timeline of every step
  kdiy timings 20260131                 an earlier run";

pub const LIST: &str = "\
Examples:
  kdiy list
  kdiy list --output json";

pub const LOGS: &str = "\
Examples:
  kdiy logs                             lists the logs
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
        // `help` lists every other command again.
        let shown = |it: &&Command| !it.is_hide_set() && it.get_name() != "help";
        command.get_subcommands().filter(shown).for_each(|it| each(it, see));
    }

    #[test]
    fn every_command_has_examples_and_each_example_parses() {
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
