//! Bytes of a stream as text.

/// Decodes UTF-8 that arrives in pieces. It never splits a character, and
/// bytes that are no UTF-8 become U+FFFD, as with `String::from_utf8_lossy`.
///
/// ```
/// let mut decoder = stacyvm::sandbox::text::Utf8Decoder::new();
/// assert_eq!(decoder.push(b"na\xc3"), "na");
/// assert_eq!(decoder.push(b"\xafve"), "\u{ef}ve");
/// assert_eq!(decoder.finish(), "");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Utf8Decoder {
    /// The begin of a character whose rest did not arrive yet.
    open: [u8; 4],
    length: usize,
}

impl Utf8Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and gives the text that is certain by now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        if self.length == 0 {
            return self.decode(bytes);
        }
        let mut joined = Vec::with_capacity(self.length + bytes.len());
        joined.extend_from_slice(&self.open[..self.length]);
        joined.extend_from_slice(bytes);
        self.length = 0;
        self.decode(&joined)
    }

    /// Ends the stream: a character that was never completed becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = if self.length == 0 { "" } else { "\u{fffd}" };
        self.length = 0;
        text.to_owned()
    }

    fn decode(&mut self, mut bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        loop {
            match std::str::from_utf8(bytes) {
                Ok(rest) => {
                    text.push_str(rest);
                    return text;
                }
                Err(error) => {
                    let (good, bad) = bytes.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(good));
                    let Some(length) = error.error_len() else {
                        // At most three bytes: a character has at most four.
                        self.length = bad.len().min(4);
                        self.open[..self.length].copy_from_slice(&bad[..self.length]);
                        return text;
                    };
                    text.push('\u{fffd}');
                    bytes = &bad[length..];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_cut_gives_the_same_text() {
        let samples: [&[u8]; 8] = [
            "aä€𝄞z".as_bytes(),
            b"",
            b"\xff\xfe",
            b"a\xe2\x82",
            b"\xe2\x82a",
            b"\xf0\x9f\x98",
            b"\xc3\xc3\xa4",
            b"\xed\xa0\x80x",
        ];
        for sample in samples {
            let expected = String::from_utf8_lossy(sample);
            for first in 0..=sample.len() {
                for second in first..=sample.len() {
                    let mut decoder = Utf8Decoder::new();
                    let mut text = decoder.push(&sample[..first]);
                    text += &decoder.push(&sample[first..second]);
                    text += &decoder.push(&sample[second..]);
                    text += &decoder.finish();
                    assert_eq!(text, expected, "{sample:?} at {first} and {second}");
                }
            }
        }
    }
}
