//! Quoted strings: escapes, and `${ … }` kept as plain text.

use crate::lexer::Cursor;
use crate::{Error, ErrorKind, Position};

/// Reads a string of HCL; the cursor stands at its opening quote.
///
/// Between `${` and its `}` quotes and line ends belong to the string and
/// nothing is an escape, as the language has it.
pub(crate) fn quoted(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    let start = cursor.position();
    cursor.next();
    let mut text = String::new();
    loop {
        let position = cursor.position();
        match cursor.next() {
            None | Some('\n') => return Err(Error::new(start, ErrorKind::OpenString)),
            Some('"') => return Ok(text),
            Some('\\') => text.push(escape(cursor, position)?),
            Some('$') if cursor.peek() == Some('{') => {
                text.push('$');
                interpolation(cursor, start, &mut text)?;
            }
            Some('\0') => return Err(Error::new(position, ErrorKind::Character('\0'))),
            Some(c) => text.push(c),
        }
    }
}

fn interpolation(cursor: &mut Cursor<'_>, start: Position, text: &mut String) -> Result<(), Error> {
    let mut open = 0_usize;
    loop {
        let c = cursor.next().ok_or_else(|| Error::new(start, ErrorKind::OpenString))?;
        text.push(c);
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Ok(());
        }
    }
}

/// Reads what follows a backslash that stood at `position`.
fn escape(cursor: &mut Cursor<'_>, position: Position) -> Result<char, Error> {
    let refuse = || Error::new(position, ErrorKind::Escape);
    let c = cursor.next().ok_or_else(refuse)?;
    let code = match c {
        'a' => return Ok('\u{7}'),
        'b' => return Ok('\u{8}'),
        'f' => return Ok('\u{c}'),
        'n' => return Ok('\n'),
        'r' => return Ok('\r'),
        't' => return Ok('\t'),
        'v' => return Ok('\u{b}'),
        '\\' | '"' => return Ok(c),
        'x' => digits(cursor, 16, 2, 0),
        'u' => digits(cursor, 16, 4, 0),
        'U' => digits(cursor, 16, 8, 0),
        '0'..='7' => digits(cursor, 8, 2, c.to_digit(8).unwrap_or(0)),
        _ => None,
    };
    code.and_then(char::from_u32).ok_or_else(refuse)
}

/// Exactly `count` digits of base `radix`, behind a first value.
fn digits(cursor: &mut Cursor<'_>, radix: u32, count: usize, first: u32) -> Option<u32> {
    let mut value = first;
    for _ in 0..count {
        value = value.checked_mul(radix)? + cursor.next()?.to_digit(radix)?;
    }
    Some(value)
}
