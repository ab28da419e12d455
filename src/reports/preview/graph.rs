//! The plan as a graph of steps, for drawing tools.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::engine::plan::{Plan, Task};
use crate::support::event::TaskKind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Notation {
    /// For Markdown that is rendered by GitHub and others
    Mermaid,
    /// For Graphviz
    Dot,
}

/// A step for all its machines, or its gate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    id: String,
    is_gate: bool,
}

impl Node {
    fn of(task: &Task) -> Self {
        let is_gate = task.kind == TaskKind::Gate;
        Self {
            id: if is_gate { format!("gate-{}", task.step) } else { task.step.clone() },
            is_gate,
        }
    }
}

/// Machines and files are made and fetched at the same time; which of them are how many tasks
/// does not change what waits for what.
pub fn draw(plan: &Plan, notation: Notation) -> String {
    let nodes: BTreeMap<&str, Node> =
        plan.tasks.iter().map(|task| (task.id.as_str(), Node::of(task))).collect();
    let mut titles: BTreeMap<&Node, String> = BTreeMap::new();
    let mut edges = BTreeSet::new();
    for task in &plan.tasks {
        let node = &nodes[task.id.as_str()];
        titles.entry(node).or_insert_with(|| match task.kind {
            TaskKind::Fetch => "download release files".to_owned(),
            TaskKind::Gate => format!("gate: {}", task.step),
            _ => task.title.clone(),
        });
        let needed = task.needs.iter().filter_map(|need| nodes.get(need.as_str()));
        edges.extend(needed.filter(|needed| *needed != node).map(|needed| (needed, node)));
    }
    // Where a step is rolled out, its gate is proven between its machines as well.
    edges.retain(|(from, to)| !(from.is_gate && from.id.strip_prefix("gate-") == Some(&to.id)));
    let edges = reduced(&edges);
    match notation {
        Notation::Mermaid => mermaid(&titles, &edges),
        Notation::Dot => dot(&titles, &edges),
    }
}

/// Without edges that follow from others: what waits for b need not say that it waits for a when
/// b does.
fn reduced<'a>(edges: &BTreeSet<(&'a Node, &'a Node)>) -> BTreeSet<(&'a Node, &'a Node)> {
    let follows = |from: &Node, to: &Node| {
        let mut waiting: Vec<&Node> =
            edges.iter().filter(|(a, b)| *a == from && *b != to).map(|(_, b)| *b).collect();
        let mut seen = BTreeSet::new();
        while let Some(node) = waiting.pop() {
            if node == to {
                return true;
            }
            if seen.insert(node) {
                waiting.extend(edges.iter().filter(|(a, _)| *a == node).map(|(_, b)| *b));
            }
        }
        false
    };
    edges.iter().filter(|(from, to)| !follows(from, to)).copied().collect()
}

fn mermaid(titles: &BTreeMap<&Node, String>, edges: &BTreeSet<(&Node, &Node)>) -> String {
    let mut text = String::from("flowchart TD\n");
    for (node, title) in titles {
        // `end` and the like mean something to Mermaid; titles are quoted, names get a prefix.
        let _ = match node.is_gate {
            true => writeln!(text, "  n-{}{{{{\"{title}\"}}}}", node.id),
            false => writeln!(text, "  n-{}[\"{title}\"]", node.id),
        };
    }
    for (from, to) in edges {
        let _ = writeln!(text, "  n-{} --> n-{}", from.id, to.id);
    }
    text
}

fn dot(titles: &BTreeMap<&Node, String>, edges: &BTreeSet<(&Node, &Node)>) -> String {
    let mut text = String::from("digraph up {\n  node [shape=box];\n");
    for (node, title) in titles {
        let _ = match node.is_gate {
            true => writeln!(text, "  \"{}\" [label=\"{title}\", shape=hexagon];", node.id),
            false => writeln!(text, "  \"{}\" [label=\"{title}\"];", node.id),
        };
    }
    for (from, to) in edges {
        let _ = writeln!(text, "  \"{}\" -> \"{}\";", from.id, to.id);
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str, kind: TaskKind, step: &str, needs: &[&str]) -> Task {
        Task {
            id: id.into(),
            kind,
            title: step.into(),
            step: step.into(),
            machine: None,
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        }
    }

    fn plan() -> Plan {
        Plan {
            tasks: vec![
                task("a@1", TaskKind::Apply, "a", &[]),
                task("gate:a+1", TaskKind::Gate, "a", &["a@1"]),
                task("a@2", TaskKind::Apply, "a", &["gate:a+1"]),
                task("gate:a", TaskKind::Gate, "a", &["a@1", "a@2"]),
                task("b@1", TaskKind::Apply, "b", &["a@1", "gate:a"]),
            ],
        }
    }

    #[test]
    fn machines_are_folded_and_implied_edges_omitted() {
        let text = draw(&plan(), Notation::Dot);
        let edges: Vec<&str> = text.lines().filter(|line| line.contains("->")).collect();
        assert_eq!(edges, ["  \"a\" -> \"gate-a\";", "  \"gate-a\" -> \"b\";"]);
    }

    #[test]
    fn every_node_is_declared_in_mermaid() {
        let text = draw(&plan(), Notation::Mermaid);
        for node in ["n-a[", "n-b[", "n-gate-a{{"] {
            assert!(text.contains(node), "{text}");
        }
        assert_eq!(text.matches("-->").count(), 2, "{text}");
    }
}
