//! Heredocs: `<<NAME`, and `<<-NAME`, which takes away the indentation of
//! its closing line from every line.

use crate::lexer::Cursor;
use crate::{Error, ErrorKind};

/// Reads a heredoc; the cursor stands at its `<`.
///
/// The text ends with the line end before the closing marker, which may be
/// indented in both forms.
pub(crate) fn heredoc(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    let start = cursor.position();
    let refuse = || Error::new(start, ErrorKind::HeredocMarker);
    if !cursor.rest().starts_with("<<") {
        return Err(Error::new(start, ErrorKind::Character('<')));
    }
    cursor.take(2);
    let indented = cursor.peek() == Some('-');
    if indented {
        cursor.next();
    }
    let marker = cursor.take_while(|c| c == '_' || c.is_alphanumeric());
    let line_end = cursor.take_while(|c| c == '\r');
    if marker.is_empty() || line_end.len() > 1 || cursor.next() != Some('\n') {
        return Err(refuse());
    }

    let mut lines = Vec::new();
    loop {
        let rest = cursor.rest();
        let (line, ended) = match rest.find('\n') {
            Some(end) => (&rest[..end], true),
            None => (rest, false),
        };
        if line.trim_end_matches('\r').trim_start() == marker {
            // The line end behind the marker belongs to what follows.
            cursor.take(line.len());
            let indent = &line[..line.len() - line.trim_start().len()];
            return Ok(join(&lines, if indented { indent } else { "" }));
        }
        if !ended {
            let marker = marker.chars().take(40).collect();
            return Err(Error::new(start, ErrorKind::OpenHeredoc(marker)));
        }
        cursor.take(line.len() + 1);
        lines.push(line);
    }
}

/// Joins lines, without `indent` if all of them have it.
fn join(lines: &[&str], indent: &str) -> String {
    let all = lines.iter().all(|line| line.starts_with(indent));
    let cut = if all { indent.len() } else { 0 };
    let mut text = String::new();
    for line in lines {
        text.push_str(&line[cut..]);
        text.push('\n');
    }
    text
}
