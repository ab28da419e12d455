//! What has to hold of every text that kdiy reads, tried with the texts that fuzzing begins with
//! (`cargo lab fuzz`).

#[path = "fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::Path;

/// Tries every seed of a target, and what is left of it when it is cut off after any line. All of
/// it has to be accepted: a text that is refused at once would be a poor beginning.
fn holds(target: &str, property: fn(&str) -> Result<(), String>) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut tried = 0;
    for seed in fs::read_dir(&seeds).unwrap() {
        let path = seed.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        property(&text).unwrap_or_else(|reason| panic!("{}: {reason}", path.display()));
        for (end, _) in text.match_indices('\n') {
            let _ = property(&text[..end]);
        }
        tried += 1;
    }
    assert!(tried > 0, "{target} has no seeds");
}

#[test]
fn cluster_files_are_refused_or_make_sense() {
    holds("cluster_file", fuzz::cluster_file::holds);
}

#[test]
fn kubeconfigs_lose_nothing() {
    holds("kubeconfig", fuzz::kubeconfig::holds);
}

#[test]
fn playbooks_are_refused_or_come_to_something() {
    holds("playbook", fuzz::playbook::holds);
}

#[test]
fn signing_requests_are_refused_or_say_the_same_to_everybody() {
    holds("signing_request", fuzz::signing_request::holds);
}

#[test]
fn answers_break_no_reader() {
    // Each is meant for one of the readers, and refused by others.
    holds("remote_answer", |text| {
        fuzz::remote_answer::holds(text);
        Ok(())
    });
}
