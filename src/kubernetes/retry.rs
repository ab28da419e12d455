//! Changes through the API. Each is safe to repeat and reports what it changed, one line for each
//! thing.

use std::time::{Duration, Instant};

use backon::{ConstantBuilder, Retryable as _};

use crate::support::failure::{Failure, Kind, chain};
use crate::support::time_scale::Unscaled;

/// How long an api-server may be busy, or on its way to another machine; multiplied by
/// `slowMachines`.
pub const PATIENCE: Unscaled = Unscaled::from_secs(20);
pub(crate) const NOT_FOUND: u16 = 404;
pub(crate) const CONFLICT: u16 = 409;
pub(crate) const PAUSE: Duration = Duration::from_millis(300);

/// Asks again for `patience` while the error may pass. A request whose answer was lost may have been
/// carried out, so it has to be one that can be repeated.
pub async fn persist<T, F: Future<Output = kube::Result<T>>>(
    patience: Duration,
    may_pass: impl Fn(&kube::Error) -> bool,
    request: impl FnMut() -> F,
) -> kube::Result<T> {
    let began = Instant::now();
    request
        .retry(ConstantBuilder::new().with_delay(PAUSE).without_max_times())
        .when(|error| may_pass(error) && began.elapsed() < patience)
        .await
}

/// What is not there need not be deleted, least of all when the answer to a first request was lost.
pub fn gone<T>(deleted: kube::Result<T>) -> kube::Result<()> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == NOT_FOUND => Ok(()),
        deleted => deleted.map(drop),
    }
}

/// A request that the api did not carry out.
pub fn refused(what: impl Into<String>, error: &kube::Error) -> Failure {
    Failure::new(Kind::Step, what).cause(chain(error))
}

/// Whether the same request may go through later.
pub fn is_transient(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(kube::core::Status { code, ..Default::default() }))
    }

    /// How often it is asked, by an api that answers like this first and then does it.
    async fn asked(patience: Duration, code: u16) -> (u32, bool) {
        let mut asked = 0;
        let answer = persist(patience, is_transient, || {
            asked += 1;
            std::future::ready(if asked == 1 { Err(status(code)) } else { Ok(()) })
        })
        .await;
        (asked, answer.is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn transient_errors_are_retried_until_the_deadline() {
        assert_eq!(asked(PATIENCE * 1, 503).await, (2, true));
        assert_eq!(asked(PATIENCE * 1, 403).await, (1, false));
        assert_eq!(asked(Duration::ZERO, 503).await, (1, false));
    }
}
