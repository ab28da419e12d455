//! The version of a running process, as its own program reports it: the program that was started,
//! even if the file was replaced since.

use crate::bundle::script::quote;
use crate::cluster_context::ClusterContext;
use crate::etcd::etcdctl;
use crate::gates::Verdict;
use crate::topology::Group;

/// A unit, and the component whose version its program has.
pub type Program = (&'static str, &'static str);

/// Asks on every machine of the group. Between the turns of a rolling step nothing is asked: the
/// step before it may have changed all machines while this one has not.
pub async fn record(
    verdict: &mut Verdict,
    context: &ClusterContext,
    group: Group,
    programs: &[Program],
) {
    if context.turn_to_come.is_some() {
        return;
    }
    let script: String = programs.iter().map(|(unit, _)| ask(unit)).collect();
    for (machine, answer) in context.ask(group, |_| script.clone()).await {
        let sections = answer.as_ref().map(|text| etcdctl::sections(text));
        for (unit, component) in programs {
            let saw = match &sections {
                Ok(sections) => version(sections.get(unit).map_or("", String::as_str)),
                Err(error) => Err((*error).clone()),
            };
            let what = format!("running version of {unit}");
            context.record_version(verdict, &machine.name, &what, component, saw);
        }
    }
}

fn ask(unit: &str) -> String {
    let unit = quote(unit);
    format!(
        "echo @{unit}; \"/proc/$(systemctl show --property MainPID --value {unit})/exe\" --version\n"
    )
}

/// `v1.36.4` of `Kubernetes v1.36.4`; containerd says more around it.
fn version(said: &str) -> Result<String, String> {
    let is_version = |word: &&str| {
        word.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let word = said.split_whitespace().filter(|word| !word.contains('/')).find(is_version);
    word.map(str::to_owned).ok_or_else(|| match said.trim() {
        "" => "not running".to_owned(),
        other => other.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_understood() {
        for (said, wanted) in [
            ("Kubernetes v1.36.4\n", "v1.36.4"),
            ("containerd github.com/containerd/containerd/v2 v2.3.4 abcdef\n", "v2.3.4"),
        ] {
            assert_eq!(version(said), Ok(wanted.to_owned()));
        }
        assert_eq!(version(""), Err("not running".to_owned()));
    }
}
