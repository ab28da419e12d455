//! What every room uses: events, errors, and what must not be seen or may not be printed.

pub mod event;
pub mod failure;
pub mod poll;
pub mod printable;
pub mod redact;
pub mod time_scale;
pub mod tls;

/// Processors that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
