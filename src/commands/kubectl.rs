//! `kdiy kubectl -- …`: the kubectl of the cluster's own version.

use std::path::Path;

use crate::artifacts::{Catalogue, Source, Store};
use crate::cli::Passed;
use crate::playbook::load::Playbooks;
use crate::session::{Overlay, known};
use crate::state;
use crate::support::event::Events;
use crate::support::failure::{Failure, Result};
use crate::topology::architecture;
use crate::ui::Ui;

/// The one that runs on this computer; machines are Linux, whatever this is.
const KUBECTL: &str = if cfg!(target_os = "macos") { "kubectl-darwin" } else { "kubectl" };

pub async fn run(arguments: Passed, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let (state, record) = known(&arguments.which.name)?;
    let overlay = Overlay::of(&record.config.name, overlay)?;
    let catalogue = Catalogue::load(&Playbooks::load(overlay.directory.as_deref())?)?;
    let versions = catalogue.versions(&record.config)?;
    let item = catalogue.item(KUBECTL, &versions, architecture::HERE)?;
    let source = Source::from_config(&record.config)?;
    let store = Store::open(&state::cache()?, state.root(), source)?;
    let (events, reader) = Events::channel();
    let shown = ui.follow(reader, Default::default(), |_| {});
    let files = store.ensure(&item, &events, "fetch:kubectl").await?;
    drop(events);
    let _ = shown.await;
    let local = &files.first().ok_or_else(|| Failure::bug("cannot find kubectl"))?.local;
    let program = executable(local)?;
    let status = tokio::process::Command::new(&program)
        .env("KUBECONFIG", state.kubeconfig())
        .args(&arguments.arguments)
        .status()
        .await
        .map_err(|error| {
            Failure::host(format!("cannot run {}", program.display())).because(error)
        })?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// A downloaded file may not be executable, and a mirror's is not ours to change.
fn executable(file: &Path) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |error: std::io::Error| Failure::host("cannot install kubectl").because(error);
    let directory = state::cache()?.join("bin");
    state::atomic::private_directory(&directory)?;
    let metadata = std::fs::metadata(file).map_err(failed)?;
    let modified = metadata.modified().map_err(failed)?;
    let stamp = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    let program = directory.join(format!("kubectl-{}-{stamp}", metadata.len()));
    if !program.exists() {
        let temporary = tempfile::NamedTempFile::new_in(&directory).map_err(failed)?;
        std::fs::copy(file, temporary.path()).map_err(failed)?;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(temporary.path(), mode).map_err(failed)?;
        temporary.into_temp_path().persist(&program).map_err(|error| failed(error.error))?;
    }
    Ok(program)
}
