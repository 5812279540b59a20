//! What comes instead of what was asked for.

use std::time::Duration;

use serde_json::json;

/// What comes instead of a list or a watch.
#[derive(Clone, Debug)]
pub enum Answer {
    /// That status, in the API server's words.
    Status(u16),
    /// Somebody else's page.
    Page {
        /// Its status.
        status: u16,
        /// Its `Content-Type`.
        content_type: &'static str,
        /// Its `Retry-After`, in seconds.
        retry_after: Option<u32>,
        /// Its text.
        body: String,
    },
    /// The connection breaks after half of the body.
    Cut,
    /// Eight bytes of the body at a time, so far apart.
    Trickle(Duration),
}

// === impl Answer ===

impl Answer {
    /// Somebody else's page, without `Retry-After`.
    #[must_use]
    pub fn page(status: u16, content_type: &'static str, body: &str) -> Self {
        Self::Page { status, content_type, retry_after: None, body: body.to_owned() }
    }

    /// What an API server, or somebody in its place, may answer to a request for a list of pods: name, answer, and
    /// what an error about it says.
    #[must_use]
    pub fn odd() -> Vec<(&'static str, Self, &'static str)> {
        let html = format!("<html><body>{}</body></html>", "sign in here ".repeat(10_000));
        let status = json!({"kind": "Status", "code": 500, "message": format!("it\u{1b}[31m is{}", " bad".repeat(500))});
        vec![
            ("500", Self::Status(500), "500 this request was told to fail"),
            (
                "503 in the API server's words",
                Self::page(503, "application/json", &status.to_string()),
                "503 it[31m is bad bad",
            ),
            (
                "502 from a proxy",
                Self::page(502, "text/html", &html),
                "502 without a status of the API server (text/html)",
            ),
            ("429 as plain text", Self::page(429, "text/plain", "Too many requests"), "429 without a status"),
            ("404", Self::page(404, "application/json", "{}"), "404 without a status"),
            ("302", Self::page(302, "text/html", ""), "302 without a status"),
            ("204", Self::page(204, "text/html", ""), "204 without a status"),
            ("200 with a page", Self::page(200, "text/html", &html), "200 without a list (text/html)"),
            (
                "200 with nothing",
                Self::page(200, "application/json", ""),
                "200 without a list (application/json)",
            ),
            ("200 with an empty object", Self::page(200, "application/json", "{}"), "200 without a list"),
            (
                "200 with garbage",
                Self::page(200, "application/json", "{\"kind\":\"PodList\",\u{0}"),
                "200 without a list",
            ),
            (
                "200 with a list of something else",
                Self::page(
                    200,
                    "application/json",
                    r#"{"kind":"SecretList","metadata":{"resourceVersion":"9"},"items":[]}"#,
                ),
                "200 without a list",
            ),
            (
                "200 with a list of no version",
                Self::page(
                    200,
                    "application/json",
                    r#"{"kind":"PodList","metadata":{"resourceVersion":""},"items":[]}"#,
                ),
                "200 without a list",
            ),
            ("half a body", Self::Cut, "cannot list pods: "),
        ]
    }
}
