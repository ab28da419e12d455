//! Asking again until something is so.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Why it was asked no more, with what was found last.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended<S> {
    /// The deadline passed.
    Late(S),
    /// Ctrl-C, or a failure elsewhere.
    Stopped(S),
}

impl<S> Ended<S> {
    pub fn last(self) -> S {
        match self {
            Self::Late(last) | Self::Stopped(last) => last,
        }
    }
}

/// Asks at once and then every `pause`, until the answer is an `Ok`, until `within` has passed or
/// until `stop` is cancelled. An `Err` is what was found instead. The last question begins before the
/// deadline and is not cut off; whoever asks gives it a deadline of its own.
pub async fn poll<T, S, F: Future<Output = Result<T, S>>>(
    within: Duration,
    pause: Duration,
    stop: &CancellationToken,
    mut ask: impl FnMut() -> F,
) -> Result<T, Ended<S>> {
    let began = Instant::now();
    loop {
        let found = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(found) => found,
        };
        if stop.is_cancelled() {
            return Err(Ended::Stopped(found));
        }
        if began.elapsed() + pause >= within {
            return Err(Ended::Late(found));
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Err(Ended::Stopped(found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(1);

    async fn asked(
        within: Duration,
        stop: &CancellationToken,
        answers_at: u32,
    ) -> (u32, Result<u32, Ended<u32>>) {
        let mut asked = 0;
        let ended = poll(within, PAUSE, stop, || {
            asked += 1;
            std::future::ready(if asked == answers_at { Ok(asked) } else { Err(asked) })
        })
        .await;
        (asked, ended)
    }

    #[tokio::test]
    async fn it_ends_with_the_answer_the_deadline_or_the_stop() {
        let stop = CancellationToken::new();
        assert_eq!(asked(Duration::from_secs(60), &stop, 3).await, (3, Ok(3)));
        assert_eq!(asked(Duration::ZERO, &stop, 3).await, (1, Err(Ended::Late(1))));
        let (times, ended) = asked(PAUSE * 20, &stop, 0).await;
        assert!(times > 1 && ended == Err(Ended::Late(times)), "{times}");
        stop.cancel();
        assert_eq!(asked(Duration::from_secs(60), &stop, 3).await, (1, Err(Ended::Stopped(1))));
    }
}
