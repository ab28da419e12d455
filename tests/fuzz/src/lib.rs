//! What has to hold of every text that kdiy reads. The fuzzer tries texts of its own making; with
//! the seeds every `cargo test` tries these.

pub mod cluster_file;
pub mod kubeconfig;
pub mod playbook;
pub mod remote_answer;
pub mod signing_request;
