//! The JSON form.
//!
//! JSON as the standard has it, except that a name may be given twice (both
//! stay) and that a comma may follow the last member or element, as the
//! reference allows.

use crate::lexer::Cursor;
use crate::{Error, ErrorKind, Item, Key, MAX_DEPTH, Node, Number, Object, Position, Syntax, Value};

/// Reads a document, which must be one object.
pub(crate) fn parse(source: &str) -> Result<Object, Error> {
    let mut parser = Parser { cursor: Cursor::new(source), depth: 0 };
    parser.pass_blanks();
    let node = parser.value()?;
    parser.pass_blanks();
    match (node.value, parser.cursor.peek()) {
        (Value::Object(object), None) => Ok(object),
        _ => Err(parser.expected("the end of the document")),
    }
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    depth: usize,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Node, Error> {
        let position = self.cursor.position();
        let value = match self.cursor.peek() {
            Some('{') => Value::Object(self.object(position)?),
            Some('[') => Value::List(self.list(position)?),
            Some('"') => Value::String(self.string()?),
            Some('-' | '0'..='9') => Value::Number(self.number(position)?),
            Some('a'..='z') => self.word(position)?,
            _ => return Err(self.expected("a value")),
        };
        Ok(Node { value, position })
    }

    fn object(&mut self, position: Position) -> Result<Object, Error> {
        self.enter(position)?;
        let mut items = Vec::new();
        loop {
            self.pass_blanks();
            match self.cursor.peek() {
                Some('}') => break,
                Some('"') => items.push(self.member()?),
                _ => return Err(self.expected("a name in quotes or `}`")),
            }
            self.pass_blanks();
            match self.cursor.peek() {
                Some(',') => self.cursor.next(),
                Some('}') => break,
                _ => return Err(self.expected("`,` or `}`")),
            };
        }
        self.cursor.next();
        self.depth -= 1;
        Ok(Object { items, position, syntax: Syntax::Json })
    }

    fn member(&mut self) -> Result<Item, Error> {
        let position = self.cursor.position();
        let text = self.string()?;
        self.pass_blanks();
        if self.cursor.peek() != Some(':') {
            return Err(self.expected("`:`"));
        }
        self.cursor.next();
        self.pass_blanks();
        let node = self.value()?;
        let keys = vec![Key { text, position }];
        Ok(Item { keys, node })
    }

    fn list(&mut self, position: Position) -> Result<Vec<Node>, Error> {
        self.enter(position)?;
        let mut nodes = Vec::new();
        loop {
            self.pass_blanks();
            if self.cursor.peek() == Some(']') {
                break;
            }
            nodes.push(self.value()?);
            self.pass_blanks();
            match self.cursor.peek() {
                Some(',') => self.cursor.next(),
                Some(']') => break,
                _ => return Err(self.expected("`,` or `]`")),
            };
        }
        self.cursor.next();
        self.depth -= 1;
        Ok(nodes)
    }

    /// Counts the opening bracket, which is taken.
    fn enter(&mut self, position: Position) -> Result<(), Error> {
        self.cursor.next();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Error::new(position, ErrorKind::TooDeep));
        }
        Ok(())
    }

    fn string(&mut self) -> Result<String, Error> {
        let start = self.cursor.position();
        self.cursor.next();
        let mut text = String::new();
        loop {
            let position = self.cursor.position();
            match self.cursor.next() {
                None | Some('\n') => return Err(Error::new(start, ErrorKind::OpenString)),
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape(position)?),
                Some(c) if c < ' ' && c != '\t' => {
                    return Err(Error::new(position, ErrorKind::Character(c)));
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self, position: Position) -> Result<char, Error> {
        let refuse = || Error::new(position, ErrorKind::Escape);
        match self.cursor.next().ok_or_else(refuse)? {
            'b' => Ok('\u{8}'),
            'f' => Ok('\u{c}'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            c @ ('\\' | '"' | '/') => Ok(c),
            'u' => {
                let mut units = vec![self.code_unit().ok_or_else(refuse)?];
                if (0xd800..0xdc00).contains(&units[0]) && self.cursor.rest().starts_with("\\u") {
                    self.cursor.take(2);
                    units.push(self.code_unit().ok_or_else(refuse)?);
                }
                let text = String::from_utf16(&units).map_err(|_| refuse())?;
                text.chars().next().ok_or_else(refuse)
            }
            _ => Err(refuse()),
        }
    }

    fn code_unit(&mut self) -> Option<u16> {
        let mut value = 0_u32;
        for _ in 0..4 {
            value = value * 16 + self.cursor.next()?.to_digit(16)?;
        }
        u16::try_from(value).ok()
    }

    fn number(&mut self, position: Position) -> Result<Number, Error> {
        let text = self.cursor.take_while(|c| c.is_alphanumeric() || matches!(c, '.' | '+' | '-' | '_'));
        let digits = text.strip_prefix('-').unwrap_or(text);
        let zero_led =
            digits.len() > 1 && digits.starts_with('0') && !matches!(digits.as_bytes()[1], b'.' | b'e' | b'E');
        Number::new(text).filter(|_| !zero_led).ok_or_else(|| Error::new(position, ErrorKind::Number))
    }

    fn word(&mut self, position: Position) -> Result<Value, Error> {
        match self.cursor.take_while(|c| c.is_ascii_lowercase()) {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "null" => Ok(Value::Null),
            _ => Err(Error::new(
                position,
                ErrorKind::Expected { expected: "a value", found: "a word without quotes".to_owned() },
            )),
        }
    }

    fn pass_blanks(&mut self) {
        self.cursor.take_while(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
    }

    fn expected(&self, expected: &'static str) -> Error {
        let found = match self.cursor.peek() {
            Some(c) => format!("{c:?}"),
            None => "the end of the document".to_owned(),
        };
        Error::new(self.cursor.position(), ErrorKind::Expected { expected, found })
    }
}
