//! The words of HCL.

use crate::{Error, ErrorKind, Number, Position, heredoc, text};

/// A word of HCL.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Name(String),
    String(String),
    Heredoc(String),
    Number(Number),
    Bool(bool),
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    Assign,
    Comma,
    End,
}

impl Token {
    /// The token for a message.
    pub(crate) fn describe(&self) -> String {
        match self {
            Token::Name(_) => "a name without quotes".to_owned(),
            Token::String(_) => "a string".to_owned(),
            Token::Heredoc(_) => "a heredoc".to_owned(),
            Token::Number(_) => "a number".to_owned(),
            Token::Bool(value) => format!("{value}"),
            Token::OpenBrace => "`{`".to_owned(),
            Token::CloseBrace => "`}`".to_owned(),
            Token::OpenBracket => "`[`".to_owned(),
            Token::CloseBracket => "`]`".to_owned(),
            Token::Assign => "`=`".to_owned(),
            Token::Comma => "`,`".to_owned(),
            Token::End => "the end of the document".to_owned(),
        }
    }
}

/// A comment, as the formatter keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Comment<'a> {
    /// Its text with its marks.
    pub text: &'a str,
    pub line: u32,
    pub end_line: u32,
}

/// Where the reader stands in a document.
pub(crate) struct Cursor<'a> {
    rest: &'a str,
    position: Position,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(source: &'a str) -> Cursor<'a> {
        Cursor { rest: source, position: Position::START }
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn rest(&self) -> &'a str {
        self.rest
    }

    pub(crate) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(crate) fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.position.pass(c);
        Some(c)
    }

    /// Passes over `bytes` bytes, which must end between two characters.
    pub(crate) fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        for c in taken.chars() {
            self.position.pass(c);
        }
        self.rest = rest;
        taken
    }

    pub(crate) fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        self.take(end)
    }
}

/// Cuts a document into tokens, each with its place.
pub(crate) struct Lexer<'a> {
    cursor: Cursor<'a>,
    /// The comments passed over, if somebody asked for them.
    comments: Option<Vec<Comment<'a>>>,
    /// What stood from the last token on when it was read.
    last: &'a str,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(source: &'a str) -> Lexer<'a> {
        Lexer { cursor: Cursor::new(source), comments: None, last: source }
    }

    /// A lexer that keeps comments.
    pub(crate) fn with_comments(source: &'a str) -> Lexer<'a> {
        Lexer { comments: Some(Vec::new()), ..Lexer::new(source) }
    }

    /// The comments passed over since this was asked last.
    pub(crate) fn take_comments(&mut self) -> Vec<Comment<'a>> {
        self.comments.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The last token as it was written.
    pub(crate) fn last_text(&self) -> &'a str {
        &self.last[..self.last.len() - self.cursor.rest().len()]
    }

    /// Where the reader stands.
    pub(crate) fn position(&self) -> Position {
        self.cursor.position()
    }

    /// The next token; [`Token::End`] again and again at the end.
    pub(crate) fn next(&mut self) -> Result<(Token, Position), Error> {
        self.pass_blanks_and_comments()?;
        let position = self.cursor.position();
        self.last = self.cursor.rest();
        let Some(c) = self.cursor.peek() else {
            return Ok((Token::End, position));
        };
        let token = match c {
            '{' => self.single(Token::OpenBrace),
            '}' => self.single(Token::CloseBrace),
            '[' => self.single(Token::OpenBracket),
            ']' => self.single(Token::CloseBracket),
            '=' => self.single(Token::Assign),
            ',' => self.single(Token::Comma),
            '"' => Token::String(text::quoted(&mut self.cursor)?),
            '<' => Token::Heredoc(heredoc::heredoc(&mut self.cursor)?),
            '-' | '0'..='9' => Token::Number(self.number(position)?),
            c if begins_name(c) => name_or_bool(self.cursor.take_while(continues_name)),
            c => return Err(Error::new(position, ErrorKind::Character(c))),
        };
        Ok((token, position))
    }

    fn single(&mut self, token: Token) -> Token {
        self.cursor.next();
        token
    }

    fn pass_blanks_and_comments(&mut self) -> Result<(), Error> {
        loop {
            self.cursor.take_while(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
            let rest = self.cursor.rest();
            let line = self.cursor.position().line;
            let text = if rest.starts_with('#') || rest.starts_with("//") {
                self.cursor.take_while(|c| c != '\n')
            } else if let Some(body) = rest.strip_prefix("/*") {
                let Some(end) = body.find("*/") else {
                    return Err(Error::new(self.cursor.position(), ErrorKind::OpenComment));
                };
                self.cursor.take(2 + end + 2)
            } else {
                return Ok(());
            };
            let end_line = self.cursor.position().line;
            if let Some(comments) = &mut self.comments {
                let text = text.trim_end();
                comments.push(Comment { text, line, end_line });
            }
        }
    }

    fn number(&mut self, position: Position) -> Result<Number, Error> {
        let rest = self.cursor.rest();
        let mut end = usize::from(rest.starts_with('-'));
        let mut before = ' ';
        for c in rest[end..].chars() {
            let sign_of_exponent = matches!(c, '+' | '-') && matches!(before, 'e' | 'E');
            if !(c.is_alphanumeric() || matches!(c, '_' | '.') || sign_of_exponent) {
                break;
            }
            end += c.len_utf8();
            before = c;
        }
        let text = self.cursor.take(end);
        Number::new(text).ok_or_else(|| Error::new(position, ErrorKind::Number))
    }
}

fn name_or_bool(text: &str) -> Token {
    match text {
        "true" => Token::Bool(true),
        "false" => Token::Bool(false),
        name => Token::Name(name.to_owned()),
    }
}

fn begins_name(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn continues_name(c: char) -> bool {
    begins_name(c) || c.is_numeric() || matches!(c, '-' | '.')
}
