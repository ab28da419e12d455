#![no_main]

mod swap;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

/// Numbers that are none, marks of sections and lines, and characters that a terminal shows in its
/// own way.
const WORDS: &[&str] = &[
    "inf",
    "-inf",
    "NaN",
    "1e308",
    "-1",
    "18446744073709551615",
    "-9223372036854775808",
    "ffffffffffffffffffffffff",
    "@etcd\n",
    "@system\n",
    "@readyz\n",
    "@stats\n",
    "@fsync\n",
    "@holds\n",
    "@certificate ",
    "@kubeconfig ",
    "@status\n",
    "@members\n",
    "@alarms\n",
    "@kdiy did ",
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "apiservers,kdiy-master-1,",
    "ActiveState=active\n",
    "ActiveEnterTimestampMonotonic=",
    "Id=",
    "done=yes\n",
    "[-]",
    "curl:",
    "[[[[[[[[",
    "{\"a\":",
    "\u{202e}",
    "\u{1f469}\u{200d}\u{1f527}",
    "\x1b[2J",
    "&a ",
    "*a",
    "<<: ",
    "---\n",
];

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    swap::mutate(data, size, max_size, seed, WORDS)
});

// What is not UTF-8 is replaced before anything is read of it.
fuzz_target!(|bytes: &[u8]| kdiy_fuzz::remote_answer::holds(&String::from_utf8_lossy(bytes)));
