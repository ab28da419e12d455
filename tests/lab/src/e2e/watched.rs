//! A client that asks the api all the time while something happens to the cluster.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::cluster::Cluster;
use crate::{Ground, host};

const ASKED_EVERY: Duration = Duration::from_millis(200);
/// An api-server that is well, on a machine that is not emulated.
pub const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// What a client of the api noticed.
pub struct Watched {
    pub requests: u32,
    pub failed: u32,
    pub longest_gap: Duration,
}

impl Watched {
    /// Asks for `/readyz` at the address that everybody uses, as long as `work` takes. What is not
    /// answered within `patience` has failed.
    pub fn while_running<G: Ground>(
        cluster: &Cluster<'_, G>,
        patience: Duration,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let patience = patience.as_secs().to_string();
        let url = format!("{}/readyz", cluster.endpoint()?);
        let authority = cluster.home().join("pki/kubernetes-ca.crt");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut seen = Self { requests: 0, failed: 0, longest_gap: Duration::ZERO };
                let mut last = Instant::now();
                while !done.load(Ordering::Relaxed) {
                    let mut curl = Command::new("curl");
                    curl.args(["-fsS", "--max-time", &patience, "--noproxy", "*", "--cacert"]);
                    let answered = host::run(curl.arg(&authority).arg(&url)).is_ok();
                    seen.requests += 1;
                    seen.failed += u32::from(!answered);
                    if answered {
                        seen.longest_gap = seen.longest_gap.max(last.elapsed());
                        last = Instant::now();
                    }
                    std::thread::sleep(ASKED_EVERY);
                }
                seen.longest_gap = seen.longest_gap.max(last.elapsed());
                seen
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            let seen = client.join().map_err(|_| anyhow::anyhow!("the client crashed"))?;
            result.map(|()| seen)
        })
    }
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { requests, failed, longest_gap } = self;
        let gap = longest_gap.as_secs_f64();
        write!(f, "{failed} of {requests} requests failed, {gap:.1} s at most between two answers")
    }
}
