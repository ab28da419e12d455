#![no_main]

use kdiy_fuzz::signing_request::{der, holds, pem};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

// Changes are made to the DER; what cannot be read as PEM is changed as it is.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, _seed: u32| {
    let text = String::from_utf8_lossy(&data[..size]).into_owned();
    let Some(mut bytes) = der(&text) else { return fuzzer_mutate(data, size, max_size) };
    let size_of_der = bytes.len();
    bytes.resize(size_of_der + 256, 0);
    let most = bytes.len();
    let changed = fuzzer_mutate(&mut bytes, size_of_der, most);
    let text = pem(&bytes[..changed]);
    if text.len() > max_size {
        return size;
    }
    data[..text.len()].copy_from_slice(text.as_bytes());
    text.len()
});

fuzz_target!(|bytes: &[u8]| {
    let _ = holds(&String::from_utf8_lossy(bytes));
});
