//! A hook for tests only: `KDIY_STOP_AT=TASK[:before|:after]` ends this process where that task
//! begins or ends, as a power failure would: it flushes nothing, notifies nobody, and cuts off
//! other running tasks.

/// Names the boundary, such as `etcd@kdiy-master-1:after`.
const VARIABLE: &str = "KDIY_STOP_AT";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    Before,
    After,
}

/// Does not return where this is the boundary to stop at.
pub fn stop_at(task: &str, moment: Failpoint) {
    if std::env::var(VARIABLE).is_ok_and(|wanted| boundary(&wanted) == (task, moment)) {
        std::process::abort();
    }
}

fn boundary(wanted: &str) -> (&str, Failpoint) {
    match wanted.strip_suffix(":after") {
        Some(task) => (task, Failpoint::After),
        None => (wanted.strip_suffix(":before").unwrap_or(wanted), Failpoint::Before),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_is_one_side_of_a_task() {
        assert_eq!(boundary("gate:etcd:after"), ("gate:etcd", Failpoint::After));
        assert_eq!(boundary("etcd@m-1:before"), ("etcd@m-1", Failpoint::Before));
        assert_eq!(boundary("make"), ("make", Failpoint::Before));
    }
}
