//! A client of server-sent events, as the standard describes it.

use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::Value;

use super::DEADLINE;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

/// An open stream of events.
pub(crate) struct Events {
    response: reqwest::Response,
    text: String,
    /// Comments seen so far.
    pub(crate) heartbeats: usize,
}

impl Events {
    pub(crate) async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().expect("text");
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self {
            response,
            text: String::new(),
            heartbeats: 0,
        }
    }

    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                if block.starts_with(':') {
                    self.heartbeats += 1;
                    continue;
                }
                return Some(parse(&block));
            }
            let chunk = tokio::time::timeout(DEADLINE, self.response.chunk());
            let chunk = chunk.await.expect("something comes in time").expect("reads")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// The next event, which has this name.
    pub(crate) async fn expect(&mut self, name: &str) -> Event {
        let event = self.next().await.expect("an event");
        assert_eq!(event.name, name, "{event:?}");
        event
    }

    /// Events up to the first for which this holds, that one included.
    pub(crate) async fn until(&mut self, mut last: impl FnMut(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await.expect("an event");
            events.push(event.clone());
            if last(&event) {
                return events;
            }
        }
    }

    /// Whether nothing but signs of life comes for so long.
    pub(crate) async fn is_silent(&mut self, for_so_long: Duration) -> bool {
        tokio::time::timeout(for_so_long, self.next()).await.is_err()
    }
}

fn parse(block: &str) -> Event {
    let field = |name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name));
        line.map_or_else(String::new, |value| value.trim_start().to_owned())
    };
    Event {
        name: field("event:"),
        id: field("id:"),
        data: serde_json::from_str(&field("data:")).expect("JSON"),
    }
}
