#![no_main]

mod swap;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

/// What templates are made of, and numbers at the edges.
const WORDS: &[&str] = &[
    "{{",
    "}}",
    "{{{{",
    "{{#if ",
    "{{/if}}",
    "{{#each ",
    "{{/each}}",
    "{{#unless ",
    "{{else}}",
    "{{> ",
    "{{#> ",
    "{{#*inline \"a\"}}",
    "{{/inline}}",
    "{{!--",
    "{{lookup ",
    "{{#with ",
    "(gt 1 2)",
    "../",
    "this",
    "@index",
    "@root",
    "{{milliseconds \"2562047788015215h\" 4294967295}}",
    "{{times \"9223372036854775807s\" 4294967295}}",
    "{{mebibytes 18446744073709551615}}",
    "{{indent 18446744073709551615 \"a\"}}",
    "{{join machines \",\"}}",
    "{{ruby cluster.name}}",
    "settings.",
    "facts.",
    "machine.",
    "seconds: 4294967295",
    "needs: ",
    "on: cluster",
    "on: nodes",
    "manifests: ",
    "action: mark-nodes",
    "with: ",
    "&a ",
    "*a",
    "<<: ",
];

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    swap::mutate(data, size, max_size, seed, WORDS)
});

// A file that is not UTF-8 is refused before any of it is read.
fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = kdiy_fuzz::playbook::holds(text);
    }
});
