//! `kdiy demo`: shows the display of a simulated `up`. Hidden.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::cli::Demo;
use crate::engine::plan::{self, ClusterState, Task};
use crate::engine::{self, Executor, TaskError, TaskReport};
use crate::playbook::context::TemplateContext;
use crate::session::ResolvedCluster;
use crate::support::event::{Event, Events, Evidence, TaskKind};
use crate::support::failure::Result;
use crate::topology::Topology;
use crate::ui::Ui;

pub async fn run(arguments: Demo, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let design =
        ResolvedCluster::of(crate::operations::request::effective(&arguments.flags)?, overlay)?;
    // From the range that is kept for documentation: nothing is reached.
    let topology = Topology::build(&design.config, "192.0.2.0/24".parse().unwrap_or_default())?;
    let template_context = TemplateContext {
        id: String::new(),
        topology,
        versions: design.versions.by_name,
        images: design.versions.images,
        mirrored_images: Vec::new(),
        config: design.config,
    };
    let plan = plan::build(&design.playbooks, &template_context, &ClusterState::default())?;
    let (events, reader) = Events::channel();
    let shown = ui.follow(reader, Default::default(), |_| {});
    let player = Arc::new(Player { events: events.clone(), faster: arguments.faster });
    engine::run(&plan, player, 16, &events, &CancellationToken::new()).await;
    drop(events);
    let _ = shown.await;
    ui.note("this was a demonstration; kdiy created nothing");
    Ok(0)
}

/// Lets a task take the time that such tasks take.
struct Player {
    events: Events,
    faster: f64,
}

impl Player {
    async fn sleep(&self, seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds / self.faster.max(0.01))).await;
    }
}

#[async_trait]
impl Executor for Player {
    async fn perform(&self, task: &Task) -> Result<TaskReport, TaskError> {
        // From its name: the same at each showing, and different for each machine.
        let spread = task.id.bytes().fold(7_u32, |sum, byte| sum * 31 % 997 + u32::from(byte));
        let spread = 0.5 + f64::from(spread % 100) / 100.0;
        let seconds = spread
            * match task.kind {
                TaskKind::Machine => 4.0,
                TaskKind::Fetch => 3.0,
                TaskKind::Gate => 2.0,
                TaskKind::Apply | TaskKind::Cluster => 0.8,
            };
        for part in 0..10_u64 {
            if task.kind == TaskKind::Fetch {
                self.events.bytes(&task.id, "downloading", part, 10);
            }
            self.sleep(seconds / 10.0).await;
        }
        if task.kind == TaskKind::Gate {
            let evidence = vec![Evidence {
                machine: None,
                asked: "everything".into(),
                expected: "well".into(),
                saw: "well".into(),
                ok: true,
            }];
            self.events.send(Event::GateEvidence { task: task.id.clone(), passed: true, evidence });
        }
        Ok(TaskReport { changes: vec!["simulated".into()] })
    }
}
