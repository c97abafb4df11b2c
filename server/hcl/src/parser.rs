//! The grammar of HCL 1.

use crate::lexer::{Lexer, Token};
use crate::{Error, ErrorKind, Item, Key, MAX_DEPTH, Node, Object, Position, Syntax, Value};

/// Reads a document.
pub(crate) fn parse(source: &str) -> Result<Object, Error> {
    let mut parser = Parser { lexer: Lexer::new(source), ahead: None, depth: 0 };
    let items = parser.items()?;
    let (token, position) = parser.next()?;
    if token != Token::End {
        return Err(expected(position, "a name", &token));
    }
    Ok(Object { items, position: Position::START, syntax: Syntax::Hcl })
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    ahead: Option<(Token, Position)>,
    depth: usize,
}

impl Parser<'_> {
    /// Attributes and blocks, up to a `}` or the end, neither of which is
    /// taken. A comma may follow each.
    fn items(&mut self) -> Result<Vec<Item>, Error> {
        let mut items = Vec::new();
        while !matches!(self.peek()?.0, Token::End | Token::CloseBrace) {
            items.push(self.item()?);
            if self.peek()?.0 == Token::Comma {
                self.next()?;
            }
        }
        Ok(items)
    }

    fn item(&mut self) -> Result<Item, Error> {
        let mut keys: Vec<Key> = Vec::new();
        loop {
            let (token, position) = self.next()?;
            match token {
                Token::Name(text) | Token::String(text) => keys.push(Key { text, position }),
                Token::Assign if keys.len() == 1 => {
                    let node = self.value()?;
                    return Ok(Item { keys, node });
                }
                Token::Assign if keys.len() > 1 => {
                    let name = keys.swap_remove(0).text;
                    return Err(Error::new(position, ErrorKind::LabelledAttribute(name)));
                }
                Token::OpenBrace if !keys.is_empty() => {
                    let node = self.object(position)?;
                    return Ok(Item { keys, node });
                }
                other if keys.is_empty() => return Err(expected(position, "a name", &other)),
                other => return Err(expected(position, "`=` or `{`", &other)),
            }
        }
    }

    fn value(&mut self) -> Result<Node, Error> {
        let (token, position) = self.next()?;
        let value = match token {
            Token::String(text) | Token::Heredoc(text) => Value::String(text),
            Token::Number(number) => Value::Number(number),
            Token::Bool(value) => Value::Bool(value),
            Token::OpenBracket => return self.list(position),
            Token::OpenBrace => return self.object(position),
            Token::Name(_) => {
                return Err(expected(position, "a value (text needs quotes)", &token));
            }
            other => return Err(expected(position, "a value", &other)),
        };
        Ok(Node { value, position })
    }

    /// What follows a `{` that stood at `position`.
    fn object(&mut self, position: Position) -> Result<Node, Error> {
        self.enter(position)?;
        let items = self.items()?;
        let (token, end) = self.next()?;
        if token != Token::CloseBrace {
            return Err(expected(end, "`}`", &token));
        }
        self.depth -= 1;
        let object = Object { items, position, syntax: Syntax::Hcl };
        Ok(Node { value: Value::Object(object), position })
    }

    /// What follows a `[` that stood at `position`. A comma too many is no
    /// error in HCL 1.
    fn list(&mut self, position: Position) -> Result<Node, Error> {
        self.enter(position)?;
        let mut nodes = Vec::new();
        while self.peek()?.0 != Token::CloseBracket {
            if self.peek()?.0 == Token::Comma {
                self.next()?;
                continue;
            }
            nodes.push(self.value()?);
            let (token, position) = self.peek()?;
            match token {
                Token::Comma => {
                    self.next()?;
                }
                Token::CloseBracket => {}
                other => return Err(expected(*position, "`,` or `]`", other)),
            }
        }
        self.next()?;
        self.depth -= 1;
        Ok(Node { value: Value::List(nodes), position })
    }

    fn enter(&mut self, position: Position) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Error::new(position, ErrorKind::TooDeep));
        }
        Ok(())
    }

    fn peek(&mut self) -> Result<&(Token, Position), Error> {
        let token = match self.ahead.take() {
            Some(token) => token,
            None => self.lexer.next()?,
        };
        Ok(self.ahead.insert(token))
    }

    fn next(&mut self) -> Result<(Token, Position), Error> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.lexer.next(),
        }
    }
}

fn expected(position: Position, expected: &'static str, found: &Token) -> Error {
    let found = found.describe();
    Error::new(position, ErrorKind::Expected { expected, found })
}
