//! Applying one step on one machine.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::artifacts::Installable;
use crate::bundle::Bundle;
use crate::bundle::observe::{ARTIFACT_STAMPS, Difference, STAGED_STAMPS, Verb};
use crate::bundle::reached::ObservedMachine;
use crate::bundle::script::{BOOTSTRAP, LEDGER, Line, STAGED, artifact_key, enough, quote};
use crate::engine::plan::Task;
use crate::engine::{TaskError, TaskReport};
use crate::etcd::quorum_guard::Service;
use crate::kubernetes::{retry, tokens};
use crate::operations::apply::{Fetched, Runner, lost};
use crate::support::event::Event;
use crate::support::failure::{Failure, Kind, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::Machine;
use crate::transport::{Input, LineSink, Output, Script, Transport, TransportError};

/// A file of 100 MB over a slow network; multiplied by `slowMachines`.
const PUSHED_WITHIN: Unscaled = Unscaled::from_secs(300);
/// Installing distribution packages is the slowest thing a step does, and what it waits for may
/// take six times as long as usual on a machine that is slow today; multiplied likewise.
const APPLIED_WITHIN: Unscaled = Unscaled::from_secs(1200);
const TAIL: usize = 20;

impl Runner {
    pub(super) async fn apply(&self, task: &Task) -> Result<TaskReport, TaskError> {
        let place = self.machine(task)?;
        let machine = place.name.clone();
        let reached = self.session.reached(&machine).await?;
        let bundle = reached
            .bundles
            .get(&task.step)
            .ok_or_else(|| Failure::bug(format!("kdiy rendered nothing for {}", task.id)))?;
        let missing = self.missing(bundle, &reached).await?;
        let mut installing: Vec<String> = missing.iter().map(|file| file.to.clone()).collect();
        installing
            .extend(bundle.staged(&*reached.staged.lock().await).into_iter().map(str::to_owned));
        let work = bundle.work(&reached.observed, &installing, &*reached.changed.lock().await);
        let learns = self.learners.contains(&machine) && bundle.has_unit(Service::Etcd.unit());
        self.data_is_there().await?;
        if work.is_empty() {
            let changes = if learns { self.promote(task, place).await? } else { Vec::new() };
            return Ok(TaskReport { changes });
        }
        let mut changes = self.install(task, &machine, missing, &reached).await?;
        let spared = self.spared(task, &machine, &work, &reached.observed).await?;
        let _turn = self.let_in(task, place, &work, spared).await?;
        if bundle.brings_token() {
            self.admit(place).await?;
        }
        let transport = self.connected(&machine).await?;
        let log = MachineLog::open(&self.session.state.machine_log(&machine))?;
        log.line(&format!("==== {} ====", task.id));
        let answer = Mutex::new(Answer::default());
        let listen = |line: &str| {
            let line = &*self.session.redactor.text(line);
            log.line(line);
            let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
            match Line::parse(line) {
                Line::Did(what) => answer.did.push(what.to_owned()),
                Line::Doing(what) => self.events.progress(&task.id, what),
                Line::Fail(what) => answer.failed = Some(what.to_owned()),
                Line::Other(text) | Line::Saw(text) => {
                    answer.tail.push(text.to_owned());
                    self.events.send(Event::Output {
                        machine: machine.clone(),
                        task: task.id.clone(),
                        line: text.to_owned(),
                    });
                }
            }
        };
        let script = Script::new(BOOTSTRAP)
            .with_input(Input::Bytes(bundle.archive(&restarting(&work))?))
            .timeout(self.slowly(APPLIED_WITHIN));
        let result = self.run_to_its_end(task, &*transport, script, &listen).await;
        let answer = answer.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Also what was done before a failure counts for the units of later steps; and what may have
        // been done before a connection broke.
        let written: Vec<&str> = match &result {
            Ok(_) => answer.did.iter().filter_map(|did| written(did)).collect(),
            Err(_) => writes(&work).collect(),
        };
        reached.changed.lock().await.extend(written.into_iter().map(str::to_owned));
        let output = result.map_err(|error| lost(&task.step, &error))?;
        if output.success() {
            let mut staged = reached.staged.lock().await;
            staged.retain(|path, _| !bundle.programs.iter().any(|program| program.path == *path));
            drop(staged);
            changes.extend(answer.did);
            // Also when an attempt before this one let it in.
            if learns || self.may_have_joined(task, place, &work).await {
                changes.extend(self.promote(task, place).await?);
            }
            return Ok(TaskReport { changes });
        }
        let what = answer.failed.unwrap_or_else(|| format!("exited with status {}", output.status));
        let tail = answer.tail[answer.tail.len().saturating_sub(TAIL)..].to_vec();
        Err(Failure::new(Kind::Step, what)
            .on(&machine)
            .in_step(&task.step)
            .tail(tail)
            .log(self.session.state.machine_log(&machine))
            .hint(format!("log in to find out why: kdiy ssh {machine}"))
            .hint("fix the cause and run `kdiy up`: it resumes here")
            .into())
    }

    /// Tells the script to stop waiting once something else has failed.
    async fn run_to_its_end(
        &self,
        task: &Task,
        transport: &dyn Transport,
        script: Script,
        listen: LineSink<'_>,
    ) -> Result<Output, TransportError> {
        let mut applying = transport.run_with(script, listen);
        tokio::select! {
            result = &mut applying => return result,
            () = self.waits.are_over() => {}
        }
        // Without an answer it waits to its own end.
        let (result, _) = tokio::join!(applying, transport.run(Script::new(enough(&task.step))));
        result
    }

    /// Has the api take the token that the machine is about to get.
    async fn admit(&self, machine: &Machine) -> Result<(), TaskError> {
        let token = self.session.rendered.pki.bootstrap_token(machine)?;
        let client = self.session.api.any().await.map_err(TaskError::Transient)?;
        Ok(tokens::admit(&client, token, self.slowly(retry::PATIENCE)).await?)
    }

    /// The artifacts and images of a step that the machine does not have, neither in their places
    /// nor beside them.
    async fn missing(
        &self,
        bundle: &Bundle,
        reached: &ObservedMachine,
    ) -> Result<Vec<Installable>> {
        let mut missing = Vec::new();
        let fetched = self.fetched.by_name.lock().await;
        for name in bundle.artifacts.iter().chain(&bundle.images) {
            let files = fetched
                .get(&Fetched::key(name, &reached.facts.arch))
                .ok_or_else(|| Failure::bug(format!("kdiy did not download {name}")))?;
            let staged = reached.staged.lock().await;
            let lacks = |file: &&Installable| {
                let installed = reached.observed.artifacts.get(&file.to).map(|it| &it.digest);
                // What waits there is what will be installed.
                staged.get(&file.to).or(installed) != Some(&file.sha256)
            };
            missing.extend(files.iter().filter(lacks).cloned());
        }
        Ok(missing)
    }

    async fn install(
        &self,
        task: &Task,
        machine: &str,
        missing: Vec<Installable>,
        reached: &ObservedMachine,
    ) -> Result<Vec<String>, TaskError> {
        let mut changes = Vec::new();
        if missing.is_empty() {
            return Ok(changes);
        }
        let mut steps = self.session.rendered.playbooks.steps();
        let place = steps.position(|(_, step)| step.name == task.step).unwrap_or_default();
        let total: u64 = missing.iter().map(|file| file.bytes).sum();
        let mut done = 0;
        for file in missing {
            let name = file.to.rsplit('/').next().unwrap_or(&file.to).to_owned();
            self.events.bytes(&task.id, format!("{name} is queued"), done, total);
            let _turn = self.sending.turn(place).await;
            self.events.bytes(&task.id, format!("copying {name}"), done, total);
            let waits = reached.waits(&file.to);
            self.push(task, machine, &file, waits).await?;
            done += file.bytes;
            if waits {
                reached.staged.lock().await.insert(file.to.clone(), file.sha256.clone());
                changes.push(format!("copied {}, to install it later", file.to));
            } else {
                changes.push(format!("installed {}", file.to));
            }
        }
        Ok(changes)
    }

    /// Sends one file, which the machine keeps only when its digest is right: in its place, or
    /// beside it where a unit uses it, whose step then puts it in its place. openssl
    /// takes it with the CPU's own instructions, four times as fast as coreutils (370 MB/s and
    /// 1400 MB/s were seen), which counts for half a gigabyte on each machine.
    async fn push(
        &self,
        task: &Task,
        machine: &str,
        file: &Installable,
        waits: bool,
    ) -> Result<(), TaskError> {
        let transport = self.connected(machine).await?;
        let (stamps, beside) = if waits { (STAGED_STAMPS, STAGED) } else { (ARTIFACT_STAMPS, "") };
        let text = format!(
            "{LEDGER}\nset -eu; umask 022; to={to}; mkdir -p {stamps}; enter_file \"$to\"; mkdir \
            -p \"${{to%/*}}\"; umask 077; cat >\"$to.kdiy-new\"; is=$(openssl dgst -sha256 -r \
            \"$to.kdiy-new\" 2>/dev/null || sha256sum \"$to.kdiy-new\"); [ \"${{is%% *}}\" = \
            {digest} ] || {{ rm -f \"$to.kdiy-new\"; echo 'the file was damaged during the \
            transfer' >&2; exit 65; }}; chmod {mode} \"$to.kdiy-new\"; mv -f \"$to.kdiy-new\" \
            \"$to{beside}\"; echo \"$to {digest} $(stat -c '%s %Y' \"$to{beside}\")\" \
            >{stamps}/{key}",
            to = quote(&file.to),
            digest = file.sha256,
            mode = file.mode,
            key = artifact_key(&file.to),
        );
        let script = Script::new(text)
            .with_input(Input::File(file.local.clone()))
            .timeout(self.slowly(PUSHED_WITHIN));
        let output = transport.run(script).await.map_err(|error| lost(&task.step, &error))?;
        if output.success() {
            return Ok(());
        }
        Err(Failure::new(Kind::Step, format!("could not install {}", file.to))
            .on(machine)
            .in_step(&task.step)
            .tail(output.tail(TAIL))
            .hint("check whether the disk is full")
            .into())
    }

    /// The machine's connection, made anew when it is gone.
    pub(super) async fn connected(
        &self,
        machine: &str,
    ) -> Result<std::sync::Arc<dyn Transport>, TaskError> {
        let target = self
            .session
            .provider
            .ssh_target(&self.session.rendered.template_context.topology, machine)?;
        Ok(self.connect(&target).await?)
    }
}

/// Units that this work restarts or reloads.
fn restarting(work: &[Difference]) -> Vec<&str> {
    let restarts = work.iter().filter(|it| matches!(it.verb, Verb::Restart | Verb::Reload));
    restarts.map(|it| it.what.as_str()).collect()
}

/// Paths that this work gives other contents.
fn writes(work: &[Difference]) -> impl Iterator<Item = &str> {
    let writes = |it: &&Difference| matches!(it.verb, Verb::Create | Verb::Change | Verb::Install);
    work.iter().filter(writes).map(|it| it.what.as_str())
}

/// The path that a line of a script says has other contents now.
fn written(did: &str) -> Option<&str> {
    did.strip_prefix("wrote ").or_else(|| did.strip_prefix("installed "))
}

#[derive(Default)]
struct Answer {
    did: Vec<String>,
    failed: Option<String>,
    tail: Vec<String>,
}

/// The log of one machine, in which every command's output is kept.
struct MachineLog(Mutex<std::fs::File>);

impl MachineLog {
    fn open(path: &Path) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map(|file| Self(Mutex::new(file)))
            .map_err(|error| {
                Failure::host(format!("cannot write {}", path.display())).because(error)
            })
    }

    fn line(&self, line: &str) {
        let now = jiff::Timestamp::now();
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written must not stop what it is about.
        let _ = writeln!(file, "{now:.3} {line}");
    }
}
