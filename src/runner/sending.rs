//! Whose files are sent next.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Lets few files travel at once, those of early steps first.
///
/// Sending keeps a core busy with encryption. With more senders than that, or in the order in
/// which machines turn up, the files that etcd and the api wait for would arrive with the last.
#[derive(Clone)]
pub struct Sending(Arc<Mutex<Queue>>);

struct Queue {
    free: usize,
    arrived: u64,
    /// By the step's place in the playbooks, then by arrival.
    waiting: BTreeMap<(usize, u64), oneshot::Sender<Turn>>,
}

/// Leave to send one file; the next in line has it when this is dropped.
pub struct Turn(Sending);

impl Default for Sending {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::at_once(2 * cores)
    }
}

impl Sending {
    fn at_once(free: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue { free, arrived: 0, waiting: BTreeMap::new() })))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for leave to send a file of the step at this place in the playbooks.
    pub async fn turn(&self, place: usize) -> Turn {
        let mine = {
            let mut queue = self.queue();
            if queue.free > 0 {
                queue.free -= 1;
                return Turn(self.clone());
            }
            let (leave, mine) = oneshot::channel();
            let key = (place, queue.arrived);
            queue.arrived += 1;
            queue.waiting.insert(key, leave);
            mine
        };
        // The sender is in the queue, and the queue is in `self`: it is not dropped unused.
        mine.await.unwrap_or_else(|_| Turn(self.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        let Some((_, next)) = queue.waiting.pop_first() else {
            queue.free += 1;
            return;
        };
        drop(queue);
        // Whoever stopped waiting gives its turn back, by the same way.
        let _ = next.send(Turn(self.0.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn early_steps_go_first_however_late_they_come() {
        let sending = Sending::at_once(1);
        let held = sending.turn(9).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut all = tokio::task::JoinSet::new();
        for (name, place) in [("kubelet", 5), ("api", 3), ("etcd", 1), ("etcd too", 1)] {
            let (sending, order) = (sending.clone(), order.clone());
            all.spawn(async move {
                let _turn = sending.turn(place).await;
                order.lock().unwrap().push(name);
            });
            tokio::task::yield_now().await;
        }
        drop(held);
        all.join_all().await;
        assert_eq!(*order.lock().unwrap(), ["etcd", "etcd too", "api", "kubelet"]);
    }

    #[tokio::test]
    async fn who_gave_up_waiting_does_not_keep_the_turn() {
        let sending = Sending::at_once(1);
        let held = sending.turn(1).await;
        let waiting = tokio::spawn({
            let sending = sending.clone();
            async move { sending.turn(1).await }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        let _ = waiting.await;
        drop(held);
        drop(sending.turn(2).await);
        assert_eq!(sending.queue().free, 1);
    }
}
