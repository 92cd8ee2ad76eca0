//! Follows a run's transactions to their end, over the gateway's event streams.
//!
//! One stream for each way to end, so that the gateway is not asked to tell every stage. A stream that breaks goes on
//! behind the last event that came; that it broke is counted, and so is a gateway that has forgotten that place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::Response;
use serde::Deserialize;

use super::super::answer::ClientError;
use super::super::client::Client;
use super::recorder::{Ending, Recorder};
use crate::domain::TransactionId;

/// A stream that broke is opened again after so long.
const PAUSE: Duration = Duration::from_millis(200);

/// How a transaction can come to rest, as the API's filters have it.
pub(super) const ENDINGS: [(&str, &str); 3] = [("status", "done"), ("status", "failed"), ("stage", "parked")];

/// One stream of events.
pub(super) struct Stream {
    client: Arc<Client>,
    ending: (&'static str, &'static str),
    run: String,
    response: Response,
    frames: Frames,
    last: Option<String>,
}

/// How well it went.
#[derive(Debug, Default)]
pub(super) struct Breaks {
    /// A stream broke.
    pub(super) broken: AtomicU64,
    /// And events between were missed.
    pub(super) gaps: AtomicU64,
}

/// What is read of a record.
#[derive(Deserialize)]
struct Told {
    id: TransactionId,
    status: String,
    attempts: u32,
    #[serde(default)]
    error: Option<Code>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

impl Stream {
    /// Opens a stream of those that end so. What is sent after this is not missed.
    pub(super) async fn open(
        client: &Arc<Client>,
        ending: (&'static str, &'static str),
        run: &str,
    ) -> Result<Self, ClientError> {
        let response = client.events(&query(ending, run), None).await?;
        let mut stream = Self {
            client: client.clone(),
            ending,
            run: run.to_owned(),
            response,
            frames: Frames::default(),
            last: None,
        };
        // Before it is ready, nothing is certain to be told.
        while stream.last.is_none() {
            match stream.read().await {
                Ok(Some(frame)) => stream.last = frame.id,
                Ok(None) | Err(_) => {
                    return Err(client.strange("the stream of events ended before it began"));
                }
            }
        }
        Ok(stream)
    }

    /// Tells the recorder what is told here, without end.
    pub(super) async fn follow(mut self, recorder: Arc<Recorder>, breaks: Arc<Breaks>) {
        loop {
            match self.read().await {
                Ok(Some(frame)) => self.take(frame, &recorder, &breaks),
                Ok(None) | Err(_) => {
                    breaks.broken.fetch_add(1, Ordering::Relaxed);
                    self.reopen().await;
                }
            }
        }
    }

    fn take(&mut self, frame: Frame, recorder: &Recorder, breaks: &Breaks) {
        if frame.id.is_some() {
            self.last = frame.id;
        }
        match frame.event.as_str() {
            "transaction" => match serde_json::from_str::<Told>(&frame.data) {
                Ok(told) => {
                    let ending = match (told.status.as_str(), told.error) {
                        ("done", _) => Ending::Done,
                        ("failed", error) => {
                            Ending::Failed(error.map_or_else(|| "unknown".to_owned(), |error| error.code))
                        }
                        _ => Ending::Parked,
                    };
                    recorder.settled(told.id, ending, told.attempts, Instant::now());
                }
                // As good as missed.
                Err(_) => {
                    breaks.gaps.fetch_add(1, Ordering::Relaxed);
                }
            },
            "reset" => {
                breaks.gaps.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    async fn reopen(&mut self) {
        loop {
            tokio::time::sleep(PAUSE).await;
            let query = query(self.ending, &self.run);
            if let Ok(response) = self.client.events(&query, self.last.as_deref()).await {
                self.response = response;
                self.frames = Frames::default();
                return;
            }
        }
    }

    /// The next event; `None` at the end of the stream.
    async fn read(&mut self) -> Result<Option<Frame>, reqwest::Error> {
        loop {
            if let Some(frame) = self.frames.next() {
                return Ok(Some(frame));
            }
            match self.response.chunk().await? {
                Some(chunk) => self.frames.push(&chunk),
                None => return Ok(None),
            }
        }
    }
}

fn query<'a>(ending: (&'a str, &'a str), run: &'a str) -> [(&'a str, &'a str); 2] {
    [ending, ("metadata.bench", run)]
}

/// One server-sent event.
#[derive(Debug, Default, PartialEq)]
struct Frame {
    event: String,
    id: Option<String>,
    data: String,
}

/// Cuts a stream into events.
#[derive(Debug, Default)]
struct Frames {
    buffer: Vec<u8>,
    /// Up to here it has been read.
    read: usize,
}

impl Frames {
    fn push(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole event that is not a mere comment.
    fn next(&mut self) -> Option<Frame> {
        loop {
            let rest = &self.buffer[self.read..];
            let end = rest.windows(2).position(|two| two == b"\n\n")?;
            let block = String::from_utf8_lossy(&rest[..end]).into_owned();
            self.read += end + 2;
            let mut frame = Frame::default();
            for line in block.lines() {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value);
                match name {
                    "event" => value.clone_into(&mut frame.event),
                    "id" => frame.id = Some(value.to_owned()),
                    "data" => frame.data.push_str(value),
                    _ => {}
                }
            }
            if frame != Frame::default() {
                return Some(frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_wherever_the_stream_is_cut() {
        let text = ":\n\nevent: ready\nid: 1-2\ndata: {}\n\n: beat\n\nevent: transaction\nid: 1-3\ndata: {\"ü\": 1}\n\nevent: rea";
        for size in 1..text.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                frames.push(chunk);
                found.extend(std::iter::from_fn(|| frames.next()));
            }
            let found: Vec<_> = found
                .iter()
                .map(|frame| (frame.event.as_str(), frame.id.as_deref(), frame.data.as_str()))
                .collect();
            assert_eq!(
                found,
                [
                    ("ready", Some("1-2"), "{}"),
                    ("transaction", Some("1-3"), "{\"ü\": 1}")
                ]
            );
        }
    }
}
