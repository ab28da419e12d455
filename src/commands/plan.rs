//! `kdiy plan`: shows what `up` would change, and changes nothing.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use crate::artifacts::Store;
use crate::bundle::script::{LEDGER, LIBRARY};
use crate::bundle::{Bundle, Renderer};
use crate::cli::Plan as Arguments;
use crate::engine::plan::{self, ClusterState, Plan};
use crate::operations::request::{self, ClusterRequest};
use crate::pki::{Keeping, Pki};
use crate::playbook::format::Step;
use crate::reports::preview::current_state::{ClusterObjects, CurrentState};
use crate::reports::preview::{Preview, PreviewBuilder, graph};
use crate::session::ClusterHandle;
use crate::state::{self, Record};
use crate::support::failure::Result;
use crate::support::redact::Redactor;
use crate::ui::{self, Ui};

/// When there is something to do.
const CHANGES: u8 = 2;

pub async fn run(arguments: Arguments, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    if let Some(origin) = request::origin(&arguments.flags)? {
        ui.note(&origin);
    }
    let ClusterRequest { design, state, before, joined, site, .. } =
        ClusterRequest::by(&arguments.flags, overlay).await?;
    if let Some(step) = &arguments.show {
        design.playbooks.known_step(step)?;
    }
    if let Some(note) = design.overlay.note() {
        ui.note(&note);
    }
    let store = Store::open(&state::cache()?, state.root(), design.source.clone())?;
    if before.is_none() || arguments.graph.is_some() {
        let rendered = design.draw(&state.pki(), &site, Keeping::Existing)?;
        let plan =
            plan::build(&rendered.playbooks, &rendered.template_context, &ClusterState::default())?;
        if let Some(notation) = arguments.graph {
            let text = graph::draw(&plan, notation);
            ui.result(&text, &json!({ "graph": text }));
            return Ok(0);
        }
        let looks = CurrentState::assumed(&rendered, &store).await?;
        return show(&arguments, ui, rendered.renderer(), &rendered.pki, &plan, &looks, None);
    }
    let had_data = before.as_ref().is_some_and(Record::had_data);
    let session = ClusterHandle::new(design, state, &site, Keeping::Existing).await?;
    let plan = plan::build(
        &session.rendered.playbooks,
        &session.rendered.template_context,
        &ClusterState::default(),
    )?;
    let looks = CurrentState::at(&session, &store, &joined).await;
    session.close().await;
    show(
        &arguments,
        ui,
        session.rendered.renderer(),
        &session.rendered.pki,
        &plan,
        &looks?,
        Some(had_data),
    )
}

fn show(
    arguments: &Arguments,
    ui: Ui,
    renderer: Renderer<'_>,
    pki: &Pki,
    plan: &Plan,
    looks: &CurrentState,
    // Of a cluster that was begun: whether it was complete once.
    begun: Option<bool>,
) -> Result<u8> {
    let secrets = pki.secrets();
    let redactor = Redactor::new(secrets.iter().map(String::as_str))?;
    if let Some(step) = &arguments.show {
        return show_step(ui, &renderer, looks, &redactor, step);
    }
    let (full, had_data) = (arguments.full, begun.unwrap_or_default());
    let drafter = PreviewBuilder { renderer, plan, looks, redactor: &redactor, full, had_data };
    let preview: Preview = drafter.preview(begun.is_some())?;
    ui.result(&ui::preview::render(&preview, arguments.full), &preview);
    Ok(if preview.changes() { CHANGES } else { 0 })
}

/// The files and the script of one step, as they would go to each machine.
fn show_step(
    ui: Ui,
    renderer: &Renderer<'_>,
    looks: &CurrentState,
    redactor: &Redactor,
    step: &str,
) -> Result<u8> {
    let mut text = String::new();
    let mut value = Vec::new();
    let (book, found) = renderer.playbooks.known_step(step)?;
    for (place, manifest) in renderer.manifests(book, found)? {
        let manifest = redactor.text(&manifest).into_owned();
        let _ = write!(text, "# {place}\n{manifest}\n");
        value.push(json!({ "manifest": place, "text": manifest }));
    }
    if let (Some(_), Some(look)) = (found.action, looks.cluster.get(step)) {
        let action = action_text(found, look, redactor);
        value.push(json!({ "action": found.action, "text": action }));
        text.push_str(&action);
    }
    for (machine, look) in &looks.machines {
        let Some(bundle) = look.bundles.get(step) else { continue };
        let _ = write!(text, "# {machine}\n\n{}", bundle_text(bundle, redactor));
        let files = bundle.files.iter().map(|file| {
            let shown = (!file.secret)
                .then(|| redactor.text(&String::from_utf8_lossy(&file.bytes)).into_owned());
            json!({ "path": file.path, "mode": file.mode, "owner": file.owner, "text": shown })
        });
        value.push(json!({
            "machine": machine,
            "files": files.collect::<Vec<_>>(),
            "script": bundle.script(),
        }));
    }
    if looks.machines.values().any(|look| look.bundles.contains_key(step)) {
        let _ =
            write!(text, "# the functions that every script begins with\n\n{LEDGER}\n{LIBRARY}");
    }
    if value.is_empty() {
        text = format!("{step} changes nothing in this cluster\n");
    }
    ui.result(&text, &value);
    Ok(0)
}

/// What a step does through the api: nothing that could be shown as files.
fn action_text(step: &Step, look: &ClusterObjects, redactor: &Redactor) -> String {
    let mut text = format!("# through the API: {}\n# {}\n", step.title, step.why.trim());
    for action in &look.actions {
        let _ = writeln!(text, "{action}");
    }
    for object in &look.objects {
        let verb = if object.before.is_some() { "change" } else { "create" };
        let after = if object.secret { "(secret)".into() } else { redactor.text(&object.after) };
        let _ = write!(text, "\n# {verb} {}\n{after}\n", object.object);
    }
    if look.actions.is_empty() && look.objects.is_empty() {
        text.push_str("everything is as it should be: nothing to change\n");
    }
    text
}

fn bundle_text(bundle: &Bundle, redactor: &Redactor) -> String {
    let mut text = String::new();
    for file in &bundle.files {
        let _ = writeln!(text, "## {}  {} {}", file.path, file.mode, file.owner);
        if file.secret {
            text.push_str("(secret)\n\n");
        } else {
            let content = String::from_utf8_lossy(&file.bytes);
            let _ = write!(text, "{}\n\n", redactor.text(&content).trim_end());
        }
    }
    let _ = write!(text, "## the script, after the functions below\n{}\n", bundle.calls());
    text
}
