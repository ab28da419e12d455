#![no_main]

mod swap;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

/// What YAML takes for something else than text, or writes in some other way.
const WORDS: &[&str] = &[
    "null",
    "true",
    "yes",
    "on",
    "~",
    ".inf",
    ".nan",
    "-0.0",
    "1e400",
    "0x10",
    "0o17",
    "017",
    "1_000",
    "1e3",
    "12:30:45",
    "2026-11-25",
    "18446744073709551616",
    "&a ",
    "*a",
    "<<: ",
    "!!binary ",
    "!!str ",
    "|+\n",
    ">2-\n",
    "? ",
    "---\n",
    "...\n",
    "\"\\u0085\"",
    "\"\\u2028\"",
    "\"\\uFEFF\"",
    "\"\\0\"",
    "\"\\x7f\"",
    "clusters:",
    "contexts:",
    "users:",
    "name: kdiy",
    "name: admin@kdiy",
    "current-context: ",
];

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    swap::mutate(data, size, max_size, seed, WORDS)
});

// A file that is not UTF-8 is refused before any of it is read.
fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = kdiy_fuzz::kubeconfig::holds(text);
    }
});
