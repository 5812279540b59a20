//! What two agents say to each other when one takes over from the other: a line of JSON each, no more.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Of the order and the meaning of the messages. A field more needs no other number: what is not known is ignored.
pub(super) const PROTOCOL: u32 = 1;
/// No line is longer.
pub(super) const LONGEST_BYTES: usize = 4096;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Message {
    /// The new agent's first word.
    Ask {
        /// [`PROTOCOL`] of the new one.
        protocol: u32,
        /// Of its program.
        version: String,
        /// Where it would listen.
        wants: Vec<SocketAddr>,
    },
    /// The old one's answer: the descriptors of its keeper socket and of these listeners come with it.
    Give {
        /// Of its program.
        version: String,
        /// What comes, in this order, after the keeper socket.
        listeners: Vec<SocketAddr>,
    },
    /// Or this one: the new agent has to wait for the old one's end.
    Refuse {
        /// For the log.
        reason: String,
    },
    /// The new one is ready, and takes what comes to these from now on.
    Ready {
        /// What it has taken over of that which was given.
        listeners: Vec<SocketAddr>,
    },
    /// A third one has taken over from the new one: the old one never comes back.
    PassedOn,
}

/// The line is none of ours.
#[derive(Debug, thiserror::Error)]
#[error("not a message of a hand-over: {0}")]
pub(super) struct NotAMessage(#[from] serde_json::Error);

// === impl Message ===

impl Message {
    /// As it is sent, its end of line included.
    pub(super) fn encode(&self) -> Vec<u8> {
        // Numbers, strings and addresses: there is nothing that JSON could not hold.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// A line as it was read, with or without its end.
    pub(super) fn decode(line: &[u8]) -> Result<Self, NotAMessage> {
        Ok(serde_json::from_slice(line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(Message, &'static str)> {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        vec![
            (
                Message::Ask {
                    protocol: 1,
                    version: "0.1.0".into(),
                    wants: vec![at("169.254.169.254:80"), at("[::]:9543")],
                },
                r#"{"ask":{"protocol":1,"version":"0.1.0","wants":["169.254.169.254:80","[::]:9543"]}}"#,
            ),
            (
                Message::Give { version: "0.1.0".into(), listeners: vec![at("[fd00:ec2::254]:80")] },
                r#"{"give":{"version":"0.1.0","listeners":["[fd00:ec2::254]:80"]}}"#,
            ),
            (Message::Refuse { reason: "no".into() }, r#"{"refuse":{"reason":"no"}}"#),
            (Message::Ready { listeners: Vec::new() }, r#"{"ready":{"listeners":[]}}"#),
            (Message::PassedOn, r#""passed-on""#),
        ]
    }

    #[test]
    fn every_message_is_one_line_that_stays_as_it_is_between_versions() {
        for (message, text) in all() {
            assert_eq!(message.encode(), format!("{text}\n").into_bytes());
            assert_eq!(Message::decode(text.as_bytes()).unwrap(), message);
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        let more = br#"{"give":{"version":"9.0.0","listeners":[],"weather":"fine"}}"#;
        assert_eq!(
            Message::decode(more).unwrap(),
            Message::Give { version: "9.0.0".into(), listeners: Vec::new() }
        );
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for line in [&b""[..], b"GET / HTTP/1.1", b"{}", br#"{"ask":{}}"#, br#"{"shrug":{}}"#, b"\xff"] {
            assert!(Message::decode(line).is_err(), "{line:?}");
        }
    }
}
