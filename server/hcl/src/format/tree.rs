//! A document with its comments and the words as they were written.

use crate::lexer::{Comment, Lexer, Token};
use crate::{Error, ErrorKind};

/// What stands between braces, or the whole document.
#[derive(Debug, Default)]
pub(super) struct Body<'a> {
    pub parts: Vec<Part<'a>>,
}

#[derive(Debug)]
pub(super) enum Part<'a> {
    /// Comments that belong to no entry.
    Comments(Vec<&'a str>),
    Entry(Entry<'a>),
}

/// An attribute or a block.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// The comments right above it.
    pub lead: Vec<&'a str>,
    /// Name and labels as written.
    pub keys: Vec<&'a str>,
    pub assigned: bool,
    pub shape: Shape<'a>,
    /// The comments behind it.
    pub trail: Vec<&'a str>,
    /// The line of its name.
    pub line: u32,
}

#[derive(Debug)]
pub(super) enum Shape<'a> {
    /// A word as written; a heredoc has several lines.
    Word(&'a str),
    List(List<'a>),
    Body(Body<'a>),
}

#[derive(Debug, Default)]
pub(super) struct List<'a> {
    pub elements: Vec<Element<'a>>,
    /// The comments behind the last element.
    pub tail: Vec<Vec<&'a str>>,
    /// An element does not stand on the line of the bracket.
    pub spread: bool,
}

#[derive(Debug)]
pub(super) struct Element<'a> {
    pub lead: Vec<&'a str>,
    pub shape: Shape<'a>,
    pub trail: Vec<&'a str>,
}

/// Reads a document that [`parse`](crate::parse) has read before.
pub(super) fn read(source: &str) -> Result<Body<'_>, Error> {
    let mut reader = Reader { lexer: Lexer::with_comments(source), ahead: None, comments: Vec::new(), end_line: 0 };
    reader.body()
}

struct Word<'a> {
    token: Token,
    text: &'a str,
    line: u32,
    end_line: u32,
}

struct Reader<'a> {
    lexer: Lexer<'a>,
    ahead: Option<Word<'a>>,
    /// Comments that have not found their place yet.
    comments: Vec<Comment<'a>>,
    /// The line on which the last word ended.
    end_line: u32,
}

/// Comments between two entries or elements, by the place where they belong.
struct Between<'a> {
    trail: Vec<&'a str>,
    alone: Vec<Vec<&'a str>>,
    lead: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    /// Entries up to a `}`, which is taken, or the end.
    fn body(&mut self) -> Result<Body<'a>, Error> {
        let mut body = Body::default();
        loop {
            if self.peek()?.token == Token::Comma {
                self.next()?;
                continue;
            }
            let follows_entry = matches!(body.parts.last(), Some(Part::Entry(_)));
            let closes = matches!(self.peek()?.token, Token::CloseBrace | Token::End);
            let between = self.between(follows_entry, !closes)?;
            if let Some(Part::Entry(entry)) = body.parts.last_mut() {
                entry.trail.extend(between.trail);
            }
            body.parts.extend(between.alone.into_iter().map(Part::Comments));
            if closes {
                self.next()?;
                return Ok(body);
            }
            let entry = self.entry(between.lead)?;
            body.parts.push(Part::Entry(entry));
        }
    }

    /// An entry. Comments within it, before its value, are put above it.
    fn entry(&mut self, mut lead: Vec<&'a str>) -> Result<Entry<'a>, Error> {
        let line = self.peek()?.line;
        let mut keys = Vec::new();
        loop {
            let word = self.next()?;
            let assigned = match word.token {
                Token::Assign => true,
                Token::OpenBrace => false,
                Token::End => return Err(self.lost(&word)),
                _ => {
                    keys.push(word.text);
                    continue;
                }
            };
            if assigned {
                self.peek()?;
            }
            lead.extend(self.comments.drain(..).map(|comment| comment.text));
            let shape = if assigned { self.shape()? } else { Shape::Body(self.body()?) };
            return Ok(Entry { lead, keys, assigned, shape, trail: Vec::new(), line });
        }
    }

    fn shape(&mut self) -> Result<Shape<'a>, Error> {
        let word = self.next()?;
        match word.token {
            Token::OpenBrace => Ok(Shape::Body(self.body()?)),
            Token::OpenBracket => Ok(Shape::List(self.list(word.line)?)),
            Token::String(_) | Token::Heredoc(_) | Token::Number(_) | Token::Bool(_) => Ok(Shape::Word(word.text)),
            _ => Err(self.lost(&word)),
        }
    }

    /// Elements up to a `]`, which is taken.
    fn list(&mut self, line: u32) -> Result<List<'a>, Error> {
        let mut list = List::default();
        loop {
            if self.peek()?.token == Token::Comma {
                self.next()?;
                continue;
            }
            let closes = self.peek()?.token == Token::CloseBracket;
            let between = self.between(!list.elements.is_empty(), !closes)?;
            if let Some(element) = list.elements.last_mut() {
                element.trail.extend(between.trail);
            }
            if closes {
                list.tail = between.alone;
                self.next()?;
                return Ok(list);
            }
            // A comment in a list that belongs to no element leads the next.
            let lead = between.alone.into_iter().flatten().chain(between.lead).collect();
            list.spread |= self.peek()?.line != line;
            let shape = self.shape()?;
            list.elements.push(Element { lead, shape, trail: Vec::new() });
        }
    }

    /// Finds the places of the comments before the next word: behind what
    /// ended on their line, right above the word, or alone.
    fn between(&mut self, follows: bool, leads: bool) -> Result<Between<'a>, Error> {
        let next_line = self.peek()?.line;
        let mut between = Between { trail: Vec::new(), alone: Vec::new(), lead: Vec::new() };
        let mut end = 0;
        for comment in std::mem::take(&mut self.comments) {
            if follows && between.alone.is_empty() && comment.line <= self.end_line {
                between.trail.push(comment.text);
                continue;
            }
            match between.alone.last_mut() {
                Some(group) if comment.line <= end + 1 => group.push(comment.text),
                _ => between.alone.push(vec![comment.text]),
            }
            end = comment.end_line;
        }
        if leads && end + 1 == next_line {
            between.lead = between.alone.pop().unwrap_or_default();
        }
        Ok(between)
    }

    fn peek(&mut self) -> Result<&Word<'a>, Error> {
        let word = match self.ahead.take() {
            Some(word) => word,
            None => self.read()?,
        };
        Ok(self.ahead.insert(word))
    }

    fn next(&mut self) -> Result<Word<'a>, Error> {
        let word = match self.ahead.take() {
            Some(word) => word,
            None => self.read()?,
        };
        self.end_line = word.end_line;
        Ok(word)
    }

    fn read(&mut self) -> Result<Word<'a>, Error> {
        let (token, position) = self.lexer.next()?;
        self.comments.extend(self.lexer.take_comments());
        Ok(Word { token, text: self.lexer.last_text(), line: position.line, end_line: self.lexer.position().line })
    }

    /// [`parse`](crate::parse) has read the document, so this is not reached.
    fn lost(&self, word: &Word<'a>) -> Error {
        let expected = "a value";
        let found = word.token.describe();
        Error::new(self.lexer.position(), ErrorKind::Expected { expected, found })
    }
}
