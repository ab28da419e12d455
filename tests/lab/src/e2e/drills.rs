//! Everything that `kdiy drill` can break is broken once, and nothing may be lost by it.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::cluster::Cluster;
use super::computer::Computer;
use crate::host;

/// What containers cannot do: they have the clock of their host, and this kernel has no netem and
/// limits no disk. On a ground that can, these would have to be survived like all others.
const NOT_POSSIBLE: [&str; 3] = ["clock", "slow-network", "slow-disk"];
/// Bounds are for machines of their own. Here five of them and the client share two cores, where
/// a step of the same length takes up to twice as long as on an idle computer.
const NOISE: f64 = 2.0;
/// The longest that a client waits between two writes, in ms, before anything is broken: 0.3 to 0.5 s in
/// the drills of a whole run, on the computer that NOISE is of. One that takes longer takes as much longer
/// for everything.
const CALM: f64 = 500.0;
/// What is later than so many times what noise explains is wrong on the slowest computer.
const HOPELESS: f64 = 3.0;
/// What the report adds to the name of a drill that stops units instead of killing them.
const STOPPED: &str = ", stopped";
const BROKEN_WITHIN: Duration = Duration::from_secs(90);

/// Nothing is lost, bounds hold, and only what cannot be done here was not done.
pub fn all(cluster: &Cluster) -> Result<String> {
    let table = cluster.directory().join("drills.md");
    let table = table.to_str().context("a directory whose name is no text")?;
    let report = drill(cluster, &["all", "--yes", "--report", table])?;
    let drills = report["drills"].as_array().context("no list of drills")?;
    let tolerance = tolerance(drills);
    let mut lines = Vec::new();
    let (mut acknowledged, mut inconclusive) = (0, Vec::new());
    for outcome in drills {
        let name = outcome["drill"].as_str().context("a drill without a name")?;
        if outcome["verdict"] == "not-possible" {
            ensure!(NOT_POSSIBLE.contains(&name), "{name}: {}", outcome["problems"]);
            continue;
        }
        // What other work on this computer does is not repeated; what kdiy does is.
        if let Some(late) = check(name, outcome, tolerance)? {
            println!("     {late}; once more");
            let (again, computer) =
                Computer::during(cluster.directory(), || once_more(cluster, name))?;
            let again = again?;
            if let Some(late_again) = check(name, &again, tolerance)? {
                let all = format!("{late}, {late_again}; {computer}");
                let is_hopeless = check(name, outcome, HOPELESS * tolerance)?.is_some()
                    || check(name, &again, HOPELESS * tolerance)?.is_some();
                ensure!(
                    computer.was_saturated() && !is_hopeless,
                    "twice too late, {tolerance:.1} times the bound allowed: {all}"
                );
                println!("     inconclusive: {all}");
                inconclusive.push(name);
            }
        }
        acknowledged += outcome["acknowledged"].as_u64().unwrap_or_default();
        lines.push(format!("{name} {}", gap(outcome)));
    }
    ensure!(lines.len() >= 10, "only {} drills were done", lines.len());
    let gaps = lines.join(", ");
    let open = match inconclusive.as_slice() {
        [] => String::new(),
        names => format!("; inconclusive on this computer: {}", names.join(", ")),
    };
    Ok(format!(
        "{acknowledged} writes kept; without a write: {gaps}; {tolerance:.1} times the bounds were \
         allowed{open}; all of it in {table}"
    ))
}

/// Writes are refused while there is no quorum, and everything is back afterwards.
pub fn beyond_quorum(cluster: &Cluster) -> Result<String> {
    let report = drill(cluster, &["master", "--beyond-quorum", "--yes", "--yes"])?;
    let outcome = &report["drills"][0];
    let late = check("master", outcome, NOISE)?;
    ensure!(late.is_none(), "a bound where nothing is promised: {late:?}");
    let hit = outcome["machines"].as_array().map_or(0, Vec::len);
    ensure!(hit == 2, "{hit} machines were hit");
    let seen = outcome["seen"].as_array().context("nothing was seen")?;
    for part in ["/readyz", "etcd's own health", "run on", "requests failed"] {
        let found = seen.iter().filter_map(Value::as_str).any(|line| line.contains(part));
        ensure!(found, "no word of {part} in {seen:?}");
    }
    Ok(format!("{} things seen", seen.len()))
}

/// kdiy is killed while a master is cut off; `drill --undo` mends it.
pub fn killed_and_undone(cluster: &Cluster) -> Result<String> {
    let pending = cluster.home().join("drill.json");
    let mut kdiy = cluster.kdiy("drill");
    kdiy.args(["partition", "--yes"]).stdin(Stdio::null());
    let log = File::create(cluster.state().join("killed-drill.log"))?;
    let mut running = kdiy.stdout(log.try_clone()?).stderr(log).spawn()?;
    let began = Instant::now();
    let machine = loop {
        ensure!(running.try_wait()?.is_none(), "the drill ended before it was killed");
        if began.elapsed() > BROKEN_WITHIN {
            running.kill()?;
            bail!("nothing was broken within {} s", BROKEN_WITHIN.as_secs());
        }
        if let Ok(text) = std::fs::read_to_string(&pending) {
            let pending: Value = serde_json::from_str(&text).context("drill.json")?;
            let machine = pending["remedies"][0]["machine"].as_str().context("no machine")?;
            if is_cut_off(cluster, machine) {
                break machine.to_owned();
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    running.kill()?;
    running.wait()?;
    ensure!(is_cut_off(cluster, &machine), "{machine} mended itself before it was asked to");
    let again = refused(cluster.kdiy("drill").args(["lb", "--yes"]))?;
    ensure!(again.contains("has not been undone"), "a second drill began: {again}");
    host::run(cluster.kdiy("drill").arg("--undo"))?;
    ensure!(!is_cut_off(cluster, &machine), "{machine} is still cut off");
    ensure!(!pending.exists(), "{} is left", pending.display());
    Ok(format!("{machine} was cut off, and mended"))
}

fn is_cut_off(cluster: &Cluster, machine: &str) -> bool {
    let table = ["exec", machine, "nft", "list", "table", "inet", "kdiy_drill"];
    host::run(cluster.docker().args(table)).is_ok()
}

fn refused(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(!output.status.success(), "it was not refused");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The report. That a drill failed is for the checks here to say, with their own tolerance.
fn drill(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let mut kdiy = cluster.kdiy("drill");
    kdiy.args(["--output", "json"]).args(arguments).stdin(Stdio::null());
    let output = kdiy.output().context("cannot start kdiy")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|document| document["drills"].is_array());
    report.with_context(|| {
        let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        format!("kdiy drill gave no report:\n{}", host::tail(&all, 15))
    })
}

fn once_more(cluster: &Cluster, name: &str) -> Result<Value> {
    let mut arguments = vec![name.strip_suffix(STOPPED).unwrap_or(name), "--yes"];
    if name.ends_with(STOPPED) {
        arguments.push("--graceful");
    }
    Ok(drill(cluster, &arguments)?["drills"][0].take())
}

/// By how much a bound may be passed, from how the computer was while nothing was broken.
fn tolerance(drills: &[Value]) -> f64 {
    let before = drills.iter().filter_map(|outcome| outcome["gapBeforeMs"].as_f64());
    NOISE * before.fold(CALM, f64::max) / CALM
}

/// What took longer than the tolerance allows; anything else that is wrong is an error.
fn check(name: &str, outcome: &Value, tolerance: f64) -> Result<Option<String>> {
    let problems = outcome["problems"].as_array().context("no list of problems")?;
    ensure!(outcome["lost"] == 0, "{name}: writes were lost: {problems:?}");
    ensure!(outcome["acknowledged"].as_u64() > Some(0), "{name}: nothing was written");
    let measured = outcome["measured"].as_array().context("nothing was measured")?;
    let (mut passed, mut late) = (0, None);
    for it in measured {
        let (ms, bound) = (it["ms"].as_f64(), it["boundMs"].as_f64());
        let Some(bound) = bound else { continue };
        let ms = ms.with_context(|| format!("{name}: {} was never seen", it["measure"]))?;
        passed += usize::from(ms > bound);
        if ms > bound * tolerance {
            late = Some(format!("{name}: {} took {ms} ms, not {bound}", it["measure"]));
        }
    }
    ensure!(problems.len() == passed, "{name}: {problems:?}");
    Ok(late)
}

fn gap(outcome: &Value) -> String {
    let measured = outcome["measured"].as_array().into_iter().flatten();
    let gap = measured.filter(|it| it["measure"] == "writeGap").find_map(|it| it["ms"].as_u64());
    gap.map_or_else(|| "?".to_owned(), |ms| format!("{ms} ms"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(lost: u64, ms: Option<u64>, problems: &[&str]) -> Value {
        json!({
            "lost": lost, "acknowledged": 9, "problems": problems,
            "measured": [{"measure": "writeGap", "ms": ms, "boundMs": 1000}],
        })
    }

    #[test]
    fn noise_excuses_a_bound_but_nothing_else() {
        let check = |outcome: &Value| check("d", outcome, NOISE);
        assert_eq!(check(&outcome(0, Some(900), &[])).unwrap(), None);
        assert_eq!(check(&outcome(0, Some(1900), &["too long"])).unwrap(), None);
        let late = check(&outcome(0, Some(2100), &["too long"])).unwrap();
        assert!(late.unwrap().contains("2100 ms"));
        for bad in [
            outcome(0, None, &["never"]),
            outcome(1, Some(900), &["lost"]),
            outcome(0, Some(900), &["a write was missing"]),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_computer_that_is_slow_while_nothing_is_broken_may_take_as_much_longer() {
        let before = |all: &[Option<u64>]| -> Vec<Value> {
            all.iter().map(|ms| json!({ "gapBeforeMs": ms })).collect()
        };
        let near = |seen: f64, wanted: f64| assert!((seen - wanted).abs() < 1e-9, "{seen}");
        near(tolerance(&before(&[Some(300), None, Some(280)])), NOISE);
        near(tolerance(&before(&[Some(300), Some(1000), None])), 2.0 * NOISE);
    }
}
