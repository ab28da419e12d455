//! A semaphore that admits waiting tasks in the order of the plan, not in the order of their
//! requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Like a semaphore with a permit for each that may be under way at once; but of those that wait,
/// not the one that came first goes on, but the one with the lowest place.
#[derive(Clone)]
pub struct PrioritySemaphore(Arc<Mutex<Queue>>);

struct Queue {
    free: usize,
    arrived: u64,
    /// By place, then by arrival.
    waiting: BTreeMap<(usize, u64), oneshot::Sender<Permit>>,
}

/// The next in line has it when this is dropped.
pub struct Permit(PrioritySemaphore);

impl PrioritySemaphore {
    pub fn at_once(free: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue { free, arrived: 0, waiting: BTreeMap::new() })))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until those with a lower place are under way and one may be.
    pub async fn turn(&self, place: usize) -> Permit {
        let mine = {
            let mut queue = self.queue();
            if queue.free > 0 {
                queue.free -= 1;
                return Permit(self.clone());
            }
            let (leave, mine) = oneshot::channel();
            let key = (place, queue.arrived);
            queue.arrived += 1;
            queue.waiting.insert(key, leave);
            mine
        };
        // The sender is in the queue, and the queue is in `self`: it is not dropped unused.
        mine.await.unwrap_or_else(|_| Permit(self.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        let Some((_, next)) = queue.waiting.pop_first() else {
            queue.free += 1;
            return;
        };
        drop(queue);
        // Whoever stopped waiting gives its turn back, by the same way.
        let _ = next.send(Permit(self.0.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn early_steps_go_first_even_if_they_queue_late() {
        let turns = PrioritySemaphore::at_once(1);
        let held = turns.turn(9).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut all = tokio::task::JoinSet::new();
        for (name, place) in [("kubelet", 5), ("api", 3), ("etcd", 1), ("etcd too", 1)] {
            let (turns, order) = (turns.clone(), order.clone());
            all.spawn(async move {
                let _turn = turns.turn(place).await;
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
        let turns = PrioritySemaphore::at_once(1);
        let held = turns.turn(1).await;
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.turn(1).await }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        let _ = waiting.await;
        drop(held);
        drop(turns.turn(2).await);
        assert_eq!(turns.queue().free, 1);
    }
}
