//! Lines that put files in their places on a machine.

use crate::bundle::script::quote;

/// Where on each machine what it is sent lies until it is installed. Root's own.
pub const DELIVERED: &str = "/root/by-hand";

/// A line of install(1) that makes or copies `what`.
pub fn install(mode: &str, owner: &str, what: &str, path: &str) -> String {
    let (user, group) = owner.split_once(':').unwrap_or((owner, owner));
    let (user, group) = (quote(user), quote(group));
    format!("install -m {mode} -o {user} -g {group} {what} {}", quote(path))
}

/// Copies what was delivered to its place.
pub fn installing(mode: &str, owner: &str, delivered: &str, path: &str) -> String {
    let source = quote(&format!("{DELIVERED}/{delivered}"));
    install(mode, owner, &format!("-D {source}"), path)
}
