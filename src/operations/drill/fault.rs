//! Breaks a machine. Before it does, the undo script is on the machine, with a timer, and on this
//! computer.

use std::time::Duration;

use crate::bundle::script::quote;
use crate::etcd::etcdctl::{CURL, ETCDCTL};
use crate::operations::drill::catalogue::{Drill, Fault};
use crate::operations::drill::undo::{How, Remedy};
use crate::session::ClusterHandle;
use crate::support::failure::Result;
use crate::topology::Machine;

/// Where a machine keeps what undoes a fault. A reboot empties /run, and undoes our faults.
const DIRECTORY: &str = "/run/kdiy-drill";
/// The timer that undoes it when nobody comes back.
const DEAD_MAN: &str = "kdiy-drill-undo";

/// What the script prints in the moment of the fault.
pub const BROKEN: &str = "@broken";

/// A drill's fault on one machine, with everything filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pub machine: String,
    /// Fails, and says why, where the fault cannot be made.
    pub possible: Option<String>,
    pub act: Act,
    pub look: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    PowerOff,
    /// `prepare` breaks nothing yet, so that the moment of the fault is known.
    Script {
        prepare: String,
        inject: String,
        undo: String,
    },
}

impl Prepared {
    pub fn of(
        session: &ClusterHandle,
        machine: &Machine,
        drill: &Drill,
        graceful: bool,
    ) -> Result<Self> {
        let mut context = session.rendered.template_context.for_drill(machine)?;
        context["etcdctl"] = ETCDCTL.into();
        context["curl"] = CURL.into();
        let render =
            |text: &str| session.rendered.templates.render("playbooks/drills.yaml", text, &context);
        let (possible, act) = match &drill.fault {
            Fault::PowerOff => (None, Act::PowerOff),
            Fault::Kill(kill) => (None, kill_script(&kill.units, graceful)),
            Fault::Script(scripts) => (
                scripts.possible.as_deref().map(render).transpose()?,
                Act::Script {
                    prepare: String::new(),
                    inject: render(&scripts.inject)?,
                    undo: render(&scripts.undo)?,
                },
            ),
        };
        let look = drill.look.as_deref().map(render).transpose()?;
        Ok(Self { machine: machine.name.clone(), possible, act, look })
    }

    pub fn remedy(&self) -> Remedy {
        let how = match &self.act {
            Act::PowerOff => How::PowerOn,
            Act::Script { undo, .. } => How::Script(disarm(undo)),
        };
        Remedy { machine: self.machine.clone(), how }
    }

    /// The script that makes the fault, once the machine can undo it alone. `None` for a machine
    /// that is switched off from outside.
    pub fn script(&self, dead_man: Duration) -> Option<String> {
        let Act::Script { prepare, inject, undo } = &self.act else { return None };
        let seconds = dead_man.as_secs().max(1);
        Some(format!(
            "set -eu\nmkdir -p {DIRECTORY}\nprintf %s {} >{DIRECTORY}/undo\n\
             systemctl stop {DEAD_MAN}.timer 2>/dev/null || true\n\
             systemd-run --quiet --unit={DEAD_MAN} --on-active={seconds}s \
             --timer-property=AccuracySec=1s /bin/sh {DIRECTORY}/undo\n\
             {prepare}\necho {BROKEN}\n{inject}",
            quote(undo)
        ))
    }
}

/// Undoes, and calls off the timer only then.
fn disarm(undo: &str) -> String {
    format!(
        "set -eu\n{}\nsystemctl stop {DEAD_MAN}.timer 2>/dev/null || true\nrm -rf {DIRECTORY}\n",
        undo.trim_end()
    )
}

/// A drop-in keeps systemd from bringing the unit back: what is tried is how the others do
/// without it, not how fast it starts.
fn kill_script(units: &[String], graceful: bool) -> Act {
    let each = |line: &dyn Fn(&str) -> String| -> String {
        units.iter().map(|unit| line(&quote(unit))).collect::<Vec<_>>().join("\n")
    };
    let drop_in = |unit: &str| format!("/run/systemd/system/{unit}.d");
    let keep_down = each(&|unit| {
        let directory = drop_in(unit);
        format!(
            "mkdir -p {directory}\nprintf '[Service]\\nRestart=no\\n' >{directory}/kdiy-drill.conf"
        )
    });
    let end = each(&|unit| match graceful {
        true => format!("systemctl stop {unit}"),
        false => format!("systemctl kill --signal=KILL {unit}"),
    });
    let lift = each(&|unit| {
        let directory = drop_in(unit);
        format!("rm -f {directory}/kdiy-drill.conf\nrmdir {directory} 2>/dev/null || true")
    });
    // Members that lost their quorum are ready only once enough of them are back.
    let start = each(&|unit| {
        format!(
            "systemctl reset-failed {unit} 2>/dev/null || true\nsystemctl start --no-block {unit}"
        )
    });
    Act::Script {
        prepare: format!("{keep_down}\nsystemctl daemon-reload"),
        inject: end,
        undo: format!("{lift}\nsystemctl daemon-reload\n{start}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(graceful: bool) -> Prepared {
        Prepared {
            machine: "m".into(),
            possible: None,
            act: kill_script(&["etcd.service".into()], graceful),
            look: None,
        }
    }

    #[test]
    fn the_machine_can_undo_a_fault_before_it_happens() {
        let script = prepared(false).script(Duration::from_secs(90)).unwrap();
        let at = |part: &str| script.find(part).unwrap_or_else(|| panic!("no {part}: {script}"));
        assert!(at("--on-active=90s") < at(BROKEN));
        assert!(at("Restart=no\\n' >/run") < at(BROKEN));
        assert!(at(BROKEN) < at("systemctl kill --signal=KILL etcd.service"));
    }

    #[test]
    fn a_clean_stop_kills_nothing() {
        let script = prepared(true).script(Duration::ZERO).unwrap();
        assert!(script.ends_with("systemctl stop etcd.service") && !script.contains("KILL"));
    }

    #[test]
    fn the_undo_script_stops_the_timer_last() {
        let How::Script(undo) = prepared(false).remedy().how else { panic!("not a script") };
        assert!(
            undo.find("systemctl start").unwrap() < undo.find("kdiy-drill-undo.timer").unwrap()
        );
        let mut off = prepared(false);
        off.act = Act::PowerOff;
        assert_eq!(off.remedy().how, How::PowerOn);
        assert_eq!(off.script(Duration::from_secs(1)), None);
    }

    /// dash is what /bin/sh is on Debian; what it cannot parse it cannot undo.
    #[test]
    fn every_script_of_the_embedded_drills_renders_and_parses() {
        use crate::operations::drill::catalogue::Catalogue;
        use crate::playbook::load::Playbooks;
        use std::io::Write as _;

        let topology = crate::topology::Topology::build(
            &crate::config::ClusterConfig::default(),
            "192.168.56.0/24".parse().unwrap(),
        )
        .unwrap();
        let context = serde_json::json!({
            "machine": topology.machines[0], "peers": ["192.168.56.12"],
            "etcdctl": ETCDCTL, "curl": CURL,
        });
        let mut seen = 0;
        for drill in Catalogue::load(&Playbooks::load(None).unwrap()).unwrap().drills {
            let Fault::Script(scripts) = drill.fault else { continue };
            let texts = [scripts.possible, Some(scripts.inject), Some(scripts.undo), drill.look];
            for text in texts.into_iter().flatten() {
                let script = crate::playbook::template::Templates::new()
                    .render(&drill.name, &text, &context)
                    .unwrap();
                let mut shell = std::process::Command::new("sh")
                    .arg("-n")
                    .stdin(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
                assert!(shell.wait().unwrap().success(), "{}: {script}", drill.name);
                seen += 1;
            }
        }
        assert!(seen > 10, "only {seen} scripts");
    }
}
