//! Requests from a stream of lines, one JSON object each, in constant memory.

use std::collections::BTreeMap;
use std::io;

use reqwest::header::HeaderValue;
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::submit::{idempotency_key, random_key};

/// Longest line, in bytes; far above what a gateway takes.
const LONGEST_LINE: u64 = 128 * 1024 * 1024;

/// A request to hand in.
#[derive(Debug)]
pub(super) struct Line {
    /// Its number in the file, from 1.
    pub(super) number: u64,
    /// The JSON object, without the idempotency key.
    pub(super) body: String,
    /// The key of the line, or a random one.
    pub(super) key: HeaderValue,
}

/// Why a line is no request.
#[derive(Debug, Error)]
pub(super) enum LineError {
    /// This line is wrong; the next one may be right.
    #[error("line {number}: {reason}")]
    Wrong {
        /// Its number, from 1.
        number: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be read on.
    #[error("after line {number}: {source}")]
    Unreadable {
        /// The last line that could be read.
        number: u64,
        /// Why.
        source: io::Error,
    },
}

/// Reads lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    number: u64,
    /// Bytes read so far.
    pub(super) bytes: u64,
    buffer: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            number: 0,
            bytes: 0,
            buffer: Vec::new(),
        }
    }

    /// The next line that is not blank; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Line, LineError>> {
        loop {
            match self.fill().await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(source) => {
                    return Some(Err(LineError::Unreadable {
                        number: self.number,
                        source,
                    }));
                }
            }
            self.number += 1;
            let number = self.number;
            let wrong = |reason: String| Some(Err(LineError::Wrong { number, reason }));
            if self.buffer.len() as u64 >= LONGEST_LINE && self.buffer.last() != Some(&b'\n') {
                return match self.skip_line().await {
                    Ok(()) => wrong(format!("is longer than {LONGEST_LINE} bytes")),
                    Err(source) => Some(Err(LineError::Unreadable { number, source })),
                };
            }
            let Ok(text) = std::str::from_utf8(&self.buffer) else {
                return wrong("is not valid UTF-8".to_owned());
            };
            let text = if number == 1 {
                text.trim_start_matches('\u{feff}')
            } else {
                text
            };
            if text.trim().is_empty() {
                continue;
            }
            return match request(text.trim()) {
                Ok((body, key)) => Some(Ok(Line { number, body, key })),
                Err(reason) => wrong(reason),
            };
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.clear();
        // One enormous line must not keep its memory for the rest of the file.
        self.buffer.shrink_to(64 * 1024);
        let read = (&mut self.reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut self.buffer)
            .await?;
        self.bytes += read as u64;
        Ok(read)
    }

    /// Reads on to the next line.
    async fn skip_line(&mut self) -> io::Result<()> {
        while self.fill().await? > 0 && self.buffer.last() != Some(&b'\n') {}
        Ok(())
    }
}

/// Splits a line into what goes into the body and what goes into the header.
fn request(text: &str) -> Result<(String, HeaderValue), String> {
    const KEY: &str = "idempotency_key";
    let mut object: BTreeMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|error| format!("is not a JSON object: {error}"))?;
    let Some(key) = object.remove(KEY) else {
        // As it is: even what we do not understand is the gateway's to judge.
        return Ok((text.to_owned(), random_key()));
    };
    let key: String = serde_json::from_str(key.get()).map_err(|_| format!("{KEY} is not a string"))?;
    let body = serde_json::to_string(&object).map_err(|error| error.to_string())?;
    Ok((body, idempotency_key(&key)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &[u8]) -> Vec<String> {
        let mut lines = Lines::new(text);
        let mut seen = Vec::new();
        while let Some(line) = lines.next().await {
            seen.push(match line {
                Ok(line) => format!("{} {}", line.number, line.body),
                Err(error) => format!("error {error}"),
            });
        }
        assert_eq!(lines.bytes, text.len() as u64);
        seen
    }

    #[tokio::test]
    async fn bad_lines_are_numbered_and_do_not_stop_the_others() {
        let text = b"\xef\xbb\xbf{\"a\": 0.10}\r\n\n[1]\n{\"a\":\n\xff\n{\"idempotency_key\":5}\n{\"b\":2}";
        let seen = read(text).await;
        assert_eq!(seen.first().map(String::as_str), Some("1 {\"a\": 0.10}"));
        assert_eq!(seen.last().map(String::as_str), Some("7 {\"b\":2}"));
        let starts: Vec<&str> = seen[1..5].iter().map(|line| &line[..13]).collect();
        assert_eq!(
            starts,
            ["error line 3:", "error line 4:", "error line 5:", "error line 6:"]
        );
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn the_key_moves_to_the_header() {
        let (body, key) = request(r#"{"idempotency_key":"k 1","args":[0.10]}"#).expect("valid");
        assert_eq!(
            (body.as_str(), key.to_str().ok()),
            (r#"{"args":[0.10]}"#, Some("k 1"))
        );
        assert!(request(r#"{"idempotency_key":"\n"}"#).is_err());
        assert!(request(r#"{"idempotency_key":""}"#).is_err());
        let (one, two) = (request("{}").expect("valid").1, request("{}").expect("valid").1);
        assert_ne!(one, two);
    }
}
