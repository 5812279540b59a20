//! The floor: one thread that accepts, reads a head, writes an answer and closes, one client after the other; it waits
//! for each of them for ever.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::bare::Answer;

/// Longest head that is read, bytes.
const LONGEST_HEAD: usize = 8 << 10;

/// Serves until the process ends.
///
/// # Errors
/// When accepting fails.
pub fn serve(listener: &TcpListener, answer: &Answer) -> std::io::Result<()> {
    let rendered = Rendered::new(answer);
    loop {
        let (stream, _) = listener.accept()?;
        // A client that hangs up is none of a floor's business.
        let _ = rendered.answer(stream);
    }
}

/// Answers as bytes, by path.
struct Rendered {
    any: Vec<u8>,
    others: Vec<(String, Vec<u8>)>,
}

// === impl Rendered ===

impl Rendered {
    fn new(answer: &Answer) -> Self {
        let mut head = String::from("HTTP/1.1 200 OK\r\n");
        for (name, value) in &answer.headers {
            let value = value.to_str().unwrap_or_default();
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let whole = |body: &[u8]| {
            let head = format!("{head}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            [head.as_bytes(), body].concat()
        };
        let others = answer.others.iter().map(|(path, body)| (path.clone(), whole(body))).collect();
        Self { any: whole(&answer.body), others }
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = [0; LONGEST_HEAD];
        let mut read = 0;
        while !head[..read].ends_with(b"\r\n\r\n") {
            match stream.read(&mut head[read..])? {
                0 => return Ok(()),
                more => read += more,
            }
        }
        stream.write_all(self.rendered_for(&head[..read]))
    }

    fn rendered_for(&self, head: &[u8]) -> &[u8] {
        let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        self.others.iter().find(|(other, _)| other.as_bytes() == path).map_or(&self.any, |(_, bytes)| bytes)
    }
}
