//! A step or a topic as Markdown, with this cluster's own machines.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use crate::pki::identity::{IDENTITIES, Names, Usage};
use crate::playbook::context::TemplateContext;
use crate::playbook::format::{Exercise, Step};
use crate::playbook::load::{Book, Playbooks};
use crate::playbook::template::Templates;
use crate::reports::guide::{Guide, rationale};
use crate::support::failure::{Failure, Result};
use crate::topology::facts::Facts;
use crate::topology::{Group, Machine, Quorum};

/// Topics below the playbook directory, one template each.
const TOPICS: &str = "explain/";
const ENDING: &str = ".md.hbs";
/// Members that the table of quorums goes up to.
const MOST_MEMBERS: u32 = 7;

/// Something that can be explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub name: String,
    pub title: String,
    pub topic: bool,
}

/// Topics in alphabetical order, then steps in theirs.
pub fn entries(playbooks: &Playbooks) -> Vec<Entry> {
    let topics = topics(playbooks).into_iter().map(|(name, text)| {
        let title = text.lines().next().unwrap_or_default();
        Entry { name, title: title.trim_start_matches("# ").to_owned(), topic: true }
    });
    let steps = playbooks.steps().map(|(_, step)| Entry {
        name: step.name.clone(),
        title: step.title.clone(),
        topic: false,
    });
    topics.chain(steps).collect()
}

fn topics(playbooks: &Playbooks) -> Vec<(String, &str)> {
    let name = |path: &str| Some(path.strip_prefix(TOPICS)?.strip_suffix(ENDING)?.to_owned());
    playbooks.files().filter_map(|(path, text)| Some((name(path)?, text))).collect()
}

/// `entries`, for people.
pub fn list(playbooks: &Playbooks) -> String {
    let mut text = String::from("# Topics and steps\n\n| topic | |\n|---|---|\n");
    for entry in entries(playbooks).iter().filter(|entry| entry.topic) {
        let _ = writeln!(text, "| {} | {} |", entry.name, entry.title);
    }
    for book in &playbooks.books {
        let _ = write!(text, "\n| step | {} |\n|---|---|\n", book.playbook.title);
        for step in &book.playbook.steps {
            let _ = writeln!(text, "| {} | {} |", step.name, step.title);
        }
    }
    text.push_str("\n`kdiy explain NAME` explains one of them.\n");
    text
}

pub struct Explainer<'a> {
    pub playbooks: &'a Playbooks,
    pub templates: &'a Templates,
    pub template_context: &'a TemplateContext,
    pub guide: &'a Guide<'a>,
    /// Of any machine: exercises do not depend on them.
    pub facts: Facts,
}

impl Explainer<'_> {
    /// A topic or a step.
    pub fn explain(&self, name: &str) -> Result<String> {
        if let Some((_, text)) = topics(self.playbooks).into_iter().find(|(topic, _)| topic == name)
        {
            let place = format!("playbooks/{TOPICS}{name}{ENDING}");
            return self.templates.render(&place, text, &self.context()?);
        }
        if let Some((book, step)) = self.playbooks.step(name) {
            return self.step(book, step);
        }
        let entries = entries(self.playbooks);
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        Err(Failure::unknown("topic or step", name, &names))
    }

    fn step(&self, book: &Book, step: &Step) -> Result<String> {
        let mut text = format!("# {}: {}\n\n{}\n\n", step.name, step.title, step.why.trim());
        let machines = self.template_context.topology.group(step.on);
        let first = machines.first().copied();
        let _ = write!(text, "{}\n\n", self.place(step, &machines));
        if !step.needs.is_empty() {
            let needs: Vec<String> = step.needs.iter().map(|need| format!("`{need}`")).collect();
            let _ = write!(text, "It needs these steps first: {}.", needs.join(", "));
            if step.rolling {
                text.push_str(" On a running cluster, kdiy changes one machine at a time");
                if let Some(gate) = step.between() {
                    let _ = write!(text, ", with the gate `{}` in between", gate.name);
                }
                text.push('.');
            }
            text.push_str("\n\n");
        }
        text.push_str(&rationale::of(step));
        if let Some(gate) = &step.gate {
            let _ =
                write!(text, "## The gate\n\nThe gate `{}`: {}\n\n", gate.name, gate.why.trim());
        }
        let is_there = step.on == Group::Cluster || first.is_some();
        if self.template_context.all_hold(&step.when) && is_there {
            let commands = self.guide.by_hand(book, step, first)?;
            let check = self.guide.check(step)?;
            if !commands.is_empty() || !check.is_empty() {
                let _ = write!(text, "## By hand\n\n{commands}{check}\n");
            }
            if let Some(exercise) = &step.exercise {
                text.push_str(&self.exercise(step, exercise, first)?);
            }
        }
        Ok(text)
    }

    fn place(&self, step: &Step, machines: &[&Machine]) -> String {
        let names: Vec<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
        if !self.template_context.all_hold(&step.when) {
            "This cluster does not have this step.".to_owned()
        } else if step.on == Group::Cluster {
            "kdiy does it once, through the API.".to_owned()
        } else if names.is_empty() {
            "This cluster has no machine for this step.".to_owned()
        } else {
            format!("kdiy does it on {}.", names.join(", "))
        }
    }

    fn exercise(
        &self,
        step: &Step,
        exercise: &Exercise,
        machine: Option<&Machine>,
    ) -> Result<String> {
        let context = match machine {
            Some(machine) => {
                self.with_quorums(self.template_context.for_machine(machine, &self.facts)?)
            }
            None => self.context()?,
        };
        let render = |what: &str, text: &str| {
            self.templates.render(&format!("{}: exercise.{what}", step.name), text, &context)
        };
        Ok(format!(
            "## Break it yourself\n\nOn a cluster that you may \
            break:\n\n```sh\n{}\n```\n\n{}\n\n**To repair it:** {}\n",
            render("break", &exercise.r#break)?.trim(),
            render("see", &exercise.see)?.trim(),
            render("mend", &exercise.mend)?.trim(),
        ))
    }

    fn context(&self) -> Result<Value> {
        let mut context = self.with_quorums(self.template_context.for_cluster()?);
        context["identities"] = identities();
        Ok(context)
    }

    fn with_quorums(&self, mut context: Value) -> Value {
        let topology = &self.template_context.topology;
        context["quorums"] = (1..=MOST_MEMBERS).map(|members| quorum(Quorum { members })).collect();
        context["etcdQuorum"] = quorum(topology.etcd_quorum());
        context["masterQuorum"] = quorum(topology.master_quorum());
        context
    }
}

fn quorum(quorum: Quorum) -> Value {
    json!({
        "members": quorum.members,
        "needed": quorum.needed(),
        "tolerance": quorum.tolerance(),
        "even": quorum.members.is_multiple_of(2),
    })
}

fn identities() -> Value {
    let identity = |it: &crate::pki::identity::Identity| {
        let name = if it.common_name.is_empty() { "the machine's name" } else { it.common_name };
        json!({
            "name": it.name,
            "authority": it.authority.as_str(),
            "commonName": name,
            "organization": it.organization,
            "use": match it.usage {
                Usage::Server => "server",
                Usage::Client => "client",
                Usage::Both => "server and client",
            },
            "names": match it.names {
                Names::None => "",
                Names::Machine => "the machine's name and address",
                Names::ApiServer => "every name and address that clients use",
            },
            "perMachine": it.per_machine,
            "what": it.what,
        })
    };
    IDENTITIES.iter().map(identity).collect()
}
