//! Changes that a change of bytes hardly ever comes to: one whole value in place of another.

use libfuzzer_sys::fuzzer_mutate;

/// Half of the time the fuzzer's own changes; otherwise one of `words` before a word of the text,
/// or in its place. Gives the new size.
pub fn mutate(data: &mut [u8], size: usize, most: usize, seed: u32, words: &[&str]) -> usize {
    let swapped = if seed.is_multiple_of(2) { swap(&data[..size], seed / 2, words) } else { None };
    match swapped.filter(|text| text.len() <= most) {
        Some(text) => {
            data[..text.len()].copy_from_slice(&text);
            text.len()
        }
        None => fuzzer_mutate(data, size, most),
    }
}

/// `None` where there is no word.
fn swap(text: &[u8], seed: u32, words: &[&str]) -> Option<Vec<u8>> {
    let between = |byte: &u8| byte.is_ascii_whitespace() || b",:=\"'[]{}".contains(byte);
    let begins = |at: &usize| !between(&text[*at]) && (*at == 0 || between(&text[*at - 1]));
    let starts: Vec<usize> = (0..text.len()).filter(begins).collect();
    // A number for each choice.
    let [which, word, instead, _] = seed.to_le_bytes();
    let which = usize::from(which) | usize::from(instead >> 1) << 8;
    let start = *starts.get(which % starts.len().max(1))?;
    let length = text[start..].iter().position(between).unwrap_or(text.len() - start);
    let end = if instead & 1 == 1 { start + length } else { start };
    let word = words[usize::from(word) % words.len()].as_bytes();
    Some([&text[..start], word, &text[end..]].concat())
}
