#![no_main]

mod swap;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

/// Values at the edges of what a number, a duration, a network or a word of YAML can be.
const WORDS: &[&str] = &[
    "0",
    "-1",
    "254",
    "4294967295",
    "18446744073709551615",
    "9223372036854775807s",
    "2562047788015215h",
    "1ns",
    "0s",
    "1h30m",
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.255.255.255/32",
    "255.255.255.255",
    "::1",
    "null",
    "true",
    "yes",
    "~",
    ".inf",
    "0x10",
    "1e3",
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "|\n",
    ">-\n",
    "? ",
    "---\n",
    "\"\\u0085\"",
    "\"\\u2028\"",
    "\"\\uFEFF\"",
    "\"\\0\"",
    "provider: existing\n",
    "provider: docker\n",
    "topology: external",
    "mode: dedicated",
    "mode: external",
    "mode: none",
    "cni: none",
    "vip: ",
    "role: load-balancer",
    "role: etcd",
    "https://",
];

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    swap::mutate(data, size, max_size, seed, WORDS)
});

// A file that is not UTF-8 is refused before any of it is read.
fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = kdiy_fuzz::cluster_file::holds(text);
    }
});
